"""`image_features`: images in, a matrix out, through the cache where there is much to compute."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from headword.cache import VectorCache, key_of
from headword.data.images import images_of
from headword.encoders import VisionEncoder
from headword.errors import HeadwordError
from headword.extract.job import Job
from headword.extract.sources import Item, given_items

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

CACHE_FROM = 64
"""Images from which a call is worth looking up: fewer are computed before the weights' hash is."""


def image_features(
    vision: VisionEncoder,
    images: object,
    *,
    batch_size: int = 32,
    skipped: dict[int, str] | None = None,
    progress: Progress | None = None,
    engine: str = "auto",
    cache: bool = True,
) -> Tensor:
    """Images → float32 features `[N, d]` at the input of the classifier's head.

    Args:
        vision: the encoder.
        images: paths, PIL images or uint8 tensors, one or a list; float `[N, 3, H, W]`, already transformed;
            or float `[N, d]`, which are features and come back as they are.
        batch_size: images that go through the model together.
        skipped: where given, an image that cannot be read is left out and its error line put here, by its
            place in `images`, instead of raised.
        progress: called after every batch.
        engine: "auto", "torch" or "openvino"; "auto" is exact below 512 images, and the fastest from there
            on.
        cache: whether features of image files may come from, and go to, the cache.

    Raises:
        HeadwordError: if an image cannot be read, if none can, or if the input is of no accepted kind.
    """
    if isinstance(images, Tensor) and images.is_floating_point() and images.ndim == 2:
        if images.shape[1] != vision.dim:
            raise HeadwordError(f"features must have shape [N, {vision.dim}], got {list(images.shape)}")
        return images.float().cpu()
    if isinstance(images, Tensor) and images.is_floating_point() and images.ndim == 4:
        return torch.cat(list(_transformed(vision, images, batch_size, progress)))
    items = given_items(images_of(images))
    if not items:
        raise HeadwordError("there are no images")
    job = Job.of(vision, len(items), engine=engine, batch_size=batch_size)
    rows = torch.empty(len(items), vision.dim)
    have = torch.zeros(len(items), dtype=torch.bool)
    kept = _Kept(job, items) if cache and len(items) >= CACHE_FROM else None
    if kept is not None:
        have = kept.get(rows)
    missing = (~have).nonzero().flatten().tolist()
    done = len(items) - len(missing)
    if progress is not None and done:
        progress(done, len(items))
    failed: dict[int, str] = {}
    for batch, features in job.run([items[row] for row in missing]):
        if batch.errors and skipped is None:
            raise HeadwordError(next(iter(batch.errors.values())))
        start = done - (len(items) - len(missing))
        failed |= {missing[start + n]: why for n, why in batch.errors.items()}
        read = [missing[start + n] for n in range(len(batch.items)) if n not in batch.errors]
        rows[read] = features
        have[read] = True
        if kept is not None:
            kept.put(read, features, job)
        done += len(batch.items)
        if progress is not None:
            progress(done, len(items))
    if kept is not None:
        kept.write(job)
    if skipped is not None:
        skipped |= failed
    if not have.any():
        raise HeadwordError(none_read(failed, len(items)))
    return rows if bool(have.all()) else rows[have]


def none_read(skipped: dict[int, str], count: int) -> str:
    """The line for images of which none could be read: the reason of the first."""
    why = next(iter(skipped.values()))
    return why if count == 1 else f"none of {count} images could be read: {why}"


def known_features(job: Job, items: list[Item], rows: Tensor) -> Tensor:
    """Fill the rows `[N, d]` of items whose features the cache holds, as this job would compute them.

    Returns:
        Which they are, bool `[N]`.
    """
    return _Kept(job, items).get(rows)


def _transformed(
    vision: VisionEncoder, images: Tensor, batch_size: int, progress: Progress | None
) -> Iterator[Tensor]:
    if not len(images):
        raise HeadwordError("there are no images")
    done = 0
    for batch in torch.split(images, batch_size):
        yield vision.encode(batch)
        done += len(batch)
        if progress is not None:
            progress(done, len(images))


class _Kept:
    """The cached features of a job's files. A file is known by its path, size and time of last change."""

    def __init__(self, job: Job, items: list[Item]) -> None:
        self._job = job
        self._items = items
        # What a module of the user's own computes is more than its weights say.
        self._on = job.vision.source.kind != "module" and all(item.file is not None for item in items)
        self._keys = [_file_key(item) for item in items] if self._on else []
        self._rows: list[int] = []
        self._features: list[Tensor] = []

    def get(self, rows: Tensor) -> Tensor:
        """Fill the rows of files that are known, and say which."""
        if not self._on:
            return torch.zeros(len(rows), dtype=torch.bool)
        # A file that is not there has the empty key, which nothing is kept under.
        keys = [key or bytes(16) for key in self._keys]
        return VectorCache(self._space(self._job), rows.shape[1]).get(keys, rows)

    def put(self, rows: list[int], features: Tensor, job: Job) -> None:
        """Keep features of the items at these places, but for files that changed meanwhile."""
        if not self._on:
            return
        same = [
            n
            for n, row in enumerate(rows)
            if self._keys[row] and _file_key(self._items[row]) == self._keys[row]
        ]
        self._rows += [rows[n] for n in same]
        self._features.append(features[same])
        if len(self._rows) >= 4096:
            self.write(job)

    def write(self, job: Job) -> None:
        """Write what was kept since the last time."""
        if self._rows:
            keys = [self._keys[row] or b"" for row in self._rows]
            features = torch.cat(self._features)
            VectorCache(self._space(job), features.shape[1]).put(keys, features)
        self._rows, self._features = [], []

    @staticmethod
    def _space(job: Job) -> dict[str, Any]:
        """All that features depend on besides the file; a run may change the engine."""
        vision = job.vision
        return {
            "kind": "image",
            "encoder": vision.name,
            "weights": vision.fingerprint,
            "head": vision.read_at,
            "transform": vision.source.transform_settings,
            "plan": repr(job.plan),
            "engine": job.choice.engine,
            "version": version(job.choice.engine),
            "precision": job.choice.dtype,
            "draft": job.draft,
            "device": vision.device.type,
        }


def _file_key(item: Item) -> bytes | None:
    """None for a file that is not there."""
    assert item.file is not None
    try:
        status = os.stat(item.file)  # noqa: PTH116  # a Path costs ten times as much
    except OSError:
        return None
    return key_of(item.file, status.st_size, status.st_mtime_ns)
