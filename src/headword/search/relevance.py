"""The chance that a hit shows the words that were searched for, and where the answers end.

A flat cosine does not tell: words differ in how near they come to any picture. What tells is how far the hits
stand out of the collection, and how alike they look. With z the z-score of a hit's cosine over the collection
(or a sample of it), z₁ and z₂₀ those of the first and twentieth hit, and p the z-score of the hit's
likeness to the first five (weighted by how far each is above the mean; a hit is not compared to itself),

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

LEAST = 0.2
"""Where no hit is as likely as this, nothing answers."""

OFFSET, WEIGHTS = -2.2215, (0.4989, -0.3165, -0.6651, 0.0799, 0.3308)

_LEADERS = 5  # hits that the others are compared to
_RANKS = (1, 20)


def evidence(query: Floats, hits: Floats, sample: Floats) -> Doubles:
    """What speaks for each hit `[K, 5]`, as above.

    Of unit vectors: the query `[D]`, its hits `[K, D]`, best first and 20 at least where there are so many,
    and some pictures of the collection `[M, D]`.
    """
    scores = (hits @ query).astype(np.float64)
    z = _standard(scores, sample @ query)
    ranked = [np.full(len(z), z[min(rank, len(z)) - 1]) for rank in _RANKS]
    leaders = hits[:_LEADERS]
    shares = np.maximum(z[:_LEADERS], 1e-6)
    shares /= shares.sum()
    centre = shares @ leaders
    likeness = hits @ centre
    own = np.zeros(len(z))
    own[: len(leaders)] = shares
    likeness = (likeness - own) / np.maximum(1 - own, 1e-3)
    return np.stack([z, *ranked, z * z[0], _standard(likeness, sample @ centre)], axis=1)


def chances(evidence: Doubles) -> Doubles:
    """Relevance `[K]` by the `evidence` `[K, 5]`."""
    return 1 / (1 + np.exp(-(OFFSET + evidence @ np.array(WEIGHTS))))


def least_shown(relevance: Doubles) -> float:
    """The least relevance that is an answer: what is below of a query's `POOL` is left out.

    It is where F1 is greatest in expectation. Of hits of falling chances p the first k have, nearly, the
    expected F1 2 Σ_{i≤k} pᵢ / (k + Σ p) (Ye et al., 2012). Where nothing answers it is `LEAST`, and
    where there are fewer than 20 pictures 0: so few say little of how one stands out.
    """
    falling = -np.sort(-relevance)
    if len(falling) < _RANKS[-1]:
        return 0.0
    if falling[0] < LEAST:
        return LEAST
    expected = 2 * falling.cumsum() / (np.arange(1, len(falling) + 1) + falling.sum())
    return float(falling[expected.argmax()])


def _standard(values: Doubles, collection: Floats | Doubles) -> Doubles:
    """How many standard deviations of a collection's values others are above its mean."""
    standard: Doubles = (values - collection.mean()) / max(float(collection.std()), 1e-6)
    return standard
