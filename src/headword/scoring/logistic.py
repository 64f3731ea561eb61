"""Logistic regression around given weights, to its optimum, several problems at once.

Of n examples' unit-norm embeddings x_i and prior weights W₀ `[L, D]`, the words',

    W = argmin Σ_i ℓ_i(W x_i) + λ/2 ‖W − W₀‖².

For one label of each example ℓ = logsumexp(z) − logsumexp(z over the labels it may have), which is the
cross-entropy where that is one label; for independent labels ℓ is the sum of the binary cross-entropies of
those that are judged. W − W₀ = B Mᵀ lies in the span of the examples X = Z Mᵀ, where MᵀM = I and ZᵀZ is
diagonal.

B is found by L-BFGS (Liu & Nocedal 1989), which begins with the inverse of each label's own block of the
Hessian, Zᵀ diag(w) Z + λ with w = p(1 − p). Few examples carry most of a label's w: those are kept one by
one, the others by their mean weight, with which their part is diagonal, and Woodbury's identity inverts the
sum. Where the examples span many directions, the widest quarter of them is solved first. Steps are judged by
slopes alone (Hager & Zhang 2005): float32 tells no better value near the optimum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = 1e-3
"""Of the gradient's norm: W is no further than `TOLERANCE`/λ from the optimum."""

_MOST_STEPS = 500
_MEMORY = 8  # steps that the Hessian is learnt from
_SHORTEST = 1e-3  # of a step, before the search gives up
_RISEN = 0.8  # of the slope at its start: how steeply a step may end upwards
_HEAVIEST = 16  # examples of a label that its block of the Hessian keeps one by one,
_ENTRIES = 5e7  # so long as they have no more numbers than these
_FEWEST = 64  # directions that are worth a start of their own
_NEGLIGIBLE = 1e-6  # of the largest eigenvalue: directions that examples do not span


def span(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Z `[n, r]` and M `[D, r]` of rows `[n, D]` = Z Mᵀ, with MᵀM = I and ZᵀZ diagonal, ascending."""
    wide = rows.double()
    values, vectors = torch.linalg.eigh(wide @ wide.T if len(rows) <= rows.shape[1] else wide.T @ wide)
    kept = values > _NEGLIGIBLE * values.max().clamp_min(1e-12)
    vectors, roots = vectors[:, kept], values[kept].sqrt()
    if len(rows) <= rows.shape[1]:
        return (vectors * roots).float(), (wide.T @ vectors / roots).float()
    return (wide @ vectors).float(), vectors.float()


def residuals(judged: Tensor, *, independent: bool) -> Callable[[Tensor], Tensor]:
    """∂ℓ/∂z of logits z `[…, n, L]`, by what is judged of n examples `[n, L]`; see `Examples.judged`."""
    has, known = (judged > 0).float(), (judged != 0).float()
    bars = barred(judged)

    def each_by_itself(logits: Tensor) -> Tensor:
        return logits.sigmoid().sub_(has).mul_(known)

    def one_of_all(logits: Tensor) -> Tensor:
        return logits.softmax(dim=-1).sub_(has)

    def one_of_some(logits: Tensor) -> Tensor:
        return logits.softmax(dim=-1).sub_((logits + bars).softmax(dim=-1))

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
        judged: `[n, L]`, as for `residuals`.
        penalty: λ.
        independent: whether an example may have several labels, or none.
        counted: `[G, n]` 1 for the examples that count, 0 for those held out; one problem of all when not
            given.
        start: `[L, r]` the optimum where all count, to begin from.
        tolerance: the largest norm of a problem's gradient.
    """
    residual_of = residuals(judged, independent=independent)
    counted = offsets.new_ones(1, len(offsets)) if counted is None else counted

    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        residual = residual_of(offsets + coordinates @ point.mT).mul_(counted[..., None])
        return residual, (residual.mT @ coordinates).add_(point, alpha=penalty)

    point = offsets.new_zeros(len(counted), offsets.shape[1], coordinates.shape[1])
    if start is None and (few := coordinates.shape[1] // 4) >= _FEWEST:
        widest = coordinates[:, -few:].contiguous()
        near = 100 * tolerance
        point[..., -few:] = regress(
            offsets, widest, judged, penalty, independent=independent, counted=counted, tolerance=near
        )
    elif start is not None:
        # At the optimum λ B = −Rᵀ Z, to which each example adds its own share: theirs go who do not count.
        residual = residual_of(offsets + coordinates @ start.T)
        point = start + torch.einsum("gn,nl,nr->glr", 1 - counted, residual, coordinates) / penalty
    residual, gradient = evaluate(point)
    memory: list[tuple[Tensor, Tensor]] = []
    inverse: Callable[[Tensor], Tensor] | None = None
    for step in range(_MOST_STEPS):
        if float(_dot(gradient, gradient).max()) <= tolerance**2:
            break
        if inverse is None or step & (step - 1) == 0:  # anew when there were twice as many steps
            inverse = _inverse(residual, coordinates, penalty)
        direction = _direction(gradient, inverse, memory)
        slope, length = _dot(direction, gradient), torch.ones(len(counted))
        while True:
            moved = length[:, None, None] * direction
            residual, reached = evaluate(point + moved)
            risen = _dot(direction, reached) > -_RISEN * slope
            if not bool(risen.any()) or float(length.min()) < _SHORTEST:
                break
            length = torch.where(risen, length / 2, length)
        memory = [*memory[1 - _MEMORY :], (moved, reached - gradient)]
        point, gradient = point + moved, reached
    return point


def _inverse(residual: Tensor, coordinates: Tensor, penalty: float) -> Callable[[Tensor], Tensor]:
    """g `[G, L, r]` → H⁻¹ g with the labels' own blocks of the Hessian, those of G problems as one."""
    certain = residual.abs()  # of |p − 1| and p alike |∂ℓ|(1 − |∂ℓ|) is p(1 − p)
    weight = (certain * (1 - certain)).mean(dim=0).T  # [L, n]
    labels, width = len(weight), coordinates.shape[1]
    few = min(_HEAVIEST, weight.shape[1], int(_ENTRIES / (labels * width)))
    heaviest, places = weight.topk(few, dim=1)
    rest = (weight.sum(dim=1) - heaviest.sum(dim=1)).clamp_min(0) / weight.shape[1]
    root = rest[:, None].mul(coordinates.square().sum(dim=0)).add_(penalty).sqrt_()  # [L, r]
    rows = coordinates.index_select(0, places.flatten()).view(labels, few, width)
    rows.mul_(heaviest.sqrt()[..., None]).div_(root[:, None])  # [L, few, r]
    factor = torch.linalg.cholesky(torch.eye(few) + rows @ rows.mT)

    def apply(gradient: Tensor) -> Tensor:
        scaled = (gradient / root).movedim(0, 1)  # [L, G, r]
        shares = torch.cholesky_solve(rows @ scaled.mT, factor)
        return (scaled - shares.mT @ rows).movedim(1, 0) / root

    return apply


def _direction(
    gradient: Tensor, inverse: Callable[[Tensor], Tensor], memory: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """−H g `[G, L, r]` of each problem, by the two loops of L-BFGS; steps that say nothing are left out."""
    left, shares = gradient.clone(), []
    for step, change in reversed(memory):
        curved = _dot(step, change)
        weight = torch.where(curved > 0, 1 / curved.clamp_min(1e-20), 0.0)
        share = weight * _dot(step, left)
        left -= share[:, None, None] * change
        shares.append((weight, share))
    right = inverse(left)
    if memory:
        step, change = memory[-1]
        scale = _dot(step, change) / _dot(change, inverse(change)).clamp_min(1e-20)
        right *= scale.clamp(1e-3, 1e6)[:, None, None]
    for (step, change), (weight, share) in zip(memory, reversed(shares), strict=True):
        right += (share - weight * _dot(change, right))[:, None, None] * step
    return -right


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2))
