"""What may be exported, in which form, and the files that come of it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headword.data.folders import list_images
from headword.data.safe_images import load_image, transformed
from headword.errors import HeadwordError, MissingExtraError, near
from headword.export.graph import (
    LabelGraph,
    LinearClassifier,
    ModelParts,
    PictureGraph,
    about,
    check_size,
    example_pixels,
    metadata,
    pixel_plan,
)
from headword.export.int8 import quantised
from headword.export.last_layer import last_layer
from headword.export.onnx_file import check_agreement, onnx_runtime, run, write_onnx
from headword.export.text_graph import TextGraph, check_text, text_agreement
from headword.extract import image_features
from headword.extract.openvino_engine import openvino_library
from headword.extract.pixels import PixelPlan
from headword.files import MARKER, check_new_file, expand, new_file, new_folder, save_tensors
from headword.results import html_table

ENDINGS = {"onnx": (".onnx",), "openvino": (".xml", ".bin"), "head": (".safetensors",)}
"""The forms of `export_labels`, and how their files' names end."""
TEXT_ENDINGS = (".text.onnx", ".tokenizer.json")
MOST_PICTURES = 256
"""Of a calibration folder; from more, as many are taken at even distances."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what was measured of it."""

    files: tuple[Path, ...]
    metrics: dict[str, float]
    """`difference` (the largest from headword's own outputs), `megabytes`; of `int8` also `speedup` over
    float32 and `agreement`, the share of the calibration folder's other pictures with the same first label.
    """


def export_labels(
    classifier: LinearClassifier,
    file: str | Path,
    *,
    to: str = "onnx",
    int8: bool = False,
    calibration: str | Path | None = None,
    with_text: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write a classifier as a file that needs no headword; see docs/export.md for what is in it.

    Args:
        classifier: from `DualEncoder.classifier`, or a taught one.
        file: a name that ends in .onnx, .xml or .safetensors, as `to` has it.
        to: "onnx", "openvino" (IR: the .xml and a .bin beside it) or "head" (weights for the classifier's own
            last layer).
        int8: eight-bit weights and activations, with "onnx".
        calibration: a folder of pictures like those to come, for `int8`; for "head", to say how many keep
            their first label.
        with_text: with "onnx", also the text encoder and the mapping as FILE.text.onnx, and its
            FILE.tokenizer.json.
        overwrite: replace files that are there.

    Raises:
        HeadwordError: before any work, if the model or the options cannot be exported or the files not be
            written; after it, if the file would say something else than headword.
    """
    files = check_form(
        file, to=to, int8=int8, calibration=calibration, with_text=with_text, overwrite=overwrite
    )
    target = files[0]
    model: ModelParts = classifier.model
    if to == "head":
        return _head(classifier, target, calibration)
    plan = pixel_plan(model.vision)
    onnx_runtime()
    if with_text:
        check_text(model.text)
    picture_graph = PictureGraph(model, plan)
    check_size(picture_graph, len(classifier.classes_), model.aligner.shared_dim)
    graph = LabelGraph(picture_graph, classifier)
    pictures = _pixels(calibration, plan) if int8 and calibration is not None else None
    with _scratch(target) as scratch:
        written, said = scratch / "model.onnx", metadata(classifier, plan)
        opened = write_onnx(
            graph,
            example_pixels(plan.crop),
            written,
            name=model.vision.name,
            inputs="pixels",
            outputs=("probabilities", "embeddings"),
            metadata=said,
        )
        metrics = {
            "difference": _difference(run(opened, example_pixels(plan.crop).numpy()), classifier, plan)
        }
        if to == "openvino":
            metrics = {"difference": _openvino(written, scratch, said, classifier, plan)}
            made = [scratch / "model.xml", scratch / "model.bin"]
        elif pictures is not None:
            metrics |= quantised(written, scratch / "int8.onnx", pictures, said)
            made = [scratch / "int8.onnx"]
        else:
            made = [written]
        if with_text:
            made += _text(model, scratch)
        metrics["megabytes"] = sum(one.stat().st_size for one in made) / 1e6
        for source, place in reversed(list(zip(made, files, strict=True))):  # what is opened comes last
            with new_file(place) as temporary:
                shutil.copyfile(source, temporary)
    return Exported(files, metrics)


def check_form(
    file: str | Path,
    *,
    to: str = "onnx",
    int8: bool = False,
    calibration: str | Path | None = None,
    with_text: bool = False,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """The files that `export_labels` would write, the one that is opened first.

    Raises:
        HeadwordError: for options that do not go together, another ending, a file that is there, or a
            calibration folder without pictures.
    """
    if to not in ENDINGS:
        raise HeadwordError(f"unknown form {to!r}{near(to, ENDINGS)}; choose {', '.join(ENDINGS)}")
    if (int8 or with_text) and to != "onnx":
        raise HeadwordError(f"int8 and with_text go with onnx, not with {to}")
    if int8 and calibration is None:
        raise HeadwordError("int8 needs pictures like those to come: --calibration FOLDER")
    target, endings = expand(file), ENDINGS[to] + (TEXT_ENDINGS if with_text else ())
    if target.suffix != endings[0]:
        raise HeadwordError(f"the file of {to} must end in {endings[0]}: {target.name}")
    files = tuple(target.with_suffix(ending) for ending in endings)
    for one in files:
        check_new_file(one, overwrite=overwrite)
    if calibration is not None:
        list_images(calibration)
    return files


class Exportable:
    """A classifier's way out of headword, and into a notebook."""

    def _repr_html_(self) -> str:
        classifier: Any = self
        names = classifier.classes_.tolist()
        more = [("", f"… and {len(names) - 50:,} more")] if len(names) > 50 else []
        return html_table("Classifier", [*enumerate(names[:50]), *more])

    def export(self, file: str | Path, **options: Any) -> Exported:
        """Write the classifier as a file that needs no headword; arguments as of `export_labels`."""
        classifier: Any = self
        return export_labels(classifier, file, **options)


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A folder to write in, before anything is put at `target`."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except OSError as error:
        where = f"cannot write {target} by way of {tempfile.gettempdir()}"
        raise HeadwordError(f"{where}: {error.strerror or error}") from error


def _difference(got: Sequence[Any], classifier: LinearClassifier, plan: PixelPlan) -> float:
    """The largest one from what headword says of the example's pictures."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (plan.mean, plan.std))
    pictures = (example_pixels(plan.crop) - mean) / std
    chances, embeddings = classifier.predict_proba(pictures), classifier.model.encode_image(pictures)
    return max(
        check_agreement(got[0], chances, "probabilities"),
        check_agreement(got[1], embeddings.numpy(), "embeddings"),
    )


def _pixels(folder: str | Path, plan: PixelPlan) -> NDArray[np.float32]:
    """A folder's pictures as the file takes them; those that cannot be read are left out."""
    paths = list_images(folder)
    step = max(1, len(paths) / MOST_PICTURES)
    chosen = [paths[int(n * step)] for n in range(min(len(paths), MOST_PICTURES))]
    read = []
    for path in chosen:
        try:
            image = load_image(path, shrink_to=plan.shrink_to)
            read.append(transformed(plan.pixels, image, str(path)))
        except HeadwordError:
            continue
    if len(read) < 8:
        raise HeadwordError(f"{folder} has {len(read)} readable pictures; calibration needs 8, better 100")
    pixels: NDArray[np.float32] = (torch.stack(read).float() / 255).permute(0, 3, 1, 2).contiguous().numpy()
    return pixels


def _openvino(
    written: Path,
    scratch: Path,
    said: Mapping[str, str],
    classifier: LinearClassifier,
    plan: PixelPlan,
) -> float:
    """OpenVINO IR of an ONNX file, in a folder; returns the largest difference from headword."""
    try:
        openvino = openvino_library()
    except ModuleNotFoundError:
        raise MissingExtraError("OpenVINO", "openvino") from None
    try:
        model = openvino.convert_model(written)
        for name, value in said.items():
            model.set_rt_info(value, name)
        openvino.save_model(model, scratch / "model.xml", compress_to_fp16=False)
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(scratch / "model.xml", "CPU", exact)
        outputs = compiled(example_pixels(plan.crop).numpy())
    except RuntimeError as error:
        raise HeadwordError(
            f"OpenVINO cannot take the model: {' '.join(str(error).split())[:300]}"
        ) from error
    return _difference(outputs, classifier, plan)


def _head(classifier: LinearClassifier, target: Path, calibration: str | Path | None) -> Exported:
    """Weights for the last layer, as safetensors."""
    model: ModelParts = classifier.model
    head, _ = model.vision.named_head()
    features = None if calibration is None else image_features(model.vision, list_images(calibration))
    weight, labels = last_layer(classifier, features), [str(name) for name in classifier.classes_]
    save_tensors(
        target,
        {"weight": weight, "bias": torch.zeros(len(labels))},
        {"labels": labels, "layer": head.where, "headword": about(classifier)},
    )
    return Exported((target,), {"megabytes": target.stat().st_size / 1e6})


def _text(model: ModelParts, scratch: Path) -> list[Path]:
    """The text side in a folder: the ONNX file and its tokenizer."""
    graph, files = TextGraph(model), [scratch / "text.onnx", scratch / "tokenizer.json"]
    said = {"headword": json.dumps({"model": model.provenance()}, ensure_ascii=False)}
    opened = write_onnx(
        graph,
        graph.example(),
        files[0],
        name=model.text.name,
        inputs="text",
        outputs=("embeddings",),
        longest=graph.tokens.max_length,
        metadata=said,
    )
    files[1].write_text(graph.tokens.tokenizer(), encoding="utf-8")
    text_agreement(model, opened, files[1])
    return files


def export_immich(model: ModelParts, folder: str | Path, *, overwrite: bool = False) -> Exported:
    """Write both encoders as immich's machine-learning service reads a CLIP model.

    `visual/` holds model.onnx and preprocess_cfg.json, `textual/` model.onnx, tokenizer.json and
    tokenizer_config.json; config.json lies beside them.

    Args:
        model: one whose transform resizes the shorter side and crops a square.
        folder: a new folder.
        overwrite: replace such a folder.

    Raises:
        HeadwordError: as `export_labels`.
    """
    plan, tokens = pixel_plan(model.vision), check_text(model.text)
    size = plan.resize
    if not isinstance(size, int) or plan.crop[0] != plan.crop[1]:
        raise HeadwordError(
            f"immich resizes the shorter side and crops a square; {model.vision.name} does not"
        )
    onnx_runtime()
    graph = PictureGraph(model, plan)
    configs = {
        "config.json": {
            "embed_dim": model.aligner.shared_dim,
            "vision_cfg": {"image_size": size},
            "text_cfg": {"context_length": tokens.max_length},
        },
        "visual/preprocess_cfg.json": {
            "size": [size, size], "mode": "RGB", "mean": [0.0] * 3, "std": [1.0] * 3,
            "interpolation": plan.resample.name.lower(), "resize_mode": "shortest", "fill_color": 0,
        },
        "textual/tokenizer_config.json": {"pad_token": tokens.pad_token},
        MARKER: {"model": model.provenance()},
    }  # fmt: skip
    target = expand(folder)
    with new_folder(target, overwrite=overwrite) as temporary:
        for name in ("visual", "textual"):
            (temporary / name).mkdir()
        picture, example = temporary / "visual" / "model.onnx", example_pixels((size, size))
        opened = write_onnx(
            graph, example, picture, name=model.vision.name, inputs="image", outputs=("embeddings",)
        )
        (got,) = run(opened, example.numpy())
        with torch.inference_mode():
            difference = check_agreement(got, graph(example).numpy(), "embeddings")
        text, tokenizer = _text(model, temporary)
        text.rename(temporary / "textual" / "model.onnx")
        tokenizer.rename(temporary / "textual" / "tokenizer.json")
        for name, content in configs.items():
            (temporary / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
        size_of_all = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file())
    return Exported((target,), {"difference": difference, "megabytes": size_of_all / 1e6})
