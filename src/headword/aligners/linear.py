"""The paper's linear mapping, by gradient descent."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.aligners.gradient_descent import GradientAligner, Weights, uniform


@dataclass(eq=False, repr=False)
class Linear(GradientAligner):
    """One linear layer without bias, text → image space, mean squared error.

    Text-to-Concept (Moayeri et al., ICML 2023) with the settings of "Weight recycling" (ICML 2026) as
    defaults. `Ridge` is its closed form, centred.
    """

    name = "linear"
    text_axis = ("weight_", 1)

    weight_: Tensor = field(init=False)  # [d, k]

    def _initial(self, text_dim: int, image_dim: int, generator: torch.Generator) -> Weights:
        # As torch.nn.Linear starts.
        return {"weight_": uniform(image_dim, text_dim, bound=text_dim**-0.5, generator=generator)}

    def _forward(self, text: Tensor, weights: Weights, noise: torch.Generator | None) -> Tensor:  # noqa: ARG002
        return F.linear(text, weights["weight_"])

    def _loss(self, predicted: Tensor, image: Tensor) -> Tensor:
        return (predicted - image).square().mean(dim=1)

    def _map_text(self, text: Tensor) -> Tensor:
        return self._forward(text, self.tensors, None)
