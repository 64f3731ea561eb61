"""Files made to harm a reader of pictures: each is read, or refused in one line, and stops nothing."""

from __future__ import annotations

import io
import os
import resource
import signal
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

Make = Callable[[Path], None]


def picture(size: tuple[int, int] = (48, 40), seed: int = 0) -> Image.Image:
    """Noise, so that a cut file lacks something."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grey_png(width: int, height: int, extra: bytes = b"") -> bytes:
    """A black one-bit picture of any size, of little more than nothing."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    deflate = zlib.compressobj(9)
    row = bytes((width + 7) // 8 + 1)
    rows = b"".join(deflate.compress(row) for _ in range(height)) if width * height < 1 << 31 else b""
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", rows + deflate.flush()) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **options)
    return buffer.getvalue()


def with_segment(marker: int, content: bytes, times: int = 1) -> bytes:
    """A JPEG with more application data."""
    data = encoded("JPEG")
    segment = b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
    return data[:2] + segment * times + data[2:]


def many_scans(size: tuple[int, int], scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: seconds of work a kilobyte."""
    data = encoded("JPEG", Image.new("L", size), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def _write(data: bytes | Callable[[], bytes]) -> Make:
    return lambda path: path.write_bytes(data() if callable(data) else data) and None


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/{path.name}")  # a path of any length
        os.close(folder)


def _bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


def _tiff_round() -> bytes:
    """A TIFF whose second directory is its first."""
    data = bytearray(encoded("TIFF"))
    start = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[start : start + 2])[0]
    at = start + 2 + 12 * count
    data[at : at + 4] = struct.pack("<I", start)
    return bytes(data)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def _frames(kind: str) -> bytes:
    return encoded(kind, save_all=True, append_images=[picture(seed=n) for n in range(9)])


def _sixteen() -> bytes:
    return encoded("PNG", Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32)))


def _inflated(kind: bytes, head: bytes, size: int, times: int = 1) -> bytes:
    """A PNG with chunks beside the pixels that are a thousand times as large when they are unpacked."""
    return grey_png(8, 8, chunk(kind, head + zlib.compress(bytes(size), 9)) * times)


_BOMB_GIF = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\2\0;"


def _palette() -> bytes:
    return encoded("PNG", picture().quantize(8), transparency=0)


SOUND: dict[str, Make] = {
    "cmyk.jpg": _write(lambda: encoded("JPEG", picture().convert("CMYK"))),
    "sixteen.png": _write(
        lambda: encoded("PNG", Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32)))
    ),
    "palette.png": _write(_palette),
    "turned.jpg": _write(lambda: encoded("JPEG", exif=_exif(6))),
    "moving.gif": _write(
        lambda: encoded("GIF", save_all=True, append_images=[picture(seed=n) for n in range(9)])
    ),
    "pages.tif": _write(
        lambda: encoded("TIFF", save_all=True, append_images=[picture(seed=n) for n in range(9)])
    ),
    "round.tif": _write(_tiff_round),
    "icc.jpg": _write(lambda: with_segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(65_000), 200)),
    "exif.jpg": _write(lambda: with_segment(0xE1, b"Exif\0\0MM\0*" + b"\xff" * 65_000)),
    "60000x1.png": _write(lambda: grey_png(60_000, 1)),
    "1x60000.png": _write(lambda: grey_png(1, 60_000)),
    "65000x1.jpg": _write(lambda: encoded("JPEG", Image.new("L", (65_000, 1)))),
    "1000000x1.png": _write(lambda: grey_png(1_000_000, 1)),
    "1x1000000.png": _write(lambda: grey_png(1, 1_000_000)),
    "10000000x1.png": _write(lambda: grey_png(10_000_000, 1)),
    "1x10000000.png": _write(lambda: grey_png(1, 10_000_000)),
    "bad\nname.jpg": _write(lambda: encoded("JPEG")),
    "\x1b[2J.jpg": _write(lambda: encoded("JPEG", picture(seed=1))),
    "\udcff\udcfe.jpg": _write(lambda: encoded("JPEG", picture(seed=2))),
    "n" * 251 + ".jpg": _write(lambda: encoded("JPEG", picture(seed=3))),
}
"""Odd, and all the same pictures."""

REFUSED: dict[str, Make] = {
    "empty.jpg": _write(b""),
    "page.jpg": _write(b"<!doctype html><html><body>404</body></html>" * 20),
    **{
        f"cut.{kind.lower()}": _write(lambda kind=kind: encoded(kind)[:400])  # type: ignore[misc]
        for kind in ("JPEG", "PNG", "GIF", "WebP", "TIFF", "AVIF")
    },
    "pipe.jpg": lambda path: os.mkfifo(path),
    "socket.jpg": _socket,
    "text.png": _write(
        lambda: grey_png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(200_000_000), 9)))
    ),
    "texts.png": _write(
        lambda: grey_png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000), 9)) * 100)
    ),
    "profile.png": _write(
        lambda: grey_png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200_000_000), 9)))
    ),
    "bomb.png": _write(lambda: grey_png(60_000, 60_000)),
    "bomb.gif": _write(
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\2\0;"
    ),
    "bomb.bmp": _write(_bmp(60_000, 60_000)),
    "short.bmp": _write(_bmp(13_000, 13_000)),
    "backward.bmp": _write(_bmp(-100, -2_147_483_648)),
    "bomb.ppm": _write(b"P6 2000000000 2000000000 255\n" + bytes(64)),
    "short.ppm": _write(b"P6 13000 13000 255\n" + bytes(64)),
    "scans.jpg": _write(lambda: many_scans((8_000, 8_000), 3_000)),
}
"""Not to be read; those that are links come from `links`."""

LINKS = ("zero.jpg", "itself.jpg", "there.jpg", "back.jpg", "nowhere.jpg")


@contextmanager
def bounded(more: int = 2_000_000_000, seconds: int = 60) -> Iterator[None]:
    """Within, this process may take so many bytes more than it has, and so much time."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    sizes = Path("/proc/self/statm").read_text().split()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(sizes[0]) * resource.getpagesize() + more, hard))
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def hostile_folder(folder: Path) -> Path:
    """All of them in one folder, with a few sound pictures and links that lead nowhere good."""
    folder.mkdir(parents=True)
    for name, make in {**SOUND, **REFUSED}.items():
        make(folder / name)
    targets = ("/dev/zero", "itself.jpg", "back.jpg", "there.jpg", "gone.jpg")
    for name, target in zip(LINKS, targets, strict=True):
        (folder / name).symlink_to(target)
    (folder / "folder.jpg").mkdir()
    for n in range(3):
        (folder / f"plain {n}.png").write_bytes(encoded("PNG", picture(seed=10 + n)))
    return folder
