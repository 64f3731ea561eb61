"""A dual encoder as a folder, format 1.

`headword.json`          everything by name: encoders, templates, aligner, centre, scores, versions, file
hashes `aligner.safetensors`    what the aligner learnt
`prototypes.safetensors` the pairs it learnt from
`classes.jsonl`          the head's classes, a line each
`vision/`, `text/`       the encoders themselves, only where asked for

Encoders that are not copied are named with a sha256 over their tensors and checked against it when loaded.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import headword
from headword.aligners import ALIGNERS, Aligner
from headword.data.vectors import load_pairs, save_pairs
from headword.dual_encoder import Centre, DualEncoder
from headword.encoders import Labels, TextEncoder, VisionEncoder, VisionSource, load_text, load_vision
from headword.errors import HeadwordError
from headword.files import load_tensors, new_folder, read_json, save_tensors, sha256
from headword.names import ClassName, read_class_names
from headword.scoring import Scores

FORMAT = 1
CONFIG, ALIGNER, PAIRS, CLASSES = (
    "headword.json",
    "aligner.safetensors",
    "prototypes.safetensors",
    "classes.jsonl",
)


def versions() -> dict[str, str]:
    """Versions of headword and of the libraries its numbers depend on."""
    libraries = ("torch", "torchvision", "timm", "transformers", "sentence-transformers", "open_clip_torch")
    return {
        "headword": headword.__version__,
        **{name: importlib.metadata.version(name) for name in libraries},
    }


def save(model: DualEncoder, folder: Path, *, with_encoders: bool = False, overwrite: bool = False) -> Path:
    """Write `model` into `folder`; see `DualEncoder.save`."""
    with new_folder(folder, overwrite=overwrite, marker=CONFIG) as target:
        config = {"format": FORMAT, "versions": versions(), **model.provenance()}
        if with_encoders:
            for side in ("vision", "text"):
                source = getattr(model, side).source
                if source.save is None:
                    raise HeadwordError(
                        f"the {side} encoder {source.kind}:{source.id} cannot be copied along; save without "
                        "the encoders' weights"
                    )
                config[side]["saved"] = source.save(target)
        save_tensors(target / ALIGNER, {name: tensor.cpu() for name, tensor in model.aligner.tensors.items()})
        save_pairs(model.pairs, target / PAIRS)
        lines = [json.dumps(c.as_json(), ensure_ascii=False) for c in model.classes]
        (target / CLASSES).write_text("\n".join(lines) + "\n", encoding="utf-8")
        config["files"] = {name: sha256(target / name) for name in (ALIGNER, PAIRS, CLASSES)}
        (target / CONFIG).write_text(
            json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return folder


def load(
    folder: str | os.PathLike[str],
    *,
    vision: nn.Module | VisionSource | VisionEncoder | str | None = None,
    text: TextEncoder | str | None = None,
    device: str | torch.device = "auto",
    dtype: str | None = None,
    **vision_options: Any,
) -> DualEncoder:
    """Load a saved model.

    Args:
        folder: what `DualEncoder.save` wrote.
        vision: in place of the encoder the folder names, for one that moved, or a module of your own.
        text: likewise.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "float32" or "bfloat16" for the vision encoder; the one it was saved with when not given.
        **vision_options: `transform`, `input_size` for a module of your own, as in `load_vision`.

    Raises:
        HeadwordError: if a file is missing, was changed, or has a newer format; or if an encoder cannot be
            had or has other weights than the model was made with.
    """
    root = Path(folder).expanduser()
    config = read_config(root)
    for name, digest in config["files"].items():
        if not (root / name).is_file():
            raise HeadwordError(f"{root} is not whole: {name} is missing; save the model again")
        if sha256(root / name) != digest:
            raise HeadwordError(
                f"{root / name} is not the file that was saved with the model; save the model again"
            )
    classes = read_class_names(root / CLASSES)
    eyes = _load_vision(root, config["vision"], classes, vision, device, dtype, vision_options)
    words = _load_text(root, config["text"], text, device)
    return DualEncoder(
        vision=eyes,
        text=words,
        aligner=_restore_aligner(config["aligner"], root).to(eyes.device),
        pairs=load_pairs(root / PAIRS),
        template=tuple(config["template"]),
        scores=Scores(**config["scores"]),
        centre=Centre(**config["centre"]),
        timings={},
    )


def read_config(root: Path) -> dict[str, Any]:
    """`headword.json` of a saved model, checked for format and entries.

    Raises:
        HeadwordError: if the folder is no saved model, of a newer format, or has entries missing.
    """
    if not root.is_dir():
        raise HeadwordError(f"no saved model at {root}; make one with: headword recycle --out {root}")
    if not (root / CONFIG).is_file():
        raise HeadwordError(f"{root} is no saved model: it has no {CONFIG}")
    config: dict[str, Any] = read_json(root / CONFIG)
    written = config.get("format") if isinstance(config, dict) else None
    if not isinstance(written, int) or written < 1:
        raise HeadwordError(
            f"{root / CONFIG} does not say its format; it was not written by headword, or was edited"
        )
    if written > FORMAT:
        raise HeadwordError(
            f"{root} has format {written}, newer than this headword {headword.__version__} reads (up to "
            f"{FORMAT}); "
            "upgrade: pip install --upgrade headword"
        )
    needed = {"versions", "vision", "text", "template", "aligner", "pairs", "centre", "scores", "files"}
    missing = needed - set(config)
    if missing:
        raise HeadwordError(f"{root / CONFIG} was edited: the entry {min(missing)!r} is missing")
    if set(config["files"]) != {ALIGNER, PAIRS, CLASSES}:
        raise HeadwordError(
            f"{root / CONFIG} was edited: its file list must name {ALIGNER}, {PAIRS} and {CLASSES}"
        )
    return config


def _load_vision(
    root: Path,
    said: Mapping[str, Any],
    classes: tuple[ClassName, ...],
    given: nn.Module | VisionSource | VisionEncoder | str | None,
    device: str | torch.device,
    dtype: str | None,
    options: Mapping[str, Any],
) -> VisionEncoder:
    if given is None and said["kind"] == "module":
        raise HeadwordError(
            f"{root} was made with a module of your own ({said['id']}); give it: "
            "headword.load(folder, vision=module, transform=transform)"
        )
    spec = _saved_or_named(root, said) if given is None else given
    encoder = load_vision(
        spec,
        names=classes,
        head=said["head"]["modules"],
        device=device,
        dtype=dtype or said["dtype"],
        **options,
    )
    _same_weights(root, "vision", said, encoder.fingerprint)
    now = encoder.source.transform_settings
    if said["kind"] != "module" and now != said["transform"]:
        raise HeadwordError(f"{root}: images would be transformed otherwise than when it was made: {now}")
    if given is None:
        encoder.source.kind, encoder.source.id = said["kind"], said["id"]
    encoder.labels = Labels(classes, said["labels"]["origin"])
    return encoder


def _load_text(
    root: Path, said: Mapping[str, Any], given: TextEncoder | str | None, device: str | torch.device
) -> TextEncoder:
    encoder = load_text(_saved_or_named(root, said) if given is None else given, device=device)
    _same_weights(root, "text", said, encoder.fingerprint)
    if given is None:
        encoder.source.kind, encoder.source.id = said["kind"], said["id"]
    return encoder


def _saved_or_named(root: Path, said: Mapping[str, Any]) -> str:
    """What to load an encoder by: its copy in the folder where there is one, else its name."""
    if "saved" not in said:
        return f"{said['kind']}:{said['id']}"
    copy = (root / said["saved"]).resolve()
    if root.resolve() not in copy.parents:
        raise HeadwordError(
            f"{root / CONFIG} was edited: the encoder {said['saved']!r} lies outside the folder"
        )
    if not copy.is_dir():
        raise HeadwordError(f"{root} is not whole: the encoder in {said['saved']!r} is missing")
    if said["kind"] == "embedded" and said["id"].startswith("minilm"):
        return f"embedded:minilm:{copy}"
    loader = {"embedded": "local-dir", "timm": "local-dir"}.get(said["kind"], said["kind"])
    return f"{loader}:{copy}"


def _same_weights(root: Path, side: str, said: Mapping[str, Any], digest: str) -> None:
    if digest != said["weights_sha256"]:
        raise HeadwordError(
            f"the {side} encoder {said['kind']}:{said['id']} has other weights than {root} was made with; "
            "give the old ones, or recycle again"
        )


def _restore_aligner(said: Mapping[str, Any], root: Path) -> Aligner:
    if said["name"] not in ALIGNERS:
        raise HeadwordError(
            f"{root / CONFIG} names the unknown aligner {said['name']!r}; known: {', '.join(ALIGNERS)}"
        )
    return ALIGNERS[said["name"]].restore(said["settings"], load_tensors(root / ALIGNER))
