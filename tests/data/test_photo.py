"""What a picture file says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from headword.data.photo import have_more_frames, photo_facts
from headword.data.safe_images import load_image, register_formats
from headword.errors import HeadwordError

RED = Image.new("RGB", (64, 48), "red")
BLUE = Image.new("RGB", (64, 48), "blue")


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Make], tags[ExifTags.Base.Model] = "Canon", "Canon EOS 5D"
    tags[ExifTags.Base.Orientation] = 6
    details = tags.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = "2021:05:06 07:08:09"
    details[ExifTags.Base.ExposureTime], details[ExifTags.Base.FNumber] = 1 / 250, 2.8
    details[ExifTags.Base.ISOSpeedRatings], details[ExifTags.Base.FocalLength] = 200, 35.0
    details[ExifTags.Base.LensModel] = "EF35mm\0junk"
    place = tags.get_ifd(ExifTags.IFD.GPSInfo)
    place[ExifTags.GPS.GPSLatitude], place[ExifTags.GPS.GPSLatitudeRef] = (38.0, 42.0, 0.0), "N"
    place[ExifTags.GPS.GPSLongitude], place[ExifTags.GPS.GPSLongitudeRef] = (9.0, 30.0, 36.0), "W"
    return tags


@pytest.mark.parametrize("name", ["a.jpg", "a.heic", "a.png", "a.webp"])
def test_facts_of_a_photo(tmp_path: Path, name: str) -> None:
    if name == "a.heic":
        pytest.importorskip("pillow_heif")
    register_formats()
    RED.save(tmp_path / name, exif=exif())
    facts = photo_facts(tmp_path / name, inside=tmp_path)
    assert facts.taken == "2021-05-06T07:08:09"
    assert (facts.camera, facts.lens) == ("Canon EOS 5D", "EF35mm")
    assert facts.exposure == "1/250 s · f/2.8 · ISO 200 · 35 mm"
    assert (facts.latitude, facts.longitude) == (38.7, -9.51)
    assert (facts.width, facts.height) == load_image(tmp_path / name).size
    assert not facts.more_frames


def test_a_picture_that_says_nothing(tmp_path: Path) -> None:
    RED.save(tmp_path / "a.bmp")
    facts = photo_facts(tmp_path / "a.bmp")
    assert (facts.width, facts.height, facts.format) == (64, 48, "BMP")
    assert facts.taken is facts.camera is facts.lens is facts.exposure is facts.latitude is None


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp", "a.heic"])
def test_more_frames_than_the_first_are_told(tmp_path: Path, name: str) -> None:
    if name == "a.heic":
        pytest.importorskip("pillow_heif")
    register_formats()
    RED.save(tmp_path / name, save_all=True, append_images=[BLUE])
    RED.save(tmp_path / f"one-{name}")
    assert photo_facts(tmp_path / name).more_frames
    paths = [tmp_path / name, tmp_path / f"one-{name}", tmp_path / "gone.gif"]
    assert have_more_frames(paths, inside=tmp_path) == paths[:1]
    red, _, blue = load_image(tmp_path / name).resize((1, 1)).getpixel((0, 0))
    assert red > 200 > 60 > blue, "the first"


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_odd_tags_are_nothing_to_fear(tmp_path_factory: pytest.TempPathFactory, tags: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "odd.jpg"
    RED.save(file, exif=b"Exif\0\0" + tags)
    facts = photo_facts(file)
    said = (facts.camera, facts.lens, facts.exposure)
    assert all(text is None or (text.isprintable() and len(text) <= 201) for text in said)


def test_mistakes_are_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(HeadwordError, match="is not an image"):
        photo_facts(tmp_path / "a.jpg")
    with pytest.raises(HeadwordError, match="no image file"):
        photo_facts(tmp_path / "b.jpg")
    with pytest.raises(HeadwordError, match="outside"):
        photo_facts(tmp_path / "a.jpg", inside=tmp_path / "other")
