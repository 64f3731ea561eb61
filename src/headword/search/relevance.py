"""The chance that a hit shows the words that were searched for, and where the answers end.

A flat cosine does not tell: words differ in how near they come to any picture. What tells is how far the hits
stand out of the collection, and how alike they look. With z the z-score of a hit's cosine over the collection
(or a sample of it), z₁ and z₂₀ those of the first and twentieth hit, and p the z-score of the hit's likeness
to the first five (weighted by how far each is above the mean; a hit is not compared to itself or a copy),

    relevance = sigmoid(w₀ + w · (z, z₁, z₂₀, z · z₁, p)).

None of these depends on the scale of a model's cosines. The weights are fitted by `python -m experiments
relevance`, on other queries than those it measures.
"""

from __future__ import annotations

import numpy as np

from headword.search.space import Doubles, Floats

SAMPLED = 2048
"""Pictures of a collection, evenly spread, that its scores are compared to."""

POOL = 200
"""Hits among which the answers end."""

FIRST = 20
"""First hits that the others are seen beside."""

LEAST = 0.2
"""Where no hit is as likely as this, nothing answers."""

OFFSET, WEIGHTS = -1.3334, (0.1954, -0.4615, -0.6082, 0.1205, 0.3364)

_LEADERS = 5  # hits that the others are compared to


def evidence(query: Floats, hits: Floats, first: Floats, sample: Floats) -> Doubles:
    """What speaks for each hit `[K, 5]`, as above.

    Of unit vectors: the query `[D]`, hits `[K, D]` (of some of the collection, if there is a filter), the
    `FIRST` of the whole collection, best first, and some of its pictures `[M, D]`.
    """
    query, hits, first = query.astype(np.float64), hits.astype(np.float64), first.astype(np.float64)
    cosines = sample @ query
    z, ranked = _standard(hits @ query, cosines), _standard(first @ query, cosines)
    leaders, shares = first[:_LEADERS], np.maximum(ranked[:_LEADERS], 1e-6)
    shares /= shares.sum()
    centre = shares @ leaders
    own = (hits @ leaders.T > 1 - 1e-5) @ shares
    likeness = (hits @ centre - own) / np.maximum(1 - own, 1e-3)
    same = [np.full(len(z), ranked[place]) for place in (0, -1)]
    return np.stack([z, *same, z * ranked[0], _standard(likeness, sample @ centre)], axis=1)


def chances(evidence: Doubles) -> Doubles:
    """Relevance `[K]` by the `evidence` `[K, 5]`; to four digits, which no order of sums changes."""
    relevance: Doubles = 1 / (1 + np.exp(-(OFFSET + evidence @ np.array(WEIGHTS))))
    return relevance.round(4)


def least_shown(relevance: Doubles) -> float:
    """The least relevance that is an answer: what is below of a query's `POOL` is left out.

    It is where F1 is greatest in expectation. Of hits of falling chances p the first k have, nearly, the
    expected F1 2 Σ_{i≤k} pᵢ / (k + Σ p) (Ye et al., 2012). Where nothing answers it is `LEAST`, and
    where there are fewer than 20 pictures 0: so few say little of how one stands out.
    """
    falling = -np.sort(-relevance)
    if len(falling) < FIRST:
        return 0.0
    if falling[0] < LEAST:
        return LEAST
    expected = 2 * falling.cumsum() / (np.arange(1, len(falling) + 1) + falling.sum())
    return float(falling[expected.argmax()])


def _standard(values: Floats | Doubles, collection: Floats | Doubles) -> Doubles:
    """How many standard deviations of a collection's values others are above its mean."""
    above = values.astype(np.float64) - float(collection.mean())
    return above / max(float(collection.std()), 1e-6)
