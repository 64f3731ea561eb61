"""Folders of pictures made to harm: each is read or named, none stops a run, and memory is bounded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms._presets import ImageClassification

from headword.data.safe_images import LONGEST_SHAPE, load_image, middle, transformed
from headword.encoders import load_vision
from headword.encoders.clip_folder import evaluation_transform
from headword.errors import HeadwordError
from headword.extract import extract, extract_features, image_features
from headword.extract.pixels import plan_of
from headword.extract.store import read_status
from headword.files import open_regular
from headword.search import build_index
from support.extraction import TinyNet, tiny_vision
from support.hostile import LINKS, REFUSED, SOUND, bounded, encoded, grey_png, hostile_folder, picture
from support.indexing import tiny_model

NAMES = {name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in REFUSED}


@pytest.mark.attack
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged tags
def test_a_folder_of_them_all(tmp_path):
    folder = hostile_folder(tmp_path / "pictures")
    model = tiny_model()
    sound = len(SOUND) + 3
    with bounded(3_500_000_000, seconds=300):  # two of the largest at once, one a thread
        changes = build_index(model, folder, tmp_path / "index")
        store = extract_features(model.vision, folder, tmp_path / "store")
        paths = sorted(path for path in folder.iterdir() if path.name not in LINKS)
        extracted = extract(model.vision, paths)
    assert set(changes.unreadable) == NAMES
    assert (changes.images, changes.added) == (sound, sound)
    assert changes.outside == sorted(LINKS)
    failed = {place for place, _, status in read_status(tmp_path / "store") if status != "ok"}
    assert (failed, store.ok) == (NAMES, sound)
    frames = "moving.gif and 1 more have several frames or pages, of which the first alone is searched"
    assert (*store.notes, frames) == tuple(changes.notes)
    assert len(extracted.features) == sound
    assert {paths[place].name for place in extracted.errors} == {*REFUSED, "folder.jpg"}
    lines = [*changes.unreadable.values(), *extracted.errors.values(), *changes.notes]
    assert not [line for line in lines if "\n" in line or "\x1b" in line]
    again = build_index(model, folder, tmp_path / "index")
    assert (again.images, again.unchanged, again.added, again.changed) == (sound, sound, 0, 0)


# --- very long pictures


def transforms():
    clip = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    yield create_transform((3, 32, 32), interpolation="bicubic", crop_pct=0.875)
    yield ImageClassification(crop_size=32, resize_size=40)
    yield evaluation_transform(clip)
    yield evaluation_transform({**clip, "resize_mode": "squash"})
    yield lambda image: plan_of(tiny_vision().source).pixels(image).permute(2, 0, 1) / 255


@pytest.mark.parametrize("size", [(10_000_000, 1), (1, 10_000_000)])
def test_resizing_makes_no_more_pixels_than_the_bound(size):
    image = Image.new("RGB", size, (200, 100, 50))
    with bounded(300_000_000):
        for transform in transforms():
            assert transformed(transform, image, "x").shape == (3, 32, 32)


def test_the_middle_is_what_a_centre_crop_sees():
    for size in ((48, 40), (33, 1024), (640, 20)):
        image = picture(size)
        assert middle(image) is image  # up to the bound nothing changes, not a bit
    coarse = picture((200, 4))
    long = coarse.resize((4_000, 40), Image.Resampling.BICUBIC)
    assert middle(long).size == (LONGEST_SHAPE * 40, 40)
    for transform in list(transforms())[:3]:
        assert torch.allclose(transform(long), transform(middle(long)), atol=0.1)


# --- transforms of users


def test_a_transform_that_fails_on_one_picture_names_it(tmp_path):
    for n in range(5):
        Image.new("RGB", (40 + n, 40)).save(tmp_path / f"{n}.png")
    usual = create_transform((3, 32, 32))

    def transform(image: Image.Image) -> torch.Tensor:
        if image.width == 41:
            raise ZeroDivisionError("of mine")
        if image.width == 42:
            raise MemoryError
        return usual(image)[:, :20] if image.width == 43 else usual(image)

    vision = load_vision(TinyNet(), names=list("abcde"), transform=transform, input_size=32, device="cpu")
    paths = sorted(tmp_path.glob("*.png"))
    extracted = extract(vision, paths)
    assert extracted.kept == (0, 4)
    errors = extracted.errors
    assert "1.png (41 by 40): the model's transform fails on it: ZeroDivisionError: of mine" in errors[1]
    assert "2.png (42 by 40) does not fit in the memory that is left" in errors[2]
    assert "3.png: the model's transform makes [3, 20, 32] of it, and [3, 32, 32] of others" in errors[3]
    with pytest.raises(HeadwordError, match=r"1\.png .*ZeroDivisionError"):
        image_features(vision, paths)


def test_memory_that_is_not_there_is_said_of_the_picture(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(encoded("PNG"))

    def load(_image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("headword.data.safe_images._decode", load)
    with pytest.raises(HeadwordError, match=r"x\.png \(48 by 40\) does not fit in the memory"):
        load_image(tmp_path / "x.png")


def test_large_pictures_are_converted_in_bands_to_the_same_pixels(monkeypatch):
    wide = np.random.default_rng(0)
    images = [
        Image.fromarray(wide.integers(0, 256, (50, 40, 4), dtype=np.uint8)),
        Image.fromarray(wide.integers(0, 65536, (50, 40), dtype=np.uint16)),
        Image.fromarray(wide.normal(size=(50, 40)).astype(np.float32)),
        picture((40, 50)).quantize(8),
    ]
    images[3].info["transparency"] = 0
    whole = [load_image(image) for image in images]
    monkeypatch.setattr("headword.data.safe_images._BAND", 300)
    assert all(np.array_equal(load_image(image), one) for image, one in zip(images, whole, strict=True))


# --- photos of phones


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_photos_of_phones_are_read(tmp_path, kind):
    pytest.importorskip("pillow_heif").register_heif_opener()
    image = picture((7, 8)).resize((64, 48), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x112] = 1 if kind == "HEIF" else 6  # HEIC has its own way of saying it, which its decoder follows
    path = tmp_path / f"x.{'heic' if kind == 'HEIF' else 'avif'}"
    image.save(path, kind, quality=95, exif=exif)
    loaded = load_image(path)
    image = image if kind == "HEIF" else image.transpose(Image.Transpose.ROTATE_270)
    assert loaded.size == image.size
    turned = np.asarray(image).astype(int)
    assert np.abs(np.asarray(loaded).astype(int) - turned).mean() < 8
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(HeadwordError, match="damaged"):
        load_image(path)


def test_a_photo_without_the_extra_names_it(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    monkeypatch.setattr("headword.data.safe_images.register_formats", lambda: None)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in {"HEIF", "AVIF"}])
    with pytest.raises(HeadwordError, match=r"pip install 'headword\[photos\]'"):
        load_image(tmp_path / "x.jpg")


# --- one rule for classify


def test_classify_leaves_out_what_cannot_be_read(saved, tmp_path, command):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(2):
        (folder / f"{n}.png").write_bytes(encoded("PNG", picture(seed=n)))
    (folder / "bad.jpg").write_bytes(b"no picture")
    (folder / "long.png").write_bytes(grey_png(1_000_000, 1))
    (folder / "out.png").symlink_to("/dev/zero")
    labels = ["--labels", "a cat,a dog"]
    done = command("classify", saved, folder, *labels, "--json", tmp_path / "x.json")
    assert done.exit_code == 0, done.output
    said = json.loads((tmp_path / "x.json").read_text())
    assert [Path(one["image"]).name for one in said["results"]] == ["0.png", "1.png", "long.png"]
    assert list(said["unreadable"]) == [str(folder / "bad.jpg")]
    assert "Left out, since they cannot be read: 1" in done.output
    assert any("1 link was not followed" in note for note in said["notes"])
    for paths in ([folder / "bad.jpg"], [folder / "bad.jpg", folder / "missing.jpg"]):
        done = command("classify", saved, *paths, *labels)
        assert done.exit_code == 2
        assert "bad.jpg" in done.output


@pytest.fixture
def command():
    from typer.testing import CliRunner

    from headword.cli import app

    return lambda *arguments: CliRunner().invoke(app, [str(one) for one in arguments])


# --- a link that takes a file's place


def test_what_was_swapped_for_a_link_is_not_read(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded("PNG"))
    inner = folder / "x.png"
    inner.write_bytes(encoded("PNG"))
    with open_regular(inner, inside=folder) as file:
        assert file.read(4) == b"\x89PNG"
    (folder / "within.png").symlink_to(inner)
    open_regular(folder / "within.png", inside=folder).close()
    inner.unlink()
    inner.symlink_to(secret)
    with pytest.raises(OSError, match="outside the folder"):
        open_regular(inner, inside=folder)
    with pytest.raises(HeadwordError, match="outside the folder"):
        load_image(inner, inside=folder)
    (tmp_path / "elsewhere").mkdir()
    secret.rename(tmp_path / "elsewhere" / "x.png")
    (folder / "deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HeadwordError, match="outside the folder"):
        load_image(folder / "deep" / "x.png", inside=folder)
