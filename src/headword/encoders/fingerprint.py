"""Which model an index or a classifier was made with, and whether another is the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from headword.aligners import Aligner
from headword.encoders.vision import VisionEncoder
from headword.errors import HeadwordError
from headword.files.tensors import sha256_of


class Model(Protocol):
    """What tells a `DualEncoder` from others."""

    vision: VisionEncoder
    aligner: Aligner

    def provenance(self) -> dict[str, Any]:
        """Where every part came from, as JSON."""


def fingerprint_of(model: Model, *, but_centre: bool = False) -> str:
    """sha256 over all that images, words and tags depend on: encoders, templates, aligner, scores.

    Args:
        model: the model.
        but_centre: leave out what images are centred on.
    """
    provenance = model.provenance()
    text = provenance["text"]
    kept = {
        "vision": encoder_identity(model.vision),
        "text": [text["weights_sha256"], text["tokenizer_sha256"]],
        **{name: provenance[name] for name in ("templates", "hypernym_weight", "aligner", "scores")},
    }
    tensors = model.aligner.tensors
    return sha256_of(kept, {n: one for n, one in tensors.items() if not (but_centre and n == "centre_")})


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


def describe(model: Model, folder: Path | None, *, but_centre: bool = False) -> dict[str, Any]:
    """A model, as the manifest of what was made with it names it."""
    return {
        "folder": None if folder is None else str(folder),
        "fingerprint": fingerprint_of(model, but_centre=but_centre),
        "provenance": _plain(model.provenance()),
    }


def check_model(
    model: Model,
    described: Mapping[str, Any],
    folder: Path,
    *,
    but_centre: bool = False,
    mend: str = "index the folder again",
) -> None:
    """Refuse a model that an index or a classifier was not made with.

    Raises:
        HeadwordError: with the names of both.
    """
    if fingerprint_of(model, but_centre=but_centre) == described["fingerprint"]:
        return
    before, now = _name(described["provenance"]), _name(model.provenance())
    where = f" at {described['folder']}" if described["folder"] else ""
    other = "another model of the same encoders" if before == now else now
    raise HeadwordError(
        f"{folder} was made with the model {before}{where}, and this is {other}; give that model, or {mend} "
        "with this one"
    )


def _name(provenance: Mapping[str, Any]) -> str:
    vision, text = provenance["vision"], provenance["text"]
    return f"{vision['kind']}:{vision['id']} + {text['kind']}:{text['id']} ({provenance['aligner']['name']})"
