"""A classifier as a folder, format 1.

`classifier.json`        labels and options, the model it belongs to, the examples' names, hashes
`classifier.safetensors` weights and biases, the centre, the examples' features and what was said of them

There are no pictures and no model in it. `classifier.json` holds a sha256 of the tensors and of itself
without that entry, so that an edit is found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from headword import __version__
from headword.encoders.fingerprint import Model, describe
from headword.errors import HeadwordError
from headword.files import (
    expand,
    format_of,
    load_tensors,
    new_folder,
    read_json,
    save_tensors,
    sealed,
    sha256,
)
from headword.scoring.centring import Centre
from headword.scoring.examples import Examples

FORMAT = 1
CONFIG, TENSORS = "classifier.json", "classifier.safetensors"
_NEEDED = ("parameters", "model", "centre", "names", "files")


class Centred(Model, Protocol):
    """A model, and what its pictures are centred on."""

    centre: Centre


@dataclass(frozen=True, slots=True, eq=False)
class SavedClassifier:
    """What a classifier's folder holds."""

    folder: Path
    parameters: dict[str, Any]
    """Of `Classifier`, but the model."""
    model: dict[str, Any]
    """The model, as `headword.encoders.fingerprint.describe` has it, its centre apart."""
    centre: Centre
    centre_vector: Tensor
    """`[d]`."""
    examples: Examples
    weights: dict[str, Tensor]
    """`weight` and `bias`."""


def write_classifier(
    folder: Path,
    model: Centred,
    parameters: Mapping[str, Any],
    examples: Examples,
    weights: Mapping[str, Tensor],
    model_folder: Path | None,
    *,
    overwrite: bool,
) -> Path:
    """Write a classifier; see `Classifier.save`."""
    with new_folder(folder, overwrite=overwrite, marker=CONFIG, known=(TENSORS,)) as target:
        tensors = {
            **weights,
            "centre": model.aligner.centre_,
            "features": examples.features,
            "judged": examples.judged,
        }
        save_tensors(target / TENSORS, tensors)
        where = None if model_folder is None else model_folder.resolve()
        config = {
            "format": FORMAT,
            "versions": {"headword": __version__},
            "parameters": parameters,
            "model": describe(model, where, but_centre=True),
            "centre": asdict(model.centre),
            "names": examples.names,
            "files": {TENSORS: sha256(target / TENSORS)},
        }
        text = json.dumps(sealed(config), indent=2, ensure_ascii=False)
        (target / CONFIG).write_text(text.encode("utf-8", "replace").decode() + "\n", encoding="utf-8")
    return folder


def read_classifier(folder: Path) -> SavedClassifier:
    """Read a classifier's folder.

    Raises:
        HeadwordError: if it is none, was edited, is not whole, or is of a newer format.
    """
    root = expand(folder)
    if not (root / CONFIG).is_file():
        raise HeadwordError(
            f"{folder} is no saved classifier: it has no {CONFIG}; make one with: headword teach MODEL "
            "--labels … --examples FOLDER --out DIR"
        )
    config: Any = read_json(root / CONFIG)
    format_of(config, root / CONFIG, FORMAT)
    edited = f"{root / CONFIG} was edited; save the classifier again"
    if any(name not in config for name in _NEEDED) or config.get("sha256") != sealed(config)["sha256"]:
        raise HeadwordError(edited)
    if not (root / TENSORS).is_file() or sha256(root / TENSORS) != config["files"].get(TENSORS):
        raise HeadwordError(f"{root / TENSORS} is not the file that was saved; save the classifier again")
    tensors = load_tensors(root / TENSORS)
    try:
        names = tuple(config["names"])
        return SavedClassifier(
            folder=root,
            parameters=config["parameters"],
            model=config["model"],
            centre=Centre(**config["centre"]),
            centre_vector=tensors["centre"],
            examples=Examples(tensors["features"], tensors["judged"], names),
            weights={"weight": tensors["weight"], "bias": tensors["bias"]},
        )
    except (TypeError, LookupError) as error:
        raise HeadwordError(edited) from error
