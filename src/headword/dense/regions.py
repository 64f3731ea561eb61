"""From maps to answers: boxes, masks of several labels, and a picture of a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from headword.dense.maps import resized
from headword.results import Table, columns_of

BACKGROUND = ("background", "sky", "ground", "wall")
"""Words that compete for places with those that masks are asked for."""

_LEVEL = 0.5  # of the way from a map's median to its peak; what is above belongs to a region
_PRIOR = 0.6  # of a label's mean share, which its places lose: the main thing wins everywhere otherwise
_PANEL, _COLUMNS, _TITLE = 1024, 4, 20  # of an overlay: pixels a side at most, panels a row, pixels of words
_ROWS = 1 << 24  # numbers that are in memory at once, of maps at the size of a picture

# The ends and the middle of cividis, which all kinds of eyes tell apart.
_DARK, _MIDDLE, _BRIGHT = "#00204d", "#7c7b78", "#ffea46"


@dataclass(frozen=True, slots=True)
class Region:
    """A connected part of a picture where words are; lengths are shares of its width and height."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""
    point: tuple[float, float]
    """(x, y) of its strongest place."""
    share: float
    """That place's share of the cosine."""


class Regions(Table, list[Region]):
    """Regions of a picture, the strongest first."""

    def columns(self) -> dict[str, list[Any]]:
        """The fields of the regions, a row for each."""
        return columns_of(Region, self)


def regions(shares: Tensor, *, least: float = 0.0) -> Regions:
    """Where one map `[h, w]` is high, the strongest region first: what is connected and above the middle
    between the map's median and its peak. None where the map is flat, or no place reaches `least`.
    """
    from scipy import ndimage

    array = shares.numpy()
    height, width = array.shape
    peak, median = float(shares.max()), float(shares.median())
    if peak < least or peak - median < 1e-6:
        return Regions()
    parts, _ = ndimage.label(array > median + _LEVEL * (peak - median))
    found = []
    for part, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        y, x = ndimage.maximum_position(array, parts, part)
        box = columns.start / width, rows.start / height, columns.stop / width, rows.stop / height
        found.append(Region(box, ((x + 0.5) / width, (y + 0.5) / height), float(array[y, x])))
    return Regions(sorted(found, key=lambda region: -region.share))


def segment(shares: Tensor, height: int, width: int) -> Tensor:
    """Maps `[L, h, w]` → the place in L of each pixel's label, `[height, width]`."""
    level = shares - _PRIOR * shares.mean(dim=(1, 2), keepdim=True)
    wide = resized(level, shares.shape[1], width)  # [L, h, width]; the rest a stretch of rows at a time
    at = ((torch.arange(height) + 0.5) * shares.shape[1] / height - 0.5).clamp(0, shares.shape[1] - 1)
    above, part = at.floor().long(), at.frac()[:, None]
    below = (above + 1).clamp(max=shares.shape[1] - 1)
    rows = max(1, _ROWS // (len(shares) * width))
    pieces = [
        torch.lerp(wide[:, above[some]], wide[:, below[some]], part[some]).argmax(dim=0)
        for some in torch.split(torch.arange(height), rows)
    ]
    return torch.cat(pieces)


def mask_image(labels: Tensor, words: int) -> Image.Image:
    """A picture of class ids of what `segment` gave: the first `words` are 1, 2, …, all others 0."""
    numbers = torch.where(labels < words, labels + 1, 0).to(torch.uint8)
    return Image.fromarray(numbers.numpy())


def overlay(
    picture: Image.Image, shares: Tensor, words: Sequence[str], found: Sequence[Sequence[Region]]
) -> Image.Image:
    """A panel for each of the words: the picture, at most 1,024 pixels a side, under their map `[L, h, w]`
    from dark to bright, and frames about their regions.
    """
    picture = ImageOps.contain(picture, (_PANEL, _PANEL)) if max(picture.size) > _PANEL else picture
    width, height = picture.size
    columns, rows = min(_COLUMNS, len(words)), -(-len(words) // _COLUMNS)
    panels = Image.new("RGB", (width * columns, (height + _TITLE) * rows), "white")
    pen = ImageDraw.Draw(panels)
    for n, (word, one, its) in enumerate(zip(words, shares, found, strict=True)):
        x, y = n % _COLUMNS * width, n // _COLUMNS * (height + _TITLE) + _TITLE
        spread = (one.max() - one.min()).clamp_min(1e-6)
        levels = ((one - one.min()) / spread * 255).to(torch.uint8).numpy()
        grey = Image.fromarray(levels).resize(picture.size, Image.Resampling.BICUBIC)
        heat = ImageOps.colorize(grey, _DARK, _BRIGHT, mid=_MIDDLE)
        panels.paste(Image.blend(picture, heat, 0.6), (x, y))
        pen.text((x + 4, y - 16), word, fill="black")
        for region in its:
            left, top, right, bottom = (
                round(share * side) for share, side in zip(region.box, (width, height) * 2, strict=True)
            )
            pen.rectangle((x + left, y + top, x + right - 1, y + bottom - 1), outline="white", width=2)
    return panels
