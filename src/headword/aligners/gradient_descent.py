"""The training loop of the mappings that gradient descent learns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from typing_extensions import Self

from headword.aligners.base import Aligner, prepared
from headword.aligners.pairs import Pairs

MANY_PAIRS = 10_000  # past these 500 epochs are the default, else 2,500: the paper's for 21k and 1k heads

Weights = dict[str, Tensor]


@dataclass(eq=False, repr=False)
class GradientAligner(Aligner):
    """An aligner trained as in "Weight recycling" (ICML 2026): Adam, cosine annealing, dropout on the input.

    Every epoch shuffles the pairs; the learning rate of epoch e of E is lr · (1 + cos(πe/E))/2, constant
    within the epoch; no weight decay; the last epoch is kept. A batch's loss is the mean of its pairs' losses
    weighted by ω. Images are unit norm but not centred, and the centre is zero until centred. A seed gives
    one result on a CPU; the global generator is neither read nor moved.
    """

    iterative = True

    progress: Callable[[int, int], None] | None = field(default=None, init=False)
    """Called after each epoch with the epochs done and the epochs in all; not a setting, never saved."""

    epochs: Annotated[int, Gt(0)] | None = None  # passes over the pairs; as `default_epochs` if None
    lr: Annotated[float, Gt(0)] = 5e-3  # Adam's learning rate at the start
    batch_size: Annotated[int, Gt(0)] = 512  # pairs a step
    input_dropout: Annotated[float, Ge(0), Le(1)] = 0.3
    """The probability that a batch's input gets an element-wise Bernoulli(½) mask, not rescaled."""
    seed: int = 0  # of the start, the shuffling and the masks

    @abstractmethod
    def _initial(self, text_dim: int, image_dim: int, generator: torch.Generator) -> Weights:
        """The float32 weights to start from, by the names of their buffers."""

    @abstractmethod
    def _forward(self, text: Tensor, weights: Weights, noise: torch.Generator | None) -> Tensor:
        """Map `[B, k]` to `[B, d]`; `noise` is there in training and draws the dropout."""

    @abstractmethod
    def _loss(self, predicted: Tensor, image: Tensor) -> Tensor:
        """Each pair's loss `[B]` for predictions and unit-norm targets `[B, d]`."""

    def continue_fit(self, pairs: Pairs, *, epochs: int | None = None, lr: float = 5e-4) -> Self:
        """Train on from the learnt weights, on other pairs: the paper's sequential training, second stage.

        Adam starts afresh and the learning rate anneals from `lr` again; `epochs` defaults as in `fit`.
        Neither is a setting: what is saved are the settings of the first stage and the weights of the last.
        """
        self._checked(pairs.image[:1], "image_dim")
        self._checked(pairs.text[:1], "text_dim")
        self.checked_settings({"epochs": epochs, "lr": lr})
        with torch.inference_mode(False), torch.no_grad():
            data = tuple(side.to(self.centre_.dtype) for side in prepared(pairs))
            start = {name: tensor for name, tensor in self.tensors.items() if name != "centre_"}
            order = torch.Generator().manual_seed(self.seed)
            self._learn(**self._train(data, start, order, epochs or default_epochs(len(pairs)), lr))
        return self

    def unfitted(self, n_pairs: int) -> Self:
        """A new aligner of the same settings but a tenth of the epochs: enough to fit a softmax scale."""
        epochs = self.epochs or default_epochs(n_pairs)
        return type(self)(**(self.settings | {"epochs": max(1, epochs // 10)}))

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> Weights:
        order = torch.Generator().manual_seed(self.seed)
        start = self._initial(text.shape[1], image.shape[1], order)
        start = {name: tensor.to(text) for name, tensor in start.items()}
        epochs = self.epochs or default_epochs(len(text))
        return self._train((image, text, weight), start, order, epochs, self.lr)

    @torch.enable_grad()
    def _train(
        self, data: tuple[Tensor, ...], start: Weights, order: torch.Generator, epochs: int, lr: float
    ) -> Weights:
        image, text, weight = data
        weights = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
        # One pass over the weights instead of one an operation: a third of the time of a small batch.
        fused = text.device.type in ("cpu", "cuda")
        optimiser = torch.optim.Adam(weights.values(), lr=lr, fused=fused)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=epochs)
        noise = torch.Generator(text.device).manual_seed(self.seed)
        for epoch in range(epochs):
            shuffled = torch.randperm(len(text), generator=order).to(text.device)
            for rows in torch.split(shuffled, self.batch_size):
                inputs = text[rows]
                if float(torch.rand((), generator=order)) < self.input_dropout:
                    inputs = inputs * keep_mask(inputs, 0.5, noise)
                predicted = self._forward(inputs, weights, noise)
                loss = (weight[rows] * self._loss(predicted, image[rows])).sum() / weight[rows].sum()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            schedule.step()
            if self.progress is not None:
                self.progress(epoch + 1, epochs)
        return weights


def default_epochs(n_pairs: int) -> int:
    """The paper's: 500 past `MANY_PAIRS`, else 2,500."""
    return 500 if n_pairs > MANY_PAIRS else 2500


def keep_mask(like: Tensor, keep: float, noise: torch.Generator) -> Tensor:
    """Independent zeros and ones of `like`'s shape, a one with probability `keep`."""
    # Three times as fast on a CPU as `bernoulli_` with a generator.
    drawn = torch.rand(like.shape, generator=noise, device=like.device, dtype=torch.float32)
    return (drawn < keep).to(like.dtype)


def uniform(*shape: int, bound: float, generator: torch.Generator) -> Tensor:
    """Uniform draws from [−bound, bound)."""
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
