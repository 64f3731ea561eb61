"""Which prototypes make up a text's vector, and how much each counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from headword.aligners import Aligner
from headword.aligners.base import prepared, weighted_mean
from headword.aligners.pairs import Pairs, distinct
from headword.errors import HeadwordError
from headword.results import Table, columns_of


@dataclass(frozen=True, slots=True)
class Prototype:
    """One image-side row of the pairs, with all its texts."""

    name: str  # what the first of its texts says: the class's name
    words: str  # the text that counts most: a synonym, say, where the pairs have several of a row
    source: str  # where it came from, as in `Pairs`
    weight: float  # β summed over its texts, or its cosine with the text's vector: see `Explanation.kind`
    share: float | None  # β (x − μ)·f / ‖f‖², its part in the vector; all sum to 1. None beside a cosine


@dataclass(frozen=True, slots=True)
class Explanation(Table):
    """What a text's vector is made of, before it is brought to unit norm; a table of prototypes."""

    kind: str  # "weights" of the exact sum f = Σ β (x − μ), else "cosines" of the nearest prototypes
    prototypes: tuple[Prototype, ...]  # the heaviest in absolute value first
    others: int  # how many more prototypes there are
    others_weight: float | None  # their weights' sum; None beside cosines
    others_share: float | None  # their shares' sum; None beside cosines

    def as_json(self) -> dict[str, Any]:
        """All by name."""
        return asdict(self)

    def columns(self) -> dict[str, list[Any]]:
        """The fields of the prototypes, a row for each."""
        return columns_of(Prototype, self.prototypes)


@torch.no_grad()
def explain(aligner: Aligner, pairs: Pairs, texts: Tensor, *, k: int = 10) -> list[Explanation]:
    """Explain vectors of texts `[M, k']` by the pairs of the fit, those that share an image row being one."""
    if k < 1:
        raise HeadwordError(f"k must be at least 1, got {k}")
    rows, group = distinct_rows(pairs)
    weights = aligner.weights(texts, pairs)  # [M, N]
    if weights is None:
        fitted = aligner.centred_on(pairs.image[rows])
        cosines = fitted.text(texts) @ fitted.image(pairs.image[rows]).T
        return [_nearest(row, pairs, rows, k) for row in cosines]
    image, _, omega = prepared(pairs)
    centred = image - weighted_mean(image, omega)
    vectors = weights.to(centred) @ centred  # [M, d]
    on = torch.tensor(group, device=weights.device)
    summed = weights.new_zeros(len(weights), len(rows)).index_add_(1, on, weights)  # [M, P]
    along = vectors @ centred[rows].T / vectors.square().sum(dim=1, keepdim=True).clamp_min(1e-30)
    shares = summed * along.to(summed)
    texts_of: list[list[int]] = [[] for _ in rows]
    for pair, place in enumerate(group):
        texts_of[place].append(pair)
    explanations = []
    for own, weight, share in zip(weights.tolist(), summed, shares, strict=True):
        best = weight.abs().topk(min(k, len(rows))).indices.tolist()
        parts = tuple(
            Prototype(
                name=pairs.names[rows[place]],
                source=pairs.source[rows[place]],
                words=pairs.names[max(texts_of[place], key=lambda pair: abs(own[pair]))],
                weight=float(weight[place]),
                share=float(share[place]),
            )
            for place in best
        )
        rest = torch.ones_like(weight, dtype=torch.bool)
        rest[best] = False
        left = (float(weight[rest].sum()), float(share[rest].sum()))
        explanations.append(Explanation("weights", parts, len(rows) - len(best), *left))
    return explanations


def _nearest(cosines: Tensor, pairs: Pairs, rows: list[int], k: int) -> Explanation:
    best = cosines.topk(min(k, len(rows)))
    parts = tuple(
        Prototype(pairs.names[rows[place]], pairs.names[rows[place]], pairs.source[rows[place]], cosine, None)
        for place, cosine in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
    return Explanation("cosines", parts, len(rows) - len(parts), None, None)


def distinct_rows(pairs: Pairs) -> tuple[list[int], list[int]]:
    """The first pair of each distinct image row, and for each pair the place of its row among them."""
    return distinct([row.tobytes() for row in pairs.image.detach().cpu().contiguous().numpy()])
