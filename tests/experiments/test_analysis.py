"""Rows, images and words: each measure against a naive version or a planted answer."""

from __future__ import annotations

import statistics
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from experiments.gap import (
    attention_corrected,
    linear_corrected,
    linear_separability,
    mean_corrected,
    own_kind,
    planar,
)
from experiments.likeness import chance_neighbours, drawn_means, drawn_places, likeness
from experiments.recipes.cosine_classifier import cosine_against_linear
from headword.errors import HeadwordError, MissingExtraError


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the cosine classifier


def test_cosine_classifier_against_loops():
    features, rows, bias = random(60, 8), random(7, 8, seed=1), random(7, seed=2)
    labels = torch.arange(60) % 7
    found = cosine_against_linear(features, labels, rows, bias)
    linear, cosine = [], []
    for feature in features:
        linear.append(max(range(7), key=lambda c: float(rows[c] @ feature + bias[c])))
        cosine.append(max(range(7), key=lambda c: float(rows[c] @ feature / rows[c].norm())))
    right = [[a == int(y) for a, y in zip(side, labels, strict=True)] for side in (linear, cosine)]
    assert found.linear == pytest.approx(100 * sum(right[0]) / 60)
    assert found.cosine == pytest.approx(100 * sum(right[1]) / 60)
    assert found.agreement == pytest.approx(100 * sum(map(int.__eq__, linear, cosine)) / 60)
    differences = [a - b for a, b in zip(*right, strict=True)]
    assert found.loss == pytest.approx(100 * statistics.fmean(differences))
    assert found.error == pytest.approx(100 * statistics.pstdev(differences) / 60**0.5)
    assert 0 < found.error < 10


def test_cosine_classifier_ignores_norms_and_bias():
    rows = F.normalize(random(5, 8), dim=1)
    features, labels = rows * 3, torch.arange(5)
    long = rows * torch.tensor([1.0, 1, 1, 1, 100])[:, None]
    found = cosine_against_linear(features, labels, long, torch.tensor([0.0, 0, 0, 500, 0]))
    assert found.cosine == 100
    assert found.linear < 100
    assert found.won == round((found.cosine - found.linear) / 20)
    with pytest.raises(HeadwordError, match=r"\[5, 8\] do not fit a head of \[5, 7\]"):
        cosine_against_linear(features, labels, rows[:, :7], torch.zeros(5))


# ---- neighbours


def test_likeness_of_a_rotated_space_is_one():
    X = random(30, 6)
    rotation = torch.linalg.qr(random(6, 6, seed=1)).Q
    found = likeness(X, X @ rotation * 3)
    assert found.neighbours == {3: 1.0, 5: 1.0, 10: 1.0}
    assert found.cka == pytest.approx(1, abs=1e-6)


def test_likeness_of_unrelated_spaces_is_chance():
    found = [likeness(random(200, 16, seed=n), random(200, 16, seed=100 + n), (10,)) for n in range(10)]
    mean = statistics.fmean(one.neighbours[10] for one in found)
    assert mean == pytest.approx(chance_neighbours(200, 10), abs=0.01)


def test_drawn_means():
    labels = torch.tensor([0, 1, 0, 1, 2, 2, 0])
    features = random(7, 4)
    places = drawn_places(labels, 2, torch.Generator().manual_seed(3))
    assert labels[places].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert all(len(set(row)) == 2 for row in places.tolist())
    means = drawn_means(features, labels, 2, torch.Generator().manual_seed(3))
    for row, chosen in zip(means, places, strict=True):
        naive = sum(features[i] / features[i].norm() for i in chosen) / 2
        torch.testing.assert_close(row, naive)
    with pytest.raises(HeadwordError, match="class 1 has 2 images, fewer than the 3 to draw"):
        drawn_means(features, labels, 3, torch.Generator())


# ---- the gap


def test_separability_of_clouds_apart_and_of_one_cloud():
    A, B = random(100, 8), random(100, 8, seed=1)
    apart = linear_separability(A + 4, B - 4)
    assert apart.test == apart.train == 100
    assert apart.tested == 40
    same = linear_separability(A, B)
    assert 25 <= same.test <= 75
    assert linear_separability(A, B) == same
    assert linear_separability(A, B, seed=1) != same
    with pytest.raises(HeadwordError, match="2 points are too few"):
        linear_separability(A[:2], B)
    with pytest.raises(HeadwordError, match="8 and 7 dimensions"):
        linear_separability(A, B[:, :7])


def test_separability_keeps_the_sides_shares():
    found = linear_separability(random(10, 4), random(90, 4, seed=1), held_out=0.2, epochs=1)
    assert found.tested == 2 + 18


def test_neighbours_of_the_own_kind():
    A, B = random(40, 3), random(40, 3, seed=1)
    assert own_kind(A + 20, B, k=5) == 100
    assert own_kind(A, B, k=5) == pytest.approx(50, abs=10)
    points, naive = torch.cat([A, B]), 0
    for i, point in enumerate(points):
        order = sorted((float((point - other).norm()), j) for j, other in enumerate(points) if j != i)
        naive += sum((j < 40) == (i < 40) for _, j in order[:5])
    assert own_kind(A, B, k=5) == pytest.approx(100 * naive / 400)
    with pytest.raises(HeadwordError, match="k = 5 does not fit a set of 4 other points"):
        own_kind(A[:2], B[:3], k=5)


def test_mean_correction():
    rows, images = random(20, 8) + 1, random(30, 8, seed=1) - 2
    found = mean_corrected(rows, images)
    unit, target = F.normalize(rows, dim=1), F.normalize(images, dim=1).mean(dim=0)
    for row, one in zip(found, unit, strict=True):
        naive = one - unit.mean(dim=0) + target
        torch.testing.assert_close(row, naive / naive.norm())


def test_attention_correction():
    rows, means = random(5, 8), random(9, 8, seed=1)
    found = attention_corrected(rows, means)
    R = [mean / mean.norm() for mean in means]
    for row, one in zip(found, rows, strict=True):
        weights = [float(torch.exp(one / one.norm() @ r)) for r in R]
        naive = sum(w / sum(weights) * r for w, r in zip(weights, R, strict=True))
        torch.testing.assert_close(row, naive / naive.norm())


def test_linear_correction_learns_a_planted_projection():
    rows = F.normalize(random(200, 12), dim=1)
    target = F.normalize(rows @ torch.linalg.qr(random(12, 12, seed=1)).Q + 0.5, dim=1)
    found = linear_corrected(rows, rows[:150], target[:150], dropout=0.0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(200))
    learnt = F.cosine_similarity(found[150:], target[150:]).mean()
    assert learnt > 0.99 > F.cosine_similarity(rows[150:], target[150:]).mean()
    with pytest.raises(HeadwordError, match="need as many class means"):
        linear_corrected(rows, rows, target[:150])


def test_planar_asks_umap_for_cosines_and_its_seed(monkeypatch):
    """UMAP itself compiles for many seconds; the recipe on real data runs it."""
    asked = {}

    class Umap:
        def __init__(self, **settings):
            asked.update(settings)

        def fit_transform(self, points):
            return points[:, :2] * 2

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Umap))
    points = random(6, 5)
    torch.testing.assert_close(planar(points, seed=4), points[:, :2] * 2)
    assert asked == {"metric": "cosine", "random_state": 4}


def test_planar_needs_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match="eval"):
        planar(random(4, 3))
