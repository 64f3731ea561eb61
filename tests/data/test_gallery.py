"""The demo's pictures come from installed packages, unimported and offline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headword.data import gallery as module
from headword.data.gallery import gallery
from headword.data.safe_images import load_image
from headword.errors import MissingExtraError


def test_every_picture_loads_and_has_a_title_and_a_credit() -> None:
    pictures = gallery()
    assert len(pictures) == 14
    assert len({picture.name for picture in pictures}) == 14
    for picture in pictures:
        assert picture.title
        assert picture.credit
        image = load_image(picture.path)
        assert min(image.size) >= 150


def test_the_horse_is_black_on_white() -> None:
    horse = next(picture for picture in gallery() if picture.name == "horse")
    assert load_image(horse.path).getpixel((0, 0)) == (255, 255, 255)


def test_the_packages_are_not_imported() -> None:
    code = (
        "import sys; from headword.data.gallery import gallery; gallery(); "
        "assert not {'skimage', 'sklearn', 'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_packages_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'headword\[embedded\]'"):
        gallery()


def test_a_picture_that_is_no_longer_shipped_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "coffee.png").touch()
    monkeypatch.setattr(module, "_folder", lambda *_: tmp_path)
    assert [picture.name for picture in gallery()] == ["coffee"]
