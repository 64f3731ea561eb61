"""Metrics against loops that say what they mean."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from headword.errors import HeadwordError
from headword.metrics import _checks as checks
from headword.metrics import (
    centroid_test,
    classification_metrics,
    linear_cka,
    places_of_labels,
    retrieval_metrics,
    retrieval_places,
    shared_neighbours,
)


def naive_retrieval(scores: list[list[float]], owner: list[int], ks: list[int]) -> dict[str, float]:
    """`scores[i][j]` of image i and caption j; each ranking is sorted, a wrong item before a right tie."""
    result = {}
    n = len(scores)
    rankings_i = {
        i: sorted(range(len(owner)), key=lambda j: (-scores[i][j], owner[j] == i))
        for i in range(n)
        if i in owner
    }
    rankings_t = {
        j: sorted(range(n), key=lambda i: (-scores[i][j], i == owner[j])) for j in range(len(owner))
    }
    for k in ks:
        hits = {i: sum(owner[j] == i for j in r[:k]) for i, r in rankings_i.items()}
        result[f"i2t_r{k}"] = 100 * sum(h > 0 for h in hits.values()) / len(hits)
        result[f"i2t_p{k}"] = 100 * sum(h / min(k, owner.count(i)) for i, h in hits.items()) / len(hits)
        result[f"t2i_r{k}"] = 100 * sum(owner[j] in r[:k] for j, r in rankings_t.items()) / len(owner)
    aps = []
    for i, ranking in rankings_i.items():
        right = [place for place, j in enumerate(ranking, start=1) if owner[j] == i]
        aps.append(sum(n / place for n, place in enumerate(right, start=1)) / len(right))
    result["i2t_map"] = 100 * sum(aps) / len(aps)
    result["t2i_map"] = 100 * sum(1 / (r.index(owner[j]) + 1) for j, r in rankings_t.items()) / len(owner)
    return result


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_retrieval_is_what_sorting_says(data):
    n, m = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 14))
    owner = data.draw(st.lists(st.integers(0, n - 1), min_size=m, max_size=m))
    # Small integers: exact in float32, and full of ties.
    values = st.lists(st.integers(-1, 1), min_size=3, max_size=3)
    image = torch.tensor(data.draw(st.lists(values, min_size=n, max_size=n))).float()
    text = torch.tensor(data.draw(st.lists(values, min_size=m, max_size=m))).float()
    ks = [k for k in (1, 2, 5) if k <= min(n, m)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "CHUNK_ELEMENTS", data.draw(st.sampled_from([1, 20, 10_000])))
        got = retrieval_metrics(retrieval_places(image, text, torch.tensor(owner)), ks)
    want = naive_retrieval((image @ text.T).tolist(), owner, ks)
    assert got == pytest.approx(want)


def test_a_model_that_says_the_same_of_everything_gets_nothing():
    places = retrieval_places(torch.ones(4, 2), torch.ones(8, 2), torch.arange(8) // 2)
    assert places.image.tolist() == [4] * 8
    assert places.caption.tolist() == [7, 8] * 4
    assert retrieval_metrics(places, [1])["i2t_r1"] == 0
    assert classification_metrics(torch.zeros(3, 4), torch.tensor([0, 1, 2]), [1])["top1"] == 0


def test_retrieval_by_hand():
    """Two images, three captions; caption 1 belongs to image 0 but looks like image 1."""
    image = torch.eye(2)
    text = torch.tensor([[1.0, 0.1], [0.2, 0.9], [0.3, 0.8]])
    places = retrieval_places(image, text, torch.tensor([0, 0, 1]))
    assert places.caption.tolist() == [1, 3, 2]
    assert places.image.tolist() == [1, 2, 1]
    assert retrieval_metrics(places, [1, 2]) == pytest.approx(
        {
            "i2t_r1": 50.0,
            "t2i_r1": 200 / 3,
            "i2t_p1": 50.0,
            "i2t_r2": 100.0,
            "t2i_r2": 100.0,
            "i2t_p2": 75.0,
            "i2t_map": 100 * ((1 + 2 / 3) / 2 + 1 / 2) / 2,
            "t2i_map": 100 * (1 + 0.5 + 1) / 3,
        }
    )


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_classification_is_what_sorting_says(data):
    n, c = data.draw(st.integers(1, 12)), data.draw(st.integers(2, 6))
    row = st.lists(st.integers(0, 3), min_size=c, max_size=c)
    scores = data.draw(st.lists(row, min_size=n, max_size=n))
    labels = data.draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n))
    got = classification_metrics(torch.tensor(scores).float(), torch.tensor(labels), [1, 2])
    rankings = [
        sorted(range(c), key=lambda k, s=s, y=y: (-s[k], k == y)) for s, y in zip(scores, labels, strict=True)
    ]
    for k in (1, 2):
        hits = [y in r[:k] for r, y in zip(rankings, labels, strict=True)]
        assert got[f"top{k}"] == pytest.approx(100 * sum(hits) / n)
    classes = [[r[0] == y for r, y in zip(rankings, labels, strict=True) if y == one] for one in set(labels)]
    assert got["mean_per_class"] == pytest.approx(
        100 * sum(sum(hits) / len(hits) for hits in classes) / len(classes)
    )


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 12), k=st.integers(1, 3), seed=st.integers(0, 1000), chunk=st.sampled_from([1, 40]))
def test_shared_neighbours_is_what_sets_say(n, k, seed, chunk):
    k = min(k, n - 1)
    generator = torch.Generator().manual_seed(seed)
    X, Y = torch.randn(n, 4, generator=generator), torch.randn(n, 3, generator=generator)
    total = 0.0
    for i in range(n):
        sets = []
        for side in (X, Y):
            cosine = {j: float(F.cosine_similarity(side[i], side[j], dim=0)) for j in range(n) if j != i}
            sets.append(set(sorted(cosine, key=lambda j: -cosine[j])[:k]))
        total += len(sets[0] & sets[1]) / k
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "CHUNK_ELEMENTS", chunk)
        assert shared_neighbours(X, Y, k) == pytest.approx(total / n)
    assert shared_neighbours(X, 2 * X, k) == 1


@pytest.mark.parametrize("n", [6, 40])
def test_cka_is_what_gram_matrices_say(n):
    X, Y = torch.randn(n, 9).double(), torch.randn(n, 7).double()
    centring = torch.eye(n).double() - 1 / n
    K, L = centring @ X @ X.T @ centring, centring @ Y @ Y.T @ centring
    want = float((K * L).sum() / (K.norm() * L.norm()))
    assert linear_cka(X, Y) == pytest.approx(want)
    turn = torch.linalg.qr(torch.randn(9, 9).double()).Q
    assert linear_cka(X, 3 * X @ turn + 5) == pytest.approx(1)


def test_centroid_test_agrees_with_all_permutations():
    """With four points against three the exact p is a count over 35 relabellings."""
    generator = torch.Generator().manual_seed(1)
    A, B = torch.randn(4, 3, generator=generator) + 0.8, torch.randn(3, 3, generator=generator)
    points = torch.cat([A, B])
    distances = []
    for chosen in itertools.combinations(range(7), 4):
        others = [i for i in range(7) if i not in chosen]
        distances.append(float((points[list(chosen)].mean(0) - points[others].mean(0)).norm()))
    exact = sum(d >= distances[0] - 1e-6 for d in distances) / len(distances)
    result = centroid_test(A, B, permutations=20_000)
    assert result.distance == pytest.approx(distances[0], rel=1e-5)
    assert result.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    assert result.shuffled_max == pytest.approx(max(distances), rel=1e-5)
    assert result == centroid_test(A, B, permutations=20_000)


def test_centroid_test_of_clouds_apart_and_of_one_cloud():
    torch.manual_seed(0)
    A, B = torch.randn(50, 8), torch.randn(60, 8)
    assert centroid_test(A, B + 3, permutations=999).p == 1 / 1000
    same = [centroid_test(torch.randn(20, 4), torch.randn(20, 4), permutations=99).p for _ in range(60)]
    assert 0.3 < sum(same) / 60 < 0.7


ONES = torch.ones(3, 2)
NAN = torch.full((3, 2), torch.nan)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: retrieval_places(NAN, ONES, torch.arange(3)), "NaN"),
        (lambda: retrieval_places(ONES, torch.ones(3, 4), torch.arange(3)), "not one shared space"),
        (lambda: retrieval_places(ONES, ONES, torch.arange(2)), "3 captions need as many owners"),
        (lambda: retrieval_places(ONES, ONES, torch.tensor([0, 1, 3])), "not one of the 3 images"),
        (lambda: retrieval_places(ONES[:0], ONES, torch.arange(3)), "at least one row"),
        (
            lambda: retrieval_metrics(retrieval_places(ONES, ONES, torch.arange(3)), [4]),
            "k = 4 does not fit a set of 3 images",
        ),
        (lambda: places_of_labels(NAN, torch.zeros(3).long()), "NaN"),
        (lambda: places_of_labels(ONES, torch.tensor([0, 1, 2])), "from 0 to 2, but there are 2 classes"),
        (lambda: places_of_labels(ONES, torch.tensor([0])), "3 images need as many labels"),
        (lambda: classification_metrics(ONES[:, :1], torch.zeros(3).long(), [1]), "at least two classes"),
        (lambda: classification_metrics(ONES, torch.zeros(3).long(), [5]), "k = 5 does not fit"),
        (lambda: shared_neighbours(ONES, ONES, 3), "k = 3 does not fit a set of 2 other items"),
        (lambda: shared_neighbours(ONES, ONES[:2], 1), "same items"),
        (lambda: linear_cka(ONES, torch.randn(3, 2)), "all rows of one side are the same"),
        (lambda: centroid_test(ONES, torch.ones(3, 5)), "2 and 5 dimensions"),
        (lambda: centroid_test(ONES, ONES, permutations=0), "at least one permutation"),
    ],
)
def test_mistakes(call, said):
    with pytest.raises(HeadwordError, match=said):
        call()
