"""Listing images, and folders whose subfolders are classes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from headword.data import folders
from headword.data.folders import class_folders, image_suffixes, list_images
from headword.errors import HeadwordError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root: Path, found: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in found]


def test_list_images(tmp_path: Path) -> None:
    touch(
        tmp_path, "b.JPG", "a.png", "notes.txt", ".hidden.png", "sub/c.webp", ".git/d.png", "sub/deep/e.tif"
    )
    assert listed(tmp_path, list_images(tmp_path)) == ["a.png", "b.JPG", "sub/c.webp", "sub/deep/e.tif"]
    assert listed(tmp_path, list_images(str(tmp_path), recursive=False)) == ["a.png", "b.JPG"]


def test_suffixes_are_those_that_can_be_read() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"} <= image_suffixes()
    assert not {".pdf", ".eps", ".h5", ".mpg", ".txt"} & image_suffixes()


def test_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "cat1.jpg", "cat2.jpg", "dog.jpg", "cat.txt", "sub/cat3.jpg", "odd[1]/cat.jpg")
    assert listed(tmp_path, list_images(f"{tmp_path}/cat*")) == ["cat1.jpg", "cat2.jpg"]
    assert listed(tmp_path, list_images(f"{tmp_path}/**/cat?.jpg")) == [
        "cat1.jpg",
        "cat2.jpg",
        "sub/cat3.jpg",
    ]
    assert listed(tmp_path, list_images(tmp_path / "odd[1]")) == ["odd[1]/cat.jpg"]  # a folder, no pattern
    with pytest.raises(HeadwordError, match="no image matches the pattern"):
        list_images(f"{tmp_path}/*.png")


def test_loops_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.jpg", "b/y.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a", target_is_directory=True)
    assert listed(tmp_path, list_images(tmp_path)) == ["a/x.jpg", "b/y.jpg"]


def test_links_are_followed_within_the_folder_and_named_where_they_lead_out(tmp_path: Path) -> None:
    touch(tmp_path, "store/x.jpg", "view/own.jpg", "view/deep/y.jpg")
    view = tmp_path / "view"
    (view / "out").symlink_to(tmp_path / "store", target_is_directory=True)
    (view / "out.jpg").symlink_to(tmp_path / "store" / "x.jpg")
    (view / "lost.jpg").symlink_to(view / "nowhere.jpg")
    (view / "itself.jpg").symlink_to("itself.jpg")
    (view / "in.jpg").symlink_to(view / "own.jpg")
    (view / "again").symlink_to(view / "deep", target_is_directory=True)
    found = list_images(view)
    assert listed(view, found) == ["deep/y.jpg", "in.jpg", "own.jpg"]
    assert found.notes == (
        "4 links were not followed, leading out of the folder or nowhere: itself.jpg, lost.jpg, out, …",
    )
    assert listed(view, list_images(f"{view}/out*")) == ["out.jpg"]  # named one by one, as a shell would
    (tmp_path / "link").symlink_to(view, target_is_directory=True)
    assert len(list_images(tmp_path / "link")) == 3  # the folder itself is named


@pytest.mark.attack
def test_a_pattern_does_not_go_round_loops_of_links(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.jpg", ".hidden/y.jpg")
    for name in ("a/up", "a/again", "b"):  # two ways down at each level: 2^40 paths
        (tmp_path / name).symlink_to(tmp_path, target_is_directory=True)
    assert listed(tmp_path, list_images(f"{tmp_path}/**/*.jpg")) == ["a/x.jpg"]
    assert listed(tmp_path, list_images(f"{tmp_path}/**")) == ["a/x.jpg"]
    assert listed(tmp_path, list_images(f"{tmp_path}/.hid*/*.jpg")) == [".hidden/y.jpg"]


def test_photos_that_need_the_extra_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.heic", "deep/b.HEIC", "c.jpg", "notes.txt")
    monkeypatch.setattr(folders, "image_suffixes", lambda: frozenset({".jpg"}))
    said = "2 .heic pictures were left out; to read them: pip install 'headword[photos]'"
    found = list_images(tmp_path)
    assert (listed(tmp_path, found), found.notes) == (["c.jpg"], (said,))
    (tmp_path / "c.jpg").unlink()
    with pytest.raises(HeadwordError, match=re.escape(said)):
        list_images(tmp_path)
    with pytest.raises(HeadwordError, match=re.escape("1 .heic picture was left out")):
        list_images(f"{tmp_path}/*")


def test_odd_names(tmp_path: Path) -> None:
    names = [b"\xff\xfe.jpg", b"new\nline.jpg", b"-o.jpg", b"\x1b[2J.jpg", "é 雪.jpg".encode()]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    assert sorted(os.fsencode(path.name) for path in list_images(tmp_path)) == sorted(names)


def test_list_images_refuses(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "empty/notes.txt", "deep/sub/x.jpg")
    with pytest.raises(HeadwordError, match="there is no folder"):
        list_images(tmp_path / "missing")
    with pytest.raises(HeadwordError, match="is a file"):
        list_images(tmp_path / "notes.txt")
    with pytest.raises(HeadwordError, match=r"no images in .*empty; known endings: \.jpg"):
        list_images(tmp_path / "empty")
    with pytest.raises(HeadwordError, match="subfolders were not searched"):
        list_images(tmp_path / "deep", recursive=False)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "x.jpg", "secret/y.jpg")
    scandir = os.scandir

    def guarded(folder: str) -> object:
        if Path(folder).name == "secret":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(HeadwordError, match="secret may not be read"):
        list_images(tmp_path)


def test_class_folders_are_as_torchvision_has_them(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    touch(tmp_path, "zebra/1.png", "ant/2.png", "ant/1.png", "Bee/deep/1.png", "notes.txt")
    ours = class_folders(tmp_path)
    theirs = ImageFolder(str(tmp_path))
    assert list(ours.names) == theirs.classes == ["Bee", "ant", "zebra"]
    assert list(zip(map(str, ours.paths), ours.labels, strict=True)) == theirs.samples


def test_class_folders_leave_hidden_ones_out(tmp_path: Path) -> None:
    touch(tmp_path, ".ipynb_checkpoints/1.png", "ant/1.png")
    assert class_folders(tmp_path).names == ("ant",)


def test_class_folders_refuse(tmp_path: Path) -> None:
    with pytest.raises(HeadwordError, match="there is no folder"):
        class_folders(tmp_path / "missing")
    touch(tmp_path, "1.png")
    with pytest.raises(HeadwordError, match="has no class folders; expected"):
        class_folders(tmp_path)
    touch(tmp_path, "ant/1.png", "bee/notes.txt")
    with pytest.raises(HeadwordError, match=r"no images in .*bee"):
        class_folders(tmp_path)
