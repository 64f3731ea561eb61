"""Kernel ridge onto several backbones' features at once, side by side in one shared space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor

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

    widths: tuple[Annotated[int, Gt(0)], ...] = ()  # of the parts' features; none: one part, as `KernelRidge`
    part_weights: tuple[Annotated[float, Gt(0)], ...] = ()  # w_i; ones when not given
    gate: Annotated[float, Gt(0)] = 0.05  # its temperature, chosen by leaving classes out (docs/joint.md)

    member_: Tensor = field(init=False)  # [N, n] 1 where a pair belongs to a part, else 0
    usual_: Tensor = field(init=False)  # [n] m̄, zeros where all parts have the same pairs

    def __post_init__(self) -> None:
        super().__post_init__()
        # Lists, as JSON has them, are taken too.
        self.widths, self.part_weights = tuple(self.widths), tuple(self.part_weights)

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> dict[str, Tensor]:
        if self.centre_by_source:
            raise HeadwordError(f"{self.name}: centre_by_source is for one backbone")
        if len(self.part_weights) not in (0, max(1, len(self.widths))):
            raise HeadwordError(f"{self.name}: part_weights must be one for each part")
        if self.widths and sum(self.widths) != image.shape[1]:
            raise HeadwordError(
                f"{self.name}: the parts' widths {list(self.widths)} do not add up to the image side's "
                f"{image.shape[1]}"
            )
        blocks = self._blocks(self.unit(image))
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
            fitted = self._solved(target, text[rows], weight[rows] / weight[rows].mean())
            sizes = [blocks[i].shape[1] for i in parts]
            for i, coefficients in zip(parts, torch.split(fitted, sizes, dim=1), strict=True):
                alpha[i][rows] = coefficients
        usual = [image.new_zeros(()) if bool(member.all()) else _usual(text[part]) for part in member.T]
        learnt = {"alpha_": torch.cat(alpha, dim=1), "text_": text}
        return learnt | {"member_": member.to(image), "usual_": torch.stack(usual)}

    def unit(self, features: Tensor) -> Tensor:
        """Image features `[M, Σd]`, each block of unit norm."""
        return torch.cat([F.normalize(block, dim=1) for block in self._blocks(features)], dim=1)

    def _present(self, unit: Tensor) -> Tensor:
        if len(self.widths) < 2:
            return super()._present(unit)
        return torch.cat([_there(block)[:, None].expand_as(block) for block in self._blocks(unit)], dim=1)

    def places(self, cells: Tensor, whole: Tensor) -> Tensor:
        """As `Aligner.places`, block by block."""
        blocks = zip(
            self.part_weights or (1.0,) * len(self._blocks(cells)),
            *(self._blocks(rows) for rows in (cells, whole[None], self.centre_[None])),
            strict=True,
        )
        shares: list[Tensor] = []
        total = 0.0
        for weight, block, of_whole, centre in blocks:
            unit, centred = self._split(block, of_whole[0], centre[0])
            shares.append(weight**0.5 * unit / centred.norm().clamp_min(1e-12))
            total += weight
        return torch.cat(shares, dim=1).div(total**0.5)

    def _map_image(self, centred: Tensor) -> Tensor:
        return torch.cat(self._weighted(centred), dim=1)

    def _map_text(self, text: Tensor) -> Tensor:
        parts = zip(self.gates(text).T[:, :, None], self._weighted(super()._map_text(text)), strict=True)
        return torch.cat([gate * block for gate, block in parts], dim=1)

    def gates(self, text: Tensor) -> Tensor:
        """Unit-norm texts `[M, k]` → the parts' weights `[M, n]`: all 1 where they have the same pairs."""
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

    def _blocks(self, rows: Tensor) -> tuple[Tensor, ...]:
        return torch.split(rows, list(self.widths) or rows.shape[1], dim=1)

    def _weighted(self, rows: Tensor) -> list[Tensor]:
        """√w_i times each block brought to unit norm."""
        blocks = self._blocks(rows)
        weights = self.part_weights or (1.0,) * len(blocks)
        return [w**0.5 * F.normalize(block, dim=1) for w, block in zip(weights, blocks, strict=True)]


def for_parts(aligner: Aligner, rows: Tensor, widths: tuple[int, ...]) -> Aligner:
    """The aligner for several backbones' features side by side: kernel ridge becomes its joint form.

    Any other takes them as one backbone's, but not where the head's `rows` `[C, Σd]` are of different
    classes.
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
