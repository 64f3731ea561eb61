"""shapes: a generated set of coloured shapes, made to ask what a model sees of a picture.

Nothing is stored: `Shapes(split)[index]` is a pure function of (seed, split, index). See docs/shapes.md.
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

from PIL import Image

from headword.data.shapes.drawing import draw, masks
from headword.data.shapes.scene import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    Dice,
    Group,
    Scene,
    draw_scene,
    held_out,
)
from headword.data.shapes.wording import ATTRIBUTES, Question, caption, captions, questions, rewritten
from headword.errors import HeadwordError

__all__ = [
    "ATTRIBUTES", "COLOURS", "RELATIONS", "SHAPES", "SIZES", "Example", "Group", "Question", "Scene",
    "Shapes", "held_out", "questions",
]  # fmt: skip

SPLITS = {"train": 20_000, "val": 500, "test": 500}
"""The splits and how many pictures they have unless said otherwise. In "train" and "val" no combination of
shape and colour is held out, in "test" every one is."""

_VERSION = 1  # of what is drawn and said; a change makes another set


class Example(NamedTuple):
    """One picture and what is said of it."""

    scene: Scene
    image: Image.Image
    caption: str
    """In the standard form."""
    captions: tuple[str, ...]
    """In varied words; the last leaves sizes and the relation out."""
    rewritten: str
    """At length, in sentences."""


class Shapes:
    """Pictures of coloured shapes: example i is a pure function of (seed, split, i).

    Args:
        split: "train", "val" or "test"; see `SPLITS`.
        images: how many; the split's own number when not given. A longer set begins with the shorter one.
        size: side of a picture in pixels. What is on it does not depend on the size.
        seed: of all chance.

    Raises:
        HeadwordError: for a split that does not exist, no images, or pictures under 16 pixels.
    """

    def __init__(self, split: str = "train", *, images: int | None = None, size: int = 64, seed: int = 0):
        if split not in SPLITS:
            raise HeadwordError(f"shapes has no split {split!r}; its splits are {', '.join(SPLITS)}")
        self.split, self.size, self.seed = split, size, seed
        self.images = SPLITS[split] if images is None else images
        if self.images < 1 or size < 16:
            raise HeadwordError(
                f"shapes needs at least one image of at least 16 pixels, got images={images}, size={size}"
            )

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Example:
        scene = self.scene(index)
        return Example(scene, self.picture(index), caption(scene), *self.text(index))

    def picture(self, index: int) -> Image.Image:
        """An example's picture alone."""
        return draw(self.scene(index), self._dice("picture", index), self.size)

    def masks(self, index: int) -> list[tuple[Group, Image.Image]]:
        """What each shape of an example is, and its pixels: white in a picture that is black elsewhere."""
        return masks(self.scene(index), self._dice("picture", index), self.size)

    def text(self, index: int) -> tuple[tuple[str, ...], str]:
        """An example's captions and the re-written one, without its picture."""
        scene, words = self.scene(index), self._dice("words", index)
        return captions(scene, words), rewritten(scene, words)

    def scene(self, index: int) -> Scene:
        """What is on a picture, without drawing it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return draw_scene(self._dice("scene", index), held=self.split == "test")

    @property
    def fingerprint(self) -> str:
        """sha256 over all that the set depends on."""
        settings = ["shapes", _VERSION, self.split, self.images, self.size, self.seed]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def _dice(self, part: str, index: int) -> Dice:
        return Dice("shapes", _VERSION, part, self.seed, self.split, index)
