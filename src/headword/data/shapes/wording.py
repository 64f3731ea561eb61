"""What is said of a scene: in one standard form, in the ways people vary it, and at length.

And what is asked of it: captions of one picture that differ in exactly one attribute, one of them right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from headword.data.shapes.scene import COLOURS, MOST, RELATIONS, SHAPES, SIZES, Dice, Group, Scene

ATTRIBUTES = ("colour", "shape", "size", "count", "relation")

_NUMBERS = ("no", "one", "two", "three", "four")
_SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_RELATIONS = {
    "left of": ("left of", "to the left of", "on the left side of"),
    "right of": ("right of", "to the right of", "on the right side of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}
_PLACES = {
    "left of": ("on the left", "on the right"),
    "right of": ("on the right", "on the left"),
    "above": ("at the top", "at the bottom"),
    "below": ("at the bottom", "at the top"),
}
_OPENINGS = ("", "", "a picture of ", "an image with ", "a drawing of ", "here we see ")


def caption(scene: Scene) -> str:
    """The standard form: all that is in the scene, in fixed words. Questions are asked in it."""
    phrases = [_phrase(group) for group in scene.groups]
    return f" {scene.relation} ".join(phrases)


def captions(scene: Scene, dice: Dice) -> tuple[str, str, str]:
    """Three captions in varied words: two say all, the third leaves sizes and the relation out."""
    return _varied(scene, dice), _varied(scene, dice), _brief(scene, dice)


def rewritten(scene: Scene, dice: Dice) -> str:
    """A longer caption, in whole sentences, as a model writes them that is asked to describe a picture."""
    opening = dice.pick(["The picture shows", "This image contains", "In this drawing there are"])
    shapes = f"{_NUMBERS[scene.total]} shape{'s' * (scene.total > 1)}"
    if opening.endswith("are") and scene.total == 1:
        opening = "In this drawing there is"
    if scene.relation is None:
        (group,) = scene.groups
        each = "It is" if group.count == 1 else "All of them are"
        kind = f"a {group.size} {group.colour} {group.shape}" if group.count == 1 else _plain(group)
        return f"{opening} {shapes}. {each} {kind}, and there is nothing else on the plain background."
    (first, second), (here, there) = scene.groups, _PLACES[scene.relation]
    sentences = [f"{_capital(here)} {_are(first)}.", f"{_capital(there)} {_are(second)}."]
    if dice.below(2):
        sentences.reverse()
    return f"{opening} {shapes} of two kinds. {' '.join(sentences)}"


def _varied(scene: Scene, dice: Dice) -> str:
    opening = dice.pick(_OPENINGS)
    if scene.relation is None:
        return opening + _phrase(scene.groups[0], dice)
    if dice.below(2):  # the same fact, from the other side
        scene = Scene(scene.groups[::-1], RELATIONS[scene.relation])
    assert scene.relation is not None
    first, second = (_phrase(group, dice) for group in scene.groups)
    if dice.below(4) == 0:
        here, there = _PLACES[scene.relation]
        return f"{here} {first} and {there} {second}"
    return f"{opening}{first} {dice.pick(_RELATIONS[scene.relation])} {second}"


def _brief(scene: Scene, dice: Dice) -> str:
    groups = scene.groups[::-1] if dice.below(2) else scene.groups
    return dice.pick(_OPENINGS) + " and ".join(_phrase(replace(group, size="")) for group in groups)


def _phrase(group: Group, dice: Dice | None = None) -> str:
    """ "two small red circles", perhaps with another word for the size."""
    if dice is not None:
        group = replace(group, size=dice.pick(_SIZES[group.size]))
    if group.count > 1:
        return f"{_NUMBERS[group.count]} {_plain(group)}"
    words = f"{group.size} {group.colour} {group.shape}".strip()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plain(group: Group) -> str:
    """ "small red circles" """
    plural = "crosses" if group.shape == "cross" else f"{group.shape}s"
    return f"{group.size} {group.colour} {plural}".strip()


def _are(group: Group) -> str:
    return f"there {'is' if group.count == 1 else 'are'} {_phrase(group)}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


class Question(NamedTuple):
    """Which of these captions is the picture's?"""

    attribute: str
    """What they differ in, one of `ATTRIBUTES`."""
    candidates: tuple[str, ...]
    """The right caption first; at least two, all different."""


def questions(scene: Scene) -> list[Question]:
    """All questions about a scene: one for each attribute of each group, and one for the relation.

    Colours and shapes are asked for among all eight, also where the caption is then of a combination that
    training has shown: a model that prefers what it has seen gets them wrong. Counts stay within what a
    picture may hold.
    """
    return [
        Question(attribute, (caption(scene), *map(caption, wrong)))
        for attribute, wrong in _wrong(scene)
        if wrong
    ]


def _wrong(scene: Scene) -> Iterator[tuple[str, list[Scene]]]:
    """For each attribute of each group, and for the relation: the scene with every other value of it."""
    for place, group in enumerate(scene.groups):
        most = MOST - (scene.total - group.count)
        values: dict[str, Iterable[Any]] = {
            "colour": COLOURS,
            "shape": SHAPES,
            "size": SIZES,
            "count": range(1, most + 1),
        }
        for attribute, all_of_it in values.items():
            others = [
                replace(group, **{attribute: value})
                for value in all_of_it
                if value != getattr(group, attribute)
            ]
            before, after = scene.groups[:place], scene.groups[place + 1 :]
            yield attribute, [replace(scene, groups=(*before, other, *after)) for other in others]
    if scene.relation is not None:
        yield "relation", [replace(scene, relation=other) for other in RELATIONS if other != scene.relation]
