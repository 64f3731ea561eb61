"""Pictures with what is known of their labels: what a classifier is taught by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headword.errors import HeadwordError, near


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """n pictures, each there once, and which of L labels they have."""

    features: Tensor
    """`[n, d]`, before centring: another centre asks for no picture again."""
    judged: Tensor
    """int8 `[n, L]`: 1 has the label, −1 has it not, 0 was not said."""
    names: tuple[str, ...]
    """How people call the pictures: paths, mostly."""

    @classmethod
    def of(cls, features: Tensor, judged: Tensor, names: Sequence[str] | None) -> Examples:
        """Checked examples; without names they are called by their place.

        Raises:
            HeadwordError: if there are not as many of each, or one picture is given two labels.
        """
        named = [f"example {place}" for place in range(len(features))] if names is None else list(names)
        if not len(features) == len(judged) == len(named):
            raise HeadwordError(
                f"each picture needs a label: there are {len(features)} pictures, {len(judged)} labels and "
                f"{len(named)} names"
            )
        first: dict[bytes, int] = {}
        for place, key in enumerate(keys(features)):
            before = first.setdefault(key, place)
            if not torch.equal(judged[before], judged[place]):
                who = f"{named[place]} has"
                if named[before] != named[place]:
                    who = f"{named[before]} and {named[place]} are the same picture and have"
                raise HeadwordError(f"{who} different labels; keep the one that is right")
        kept = list(first.values())
        return cls(features[kept], judged[kept], tuple(named[place] for place in kept))

    @classmethod
    def none(cls, labels: int) -> Examples:
        """No examples."""
        return cls(torch.zeros(0, 0), torch.zeros(0, labels, dtype=torch.int8), ())

    def __len__(self) -> int:
        return len(self.features)

    @property
    def counts(self) -> list[int]:
        """How many pictures have each label, `[L]`."""
        counts: list[int] = (self.judged > 0).sum(dim=0).tolist()
        return counts

    def plus(self, new: Examples, *, single: bool) -> Examples:
        """These and others; of a picture that is in both, what was said last counts.

        Args:
            new: on the same labels.
            single: whether a picture has one label, so that another replaces it.
        """
        if not len(self):
            return new
        if new.features.shape[1] != self.features.shape[1]:
            raise HeadwordError(
                f"the examples have {self.features.shape[1]} features and these {new.features.shape[1]}; "
                "they are another encoder's"
            )
        places = {key: place for place, key in enumerate(keys(self.features))}
        judged, fresh = self.judged.clone(), []
        for row, key in enumerate(keys(new.features)):
            if key not in places:
                fresh.append(row)
                continue
            said, before = new.judged[row], judged[places[key]]
            replaces = single and bool((said > 0).any())
            judged[places[key]] = said if replaces else torch.where(said != 0, said, before)
        return Examples(
            torch.cat([self.features, new.features[fresh]]),
            torch.cat([judged, new.judged[fresh]]),
            (*self.names, *(new.names[row] for row in fresh)),
        )

    def without(self, names: Iterable[str | int]) -> Examples:
        """Those that are not named, by name or place.

        Raises:
            HeadwordError: for a name or place that none has.
        """
        gone = set()
        for name in names:
            if isinstance(name, int) and -len(self) <= name < len(self):
                gone.add(name % len(self))
            elif name in self.names:
                gone.add(self.names.index(str(name)))
            else:
                raise HeadwordError(f"there is no example {name!r}{near(str(name), self.names)}")
        return self._at([place for place in range(len(self)) if place not in gone])

    def relabelled(self, before: Sequence[str], after: Sequence[str]) -> Examples:
        """What these say of other labels: of those that are there no more, and of new ones, nothing."""
        places = {label: place for place, label in enumerate(before)}
        judged = self.judged.new_zeros(len(self), len(after))
        for place, label in enumerate(after):
            if label in places:
                judged[:, place] = self.judged[:, places[label]]
        return self._at(judged.any(dim=1).nonzero().flatten().tolist(), judged)

    def _at(self, places: list[int], judged: Tensor | None = None) -> Examples:
        judged = self.judged if judged is None else judged
        return Examples(self.features[places], judged[places], tuple(self.names[place] for place in places))


def judgements(y: Any, labels: Sequence[str], *, several: bool, wrong: bool = False) -> Tensor:
    """What labels say, int8 `[n, L]` as in `Examples.judged`.

    Args:
        y: of each picture a label, by name or place; with `several`, a list of them, all others absent, or
            rows `[n, L]` of 0 and 1.
        labels: L names.
        several: whether pictures may have several labels, or none.
        wrong: the labels are those that the pictures do not have; of others nothing is said.

    Raises:
        HeadwordError: for a label that is none, with those that are near.
    """
    said, unsaid = (-1, 0) if wrong else (1, -1 if several else 0)
    if y is None:
        raise HeadwordError("y is None: each picture needs a label")
    given = y.tolist() if isinstance(y, np.ndarray | Tensor) else list(y)
    if several and _is_grid(given, len(labels)):
        grid = torch.tensor(given)
        if not bool(((grid == 0) | (grid == 1)).all()):
            raise HeadwordError("rows of labels must be 0 and 1, a column for each label")
        return torch.where(grid == 1, said, unsaid).to(torch.int8)
    places = {label: place for place, label in enumerate(labels)}
    rows = [row if several and not isinstance(row, str) else [row] for row in given]
    judged = torch.full((len(rows), len(labels)), unsaid, dtype=torch.int8)
    for number, row in enumerate(rows):
        for label in row:
            judged[number, _place(label, places, labels)] = said
    return judged


def _is_grid(rows: list[Any], width: int) -> bool:
    """Whether these are rows of numbers, one for each label, and not lists of labels."""
    return all(
        isinstance(row, Sequence) and len(row) == width and not any(isinstance(one, str) for one in row)
        for row in rows
    )


def _place(label: Any, places: dict[str, int], labels: Sequence[str]) -> int:
    """The place of a label that is given by name or place."""
    if isinstance(label, str):
        if label not in places:
            raise HeadwordError(
                f"{label!r} is none of the {len(labels)} labels"
                + (near(label, labels) or "; add it to them first")
            )
        return places[label]
    place = int(label) if isinstance(label, int | np.integer) and not isinstance(label, bool) else -1
    if not 0 <= place < len(labels):
        raise HeadwordError(
            f"a label must be one of the names, or a place from 0 to {len(labels) - 1}, got {label!r}"
        )
    return place


def keys(features: Tensor) -> list[bytes]:
    """What tells pictures apart, by their features `[n, d]`."""
    return [row.tobytes() for row in features.contiguous().numpy()]
