"""The gradient of a large batch on a small memory: cached gradients (GradCache, Gao et al. 2021), exact.

Contrastive losses look at all pairs of a batch at once, so adding up the gradients of small batches is
another loss. But the loss needs the towers' outputs only, which are small. So: (1) all pieces of the batch go
through the towers without a graph; (2) the loss of all outputs gives its gradient for each of them; (3) each
piece goes through the towers again, with a graph, and the gradients of (2) are sent back through it. What the
loss takes directly from parameters (logit scale and bias, the token head's linear layer) gets its gradient of
(2) in the last piece.

Model and loss are one module, and all three passes are its `forward`, so that DistributedDataParallel and
fully sharded training see every use of a parameter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from headword.training.objective import SuperCLIPLoss, SuperCLIPLosses
from headword.training.superclip import SuperCLIP, SuperCLIPOutput

FEATURES = ("image_features", "text_features", "token_features")
"""What of a model's output has a row a pair. The rest is the same for a whole batch."""

Gradients: TypeAlias = tuple["Tensor | None", ...]
"""Of a loss, for each field of `SuperCLIPOutput`; None for what it does not depend on."""


class TrainingModule(nn.Module):
    """A model and its loss, called in one of four ways; see above.

    Args:
        model: to be trained.
        loss: of that model.
        contrastive: whether texts go through the model; not for SuperClass.
    """

    def __init__(self, model: SuperCLIP, loss: SuperCLIPLoss, *, contrastive: bool = True) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.contrastive = contrastive

    def forward(self, pass_: str, *inputs: Any) -> Any:
        """One of the passes: "whole", "encode", "loss" or "replay", with that method's arguments."""
        return getattr(self, f"_{pass_}")(*inputs)

    def _whole(self, images: Tensor, texts: Tensor) -> SuperCLIPLosses:
        """Towers and loss at once, for batches that fit."""
        losses: SuperCLIPLosses = self.loss(self._towers(images, texts), texts)
        return losses

    def _encode(self, images: Tensor, texts: Tensor) -> list[Tensor | None]:
        """Pass 1: `FEATURES` of a piece, without a graph."""
        with torch.no_grad():
            output = self._towers(images, texts)
            return [getattr(output, name) for name in FEATURES]

    def _loss(self, features: list[Tensor | None], texts: Tensor) -> tuple[SuperCLIPLosses, Gradients]:
        """Pass 2: losses of the whole batch, which is counted, and their gradients."""
        clip, head = self.model.clip, self.model.token_head.linear
        same = (clip.logit_scale.exp(), clip.logit_bias, head.weight, head.bias)
        names = ("logit_scale", "logit_bias", "token_weight", "token_bias")
        with torch.enable_grad():
            leaves = {
                name: None if tensor is None else tensor.detach().requires_grad_()
                for name, tensor in zip((*FEATURES, *names), (*features, *same), strict=True)
            }
            output = SuperCLIPOutput(**leaves)  # type: ignore[arg-type]
            losses: SuperCLIPLosses = self.loss(output, texts)
            inputs = [leaf for leaf in output if leaf is not None]
            found = iter(torch.autograd.grad(losses.total, inputs, allow_unused=True))
        gradients = tuple(None if leaf is None else next(found) for leaf in output)
        return SuperCLIPLosses(*(part.detach() for part in losses)), gradients

    def _replay(self, images: Tensor, texts: Tensor, gradients: Gradients, rows: slice, last: bool) -> Tensor:
        """Pass 3: a scalar whose gradient is the loss's, by way of rows `rows` of the batch."""
        output = self._towers(images, texts)
        pairs = [
            (tensor, gradient[rows] if name in FEATURES else gradient)
            for name, tensor, gradient in zip(output._fields, output, gradients, strict=True)
            if tensor is not None and gradient is not None and (last or name in FEATURES)
        ]
        surrogate: Tensor = _Surrogate.apply(*(t for t, _ in pairs), *(g for _, g in pairs))
        return surrogate

    def _towers(self, images: Tensor, texts: Tensor) -> SuperCLIPOutput:
        output: SuperCLIPOutput = self.model(images, texts if self.contrastive else None)
        return output


class _Surrogate(torch.autograd.Function):
    """Zero, with given gradients for its inputs: Σ ⟨output, gradient⟩ without the products."""

    @staticmethod
    def forward(ctx: Any, *both: Tensor) -> Tensor:
        half = len(both) // 2
        ctx.save_for_backward(*both[half:])
        ctx.dtypes = [output.dtype for output in both[:half]]
        return both[half].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = incoming
        gradients = [(g * scale).to(dtype) for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)]
        return (*gradients, *(None for _ in gradients))


def backward(
    module: Callable[..., Any],
    images: Tensor,
    texts: Tensor,
    *,
    pieces: int = 1,
    seed: Callable[[int], object] | None = None,
    differentiate: Callable[[Tensor], None] = torch.Tensor.backward,
    unsynchronised: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> SuperCLIPLosses:
    """Leave the gradient of a batch's loss in the parameters, computed in `pieces` pieces.

    Args:
        module: a `TrainingModule`, or what a strategy wraps it in.
        images: `[B, 3, H, W]`.
        texts: `[B, L]` token ids.
        pieces: n ≥ 1; with 1 nothing is cached.
        seed: called with the piece's number before each forward pass, to set the random numbers that dropout
            draws: both passes of a piece draw the same. When None, torch's generator says what, anew at each
            call.
        differentiate: what calls `backward` on a scalar.
        unsynchronised: a context in which gradients stay in their process; all pieces but the last use it.

    Returns:
        The losses; without a graph when there are several pieces.
    """
    if seed is None:
        drawn = torch.randint(1 << 62, (pieces,)).tolist()
        seed = lambda piece: torch.manual_seed(drawn[piece])  # noqa: E731
    if pieces == 1:
        seed(0)
        losses: SuperCLIPLosses = module("whole", images, texts)
        differentiate(losses.total)
        return SuperCLIPLosses(*(part.detach() for part in losses))
    rows = _rows(len(images), pieces)
    encoded = []
    with torch.no_grad():
        for number, piece in enumerate(rows):
            seed(number)
            encoded.append(module("encode", images[piece], texts[piece]))
        features = [None if side[0] is None else torch.cat(side) for side in zip(*encoded, strict=True)]
        losses, gradients = module("loss", features, texts)
    for number, piece in enumerate(rows):
        last = number == len(rows) - 1
        with nullcontext() if last else unsynchronised():
            seed(number)
            differentiate(module("replay", images[piece], texts[piece], gradients, piece, last))
    return losses


def _rows(n: int, pieces: int) -> list[slice]:
    """n rows in pieces whose sizes differ by one at most."""
    edges = [n * i // pieces for i in range(pieces + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]
