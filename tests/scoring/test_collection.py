"""Whole collections: each method against its formula, planted answers and what must not matter."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from headword.errors import HeadwordError
from headword.scoring.transductive import (
    METHODS,
    Hubs,
    adapt,
    check_method,
    collective_scores,
    csls,
    hubness,
    inverted_softmax,
    label_shares,
    sinkhorn,
)

SCALE = 20.0


def unit(n: int, d: int = 8, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(rows, dim=1)


def by(method: str, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    shares = label_shares("uniform", ["x"] * len(texts)) if method == "sinkhorn" else None
    return collective_scores(images, texts, method=method, scale=SCALE, shares=shares)


# ---- formulas


def test_hubness_and_csls_against_loops():
    images, texts = unit(7), unit(4, seed=1)
    cosines = images @ texts.T
    r_image, r_text = hubness(images, texts, 3), hubness(texts, images, 3)
    for i in range(7):
        assert float(r_image[i]) == pytest.approx(sum(sorted(cosines[i].tolist())[-3:]) / 3)
    scores = csls(cosines, r_image, r_text)
    for i in range(7):
        for j in range(4):
            published = 2 * cosines[i, j] - r_image[i] - r_text[j]
            assert float(scores[i, j]) == pytest.approx(float(published) / 2)
    torch.testing.assert_close(hubness(images, texts, 99), cosines.mean(dim=1))


def test_hubness_in_parts(monkeypatch):
    whole = hubness(unit(9), unit(5, seed=1), 2)
    monkeypatch.setattr("headword.aligners.linalg.CHUNK_ELEMENTS", 7)
    torch.testing.assert_close(hubness(unit(9), unit(5, seed=1), 2), whole)


def test_inverted_softmax_against_its_formula():
    cosines = unit(6) @ unit(3, seed=1).T
    naive = (SCALE * cosines).exp()
    naive = naive / naive.sum(dim=0)
    naive = naive / naive.sum(dim=1, keepdim=True)
    torch.testing.assert_close((SCALE * inverted_softmax(cosines, SCALE)).softmax(dim=1), naive)


def test_sinkhorn_against_plain_rounds():
    cosines, shares = unit(6) @ unit(3, seed=1).T, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    plan = (4 * cosines).exp()
    for _ in range(300):
        plan = plan * (shares / plan.sum(dim=0))
        plan = plan / plan.sum(dim=1, keepdim=True) / 6
    found = (4 * sinkhorn(cosines, 4.0, shares, tolerance=1e-10)).softmax(dim=1)
    torch.testing.assert_close(found, 6 * plan)


def test_adapt_against_a_loop():
    images, texts = unit(6), unit(3, seed=1)
    moved = texts
    for _ in range(4):
        rows = []
        belongs = [[math.exp(SCALE * float(x @ m)) for m in moved] for x in images]
        belongs = [[b / sum(row) for b in row] for row in belongs]
        for label in range(3):
            n = sum(row[label] for row in belongs)
            pull = sum(row[label] * x for row, x in zip(belongs, images, strict=True))
            rows.append(F.normalize(0.7 * (n + 1) * texts[label] + pull, dim=0))
        moved = torch.stack(rows)
    torch.testing.assert_close(adapt(images, texts, SCALE, weight=0.7, rounds=4), moved)


# ---- planted answers


def planted(
    shift: float, noise: float = 0.08, n: int = 60
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three clusters; each label's text lies off its cluster, towards the next one's."""
    generator = torch.Generator().manual_seed(0)
    means = torch.eye(3, 12, dtype=torch.float64)
    of = torch.arange(n) % 3
    images = means[of] + noise * torch.randn(n, 12, generator=generator, dtype=torch.float64)
    texts = (1 - shift) * means + shift * means.roll(-1, dims=0)
    return F.normalize(images, dim=1), F.normalize(texts, dim=1), of


def test_adapt_finds_the_clusters():
    images, texts, of = planted(0.45)
    centres = F.normalize(torch.stack([images[of == label].mean(dim=0) for label in range(3)]), dim=1)
    before = (texts * centres).sum(dim=1)
    after = (adapt(images, texts, SCALE, weight=0.2) * centres).sum(dim=1)
    assert (after > before + 0.1).all()


def test_a_hub_loses_what_is_not_its_own():
    images, _, of = planted(0.0, noise=0.02)
    axes = torch.eye(5, 12, dtype=torch.float64)
    hub = 1.3 * axes[0] + axes[1] + axes[2]  # nearer to the other labels' images than their own texts are
    texts = F.normalize(torch.stack([hub, axes[1] + 1.8 * axes[3], axes[2] + 1.8 * axes[4]]), dim=1)
    assert float(((images @ texts.T).argmax(dim=1) == of).double().mean()) < 0.8
    for method in ("csls", "inverted-softmax", "sinkhorn"):
        assert (by(method, images, texts).argmax(dim=1) == of).all(), method


def test_sinkhorn_meets_an_uneven_prior():
    cosines = unit(200) @ unit(5, seed=1).T
    shares = label_shares({"a": 80, "b": 10, "c": 6, "d": 4, "e": 0}, list("abcde"))
    chances = (SCALE * sinkhorn(cosines, SCALE, shares)).softmax(dim=1)
    torch.testing.assert_close(chances.mean(dim=0), shares, atol=2e-5, rtol=0)
    assert float(chances[:, 4].max()) == 0
    torch.testing.assert_close(chances.sum(dim=1), torch.ones(200, dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_label_nobody_has(method):
    images, texts, of = planted(0.1)
    nobody = F.normalize(-texts.sum(dim=0, keepdim=True), dim=1)
    scores = by(method, images, torch.cat([texts, nobody]))
    assert torch.isfinite(scores).all()
    if method == "adapt":
        moved = adapt(images, torch.cat([texts, nobody]), SCALE)
        assert float(moved[3] @ nobody[0]) > 0.999
        assert (scores.argmax(dim=1) == of).all()


@pytest.mark.parametrize("method", METHODS)
def test_no_image_and_one_image(method):
    texts = unit(3, seed=1)
    assert by(method, unit(0), texts).shape == (0, 3)
    one = by(method, unit(1), texts)
    assert torch.isfinite(one).all()
    if method in ("inverted-softmax", "sinkhorn"):  # one image says nothing against another
        torch.testing.assert_close(
            (SCALE * one).softmax(dim=1), torch.full_like(one, 1 / 3), atol=2e-5, rtol=0
        )


# ---- what must not matter


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), labels=st.integers(1, 5))
@pytest.mark.parametrize("method", METHODS)
def test_order_does_not_matter(method, seed, n, labels):
    images, texts = unit(n, seed=seed), unit(labels, seed=seed + 1)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(n, generator=generator), torch.randperm(labels, generator=generator)
    moved = by(method, images[rows], texts[columns])
    torch.testing.assert_close(moved, by(method, images, texts)[rows][:, columns], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", ["inverted-softmax", "sinkhorn"])
def test_every_image_twice_changes_nothing(method):
    images, texts = unit(9), unit(4, seed=1)
    twice = by(method, images.repeat(2, 1), texts)
    torch.testing.assert_close(twice[:9], by(method, images, texts), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(twice[9:], twice[:9])


# ---- hubs of a reference


def test_hubs_are_penalties():
    reference, said = unit(20, seed=2), unit(15, seed=3)
    images, texts = unit(6), unit(4, seed=1)
    hubs = Hubs.of(reference, said, k=5)
    queries = F.normalize(texts - said.mean(dim=0), dim=1)
    torch.testing.assert_close(hubs.centred(texts), queries)
    scores = csls(
        images @ queries.T,
        hubness(images, F.normalize(said - said.mean(dim=0), dim=1), 5),
        hubness(queries, reference, 5),
    )
    left, right = hubs.sides(images, texts)
    torch.testing.assert_close(left @ right.T, scores)
    penalised = images @ queries.T - hubs.image_penalty(images)[:, None] - hubs.text_penalty(queries)
    torch.testing.assert_close(penalised, scores)


# ---- mistakes


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ("even", "must be 'uniform' or shares by label"),
        ({"a": 1}, "no share for the label 'b'"),
        ({"a": 1, "b": 1, "c": 1}, "no label: 'c'"),
        ({"a": -1, "b": 1}, "must be a number from 0 up, got -1"),
        ({"a": float("nan"), "b": 1}, "must be a number from 0 up"),
        ({"a": "1", "b": 1}, "must be a number from 0 up"),
        ({"a": 0, "b": 0}, "every label the share 0"),
    ],
)
def test_bad_priors(prior, said):
    with pytest.raises(HeadwordError, match=said):
        label_shares(prior, ["a", "b"])


def test_bad_methods():
    with pytest.raises(HeadwordError, match="choose off, csls"):
        check_method("knn", False)
    with pytest.raises(HeadwordError, match="needs a stated prior"):
        check_method("sinkhorn", False)
    with pytest.raises(HeadwordError, match="not with adapt"):
        check_method("adapt", True)
    with pytest.raises(HeadwordError, match="one of the labels"):
        check_method("csls", False, single_labels=False)
    with pytest.raises(HeadwordError, match="needs a reference"):
        hubness(unit(2), unit(0), 1)
    with pytest.raises(HeadwordError, match="two texts"):
        Hubs.of(unit(2), unit(1))


def test_sinkhorn_says_when_it_does_not_meet_the_prior(monkeypatch):
    monkeypatch.setattr("headword.scoring.transductive._MOST_ROUNDS", 1)
    with pytest.raises(HeadwordError, match="has not met the prior"):
        sinkhorn(unit(9) @ unit(4, seed=1).T, SCALE, label_shares("uniform", list("abcd")))
