"""A dual encoder as a folder, format 2.

`headword.json`          by name: encoders, templates, aligner, centre, scores, familiarity, versions, hashes
`aligner.safetensors`    what the aligner learnt
`prototypes.safetensors` the pairs it learnt from
`classes.jsonl`          the head's classes, a line each
`vision/`, `text/`       the encoders themselves, only where asked for
`clip/`                  both encoders, where headword trained them; then there are no pairs and no classes

`headword.json` holds a sha256 of each other file and of itself without that entry, so that an edit is found.
Encoders that are not copied are named with a sha256 over their tensors, one over what their tokenizer does,
and one over a picture as they transform it, and checked against them when loaded.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import headword
from headword.aligners import ALIGNERS, Aligner, Identity
from headword.encoders import Labels, TextEncoder, VisionEncoder, VisionSource, load_text, load_vision
from headword.encoders.joint_vision import KIND, SEPARATOR
from headword.encoders.text_sources import SOURCES as TEXT_SOURCES
from headword.encoders.vision import DeferredVision, Vision
from headword.encoders.vision_sources import SOURCES
from headword.errors import HeadwordError
from headword.extract.vectors import load_pairs, save_pairs
from headword.files import expand, load_tensors, new_folder, read_json, save_tensors, sealed, sha256
from headword.head.names import ClassName, class_names
from headword.model import Centre, DualEncoder
from headword.scoring.familiarity import Familiarity
from headword.scoring.probabilities import Scores

FORMAT = 2
CONFIG, ALIGNER, PAIRS, CLASSES = (
    "headword.json",
    "aligner.safetensors",
    "prototypes.safetensors",
    "classes.jsonl",
)
_RENAMED = {"template": "templates", "kinds": "hypernym_weight", "coverage": "familiarity"}
"""Entries that the first format calls otherwise; the oldest models have no weight of hypernyms."""
SIDES = ("vision", "text")
COPIES = (*SIDES, "clip")
"""Folders of copied encoders: named as their sides are, or one for both."""


def versions() -> dict[str, str]:
    """Versions of headword and of the libraries its numbers depend on."""
    libraries = ("torch", "torchvision", "timm", "transformers", "sentence-transformers", "open_clip_torch")
    return {
        "headword": headword.__version__,
        **{name: importlib.metadata.version(name) for name in libraries},
    }


def save(model: DualEncoder, folder: Path, *, with_encoders: bool = False, overwrite: bool = False) -> Path:
    """Write `model` into `folder`; see `DualEncoder.save`."""
    known = (ALIGNER, PAIRS, CLASSES, *COPIES)
    with new_folder(folder, overwrite=overwrite, marker=CONFIG, known=known) as target:
        config = {"format": FORMAT, "versions": versions(), **model.provenance()}
        config["vision"]["input_size"] = list(model.vision.source.input_size)
        config["vision"]["transform_sha256"] = transform_sha256(model.vision.source)
        if model.familiarity_fit is not None:
            config["familiarity"] = model.familiarity_fit.as_json()
        if with_encoders or model.vision.source.kind == "trained":  # which are nowhere else
            for side in SIDES:
                source = getattr(model, side).source
                if source.save is None:
                    raise HeadwordError(
                        f"the {side} encoder {source.kind}:{source.id} cannot be copied along; save without "
                        "the encoders' weights"
                    )
                config[side]["saved"] = source.save(target)
        save_tensors(target / ALIGNER, {name: tensor.cpu() for name, tensor in model.aligner.tensors.items()})
        if model.pairs is not None:
            save_pairs(model.pairs, target / PAIRS)
        if model.classes:
            lines = [json.dumps(c.as_json(), ensure_ascii=False) for c in model.classes]
            (target / CLASSES).write_text("\n".join(lines) + "\n", encoding="utf-8")
        names = [*_own_files(config), *_copied_files(target)]
        config["files"] = {name: sha256(target / name) for name in names}
        (target / CONFIG).write_text(
            json.dumps(sealed(config), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return folder


def transform_sha256(source: VisionSource) -> str:
    """sha256 over the pixels that an encoder's transform makes of one generated picture."""
    y, x = torch.meshgrid(torch.arange(333), torch.arange(500), indexing="ij")
    channels = torch.stack([x * 255 // 499, y * 255 // 332, (x * y + x // 7 * 31) % 256], dim=2)
    pixels = source.transform(Image.fromarray(channels.to(torch.uint8).numpy())).contiguous()
    digest = hashlib.sha256(f"{list(pixels.shape)}{pixels.dtype}".encode())
    digest.update(pixels.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _own_files(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the files beside the configuration, copied encoders apart."""
    recycled = config["vision"]["head"] is not None
    return (ALIGNER, PAIRS, CLASSES) if recycled else (ALIGNER,)


def _copied_files(root: Path) -> list[str]:
    """Names of the copied encoders' files; what a file manager leaves behind (`.DS_Store`) does not count."""
    found = (file for side in COPIES for file in (root / side).rglob("*") if file.is_file())
    return sorted(file.relative_to(root).as_posix() for file in found if not file.name.startswith("."))


def load(
    folder: str | os.PathLike[str],
    *,
    vision: Vision | None = None,
    text: TextEncoder | str | None = None,
    device: str | torch.device = "auto",
    dtype: str | None = None,
    defer_vision: bool = False,
    **vision_options: Any,
) -> DualEncoder:
    """Load a saved model.

    Args:
        folder: what `DualEncoder.save` wrote.
        vision: in place of the encoder the folder names, for one that moved, or a module of your own: itself,
            or as "module:FILE.py:FACTORY" (see `headword.encoders.own_module`), which is imported because it
            is named here and never because a folder says so.
        text: likewise.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "float32" or "bfloat16" for the vision encoder; the one it was saved with when not given.
        defer_vision: load (and check) the vision encoder when a picture is first asked about; words alone
            need none, and its libraries take seconds to import.
        **vision_options: `transform`, `input_size` for a module of your own, as in `load_vision`.

    Raises:
        HeadwordError: if a file is missing, was changed, or has a newer format; or if an encoder cannot be
            had or has other weights than the model was made with.
    """
    root = expand(folder)
    config = read_config(root)
    check_files(root, config, config["files"])
    added = set(_copied_files(root)) - set(config["files"])
    if added:
        raise HeadwordError(f"{root / min(added)} was not saved with the model; move it away")
    with _restoring(root, config):
        scores, centre = Scores(**config["scores"]), Centre(**config["centre"])
        familiarity = Familiarity(**config["familiarity"]) if "familiarity" in config else None
        aligner = _restore_aligner(config["aligner"], root)
    classes = class_names(root / CLASSES) if CLASSES in config["files"] else ()
    record = config["vision"]
    load_eyes = partial(_load_vision, root, record, classes, vision, device, dtype, vision_options)
    eyes = DeferredVision(record, load_eyes, classes, device, dtype) if defer_vision else load_eyes()
    words = _load_text(root, config["text"], text, device)
    return DualEncoder(
        vision=eyes,
        text=words,
        aligner=aligner.to(eyes.device),
        pairs=load_pairs(root / PAIRS) if PAIRS in config["files"] else None,
        templates=tuple(config["templates"]),
        hypernym_weight=float(config["hypernym_weight"]),
        scores=scores,
        centre=centre,
        timings={},
        training=config.get("training"),
        familiarity_fit=familiarity,
    )


def read_config(root: Path) -> dict[str, Any]:
    """`headword.json` of a saved model, checked for format, entries and edits.

    Raises:
        HeadwordError: if the folder is no saved model, of a newer format, or was edited.
    """
    if not root.is_dir():
        raise HeadwordError(f"no saved model at {root}; make one with: headword recycle --out {root}")
    if not (root / CONFIG).is_file():
        raise HeadwordError(f"{root} is no saved model: it has no {CONFIG}")
    config: dict[str, Any] = read_json(root / CONFIG)
    written = config.get("format") if isinstance(config, dict) else None
    if type(written) is not int or written < 1:
        raise HeadwordError(
            f"{root / CONFIG} does not say its format; it was not written by headword, or was edited"
        )
    if written > FORMAT:
        raise HeadwordError(
            f"{root} has format {written}, newer than this headword {headword.__version__} reads (up to "
            f"{FORMAT}); "
            "upgrade: pip install --upgrade headword"
        )
    migrated = {_RENAMED.get(name, name): value for name, value in config.items()}
    needed = {"versions", "vision", "text", "templates", "aligner", "pairs", "centre", "scores", "files"}
    missing = needed - set(migrated)
    if missing:
        raise HeadwordError(f"{root / CONFIG} was edited: the entry {min(missing)!r} is missing")
    if config.get("sha256") != sealed(config)["sha256"]:
        raise HeadwordError(
            f"{root / CONFIG} was edited, so the model is not the one that was saved; recycle again, or give "
            "other settings where they are used"
        )
    names = {name for name in config["files"] if not name.startswith(tuple(f"{side}/" for side in COPIES))}
    if names != set(_own_files(config)):
        raise HeadwordError(
            f"{root / CONFIG} was edited: its file list must name {', '.join(_own_files(config))}"
        )
    return {"hypernym_weight": 0.0, **migrated, "format": FORMAT}


def check_files(root: Path, config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse a saved model of which a named file is missing or was changed."""
    for name in names:
        if not (root / name).is_file():
            raise HeadwordError(f"{root} is not whole: {name} is missing; save the model again")
        if sha256(root / name) != config["files"][name]:
            raise HeadwordError(
                f"{root / name} is not the file that was saved with the model; save the model again"
            )


@contextmanager
def _restoring(root: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Settings that this headword does not take are one line: another version may have written them."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        wrote = config["versions"].get("headword")
        raise HeadwordError(
            f"{root / CONFIG}, written by headword {wrote}, has settings that headword "
            f"{headword.__version__} does not take: {error}; recycle again"
        ) from error


def _load_vision(
    root: Path,
    said: Mapping[str, Any],
    classes: tuple[ClassName, ...],
    given: Vision | None,
    device: str | torch.device,
    dtype: str | None,
    options: Mapping[str, Any],
) -> VisionEncoder:
    if given is None:
        spec: Vision = _saved_or_named(root, said, {*SOURCES, KIND})
    else:
        from headword.encoders.own_module import resolve_vision

        spec = resolve_vision(given)
    tower = said["head"] is None
    encoder = load_vision(
        spec,
        names=None if tower else classes,
        head=None if tower else said["head"]["modules"],
        device=device,
        dtype=dtype or said["dtype"],
        **options,
    )
    _same_weights(root, "vision", said, encoder.fingerprint)
    # A library may come to write the same transform otherwise; its pixels say whether it is the same.
    own = given is not None and said["kind"] == "module"
    if (
        not own
        and encoder.source.transform_settings != said["transform"]
        and transform_sha256(encoder.source) != said["transform_sha256"]
    ):
        raise HeadwordError(
            f"the vision encoder {said['kind']}:{said['id']} transforms images otherwise than when {root} "
            "was made (another version of its library?); recycle again, or install the versions its "
            f"{CONFIG} names"
        )
    if given is None or own:  # a module's file may lie elsewhere today; its weights say that it is the same
        encoder.source.kind, encoder.source.id = said["kind"], said["id"]
    if own:
        encoder.source.transform_settings = said["transform"]
    if not tower:
        encoder.labels = Labels(classes, said["labels"]["origin"])
    return encoder


def _load_text(
    root: Path, said: Mapping[str, Any], given: TextEncoder | str | None, device: str | torch.device
) -> TextEncoder:
    encoder = load_text(_saved_or_named(root, said, TEXT_SOURCES) if given is None else given, device=device)
    _same_weights(root, "text", said, encoder.fingerprint)
    if "saved" not in said and encoder.source.extra_fingerprint != said["tokenizer_sha256"]:
        raise HeadwordError(
            f"the text encoder {said['kind']}:{said['id']} cuts texts into other tokens than when {root} was "
            "made; give the old one, or recycle again"
        )
    if given is None:
        encoder.source.kind, encoder.source.id = said["kind"], said["id"]
    return encoder


def _saved_or_named(root: Path, said: Mapping[str, Any], known: Collection[str]) -> str:
    """What to load an encoder by: its copy in the folder where there is one, else its name.

    Raises:
        HeadwordError: if it is a module of somebody's own, or of no known kind: a folder never says what code
            to import.
    """
    if "saved" not in said:
        parts = [said["kind"]]
        if said["kind"] == KIND:
            parts += [part.partition(":")[0] for part in said["id"].split(SEPARATOR)]
        if "module" in parts:
            name = said["id"] if said["kind"] == KIND else f"module:{said['id']}"
            if name.count(":") < 2:  # the module itself was given, and not its name
                name = "module:FILE.py:FACTORY"
            raise HeadwordError(
                f"{root} was made with a module of your own ({said['id']!r}), which is imported only where "
                f"you name it: --vision {name}, or headword.load(folder, vision=module, transform=transform)"
            )
        if not set(parts) <= set(known):
            raise HeadwordError(
                f"{root / CONFIG} was edited: it names an encoder of the kind {said['kind']!r}"
            )
        revision = f"@{said['revision']}" if said["revision"] else ""
        return f"{said['kind']}:{said['id']}{revision}"
    copy = (root / said["saved"]).resolve()
    if root.resolve() not in copy.parents:
        raise HeadwordError(
            f"{root / CONFIG} was edited: the encoder {said['saved']!r} lies outside the folder"
        )
    if not copy.is_dir():
        raise HeadwordError(f"{root} is not whole: the encoder in {said['saved']!r} is missing")
    if said["kind"] == "embedded" and said["id"].startswith("minilm"):
        return f"embedded:minilm:{copy}"
    loader = {"embedded": "local-dir", "timm": "local-dir", "module": "local-dir"}.get(
        said["kind"], said["kind"]
    )
    return f"{loader}:{copy}"


def _same_weights(root: Path, side: str, said: Mapping[str, Any], digest: str) -> None:
    if digest != said["weights_sha256"]:
        raise HeadwordError(
            f"the {side} encoder {said['kind']}:{said['id']} has other weights than {root} was made with; "
            "give the old ones, or recycle again"
        )


def _restore_aligner(said: Mapping[str, Any], root: Path) -> Aligner:
    known: dict[str, type[Aligner]] = {**ALIGNERS, Identity.name: Identity}
    if said["name"] not in known:
        raise HeadwordError(
            f"{root / CONFIG} names the unknown aligner {said['name']!r}; known: {', '.join(known)}"
        )
    return known[said["name"]].restore(said["settings"], load_tensors(root / ALIGNER))
