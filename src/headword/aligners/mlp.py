"""The paper's multi-layer perceptron, by gradient descent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from headword.aligners.gradient_descent import GradientAligner, Weights, keep_mask, uniform
from headword.aligners.linalg import row_chunks


@dataclass(eq=False, repr=False)
class MLP(GradientAligner):
    """Linear(k, 4d) → GELU → Dropout → Linear(4d, d) → LayerNorm, text → image space, cosine embedding loss.

    The main mapping of "Weight recycling" (ICML 2026) with its settings as defaults: loss 1 − cos. On 1,000
    pairs 2,500 epochs take some twenty minutes on two CPU cores; `KernelRidge` is better and takes a moment.
    """

    name = "mlp"
    text_axis = ("hidden_weight_", 1)

    expansion: Annotated[int, Gt(0)] = 4  # the hidden layer's width in multiples of d
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.5  # of a hidden unit, the others rescaled

    hidden_weight_: Tensor = field(init=False)  # [4d, k]
    hidden_bias_: Tensor = field(init=False)  # [4d]
    output_weight_: Tensor = field(init=False)  # [d, 4d]
    output_bias_: Tensor = field(init=False)  # [d]
    norm_weight_: Tensor = field(init=False)  # [d]
    norm_bias_: Tensor = field(init=False)  # [d]

    def _initial(self, text_dim: int, image_dim: int, generator: torch.Generator) -> Weights:
        wide = self.expansion * image_dim
        # As torch.nn.Linear and torch.nn.LayerNorm start.
        into, out = text_dim**-0.5, wide**-0.5
        return {
            "hidden_weight_": uniform(wide, text_dim, bound=into, generator=generator),
            "hidden_bias_": uniform(wide, bound=into, generator=generator),
            "output_weight_": uniform(image_dim, wide, bound=out, generator=generator),
            "output_bias_": uniform(image_dim, bound=out, generator=generator),
            "norm_weight_": torch.ones(image_dim),
            "norm_bias_": torch.zeros(image_dim),
        }

    def _forward(self, text: Tensor, weights: Weights, noise: torch.Generator | None) -> Tensor:
        hidden = F.gelu(F.linear(text, weights["hidden_weight_"], weights["hidden_bias_"]))  # [B, 4d]
        if noise is not None and self.dropout > 0:
            hidden = hidden * keep_mask(hidden, 1 - self.dropout, noise) / (1 - self.dropout)
        output = F.linear(hidden, weights["output_weight_"], weights["output_bias_"])  # [B, d]
        return F.layer_norm(output, output.shape[-1:], weights["norm_weight_"], weights["norm_bias_"])

    def _loss(self, predicted: Tensor, image: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(predicted, image, dim=1)

    def _map_text(self, text: Tensor) -> Tensor:
        parts = row_chunks(text, len(self.hidden_bias_))
        return torch.cat([self._forward(part, self.tensors, None) for part in parts])
