"""Kernel ridge onto several backbones' features at once, side by side in one shared space."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from headword.aligners.base import Aligner
from headword.aligners.kernel import KernelRidge
from headword.aligners.linalg import row_chunks
from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError

_NEAREST = 5  # texts that say how well a part knows another
_SAMPLE = 2048  # of a part's texts, at least, tell what is usual among them


@dataclass(eq=False, repr=False)
class JointKernelRidge(KernelRidge):
    """Kernel ridge with a block for each of several backbones, whose cosines add up.

    Image features are the backbones' own side by side, x = (x₁ … x_n). Each block is brought to unit norm,
    centred and mapped by itself as `KernelRidge` does; with weights w_i the shared vectors are

        image: normalise(√w₁ x₁, …, √w_n x_n);  text: normalise(√w₁ g₁ t₁, …, √w_n g_n t_n)

    so that a cosine is Σ w_i g_i cos(x_i, t_i) over the norms. A pair whose block of a part is zero (a row of
    another part's head) does not belong to that part. Parts that all pairs belong to share one solve, and
    their gates g are 1. Otherwise each part speaks where it knows: g = softmax_i((m_i − m̄_i)/gate), m_i the
    mean cosine of the text with its five nearest among the part's own texts, and m̄_i the mean of that over
    those texts themselves: a specialist's names lie close together, and only what lies as close is its own.
    """

    name = "joint-kernel-ridge"

    widths: tuple[int, ...] = ()
    """Width of each part's features, in order; none means one part, which is `KernelRidge`."""
    part_weights: tuple[float, ...] = ()
    """w_i; ones when not given."""
    gate: float = 0.05
    """The gate's temperature, chosen by leaving classes out (docs/joint.md)."""

    member_: Tensor = field(init=False)
    """`[N, n]` 1 where a pair belongs to a part, else 0."""
    usual_: Tensor = field(init=False)
    """`[n]` m̄, zeros where all parts have the same pairs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Lists, as JSON has them, are taken too.
        self.widths, self.part_weights = tuple(self.widths), tuple(self.part_weights)

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> dict[str, Tensor]:
        self._check_settings()
        self._require(not self.centre_by_source, "centre_by_source", "is for one backbone")
        for name, values in (
            ("gate", (self.gate,)),
            ("widths", self.widths),
            ("part_weights", self.part_weights),
        ):
            self._require(all(value > 0 for value in values), name, "must be positive")
        one_each = len(self.part_weights) in (0, max(1, len(self.widths)))
        self._require(one_each, "part_weights", "must be one for each part")
        if self.widths and sum(self.widths) != image.shape[1]:
            raise HeadwordError(
                f"{self.name}: the parts' widths {list(self.widths)} do not add up to the image side's "
                f"{image.shape[1]}"
            )
        blocks = self._unit_blocks(image)
        member = torch.stack([_there(block) for block in blocks], dim=1)
        if len(blocks) == 1:
            member = torch.ones_like(member)
        if not member.any(dim=0).all():
            part = int((~member.any(dim=0)).nonzero()[0]) + 1
            raise HeadwordError(f"{self.name}: no pair has an image side for part {part} of {len(blocks)}")
        alpha = [block.new_zeros(block.shape) for block in blocks]
        # Parts with the same pairs are the targets of one solve.
        for rows in torch.unique(member, dim=1).T:
            parts = [i for i in range(len(blocks)) if bool((member[:, i] == rows).all())]
            target = torch.cat([blocks[i][rows] for i in parts], dim=1)
            share = weight[rows] / weight[rows].mean()
            fitted = self._solved(target, text[rows], share)
            sizes = [blocks[i].shape[1] for i in parts]
            for i, coefficients in zip(parts, torch.split(fitted, sizes, dim=1), strict=True):
                alpha[i][rows] = coefficients
        usual = [image.new_zeros(()) if bool(member.all()) else _usual(text[part]) for part in member.T]
        return {
            "alpha_": torch.cat(alpha, dim=1),
            "text_": text,
            "member_": member.to(image),
            "usual_": torch.stack(usual),
        }

    def unit(self, features: Tensor) -> Tensor:
        """Image features `[M, Σd]`, each block of unit norm."""
        return torch.cat(self._unit_blocks(features), dim=1)

    def image(self, features: Tensor, centre: Tensor | None = None) -> Tensor:
        """Image features `[M, Σd]` → unit-norm `[M, Σd]`; a block that is zero stays zero.

        Args:
            features: of the images.
            centre: `[Σd]`, or `[M, Σd]` with one for each image, in place of `centre_`.
        """
        blocks = self._unit_blocks(self._checked(features, "image_dim"))
        centres = torch.split(self.centre_ if centre is None else centre, self._sizes(), dim=-1)
        several = len(blocks) > 1
        mapped = [
            root * F.normalize((block - centre) * (_there(block)[:, None] if several else 1), dim=1)
            for root, block, centre in zip(self._roots(), blocks, centres, strict=True)
        ]
        return F.normalize(torch.cat(mapped, dim=1), dim=1)

    def centre_on(self, features: Tensor, strength: float = 0.0) -> Self:
        """As `Aligner.centre_on`, block by block, each over the images that have it."""
        if len(self.widths) < 2:
            return super().centre_on(features, strength)
        before = self.centre_
        Aligner.centre_on(self, features)  # refuses what it must
        sums, seen = [], []
        for block in self._unit_blocks(self._checked(features, "image_dim")):
            sums.append(block.sum(dim=0))
            seen.append(_there(block).sum().clamp_min(1).expand(block.shape[1]))
        self._learn(centre_=(strength * before + torch.cat(sums)) / (strength + torch.cat(seen)))
        return self

    def gates(self, text: Tensor) -> Tensor:
        """Unit-norm texts `[M, k]` → how much each part has to say of each, `[M, n]`; rows sum to 1 unless
        all parts have the same pairs, where all are 1.
        """
        if bool(self.member_.all()):
            return text.new_ones(len(text), self.member_.shape[1])
        near = []
        for part in self.member_.T.bool():
            own = self.text_[part]
            cosines = [rows @ own.T for rows in row_chunks(text, len(own))]
            best = [rows.topk(min(_NEAREST, len(own)), dim=1).values.mean(dim=1) for rows in cosines]
            near.append(torch.cat(best))
        return ((torch.stack(near, dim=1) - self.usual_) / self.gate).softmax(dim=1)

    def weights(self, embeddings: Tensor, pairs: Pairs) -> None:  # type: ignore[override]
        """None: each part's vector is a sum of its own, and they are normalised one by one."""

    def _map_text(self, text: Tensor) -> Tensor:
        blocks = torch.split(super()._map_text(text), self._sizes(), dim=1)
        gates = self.gates(text).T[:, :, None]
        parts = zip(self._roots(), gates, blocks, strict=True)
        return torch.cat([root * gate * F.normalize(block, dim=1) for root, gate, block in parts], dim=1)

    def _sizes(self) -> list[int]:
        return list(self.widths) or [self.image_dim]

    def _roots(self) -> list[float]:
        """√w_i."""
        return [w**0.5 for w in self.part_weights] or [1.0] * len(self._sizes())

    def _unit_blocks(self, image: Tensor) -> list[Tensor]:
        sizes = list(self.widths) or [image.shape[1]]
        return [F.normalize(block, dim=1) for block in torch.split(image, sizes, dim=1)]


def for_parts(aligner: Aligner, rows: Tensor, widths: tuple[int, ...]) -> Aligner:
    """The aligner for features of several backbones side by side.

    Kernel ridge becomes its joint form. Any other takes the concatenation as if it were one backbone's.

    Args:
        aligner: as for one backbone.
        rows: the joint head's `[C, Σd]`, where other parts' blocks are zero.
        widths: the backbones' feature widths.

    Raises:
        HeadwordError: if the parts have different classes, which only kernel ridge can tell apart.
    """
    if type(aligner) is KernelRidge:
        if aligner.centre_by_source:
            raise HeadwordError("centre_by_source is for one classifier; several have a gap each")
        return JointKernelRidge(widths=widths, **aligner.settings)
    same_classes = all(bool(_there(block).all()) for block in torch.split(rows, list(widths), dim=1))
    if not same_classes and not isinstance(aligner, JointKernelRidge):
        raise HeadwordError(
            f"classifiers of different classes cannot be joined by {aligner.name}; use kernel-ridge"
        )
    return aligner


def _usual(own: Tensor) -> Tensor:
    """The mean cosine of unit-norm texts `[N, k]`, or a sample of them, with their five nearest others."""
    if len(own) == 1:
        return own.new_ones(())
    parts = row_chunks(own[:: max(1, len(own) // _SAMPLE)], len(own))
    # The first of each is the text itself.
    near = [(part @ own.T).topk(min(_NEAREST + 1, len(own)), dim=1).values[:, 1:] for part in parts]
    return torch.cat(near).mean()


def _there(block: Tensor) -> Tensor:
    """`[N]` whether a row has this block at all."""
    return block.ne(0).any(dim=1)
