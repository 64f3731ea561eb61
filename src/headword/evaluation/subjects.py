"""The models that protocols measure: opened by name, with another centre, with another mapping."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from headword.aligners import ALIGNERS, make_aligner
from headword.aligners.pairs import Pairs
from headword.encoders.vision import Vision
from headword.errors import HeadwordError
from headword.files import expand
from headword.model import DualEncoder, load
from headword.scoring.centring import Centre


def open_model(
    name: str | os.PathLike[str],
    *,
    vision: Vision | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> DualEncoder:
    """A model to evaluate, by name.

    Args:
        name: a saved model's folder; "embedded", recycled on the spot; or a CLIP model as the reference:
            "open_clip:ARCHITECTURE/TAG", "open_clip:ARCHITECTURE/CHECKPOINT", "open_clip:hf-hub:ID" or
            "transformers:ID_OR_FOLDER".
        vision: the classifier of a saved model, as in `headword.load`.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto", "float32" or "bfloat16", of the vision encoder; CLIP models are read in float32.

    Raises:
        HeadwordError: if it is none of these or cannot be loaded.
    """
    name = os.fspath(name)
    if expand(name).is_dir():
        return load(name, vision=vision, device=device, dtype=None if dtype == "auto" else dtype)
    if vision is not None:
        raise HeadwordError(f"{name} is no saved model's folder, which --vision goes with")
    if name.startswith(("open_clip:", "transformers:")):
        from headword.evaluation.clip import open_reference

        return open_reference(name, device=device)
    if name.partition(":")[0] == "embedded":
        from headword.recycling import recycle

        return recycle(name, device=device, dtype=dtype)
    raise HeadwordError(
        f"there is no model {name!r}: give a saved model's folder, embedded, open_clip:ARCHITECTURE/TAG or "
        "transformers:ID"
    )


def is_reference(model: DualEncoder) -> bool:
    """Whether it is somebody's CLIP, whose two sides were trained against each other as they are: it is never
    centred.
    """
    return model.one_space and model.training is None


def recentred(model: DualEncoder, features: Tensor, source: str, strength: float = 0.0) -> DualEncoder:
    """A copy centred on the mean of a pool's unit-norm features; the model itself where it is a reference.

    Args:
        model: stays as it is.
        features: `[N, d]` the pool.
        source: what it is called.
        strength: how many images of the pool the centre that the model has counts as.
    """
    if is_reference(model):
        return model
    aligner = model.aligner.centred_on(features.to(model.aligner.centre_.device), strength)
    return replace(model, aligner=aligner, centre=Centre("pool", len(features), source))


def with_aligner(model: DualEncoder, aligner: str) -> DualEncoder:
    """A copy whose mapping is another, in its default settings, fitted on the model's pairs."""
    return _refitted(model, aligner, {}, None)


def with_pairs(model: DualEncoder, pairs: Pairs) -> DualEncoder:
    """A copy fitted anew, with the aligner's settings, on the model's pairs and these; its centre is the
    aligner's default.
    """
    return _refitted(model, model.aligner.name, model.aligner.settings, pairs)


def _refitted(
    model: DualEncoder, aligner: str, settings: Mapping[str, Any], more: Pairs | None
) -> DualEncoder:
    if model.pairs is None:
        raise HeadwordError(
            "the model was trained in one space: it has no mapping to exchange or to fit on further pairs; "
            "give a recycled model"
        )
    device = model.aligner.centre_.device
    pairs = model.pairs.to(device=device)
    if more is not None:
        pairs = pairs + more.to(device=device)
    fitted = make_aligner(aligner, **settings).fit(pairs)
    return replace(model, aligner=fitted, pairs=pairs, centre=Centre("default"))


def check_aligners(names: Sequence[str]) -> None:
    """Refuse no aligner, one that does not exist, and one twice."""
    if not names or len(set(names)) != len(names):
        raise HeadwordError(f"name each aligner once; there are {', '.join(ALIGNERS)}")
    for name in names:
        if name not in ALIGNERS:
            raise HeadwordError(f"there is no aligner {name!r}; the aligners are {', '.join(ALIGNERS)}")


def arrival(n: int, seed: int) -> Tensor:
    """`[n]` the order in which n images arrive: drawn, since sets list their images class by class."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
