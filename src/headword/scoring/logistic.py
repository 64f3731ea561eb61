"""Logistic regression around given weights, to its optimum, several problems at once.

Of n examples' unit-norm embeddings x_i and prior weights W₀ `[L, D]`, the words',

    W = argmin Σ_i ℓ_i(W x_i) + λ/2 ‖W − W₀‖².

For one label of each example ℓ = logsumexp(z) − logsumexp(z over the labels it may have), which is the
cross-entropy where that is one label; for independent labels ℓ is the sum of the binary cross-entropies of
those that are judged. W − W₀ = B Mᵀ lies in the span of the examples X = Z Mᵀ, where MᵀM = I and ZᵀZ is
diagonal, so that the Hessian is at most ½ ZᵀZ + λ (Böhning 1992; ¼ for independent labels), which is diagonal
too: its inverse is where L-BFGS (Liu & Nocedal 1989) begins to learn the true one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 1e-3
"""Of the gradient's norm: W is no further than `TOLERANCE`/λ from the optimum."""

_MOST_STEPS = 500
_MEMORY = 8  # steps that the Hessian is learnt from
_SHORTEST = 1e-3  # of a step, before the search gives up: float32 tells no better point
_NEGLIGIBLE = 1e-6  # of the largest eigenvalue: directions that examples do not span


def span(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Z `[n, r]` and M `[D, r]` of rows `[n, D]` = Z Mᵀ, with MᵀM = I and ZᵀZ diagonal."""
    wide = rows.double()
    values, vectors = torch.linalg.eigh(wide @ wide.T if len(rows) <= rows.shape[1] else wide.T @ wide)
    kept = values > _NEGLIGIBLE * values.max().clamp_min(1e-12)
    vectors, roots = vectors[:, kept], values[kept].sqrt()
    if len(rows) <= rows.shape[1]:
        return (vectors * roots).float(), (wide.T @ vectors / roots).float()
    return (wide @ vectors).float(), vectors.float()


Losses = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Logits `[…, n, L]` → ℓ `[…, n]` and ∂ℓ/∂z `[…, n, L]`."""


def losses(judged: Tensor, *, independent: bool) -> Losses:
    """ℓ of n examples by what is judged of them `[n, L]`; see `Examples.judged`."""
    has, known = (judged > 0).float(), (judged != 0).float()
    bars = barred(judged)

    def each_by_itself(logits: Tensor) -> tuple[Tensor, Tensor]:
        loss = known * (F.softplus(logits) - has * logits)
        return loss.sum(dim=-1), logits.sigmoid().sub_(has).mul_(known)

    def one_of_all(logits: Tensor) -> tuple[Tensor, Tensor]:
        total = logits.logsumexp(dim=-1)
        return total - (has * logits).sum(dim=-1), (logits - total[..., None]).exp_().sub_(has)

    def one_of_some(logits: Tensor) -> tuple[Tensor, Tensor]:
        possible = logits + bars
        total, those = logits.logsumexp(dim=-1), possible.logsumexp(dim=-1)
        residual = (logits - total[..., None]).exp_().sub_((possible - those[..., None]).exp_())
        return total - those, residual

    if independent:
        return each_by_itself
    return one_of_all if bool((has.sum(dim=1) == 1).all()) else one_of_some


def barred(judged: Tensor) -> Tensor:
    """0 for labels `[n, L]` that an example may have, −∞ for the others: one that it has bars the rest."""
    has = judged > 0
    possible = torch.where(has.any(dim=1, keepdim=True), has, judged == 0)
    possible |= ~possible.any(dim=1, keepdim=True)  # it has none of them: that says nothing
    return torch.zeros(judged.shape).masked_fill_(~possible, -torch.inf)


def regress(
    offsets: Tensor,
    coordinates: Tensor,
    judged: Tensor,
    penalty: float,
    *,
    independent: bool = False,
    counted: Tensor | None = None,
    start: Tensor | None = None,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """B `[G, L, r]` of G problems, which differ in the examples that count.

    Args:
        offsets: `[n, L]` X W₀ᵀ.
        coordinates: `[n, r]` Z, by `span`.
        judged: `[n, L]`, as for `losses`.
        penalty: λ.
        independent: whether an example may have several labels, or none.
        counted: `[G, n]` 1 for the examples that count, 0 for those held out; one problem of all when not
            given.
        start: `[L, r]` the optimum where all count, to begin from.
        tolerance: the largest norm of a problem's gradient.
    """
    loss_of = losses(judged, independent=independent)
    counted = offsets.new_ones(1, len(offsets)) if counted is None else counted
    curvature = (0.25 if independent else 0.5) * coordinates.square().sum(dim=0)
    inverse = 1 / (curvature + penalty)  # [r]

    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        logits = offsets + coordinates @ point.mT
        loss, residual = loss_of(logits)
        gradient = residual.mul_(counted[..., None]).mT @ coordinates
        value = (loss * counted).sum(dim=1) + penalty / 2 * _dot(point, point)
        return value, gradient.add_(point, alpha=penalty)

    point = offsets.new_zeros(len(counted), offsets.shape[1], coordinates.shape[1])
    if start is not None:
        # At the optimum λ B = −Rᵀ Z, to which each example adds its own share: theirs go who do not count.
        _, residual = loss_of(offsets + coordinates @ start.T)
        point = start + torch.einsum("gn,nl,nr->glr", 1 - counted, residual, coordinates) / penalty
    value, gradient = evaluate(point)
    memory: list[tuple[Tensor, Tensor]] = []
    for _ in range(_MOST_STEPS):
        if float(_dot(gradient, gradient).max()) <= tolerance**2:
            break
        direction = _direction(gradient, inverse, memory)
        slope, length = _dot(direction, gradient), torch.ones(len(counted))
        while True:
            moved = point + length[:, None, None] * direction
            reached, steepness = evaluate(moved)
            high = reached > value + 1e-4 * length * slope
            if not bool(high.any()) or float(length.min()) < _SHORTEST:
                break
            length = torch.where(high, length / 2, length)
        if bool(high.all()):
            break
        memory = [*memory[1 - _MEMORY :], (moved - point, steepness - gradient)]
        point, value, gradient = moved, reached, steepness
    return point


def _direction(gradient: Tensor, inverse: Tensor, memory: list[tuple[Tensor, Tensor]]) -> Tensor:
    """−H g `[G, L, r]` of each problem, by the two loops of L-BFGS; steps that say nothing are left out."""
    left, shares = gradient.clone(), []
    for step, change in reversed(memory):
        curved = _dot(step, change)
        weight = torch.where(curved > 0, 1 / curved.clamp_min(1e-20), 0.0)
        share = weight * _dot(step, left)
        left -= share[:, None, None] * change
        shares.append((weight, share))
    scale = gradient.new_ones(len(gradient))
    if memory:
        step, change = memory[-1]
        scale = (_dot(step, change) / _dot(change * inverse, change).clamp_min(1e-20)).clamp(1e-3, 1e6)
    right = left * inverse * scale[:, None, None]
    for (step, change), (weight, share) in zip(memory, reversed(shares), strict=True):
        right += (share - weight * _dot(change, right))[:, None, None] * step
    return -right


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2))
