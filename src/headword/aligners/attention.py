"""Softmax attention over the prototypes, in text space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor

from headword.aligners.base import Aligner, weighted_mean
from headword.aligners.linalg import row_chunks
from headword.aligners.pairs import Pairs


@dataclass(eq=False, repr=False)
class PrototypeAttention(Aligner):
    """A text is the mean of the rows whose names are near it; nothing is learnt but what to remember.

        text map: normalise(softmax_i(t·t_i/τ + log ω_i) X − μ);   image map: normalise(x − centre)

    with the weighted mean row μ (Nadaraya–Watson regression). The centre is zero until centred. Use it
    when the pairs are too many for `KernelRidge` or when a text's neighbours should be readable from its
    weights.
    """

    name = "prototype-attention"
    text_axis = ("text_", 1)

    tau: Annotated[float, Gt(0)] = 0.1  # τ, the softmax temperature

    text_: Tensor = field(init=False)  # [N, k] unit-norm texts
    image_: Tensor = field(init=False)  # [N, d] rows less μ: the softmax's weights sum to one
    log_weight_: Tensor = field(init=False)  # [N] log ω

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> dict[str, Tensor]:
        mean = weighted_mean(image, weight)
        return {"text_": text, "image_": image - mean, "log_weight_": weight.log()}

    def _map_text(self, text: Tensor) -> Tensor:
        parts = row_chunks(text, len(self.text_))
        return torch.cat([self.attention(part) @ self.image_ for part in parts])

    def attention(self, text: Tensor) -> Tensor:
        """How much each pair counts for unit-norm texts `[M, k]`: `[M, N]`, rows sum to one."""
        return torch.softmax((text @ self.text_.T) / self.tau + self.log_weight_, dim=1)

    def weights(self, embeddings: Tensor, pairs: Pairs) -> Tensor:  # noqa: ARG002 - all is learnt
        """The attention."""
        return self.attention(F.normalize(self._checked(embeddings, "text_dim"), dim=1))
