"""Small JPEGs of the index's pictures, made when they are asked for and kept in memory up to a bound."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from headword.data.images import load_image

KEPT_BYTES = 96_000_000
"""Bytes of JPEGs that are kept; those not asked for longest go first."""

_QUALITY = 82


class Thumbnails:
    """Thread-safe; a file that changed gives a new thumbnail.

    Args:
        kept_bytes: as `KEPT_BYTES`.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[tuple[str, int, int, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, file: Path, side: int, inside: Path | None = None) -> bytes:
        """A JPEG of at most `side` pixels a side; a smaller picture keeps its size.

        Args:
            file: the picture.
            side: in pixels.
            inside: a folder, resolved, that the file must lie in when links are followed.

        Raises:
            HeadwordError: if the file is gone or cannot be read.
        """
        try:
            status = file.stat()
        except OSError:
            return thumbnail(file, side, inside)  # which says what is wrong with it
        key = (str(file), side, status.st_mtime_ns, status.st_size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = thumbnail(file, side, inside)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(made)
            while self._bytes > self._kept_bytes and self._kept:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return made

    @property
    def bytes(self) -> int:
        """What is kept now."""
        return self._bytes


def thumbnail(file: Path, side: int, inside: Path | None = None) -> bytes:
    """The picture as a JPEG of at most `side` pixels a side.

    Raises:
        HeadwordError: if it cannot be read.
    """
    image = load_image(file, shrink_to=side, inside=inside)
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
