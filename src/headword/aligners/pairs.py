"""Pairs of image-side and text-side vectors: all that an aligner ever sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headword.errors import HeadwordError

HEAD = "head"  # the source of a classifier's rows with their class names

ROW_SOURCES = frozenset({HEAD, "synonym", "definition", "kind", "hypernym"})
"""Sources whose image side is rows, or means of rows; the other sources are of images."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Rows of two matrices that mean the same thing, with where each row came from and how much it counts.

    The rows are kept as they came; aligners bring both sides to unit norm and the weights to mean 1, so that
    fit and use cannot differ. Two `Pairs` are equal only if they are the same object.

    Args:
        image: `[N, d]` head rows, image features or their averages.
        text: `[N, k]` text embeddings.
        names: N texts, what each row's text side said.
        source: N short words for where each row came from: "head", "caption", "class-mean", "user".
        weight: `[N]` positive weights ω; ones when not given.

    Raises:
        HeadwordError: if the lengths or devices differ, there are no rows, or a value is not floating-point
            or not finite or a weight not positive.
    """

    image: Tensor
    text: Tensor
    names: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    weight: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        n = len(self.image)
        object.__setattr__(self, "names", tuple(self.names) or ("",) * n)
        object.__setattr__(self, "source", tuple(self.source) or ("user",) * n)
        if not self.weight.numel():
            object.__setattr__(self, "weight", self.image.new_ones(n))
        if self.image.ndim != 2 or self.text.ndim != 2:
            shapes = f"{list(self.image.shape)} and {list(self.text.shape)}"
            raise HeadwordError(f"pairs need two matrices, got shapes {shapes}")
        if n == 0:
            raise HeadwordError("there are no pairs; give at least one class name or caption")
        lengths = {name: len(getattr(self, name)) for name in ("image", "text", "names", "source", "weight")}
        if set(lengths.values()) != {n}:
            each = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise HeadwordError(f"the parts of the pairs differ in length: {each}")
        for name in ("image", "text", "weight"):
            side = getattr(self, name)
            if not side.is_floating_point():
                raise HeadwordError(f"the {name} side of the pairs must be floating-point, got {side.dtype}")
            if side.device != self.image.device:
                raise HeadwordError(
                    f"the {name} side of the pairs is on {side.device} but the image side on "
                    f"{self.image.device}; bring both to one device"
                )
            bad = ~torch.isfinite(side).reshape(n, -1).all(dim=1)
            if bad.any():
                rows = bad.nonzero().flatten().tolist()
                raise HeadwordError(
                    f"{len(rows)} of {n} pairs have a NaN or infinite value in their {name} side, "
                    f"the first in row {rows[0]} ({self.names[rows[0]]!r})"
                )
        if (self.weight <= 0).any():
            raise HeadwordError(
                "pair weights must be positive; leave a row out instead of giving it weight 0"
            )

    def __len__(self) -> int:
        return len(self.image)

    @property
    def sources(self) -> dict[str, int]:
        """How many rows came from each source."""
        return dict(Counter(self.source))

    def __getitem__(self, rows: Sequence[int] | Sequence[bool] | Tensor | slice) -> Pairs:
        """The pairs of some rows: indices, a boolean mask or a slice."""
        if isinstance(rows, slice):
            rows = range(len(self))[rows]
        chosen = torch.as_tensor(rows).cpu()
        # An empty list has no type of its own; as indices it says "no rows", which the check refuses by name.
        index = torch.arange(len(self))[chosen if chosen.numel() else chosen.long()]
        image, text, weight = (side[index.to(side.device)] for side in (self.image, self.text, self.weight))
        names, source = (tuple(side[i] for i in index.tolist()) for side in (self.names, self.source))
        return Pairs(image, text, names, source, weight)

    def __add__(self, other: Pairs) -> Pairs:
        """Both pairs' rows, one after the other."""
        for side in ("image", "text"):
            ours, theirs = getattr(self, side).shape[1], getattr(other, side).shape[1]
            if ours != theirs:
                raise HeadwordError(
                    f"pairs of different {side} widths cannot be joined: {ours} and {theirs}; "
                    "they come from different encoders"
                )
        names, source = self.names + other.names, self.source + other.source
        image, text = torch.cat([self.image, other.image]), torch.cat([self.text, other.text])
        return Pairs(image, text, names, source, torch.cat([self.weight, other.weight]))

    def sample(self, n: int, *, seed: int = 0) -> Pairs:
        """`n` rows drawn without replacement, in their old order."""
        if not 0 < n <= len(self):
            raise HeadwordError(f"cannot sample {n} of {len(self)} pairs")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self[order[:n].sort().values]

    def weighted(self, factor: float) -> Pairs:
        """The same rows, each weight multiplied by the positive `factor`."""
        return Pairs(self.image, self.text, self.names, self.source, self.weight * factor)

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Pairs:
        """The same rows on another device or in another precision."""
        image, text, weight = (t.to(device=device, dtype=dtype) for t in (self.image, self.text, self.weight))
        return Pairs(image, text, self.names, self.source, weight)


def distinct(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """The first place of each different key, in their order, and for each place the number of its key."""
    first: dict[Hashable, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    number = {key: n for n, key in enumerate(first)}
    return list(first.values()), [number[key] for key in keys]
