"""What an aligner says of classes it was not fitted on."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from headword.aligners.base import Aligner
from headword.aligners.linalg import double
from headword.aligners.pairs import Pairs, distinct
from headword.errors import HeadwordError


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """What an aligner's settings say of pairs whose classes they were fitted without, each fold by itself."""

    known: Pairs  # of which each fold was left out once; for iterative aligners only the first was
    rows: list[Tensor]  # [n] which pairs a fold has, ascending
    image: list[Tensor]  # [n, D] their unit-norm image-side embeddings
    text: list[Tensor]  # [n, D] their unit-norm text-side embeddings
    cosines: list[Tensor]  # [n, L] in float64, of a fold's image sides with its L different names
    right: list[Tensor]  # [n] which name is a pair's own


def leave_out(
    aligner: Aligner, pairs: Pairs, *, folds: int = 5, seed: int = 0, centred: bool = False
) -> LeftOut:
    """Each pair's embeddings by the aligner's settings fitted without its class (`class_groups`).

    Closed forms are fitted once a fold, iterative aligners once, with a tenth of their epochs, for the first.
    `centred` centres each fold on the image rows it is fitted on, as a user's centring would.
    """
    fold_of = class_folds(class_groups(pairs), folds, seed)
    out = LeftOut(pairs, [], [], [], [], [])
    for fold in range(1 if aligner.iterative else int(fold_of.max()) + 1):
        rest, rows = pairs[fold_of != fold], (fold_of == fold).nonzero().flatten()
        model = aligner.unfitted(len(rest)).fit(rest)
        if centred:
            model.centre_on(rest.image)
        inside = pairs[rows]
        image, text = model.image(inside.image), model.text(inside.text)
        first, label = distinct(inside.names)
        cosines = double(image) @ double(text[first]).T
        out.rows.append(rows)
        out.image.append(image)
        out.text.append(text)
        out.cosines.append(cosines)
        out.right.append(torch.tensor(label, device=cosines.device))
    return out


def class_groups(pairs: Pairs) -> Tensor:
    """`[N]` each pair's class: pairs that share, in turn, a name (other than ""), a text or an image row."""
    parent = list(range(len(pairs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    keyed: list[list[Hashable]] = [[name or ("unnamed", i) for i, name in enumerate(pairs.names)]]
    for side in (pairs.text, pairs.image):
        keyed.append(torch.unique(side.detach(), dim=0, return_inverse=True)[1].tolist())
    for keys in keyed:
        first, numbers = distinct(keys)
        for i, number in enumerate(numbers):
            parent[root(i)] = root(first[number])
    roots = torch.tensor([root(i) for i in range(len(pairs))])
    groups: Tensor = torch.unique(roots, return_inverse=True)[1]
    return groups


def class_folds(groups: Tensor, folds: int, seed: int) -> Tensor:
    """`[N]` each pair's fold: large groups first, else at random, each to the fold with the fewest pairs."""
    sizes = torch.bincount(groups)
    folds = min(folds, len(sizes))
    if folds < 2:
        raise HeadwordError("leaving classes out needs at least two classes and two folds")
    fold_of_group = torch.empty_like(sizes)
    load = torch.zeros(folds, dtype=torch.long)
    shuffled = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed))
    for group in shuffled[sizes[shuffled].argsort(descending=True, stable=True)].tolist():
        lightest = int(load.argmin())
        fold_of_group[group] = lightest
        load[lightest] += sizes[group]
    return fold_of_group[groups]
