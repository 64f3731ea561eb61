"""Mappings fitted once: those that gradient descent learns take minutes, and many figures need them."""

from __future__ import annotations

import json
import time
from typing import TypeVar

import torch

from headword.aligners import Aligner
from headword.aligners.pairs import Pairs
from headword.cache import key_of, once

A = TypeVar("A", bound=Aligner)


def fit_once(aligner: A, pairs: Pairs) -> tuple[A, float]:
    """The aligner fitted on these pairs, and the seconds that took when it was done.

    A fit by gradient descent is kept in the cache under a hash of settings and pairs, and read from there the
    next time; a closed form is quicker to solve again than to read.

    Raises:
        HeadwordError: if a setting is out of its range.
    """
    if not aligner.iterative:
        start = time.perf_counter()
        return aligner.fit(pairs), time.perf_counter() - start
    sides = [side.cpu().contiguous().numpy().tobytes() for side in (pairs.image, pairs.text, pairs.weight)]
    key = key_of(aligner.name, json.dumps(aligner.settings, sort_keys=True), *sides)

    def tensors() -> dict[str, torch.Tensor]:
        start = time.perf_counter()
        aligner.fit(pairs)
        seconds = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
        return {**{name: tensor.cpu() for name, tensor in aligner.tensors.items()}, "fit_seconds": seconds}

    kept = dict(once("fits", f"{aligner.name}-{key.hex()}", tensors))
    seconds = float(kept.pop("fit_seconds"))
    return type(aligner).restore(aligner.settings, kept).to(pairs.image.device), seconds
