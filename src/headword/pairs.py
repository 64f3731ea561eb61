"""Pairs of image-side and text-side vectors: all that an aligner ever sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headword.errors import HeadwordError


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows of two matrices that mean the same thing, with where each row came from and how much it counts.

    The rows are kept as they came; aligners normalise them (CONTRACTS: both sides unit norm, weights scaled to
    mean 1), so that fit and use cannot differ.

    Args:
        image: `[N, d]` head rows, image features or their averages.
        text: `[N, k]` text embeddings.
        names: N texts, what each row's text side said.
        source: N short words for where each row came from: "head", "caption", "class-mean", "user".
        weight: `[N]` positive weights ω; ones when not given.

    Raises:
        HeadwordError: if the lengths differ, there are no rows, or a value is not finite or a weight not positive.
    """

    image: Tensor
    text: Tensor
    names: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    weight: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        n = len(self.image)
        if not self.names:
            object.__setattr__(self, "names", ("",) * n)
        if not self.source:
            object.__setattr__(self, "source", ("user",) * n)
        if not self.weight.numel() and n:
            object.__setattr__(self, "weight", torch.ones(n, dtype=self.image.dtype, device=self.image.device))
        self._check()

    def _check(self) -> None:
        n = len(self.image)
        if self.image.ndim != 2 or self.text.ndim != 2:
            raise HeadwordError(
                f"pairs need two matrices, got shapes {list(self.image.shape)} and {list(self.text.shape)}"
            )
        if n == 0:
            raise HeadwordError("there are no pairs; give at least one class name or caption")
        lengths = {"image": n, "text": len(self.text), "names": len(self.names), "source": len(self.source)}
        lengths["weight"] = len(self.weight)
        if set(lengths.values()) != {n}:
            said = ", ".join(f"{k} {v}" for k, v in lengths.items())
            raise HeadwordError(f"the parts of the pairs differ in length: {said}")
        for name in ("image", "text", "weight"):
            bad = ~torch.isfinite(getattr(self, name)).reshape(n, -1).all(dim=1)
            if bad.any():
                rows = bad.nonzero().flatten().tolist()
                raise HeadwordError(
                    f"{len(rows)} of {n} pairs have a NaN or infinite value in their {name} side, "
                    f"the first in row {rows[0]} ({self.names[rows[0]]!r})"
                )
        if (self.weight <= 0).any():
            raise HeadwordError("pair weights must be positive; leave a row out instead of giving it weight 0")

    def __len__(self) -> int:
        return len(self.image)

    @property
    def sources(self) -> dict[str, int]:
        """How many rows came from each source."""
        return dict(Counter(self.source))

    def __getitem__(self, rows: Sequence[int] | Tensor | slice) -> Pairs:
        """The pairs of some rows: indices, a boolean mask or a slice."""
        index = torch.arange(len(self))[rows if isinstance(rows, slice) else torch.as_tensor(rows)]
        picked = index.tolist()
        on = index.to(self.image.device)
        return Pairs(
            image=self.image[on],
            text=self.text[on],
            names=tuple(self.names[i] for i in picked),
            source=tuple(self.source[i] for i in picked),
            weight=self.weight[on],
        )

    def __add__(self, other: Pairs) -> Pairs:
        """Both pairs' rows, one after the other."""
        for side in ("image", "text"):
            ours, theirs = getattr(self, side).shape[1], getattr(other, side).shape[1]
            if ours != theirs:
                raise HeadwordError(
                    f"pairs of different {side} widths cannot be joined: {ours} and {theirs}; "
                    "they come from different encoders"
                )
        return Pairs(
            image=torch.cat([self.image, other.image]),
            text=torch.cat([self.text, other.text]),
            names=self.names + other.names,
            source=self.source + other.source,
            weight=torch.cat([self.weight, other.weight]),
        )

    def sample(self, n: int, *, seed: int = 0) -> Pairs:
        """`n` rows drawn without replacement, in their old order.

        Raises:
            HeadwordError: if there are fewer than `n` rows.
        """
        if not 0 < n <= len(self):
            raise HeadwordError(f"cannot sample {n} of {len(self)} pairs")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self[order[:n].sort().values]

    def weighted(self, factor: float) -> Pairs:
        """The same rows, each weight multiplied by `factor`."""
        return Pairs(self.image, self.text, self.names, self.source, self.weight * factor)

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Pairs:
        """The same rows on another device or in another precision."""
        image, text, weight = (
            t.to(device=device, dtype=dtype) for t in (self.image, self.text, self.weight)
        )
        return Pairs(image, text, self.names, self.source, weight)
