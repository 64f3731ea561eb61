"""Engines, plans and decoding: equal to the model's own transform and to float32 as far as is stated."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from headword.data.items import file_item
from headword.data.safe_images import load_image, load_image_bytes
from headword.encoders import load_vision
from headword.errors import HeadwordError, MissingExtraError
from headword.extract import engines, extract_features, image_features, machine
from headword.extract.decode import Decoding, decoded
from headword.extract.engines import Choice, choose, open_engine
from headword.extract.job import Job
from headword.extract.pixels import TOLERANCE, plan_of
from support.extraction import SIDE, TinyNet, draw, draw_many, tiny_vision

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
SIZES = ((97, 140), (33, 500), (640, 480), (224, 224), (256, 256), (1200, 900), (31, 29), (2100, 1400))


@pytest.fixture(scope="module")
def lite0():
    return load_vision("embedded", device="cpu")


@pytest.fixture(scope="module")
def vision():
    return tiny_vision()


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> list[Path]:
    """32 real pictures: crops of the gallery's, of many sizes."""
    from headword.data.gallery import gallery

    folder, random = tmp_path_factory.mktemp("crops"), np.random.default_rng(0)
    paths = []
    for number, picture in enumerate([*gallery()] * 16):
        if len(paths) == 32:
            break
        image = load_image(picture.path)
        side = int(min(image.size) * random.uniform(0.4, 1))
        left, top = (int(random.integers(0, size - side + 1)) for size in image.size)
        paths.append(folder / f"{number:03d}.jpg")
        image.crop((left, top, left + side, top + side)).save(paths[-1], quality=95)
    return paths


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
def test_plan_equals_the_timm_transform(interpolation):
    transform = create_transform((3, 224, 224), interpolation=interpolation, crop_pct=0.9)
    source = load_vision(TinyNet(), names=list("abcde"), transform=transform).source
    plan = plan_of(source)
    assert plan is not None
    random = np.random.default_rng(1)
    for height, width in SIZES:
        for image in (
            Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)),
            Image.effect_mandelbrot((width, height), (-2, -1.5, 1, 1.5), 40).convert("RGB"),
        ):
            whole, halves = transform(image), plan.normalise(plan.pixels(image)[None])[0]
            std = torch.tensor(plan.std).view(3, 1, 1)
            levels = ((whole - halves).abs() * std * 255).round()
            assert levels.max() <= TOLERANCE, (height, width)
            assert levels.mean() < 0.1


def test_plan_is_bit_equal_where_nothing_is_scaled(vision):
    plan = plan_of(vision.source)
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (36, 50, 3), dtype=np.uint8))
    assert torch.equal(vision.source.transform(image), plan.normalise(plan.pixels(image)[None])[0])


def test_torchvision_preset_has_a_plan():
    from torchvision.transforms._presets import ImageClassification

    vision = load_vision(
        TinyNet(), names=list("abcde"), transform=ImageClassification(crop_size=32, resize_size=40)
    )
    assert plan_of(vision.source) is not None


@pytest.mark.parametrize("kind", ["own", "flip", "pad", "grey"])
def test_what_is_no_plan_is_used_whole(kind, tmp_path):
    from torchvision import transforms as tv

    transform = {
        "own": lambda image: torch.full((3, SIDE, SIDE), image.width / 100),
        "flip": tv.Compose([tv.Resize(SIDE), tv.CenterCrop(SIDE), tv.RandomVerticalFlip(1), tv.ToTensor()]),
        "pad": tv.Compose(
            [tv.Resize(20), tv.CenterCrop(SIDE), tv.ToTensor(), tv.Normalize([0.5] * 3, [0.5] * 3)]
        ),
        "grey": tv.Compose([tv.Grayscale(3), tv.Resize(40), tv.CenterCrop(SIDE), tv.ToTensor()]),
    }[kind]
    vision = load_vision(TinyNet().eval(), names=list("abcde"), transform=transform, device="cpu")
    assert plan_of(vision.source) is None
    paths = [draw(tmp_path / f"{n}.png", n) for n in range(3)]
    expected = vision.encode(torch.stack([transform(load_image(path)) for path in paths]))
    torch.testing.assert_close(image_features(vision, paths, engine="torch"), expected)


def test_short_calls_are_exact(vision, crops):
    expected = vision.encode(torch.stack([vision.source.transform(load_image(path)) for path in crops[:20]]))
    assert torch.equal(image_features(vision, crops[:20]), expected)


def test_choice_depends_on_the_machine_and_the_job_alone(vision, monkeypatch):
    monkeypatch.setattr(engines, "native_bfloat16", lambda _device: True)
    monkeypatch.setattr(engines, "is_x86", lambda: True)
    monkeypatch.setattr(engines, "find_spec", lambda _name: object())
    assert choose(vision, 10) == Choice("torch", "float32")
    assert choose(vision, 10_000) == Choice("openvino", "bfloat16")
    assert choose(vision, 10_000, engine="torch") == Choice("torch", "bfloat16")
    assert choose(vision, 10_000, dtype="float32") == Choice("openvino", "float32")
    assert choose(tiny_vision(dtype="float32"), 10_000) == Choice("openvino", "float32")
    monkeypatch.setattr(engines, "native_bfloat16", lambda _device: False)
    monkeypatch.setattr(engines, "is_x86", lambda: False)
    assert choose(vision, 10_000) == Choice("torch", "float32")
    monkeypatch.setattr(engines, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"headword\[openvino\]"):
        choose(vision, 10, engine="openvino")
    with pytest.raises(HeadwordError, match="unknown engine 'tpu'"):
        choose(vision, 10, engine="tpu")


def test_bfloat16_is_checked_not_assumed(monkeypatch):
    machine._cpu_bfloat16.cache_clear()
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    monkeypatch.setattr(machine, "_cpu_flags", lambda: {"avx2"})
    assert not machine.native_bfloat16(torch.device("cpu"))
    machine._cpu_bfloat16.cache_clear()
    monkeypatch.setattr(machine, "_cpu_flags", lambda: {"avx2", "avx512_bf16"})
    assert machine.native_bfloat16(torch.device("cpu"))
    assert not machine.native_bfloat16(torch.device("mps"))
    machine._cpu_bfloat16.cache_clear()


def test_processors_are_those_that_are_granted(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)
    monkeypatch.setattr(machine, "_quota", lambda: 2)
    assert machine.available_cpus() == 2
    monkeypatch.setattr(machine, "_quota", lambda: None)
    assert machine.available_cpus() == 64
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine.available_cpus() == 3


def cosine_to_float32(name: str, dtype: str, vision, paths) -> torch.Tensor:
    exact = image_features(vision, paths, cache=False)
    job = Job(vision, len(paths), engine=name, dtype=dtype, draft=False)
    fast = torch.cat([computed.features for computed in job.run([file_item(path) for path in paths])])
    assert job.choice == Choice(name, dtype)
    return torch.cosine_similarity(exact, fast)


@pytest.mark.skipif(not machine.native_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16")
def test_torch_bfloat16_agrees_with_float32(lite0, crops):
    cosine = cosine_to_float32("torch", "bfloat16", lite0, crops)
    assert cosine.mean() >= 0.999
    assert cosine.min() >= 0.99


@needs_openvino
def test_openvino_agrees_with_float32(lite0, crops):
    assert cosine_to_float32("openvino", "float32", lite0, crops).min() >= 0.9999
    if machine.native_bfloat16(torch.device("cpu")):  # these are textures, coins and drawings too
        assert cosine_to_float32("openvino", "bfloat16", lite0, crops).mean() >= 0.998


@pytest.mark.data
@pytest.mark.skipif(not machine.native_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16")
@pytest.mark.parametrize("name", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_bfloat16_on_photographs(name, lite0, headword_data):
    photos = sorted((headword_data / "data" / "flickr8k" / "images").iterdir())[:64]
    assert cosine_to_float32(name, "bfloat16", lite0, photos).mean() >= 0.999


@needs_openvino
def test_openvino_does_not_depend_on_batches_and_is_the_same_again(vision, tmp_path):
    paths = [draw(tmp_path / f"{n}.jpg", n) for n in range(23)]
    once = image_features(vision, paths, engine="openvino", batch_size=32)
    for batch_size in (1, 5, 23):
        assert torch.equal(image_features(vision, paths, engine="openvino", batch_size=batch_size), once)
    again = tiny_vision()  # as a saved model that is loaded
    assert torch.equal(image_features(again, paths, engine="openvino"), once)


def test_torch_does_not_depend_on_batches(vision, tmp_path):
    paths = [draw(tmp_path / f"{n}.jpg", n) for n in range(23)]
    once = image_features(vision, paths, batch_size=32)
    for batch_size in (1, 5):
        torch.testing.assert_close(
            image_features(vision, paths, batch_size=batch_size), once, rtol=1e-4, atol=1e-5
        )


@needs_openvino
def test_engine_that_disagrees_is_not_used_and_says_why(vision, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(engines, "AGREEMENT", {"float32": 1.1, "bfloat16": 1.1})
    monkeypatch.setattr(engines, "_proven", set())
    paths = draw_many(tmp_path / "images", 8)
    plan = plan_of(vision.source)
    first = torch.stack([plan.pixels(load_image(path)) for path in sorted(paths.iterdir())])
    with caplog.at_level(logging.WARNING, "headword"):
        _, choice, note = open_engine(vision, Choice("openvino", "bfloat16"), plan, first)
    assert choice == Choice("torch", "float32")
    assert "torch in float32 is used, because of openvino in bfloat16: the cosine" in note
    assert note in caplog.text
    with pytest.raises(HeadwordError, match="does not run on openvino in float32"):
        extract_features(vision, paths, tmp_path / "store", engine="openvino", dtype="float32")


@needs_openvino
def test_model_that_cannot_be_converted_runs_on_torch(tmp_path):
    class Odd(TinyNet):
        def forward(self, x):
            if torch.jit.is_tracing():
                raise RuntimeError("no tracing")
            return super().forward(x)

    odd = load_vision(
        Odd().eval(),
        names=list("abcde"),
        transform=tiny_vision().source.transform,
        device="cpu",
        dtype="float32",
    )
    batch = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    _, choice, note = open_engine(odd, Choice("openvino", "float32"), plan_of(odd.source), batch)
    assert choice.engine == "torch"
    assert "no tracing" in note


@needs_openvino
def test_float_batches_run_on_openvino_too(tmp_path):
    vision = load_vision(
        TinyNet().eval(), names=list("abcde"), device="cpu",
        transform=lambda image: torch.from_numpy(np.array(image.resize((SIDE, SIDE)))).permute(2, 0, 1) / 255,
    )  # fmt: skip
    paths = [draw(tmp_path / f"{n}.jpg", n) for n in range(5)]
    fast = image_features(vision, paths, engine="openvino")
    assert torch.cosine_similarity(fast, image_features(vision, paths)).mean() > 0.998


def test_processes_decode_like_threads(vision, tmp_path):
    paths = [draw(tmp_path / f"{n}.jpg", n) for n in range(20)]
    paths[7].write_bytes(b"broken")
    decoding = Decoding(plan_of(vision.source), vision.source.transform, shrink=True)
    items = [file_item(path) for path in paths]
    threads = list(decoded(items, decoding, batch_size=8, workers=2))
    processes = list(decoded(items, decoding, batch_size=8, workers=1, processes=True))
    assert [batch.errors for batch in threads] == [batch.errors for batch in processes]
    assert 7 in threads[0].errors
    for one, other in zip(threads, processes, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert one.items == other.items


def test_only_a_few_batches_are_decoded_ahead(vision, tmp_path):
    path, taken = draw(tmp_path / "x.jpg", 1), []

    def endless():
        while True:
            taken.append(1)
            yield file_item(path)

    batches = decoded(endless(), Decoding(None, vision.source.transform, False), batch_size=4, workers=2)
    for _ in range(3):
        next(batches)
    batches.close()
    assert len(taken) <= 4 * (3 + 3)


def large_photo(path: Path, size: tuple[int, int], name: str, pictures) -> Path:
    """A gallery picture enlarged, with grain so that it has detail at every scale."""
    image = load_image(pictures[name]).resize(size, Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).normal(0, 12, (size[1], size[0], 1))
    Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return path


def test_draft_decoding_of_large_photos(lite0, pictures, tmp_path):
    names = list(pictures)[:2]
    photos = [
        large_photo(tmp_path / f"{n}.jpg", (2000, 1500), name, pictures) for n, name in enumerate(names)
    ]
    whole, reduced = load_image(photos[0]), load_image(photos[0], shrink_to=256)
    assert whole.size == (2000, 1500)
    assert reduced.size == (500, 375)
    assert load_image_bytes(photos[0].read_bytes(), "x.jpg", shrink_to=256).size == (500, 375)
    full = extract_features(lite0, photos, tmp_path / "full", engine="torch", dtype="float32", draft=False)
    draft = extract_features(lite0, photos, tmp_path / "draft", engine="torch", dtype="float32")
    assert full.ok == draft.ok == 2
    from headword.extract.vectors import read_vectors

    cosine = torch.cosine_similarity(read_vectors(full.folder).values, read_vectors(draft.folder).values)
    assert cosine.mean() >= 0.99


def test_draft_leaves_small_and_other_pictures_alone(pictures, tmp_path):
    draw(tmp_path / "small.jpg", 1, (1000, 800))
    draw(tmp_path / "large.png", 1, (1500, 1200))
    assert load_image(tmp_path / "small.jpg", shrink_to=256).size == (1000, 800)
    assert load_image(tmp_path / "large.png", shrink_to=256).size == (1500, 1200)
    draw(tmp_path / "grey.jpg", 1, (3000, 2000))
    Image.open(tmp_path / "grey.jpg").convert("L").save(tmp_path / "grey.jpg")
    assert load_image(tmp_path / "grey.jpg", shrink_to=256).mode == "RGB"
    assert load_image(tmp_path / "grey.jpg", shrink_to=256).size == (750, 500)
    assert load_image(tmp_path / "grey.jpg", shrink_to=2500).size == (3000, 2000)


def test_saved_and_loaded_model_is_bit_equal_in_long_calls(embedded, saved, tmp_path, monkeypatch):
    import headword

    monkeypatch.setattr("headword.extract.job.LONG", 4)
    monkeypatch.setattr(engines, "LONG", 4)
    paths = [draw(tmp_path / f"{n}.jpg", n, (300, 260)) for n in range(8)]
    first = embedded.encode_image(paths)
    assert torch.equal(headword.load(saved).encode_image(paths), first)


@needs_openvino
def test_openvino_is_not_imported_for_short_calls(vision, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    assert len(image_features(vision, [Image.new("RGB", (40, 40))] * 3)) == 3
    assert "openvino" not in sys.modules


def test_openvino_reports_nothing_to_its_makers():
    from headword.extract.openvino_engine import openvino_library

    openvino_library()
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__.endswith("telemetry_stub")
