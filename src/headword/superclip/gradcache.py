"""The gradient of a large batch on a small memory: cached gradients (GradCache, Gao et al. 2021), exact.

Contrastive losses look at all pairs of a batch at once, so adding up the gradients of small batches is another
loss. But the loss needs the towers' outputs only, which are small. So: (1) all pieces of the batch go through
the towers without a graph; (2) the loss of all outputs gives its gradient for each of them; (3) each piece
goes through the towers again, with a graph, and the gradients of (2) are sent back through it. What the loss
takes directly from parameters (logit scale and bias, the token head's linear layer) gets its gradient of (2)
in the last piece.

Model and loss are one module, and all three passes are its `forward`, so that DistributedDataParallel and
fully sharded training see every use of a parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headword.superclip.model import SuperCLIP, SuperCLIPOutput
from headword.superclip.objective import SuperCLIPLoss, SuperCLIPLosses


class Features(NamedTuple):
    """What the towers say of a batch, and the loss wants to know."""

    image: Tensor
    """`[B, D]`, unit norm."""
    text: Tensor | None
    """`[B, D]`, unit norm; None for SuperClass."""
    token: Tensor
    """`[B, width]`, the token head's input."""


class Gradients(NamedTuple):
    """Of a loss, for all that it depends on."""

    features: tuple[Tensor | None, ...]
    """For each of `Features`."""
    parameters: tuple[Tensor | None, ...]
    """For logit scale, logit bias, and the token head's weight and bias, as `SuperCLIPOutput` has them."""


class TrainingModule(nn.Module):
    """A model and its loss, called in one of four ways; see the module's own text.

    Args:
        model: trained.
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

    def _encode(self, images: Tensor, texts: Tensor) -> Features:
        """Pass 1: a piece's features, without a graph."""
        with torch.no_grad():
            return _features(self._towers(images, texts))

    def _loss(self, features: Features, texts: Tensor) -> tuple[SuperCLIPLosses, Gradients]:
        """Pass 2: losses of the whole batch, which is counted, and their gradients."""
        with torch.enable_grad():
            leaves = Features(*(_leaf(f) for f in features))
            parameters = tuple(_leaf(p) for p in self._used_directly())
            scale, bias, weight, token_bias = parameters
            assert scale is not None
            assert weight is not None
            assert token_bias is not None
            losses: SuperCLIPLosses = self.loss(
                SuperCLIPOutput(leaves.image, leaves.text, scale, bias, leaves.token, weight, token_bias),
                texts,
            )
            inputs = [leaf for leaf in (*leaves, *parameters) if leaf is not None]
            found = iter(torch.autograd.grad(losses.total, inputs, allow_unused=True))
        gradients = [None if leaf is None else next(found) for leaf in (*leaves, *parameters)]
        detached = SuperCLIPLosses(*(part.detach() for part in losses))
        return detached, Gradients(tuple(gradients[: len(leaves)]), tuple(gradients[len(leaves) :]))

    def _replay(self, images: Tensor, texts: Tensor, gradients: Gradients, rows: slice, last: bool) -> Tensor:
        """Pass 3: a scalar whose gradient is the loss's, for rows `rows` of the batch."""
        output = self._towers(images, texts)
        pieces = [g if g is None else g[rows] for g in gradients.features]
        outputs: list[Tensor | None] = list(_features(output))
        if last:
            pieces += gradients.parameters
            outputs += [output.logit_scale, output.logit_bias, output.token_weight, output.token_bias]
        pairs = [(o, g) for o, g in zip(outputs, pieces, strict=True) if o is not None and g is not None]
        surrogate: Tensor = _Surrogate.apply(*(o for o, _ in pairs), *(g for _, g in pairs))
        return surrogate

    def _towers(self, images: Tensor, texts: Tensor) -> SuperCLIPOutput:
        output: SuperCLIPOutput = self.model(images, texts if self.contrastive else None)
        return output

    def _used_directly(self) -> tuple[Tensor | None, ...]:
        clip, head = self.model.clip, self.model.token_head.linear
        return clip.logit_scale.exp(), clip.logit_bias, head.weight, head.bias


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
    seed: Callable[[int], None] = lambda piece: None,
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
            draws: equal in both passes of a piece.
        differentiate: what calls `backward` on a scalar.
        unsynchronised: a context in which gradients stay in their process; all pieces but the last use it.

    Returns:
        The losses; without a graph when there are several pieces.
    """
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
        losses, gradients = module("loss", _joined(encoded), texts)
    for number, piece in enumerate(rows):
        last = number == len(rows) - 1
        with nullcontext() if last else unsynchronised():
            seed(number)
            differentiate(module("replay", images[piece], texts[piece], gradients, piece, last))
    return losses


def _rows(n: int, pieces: int) -> list[slice]:
    """n rows in pieces whose sizes differ by one at most."""
    edges = [n * i // pieces for i in range(pieces + 1)]
    return [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a]


def _features(output: SuperCLIPOutput) -> Features:
    return Features(output.image_features, output.text_features, output.token_features)


def _joined(parts: list[Features]) -> Features:
    return Features(*(None if side[0] is None else torch.cat(side) for side in zip(*parts, strict=True)))  # type: ignore[arg-type]


def _leaf(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().requires_grad_()
