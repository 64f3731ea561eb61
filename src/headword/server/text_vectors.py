"""Embeddings of the texts that were read last: while someone types, and for label lists used again."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from headword.model import DualEncoder

KEPT = 16_384
"""Texts whose embeddings are kept; those not asked for longest go first."""


class Remembered:
    """Texts → embeddings, each computed once; for use by one thread.

    Args:
        embed: computes those that are not known: `TextSource.embed`.
        kept: as `KEPT`.
    """

    def __init__(self, embed: Callable[[list[str]], Tensor], kept: int = KEPT) -> None:
        self._embed = embed
        self._most = kept
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, texts: list[str]) -> Tensor:
        """N texts, one or more → `[N, k]`."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            for text, vector in zip(missing, self._embed(missing), strict=True):
                self._known[text] = vector.clone()  # not a view that keeps its whole batch
        for text in texts:
            self._known.move_to_end(text)
        found = [self._known[text] for text in texts]
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return torch.stack(found)

    @property
    def kept(self) -> int:
        """How many texts are known now."""
        return len(self._known)


def remembering(model: DualEncoder) -> DualEncoder:
    """The same model, which reads a text once for all that is asked of it: a query, its coverage, a label."""
    source = model.text.source
    fresh = copy.copy(model)
    fresh.text = replace(model.text, source=replace(source, embed=Remembered(source.embed)))
    return fresh
