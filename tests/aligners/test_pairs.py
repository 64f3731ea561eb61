"""Pairs: what they refuse, and that every operation keeps the rows' parts together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError


def numbered(n: int = 6) -> Pairs:
    """Row i has i in every part, so that a mixed-up row shows."""
    rows = torch.arange(n, dtype=torch.float32)
    return Pairs(
        image=rows[:, None].repeat(1, 3),
        text=rows[:, None].repeat(1, 2) + 100,
        names=tuple(f"name {i}" for i in range(n)),
        source=tuple("head" if i % 2 else "caption" for i in range(n)),
        weight=rows + 1,
    )


def assert_rows(pairs: Pairs, rows: list[int]) -> None:
    assert pairs.image[:, 0].tolist() == rows
    assert pairs.text[:, 0].tolist() == [100 + i for i in rows]
    assert pairs.names == tuple(f"name {i}" for i in rows)
    assert pairs.source == tuple("head" if i % 2 else "caption" for i in rows)
    assert pairs.weight.tolist() == [i + 1 for i in rows]


def test_defaults() -> None:
    pairs = Pairs(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 4))
    assert len(pairs) == 2
    assert pairs.names == ("", "")
    assert pairs.source == ("user", "user")
    assert pairs.weight.tolist() == [1, 1]
    assert pairs.weight.dtype == torch.float64


def test_lists_of_names_become_tuples() -> None:
    pairs = Pairs(torch.zeros(1, 3), torch.zeros(1, 4), names=["a"], source=["head"])  # type: ignore[arg-type]
    assert (pairs + pairs).names == ("a", "a")
    assert (pairs + pairs).source == ("head", "head")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"image": torch.zeros(3)}, r"two matrices, got shapes \[3\] and \[2, 4\]"),
        ({"text": torch.zeros(2, 4, 1)}, "two matrices"),
        ({"image": torch.zeros(0, 3), "text": torch.zeros(0, 4)}, "there are no pairs"),
        ({"text": torch.zeros(3, 4)}, "differ in length: image 2, text 3"),
        ({"names": ("a",)}, "names 1"),
        ({"source": ("head",) * 3}, "source 3"),
        ({"weight": torch.ones(5)}, "weight 5"),
        ({"image": torch.zeros(2, 3, dtype=torch.long)}, "image side .* floating-point, got torch.int64"),
        ({"text": torch.zeros(2, 4, dtype=torch.uint8)}, "text side .* floating-point"),
        ({"weight": torch.ones(2, dtype=torch.long)}, "weight side .* floating-point"),
        ({"text": torch.zeros(2, 4, device="meta")}, "text side .* is on meta but the image side on cpu"),
        ({"weight": torch.tensor([1.0, 0.0])}, "weights must be positive"),
        ({"weight": torch.tensor([1.0, -2.0])}, "weights must be positive"),
    ],
)
def test_refuses(parts: dict[str, Tensor], said: str) -> None:
    given = {"image": torch.zeros(2, 3), "text": torch.zeros(2, 4)} | parts
    with pytest.raises(HeadwordError, match=said):
        Pairs(**given)


@pytest.mark.parametrize("side", ["image", "text", "weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_names_the_first_row_that_is_not_finite(side: str, value: float) -> None:
    parts = {"image": torch.ones(4, 3), "text": torch.ones(4, 2), "weight": torch.ones(4)}
    parts[side][2:] = value
    with pytest.raises(HeadwordError, match=rf"2 of 4 pairs .* in their {side} side, .* row 2 \('c'\)"):
        Pairs(**parts, names=("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([4, 1, 1], [4, 1, 1]),
        ([-1], [5]),
        ([True, False, False, True, False, False], [0, 3]),
        (torch.tensor([2, 0]), [2, 0]),
        (torch.tensor([False] * 5 + [True]), [5]),
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, -2), [5, 3, 1]),
    ],
)
def test_getitem_keeps_rows_together(rows: Tensor | slice, expected: list[int]) -> None:
    assert_rows(numbered()[rows], expected)


@pytest.mark.parametrize("rows", [[], slice(3, 3), torch.zeros(6, dtype=torch.bool)])
def test_getitem_of_nothing_says_so(rows: Tensor | slice) -> None:
    with pytest.raises(HeadwordError, match="there are no pairs"):
        numbered()[rows]


def test_getitem_out_of_range() -> None:
    with pytest.raises(IndexError):
        numbered()[[6]]
    with pytest.raises(IndexError):
        numbered()[torch.tensor([True, False])]


def test_add_puts_one_after_the_other() -> None:
    assert_rows(numbered()[[0, 1]] + numbered()[[4]], [0, 1, 4])


@pytest.mark.parametrize("side", ["image", "text"])
def test_add_refuses_other_widths(side: str) -> None:
    parts = {"image": torch.zeros(1, 3), "text": torch.zeros(1, 2)} | {side: torch.zeros(1, 7)}
    with pytest.raises(HeadwordError, match=f"different {side} widths cannot be joined: . and 7"):
        numbered() + Pairs(**parts)


def test_sample_is_seeded_without_replacement_and_in_order() -> None:
    pairs = numbered(50)
    picked = pairs.sample(20, seed=1).image[:, 0].tolist()
    assert picked == sorted(set(picked))
    assert len(picked) == 20
    assert picked == pairs.sample(20, seed=1).image[:, 0].tolist()
    assert picked != pairs.sample(20, seed=2).image[:, 0].tolist()
    assert_rows(numbered().sample(6), [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("n", [0, -1, 7])
def test_sample_refuses(n: int) -> None:
    with pytest.raises(HeadwordError, match=f"cannot sample {n} of 6 pairs"):
        numbered().sample(n)


def test_weighted_multiplies_and_checks() -> None:
    assert numbered().weighted(2).weight.tolist() == [2, 4, 6, 8, 10, 12]
    with pytest.raises(HeadwordError, match="weights must be positive"):
        numbered().weighted(0)


def test_sources_counts() -> None:
    assert numbered(5).sources == {"caption": 3, "head": 2}


def test_to_converts_every_tensor_and_nothing_else() -> None:
    pairs = numbered().to(dtype=torch.float64)
    assert {pairs.image.dtype, pairs.text.dtype, pairs.weight.dtype} == {torch.float64}
    assert_rows(pairs, [0, 1, 2, 3, 4, 5])


def test_equality_is_identity() -> None:
    pairs = numbered()
    assert pairs == pairs
    assert pairs != numbered()
    assert len({pairs, numbered()}) == 2
