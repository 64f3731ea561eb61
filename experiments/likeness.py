"""How alike a representation of classes is to another, over draws of images too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.errors import HeadwordError
from headword.metrics import linear_cka, shared_neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How alike a representation of classes is to another of the same classes."""

    neighbours: dict[int, float]
    """m_NN by k, from 0 to 1."""
    cka: float
    """Linear CKA, from 0 to 1."""


def likeness(X: Tensor, Y: Tensor, ks: tuple[int, ...] = (3, 5, 10)) -> Likeness:
    """m_NN and linear CKA of two representations `[C, d]` and `[C, e]` of the same classes, on unit norm.

    Raises:
        HeadwordError: if a k is not below the number of classes, or the sides differ in it.
    """
    X, Y = F.normalize(X, dim=1), F.normalize(Y, dim=1)
    return Likeness(neighbours={k: shared_neighbours(X, Y, k) for k in ks}, cka=linear_cka(X, Y))


def chance_neighbours(classes: int, k: int) -> float:
    """m_NN that unrelated representations of so many classes have in the mean: k / (C - 1)."""
    return k / (classes - 1)


def drawn_means(features: Tensor, labels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """The mean of n random unit-norm features of each class: `[C, d]`, classes ascending.

    Args:
        features: `[N, d]`.
        labels: `[N]`.
        n: images of a class, drawn without replacement.
        generator: what draws them.

    Raises:
        HeadwordError: if a class has fewer than n.
    """
    unit = F.normalize(features, dim=1)
    rows = drawn_places(labels, n, generator)  # [C, n]
    return unit[rows].mean(dim=1)


def drawn_places(labels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Places of n random items of each class `[C, n]`, classes ascending.

    Raises:
        HeadwordError: if a class has fewer than n.
    """
    rows = []
    for label in torch.unique(labels).tolist():
        places = (labels == label).nonzero().flatten()
        if n > len(places):
            raise HeadwordError(f"class {label} has {len(places)} images, fewer than the {n} to draw")
        rows.append(places[torch.randperm(len(places), generator=generator)[:n]])
    return torch.stack(rows)
