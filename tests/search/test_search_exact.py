"""Exact search: against the definition, whatever the first pass runs on; rows on disk; sums and centres."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headword.aligners import make_aligner
from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError
from headword.search import exact
from headword.search.exact import ExactSearch
from headword.search.rows import BLOCK, ROUNDED, Rows, append_rows, present_rows, rounded, write_rounded
from headword.search.space import UNIT, Space, exact_sum, image_matrix, mean_of


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    rows = rng.standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive(values, r, a, b, k, keep=None):
    """The definition: r · (a·u − b) in float64; equal scores by row."""
    found = []
    for query, offset in zip(a, b, strict=True):
        scores = r.astype(np.float64) * (
            (values.astype(np.float64) * query.astype(np.float64)).sum(axis=1) - offset
        )
        places = np.arange(len(values)) if keep is None else np.flatnonzero(keep)
        order = np.lexsort((places, -scores[places]))[:k]
        found.append((places[order], scores[places[order]]))
    return found


def check(values, r, a, b, k, keep=None):
    got = ExactSearch(Rows.of(values), r, keep).top(a, b, k)
    for (rows, scores), (right, best) in zip(got, naive(values, r, a, b, k, keep), strict=True):
        np.testing.assert_allclose(scores, best, rtol=1e-13, atol=1e-15)
        if len(np.unique(best)) == len(best):
            assert rows.tolist() == right.tolist()


KERNELS = [None] if exact.numkong is None else [exact.numkong, None]
"""NumKong's, where it is installed, and those of all installations."""


@pytest.fixture(params=KERNELS, ids=str)
def first_pass(request, monkeypatch):
    """First passes with all kernels, from the first row on."""
    monkeypatch.setattr(exact, "DIRECT", 0)
    monkeypatch.setattr(exact, "numkong", request.param)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 700),
    d=st.integers(1, 48),
    queries=st.integers(1, 5),
    k=st.integers(1, 40),
    spread=st.sampled_from([0.0, 1e-4, 0.02, 1.0]),
    part=st.sampled_from([None, 0.02, 0.6]),
    spikes=st.booleans(),
    kernels=st.sampled_from(KERNELS),
)
def test_the_best_rows_are_the_definitions(seed, n, d, queries, k, spread, part, spikes, kernels):
    """Also where rows are nearly alike, or one number is most of a row, so that 8 bits tell little apart."""
    rng = np.random.default_rng(seed)
    values = unit(rng, 1, d) + spread * unit(rng, n, d)
    if spikes:
        values[np.arange(n), rng.integers(0, d, n)] *= 50
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    values = values.astype(np.float32)
    r = rng.uniform(0.3, 4, n).astype(np.float32)
    a, b = unit(rng, queries, d) * np.float32(rng.uniform(0.1, 3)), rng.uniform(-1, 1, queries)
    keep = None if part is None else rng.random(n) < part
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "DIRECT", 0)
        patch.setattr(exact, "numkong", kernels)
        check(values, r, a, b, k, keep)


@pytest.mark.usefixtures("first_pass")
def test_equal_scores_go_by_row():
    rng = np.random.default_rng(0)
    values = np.repeat(unit(rng, 40, 24), 25, axis=0)[rng.permutation(1000)]
    a, ones = unit(rng, 3, 24), np.ones(1000, np.float32)
    got = ExactSearch(Rows.of(values), ones).top(a, np.zeros(3), 60)
    for (rows, scores), (right, _) in zip(got, naive(values, ones, a, np.zeros(3), 60), strict=True):
        assert rows.tolist() == right.tolist()
        assert len(np.unique(scores)) < 5


@pytest.mark.usefixtures("first_pass")
def test_a_query_finds_the_same_alone_and_among_others():
    rng = np.random.default_rng(1)
    values, a = unit(rng, 3000, 32), unit(rng, 30, 32)
    r, b = rng.uniform(0.5, 2, 3000).astype(np.float32), rng.uniform(-0.2, 0.2, 30)
    search = ExactSearch(Rows.of(values), r)
    for n, (rows, scores) in enumerate(search.top(a, b, 10)):
        alone_rows, alone = search.top(a[n : n + 1], b[n : n + 1], 10)[0]
        assert rows.tolist() == alone_rows.tolist()
        assert scores.tolist() == alone.tolist()  # bit-equal


@pytest.mark.usefixtures("first_pass")
def test_images_at_the_centre_and_zero_rows():
    """r = 0 is an image equal to the centre: its score is 0, below every positive one."""
    rng = np.random.default_rng(2)
    values = unit(rng, 400, 8)
    values[::7] = 0
    r = np.ones(400, np.float32)
    r[::5] = 0
    check(values, r, unit(rng, 4, 8), np.zeros(4), 390)


def test_the_first_pass_rules_rows_out(monkeypatch):
    """Of 20,000 rows a few hundred are scored exactly, not all."""
    rng = np.random.default_rng(3)
    values, a = unit(rng, 20_000, 64), unit(rng, 1, 64)
    search, scored = ExactSearch(Rows.of(values), np.ones(20_000, np.float32)), []
    whole = ExactSearch._exact
    monkeypatch.setattr(
        ExactSearch, "_exact", lambda self, rows, *rest: scored.append(len(rows)) or whole(self, rows, *rest)
    )
    search.top(a, np.zeros(1), 10)
    assert sum(scored) <= 1024


@pytest.mark.parametrize("kernels", KERNELS, ids=str)
@pytest.mark.parametrize("d", [1, 7, 384, 1280, 3000])
def test_products_of_small_integers_are_exact(kernels, d, monkeypatch):
    monkeypatch.setattr(exact, "numkong", kernels)
    rng = np.random.default_rng(d)
    rows, queries = (rng.integers(-127, 128, (n, d)).astype(np.int8) for n in (300, 9))
    rows[:2], queries[0] = 127, 127
    right = rows.astype(np.int64) @ queries.T.astype(np.int64)
    for n in (1, 2, 9):
        assert np.array_equal(exact._times(queries[:n])(rows), right[:, :n])


def test_rounding_is_bounded():
    values = unit(np.random.default_rng(4), 300, 40)
    values[:3] = [[0] * 40, np.eye(1, 40)[0], np.full(40, 1e-38)]
    integers, scales, distances = rounded(values)
    apart = np.linalg.norm(values.astype(np.float64) - integers * scales[:, None].astype(np.float64), axis=1)
    assert (apart <= distances).all()
    assert distances.max() <= 0.02
    assert integers.min() >= -127


# ---- rows on disk


def opened(folder, values, sums, known) -> Rows:
    rows = Rows.open(folder, "rows-1", 6, known["scales"], known["distances"])
    rows.check_against(np.arange(len(values)), np.array(sums), known["block_sums"])
    assert np.array_equal(rows[:], values)
    return rows


@settings(max_examples=20, deadline=None)
@given(parts=st.lists(st.integers(1, 3 * BLOCK), min_size=1, max_size=5))
def test_rows_that_were_appended_are_the_rows_at_once(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    values = unit(np.random.default_rng(sum(parts)), sum(parts), 6)
    slots, sums = 0, []
    known = {name: np.empty(0, np.int64 if name == "block_sums" else np.float32) for name in ROUNDED}
    for part in parts:
        sums += append_rows(folder, "rows-1", slots, values[slots : slots + part])
        blocks, slots = slots // BLOCK, slots + part
        fresh = write_rounded(folder, "rows-1", values[:slots], blocks * BLOCK)
        kept = dict(zip(ROUNDED, (blocks * BLOCK, blocks * BLOCK, blocks), strict=True))
        known = {name: np.concatenate([known[name][: kept[name]], fresh[name]]) for name in ROUNDED}
    rows, whole = opened(folder, values, sums, known), Rows.of(values)
    rows.check(0, slots)
    assert np.array_equal(rows.integers(0, slots), whole.integers(0, slots))
    assert np.array_equal(rows.scales, whole.scales)
    assert np.array_equal(rows.distances, whole.distances)


def test_what_was_never_counted_is_written_over(tmp_path):
    """A reader's rows stay what they are, also those in the block that is written again."""
    values = unit(np.random.default_rng(5), 500, 6)
    sums = append_rows(tmp_path, "rows-1", 0, values[:100])
    known = write_rounded(tmp_path, "rows-1", values[:100], 0)
    reader = opened(tmp_path, values[:100], sums, known)
    append_rows(tmp_path, "rows-1", 100, values[:300])  # of a run that was killed before its journal
    append_rows(tmp_path, "rows-1", 100, values[100:200])
    write_rounded(tmp_path, "rows-1", values[:200], 0)
    reader.check(0, 100)
    assert np.array_equal(reader[:], values[:100])
    assert np.array_equal(reader.integers(0, 100), rounded(values[:100]).integers)
    assert np.array_equal(present_rows(tmp_path, "rows-1", 6), values[:200])
    assert (tmp_path / "rows-1.f32").stat().st_size == 200 * 6 * 4


def test_files_that_are_cut_short_are_refused(tmp_path):
    values = unit(np.random.default_rng(6), 10, 6)
    append_rows(tmp_path, "rows-1", 0, values)
    write_rounded(tmp_path, "rows-1", values, 0)
    with pytest.raises(HeadwordError, match="cut short"):
        Rows.open(tmp_path, "rows-1", 6, np.ones(11), np.ones(11))
    (tmp_path / "rows-1.i8").unlink()
    with pytest.raises(HeadwordError, match="missing"):
        Rows.open(tmp_path, "rows-1", 6, np.ones(10), np.ones(10))


# ---- the shared space


@pytest.mark.parametrize("name", ["kernel-ridge", "cca"])
def test_scores_are_the_aligners_cosines(name):
    rng = np.random.default_rng(7)
    pairs = Pairs(
        torch.from_numpy(unit(rng, 60, 12)), torch.from_numpy(unit(rng, 60, 9)), tuple(map(str, range(60)))
    )
    aligner = make_aligner(name).fit(pairs)
    features = torch.from_numpy(unit(rng, 200, 12) + 0.4)
    aligner.centre_on(features)
    texts = torch.from_numpy(unit(rng, 5, 9))
    space = Space.of(aligner)
    assert (space.matrix is None) == (name == "kernel-ridge")
    units = torch.nn.functional.normalize(features, dim=1).numpy()
    a, b = space.affine(aligner.text(texts))
    scores = space.inverse_norms(units)[:, None] * (units @ a.T - b)
    np.testing.assert_allclose(scores, (aligner.image(features) @ aligner.text(texts).T).numpy(), atol=2e-6)
    np.testing.assert_allclose(space.image(units), aligner.image(features).numpy(), atol=2e-6)


def test_an_image_side_that_is_not_linear_is_refused():
    aligner = make_aligner("kernel-ridge").fit(Pairs(torch.eye(4), torch.eye(4), tuple("abcd")))
    bent = type("Bent", (type(aligner),), {"_map_image": lambda _, x: x.abs() + 1})
    aligner.__class__ = bent
    with pytest.raises(HeadwordError, match="not linear"):
        image_matrix(aligner)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 300))
def test_sums_do_not_depend_on_the_order(seed, n):
    rng = np.random.default_rng(seed)
    values = unit(rng, n, 5)
    total = exact_sum(values, np.arange(n))
    assert np.array_equal(total, exact_sum(values[rng.permutation(n)], np.arange(n)))
    gone = rng.random(n) < 0.5
    kept, left = np.flatnonzero(~gone), np.flatnonzero(gone)
    assert np.array_equal(total - exact_sum(values, left), exact_sum(values, kept))
    np.testing.assert_allclose(mean_of(total, n), values.astype(np.float64).mean(axis=0), atol=1e-7)
    assert abs(total).max() * UNIT <= n
