"""Familiarity: its formulas against naive ones, and what it says of planted and of real heads."""

from __future__ import annotations

import itertools
from math import comb

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from headword.aligners import KernelRidge
from headword.aligners.base import prepared, weighted_mean
from headword.aligners.pairs import Pairs
from headword.scoring import familiarity
from headword.scoring.calibration import leave_classes_out
from headword.scoring.familiarity import PENALTY, TAU, Taught, chance_first, fit_familiarity


def planted(n: int = 120, *, seed: int = 0) -> Pairs:
    """Rows are a rotation of the names, which lie near a sphere of three dimensions."""
    drawn = torch.Generator().manual_seed(seed)
    text = F.normalize(torch.randn(n, 3, generator=drawn), dim=1)
    side = 0.15 * F.normalize(torch.randn(n, 16, generator=drawn), dim=1)
    text = torch.cat([text, side], dim=1)
    turn = torch.linalg.qr(torch.randn(19, 24, generator=drawn).T)[0].T
    return Pairs(text @ turn, text, tuple(f"class {i}" for i in range(n)), ("head",) * n)


def half_noise() -> Pairs:
    """The names of one half of the space lead to rows by the planted map, those of the other to noise."""
    pairs = planted(300)
    noise = torch.randn(300, 24, generator=torch.Generator().manual_seed(2))
    image = torch.where(pairs.text[:, :1] < 0, noise, pairs.image)
    return Pairs(image, pairs.text, pairs.names, pairs.source)


def test_evidence_against_the_formulas() -> None:
    pairs = planted()
    pairs = Pairs(pairs.image, pairs.text, pairs.names, pairs.source, torch.rand(len(pairs)) + 0.1)
    image, text, weight = (side.double() for side in prepared(pairs))
    centred = image - weighted_mean(image, weight)
    A = ((text @ text.T - 1) / TAU).exp() + PENALTY * torch.diag(1 / weight)
    asked = torch.randn(6, 19, generator=torch.Generator().manual_seed(1))
    near = ((F.normalize(asked, dim=1).double() @ text.T - 1) / TAU).exp()
    explained = (near @ torch.linalg.inv(A) * near).sum(dim=1)
    spread = weighted_mean(centred.square(), weight).sum().sqrt()
    norm = (near @ torch.linalg.inv(A) @ centred).norm(dim=1)
    naive = torch.stack([(norm / (spread * explained.sqrt())).log(), explained], dim=1)
    torch.testing.assert_close(Taught(pairs).evidence(asked), naive, atol=1e-4, rtol=1e-4)


def test_own_process_of_the_nearest_names_is_the_whole_where_there_are_no_more(monkeypatch) -> None:
    pairs, asked = planted(60), torch.randn(5, 19, generator=torch.Generator().manual_seed(1))
    whole = Taught(pairs, local=False).evidence(asked)
    torch.testing.assert_close(Taught(pairs, local=True).evidence(asked), whole, atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(familiarity, "NEIGHBOURS", 7)
    for text, said in zip(asked, Taught(pairs, local=True).evidence(asked), strict=True):
        near = (pairs.text @ F.normalize(text, dim=0)).topk(7).indices
        own = prepared(pairs)[1][near].double()
        k = ((own @ F.normalize(text, dim=0).double() - 1) / TAU).exp()
        A = ((own @ own.T - 1) / TAU).exp() + PENALTY * torch.eye(7).double()
        assert float(said[1]) == pytest.approx(float(k @ torch.linalg.inv(A) @ k), rel=1e-4)


def test_many_pairs_use_the_nearest_names(monkeypatch) -> None:
    pairs, asked = planted(60), torch.randn(5, 19)
    monkeypatch.setattr(familiarity, "NEIGHBOURS", 7)
    monkeypatch.setattr(familiarity, "MOST_EXACT", 59)
    assert torch.equal(Taught(pairs).evidence(asked), Taught(pairs, local=True).evidence(asked))
    monkeypatch.setattr(familiarity, "MOST_EXACT", 60)
    assert torch.equal(Taught(pairs).evidence(asked), Taught(pairs, local=False).evidence(asked))


@pytest.mark.parametrize("local", [False, True])
def test_evidence_does_not_depend_on_the_batch_and_is_finite(local: bool) -> None:
    taught = Taught(planted(), local=local)
    asked = torch.cat([torch.randn(9, 19), torch.zeros(1, 19)])
    together = taught.evidence(asked)
    apart = torch.cat([taught.evidence(row[None]) for row in asked])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(together).all()


@given(st.lists(st.integers(0, 5), min_size=2, max_size=7), st.data())
@settings(max_examples=50, deadline=None)
def test_chance_first_by_counting_all_draws(scores: list[int], data: st.DataObject) -> None:
    own = data.draw(st.integers(0, len(scores) - 1))
    among = data.draw(st.integers(1, len(scores)))
    others = [score for n, score in enumerate(scores) if n != own]
    won = sum(all(s <= scores[own] for s in draw) for draw in itertools.combinations(others, among - 1))
    naive = won / comb(len(others), among - 1)
    said = chance_first(torch.tensor([scores]).double(), torch.tensor([own]), among)
    assert float(said[0]) == pytest.approx(naive, abs=1e-9)


def test_words_near_rows_that_agree_are_covered_and_words_near_noise_are_not() -> None:
    pairs = half_noise()
    aligner = KernelRidge().fit(pairs)
    fit = fit_familiarity(aligner, leave_classes_out(aligner, pairs))
    assert fit is not None
    assert (fit.fitted_on, fit.among) == (300, 60)
    fresh = planted(200, seed=5).text
    said = fit.of(Taught(pairs).evidence(fresh))
    side = fresh[:, 0].abs() > 0.4
    assert said[(fresh[:, 0] > 0) & side].mean() > said[(fresh[:, 0] < 0) & side].mean() + 0.2
    assert fit.of(Taught(pairs).evidence(pairs.text[pairs.text[:, 0] > 0])).mean() > 0.8


def test_a_quarter_of_left_out_classes_is_out_of_depth() -> None:
    pairs = half_noise()
    aligner = KernelRidge().fit(pairs)
    left_out = leave_classes_out(aligner, pairs)
    fit = fit_familiarity(aligner, left_out)
    assert fit is not None
    below = 0
    for rows in left_out.rows:
        rest = [i for i in range(len(pairs)) if i not in rows]
        below += int((fit.of(Taught(pairs[rest]).evidence(pairs.text[rows])) < fit.low).sum())
    assert below == 75


def test_too_few_classes_have_no_familiarity() -> None:
    pairs = planted(49)
    aligner = KernelRidge().fit(pairs)
    assert fit_familiarity(aligner, leave_classes_out(aligner, pairs)) is None
    assert fit_familiarity(aligner, leave_classes_out(aligner, pairs[:5])) is None
