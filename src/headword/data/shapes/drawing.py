"""A scene as a picture, with what does not matter left to chance: place, tilt, tints, background."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from PIL import Image, ImageDraw

from headword.data.shapes.scene import COLOURS, SIZES, Dice, Group, Scene

Point = tuple[float, float]
Place = tuple[Group, Point, float]
Region = tuple[float, float, float, float]

_FINER = 4  # drawn at this many times the size, then averaged
_TILT = math.radians(15)
_TINT = 14  # most that a colour channel differs from the colour's own
_GAP = 1.15  # least distance of two shapes' centres, in sums of their radii
_MARGIN = 0.02
_TRIES = 200


def draw(scene: Scene, dice: Dice, size: int) -> Image.Image:
    """The scene as an RGB picture of `size` × `size` pixels."""
    background, shapes = _drawn(scene, dice, size * _FINER)
    pen = ImageDraw.Draw(background)
    for _, outline, ink in shapes:
        pen.polygon(outline, fill=ink)
    return background.reduce(_FINER)


def masks(scene: Scene, dice: Dice, size: int) -> list[tuple[Group, Image.Image]]:
    """Each shape of the picture that `draw` makes of the same dice, and where it is: white on black."""
    found = []
    for group, outline, _ in _drawn(scene, dice, size)[1]:
        mask = Image.new("L", (size, size))
        ImageDraw.Draw(mask).polygon(outline, fill="white")
        found.append((group, mask))
    return found


def _drawn(
    scene: Scene, dice: Dice, side: int
) -> tuple[Image.Image, list[tuple[Group, list[Point], tuple[int, ...]]]]:
    """The background, and each shape's outline on it and ink."""
    background = _background(dice).resize((side, side), Image.Resampling.BILINEAR)
    shapes = []
    for group, (x, y), radius in _placed(scene, dice):
        turn = dice.between(-_TILT, _TILT)
        ink = tuple(_tinted(channel, dice) for channel in COLOURS[group.colour])
        sine, cosine = radius * math.sin(turn), radius * math.cos(turn)
        outline = [
            (side * (x + cosine * u - sine * v), side * (y + sine * u + cosine * v))
            for u, v in _OUTLINES[group.shape]
        ]
        shapes.append((group, outline, ink))
    return background, shapes


def _background(dice: Dice) -> Image.Image:
    """Four muted corners: greys, a little tinted, neither black nor white."""
    grey = dice.between(105, 165)
    corners = bytes(int(grey + dice.between(-22, 22)) for _ in range(12))
    return Image.frombytes("RGB", (2, 2), corners)


def _tinted(channel: int, dice: Dice) -> int:
    return min(255, max(0, round(channel + dice.between(-_TINT, _TINT))))


def _placed(scene: Scene, dice: Dice) -> list[Place]:
    """A place and a radius for each shape: none overlap, the relation holds for every pair across the groups,
    and no other relation could be meant."""
    members = [group for group in scene.groups for _ in range(group.count)]
    while True:
        line = dice.between(0.42, 0.58)
        places: list[Place] = []
        for group in members:
            radius = dice.between(*SIZES[group.size])
            region = _region(scene.relation, group is scene.groups[0], line)
            if (point := _free(region, radius, places, dice)) is None:
                break
            places.append((group, point, radius))
        if len(places) == len(members) and _clear(scene, places):
            return places


def _region(relation: str | None, first: bool, line: float) -> Region:
    """Left, top, right, bottom of where a group may stand."""
    before = first == (relation in ("left of", "above"))  # left of the line, or above it
    low, high = (0.0, line) if before else (line, 1.0)
    if relation in ("left of", "right of"):
        return low, 0.0, high, 1.0
    if relation in ("above", "below"):
        return 0.0, low, 1.0, high
    return 0.0, 0.0, 1.0, 1.0


def _clear(scene: Scene, places: Sequence[Place]) -> bool:
    """Whether the groups' middles lie at least twice as far apart along the relation as across it."""
    if scene.relation is None:
        return True
    first, second = ([p for member, p, _ in places if member is group] for group in scene.groups)
    x, y = (abs(fmean(p[axis] for p in first) - fmean(p[axis] for p in second)) for axis in (0, 1))
    along, across = (x, y) if scene.relation in ("left of", "right of") else (y, x)
    return along >= 2 * across


def _free(region: Region, radius: float, taken: Sequence[Place], dice: Dice) -> Point | None:
    """A point of a region where a shape of this radius touches none of the others, if one is found."""
    edge = radius * 1.1 + _MARGIN
    left, top, right, bottom = region
    reach = [(*place, (_GAP * (radius + other)) ** 2) for _, place, other in taken]
    for _ in range(_TRIES):
        x, y = dice.between(left + edge, right - edge), dice.between(top + edge, bottom - edge)
        if all((x - u) ** 2 + (y - v) ** 2 >= nearest for u, v, nearest in reach):
            return x, y
    return None


def _arc(radius: float, start: float, stop: float, n: int = 48, x: float = 0.0) -> list[Point]:
    """Points on a circle about (x, 0), angles in turns."""
    angles = (2 * math.pi * (start + (stop - start) * i / n) for i in range(n + 1))
    return [(x + radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _star() -> list[Point]:
    radii = (1.1, 0.45) * 5
    return [(r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5)) for i, r in enumerate(radii)]


def _heart() -> list[Point]:
    cos, turns = math.cos, [2 * math.pi * i / 48 for i in range(48)]
    heights = [(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) / 16 for t in turns]
    return [(math.sin(t) ** 3, -height) for t, height in zip(turns, heights, strict=True)]


def _moon() -> list[Point]:
    """A crescent: what a circle leaves of another when it covers it from the right."""
    apart, radius = 0.55, 0.85
    x = (1 + apart**2 - radius**2) / (2 * apart)  # where the two circles meet
    outer, inner = math.acos(x) / (2 * math.pi), math.acos((x - apart) / radius) / (2 * math.pi)
    return _arc(1.0, outer, 1 - outer) + _arc(radius, 1 - inner, inner, x=apart)


_THIRD = 0.34
_OUTLINES: dict[str, list[Point]] = {
    "circle": _arc(0.95, 0, 1),
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0, -1.0), (1.0, 0.8), (-1.0, 0.8)],
    "star": _star(),
    "cross": [
        (-_THIRD, -1), (_THIRD, -1), (_THIRD, -_THIRD), (1, -_THIRD), (1, _THIRD), (_THIRD, _THIRD),
        (_THIRD, 1), (-_THIRD, 1), (-_THIRD, _THIRD), (-1, _THIRD), (-1, -_THIRD), (-_THIRD, -_THIRD),
    ],
    "ring": _arc(1.0, 0, 1) + _arc(0.5, 1, 0),
    "heart": _heart(),
    "moon": _moon(),
}  # fmt: skip
"""Each shape's outline, about as wide as the circle of radius 1."""
