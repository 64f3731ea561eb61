"""From stored features to the space shared with words: one affine map a query.

An index keeps unit-norm features u. Every aligner's image side is normalise(M(u − c)) with a matrix M (the
identity for most), so the cosine of an image to a unit vector q of the shared space is

    q · M(u − c) / ‖M(u − c)‖ = r · (a·u − b),    a = Mᵀq,  b = a·c,  r = 1 / ‖M(u − c)‖

and only r, a number an image, depends on centre and aligner: neither another centre nor another aligner asks
for anything to be embedded, or even written, again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headword.aligners import Aligner

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]

_ROWS = 2048
"""Rows at a time in passes over all features."""

UNIT = 2.0**-38
"""The unit that sums of features are counted in. As integers they are exact, in any order, up to 2²⁵ images:
the mean does not depend on how an index came to hold its images."""


@dataclass(frozen=True, slots=True)
class Space:
    """An aligner's image side, as above."""

    matrix: Floats | None
    """M `[D, d]`; None for the identity."""
    centre: Floats
    """c `[d]`."""

    @classmethod
    def of(cls, aligner: Aligner, centre: Floats | None = None) -> Space:
        """The image side of a fitted aligner, with a centre in place of its own if one is given."""
        own: Floats = aligner.centre_.detach().cpu().float().numpy()
        return cls(image_matrix(aligner), own if centre is None else centre)

    def affine(self, queries: Tensor) -> tuple[Floats, Doubles]:
        """Unit vectors of the shared space `[Q, D]` → a `[Q, d]` and b `[Q]`."""
        q = queries.detach().cpu().float().numpy()
        a = q if self.matrix is None else (q.astype(np.float64) @ self.matrix).astype(np.float32)
        return np.ascontiguousarray(a), a.astype(np.float64) @ self.centre.astype(np.float64)

    def image(self, units: Floats) -> Floats:
        """Unit-norm features `[N, d]` → unit vectors `[N, D]`; zero where an image equals the centre."""
        mapped = self._mapped(units)
        norms = np.linalg.norm(mapped, axis=1, keepdims=True)
        unit: Floats = mapped / np.maximum(norms, 1e-12).astype(np.float32)
        return unit

    def inverse_norms(self, units: Floats) -> Floats:
        """r `[N]` of features `[N, d]`; zero where an image equals the centre."""
        r = np.zeros(len(units), np.float32)
        for start in range(0, len(units), _ROWS):
            mapped = self._mapped(units[start : start + _ROWS])
            norms = np.sqrt(np.einsum("nd,nd->n", mapped, mapped))
            r[start : start + _ROWS] = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 1e-6)
        return r

    def _mapped(self, units: Floats) -> Floats:
        centred: Floats = units - self.centre
        return centred if self.matrix is None else np.matmul(centred, self.matrix.T, dtype=np.float32)


def image_matrix(aligner: Aligner) -> Floats | None:
    """M of an aligner's image side; None for the identity."""
    if type(aligner)._map_image is Aligner._map_image:
        return None
    return np.ascontiguousarray(aligner.image_matrix().T.float().cpu().numpy())


def exact_sum(units: Floats, slots: Indices) -> Indices:
    """Σ of the unit-norm features `[N, d]` in some slots, in `UNIT`s, `[d]`."""
    total = np.zeros(units.shape[1], np.int64)
    for start in range(0, len(slots), _ROWS):
        part = units[slots[start : start + _ROWS]].astype(np.float64)
        total += np.rint(part / UNIT).astype(np.int64).sum(axis=0)
    return total


def mean_of(total: Indices, count: int) -> Floats:
    """The mean of `count` features with this sum, `[d]`."""
    return (total.astype(np.float64) * UNIT / count).astype(np.float32)
