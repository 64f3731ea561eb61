"""The paper's linear mapping, by gradient descent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.aligners.gradient_descent import GradientAligner, Weights, uniform


class Linear(GradientAligner):
    """One linear layer without bias, text → image space, mean squared error.

    Text-to-Concept (Moayeri et al., ICML 2023) with the settings of "Weight recycling" (ICML 2026) as
    defaults. `Ridge` is its closed form, centred.

    Args:
        epochs: passes over the pairs; None for 500 past 10,000 pairs, else 2,500.
        lr: Adam's learning rate at the start.
        batch_size: pairs a step.
        input_dropout: the probability that a batch's input gets an element-wise Bernoulli(½) mask, not
            rescaled.
        seed: of the start, the shuffling and the masks.
    """

    name = "linear"

    weight_: Tensor
    """`[d, k]`."""

    def __init__(
        self,
        epochs: int | None = None,
        lr: float = 5e-3,
        batch_size: int = 512,
        input_dropout: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.input_dropout = input_dropout
        self.seed = seed

    @property
    def text_dim(self) -> int:
        """Width k of the text embeddings."""
        return self._width("weight_", 1)

    def _initial(self, text_dim: int, image_dim: int, generator: torch.Generator) -> Weights:
        # As torch.nn.Linear starts.
        return {"weight_": uniform(image_dim, text_dim, bound=text_dim**-0.5, generator=generator)}

    def _forward(self, text: Tensor, weights: Weights, noise: torch.Generator | None) -> Tensor:  # noqa: ARG002
        return F.linear(text, weights["weight_"])

    def _loss(self, predicted: Tensor, image: Tensor) -> Tensor:
        return (predicted - image).square().mean(dim=1)

    def _map_text(self, text: Tensor) -> Tensor:
        return self._forward(text, self.tensors, None)
