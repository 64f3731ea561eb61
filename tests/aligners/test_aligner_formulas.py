"""Each closed form against the formula written out, and against answers planted in the pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headword.aligners import CCA, KernelRidge, Procrustes, PrototypeAttention, Ridge, linalg
from headword.aligners.kernel import farthest_texts, name_kernel
from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(
        torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1
    )


def weighted_pairs(n: int = 30, d: int = 9, k: int = 6) -> tuple[Pairs, Tensor, Tensor, Tensor]:
    """Pairs, and what a fit sees of them: X, T and ω of mean 1."""
    X, T = unit(n, d, seed=1), unit(n, k, seed=2)
    weight = torch.rand(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.1
    return Pairs(X * 3, T * 5, weight=weight * 7), X, T, weight / weight.mean()


def orthogonal(n: int, seed: int) -> Tensor:
    return torch.linalg.qr(unit(n, n, seed=seed))[0]


@pytest.mark.parametrize(("tau", "penalty"), [(0.15, 0.3), (1.0, 1e-3)])
def test_kernel_ridge_is_the_formula(tau: float, penalty: float) -> None:
    pairs, X, T, omega = weighted_pairs()
    aligner = KernelRidge(tau, penalty).fit(pairs)
    mu = (omega[:, None] * X).sum(0) / omega.sum()
    alpha = torch.linalg.inv(torch.exp((T @ T.T - 1) / tau) + penalty * torch.diag(1 / omega)) @ (X - mu)
    t = unit(11, 6, seed=4)
    expected = F.normalize(torch.exp((t @ T.T - 1) / tau) @ alpha, dim=1)
    torch.testing.assert_close(aligner.text(t * 2), expected)
    x = unit(11, 9, seed=5)
    torch.testing.assert_close(aligner.image(x * 2), x)
    torch.testing.assert_close(aligner.centre_on(pairs.image).image(x), F.normalize(x - X.mean(dim=0), dim=1))


def test_kernel_ridge_of_two_pairs_by_hand() -> None:
    """Orthogonal texts, τ → 0: K = I, α = ±(x₁ − x₂)/2 / (1 + λ), so each text maps to its own side of
    the mean.
    """
    pairs = Pairs(torch.eye(2), torch.eye(2))
    mapped = KernelRidge(tau=0.01).fit(pairs).text(torch.eye(2))
    half = 0.5**0.5
    torch.testing.assert_close(mapped, torch.tensor([[half, -half], [-half, half]]))


def test_all_landmarks_are_the_exact_solution() -> None:
    pairs, *_ = weighted_pairs()
    exact = KernelRidge().fit(pairs)
    for landmarks in ("sampled", "farthest"):
        close = KernelRidge(max_exact=29, n_landmarks=30, landmarks=landmarks).fit(pairs)
        torch.testing.assert_close(close.alpha_, exact.alpha_, atol=1e-5, rtol=0)
        assert not torch.equal(close.alpha_, exact.alpha_)
    at_the_limit = KernelRidge(max_exact=30, n_landmarks=1).fit(pairs)
    assert torch.equal(at_the_limit.alpha_, exact.alpha_)


def test_few_landmarks_are_the_low_rank_plus_diagonal_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, X, T, omega = weighted_pairs()
    picked = farthest_texts(T, 8)
    at = T[picked]
    across, between = name_kernel(T, at, 0.15), name_kernel(at, at, 0.15)
    Q = across @ torch.linalg.inv(between + 1e-6 * torch.eye(8)) @ across.T
    system = Q + torch.diag(1 - Q.diagonal()) + 0.3 * torch.diag(1 / omega)
    mu = (omega[:, None] * X).sum(0) / omega.sum()
    expected = torch.linalg.solve(system, X - mu)
    for elements in (2**23, 50):  # all rows at once, six at a time
        monkeypatch.setattr(linalg, "CHUNK_ELEMENTS", elements)
        close = KernelRidge(max_exact=0, n_landmarks=8, landmarks="farthest").fit(pairs)
        torch.testing.assert_close(close.alpha_, expected, atol=1e-8, rtol=0)


def test_sampled_landmarks_follow_the_seed() -> None:
    pairs, *_ = weighted_pairs()
    fits = [KernelRidge(max_exact=0, n_landmarks=8, seed=seed).fit(pairs).alpha_ for seed in (0, 0, 1)]
    assert torch.equal(fits[0], fits[1])
    assert not torch.allclose(fits[0], fits[2])


def test_farthest_texts_visit_every_cluster_and_no_text_twice() -> None:
    centres = torch.eye(5, dtype=torch.float64)
    texts = F.normalize(centres.repeat(6, 1) + 0.01 * unit(30, 5, seed=1), dim=1)
    assert sorted((farthest_texts(texts, 5) % 5).tolist()) == [0, 1, 2, 3, 4]
    assert len(farthest_texts(centres.repeat(3, 1), 10)) == 5
    assert len(set(farthest_texts(texts, 30).tolist())) == 30


def test_attention_is_the_formula() -> None:
    pairs, X, T, omega = weighted_pairs()
    aligner = PrototypeAttention(tau=0.2).fit(pairs)
    t = unit(11, 6, seed=4)
    scores = torch.exp(t @ T.T / 0.2) * omega
    mu = (omega[:, None] * X).sum(0) / omega.sum()
    expected = scores @ X / scores.sum(dim=1, keepdim=True) - mu
    torch.testing.assert_close(aligner.text(t), F.normalize(expected, dim=1))
    torch.testing.assert_close(aligner.attention(t), scores / scores.sum(dim=1, keepdim=True))


def test_attention_at_a_low_temperature_is_the_nearest_prototype() -> None:
    pairs, X, T, omega = weighted_pairs()
    t = unit(11, 6, seed=4)
    nearest = X[(t @ T.T).argmax(dim=1)] - (omega[:, None] * X).sum(0) / omega.sum()
    mapped = PrototypeAttention(tau=1e-5).fit(pairs).text(t)
    torch.testing.assert_close(mapped, F.normalize(nearest, dim=1))


def test_ridge_is_the_formula() -> None:
    pairs, X, T, omega = weighted_pairs()
    aligner = Ridge(penalty=0.7).fit(pairs)
    share = omega / omega.sum()
    Xc, Tc = X - share @ X, T - share @ T
    W = torch.linalg.inv(Tc.T @ torch.diag(omega) @ Tc + 0.7 * torch.eye(6)) @ Tc.T @ torch.diag(omega) @ Xc
    t = unit(11, 6, seed=4)
    torch.testing.assert_close(aligner.weight_, W)
    torch.testing.assert_close(aligner.text(t), F.normalize((t - share @ T) @ W, dim=1))


@pytest.mark.parametrize(("k", "d"), [(5, 5), (5, 8)])
def test_ridge_and_procrustes_recover_a_planted_rotation(k: int, d: int) -> None:
    rotation = orthogonal(max(k, d), seed=1)[:k, :d]  # k orthonormal rows
    T = unit(40, k, seed=2)
    pairs = Pairs(T @ rotation, T)
    found = Procrustes().fit(pairs)
    torch.testing.assert_close(found.rotation_, rotation)
    torch.testing.assert_close(Ridge(penalty=1e-9).fit(pairs).weight_, rotation, atol=1e-8, rtol=0)
    t = unit(6, k, seed=3)
    torch.testing.assert_close(found.text(t), F.normalize((t - T.mean(dim=0)) @ rotation, dim=1))


def test_ridge_recovers_a_planted_linear_map() -> None:
    """Images on the unit sphere that are still linear in the texts: the texts move in a plane, the
    images too.
    """
    angle = torch.linspace(0, 2, 30, dtype=torch.float64)
    T = torch.stack([angle.cos(), angle.sin()], dim=1)
    stretched = torch.stack([angle.cos() * 0.6, angle.sin() * 0.6, torch.full_like(angle, 0.8)], dim=1)
    weight = Ridge(penalty=1e-10).fit(Pairs(stretched, T)).weight_
    planted = torch.tensor([[0.6, 0, 0], [0, 0.6, 0]], dtype=torch.float64)
    torch.testing.assert_close(weight, planted, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("k", "d"), [(6, 6), (4, 9), (9, 4)])
def test_procrustes_is_orthogonal_and_the_best_such(k: int, d: int) -> None:
    pairs, X, T, omega = weighted_pairs(60, d, k)
    R = Procrustes().fit(pairs).rotation_
    small = R @ R.T if k <= d else R.T @ R
    torch.testing.assert_close(small, torch.eye(min(k, d), dtype=torch.float64))
    share = omega / omega.sum()
    cross = (omega[:, None] * (T - share @ T)).T @ (X - share @ X)
    best = (cross * R).sum()
    torch.testing.assert_close(best, torch.tensor(np.linalg.norm(cross.numpy(), ord="nuc")))
    others = [orthogonal(max(k, d), seed=seed)[:k, :d] for seed in range(20)]
    assert all((cross * other).sum() < best for other in others)


def test_procrustes_maps_unseen_directions_to_zero() -> None:
    """Four pairs span three directions after centring; the other two of the texts' five are not guessed."""
    R = Procrustes().fit(Pairs(unit(4, 7, seed=1), unit(4, 5, seed=2))).rotation_
    values = torch.linalg.svdvals(R)
    torch.testing.assert_close(values, torch.tensor([1, 1, 1, 0, 0], dtype=torch.float64))


def inverse_root(C: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(C)
    return vectors @ np.diag(values**-0.5) @ vectors.T


def numpy_cca(
    X: Tensor, T: Tensor, omega: Tensor, penalty: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both centred sides' canonical coordinates and the correlations, by whitening and an SVD."""
    p = (omega / omega.sum()).numpy()
    x, t = X.numpy() - p @ X.numpy(), T.numpy() - p @ T.numpy()
    Cx, Ct, Cxt = (a.T @ np.diag(p) @ b for a, b in ((x, x), (t, t), (x, t)))
    Cx += penalty * np.trace(Cx) / len(Cx) * np.eye(len(Cx))
    Ct += penalty * np.trace(Ct) / len(Ct) * np.eye(len(Ct))
    Wx, Wt = inverse_root(Cx), inverse_root(Ct)
    U, S, Vh = np.linalg.svd(Wx @ Cxt @ Wt, full_matrices=False)
    return x @ Wx @ U, t @ Wt @ Vh.T, S


@pytest.mark.parametrize("penalty", [0.0, 0.5])
@pytest.mark.parametrize("weighted", [True, False])
def test_cca_is_whitening_and_svd(penalty: float, weighted: bool) -> None:
    pairs, X, T, omega = weighted_pairs()
    aligner = CCA(dim=4, penalty=penalty, weighted=weighted).fit(pairs)
    x, t, S = (torch.as_tensor(side) for side in numpy_cca(X, T, omega, penalty))
    scale = S[:4].sqrt() if weighted else torch.ones(4)
    x, t = F.normalize(x[:, :4] * scale, dim=1), F.normalize(t[:, :4] * scale, dim=1)
    torch.testing.assert_close(aligner.correlation_, S[:4])
    torch.testing.assert_close(aligner.image(X) @ aligner.text(T).T, x @ t.T)
    torch.testing.assert_close(aligner.image(X).abs(), x.abs())
    assert aligner.shared_dim == 4


def test_cca_unregularised_coordinates_are_canonical() -> None:
    """Unit variance, uncorrelated within a side, correlated across in pairs: the definition."""
    pairs, X, T, omega = weighted_pairs()
    aligner = CCA(penalty=0, weighted=False).fit(pairs)
    share = (omega / omega.sum())[:, None]
    x, t = (X - aligner.centre_) @ aligner.image_map_, (T - aligner.text_mean_) @ aligner.text_map_
    torch.testing.assert_close(x.T @ (share * x), torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(t.T @ (share * t), torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(x.T @ (share * t), torch.diag(aligner.correlation_))


def test_cca_finds_the_planted_shared_directions() -> None:
    """Two directions in common among noise: two correlations near one, the others far below.

    The third is that of the rows' lengths, of which bringing them to unit norm leaves a trace on both sides.
    """
    shared = torch.randn(3000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sides = []
    for seed, width in ((2, 8), (3, 6)):
        noise = torch.randn(
            3000, width - 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        # A large constant direction keeps the unit norm from mixing the others.
        constant = torch.full((3000, 1), 100, dtype=torch.float64)
        sides.append(torch.cat([shared, noise, constant], dim=1) @ orthogonal(width + 1, seed=seed))
    found = CCA(penalty=0).fit(Pairs(sides[0], sides[1])).correlation_
    assert found[:2].min() > 0.98
    assert found[2] < 0.4
    assert found[3:].max() < 0.1


def test_cca_signs_are_fixed() -> None:
    pairs, *_ = weighted_pairs()
    image_map = CCA().fit(pairs).image_map_
    largest = image_map.gather(0, image_map.abs().argmax(dim=0, keepdim=True))
    assert (largest > 0).all()


def test_cca_keeps_no_more_directions_than_the_pairs_have() -> None:
    for n, expected in ((1, 1), (2, 1), (4, 3), (30, 6)):
        pairs, *_ = weighted_pairs(n)
        assert CCA().fit(pairs).shared_dim == expected


@pytest.mark.parametrize("width", [5, 40])
def test_cholesky_of_a_singular_matrix_is_close_and_of_an_indefinite_one_refused(width: int) -> None:
    rows = unit(width, 3, seed=1)
    factor = linalg.cholesky(rows @ rows.T)
    torch.testing.assert_close(factor @ factor.T, rows @ rows.T, atol=1e-10, rtol=0)
    with pytest.raises(HeadwordError, match="the penalty is too small"):
        linalg.cholesky(-torch.eye(width, dtype=torch.float64))
