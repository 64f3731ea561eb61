"""Mappings fitted once: those that gradient descent learns take minutes, and many figures need them."""

from __future__ import annotations

import json
import time
from typing import TypeVar

from headword.aligners import Aligner
from headword.aligners.pairs import Pairs
from headword.cache import cache_folder, key_of
from headword.files import load_tensors, read_metadata, save_tensors

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
    file = cache_folder() / "fits" / f"{aligner.name}-{key.hex()}.safetensors"
    if not file.is_file():
        start = time.perf_counter()
        aligner.fit(pairs)
        metadata = {"seconds": time.perf_counter() - start}
        save_tensors(file, {name: tensor.cpu() for name, tensor in aligner.tensors.items()}, metadata)
    fitted = type(aligner).restore(aligner.settings, load_tensors(file))
    return fitted.to(pairs.image.device), float(read_metadata(file)["seconds"])
