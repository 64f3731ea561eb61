"""Which pictures to ask about next, so that each answer teaches most.

A picture's answer says something of the pictures that are like it, and is worth asking for where those are
uncertain. With the uncertainty u_j of picture j (1 less the margin between its two likeliest labels), cosines
k_ij and what is covered already, c_j = max over examples and chosen pictures of k_ij, the next picture is

    argmax_i Σ_j u_j max(0, k_ij − c_j),

greedy facility location weighted by uncertainty: near the optimum of what any k pictures could cover (Wei et
al., ICML 2015; Nemhauser et al. 1978).
"""

from __future__ import annotations

import torch
from torch import Tensor

from headword.errors import HeadwordError

METHODS = ("covered-uncertainty", "margin", "entropy", "coverage", "random")
"""The default, and what it was measured against: the most uncertain by margin or by entropy; the same
covering of all pictures alike, which asks for typical ones; any."""

_CANDIDATES, _REFERENCE = 1_000, 2_000  # pictures that may be chosen, and that are to be covered
_KNOWN = 0.999  # a cosine from which two pictures are one


def suggest(
    embeddings: Tensor,
    chances: Tensor,
    examples: Tensor,
    k: int,
    *,
    independent: bool = False,
    method: str = METHODS[0],
    seed: int = 0,
) -> Tensor:
    """Places `[k]` of the pictures to ask about, the first first; fewer where there are no more.

    Args:
        embeddings: `[N, D]` unit-norm, of the pictures.
        chances: `[N, L]` their probabilities.
        examples: `[n, D]` unit-norm, of what is known; pictures that are the same are never chosen.
        k: how many.
        independent: whether each label is judged by itself.
        method: one of `METHODS`.
        seed: of which pictures stand for all, where there are many.

    Raises:
        HeadwordError: for a k that is not positive.
    """
    if k < 1:
        raise HeadwordError(f"the number of pictures to suggest must be 1 or more, got {k}")
    known = _nearest(embeddings, examples)
    fresh = (known < _KNOWN).nonzero().flatten()
    order = torch.Generator().manual_seed(seed)
    shuffled = fresh[torch.randperm(len(fresh), generator=order)]
    unsure = _entropy(chances) if method == "entropy" else _unsure(chances, independent)
    ranked = shuffled[unsure[shuffled].argsort(descending=True, stable=True)]
    if method == "random" or not len(fresh):
        return shuffled[:k]
    if method in ("margin", "entropy"):
        return ranked[:k]
    candidates = (shuffled if method == "coverage" else ranked)[: max(k, _CANDIDATES)]
    reference = shuffled[:_REFERENCE]
    worth = torch.ones(len(reference)) if method == "coverage" else unsure[reference]
    return candidates[_greedy(embeddings[candidates] @ embeddings[reference].T, worth, known[reference], k)]


def _greedy(cosines: Tensor, worth: Tensor, covered: Tensor, k: int) -> Tensor:
    """Rows of cosines `[C, R]` that together cover most of `worth` `[R]` beyond `covered` `[R]`."""
    free, chosen = torch.ones(len(cosines), dtype=torch.bool), []
    for _ in range(min(k, len(cosines))):
        gain = (cosines - covered).clamp_min_(0) @ worth
        best = int(gain.masked_fill(~free, -1).argmax())
        chosen.append(best)
        free[best] = False
        covered = torch.maximum(covered, cosines[best])
    return torch.tensor(chosen)


def _nearest(embeddings: Tensor, examples: Tensor) -> Tensor:
    """`[N]` the cosine to the nearest example, 0 where none is near."""
    if not len(examples):
        return torch.zeros(len(embeddings))
    parts = [(part @ examples.T).amax(dim=1) for part in torch.split(embeddings, 4096)]
    return torch.cat(parts).clamp_min(0)


def _unsure(chances: Tensor, independent: bool) -> Tensor:
    """`[N]` from 0, sure, to 1: the margin to the second label; of labels by themselves, the closest call."""
    if independent or chances.shape[1] == 1:
        return 1 - (2 * chances - 1).abs().amin(dim=1)
    best = chances.topk(2, dim=1).values
    return 1 - (best[:, 0] - best[:, 1])


def _entropy(chances: Tensor) -> Tensor:
    entropies: Tensor = torch.special.entr(chances)
    return entropies.sum(dim=1)
