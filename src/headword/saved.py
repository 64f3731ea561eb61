"""A saved model, format 2: `headword.json`, safetensors, classes, and where asked for the encoders
themselves.

`headword.json` holds a sha256 of each other file and of itself without that entry, so that an edit is found.
Encoders that are not copied are named with a sha256 over their tensors, one over what their tokenizer does,
and one over a picture as they transform it, and checked against them when loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from headword import __version__
from headword.aligners import ALIGNERS, Aligner, Identity
from headword.aligners.pairs import Pairs
from headword.encoders import Labels, TextEncoder, VisionEncoder, VisionSource, load_text, load_vision
from headword.encoders.clip_folder import TOKEN_HEAD
from headword.encoders.joint_vision import KIND, SEPARATOR
from headword.encoders.text_sources import SOURCES as TEXT_SOURCES
from headword.encoders.vision import DeferredVision, Vision
from headword.encoders.vision_sources import SOURCES
from headword.errors import HeadwordError
from headword.extract.vectors import load_pairs, save_pairs
from headword.files import format_of, load_tensors, new_folder, read_json, save_tensors, sealed, sha256
from headword.head.names import ClassName, class_names
from headword.results import versions
from headword.scoring.calibration import Scores
from headword.scoring.centring import Centre
from headword.scoring.familiarity import Familiarity

FORMAT = 2
CONFIG, ALIGNER = "headword.json", "aligner.safetensors"
PAIRS, CLASSES = "prototypes.safetensors", "classes.jsonl"
COPIES = ("vision", "text", "clip", TOKEN_HEAD)
"""Copied encoders: folders named as their sides are, or one for both, and what may be kept beside that."""

_RENAMED = {"template": "templates", "kinds": "hypernym_weight", "coverage": "familiarity"}
"""Entries of the first format → of this one; the oldest models have no weight of hypernyms."""
_NEEDED = {"versions", "vision", "text", "templates", "aligner", "pairs", "centre", "scores", "files"}


class Parts(Protocol):
    """What is saved of a `DualEncoder`."""

    vision: VisionEncoder
    text: TextEncoder
    aligner: Aligner
    pairs: Pairs | None
    familiarity_fit: Familiarity | None

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """The head's classes."""

    def provenance(self) -> dict[str, Any]:
        """Where every part came from, as JSON."""


def write_model(model: Parts, folder: Path, *, with_encoders: bool = False, overwrite: bool = False) -> Path:
    """Write `model` into `folder`; see `DualEncoder.save`."""
    known = (ALIGNER, PAIRS, CLASSES, *COPIES)
    with new_folder(folder, overwrite=overwrite, marker=CONFIG, known=known) as target:
        config = {"format": FORMAT, "versions": versions(), **model.provenance()}
        config["vision"]["input_size"] = list(model.vision.source.input_size)
        config["vision"]["transform_sha256"] = transform_sha256(model.vision.source)
        if model.familiarity_fit is not None:
            config["familiarity"] = asdict(model.familiarity_fit)
        if with_encoders or model.vision.source.kind == "trained":  # which are nowhere else
            for side, source in (("vision", model.vision.source), ("text", model.text.source)):
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
            lines = [json.dumps(c.as_json(), ensure_ascii=False) + "\n" for c in model.classes]
            (target / CLASSES).write_text("".join(lines), encoding="utf-8")
        files = [*_own_files(config), *_copied_files(target)]
        config["files"] = {name: sha256(target / name) for name in files}
        text = json.dumps(sealed(config), indent=2, ensure_ascii=False)
        (target / CONFIG).write_text(text + "\n", encoding="utf-8")
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
    return (ALIGNER,) if config["vision"]["head"] is None else (ALIGNER, PAIRS, CLASSES)


def _copied_files(root: Path) -> list[str]:
    """Names of the copied encoders' files; what a file manager leaves behind (`.DS_Store`) does not count."""
    files = (file for side in COPIES for file in [root / side, *(root / side).rglob("*")] if file.is_file())
    return sorted(file.relative_to(root).as_posix() for file in files if not file.name.startswith("."))


def read_model(
    root: Path,
    *,
    vision: Vision | None = None,
    text: TextEncoder | str | None = None,
    device: str | torch.device = "auto",
    dtype: str | None = None,
    defer_vision: bool = False,
    **vision_options: Any,
) -> dict[str, Any]:
    """The fields of a saved `DualEncoder`; see `headword.load`."""
    config = read_config(root)
    check_files(root, config, config["files"])
    if added := set(_copied_files(root)) - set(config["files"]):
        raise HeadwordError(f"{root / min(added)} was not saved with the model; move it away")
    with _restoring(root, config):
        aligner = _restore_aligner(root, config["aligner"])
        fields = {
            "scores": Scores(**config["scores"]),
            "centre": Centre(**config["centre"]),
            "familiarity_fit": Familiarity(**config["familiarity"]) if "familiarity" in config else None,
            "templates": tuple(config["templates"]),
            "hypernym_weight": float(config["hypernym_weight"]),
            "training": config.get("training"),
        }
    recycled = CLASSES in config["files"]
    classes = class_names(root / CLASSES) if recycled else ()
    record = config["vision"]
    load = partial(_load_vision, root, record, classes, vision, device, dtype, vision_options)
    encoder = DeferredVision(record, load, classes, device, dtype) if defer_vision else load()
    return fields | {
        "vision": encoder,
        "text": _load_text(root, config["text"], text, device),
        "aligner": aligner.to(encoder.device),
        "pairs": load_pairs(root / PAIRS) if recycled else None,
    }


def read_config(root: Path) -> dict[str, Any]:
    """`headword.json` of a saved model, checked for format, entries and edits, the first format migrated."""
    path = root / CONFIG
    if not root.is_dir():
        raise HeadwordError(f"no saved model at {root}; make one with: headword recycle --out {root}")
    if not path.is_file():
        raise HeadwordError(f"{root} is no saved model: it has no {CONFIG}")
    content: Any = read_json(path)
    written = format_of(content, path, FORMAT)
    config = {_RENAMED.get(name, name) if written == 1 else name: value for name, value in content.items()}
    if missing := _NEEDED - set(config):
        raise HeadwordError(f"{path} was edited: the entry {min(missing)!r} is missing")
    if content.get("sha256") != sealed(content)["sha256"]:
        raise HeadwordError(
            f"{path} was edited, so the model is not the one that was saved; recycle again, or give other "
            "settings where they are used"
        )
    if {name for name in config["files"] if name.partition("/")[0] not in COPIES} != set(_own_files(config)):
        raise HeadwordError(f"{path} was edited: its file list must name {', '.join(_own_files(config))}")
    return {"hypernym_weight": 0.0, **config, "format": FORMAT}


def check_files(root: Path, config: Mapping[str, Any], names: Collection[str]) -> None:
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
        raise HeadwordError(
            f"{root / CONFIG}, written by headword {config['versions'].get('headword')}, has settings that "
            f"headword {__version__} does not take: {error}; recycle again"
        ) from error


def _restore_aligner(root: Path, record: Mapping[str, Any]) -> Aligner:
    known: dict[str, type[Aligner]] = {**ALIGNERS, Identity.name: Identity}
    if record["name"] not in known:
        raise HeadwordError(
            f"{root / CONFIG} names the unknown aligner {record['name']!r}; known: {', '.join(known)}"
        )
    return known[record["name"]].restore(record["settings"], load_tensors(root / ALIGNER))


def _load_vision(
    root: Path,
    record: Mapping[str, Any],
    classes: tuple[ClassName, ...],
    given: Vision | None,
    device: str | torch.device,
    dtype: str | None,
    options: Mapping[str, Any],
) -> VisionEncoder:
    if given is None:
        spec: Vision = _saved_or_named(root, record, {*SOURCES, KIND})
    else:
        from headword.encoders.own_module import resolve_vision

        spec = resolve_vision(given)
    tower = record["head"] is None
    head = {} if tower else {"names": classes, "head": record["head"]["modules"]}
    encoder = load_vision(spec, device=device, dtype=dtype or record["dtype"], **head, **options)
    source = encoder.source
    _check_weights(root, "vision", record, encoder.fingerprint)
    own = given is not None and record["kind"] == "module"
    if own:
        source.transform_settings = record["transform"]
    # A library may come to write the same transform otherwise; its pixels say whether it is the same.
    elif source.transform_settings != record["transform"] and (
        transform_sha256(source) != record["transform_sha256"]
    ):
        raise HeadwordError(
            f"the vision encoder {record['kind']}:{record['id']} transforms images otherwise than when "
            f"{root} was made (another version of its library?); recycle again, or install the versions its "
            f"{CONFIG} names"
        )
    if given is None or own:  # a module's file may lie elsewhere today; its weights say that it is the same
        source.kind, source.id = record["kind"], record["id"]
    if not tower:
        encoder.labels = Labels(classes, record["labels"]["origin"])
    return encoder


def _load_text(
    root: Path, record: Mapping[str, Any], given: TextEncoder | str | None, device: str | torch.device
) -> TextEncoder:
    spec = _saved_or_named(root, record, TEXT_SOURCES) if given is None else given
    encoder = load_text(spec, device=device)
    source = encoder.source
    _check_weights(root, "text", record, encoder.fingerprint)
    if "saved" not in record and source.extra_fingerprint != record["tokenizer_sha256"]:
        raise HeadwordError(
            f"the text encoder {record['kind']}:{record['id']} cuts texts into other tokens than when {root} "
            "was made; give the old one, or recycle again"
        )
    if given is None:
        source.kind, source.id = record["kind"], record["id"]
    return encoder


def _check_weights(root: Path, side: str, record: Mapping[str, Any], digest: str) -> None:
    if digest != record["weights_sha256"]:
        raise HeadwordError(
            f"the {side} encoder {record['kind']}:{record['id']} has other weights than {root} was made "
            "with; give the old ones, or recycle again"
        )


def _saved_or_named(root: Path, record: Mapping[str, Any], known: Collection[str]) -> str:
    """An encoder's copy in the folder, else its name, but never one that imports: no folder asks for that."""
    kind, name = record["kind"], record["id"]
    if "saved" in record:
        copy = (root / record["saved"]).resolve()
        if root.resolve() not in copy.parents:
            raise HeadwordError(
                f"{root / CONFIG} was edited: the encoder {record['saved']!r} lies outside the folder"
            )
        if not copy.is_dir():
            raise HeadwordError(f"{root} is not whole: the encoder in {record['saved']!r} is missing")
        if kind == "embedded" and name.startswith("minilm"):
            return f"embedded:minilm:{copy}"
        return f"{'local-dir' if kind in ('embedded', 'timm', 'module') else kind}:{copy}"
    kinds = [kind]
    if kind == KIND:
        kinds += [part.partition(":")[0] for part in name.split(SEPARATOR)]
    if "module" in kinds:
        spec = name if kind == KIND else f"module:{name}"
        if spec.count(":") < 2:  # the module itself was given, and not its name
            spec = "module:FILE.py:FACTORY"
        raise HeadwordError(
            f"{root} was made with a module of your own ({name!r}), which is imported only where you name "
            f"it: --vision {spec}, or headword.load(folder, vision=module, transform=transform)"
        )
    if not set(kinds) <= set(known):
        raise HeadwordError(f"{root / CONFIG} was edited: it names an encoder of the kind {kind!r}")
    revision = f"@{record['revision']}" if record["revision"] else ""
    return f"{kind}:{name}{revision}"
