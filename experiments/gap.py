"""The gap between a head's rows and averages of images: how well they are told apart, their picture, and the
corrections that were tried.

The permutation test of their centroids is `headword.metrics.centroid_test`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headword.errors import HeadwordError, MissingExtraError
from headword.metrics import check_k


@dataclass(frozen=True, slots=True, kw_only=True)
class Separability:
    """The outcome of `linear_separability`; shares in percent."""

    train: float
    test: float
    """Of held-out points on their right side; 50 is chance for two clouds of one size."""
    tested: int


def linear_separability(
    A: Tensor,
    B: Tensor,
    *,
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-3,
    held_out: float = 0.2,
    seed: int = 0,
) -> Separability:
    """How well one linear layer with two outputs tells two clouds of points apart, on points it has not seen.

    The settings are those of "Weight recycling" (ICML 2026): a stratified 80/20 split, Adam at 1e-3, 100
    epochs, batches of 64.

    Args:
        A: `[n, d]` points.
        B: `[m, d]` other points.
        epochs: passes over the training points.
        batch_size: points a step.
        lr: Adam's learning rate.
        held_out: share of each cloud that is tested on.
        seed: of split, start and shuffling.

    Raises:
        HeadwordError: if the widths differ, or a cloud is too small to hold a point out.
    """
    if A.shape[1] != B.shape[1]:
        raise HeadwordError(f"the two sets of points have {A.shape[1]} and {B.shape[1]} dimensions")
    generator = torch.Generator().manual_seed(seed)
    points, sides = _two_clouds(A, B)
    train, test = _stratified(sides, held_out, generator)
    with torch.inference_mode(False), torch.enable_grad():
        points = points.float().clone()
        layer = _layer(points.shape[1], 2, generator)
        optimiser = torch.optim.Adam(layer.parameters(), lr=lr)
        for _ in range(epochs):
            shuffled = train[torch.randperm(len(train), generator=generator)]
            for rows in torch.split(shuffled, batch_size):
                _step(optimiser, F.cross_entropy(layer(points[rows]), sides[rows]))
        right = layer(points).argmax(dim=1) == sides
    return Separability(
        train=100 * float(right[train].double().mean()),
        test=100 * float(right[test].double().mean()),
        tested=len(test),
    )


def own_kind(A: Tensor, B: Tensor, k: int = 10) -> float:
    """The share in percent of each point's k nearest others, by Euclidean distance, that is of its own cloud:
    100 where the clouds lie apart, about the clouds' shares of all points where they are mixed.

    Args:
        A: `[n, d]` points.
        B: `[m, d]` other points.
        k: neighbours of each point.

    Raises:
        HeadwordError: if there are not more than k points.
    """
    points, sides = _two_clouds(A, B)
    check_k([k], len(points) - 1, "other points")
    distances = torch.cdist(points, points)
    distances.fill_diagonal_(torch.inf)
    near = distances.topk(k, dim=1, largest=False).indices
    return 100 * float((sides[near] == sides[:, None]).double().mean())


def mean_corrected(rows: Tensor, images: Tensor) -> Tensor:
    """Rows moved onto the images' centroid: normalise(w − mean(w) + mean of unit-norm images).

    Args:
        rows: `[C, d]`, brought to unit norm first.
        images: `[N, d]` features, likewise.
    """
    rows, images = F.normalize(rows, dim=1), F.normalize(images, dim=1)
    return F.normalize(rows - rows.mean(dim=0) + images.mean(dim=0), dim=1)


def attention_corrected(rows: Tensor, means: Tensor) -> Tensor:
    """Rows as mixtures of class-mean images: normalise(softmax(w Rᵀ) R), without a temperature.

    Args:
        rows: `[C, d]`, brought to unit norm first.
        means: `[M, d]` class means R, likewise.
    """
    rows, means = F.normalize(rows, dim=1), F.normalize(means, dim=1)
    return F.normalize(torch.softmax(rows @ means.T, dim=1) @ means, dim=1)


def linear_corrected(
    rows: Tensor,
    source: Tensor,
    target: Tensor,
    *,
    steps: int = 500,
    lr: float = 0.01,
    dropout: float = 0.6,
    seed: int = 0,
) -> Tensor:
    """Rows through a learnt projection of rows onto class-mean images.

    One linear layer with bias, dropout on its input, mean squared error, Adam; every step sees all pairs.

    Args:
        rows: `[C, d]` what is projected.
        source: `[M, d]` the rows that have a class mean; they are what is learnt from.
        target: `[M, d]` their class means.
        steps: full batches.
        lr: Adam's learning rate.
        dropout: on the input.
        seed: of start and dropout.

    Raises:
        HeadwordError: if there are not as many class means as rows to learn from.
    """
    if source.shape != target.shape:
        raise HeadwordError(f"{list(source.shape)} rows need as many class means, got {list(target.shape)}")
    source, target = F.normalize(source, dim=1), F.normalize(target, dim=1)
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False), torch.enable_grad():
        layer = _layer(source.shape[1], source.shape[1], generator)
        source, target = source.clone(), target.clone()
        optimiser = torch.optim.Adam(layer.parameters(), lr=lr)
        for _ in range(steps):
            keep = torch.rand(source.shape, generator=generator) >= dropout
            _step(optimiser, F.mse_loss(layer(source * keep / (1 - dropout)), target))
        with torch.no_grad():
            return F.normalize(layer(F.normalize(rows, dim=1).clone()), dim=1)


def planar(points: Tensor, *, seed: int = 0) -> Tensor:
    """Points `[N, d]` in two dimensions `[N, 2]` for looking at: UMAP (McInnes et al. 2018) by cosine.

    Raises:
        MissingExtraError: without umap-learn.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts of umap nobody asks for, and that a seed costs threads
        try:
            from umap import UMAP
        except ModuleNotFoundError:
            raise MissingExtraError("the picture of rows and images (umap-learn)", "eval") from None
        found = UMAP(metric="cosine", random_state=seed).fit_transform(points.numpy())
    return torch.from_numpy(found)


def _two_clouds(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """All points `[n + m, d]`, and which cloud each is of: 0 or 1."""
    return torch.cat([A, B]), torch.arange(2).repeat_interleave(torch.tensor([len(A), len(B)]))


def _layer(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """As `nn.Linear` starts, from a generator of its own."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    bound = inputs**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _stratified(sides: Tensor, held_out: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    train, test = [], []
    for side in (0, 1):
        places = (sides == side).nonzero().flatten()
        places = places[torch.randperm(len(places), generator=generator)]
        n = round(held_out * len(places))
        if not 0 < n < len(places):
            raise HeadwordError(f"{len(places)} points are too few to hold {held_out:.0%} of them out")
        test.append(places[:n])
        train.append(places[n:])
    return torch.cat(train), torch.cat(test)
