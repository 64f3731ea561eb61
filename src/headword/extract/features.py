"""`image_features`: images in, a matrix out, through the cache where there is much to compute."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor

from headword.cache import VectorCache, cache_limit, keeping, key_of
from headword.data.items import Item
from headword.encoders import VisionEncoder
from headword.errors import HeadwordError
from headword.extract.given import Given, given
from headword.extract.job import Job

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

CACHE_FROM = 64
"""Images from which a call is worth looking up: fewer are computed before the weights' hash is."""

_ABSENT = bytes(16)  # the key of a file that is not there, which nothing is kept under


@dataclass(frozen=True, slots=True, eq=False)
class Extracted:
    """The features of those images that could be read."""

    features: Tensor
    """float32 `[N', d]`, on the CPU."""
    kept: tuple[int, ...]
    """N' places in the list of images, ascending."""
    errors: dict[int, str]
    """For each image that could not, by its place: why, in one line that names it."""


def image_features(
    vision: VisionEncoder,
    images: object,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
    engine: str = "auto",
    cache: bool = True,
) -> Tensor:
    """Images → float32 features `[N, d]` at the input of the classifier's head; see `extract`.

    Raises:
        HeadwordError: as `extract`, or if an image cannot be read.
    """
    return extract(
        vision, images, batch_size=batch_size, progress=progress, engine=engine, cache=cache, strict=True
    ).features


def extract(
    vision: VisionEncoder,
    images: object,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
    engine: str = "auto",
    cache: bool = True,
    strict: bool = False,
) -> Extracted:
    """Images → features at the input of the classifier's head, of all that can be read.

    Args:
        vision: the encoder.
        images: as for `DualEncoder.encode_image`.
        batch_size: images that go through the model together.
        progress: called after every batch.
        engine: "auto", "torch" or "openvino"; "auto" is exact below 512 images, and the fastest from there
            on.
        cache: whether features of image files may come from, and go to, the cache.
        strict: whether the first image that cannot be read is raised.

    Raises:
        HeadwordError: if no image can be read, or the input is of no accepted kind.
    """
    source = images if isinstance(images, Given) else given(images)
    tell: Progress = progress or (lambda _done, _total: None)
    if isinstance(source, Tensor):
        features = _of_tensor(vision, source, batch_size, tell)
        return Extracted(features, tuple(range(len(features))), {})
    parts, before, errors, total = list[Tensor](), 0, dict[int, str](), source.total
    for items in source:

        def tell_all(done: int, count: int, before: int = before) -> None:
            tell(before + done, max(total, before + count))

        job = Job(vision, len(items), engine=engine, batch_size=batch_size)
        features, failed = _computed(job, items, cache=cache, strict=strict, progress=tell_all)
        parts.append(features)
        errors |= {before + place: why for place, why in failed.items()}
        before += len(items)
    if not before:
        raise HeadwordError("there are no images")
    if len(errors) == before:
        raise HeadwordError(none_read(errors, before))
    kept = tuple(place for place in range(before) if place not in errors)
    return Extracted(parts[0] if len(parts) == 1 else torch.cat(parts), kept, errors)


def none_read(errors: dict[int, str], count: int) -> str:
    """The line for images of which none could be read: the reason of the first."""
    why = next(iter(errors.values()))
    return why if count == 1 else f"none of {count} images could be read: {why}"


def known_features(job: Job, items: list[Item], rows: Tensor) -> Tensor:
    """Fill the rows `[N, d]` of items whose features the cache holds, as this job would compute them; returns
    which they are, bool `[N]`.
    """
    return _lookup(job, _keys(job, items), rows)


def _computed(
    job: Job, items: list[Item], *, cache: bool, strict: bool, progress: Progress
) -> tuple[Tensor, dict[int, str]]:
    """Features of the items that can be read, and for the others why not."""
    rows = torch.empty(len(items), job.vision.dim)
    keys = _keys(job, items) if cache and len(items) >= CACHE_FROM else []
    have = _lookup(job, keys, rows)
    missing = (~have).nonzero().flatten().tolist()
    done, errors = len(items) - len(missing), dict[int, str]()
    if done:
        progress(done, len(items))

    def put(places: list[int]) -> None:
        _cache(job).put([keys[place] for place in places], rows[places])

    def kept() -> str:
        return f"the features of {done:,} of {len(items):,} images are kept"

    with keeping(put if keys else None, 4096, kept) as keep:
        for computed in job.run(items, missing):
            if computed.errors and strict:
                raise HeadwordError(next(iter(computed.errors.values())))
            errors |= computed.errors
            rows[computed.read], have[computed.read] = computed.features, True
            if keys:  # not of files that changed meanwhile
                keep(place for place in computed.read if _ABSENT != keys[place] == _key(items[place]))
            done += len(computed.places)
            progress(done, len(items))
    return rows if not errors else rows[have], errors


def _of_tensor(vision: VisionEncoder, images: Tensor, batch_size: int, progress: Progress) -> Tensor:
    """Features of images that are transformed already, or features as they are."""
    if images.ndim == 2:
        if images.shape[1] != vision.dim:
            raise HeadwordError(f"features must have shape [N, {vision.dim}], got {list(images.shape)}")
        return images.float().cpu()
    if not len(images):
        raise HeadwordError("there are no images")
    parts = []
    for batch in torch.split(images, batch_size):
        parts.append(vision.encode(batch))
        progress(min(len(parts) * batch_size, len(images)), len(images))
    return torch.cat(parts)


def _keys(job: Job, items: list[Item]) -> list[bytes]:
    """What a job's images are kept under; none where they are not kept."""
    # What a module of the user's own computes is more than its weights say.
    known = job.vision.source.kind != "module" and all(item.file or item.version for item in items)
    return [_key(item) for item in items] if known and cache_limit() > 0 else []


def _key(item: Item) -> bytes:
    """A file is known by its path, size and time of last change."""
    if item.file is None:
        return key_of(item.version, item.id)
    try:
        status = os.stat(item.file)  # noqa: PTH116  # a Path costs ten times as much
    except OSError:
        return _ABSENT
    return key_of(item.file, status.st_size, status.st_mtime_ns)


def _lookup(job: Job, keys: list[bytes], rows: Tensor) -> Tensor:
    return _cache(job).get(keys, rows) if keys else torch.zeros(len(rows), dtype=torch.bool)


def _cache(job: Job) -> VectorCache:
    """By what the job says now: a run may change the engine."""
    libraries = {"plan": repr(job.plan), "version": version(job.choice.engine)}
    device = {"device": job.vision.device.type}
    return VectorCache({"kind": "image", **job.key, **libraries, **device}, job.vision.dim)
