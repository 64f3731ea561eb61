"""Which model an index was made with, and whether another is the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headword.encoders import VisionEncoder
from headword.errors import HeadwordError
from headword.files.tensors import sha256_of
from headword.model import DualEncoder


def fingerprint_of(model: DualEncoder) -> str:
    """sha256 over all that images, words and tags depend on: encoders, templates, aligner, scores."""
    provenance = model.provenance()
    text = provenance["text"]
    kept = {
        "vision": encoder_identity(model.vision),
        "text": [text["weights_sha256"], text["tokenizer_sha256"]],
        **{name: provenance[name] for name in ("templates", "hypernym_weight", "aligner", "scores")},
    }
    return sha256_of(kept, model.aligner.tensors)


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, where a tuple is a list."""
    return dict(json.loads(json.dumps(content)))


def encoder_identity(vision: VisionEncoder) -> dict[str, Any]:
    """All that decides what the features of a picture are, besides engine and precision."""
    record = vision.provenance()
    return _plain(
        {
            "encoder": vision.name,
            "weights": record["weights_sha256"],
            "head": [] if record["head"] is None else record["head"]["modules"],
            "transform": record["transform"],
        }
    )


def describe(model: DualEncoder, folder: Path | None) -> dict[str, Any]:
    """A model, as a manifest names it."""
    return {
        "folder": None if folder is None else str(folder),
        "fingerprint": fingerprint_of(model),
        "provenance": _plain(model.provenance()),
    }


def check_model(model: DualEncoder, described: Mapping[str, Any], folder: Path) -> None:
    """Refuse a model that an index was not made with.

    Raises:
        HeadwordError: with the names of both.
    """
    if fingerprint_of(model) == described["fingerprint"]:
        return
    before, now = _name(described["provenance"]), _name(model.provenance())
    where = f" at {described['folder']}" if described["folder"] else ""
    other = "another model of the same encoders" if before == now else now
    raise HeadwordError(
        f"{folder} was made with the model {before}{where}, and this is {other}; give that model, or "
        "index the folder again with this one"
    )


def _name(provenance: Mapping[str, Any]) -> str:
    vision, text = provenance["vision"], provenance["text"]
    return f"{vision['kind']}:{vision['id']} + {text['kind']}:{text['id']} ({provenance['aligner']['name']})"
