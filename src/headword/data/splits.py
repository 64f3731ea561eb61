"""Which part of a set is taken where none is named. "a+b" names two parts at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from headword.errors import HeadwordError

# The first of these that there is: what a model is trained on, what its training is watched by, and what it
# is measured on.
TRAINED = ("train",)
WATCHED = ("val", "valid", "validation", "test")
TESTED = ("test", "val", "valid", "validation")

T = TypeVar("T")


def chosen_split(splits: Collection[str], order: Sequence[str]) -> str | None:
    """The first of `order` that a set has; None where it has none of them, which means all of it."""
    return next((name for name in order if name in splits), None)


def of_split(
    rows: Sequence[T], splits: Sequence[str | None], split: str | None, default: Sequence[str], source: object
) -> list[T]:
    """The rows of a split, given the split of each; all of them where none is named nor chosen."""
    present = {name for name in splits if name is not None}
    split = split or chosen_split(present, default)
    if split is None:
        return list(rows)
    named = set(split.split("+"))
    if unknown := sorted(named - present):
        known = f"its splits are {', '.join(sorted(present))}" if present else "it has no splits"
        raise HeadwordError(f"{source} has no split {unknown[0]!r}; {known}")
    return [row for row, name in zip(rows, splits, strict=True) if name in named]


def pooled(splits: Collection[str | None]) -> str | None:
    """The name of all of a set, from the split of each item: "restval+train", or None where one has none."""
    names = {name for name in splits if name is not None}
    return "+".join(sorted(names)) if names and None not in splits else None
