"""Softmax attention over the prototypes, in text space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.aligners.base import Aligner, weighted_mean
from headword.aligners.linalg import row_chunks
from headword.aligners.pairs import Pairs


class PrototypeAttention(Aligner):
    """A text is the mean of the rows whose names are near it; nothing is learnt but what to remember.

        text map: normalise(softmax_i(t·t_i/τ + log ω_i) X − μ);   image map: normalise(x − centre)

    with the weighted mean row μ (Nadaraya–Watson regression). The centre is zero until centred. Use it
    when the pairs are too many for `KernelRidge` or when a text's neighbours should be readable from its
    weights.

    Args:
        tau: τ, the softmax temperature.
    """

    name = "prototype-attention"

    text_: Tensor
    """`[N, k]` unit-norm texts."""
    image_: Tensor
    """`[N, d]` rows less μ; softmax weights sum to one, so the mean is subtracted once for all."""
    log_weight_: Tensor
    """`[N]` log ω."""

    def __init__(self, tau: float = 0.1) -> None:
        super().__init__()
        self.tau = tau

    @property
    def text_dim(self) -> int:
        """Width k of the text embeddings."""
        return self._width("text_", 1)

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> None:
        self._require(self.tau > 0, "tau", "must be positive")
        self._learn("text_", text)
        self._learn("image_", image - weighted_mean(image, weight))
        self._learn("log_weight_", weight.log())
        self._learn("centre_", torch.zeros_like(image[0]))

    def _map_text(self, text: Tensor) -> Tensor:
        parts = row_chunks(text, len(self.text_))
        return torch.cat([self.attention(part) @ self.image_ for part in parts])

    def attention(self, text: Tensor) -> Tensor:
        """How much each pair counts for unit-norm texts `[M, k]`: `[M, N]`, rows sum to one."""
        return torch.softmax((text @ self.text_.T) / self.tau + self.log_weight_, dim=1)

    def weights(self, embeddings: Tensor, pairs: Pairs) -> Tensor:  # noqa: ARG002 - all is learnt
        """The attention."""
        return self.attention(F.normalize(self._checked(embeddings, "text_dim"), dim=1))
