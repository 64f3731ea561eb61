"""What is in a picture: one group of like shapes, or two that stand in a relation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from headword.cache import key_of

T = TypeVar("T")

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
COLOURS = {
    "red": (215, 40, 40), "orange": (245, 140, 30), "yellow": (245, 225, 50), "green": (50, 160, 60),
    "blue": (45, 85, 215), "purple": (140, 60, 170), "black": (20, 20, 20), "white": (245, 245, 245),
}  # fmt: skip
"""Names and the RGB values that pictures vary around."""

SIZES = {"small": (0.070, 0.085), "large": (0.125, 0.150)}
"""Names and the range of half a shape's width, as a share of the picture's side."""

RELATIONS = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
"""How the first group stands to the second, and the second to the first."""

MOST = 4
"""Shapes in a picture, at most."""


def held_out(shape: str, colour: str) -> bool:
    """Whether a combination is never seen in training.

    Of the 8 × 8 combinations 16 are held out, two in each row and column (every fourth diagonal), so that
    every shape and every colour is seen often, but in other company.
    """
    return (SHAPES.index(shape) + tuple(COLOURS).index(colour)) % 4 == 0


_KINDS = {
    held: [(shape, colour) for shape in SHAPES for colour in COLOURS if held_out(shape, colour) == held]
    for held in (False, True)
}


@dataclass(frozen=True, slots=True)
class Group:
    """Shapes that are alike."""

    count: int
    size: str
    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One group, or two with a relation of the first to the second."""

    groups: tuple[Group, ...]
    relation: str | None = None

    @property
    def total(self) -> int:
        """Shapes in the picture."""
        return sum(group.count for group in self.groups)


class Dice:
    """Random choices from a seed of any parts; the same with every version of Python.

    Only `random.Random.random` is used, whose sequence Python promises to keep.
    """

    def __init__(self, *parts: str | int) -> None:
        self._random = random.Random(int.from_bytes(key_of(*parts), "little")).random

    def below(self, n: int) -> int:
        """A whole number from 0 to n − 1."""
        return int(self._random() * n)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def between(self, low: float, high: float) -> float:
        """A number of a range."""
        return low + (high - low) * self._random()


def draw_scene(dice: Dice, *, held: bool) -> Scene:
    """A scene at random: half of them one group, half of them two with a relation.

    Where `held`, every group is a held-out combination of shape and colour, else none is.
    """
    if dice.below(2):
        return Scene((_group(dice, 1 + dice.below(MOST), held),))
    first = 1 + dice.below(MOST - 1)
    groups = [_group(dice, first, held), _group(dice, 1 + dice.below(MOST - first), held)]
    while (groups[1].shape, groups[1].colour) == (groups[0].shape, groups[0].colour):
        groups[1] = _group(dice, groups[1].count, held)
    return Scene(tuple(groups), dice.pick(list(RELATIONS)))


def _group(dice: Dice, count: int, held: bool) -> Group:
    shape, colour = dice.pick(_KINDS[held])
    return Group(count, dice.pick(list(SIZES)), colour, shape)
