"""Image files to RGB pictures: every kind of picture people have, and one clear line for what is none.

`load_image` gives 8-bit RGB as the eye expects it: rotated by its EXIF tag, transparency on white, 16 bits
scaled to 8, the first frame of an animation. Reading is thread-safe and leaves Pillow's settings alone.
"""

from __future__ import annotations

import io
import math
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeGuard, Union

import numpy as np
from PIL import ExifTags, Image, ImageFile

from headword.errors import HeadwordError

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = Union[str, "os.PathLike[str]", Image.Image, "Tensor", bytes]
"""One image: a path, a PIL image, a uint8 tensor `[3, H, W]`, or the bytes of an image file."""

MAX_PIXELS = 178_956_970
"""More pixels than this are taken for a decompression bomb: the size at which Pillow itself gives up."""

SHRINK_ABOVE = 1000
"""JPEG files with a longer side than this, in pixels, may be decoded at a fraction of their size."""

# EPS starts Ghostscript, WMF needs Windows, the others are stubs that cannot decode.
REFUSED_FORMATS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})

_MEND = "save it as PNG or JPEG, or leave it out"

# What Pillow's decoders raise on damaged files; the list is from feeding them some (tests/test_images.py).
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, AttributeError, ArithmeticError,
    RuntimeError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Silencing a warning is process-wide before Python 3.14; only pictures that large pass here, one at a time.
_LARGE = threading.Lock()


def load_image(source: ImageSource, *, shrink_to: int | None = None) -> Image.Image:
    """One image as 8-bit RGB.

    EXIF rotation is applied; transparency is laid on white; 16-bit grey is scaled to 8 bits, not clipped; of
    an animation the first frame is taken; CMYK, palettes and the like are converted; colour profiles are not
    applied. A PIL image which is RGB already comes back as it is.

    Args:
        source: the image.
        shrink_to: JPEG files above `SHRINK_ABOVE` pixels a side may be decoded at 1/2, 1/4 or 1/8 of their
            size, as long as the shorter side keeps this many pixels: much faster, and not pixel-equal to
            decoding the whole and scaling it down.

    Raises:
        HeadwordError: in one line with the file's name, if it is missing, a folder, empty, unreadable, cut
            short, damaged, larger than `MAX_PIXELS`, of an unsupported format, or no image; or if `source` is
            nothing that is accepted.
    """
    if isinstance(source, (str, os.PathLike)):
        return _load_file(Path(source).expanduser(), shrink_to)
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or "the PIL image"
        return _finish(source, str(name))
    if is_image_tensor(source):
        return Image.fromarray(source.detach().cpu().permute(1, 2, 0).contiguous().numpy())
    if isinstance(source, bytes):
        return load_image_bytes(source, "the image in memory", shrink_to=shrink_to)
    raise HeadwordError(
        f"not an image: {describe(source)}; accepted are a path, a PIL image, a uint8 tensor [3,H,W] or the "
        "bytes of an image file"
    )


def load_image_bytes(
    data: bytes, name: str, *, shrink_to: int | None = None, max_pixels: int | None = None
) -> Image.Image:
    """One image as 8-bit RGB, as `load_image`, of the bytes of an image file.

    Args:
        data: the file's content.
        name: what to call it in errors; its ending helps with formats that have no signature.
        shrink_to: as for `load_image`.
        max_pixels: more are refused, before any is decoded; `MAX_PIXELS` when not given.
    """
    return _load(io.BytesIO(data), PurePath(name), shrink_to, max_pixels)


def _load_file(path: Path, shrink_to: int | None) -> Image.Image:
    if path.is_dir():
        raise HeadwordError(f"{path} is a folder, not an image; give the images in it, as in {path}/*.jpg")
    if not path.exists():
        is_address = str(path).startswith(("http:/", "https:/"))  # a Path has one slash of the two
        mend = "; download it first, addresses are not read" if is_address else ""
        raise HeadwordError(f"there is no image file {path}{mend}")
    if not path.is_file():  # a pipe or a device could keep us waiting for ever
        raise HeadwordError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            return _load(file, path, shrink_to)
    except PermissionError as error:
        raise HeadwordError(f"{path} may not be read: permission denied") from error
    except OSError as error:  # it vanished since it was looked for, or its disk failed
        raise HeadwordError(f"{path} cannot be read: {error.strerror or error}") from error


def _load(
    file: BinaryIO, path: PurePath, shrink_to: int | None, max_pixels: int | None = None
) -> Image.Image:
    if max_pixels is None:
        max_pixels = MAX_PIXELS
    image = _open(file, path)
    width, height = image.size
    if width * height > max_pixels:
        raise HeadwordError(
            f"{path} has {width * height:,} pixels ({width} by {height}), more than the limit of "
            f"{max_pixels:,}; scale it down"
        )
    if shrink_to is not None and image.format == "JPEG" and max(width, height) > SHRINK_ABOVE:
        scale = shrink_to / min(width, height)
        if scale < 1:
            # Draft mode never goes below the size that is asked for, so the ratio is kept by both sides.
            image.draft(image.mode, (math.ceil(width * scale), math.ceil(height * scale)))
    return _finish(image, str(path))


def _open(file: BinaryIO, path: PurePath) -> Image.Image:
    """`PIL.Image.open` without its warning about large pictures, which cannot be silenced thread-safely.

    Formats without a signature are tried for files with their suffix alone: they take any text for an image.
    """
    prefix = file.read(16)
    if not prefix:
        raise HeadwordError(f"{path} is empty (0 bytes); {_MEND}")
    tried: set[str] = set()
    failed = ""
    for load_plugins in (Image.preinit, Image.init):
        load_plugins()
        for name in [name for name in Image.ID if name not in tried]:
            tried.add(name)
            factory, accept = Image.OPEN[name]
            by_suffix = Image.EXTENSION.get(path.suffix.lower()) == name
            try:
                accepted = accept(prefix.ljust(16, b"\0")) if accept else by_suffix
                if accepted is True and name not in REFUSED_FORMATS:
                    file.seek(0)
                    return factory(file, str(path))
            except _DAMAGE as error:
                failed = failed or f"looks like a {name} file but is damaged ({error})"
                continue
            if isinstance(accepted, str):  # this Pillow lacks the decoder, and says so
                failed = f"cannot be read: {accepted}"
            elif accepted:
                failed = f"is of the format {name}, which is not supported"
    raise HeadwordError(
        f"{path} {failed or 'is not an image, or of a format that is not supported'}; {_MEND}"
    )


def _finish(image: Image.Image, name: str) -> Image.Image:
    """Decode, rotate and convert to RGB."""
    try:
        _decode(image)
        turn = _TURNS.get(_orientation(image))
        if turn is not None:
            image = image.transpose(turn)
        return _rgb(image)
    except _DAMAGE as error:
        raise HeadwordError(f"{name} is damaged or cut short: {error}; {_MEND}") from error


def _decode(image: Image.Image) -> None:
    warn_above = Image.MAX_IMAGE_PIXELS
    if warn_above is None or image.width * image.height <= warn_above:
        image.load()
        return
    with _LARGE, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image.load()


def _orientation(image: Image.Image) -> Any:
    if not isinstance(image, ImageFile.ImageFile) and "exif" not in image.info:
        return 1
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGE:  # the pixels are sound though the tags are not
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image).convert("RGB")
    if image.mode in {"La", "RGBa"}:
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 32 bits or floats as 8-bit grey.

    The full range maps to the full range: 0…65535 for integers, 0…1 or 0…255 for floats. Values outside of
    these have no agreed range, so they are stretched from the least to the greatest.
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    wide = values.astype(np.float64)
    low, high = float(wide.min()), float(wide.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it has NaN or infinite pixels")
    top = 65535.0 if image.mode == "I" else 1.0 if high <= 1 else 255.0
    if low < 0 or high > top:
        wide, top = wide - low, (high - low) or 1.0
    return Image.fromarray(np.rint(wide * (255.0 / top)).astype(np.uint8))


def _is_tensor(source: object) -> TypeGuard[Tensor]:
    from torch import Tensor

    return isinstance(source, Tensor)


def is_image_tensor(source: object) -> TypeGuard[Tensor]:
    """Whether it is a picture as `load_image` takes it: uint8 `[3, H, W]`."""
    from torch import uint8

    if not _is_tensor(source):
        return False
    return source.dtype == uint8 and source.ndim == 3 and source.shape[0] == 3 and source.numel() > 0


def describe(source: object) -> str:
    """What a thing is, for an error: its type, and of arrays their shape."""
    if _is_tensor(source) or isinstance(source, np.ndarray):
        kind = "tensor" if _is_tensor(source) else "NumPy array"
        return f"a {str(source.dtype).removeprefix('torch.')} {kind} {list(source.shape)}"
    if source is None or isinstance(source, float):
        return str(source)
    return f"a {type(source).__name__}"
