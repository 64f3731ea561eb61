"""A whole collection at once, *transductively*: an image's label depends on the other images.

Scores of unit-norm embeddings stay on the cosines' own scale, so that softmax(scale · score) stands for
probabilities as before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from headword.aligners.linalg import row_chunks
from headword.errors import HeadwordError
from headword.files import expand, read_json

OFF = "off"
METHODS = (OFF, "csls", "inverted-softmax", "sinkhorn", "adapt")
UNIFORM = "uniform"

NEAREST = 10  # k of a label's hubness in a collection, as in Conneau et al. (2018)
_NEVER = -1e4  # the offset of a label with prior share 0: no softmax sees it any more
_MOST_ROUNDS = 1_000


def collective_scores(
    images: Tensor, texts: Tensor, *, method: str, scale: float, shares: Tensor | None = None
) -> Tensor:
    """Scores `[N, L]` of images `[N, D]` for labels' texts `[L, D]`, both unit-norm, by one of `METHODS`.

    "off" gives the cosines; "csls" and "inverted-softmax" take from each label what it is near to everything;
    "sinkhorn" makes the labels' shares of the collection those of `shares` `[L]`; "adapt" moves the labels to
    the images that they are nearest to. `scale` is that of the softmax over labels.
    """
    check_method(method, shares is not None)
    cosines = images @ texts.T
    if method == OFF or not len(images):
        return cosines
    if shares is not None:
        return sinkhorn(cosines, scale, shares)
    if method == "csls":
        return csls(cosines, torch.zeros_like(cosines[:, 0]), hubness(texts, images, NEAREST))
    if method == "inverted-softmax":
        return inverted_softmax(cosines, scale)
    return images @ adapt(images, texts, scale).T


def check_method(method: str, has_shares: bool, *, single_labels: bool = True) -> None:
    """Refuse a method that does not exist, or goes with no prior, needs one, or takes single labels alone."""
    if method not in METHODS:
        raise HeadwordError(f"there is no collection method {method!r}; choose {', '.join(METHODS)}")
    if method == "sinkhorn" and not has_shares:
        raise HeadwordError(
            "sinkhorn needs a stated prior, the share of the images that each label has: "
            '"uniform", or shares by label'
        )
    if has_shares and method != "sinkhorn":
        raise HeadwordError(f"a prior goes with the collection method sinkhorn, not with {method}")
    if method != OFF and not single_labels:
        raise HeadwordError(
            f"the collection method {method} gives each image one of the labels; multi_label and "
            "none_of_these judge each image by itself"
        )


def label_shares(prior: str | Mapping[str, float], labels: Sequence[str]) -> Tensor:
    """A prior, "uniform" or a share (or count) for each label → float64 shares `[L]` that sum to 1."""
    if isinstance(prior, str):
        if prior != UNIFORM:
            raise HeadwordError(f"the prior must be {UNIFORM!r} or shares by label, got {prior!r}")
        prior = dict.fromkeys(labels, 1)
    for label in labels:
        if label not in prior:
            raise HeadwordError(f"the prior has no share for the label {label!r}")
    known = set(labels)
    for label, share in prior.items():
        if label not in known:
            raise HeadwordError(f"the prior has a share for something that is no label: {label!r}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < math.inf:
            raise HeadwordError(f"the prior's share of {label!r} must be a number from 0 up, got {share!r}")
    shares = torch.tensor([prior[label] for label in labels], dtype=torch.float64)
    if not shares.any():
        raise HeadwordError("the prior gives every label the share 0")
    return shares / shares.sum()


def read_prior(prior: str) -> str | dict[str, float]:
    """The word "uniform" as it is, or the shares in a JSON file, an object from label to share or count."""
    if prior == UNIFORM:
        return prior
    file = expand(prior)
    if not file.is_file():
        raise HeadwordError(
            f'the prior must be "{UNIFORM}" or a JSON file from label to share; no file {prior}'
        )
    shares = read_json(file)
    if not isinstance(shares, dict):
        raise HeadwordError(f'{file} must hold an object from label to share, as {{"cat": 0.7, "dog": 0.3}}')
    return shares


def hubness(rows: Tensor, reference: Tensor, k: int) -> Tensor:
    """`[M]` the mean cosine of unit-norm rows `[M, D]` to their k nearest in a reference `[R, D]`."""
    if not len(reference) or k < 1:
        raise HeadwordError(f"hubness needs a reference and a positive k, got {len(reference)} and k = {k}")
    k = min(k, len(reference))
    parts = row_chunks(rows, len(reference))
    return torch.cat([(part @ reference.T).topk(k, dim=1).values.mean(dim=1) for part in parts])


def csls(cosines: Tensor, image_hub: Tensor, text_hub: Tensor) -> Tensor:
    """Cross-domain similarity local scaling (Conneau et al., ICLR 2018), halved: cos − (r_image + r_text)/2.

    Half of the published score ranks alike and stays on the scale of cosines `[N, L]`; r is the `hubness` of
    the images among texts `[N]`, and of the texts among images `[L]`.
    """
    return cosines - (image_hub[:, None] + text_hub) / 2


def inverted_softmax(cosines: Tensor, scale: float) -> Tensor:
    """cos − log(mean over images of exp(scale · cos))/scale: `[N, L]` → `[N, L]` (Smith et al., ICLR 2017).

    Half a round of `sinkhorn` with equal shares; its softmax over labels has sum 1 an image.
    """
    scaled = scale * cosines
    return cosines - (scaled.logsumexp(dim=0) - math.log(max(1, len(cosines)))) / scale


def sinkhorn(cosines: Tensor, scale: float, shares: Tensor, *, tolerance: float = 1e-5) -> Tensor:
    """Scores `[N, L]` = cos + v whose softmax(scale · score), averaged over the images, is `shares` `[L]`.

    The entropic optimal transport between images, of equal mass, and labels, of mass `shares`, at cost −cos
    and regularisation 1/scale (Cuturi, NIPS 2013). v maximises the dual, Σ shares · v − mean over images of
    logsumexp(scale · cos + v), by L-BFGS: Sinkhorn's own rounds reach the same v, but crawl where images are
    sure of their labels. A share that is off by more than `tolerance` is refused.
    """
    has = shares > 0
    scaled, targets = scale * cosines[:, has].double(), shares[has].to(cosines.device, torch.float64)
    offset = targets.log()  # scale · v
    solver = torch.optim.LBFGS(
        [offset], max_iter=_MOST_ROUNDS, tolerance_grad=tolerance, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def dual() -> Tensor:
        offset.grad = (scaled + offset).softmax(dim=1).mean(dim=0) - targets
        return (scaled + offset).logsumexp(dim=1).mean() - targets @ offset

    solver.step(dual)  # type: ignore[no-untyped-call]
    off = float(((scaled + offset).softmax(dim=1).mean(dim=0) - targets).abs().max())
    if not off <= tolerance:
        raise HeadwordError(f"sinkhorn has not met the prior: a label is off by {off:.1e}; give other shares")
    offset = offset - targets @ offset
    scores = torch.full_like(cosines, _NEVER)
    scores[:, has] = cosines[:, has] + (offset / scale).to(cosines)
    return scores


def adapt(images: Tensor, texts: Tensor, scale: float, *, weight: float = 1.0, rounds: int = 10) -> Tensor:
    """Unit-norm `[L, D]`: labels' texts `[L, D]` moved towards the images `[N, D]` that they are nearest to.

    Rounds of expectation, z = softmax(scale · X Mᵀ), and maximisation,

        m_l ∝ weight · (n_l + 1) · p_l + Σ_i z_il x_i,   n_l = Σ_i z_il,

    from M = P: a mixture of von Mises–Fisher distributions of one concentration (Banerjee et al., JMLR 2005)
    without class priors, with the text p_l as prior direction of m_l, worth `weight` images for each that the
    label has and one more. A label that no image has stays where its text is. TransCLIP (Zanella et al.,
    NeurIPS 2024) puts the texts into the assignments instead, and adds an affinity between images.
    """
    means = texts
    for _ in range(rounds):
        belongs = (scale * (images @ means.T)).softmax(dim=1)  # [N, L]
        prior = weight * (belongs.sum(dim=0) + 1)
        means = F.normalize(prior[:, None] * texts + belongs.T @ images, dim=1)
    return means


@dataclass(frozen=True, slots=True, eq=False)
class Hubs:
    """Unlabelled images and texts, which say by penalties (`csls`) how near others are to everything."""

    images: Tensor  # [R, D] unit-norm
    texts: Tensor  # [S, D] unit-norm, centred on their own mean
    text_mean: Tensor  # [D], what texts are centred on
    k: int

    @classmethod
    def of(cls, images: Tensor, texts: Tensor, k: int = 30) -> Self:
        """Of unit-norm embeddings `[R, D]` of images and `[S, D]` of texts that need not belong together."""
        if not len(images) or len(texts) < 2 or k < 1:
            given = f"{len(images)}, {len(texts)} and k = {k}"
            raise HeadwordError(f"hubness needs images, two texts and a positive k, got {given}")
        mean = texts.mean(dim=0)
        return cls(images, F.normalize(texts - mean, dim=1), mean, k)

    def centred(self, texts: Tensor) -> Tensor:
        """Unit-norm texts `[M, D]` less the reference texts' mean, unit-norm again."""
        return F.normalize(texts - self.text_mean, dim=1)

    def image_penalty(self, images: Tensor) -> Tensor:
        """`[N]`, to subtract from the cosines of unit-norm images `[N, D]` with centred texts."""
        return hubness(images, self.texts, self.k) / 2

    def text_penalty(self, centred: Tensor) -> Tensor:
        """`[M]`, to subtract from the cosines of centred texts `[M, D]`: for ranking texts for an image."""
        return hubness(centred, self.images, self.k) / 2

    def sides(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, D]`, `[M, D]` → `[N, D + 2]`, `[M, D + 2]`, whose inner products are the penalised cosines."""
        texts = self.centred(texts)
        ones = [side.new_ones(len(side), 1) for side in (images, texts)]
        left = (images, -self.image_penalty(images)[:, None], ones[0])
        right = (texts, ones[1], -self.text_penalty(texts)[:, None])
        return torch.cat(left, dim=1), torch.cat(right, dim=1)
