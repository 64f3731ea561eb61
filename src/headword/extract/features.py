"""`image_features`: images in, a matrix out, through the cache where there is much to compute."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from headword.cache import VectorCache, cache_limit, key_of
from headword.encoders import VisionEncoder
from headword.errors import HeadwordError
from headword.extract.decode import Batch
from headword.extract.given import Given, given
from headword.extract.items import Item, given_items
from headword.extract.job import Job

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
        images: as for `DualEncoder.encode_image`.
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
    source = images if isinstance(images, Given) else given(images)
    if isinstance(source, Tensor):
        if source.ndim == 4:
            return torch.cat(list(_transformed(vision, source, batch_size, progress)))
        if source.shape[1] != vision.dim:
            raise HeadwordError(f"features must have shape [N, {vision.dim}], got {list(source.shape)}")
        return source.float().cpu()
    parts, done, failed = list[Tensor](), 0, dict[int, str]()

    def went(here: int, of: int, before: int = 0) -> None:
        if progress is not None:
            progress(before + here, max(source.total, before + of))

    for stretch in source:
        items = given_items(stretch)
        job = Job.of(vision, len(items), engine=engine, batch_size=batch_size)
        told = partial(went, before=done)
        parts.append(_computed(job, items, done, failed, cache, skipped is None, told))
        done += len(items)
    if skipped is not None:
        skipped |= failed
    if not done:
        raise HeadwordError("there are no images")
    if len(failed) == done:
        raise HeadwordError(none_read(failed, done))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _computed(
    job: Job,
    items: list[Item],
    first: int,
    failed: dict[int, str],
    cache: bool,
    strict: bool,
    progress: Progress,
) -> Tensor:
    """Features of the items that can be read, the first of which is at the place `first`.

    The error lines of the others go to `failed` by their places, or are raised.
    """
    rows = torch.empty(len(items), job.vision.dim)
    have = torch.zeros(len(items), dtype=torch.bool)
    kept = _Kept(job, items) if cache and len(items) >= CACHE_FROM else None
    if kept is not None:
        have = kept.get(rows)
    missing = (~have).nonzero().flatten().tolist()
    done = known = len(items) - len(missing)
    if done:
        progress(done, len(items))
    for batch, features in _keeping(kept, job, [items[row] for row in missing], done, progress):
        if batch.errors and strict:
            raise HeadwordError(next(iter(batch.errors.values())))
        start = done - known
        failed |= {first + missing[start + n]: why for n, why in batch.errors.items()}
        read = [missing[start + n] for n in range(len(batch.items)) if n not in batch.errors]
        rows[read] = features
        have[read] = True
        if kept is not None:
            kept.put(read, features, job)
        done += len(batch.items)
    return rows if bool(have.all()) else rows[have]


def none_read(skipped: dict[int, str], count: int) -> str:
    """The line for images of which none could be read: the reason of the first."""
    why = next(iter(skipped.values()))
    return why if count == 1 else f"none of {count} images could be read: {why}"


def _keeping(
    kept: _Kept | None, job: Job, items: list[Item], done: int, progress: Progress
) -> Iterator[tuple[Batch, Tensor]]:
    """A job's run, of which what was computed is in the cache whenever it ends; `done` were there before."""
    count = done + len(items)
    try:
        for batch, features in job.run(items):
            yield batch, features
            done += len(batch.items)
            progress(done, count)
    except KeyboardInterrupt:
        if kept is None or not kept.on:
            raise
        raise KeyboardInterrupt(
            f"the features of {done:,} of {count:,} images are kept; the same command goes on from there"
        ) from None
    finally:
        if kept is not None:
            kept.write(job)


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
        self.on = (
            job.vision.source.kind != "module"
            and all(item.file is not None for item in items)
            and cache_limit() > 0
        )
        self._keys = [_file_key(item) for item in items] if self.on else []
        self._rows: list[int] = []
        self._features: list[Tensor] = []

    def get(self, rows: Tensor) -> Tensor:
        """Fill the rows of files that are known, and say which."""
        if not self.on:
            return torch.zeros(len(rows), dtype=torch.bool)
        # A file that is not there has the empty key, which nothing is kept under.
        keys = [key or bytes(16) for key in self._keys]
        return VectorCache(self._space(self._job), rows.shape[1]).get(keys, rows)

    def put(self, rows: list[int], features: Tensor, job: Job) -> None:
        """Keep features of the items at these places, but for files that changed meanwhile."""
        if not self.on:
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
