"""Image files to RGB pictures: every kind of picture people have, and one clear line for what is none.

`load_image` gives 8-bit RGB as the eye expects it: rotated by its EXIF tag, transparency on white, 16 bits
scaled to 8, the first frame of an animation. Reading is thread-safe and leaves Pillow's settings alone.
HEIC photos are read where pillow-heif is installed. `middle` bounds what a model's transform may be given.
"""

from __future__ import annotations

import io
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeGuard, TypeVar, Union

import numpy as np
from PIL import ExifTags, Image, ImageFile

from headword.errors import HeadwordError, MissingExtraError
from headword.files import expand, open_regular

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

ImageSource: TypeAlias = Union[str, "os.PathLike[str]", Image.Image, "Tensor", bytes]
"""One image: a path, a PIL image, a uint8 tensor `[3, H, W]`, or the bytes of an image file."""

MAX_PIXELS = 178_956_970
"""More pixels than this are taken for a decompression bomb: the size at which Pillow itself gives up."""

LONGEST_SHAPE = 32
"""Of a picture with a longer side of more than this many shorter ones, a model is given the middle."""

SHRINK_ABOVE = 1000
"""JPEG files with a longer side than this, in pixels, may be decoded at a fraction of their size."""

# Photos as phones write them, which not every installation can read: the extra `photos` can.
PHONE_SUFFIXES = frozenset({".heic", ".heif", ".hif", ".avif"})
_PHONE_BRANDS = re.compile(rb"ftyp(hei[cxms]|hevc|mif1|msf1|avif)")

# EPS starts Ghostscript, WMF needs Windows, the others are stubs that cannot decode.
REFUSED_FORMATS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_MAX_SCANS = 20  # JPEG files that go over more than so many times the pixels a picture may have are refused
_BAND = 1 << 22  # pixels that are converted at a time, where the way leads over wider ones
_MEND = "save it as PNG or JPEG, or leave it out"

# Silencing a warning is process-wide before Python 3.14; only pictures that large pass here, one at a time.
_LARGE = threading.Lock()


def load_image(
    source: ImageSource, *, shrink_to: int | None = None, inside: Path | None = None
) -> Image.Image:
    """One image as 8-bit RGB.

    EXIF rotation is applied; transparency is laid on white; 16-bit grey is scaled to 8 bits, not clipped; of
    an animation the first frame is taken; CMYK, palettes and the like are converted; colour profiles are not
    applied. A PIL image which is RGB already comes back as it is.

    Args:
        source: the image.
        shrink_to: JPEG files above `SHRINK_ABOVE` pixels a side may be decoded at 1/2, 1/4 or 1/8 of their
            size, as long as the shorter side keeps this many pixels: much faster, and not pixel-equal to
            decoding the whole and scaling it down.
        inside: a folder, resolved, that a file must lie in when links are followed.

    Raises:
        HeadwordError: in one line with the file's name, if it is missing, a folder, no regular file, empty,
            unreadable, cut short, damaged, larger than `MAX_PIXELS` or than the memory that is left, of an
            unsupported format, or no image; or if `source` is nothing that is accepted.
    """
    if isinstance(source, (str, os.PathLike)):
        path = expand(source)
        with opened_image(path, inside) as file:
            return _load(file, path, shrink_to)
    if isinstance(source, Image.Image):
        return _decoded(source, name_of(source), _upright_rgb)
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
    """One image as 8-bit RGB, as `load_image`, of an image file's bytes.

    `name` is what errors call it; its ending helps with formats that have no signature. More pixels than
    `max_pixels` (else `MAX_PIXELS`) are refused before any is decoded.
    """
    return _load(io.BytesIO(data), PurePath(name), shrink_to, max_pixels)


def load_numbers(source: str | os.PathLike[str]) -> np.ndarray[Any, Any]:
    """The numbers of an image file as they are, `[H, W]` or `[H, W, channels]`; of a palette the entries'.

    Raises:
        HeadwordError: as `load_image`.
    """
    path = expand(source)
    with opened_image(path) as file:
        return _decoded(_bounded(file, path), str(path), np.asarray)


def middle(image: Image.Image) -> Image.Image:
    """What a model is given of a picture: all of it, or of a very long one the middle.

    Scaling the shorter side up to a model's would make a picture of a few pixels by a million one of
    gigabytes, most of which a centre crop throws away. So no transform makes more pixels than
    `LONGEST_SHAPE` times the square of the shorter side it asks for.
    """
    width, height = image.size
    most = LONGEST_SHAPE * min(width, height)
    left, top = max(0, width - most) // 2, max(0, height - most) // 2
    if not left and not top:
        return image
    return image.crop((left, top, width - left, height - top))


def transformed(transform: Callable[[Image.Image], Tensor], image: Image.Image, name: str) -> Tensor:
    """A picture through a model's transform, which may be anybody's and fail, for want of memory too."""
    try:
        pixels = transform(middle(image))
        if not _is_tensor(pixels):
            raise TypeError(f"it gives {describe(pixels)}, not a tensor")
        return pixels
    except MemoryError:
        raise _too_large(image, name) from None
    except Exception as error:
        raise HeadwordError(
            f"{name} ({image.width} by {image.height}): the model's transform fails on it: "
            f"{type(error).__name__}: {error}"
        ) from error


def name_of(source: ImageSource) -> str:
    """What to call an image in messages."""
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "the PIL image")
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else "the image"


def _too_large(image: Image.Image, name: str) -> HeadwordError:
    return HeadwordError(
        f"{name} ({image.width} by {image.height}) does not fit in the memory that is left; scale it down"
    )


@contextmanager
def opened_image(path: Path, inside: Path | None = None) -> Iterator[BinaryIO]:
    """A picture's file, within a folder, links followed; what keeps it from being read is one line."""
    try:
        with open_regular(path, inside=inside) as file:
            yield file
            return
    except IsADirectoryError:
        mistake = f"{path} is a folder, not an image; give the images in it, as in {path}/*.jpg"
    except (FileNotFoundError, NotADirectoryError):
        is_address = str(path).startswith(("http:/", "https:/"))  # a Path has one slash of the two
        mend = "; download it first, addresses are not read" if is_address else ""
        mistake = f"there is no image file {path}{mend}"
    except PermissionError:
        mistake = f"{path} may not be read: permission denied"
    except OSError as error:  # a pipe, a link to itself, or its disk failed
        mistake = f"{path} cannot be read: {error.strerror or error}"
    raise HeadwordError(mistake)


def _load(
    file: BinaryIO, path: PurePath, shrink_to: int | None, max_pixels: int | None = None
) -> Image.Image:
    image = _bounded(file, path, max_pixels)
    scale = 1.0 if shrink_to is None else shrink_to / min(image.size)
    if scale < 1 and image.format == "JPEG" and max(image.size) > SHRINK_ABOVE:
        # Draft mode never goes below the size that is asked for, so the ratio is kept by both sides.
        image.draft(image.mode, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
    return _decoded(image, str(path), _upright_rgb)


def _bounded(file: BinaryIO, path: PurePath, max_pixels: int | None = None) -> Image.Image:
    """A picture that is not decoded yet, and will not take more memory than it may."""
    max_pixels = max_pixels or MAX_PIXELS
    image = open_image(file, path)
    width, height = image.size
    if width * height > max_pixels:
        raise HeadwordError(
            f"{path} has {width * height:,} pixels ({width} by {height}), more than the limit of "
            f"{max_pixels:,}; scale it down"
        )
    if image.format in {"JPEG", "MPO"} and width * height * _scans(file) > _MAX_SCANS * max_pixels:
        raise HeadwordError(
            f"{path} has more scans than a picture of {width} by {height} pixels can need; {_MEND}"
        )
    return image


def _scans(file: BinaryIO) -> int:
    """How often a JPEG goes over the whole picture, which costs it a hundred bytes a time."""
    place = file.tell()
    file.seek(0)
    scans, last = 0, b""
    while block := file.read(1 << 20):
        scans += (last + block).count(b"\xff\xda")  # in the data of a scan, a zero follows every 0xff
        last = block[-1:]
    file.seek(place)
    return scans


@cache
def register_formats() -> None:
    """Add HEIC to what Pillow reads, where pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener(thumbnails=False)


def open_image(file: BinaryIO, path: PurePath) -> Image.Image:
    """`PIL.Image.open` without its warning about large pictures, which cannot be silenced thread-safely.

    Formats without a signature are tried for files with their suffix alone: they take any text for an image.
    """
    prefix = file.read(16)
    if not prefix:
        raise HeadwordError(f"{path} is empty (0 bytes); {_MEND}")
    tried: set[str] = set()
    failed = ""
    for load_plugins in (Image.preinit, Image.init, register_formats):
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
            except Exception as error:  # decoders raise nearly all there is on damaged files
                failed = failed or f"looks like a {name} file but is damaged ({error})"
                continue
            if isinstance(accepted, str):  # this Pillow lacks the decoder, and says so
                failed = f"cannot be read: {accepted}"
            elif accepted:
                failed = f"is of the format {name}, which is not supported"
    photo = _PHONE_BRANDS.match(prefix, 4) or path.suffix.lower() in PHONE_SUFFIXES
    if not failed and photo and "HEIF" not in Image.ID:
        raise MissingExtraError(f"{path} cannot be read: what opens such photos", "photos")
    raise HeadwordError(
        f"{path} {failed or 'is not an image, or of a format that is not supported'}; {_MEND}"
    )


def _decoded(image: Image.Image, name: str, convert: Callable[[Image.Image], T]) -> T:
    """What a picture is converted to, once it is decoded."""
    try:
        _decode(image)
        return convert(image)
    except MemoryError:
        raise _too_large(image, name) from None
    except Exception as error:
        raise HeadwordError(f"{name} is damaged or cut short: {error}; {_MEND}") from error


def _decode(image: Image.Image) -> None:
    warn_above = Image.MAX_IMAGE_PIXELS
    if warn_above is None or image.width * image.height <= warn_above:
        image.load()
        return
    with _LARGE, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image.load()


def _upright_rgb(image: Image.Image) -> Image.Image:
    return _rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF tag says; Pillow's own way copies one that needs no turn."""
    if not isinstance(image, ImageFile.ImageFile) and "exif" not in image.info:
        return image
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels are sound though the tags are not
        return image
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image)
    if image.mode in {"La", "RGBa"}:
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        return _in_bands(image, _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """RGB by a conversion of single pixels, a band of rows at a time, so that little is in memory twice."""
    rows = max(1, _BAND // image.width)
    if rows >= image.height:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        band = (0, top, image.width, min(top + rows, image.height))
        whole.paste(convert(image.crop(band)), band)
    return whole


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 32 bits or floats as 8-bit RGB.

    The full range maps to the full range: 0…65535 for integers, 0…1 or 0…255 for floats. Values outside of
    these have no agreed range, so they are stretched from the least to the greatest.
    """
    if image.mode.startswith("I;16"):
        return _in_bands(
            image, lambda band: _grey((np.asarray(band).astype(np.uint32) * 255 + 32767) // 65535)
        )
    whole = np.asarray(image)
    low, high = float(whole.min()), float(whole.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it has NaN or infinite pixels")
    top = 65535.0 if image.mode == "I" else 1.0 if high <= 1 else 255.0
    least, span = (low, (high - low) or 1.0) if low < 0 or high > top else (0.0, top)
    return _in_bands(
        image, lambda band: _grey(np.rint((np.asarray(band).astype(np.float64) - least) * (255.0 / span)))
    )


def _grey(values: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


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
    kind = "tensor" if _is_tensor(source) else "NumPy array"
    if isinstance(source, np.ndarray) or _is_tensor(source):
        return f"a {str(source.dtype).removeprefix('torch.')} {kind} {list(source.shape)}"
    if source is None or isinstance(source, float):
        return str(source)
    return f"a {type(source).__name__}"
