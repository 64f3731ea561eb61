"""What a picture file says of itself, for people: its size, when and with what it was taken, and where.

Of what stands in its EXIF tags, which may be anything, nothing is believed but short text and finite numbers.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from headword.data.safe_images import open_image, opened_image
from headword.errors import HeadwordError

FRAMED = frozenset({".gif", ".webp", ".tif", ".tiff", ".apng", ".heic", ".heif", ".hif", ".avif"})
"""Endings of files that may have more frames or pages than one."""

_LONGEST = 100  # characters of a text that is shown
_TIME = "%Y:%m:%d %H:%M:%S"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoFacts:
    """What is known without decoding a picture; None is what it does not say."""

    width: int
    height: int
    """Pixels, as the picture is shown: turned as its EXIF tag says."""
    format: str
    """As Pillow calls it: JPEG, PNG, HEIF …"""
    more_frames: bool
    """Whether it has more frames or pages than the first, which alone is searched."""
    taken: str | None
    """By the camera's own clock, ISO 8601 without a zone."""
    camera: str | None
    lens: str | None
    exposure: str | None
    """Time, aperture, sensitivity and focal length, as photographers write them."""
    latitude: float | None
    longitude: float | None


def photo_facts(path: Path, *, inside: Path | None = None) -> PhotoFacts:
    """The facts of a picture file.

    Args:
        path: the file.
        inside: a folder, resolved, that the file must lie in when links are followed.

    Raises:
        HeadwordError: in one line, as `headword.data.safe_images.load_image`.
    """
    with opened_image(path, inside) as file:
        image = open_image(file, path)
        tags, details, place = _exif(image)
        width, height = image.size
        turned = tags.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        latitude, longitude = _position(place)
        return PhotoFacts(
            width=height if turned else width,
            height=width if turned else height,
            format=image.format or "",
            more_frames=has_more_frames(image),
            taken=_time(details.get(ExifTags.Base.DateTimeOriginal) or tags.get(ExifTags.Base.DateTime)),
            camera=_camera(_text(tags.get(ExifTags.Base.Make)), _text(tags.get(ExifTags.Base.Model))),
            lens=_text(details.get(ExifTags.Base.LensModel)),
            exposure=_exposure(details),
            latitude=latitude,
            longitude=longitude,
        )


def have_more_frames(paths: Iterable[Path], *, inside: Path) -> list[Path]:
    """Those of some files that have frames or pages besides the first; of formats that can."""
    found = []
    for path in paths:
        if path.suffix.lower() in FRAMED:
            with suppress(HeadwordError), opened_image(path, inside) as file:
                if has_more_frames(open_image(file, path)):
                    found.append(path)
    return found


def has_more_frames(image: Image.Image) -> bool:
    """Whether an opened picture has frames or pages besides the first; not a phone's map of depths."""
    with suppress(Exception):  # what follows the first may be damaged in any way
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return False


def _exif(image: Image.Image) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """The tags of the picture, of how it was taken, and of the place; those that can be read."""
    parts: list[dict[int, Any]] = [{}, {}, {}]
    with suppress(Exception):  # the picture may be sound though its tags are not
        exif = image.getexif()
        parts[0] = dict(exif)
        parts[1] = dict(exif.get_ifd(ExifTags.IFD.Exif))
        parts[2] = dict(exif.get_ifd(ExifTags.IFD.GPSInfo))
    return parts[0], parts[1], parts[2]


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    shown = " ".join("".join(c if c.isprintable() else " " for c in value.split("\0")[0]).split())
    return shown[:_LONGEST] or None


def _number(value: object) -> float | None:
    with suppress(TypeError, ValueError, ArithmeticError):
        number = float(value)  # type: ignore[arg-type]
        return number if math.isfinite(number) else None
    return None


def _time(value: object) -> str | None:
    with suppress(ValueError, TypeError):
        return datetime.datetime.strptime(_text(value) or "", _TIME).isoformat()
    return None


def _camera(make: str | None, model: str | None) -> str | None:
    if make and model and not model.casefold().startswith(make.split()[0].casefold()):
        return f"{make} {model}"
    return model or make


def _exposure(details: dict[int, Any]) -> str | None:
    seconds = _number(details.get(ExifTags.Base.ExposureTime))
    aperture = _number(details.get(ExifTags.Base.FNumber))
    sensitivity = details.get(ExifTags.Base.ISOSpeedRatings)
    if isinstance(sensitivity, tuple) and sensitivity:
        sensitivity = sensitivity[0]
    iso, length = _number(sensitivity), _number(details.get(ExifTags.Base.FocalLength))
    said = []
    if seconds is not None and 1e-6 < seconds < 1e6:
        said.append(f"1/{round(1 / seconds)} s" if seconds < 0.4 else f"{seconds:g} s")
    said += [f"f/{aperture:.3g}"] if aperture else []
    said += [f"ISO {iso:.0f}"] if iso else []
    said += [f"{length:.3g} mm"] if length else []
    return " · ".join(said) or None


def _position(place: dict[int, Any]) -> tuple[float | None, float | None]:
    """Degrees of latitude and longitude; both or neither."""
    degrees = []
    for name, reference, most in (
        (ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, 90),
        (ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, 180),
    ):
        parts = place.get(name)
        numbers = [_number(part) for part in parts] if isinstance(parts, tuple) and len(parts) == 3 else []
        if not numbers or any(number is None for number in numbers):
            return None, None
        value = sum(number / 60**power for power, number in enumerate(numbers) if number is not None)
        if abs(value) > most:
            return None, None
        degrees.append(-value if _text(place.get(reference)) in ("S", "W") else value)
    return round(degrees[0], 6), round(degrees[1], 6)
