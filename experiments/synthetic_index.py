"""An index of any size without images: features with noise around real ones, made-up names."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.encoders.fingerprint import describe, encoder_identity
from headword.model import DualEncoder
from headword.search.building import commit
from headword.search.catalogue import OK, Entry
from headword.search.draft import begin
from headword.search.rows import append_rows

NOISE = 0.5
"""Length of the noise, against features of length 1."""

_ROWS = 16_384  # at a time


def noisy(base: Tensor, count: int, *, seed: int = 0, noise: float = NOISE) -> Tensor:
    """`count` unit vectors `[count, d]`, each a random row of `base` `[n, d]` with Gaussian noise."""
    generator = torch.Generator().manual_seed(seed)
    unit = F.normalize(base, dim=1)
    rows = torch.empty(count, base.shape[1])
    for start in range(0, count, _ROWS):
        part = rows[start : start + _ROWS]
        near = unit[torch.randint(len(unit), (len(part),), generator=generator)]
        apart = torch.randn(part.shape, generator=generator) * (noise / base.shape[1] ** 0.5)
        part.copy_(F.normalize(near + apart, dim=1))
    return rows


def make_index(
    model: DualEncoder,
    out: Path,
    count: int,
    base: Tensor,
    *,
    saved: Path | None = None,
    seed: int = 0,
) -> None:
    """Write an index of `count` images that do not exist.

    Args:
        model: the model it belongs to.
        out: a new folder.
        count: how many.
        base: features `[n, d]` of real images, to which noise is added.
        saved: the model's folder.
        seed: of the noise.
    """
    out.mkdir(parents=True)
    out = out.resolve()
    root = out.parent / f"{out.name}-images"
    root.mkdir(exist_ok=True)
    draft = begin(out, root, model, None, count, "torch", "float32")
    sums: list[int] = []
    for start in range(0, count, _ROWS):
        units = noisy(base, min(_ROWS, count - start), seed=seed + start)
        sums += append_rows(out, draft.rows, len(sums), units.numpy())
    entries = [
        Entry(
            path=f"{n // 1000:05d}/{n % 1000:03d}.jpg",
            raw=None,
            bytes=100_000,
            modified=n,
            content=n.to_bytes(16, "little"),
            slot=n,
            status=OK,
            sum=sums[n],
        )
        for n in range(count)
    ]
    draft.slots = count
    space = {"engine": "torch", "precision": "float32", "exact": False, "draft": True}
    commit(
        draft,
        entries,
        model=describe(model, saved),
        space={**encoder_identity(model.vision), **space},
        centre="collection",
    )
