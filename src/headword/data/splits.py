"""Which part of a set is taken where none is named. "a+b" names two parts at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

TRAINED = ("train",)
"""What a model is trained on."""

WATCHED = ("val", "valid", "validation", "test")
"""What a training run is watched by, the first that there is."""

TESTED = ("test", "val", "valid", "validation")
"""What a model is measured on, likewise."""


def chosen_split(splits: Collection[str], order: Sequence[str]) -> str | None:
    """The first of `order` that a set has; None where it has none of them, which means all of it."""
    return next((name for name in order if name in splits), None)


def parts(split: str) -> set[str]:
    """The splits that "train+restval" names."""
    return set(split.split("+"))


def pooled(splits: Collection[str | None]) -> str | None:
    """The name of all of a set, from the split of each item: "restval+train", or None where one has none."""
    names = {name for name in splits if name is not None}
    return "+".join(sorted(names)) if names and None not in splits else None
