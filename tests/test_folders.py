"""Listing images, and folders whose subfolders are classes."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_linked_files_and_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "store/x.jpg", "view/own.jpg")
    (tmp_path / "view" / "folder").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "view" / "file.jpg").symlink_to(tmp_path / "store" / "x.jpg")
    (tmp_path / "view" / "lost.jpg").symlink_to(
        tmp_path / "nowhere.jpg"
    )  # loading it says that it is missing
    found = listed(tmp_path / "view", list_images(tmp_path / "view"))
    assert found == ["file.jpg", "folder/x.jpg", "lost.jpg", "own.jpg"]


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
    iterdir = Path.iterdir

    def guarded(self: Path) -> object:
        if self.name == "secret":
            raise PermissionError(13, "Permission denied")
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", guarded)
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
