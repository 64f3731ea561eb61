"""Vectors of the texts that were asked for last: while someone types, and for label lists used again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from headword.dual_encoder import DualEncoder

KEPT = 8_192
"""Texts whose vectors are kept; those not asked for longest go first."""


class TextVectors:
    """Texts → vectors, computed once; for use by one thread.

    Args:
        model: encodes those that are not known.
        kept: as `KEPT`.
    """

    def __init__(self, model: DualEncoder, kept: int = KEPT) -> None:
        self.model = model
        self._most = kept
        self._known: OrderedDict[tuple[tuple[str, ...], str], Tensor] = OrderedDict()

    def __call__(self, texts: Sequence[str], template: tuple[str, ...] = ("{}",)) -> Tensor:
        """Texts → unit vectors `[N, D]`, as `DualEncoder.encode_text` gives them."""
        missing = [text for text in dict.fromkeys(texts) if (template, text) not in self._known]
        if missing:
            encoded = self.model.encode_text(missing, template=template)
            for text, vector in zip(missing, encoded, strict=True):
                self._known[template, text] = vector.clone()  # not a view that keeps its whole batch
        for text in texts:
            self._known.move_to_end((template, text))
        found = [self._known[template, text] for text in texts]
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return torch.stack(found) if found else torch.empty(0, self.model.dim)

    @property
    def kept(self) -> int:
        """How many texts are known now."""
        return len(self._known)
