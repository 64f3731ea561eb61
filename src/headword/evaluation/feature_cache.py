"""Features of images and texts, computed once and kept by a hash of everything they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from headword.cache import cache_folder
from headword.data.images import ImageSource
from headword.encoders.prompts import Prompts, check_templates
from headword.errors import HeadwordError
from headword.evaluation.subjects import Subject
from headword.extract import Progress
from headword.extract.features import none_read
from headword.files import load_tensors, save_tensors

Readable: TypeAlias = Path | Callable[[], ImageSource]
"""An image file, or a function that reads an image from elsewhere and raises HeadwordError if it cannot."""

_AT_ONCE = 256  # images that are not files and are held decoded


@dataclass(frozen=True, slots=True, eq=False)
class Extracted:
    """The features of those images that could be read."""

    features: Tensor
    """`[N', d]`."""
    kept: tuple[int, ...]
    """N' places in the list of images, ascending."""
    skipped: tuple[str, ...]
    """A line for each image that could not be read, with its name."""


def extract(
    subject: Subject,
    images: Sequence[Readable],
    *,
    version: str = "",
    cache: bool = True,
    progress: Progress | None = None,
) -> Extracted:
    """Image features, from the cache where the same model has seen the same images.

    Args:
        subject: the model.
        images: files, or functions that read an image.
        version: stands for the content of those that are no files; they are cached only where it is given.
        cache: whether to look, and to keep them, there.
        progress: called with (done, all).

    Raises:
        HeadwordError: if none can be read.
    """
    if not images:
        raise HeadwordError("there are no images")
    files = [image for image in images if isinstance(image, Path)]
    kept_at = None
    if cache and (version or len(files) == len(images)):
        kept_at = _file("images", [subject.image_key, version, len(images), *map(_stamp, files)])
    if kept_at is not None and kept_at.is_file():
        said = load_tensors(kept_at)
        return Extracted(said["features"], tuple(said["kept"].tolist()), _lines(said["skipped"]))
    parts: list[Tensor] = []
    skipped: dict[int, str] = {}
    # Files go in one call, which reads ahead; what is decoded here goes in portions, to bound the memory.
    portion = len(images) if len(files) == len(images) else _AT_ONCE
    for start in range(0, len(images), portion):
        _extract_portion(subject, images[start : start + portion], start, parts, skipped, progress)
        if progress is not None and portion < len(images):
            progress(min(start + portion, len(images)), len(images))
    if not parts:
        raise HeadwordError(none_read(skipped, len(images)))
    kept = [place for place in range(len(images)) if place not in skipped]
    lines = tuple(skipped[place] for place in sorted(skipped))
    found = Extracted(torch.cat(parts), tuple(kept), lines)
    if kept_at is not None:
        tensors = {"features": found.features, "kept": torch.tensor(kept), "skipped": _bytes(lines)}
        save_tensors(kept_at, tensors)
    return found


def text_features(subject: Subject, texts: Sequence[str]) -> Tensor:
    """Text features `[M, k]`, from the cache where the same encoder has read the same list of texts."""
    cache = _file("texts", [subject.text_key, *texts])
    if not cache.is_file():
        save_tensors(cache, {"features": subject.text_features(texts)})
    return load_tensors(cache)["features"]


def name_features(subject: Subject, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Class names → unit-norm text features `[C, k]`, as the model reads labels (see `Prompts`)."""
    prompts = Prompts(tuple(names), check_templates(templates), subject.kinds)
    return prompts.combine(text_features(subject, prompts.texts))


def _extract_portion(
    subject: Subject,
    images: Sequence[Readable],
    start: int,
    parts: list[Tensor],
    skipped: dict[int, str],
    progress: Progress | None,
) -> None:
    if all(isinstance(image, Path) for image in images):
        read: list[ImageSource | HeadwordError] = [image for image in images if isinstance(image, Path)]
    else:
        read = _read_all(images)
        progress = None  # it counts the images of one call
    skipped |= {start + n: str(one) for n, one in enumerate(read) if isinstance(one, HeadwordError)}
    places = [n for n, one in enumerate(read) if not isinstance(one, HeadwordError)]
    sources = [one for one in read if not isinstance(one, HeadwordError)]
    if not sources:
        return
    unreadable: dict[int, str] = {}
    try:
        parts.append(subject.image_features(sources, skipped=unreadable, progress=progress))
    except HeadwordError:
        if len(unreadable) < len(sources):
            raise
    skipped |= {start + places[n]: why for n, why in unreadable.items()}


def _read_all(images: Sequence[Readable]) -> list[ImageSource | HeadwordError]:
    def read(image: Readable) -> ImageSource | HeadwordError:
        try:
            return image if isinstance(image, Path) else image()
        except HeadwordError as error:
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(read, images))


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path} missing"
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


def _file(kind: str, parts: Iterable[object]) -> Path:
    digest = hashlib.sha256(json.dumps([kind, 1, *parts], default=str).encode()).hexdigest()
    return cache_folder() / "evaluation" / f"{kind}-{digest[:40]}.safetensors"


def _bytes(lines: Sequence[str]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(lines).encode()), dtype=torch.uint8)


def _lines(tensor: Tensor) -> tuple[str, ...]:
    return tuple(json.loads(tensor.numpy().tobytes()))
