"""Every kind of picture people have becomes 8-bit RGB, and everything else one clear line."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headword.data import safe_images
from headword.data.safe_images import load_image
from headword.errors import HeadwordError

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def flag(size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Red, with a blue upper left quarter: shows every rotation and flip."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (0, 0, size[0] // 2, size[1] // 2))
    return image


def colour_at(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value)


def assert_near(
    image: Image.Image, at: tuple[int, int], colour: tuple[int, int, int], within: int = 12
) -> None:
    assert image.mode == "RGB"
    assert np.abs(np.subtract(colour_at(image, *at), colour)).max() <= within


def refusal(source: object) -> str:
    with pytest.raises(HeadwordError) as caught:
        load_image(source)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what can be read


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif", "ppm", "tga", "jp2", "ico"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"flag.{suffix}"
    flag((32, 32)).save(path)
    image = load_image(path)
    assert image.size == (32, 32)
    assert_near(image, (4, 4), BLUE, within=20)
    assert_near(image, (28, 28), RED, within=20)


def test_the_content_counts_and_not_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "flag.jpg"
    flag().save(path, "PNG")
    assert colour_at(load_image(path), 0, 0) == BLUE
    assert colour_at(load_image(str(path)), 0, 0) == BLUE


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / f"turned.{suffix}"
    flag().save(path, exif=exif)
    image = load_image(path)
    corner = {1: (2, 2), 2: (-3, 2), 3: (-3, -3), 4: (2, -3), 5: (2, 2), 6: (-3, 2), 7: (-3, -3), 8: (2, -3)}
    x, y = corner[orientation]
    assert image.size == ((40, 30) if orientation < 5 else (30, 40))
    assert_near(image, (x % image.width, y % image.height), BLUE, within=20)
    with Image.open(path) as opened:  # a PIL image that still says how to turn it is turned alike
        assert np.array_equal(load_image(opened), image)


def test_damaged_exif_does_not_spoil_the_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    path = tmp_path / "x.png"
    flag().save(path, exif=exif)
    data = path.read_bytes()
    at = data.index(b"eXIf")
    length = int.from_bytes(data[at - 4 : at], "big")
    chunk = b"eXIf" + b"\xff" * length
    path.write_bytes(data[:at] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at + 4 + length + 4 :])
    assert load_image(path).size == (40, 30)


def test_cmyk(tmp_path: Path) -> None:
    flag().convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    flag().convert("CMYK").save(tmp_path / "x.tif")
    for name in ("x.jpg", "x.tif"):
        assert_near(load_image(tmp_path / name), (4, 4), BLUE, within=40)
        assert_near(load_image(tmp_path / name), (36, 26), RED, within=40)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / f"x.{suffix}")
    image = load_image(tmp_path / f"x.{suffix}")
    assert image.mode == "RGB"
    expected = np.arange(256).reshape(16, 16)
    assert all(np.array_equal(np.asarray(image)[..., channel], expected) for channel in range(3))


def test_sixteen_bit_colour_png(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">3H", 65535, 32768, 0)
    path = tmp_path / "x.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    assert colour_at(load_image(path), 0, 0) == (255, 128, 0)


@given(st.lists(st.integers(0, 65535), min_size=2, max_size=50))
@settings(max_examples=50, deadline=None)
def test_sixteen_bit_scaling_is_monotone_and_exact_at_the_ends(values: list[int]) -> None:
    values = [0, *sorted(values), 65535]
    grey = np.asarray(load_image(Image.fromarray(np.array([values], dtype=np.uint16))))[0, :, 0].astype(int)
    assert (np.diff(grey) >= 0).all()
    assert (grey[0], grey[-1]) == (0, 255)
    assert np.abs(grey - np.array(values) / 257).max() <= 0.5


def test_32_bit_and_float_grey() -> None:
    def grey(values: list[float], dtype: str) -> list[int]:
        image = Image.fromarray(np.array([values], dtype=dtype))
        return [int(v) for v in np.asarray(load_image(image))[0, :, 0]]

    assert grey([0, 32896, 65535], "int32") == [0, 128, 255]
    assert grey([-100, 0, 200], "int32") == [0, 85, 255]  # no agreed range: stretched
    assert grey([0, 0.25, 1], "float32") == [0, 64, 255]
    assert grey([0, 100, 255], "float32") == [0, 100, 255]
    assert grey([-1, 0, 3], "float32") == [0, 64, 255]
    assert grey([-7, -7], "float32") == [0, 0]
    assert "NaN" in refusal(Image.fromarray(np.array([[np.nan, 1.0]], dtype="float32")))


def transparent(mode: str) -> Image.Image:
    """Left half black and opaque, right half black and transparent."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGBA", "png"), ("LA", "png"), ("RGBA", "webp"), ("RGBA", "tif"), ("RGBA", "gif")]
)
def test_transparency_is_laid_on_white(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    transparent(mode).save(path, **({"lossless": True} if suffix == "webp" else {}))
    image = load_image(path)
    assert (colour_at(image, 1, 4), colour_at(image, 6, 4)) == (BLACK, WHITE)


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_rarer_transparent_modes(mode: str) -> None:
    image = load_image(transparent({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode))
    assert (colour_at(image, 1, 4), colour_at(image, 6, 4)) == (BLACK, WHITE)


def test_half_transparency_blends(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 128)).save(tmp_path / "x.png")
    assert_near(load_image(tmp_path / "x.png"), (0, 0), (255, 127, 127), within=1)


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    flag().quantize(4).save(tmp_path / "plain.png")
    assert_near(load_image(tmp_path / "plain.png"), (2, 2), BLUE, within=3)
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putpixel((3, 3), 1)
    image.save(tmp_path / "index.png", transparency=0)
    image.save(tmp_path / "bytes.png", transparency=bytes([0, 255, 255]))
    for name in ("index.png", "bytes.png"):
        loaded = load_image(tmp_path / name)
        assert (colour_at(loaded, 0, 0), colour_at(loaded, 3, 3)) == (WHITE, GREEN)


def test_a_transparent_colour_in_grey_and_rgb(tmp_path: Path) -> None:
    Image.new("L", (2, 2), 9).save(tmp_path / "grey.png", transparency=9)
    Image.new("RGB", (2, 2), RED).save(tmp_path / "rgb.png", transparency=RED)
    assert colour_at(load_image(tmp_path / "grey.png"), 0, 0) == WHITE
    assert colour_at(load_image(tmp_path / "rgb.png"), 0, 0) == WHITE


@pytest.mark.parametrize("mode", ["1", "L"])
def test_one_bit_and_grey(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (4, 4), 255)
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "x.png")
    loaded = load_image(tmp_path / "x.png")
    assert (colour_at(loaded, 0, 0), colour_at(loaded, 1, 1)) == (BLACK, WHITE)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV"])
def test_other_colour_spaces(mode: str) -> None:
    assert_near(load_image(flag().convert(mode)), (39, 29), RED, within=3)


def test_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), GREEN).save(tmp_path / "x.png")
    assert load_image(tmp_path / "x.png").size == (1, 1)


def test_of_an_animation_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (GREEN, RED, BLUE)]
    for suffix in ("gif", "png", "webp", "tif"):
        path = tmp_path / f"x.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert_near(load_image(path), (1, 1), GREEN)


def test_pil_images_and_tensors() -> None:
    image = flag()
    assert load_image(image) is image
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert np.array_equal(load_image(tensor), image)
    assert load_image(image.convert("L")).mode == "RGB"


def test_the_file_is_closed(tmp_path: Path) -> None:
    flag().save(tmp_path / "x.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        image = load_image(tmp_path / "x.tif")
    (tmp_path / "x.tif").unlink()
    assert colour_at(image, 0, 0) == BLUE


# --- what is refused


def test_missing_folder_and_address(tmp_path: Path) -> None:
    assert f"there is no image file {tmp_path}/x.jpg" in refusal(tmp_path / "x.jpg")
    assert "is a folder" in refusal(tmp_path)
    assert "download it first" in refusal("https://example.org/cat.jpg")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "not a regular file" in refusal(tmp_path / "pipe.jpg")


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag().save(tmp_path / "x.png")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert refusal(tmp_path / "x.png") == f"{tmp_path}/x.png may not be read: permission denied"


def cut(fraction: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * fraction)]


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp"])
@pytest.mark.parametrize("fraction", [0.02, 0.6, 0.95])
def test_cut_short(tmp_path: Path, suffix: str, fraction: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(cut(fraction)(path.read_bytes()))
    said = refusal(path)
    assert str(path) in said
    assert "save it as PNG or JPEG, or leave it out" in said


def test_a_cut_jpeg_is_named_when_it_comes_as_a_pil_image(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    flag((200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with Image.open(path) as lazy:
        assert str(path) in refusal(lazy)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty (0 bytes)"),
        (b"a", "is not an image"),
        (b"Dear reader,\nthis is a letter.\n" * 20, "is not an image"),
        (b"PK\x03\x04" + b"\0" * 200, "is not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "format EPS, which is not supported"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "format HDF5, which is not supported"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "damaged"),
    ],
)
@pytest.mark.parametrize("name", ["x.jpg", "x"])
def test_no_image(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert said in refusal(tmp_path / name)


@given(
    data=st.binary(max_size=200), start=st.sampled_from([b"", b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"RIFF"])
)
@settings(max_examples=80, deadline=None)
def test_any_bytes_give_an_image_or_a_clear_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.jpg"
    path.write_bytes(start + data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's remarks on damaged tags
        try:
            said = load_image(path).mode
        except HeadwordError as error:
            said = str(error)
    assert said == "RGB" or str(path) in said


def huge_png(path: Path, width: int, height: int) -> None:
    """A few hundred kilobytes of zeros that say they are a picture of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((width // 8 + 1) * min(height, 100)), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge_png(tmp_path / "bomb.png", 60_000, 60_000)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    said = refusal(tmp_path / "bomb.png")
    assert "3,600,000,000 pixels (60000 by 60000)" in said
    assert f"{safe_images.MAX_PIXELS:,}" in said


def test_between_pillows_warning_and_the_limit_all_is_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag().save(tmp_path / "x.png")
    flag().save(tmp_path / "x.tif", tile=(16, 16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # Pillow warns above this, and refuses above twice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(tmp_path / "x.png").size == (40, 30)
        assert load_image(tmp_path / "x.tif").size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 700


def test_the_limit_itself_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag().save(tmp_path / "x.png")
    monkeypatch.setattr(safe_images, "MAX_PIXELS", 40 * 30)
    assert load_image(tmp_path / "x.png").size == (40, 30)
    monkeypatch.setattr(safe_images, "MAX_PIXELS", 40 * 30 - 1)
    assert "scale it down" in refusal(tmp_path / "x.png")


def test_many_threads(tmp_path: Path) -> None:
    for i in range(8):
        Image.new("RGB", (32, 32), (i * 30, 0, 0)).save(tmp_path / f"{i}.png")
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(load_image, [tmp_path / f"{i % 8}.png" for i in range(64)]))
    assert [colour_at(image, 0, 0)[0] for image in loaded] == [i % 8 * 30 for i in range(64)]


# --- what is no image


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (torch.zeros(3, 4, 5), "a float32 tensor [3, 4, 5]"),
        (torch.zeros(1, 4, 5, dtype=torch.uint8), "a uint8 tensor [1, 4, 5]"),
        (np.zeros((4, 5, 3), dtype=np.uint8), "a uint8 NumPy array [4, 5, 3]"),
        (None, "None"),
    ],
)
def test_what_is_no_image_is_refused_by_name(source: object, said: str) -> None:
    assert f"not an image: {said}; accepted are" in refusal(source)


def test_bytes_of_a_file_are_read_as_the_file_is(tmp_path: Path) -> None:
    flag().save(tmp_path / "flag.png")
    read = load_image((tmp_path / "flag.png").read_bytes())
    assert read.tobytes() == load_image(tmp_path / "flag.png").tobytes()
