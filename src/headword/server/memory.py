"""What the server keeps in memory, up to a bound: embeddings of texts, and thumbnails."""

from __future__ import annotations

import copy
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from headword.data.safe_images import load_image
from headword.model import DualEncoder

MAX_TEXTS = 16_384
"""Texts whose embeddings are kept."""

MAX_BYTES = 96_000_000
"""Bytes of thumbnails that are kept."""

_QUALITY = 82  # of the JPEGs

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Values by key, up to a sum of sizes; those not asked for longest go first. Thread-safe."""

    def __init__(self, limit: int, size: Callable[[Value], int] = lambda _: 1) -> None:
        self.limit = limit
        self.held = 0
        self._size = size
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value, from now on the one asked for last; None where there is none."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, unless another thread has put one there."""
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self.held += self._size(value)
            while self.held > self.limit:
                self.held -= self._size(self._values.popitem(last=False)[1])


class TextVectors:
    """Texts → embeddings by `embed`, each computed once: while someone types, and for labels used again."""

    def __init__(self, embed: Callable[[list[str]], Tensor], limit: int = MAX_TEXTS) -> None:
        self._embed = embed
        self.recent: Recent[str, Tensor] = Recent(limit)

    def __call__(self, texts: list[str]) -> Tensor:
        """N texts, one or more → `[N, k]`."""
        known = {text: vector for text in texts if (vector := self.recent.get(text)) is not None}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            for text, vector in zip(missing, self._embed(missing), strict=True):
                known[text] = vector.clone()  # not a view that keeps its whole batch
                self.recent.put(text, known[text])
        return torch.stack([known[text] for text in texts])


def remembering(model: DualEncoder) -> DualEncoder:
    """The same model, which reads a text once for all that is asked of it: queries, familiarity, labels."""
    source = model.text.source
    fresh = copy.copy(model)
    fresh.text = replace(model.text, source=replace(source, embed=TextVectors(source.embed)))
    return fresh


class Thumbnails:
    """Small JPEGs of pictures, up to `limit` bytes; a file that changed gives a new one. Thread-safe."""

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self.recent: Recent[tuple[str, int, int, int], bytes] = Recent(limit, len)

    def get(self, file: Path, side: int, inside: Path | None = None) -> bytes:
        """A JPEG of at most `side` pixels a side; the file must lie `inside` a folder, links followed."""
        try:
            status = file.stat()
        except OSError:
            return _thumbnail(file, side, inside)  # which says what is wrong with it
        key = (str(file), side, status.st_mtime_ns, status.st_size)
        jpeg = self.recent.get(key)
        if jpeg is None:
            jpeg = _thumbnail(file, side, inside)
            self.recent.put(key, jpeg)
        return jpeg


def _thumbnail(file: Path, side: int, inside: Path | None) -> bytes:
    image = load_image(file, shrink_to=side, inside=inside)
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
