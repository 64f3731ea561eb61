"""The gradient of a large batch on a small memory: cached gradients (GradCache, Gao et al. 2021), exact.

A contrastive loss looks at all pairs of a batch, but needs the towers' outputs only, which are small. So:
(1) all pieces go through the towers without a graph; (2) the loss of all outputs gives its gradient for each
of them; (3) each piece goes through the towers again, with a graph, and the gradients of (2) are sent back
through it; those of parameters that the loss takes directly (logit scale, token head) in the last piece.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from headword.training.objective import Tensors, TrainingTask

Gradients = list["Tensor | None"]


def backward(
    task: TrainingTask,
    batch: Tensors,
    *,
    pieces: int = 1,
    module: Callable[..., Any] | None = None,
    seed: Callable[[int], object] | None = None,
    unsynchronised: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, Tensor]:
    """Leave the gradient of a batch's loss in the parameters; gives the losses by name, without a graph.

    `module` is the task as a strategy wraps it. `seed` is called with the piece's number before each forward
    pass, so that both draw the same dropout; all pieces but the last run in the context `unsynchronised`, in
    which gradients stay in their process. With one piece nothing is cached.
    """
    run = module or task
    if seed is None:
        drawn = torch.randint(1 << 62, (pieces,)).tolist()
        seed = lambda piece: torch.manual_seed(drawn[piece])  # noqa: E731
    if pieces == 1:
        seed(0)
        losses: dict[str, Tensor] = run(task.training_forward, batch)
        torch.autograd.backward(losses["loss"])
        return {name: value.detach() for name, value in losses.items()}
    size = len(batch["images"])
    edges = [size * i // pieces for i in range(pieces + 1)]  # sizes differ by one at most
    rows = [slice(start, end) for start, end in itertools.pairwise(edges) if end > start]
    parts = [{name: tensor[piece] for name, tensor in batch.items()} for piece in rows]
    encoded: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for number, part in enumerate(parts):
            seed(number)
            encoded.append(run(task.features, part))
        features = {name: torch.cat([piece[name] for piece in encoded]) for name in encoded[0]}
        losses, gradients, direct = run(_losses, task, features, batch["texts"])
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        with nullcontext() if last else unsynchronised():
            seed(number)
            own = [None if gradient is None else gradient[rows[number]] for gradient in gradients]
            torch.autograd.backward(run(_replay, task, part, own, direct if last else []))
    return losses


def _losses(
    task: TrainingTask, features: Tensors, texts: Tensor
) -> tuple[dict[str, Tensor], Gradients, Gradients]:
    """Pass 2: the losses of the whole batch, and their gradients for features and direct parameters."""
    with torch.enable_grad():
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in features.items()}
        losses = task.losses(leaves, texts)
        inputs = [*leaves.values(), *task.direct]
        raw: Any = torch.autograd.grad(losses["loss"], inputs, allow_unused=True)
    # Detached: FSDP2 takes inputs that require gradients for those to wait for in its backward pass.
    gradients: Gradients = [None if gradient is None else gradient.detach() for gradient in raw]
    detached = {name: value.detach() for name, value in losses.items()}
    return detached, gradients[: len(leaves)], gradients[len(leaves) :]


def _replay(task: TrainingTask, batch: Tensors, gradients: Gradients, direct: Gradients) -> Tensor:
    """Pass 3: a scalar whose gradient is the loss's, by way of these rows of the batch."""
    tensors = [*task.features(batch).values(), *task.direct[: len(direct)]]
    both = zip(tensors, [*gradients, *direct], strict=True)
    pairs = [(tensor, gradient) for tensor, gradient in both if gradient is not None]
    surrogate: Tensor = _Surrogate.apply(*(t for t, _ in pairs), *(g for _, g in pairs))
    return surrogate


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
