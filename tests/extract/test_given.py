"""What people give as images in Python: taken as the files are, or refused by name."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headword.errors import HeadwordError
from headword.extract.given import HELD, given


def singles(source: object) -> list[object]:
    """Names of files as they were given, and pictures."""
    items = [item for stretch in given(source) for item in stretch]
    return [item.id if item.file else item.read.source for item in items]


def photo(colour: int = 0) -> Image.Image:
    return Image.new("RGB", (5, 4), (colour % 256, 0, 90))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(3):
        photo(n * 80).save(tmp_path / f"{n}.png")
    return tmp_path


def test_single_images() -> None:
    tensor = torch.zeros(3, 4, 5, dtype=torch.uint8)
    image = photo()
    assert singles("cat.jpg") == ["cat.jpg"]
    assert singles(Path("cat.jpg")) == ["cat.jpg"]
    assert singles(image) == [image]
    assert singles(b"data") == singles(bytearray(b"data")) == [b"data"]
    assert singles(["cat.jpg", image]) == ["cat.jpg", image]
    assert singles(("cat.jpg",)) == ["cat.jpg"]
    assert singles([]) == singles(iter(())) == []
    assert [t.shape for t in singles(tensor)] == [(3, 4, 5)]  # type: ignore[attr-defined]
    assert len(singles(tensor.expand(7, 3, 4, 5))) == 7
    assert singles({"bytes": b"x", "path": None}) == [b"x"]
    assert singles([{"bytes": None, "path": "a.png"}]) == ["a.png"]


def test_every_form_is_read_as_the_files_are(embedded, folder) -> None:
    paths = sorted(folder.glob("*.png"))
    expected = embedded.encode_image(paths)
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    ready = embedded.vision.preprocess([Image.open(path).convert("RGB") for path in paths])
    same = {
        "folder": str(folder),
        "folder as a Path": folder,
        "glob": str(folder / "*.png"),
        "generator of paths": (path for path in paths),
        "generator of pictures": (Image.open(path) for path in paths),
        "map": map(str, paths),
        "bytes": [path.read_bytes() for path in paths],
        "NumPy images": arrays,
        "NumPy batch": np.stack(arrays),
        "read backwards": np.stack(arrays)[::-1][::-1],
        "NumPy paths": np.array([str(path) for path in paths]),
        "dictionary's values": dict(enumerate(paths)).values(),
        "transformed": ready,
        "transformed, NumPy": ready.numpy(),
        "batch with labels": [ready, torch.arange(3)],
        "tuple with labels": (ready, torch.arange(3)),
        "features": embedded.image_features(paths).numpy().astype("float64"),
    }
    for kind, images in same.items():
        torch.testing.assert_close(embedded.encode_image(images), expected, rtol=0, atol=1e-5, msg=kind)
    one = embedded.encode_image(arrays[0])
    torch.testing.assert_close(one, expected[:1], rtol=0, atol=1e-5)
    words = ["red", "blue"]
    chances = embedded.classify(paths, words)
    torch.testing.assert_close(embedded.classify(str(folder), words), chances, rtol=0, atol=1e-4)
    found = embedded.search((path for path in paths), words)[0]
    assert torch.equal(found, embedded.search(paths, words)[0])


def test_a_series_and_a_column_are_read_as_the_files_are(embedded, model, folder) -> None:
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    paths = sorted(folder.glob("*.png"))
    expected = embedded.encode_image(paths)
    frame = pandas.DataFrame({"path": [str(path) for path in paths], "label": 0}, index=[7, 3, 5])
    rows = datasets.Dataset.from_dict({"image": [str(path) for path in paths], "label": [0, 1, 2]})
    rows = rows.cast_column("image", datasets.Image())
    raw = rows.cast_column("image", datasets.Image(decode=False))
    same = (frame["path"], rows["image"], rows[:]["image"], raw["image"], rows.data["image"])
    for images in same:
        torch.testing.assert_close(embedded.encode_image(images), expected, rtol=0, atol=1e-5)
    assert model.centre_on(rows["image"]).centre.images == 3
    for table in (frame, rows, rows.data.table):
        with pytest.raises(HeadwordError, match=r"give its column of images or paths; it has .*, label"):
            embedded.encode_image(table)
    frame.loc[3, "path"] = None
    with pytest.raises(HeadwordError, match=r"item 1 is not an image: (nan|None)"):
        embedded.encode_image(frame["path"])


def test_a_generator_is_read_once_and_few_pictures_are_held() -> None:
    alive, most = 0, 0

    class Counted(Image.Image):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def pictures() -> Iterator[Image.Image]:
        nonlocal alive, most
        for _ in range(3 * HELD):
            alive += 1
            most = max(most, alive)
            yield Counted()

    sizes = []
    for stretch in given(pictures()):
        sizes.append(len(stretch))
        del stretch
    assert sizes == [HELD] * 3
    assert most <= 2 * HELD + 1
    assert [len(stretch) for stretch in given(f"{n}.png" for n in range(1000))] == [1000]


def test_unreadable_pictures_of_a_generator_are_left_out_of_a_pool(model, folder) -> None:
    files = [*sorted(folder.glob("*.png")), folder / "gone.png"]
    seen: list[tuple[int, int]] = []
    pool = (path.read_bytes() if path.exists() else b"no picture" for path in files)
    model.centre_on(pool, progress=lambda done, of: seen.append((done, of)))
    assert (model.centre.images, model.centre.unreadable, seen[-1]) == (3, 1, (4, 4))
    with pytest.raises(HeadwordError, match="the image in memory is not an image"):
        model.encode_image(b"no picture")
    with pytest.raises(HeadwordError, match="none of 2 images could be read"):
        model.centre_on(iter([b"a", b"b"]))
    with pytest.raises(HeadwordError, match="there are no images"):
        model.encode_image(iter(()))


BATCH = (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (torch.zeros(3, 4, 5), r"a float32 tensor \[3, 4, 5\]; transformed images are one batch"),
        ([torch.zeros(3, 4, 5)], r"item 0 is not an image: a float32 tensor \[3, 4, 5\]; .* torch.stack"),
        (torch.zeros(1, 4, 5, dtype=torch.uint8), r"a uint8 tensor \[1, 4, 5\]; accepted are a path"),
        (
            torch.zeros(4, 5, 3, dtype=torch.uint8),
            r"a uint8 tensor \[4, 5, 3\]; a tensor is \[3,H,W\]: x",
        ),
        (torch.zeros(3, 0, 5, dtype=torch.uint8), r"a uint8 tensor \[3, 0, 5\]"),
        (torch.zeros(2, 4, 4, 5, dtype=torch.uint8), r"a uint8 tensor \[2, 4, 4, 5\]"),
        (np.zeros((4, 5), np.uint8), r"a uint8 NumPy array \[4, 5\]; make it a picture: PIL"),
        (np.zeros((3, 4, 5), np.uint8), r"array \[3, 4, 5\]; an array is \[H,W,3\]: x.transpose"),
        (np.zeros((4, 5, 3)), r"a float64 NumPy array \[4, 5, 3\]; pixels are uint8"),
        ([BATCH, BATCH], "item 0 is not an image: a tuple; give one batch at a time"),
        ([(photo(), 3)], r"item 0 is not an image: a tuple; give the images without their labels"),
        ({"image": [], "label": []}, "a dict; give the images in it; it has image, label"),
        ({"a.png"}, "a set has no order: give a list"),
        (io.BytesIO(b""), "a BytesIO; give its path, or its bytes"),
        ("", "an empty path names no image"),
        (None, "not images: None; accepted are"),
        (["cat.jpg", 3], "item 1 is not an image: a int"),
        ([["cat.jpg"]], "item 0 is not an image: a list"),
    ],
)
def test_refused_by_name_in_one_line(source: object, said: str) -> None:
    with pytest.raises(HeadwordError, match=said) as caught:
        singles(source)
    assert "\n" not in str(caught.value)
