"""How alike two spaces are, and whether two clouds of points lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from headword.errors import HeadwordError
from headword.metrics._checks import check_k, check_matrix, chunk_rows


@torch.inference_mode()
def shared_neighbours(X: Tensor, Y: Tensor, k: int = 10) -> float:
    """m_NN of representations `[N, d]` and `[N, e]`: the mean over items of |kNN_X(i) ∩ kNN_Y(i)| / k.

    Neighbours are by cosine, an item itself excluded (Huh et al., The Platonic Representation Hypothesis,
    2024, as in Méndez et al. 2026). Among neighbours at one and the same cosine, `torch.topk` chooses.

    Raises:
        HeadwordError: if the numbers of items differ, k is not from 1 to N − 1, or a value is not finite.
    """
    X, Y = _two_views(X, Y)
    check_k([k], len(X) - 1, "other items")
    X, Y = F.normalize(X, dim=1), F.normalize(Y, dim=1)
    shared = 0
    step = chunk_rows(len(X))
    for start in range(0, len(X), step):
        near_x, near_y = (_neighbours(side, start, step, k) for side in (X, Y))
        shared += int((near_x[:, :, None] == near_y[:, None, :]).sum())
    return shared / (len(X) * k)


@torch.inference_mode()
def linear_cka(X: Tensor, Y: Tensor) -> float:
    """Linear centred kernel alignment, from 0 to 1 (Kornblith et al. 2019, eq. for the linear kernel):
    ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of representations `[N, d]`, `[N, e]`, Frobenius norms, columns centred.

    Raises:
        HeadwordError: if the numbers of items differ, a value is not finite, or a side has no variance.
    """
    X, Y = (side.double() - side.double().mean(dim=0) for side in _two_views(X, Y))
    own = [_gram_norm(side) for side in (X, Y)]
    if min(own) == 0:
        raise HeadwordError("CKA needs items that differ; all rows of one side are the same")
    return float((Y.T @ X).square().sum()) / (own[0] * own[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class CentroidTest:
    """The outcome of `centroid_test`."""

    distance: float  # euclidean distance of the two means
    p: float  # one-sided: (permutations at least as far apart + 1) / (permutations + 1)
    permutations: int
    shuffled_mean: float  # mean distance over the permutations
    shuffled_max: float  # the largest of them


@torch.inference_mode()
def centroid_test(A: Tensor, B: Tensor, *, permutations: int = 10_000, seed: int = 0) -> CentroidTest:
    """Permutation test of the Euclidean distance between the centroids of points `[n_A, d]` and `[n_B, d]`.

    The labels are shuffled, not the points: each shuffle is a row with 1/n_A where a point is called A and
    -1/n_B elsewhere, so all differences of means are one matrix product.

    Raises:
        HeadwordError: if the widths differ, a value is not finite, or there is no permutation.
    """
    A, B = check_matrix(A, "the first points"), check_matrix(B, "the second points")
    if A.shape[1] != B.shape[1]:
        raise HeadwordError(f"the two sets of points have {A.shape[1]} and {B.shape[1]} dimensions")
    if permutations < 1:
        raise HeadwordError(f"the test needs at least one permutation, got {permutations}")
    points = torch.cat([A, B])
    points = points - points.mean(dim=0)  # changes no difference, and keeps the products' digits
    observed = float((points[: len(A)].mean(dim=0) - points[len(A) :].mean(dim=0)).norm())
    rng = np.random.default_rng(seed)
    step = chunk_rows(len(points))
    portions = [min(step, permutations - done) for done in range(0, permutations, step)]
    shuffles = (_shuffled(rng, rows, len(A), len(B)).to(points) for rows in portions)
    distances = torch.cat([(signs @ points).norm(dim=1) for signs in shuffles])
    # The labels as they are come up among the shuffles of few points, equal but for rounding.
    as_far = int((distances >= observed * (1 - 1e-5)).sum())
    p, mean, largest = (as_far + 1) / (permutations + 1), float(distances.mean()), float(distances.max())
    return CentroidTest(
        distance=observed, p=p, permutations=permutations, shuffled_mean=mean, shuffled_max=largest
    )


def _shuffled(rng: np.random.Generator, rows: int, n_a: int, n_b: int) -> Tensor:
    """Rows `[rows, n_a + n_b]` that take the mean of n_a random points and subtract that of the others."""
    # The n_a least of random numbers are a random subset; a partition finds them without sorting.
    chosen = rng.random((rows, n_a + n_b), dtype=np.float32).argpartition(n_a - 1, axis=1)[:, :n_a]
    signs = np.full((rows, n_a + n_b), -1 / n_b, dtype=np.float32)
    np.put_along_axis(signs, chosen, np.float32(1 / n_a), axis=1)
    return torch.from_numpy(signs)


def _neighbours(unit: Tensor, start: int, step: int, k: int) -> Tensor:
    """The k nearest others of the items from `start` on: `[step, k]`."""
    cosines = unit[start : start + step] @ unit.T
    cosines.diagonal(start).fill_(-torch.inf)
    return cosines.topk(k, dim=1, sorted=False).indices


def _gram_norm(side: Tensor) -> float:
    """‖XᵀX‖ = ‖XXᵀ‖, by the smaller of the two."""
    return float((side.T @ side if side.shape[0] >= side.shape[1] else side @ side.T).norm())


def _two_views(X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    if len(X) != len(Y):
        raise HeadwordError(f"both sides must be of the same items, got {len(X)} and {len(Y)}")
    return check_matrix(X, "the first side's rows"), check_matrix(Y, "the second side's rows")
