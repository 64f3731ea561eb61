"""Maps of words over a picture: how much each place adds to the cosine of the picture and the words.

A classifier's feature is a mean over places, and the image side of an aligner is linear but for its norm, so
that the cosine is a mean of places' shares: class activation maps (Zhou et al. 2016) for any words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from headword.aligners import Aligner
from headword.aligners.pairs import Pairs
from headword.dense.places import DenseFeatures, DenseReader, place_readers
from headword.encoders import VisionEncoder
from headword.errors import HeadwordError
from headword.extract.given import given
from headword.scoring.calibration import Scores, taught_rows

SMALLEST, LARGEST = 32, 2048
"""Sides in pixels that a picture may be read at."""

FINER = 4
"""The default size over the classifier's own: 896 pixels for one of 224."""

FITS = 2.25
"""Deviations of its rows' cosines; nine of ten words that fit nothing stay below (docs/locate.md)."""

_STEP = 32  # pixels; what backbones shrink by
_MOST_ROWS = 4_000


@dataclass
class Locator:
    """Maps of one model; keeps what it found out about its backbones."""

    vision: VisionEncoder
    aligner: Aligner
    pairs: Pairs | None
    scores: Scores
    scales: tuple[float, ...] = (1.0, 0.5)
    """Of the size: the passes that a refined map is the mean of."""
    blur: float = 1.0
    """Deviation, in places, of the Gaussian that each of them is smoothed with."""
    pull: float = 1.0
    """To the middle: of the map's range, what a corner of the picture loses half of."""

    @cached_property
    def readers(self) -> list[DenseReader]:
        """One for each backbone; raises `HeadwordError` for one that has no places."""
        return place_readers(self.vision)

    @cached_property
    def resizes(self) -> bool:
        """Whether all backbones read pictures of other sizes and shapes than they were trained at."""
        step = 2 * _STEP
        sizes = [reader.source.input_size for reader in self.readers]
        moved = [(height + step, width + 2 * step) for height, width in sizes]
        return all(reader.takes(*size) for reader, size in zip(self.readers, moved, strict=True))

    @property
    def own_size(self) -> int:
        """The longer side, in pixels, of what the classifier reads; the largest of several."""
        return max(max(reader.source.input_size) for reader in self.readers)

    @cached_property
    def exact(self) -> bool:
        """Whether shares add up to the cosine: the features are means over places."""
        return all(reader.exact for reader in self.readers)

    def size(self, size: int | None) -> int:
        """The size to read at: the one asked for, or the finest default that the backbones take.

        Raises:
            HeadwordError: if it is out of bounds, or the backbones only take their own.
        """
        if size is None:
            return min(LARGEST, round(self.own_size * FINER)) if self.resizes else self.own_size
        if not SMALLEST <= size <= LARGEST and size != self.own_size:
            raise HeadwordError(f"size must be {SMALLEST} to {LARGEST} pixels, got {size}")
        if size != self.own_size and not self.resizes:
            raise HeadwordError(
                f"{self.vision.name} reads pictures of {self.own_size} pixels alone; leave the size out"
            )
        return size

    def each(self, images: object, words: Tensor, *, size: int | None, refine: bool) -> Iterator[Tensor]:
        """A map `[L, h, w]` for each image, of unit-norm words `[L, D]`; see `DualEncoder.locate`."""
        source = given(images)
        if isinstance(source, Tensor) and source.ndim != 4:
            raise HeadwordError("features have no places; give images")
        if isinstance(source, Tensor):
            for pixels in source:
                parts = zip(self.readers, self._parts(pixels), strict=True)
                yield self.shares([reader(part) for reader, part in parts], words)
            return
        chosen = self.size(size)
        for items in source:
            for item in items:
                yield self.map(item.read(chosen), words, chosen, refine=refine)

    def features(self, picture: Image.Image) -> Tensor:
        """The features `[d, h, w]` of an RGB picture's places, by one pass at the default size."""
        return self._joined(self.read(picture, self.size(None)))

    def map(self, picture: Image.Image, words: Tensor, size: int, *, refine: bool) -> Tensor:
        """The map `[L, h, w]` of one RGB picture."""
        if not refine:
            return self.shares(self.read(picture, size, own=size == self.own_size), words)
        return self.maps([self.read(picture, one) for one in self.sizes(size)], words)

    def sizes(self, size: int) -> list[int]:
        """What a refined map is read at, the largest first."""
        found = {max(round(size * scale), min(size, self.own_size)) for scale in self.scales}
        return sorted(found, reverse=True)

    def maps(self, passes: Sequence[list[DenseFeatures]], words: Tensor) -> Tensor:
        """The refined map `[L, h, w]` of unit-norm words `[L, D]` over a picture that was read at `sizes`."""
        return self.refined([self.shares(parts, words) for parts in passes])

    def least(self, words: Tensor) -> list[float]:
        """The share that the strongest place of each of the words `[L, D]` has, where they fit at all.

        `FITS` times how far the head's own rows differ in what they say of the word: little for a word that
        the head hardly knows. Without rows it is as many times the threshold from which a label holds.
        """
        if self.pairs is None:
            return [FITS * self.scores.threshold] * len(words)
        known = taught_rows(self.pairs)
        known = known.sample(_MOST_ROWS, seed=0) if len(known) > _MOST_ROWS else known
        with torch.inference_mode():
            rows = self.aligner.image(known.image.to(self.aligner.centre_))
            return (FITS * (words.to(rows) @ rows.T).std(dim=1)).tolist()

    def refined(self, passes: Sequence[Tensor]) -> Tensor:
        """Maps `[L, h, w]` of a picture, the finest first, as one: smooth, averaged, pulled to the middle."""
        from scipy.ndimage import gaussian_filter

        blur, (height, width) = (0, self.blur, self.blur), passes[0].shape[1:]
        smooth = [torch.from_numpy(gaussian_filter(one.numpy(), blur, mode="nearest")) for one in passes]
        total = torch.stack([resized(one, height, width) for one in smooth]).mean(dim=0)
        return _towards_the_middle(total, self.pull)

    def shares(self, parts: list[DenseFeatures], words: Tensor) -> Tensor:
        """Features of each backbone → shares `[L, h, w]` of the cosines with words `[L, D]`."""
        cells = self._joined(parts)
        height, width = cells.shape[1:]
        whole = torch.cat([part.whole for part in parts])
        device = self.aligner.centre_.device
        with torch.inference_mode():
            vectors = self.aligner.places(cells.flatten(1).T.to(device), whole.to(device))  # [h·w, D]
            return (words.to(vectors) @ vectors.T).float().cpu().view(-1, height, width)

    @staticmethod
    def _joined(parts: list[DenseFeatures]) -> Tensor:
        """Features `[Σd, h, w]` of the parts, on the finest of their grids."""
        height, width = max((part.cells.shape[1:] for part in parts), key=lambda grid: grid[0] * grid[1])
        return torch.cat([part.resized(height, width).cells for part in parts])

    def read(self, picture: Image.Image, size: int, *, own: bool = False) -> list[DenseFeatures]:
        """A picture's places: all of it at a size, or just what the classifier itself would read."""
        parts = []
        for reader in self.readers:
            if own:
                pixels = reader.source.transform(picture)
            elif self.resizes:
                scale = size / max(picture.size)
                sides = [max(_STEP, round(side * scale / _STEP) * _STEP) for side in picture.size]
                pixels = reader.pixels(picture, sides[0], sides[1])
            else:
                height, width = reader.source.input_size
                pixels = reader.pixels(picture, width, height)
            parts.append(reader(pixels))
        return parts

    def _parts(self, pixels: Tensor) -> list[Tensor]:
        """One transformed picture for each backbone; a joint encoder's transform puts them end to end."""
        if len(self.readers) == 1:
            return [pixels]
        sizes = [reader.source.input_size for reader in self.readers]
        ends = torch.split(pixels, [height * width for height, width in sizes], dim=2)
        return [end.reshape(3, *size) for end, size in zip(ends, sizes, strict=True)]


def resized(shares: Tensor, height: int, width: int) -> Tensor:
    """A map `[L, h, w]` on another grid."""
    return F.interpolate(shares[None], size=(height, width), mode="bilinear", antialias=True)[0]


def _towards_the_middle(shares: Tensor, pull: float) -> Tensor:
    """A map `[L, h, w]` that loses towards the picture's edges: what people photograph is rarely there."""
    down, right = ((torch.arange(side) + 0.5) / side - 0.5 for side in shares.shape[1:])
    flat = shares.flatten(1)
    spread = (flat.amax(dim=1) - flat.amin(dim=1))[:, None, None]
    return shares - pull * spread * (down[:, None] ** 2 + right**2)
