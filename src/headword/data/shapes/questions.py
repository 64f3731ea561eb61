"""Fine-grained questions: captions of one picture that differ in exactly one attribute, one of them right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from headword.data.shapes.scene import COLOURS, MOST, RELATIONS, SHAPES, SIZES, Group, Scene
from headword.data.shapes.wording import caption

ATTRIBUTES = ("colour", "shape", "size", "count", "relation")


@dataclass(frozen=True, slots=True)
class Question:
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
    asked = []
    for place, group in enumerate(scene.groups):
        for attribute, others in _others(scene, group):
            changed = [_with(scene, place, other) for other in others]
            asked.append(Question(attribute, (caption(scene), *map(caption, changed))))
    if scene.relation is not None:
        wrong = [replace(scene, relation=other) for other in RELATIONS if other != scene.relation]
        asked.append(Question("relation", (caption(scene), *map(caption, wrong))))
    return asked


def _others(scene: Scene, group: Group) -> Iterator[tuple[str, list[Group]]]:
    """For each attribute of a group: the group with every other value of it."""
    yield "colour", [replace(group, colour=c) for c in COLOURS if c != group.colour]
    yield "shape", [replace(group, shape=s) for s in SHAPES if s != group.shape]
    yield "size", [replace(group, size=s) for s in SIZES if s != group.size]
    most = MOST - (scene.total - group.count)
    counts = [n for n in range(1, most + 1) if n != group.count]
    if counts:
        yield "count", [replace(group, count=n) for n in counts]


def _with(scene: Scene, place: int, group: Group) -> Scene:
    groups = (*scene.groups[:place], group, *scene.groups[place + 1 :])
    return replace(scene, groups=groups)
