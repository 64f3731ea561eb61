"""Labelled images from where people keep them."""

from __future__ import annotations

import io
import shutil
import tarfile

import pytest
from PIL import Image

from headword.data.labelled import open_images
from headword.data.torchvision_sets import SETS
from headword.errors import HeadwordError
from headword.evaluation.tasks import check_spoken
from headword.extract import extract
from headword.head.names import spoken
from support.evaluation_helpers import colours_model, paint, painted


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWORD_CACHE", str(tmp_path / "cache"))


def colours_of(data):
    """The class of each image, by its colour, through reading it."""
    features = extract(colours_model().vision, data.images).features
    names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue"}
    return [names[tuple(row.round().int().tolist())] for row in features]


def check(data, n):
    assert len(data.images) == len(data.labels) == n
    assert [data.names[label] for label in data.labels] == colours_of(data)


def test_folders_and_splits(tmp_path):
    painted(tmp_path / "a" / "test")
    painted(tmp_path / "a" / "train")
    check(open_images(str(tmp_path / "a"), split="test"), 9)
    data = open_images(str(tmp_path / "a"))
    assert (len(data.images), data.split) == (9, "test")
    assert open_images(str(tmp_path / "a"), default=("train",)).split == "train"
    with pytest.raises(HeadwordError, match="no split 'val'; its subfolders are test, train"):
        open_images(str(tmp_path / "a"), split="val")
    shutil.rmtree(tmp_path / "a" / "test")
    with pytest.raises(HeadwordError, match="has splits, not classes: train; say which"):
        open_images(str(tmp_path / "a"))


def test_folder_mistakes(tmp_path):
    painted(tmp_path / "a", colours=("red",))
    with pytest.raises(HeadwordError, match="one class only"):
        open_images(str(tmp_path / "a"))
    (tmp_path / "a" / "green").mkdir()
    with pytest.raises(HeadwordError, match=r"no images in .*green"):
        open_images(str(tmp_path / "a"))
    with pytest.raises(HeadwordError, match="no folder"):
        open_images(str(tmp_path / "nope"))
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(HeadwordError, match="is no labelled images"):
        open_images(str(tmp_path / "x.txt"))


def test_class_names_must_fit(tmp_path):
    painted(tmp_path / "a")
    assert open_images(str(tmp_path / "a"), class_names=["b", "g", "r"]).names == ("b", "g", "r")
    with pytest.raises(HeadwordError, match="2 class names for the 3 classes"):
        open_images(str(tmp_path / "a"), class_names=["b", "g"])
    twice = open_images(str(tmp_path / "a"), class_names=["b", "b", "r"])
    with pytest.raises(HeadwordError, match="'b' is given 2 times"):
        check_spoken(twice)


def test_names_are_spoken():
    assert spoken(["sea_lion", "a  b"]) == ("sea lion", "a b")
    assert spoken(["n01440764", "n01443537"]) == ("tench", "goldfish")
    with pytest.raises(HeadwordError, match="WordNet ids"):
        spoken(["n00000001", "n00000002"])


@pytest.mark.parametrize(("name", "comma"), [("t.csv", ","), ("t.tsv", "\t"), ("u.csv", "\t")])
def test_table(tmp_path, name, comma):
    rows = [("image", "label", "split")]
    for number, colour in enumerate(("red", "green", "blue", "red")):
        paint(tmp_path / "images" / f"{number}.png", colour)
        rows.append((f"{number}.png", colour, "test" if number else "train"))
    (tmp_path / name).write_text("\n".join(comma.join(row) for row in rows) + "\n")
    check(open_images(str(tmp_path / name)), 3)
    check(open_images(str(tmp_path / name), split="test"), 3)
    check(open_images(str(tmp_path / name), split="test+train"), 4)
    with pytest.raises(HeadwordError, match="no split 'val'; its splits are test, train"):
        open_images(str(tmp_path / name), split="val")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,colour\na.png,red\n", "no label column: it has image, colour"),
        ("pixels,label\na.png,red\n", "no image column"),
        ("image,label\na.png,\n", "needs an image and a label"),
        ("image,label\na.png,red,blue\n", "does not have the header's 2 columns"),
        ("image,label\n", "has no images in it"),
        ("", "has no images in it"),
        ("image,label\na.png,red\n", "one class only"),
    ],
)
def test_table_mistakes(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(HeadwordError, match=said):
        open_images(str(tmp_path / "t.csv"))


def test_numbers_are_no_names(tmp_path):
    (tmp_path / "t.csv").write_text("image,label\na.png,10\nb.png,9\nc.png,10\n")
    data = open_images(str(tmp_path / "t.csv"))
    assert data.names == ("9", "10")
    assert data.labels == (1, 0, 1)
    with pytest.raises(HeadwordError, match="says nothing; give class names"):
        check_spoken(data)
    assert open_images(str(tmp_path / "t.csv"), class_names=["cat", "dog"]).names == ("cat", "dog")


def shard(path, samples):
    with tarfile.open(path, "w") as tar:
        for name, content in samples:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def encoded(colour):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(stream, "PNG")
    return stream.getvalue()


def test_shards(tmp_path):
    folder = tmp_path / "wds" / "test"
    folder.mkdir(parents=True)
    (tmp_path / "wds" / "classnames.txt").write_text("red\ngreen\nblue\n")
    (tmp_path / "wds" / "zeroshot_classification_templates.txt").write_text("a photo of a {c}\n")
    shard(
        folder / "0.tar",
        [("a.png", encoded("red")), ("a.cls", b"0"), ("b.png", encoded("blue")), ("b.cls", b"2")],
    )
    shard(folder / "1.tar", [("a.cls", b"1"), ("a.png", encoded("lime")), ("b.png", b"?"), ("b.cls", b"1")])
    for place in (f"wds:{tmp_path}/wds/test", f"wds:{folder}/{{0..1}}.tar", f"wds:{folder}/*.tar"):
        data = open_images(place)
        assert data.labels == (0, 2, 1, 1)
        assert data.names == ("red", "green", "blue")
        assert data.templates == ("a photo of a {}",)
    found = extract(colours_model().vision, data.images)
    assert found.kept == (0, 1, 2)
    assert "1.tar::b.png" in found.errors[3]
    check(open_images(f"wds:{folder}/0.tar"), 2)
    assert open_images(f"wds:{tmp_path}/wds", split="test").split == "test"
    assert open_images(f"wds:{tmp_path}/wds").split == "test"


def test_shard_mistakes(tmp_path):
    shard(tmp_path / "x.tar", [("a.png", encoded("red"))])
    (tmp_path / "bad.tar").write_bytes(b"x" * 600)
    (tmp_path / "classnames.txt").write_text("red\n")
    shard(tmp_path / "far.tar", [("a.png", encoded("red")), ("a.cls", b"3")])
    (tmp_path / "none").mkdir()
    for place, said in [
        ("x.tar", "has no label beside it"),
        ("bad.tar", "damaged, compressed, or no tar"),
        ("nope.tar", "there is no shard"),
        ("far.tar", "label 3 has no line in classnames.txt"),
    ]:
        with pytest.raises(HeadwordError, match=said):
            open_images(str(tmp_path / place))
    for place, said in [
        (f"wds:{tmp_path}/none", r"no \.tar shards"),
        ("wds:https://x/y.tar", "download"),
        (f"wds:{tmp_path}/nope", "there is no shard"),
    ]:
        with pytest.raises(HeadwordError, match=said):
            open_images(place)
    with pytest.raises(HeadwordError, match="no split 'val'"):
        open_images(f"wds:{tmp_path}", split="val")


def test_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = ["red", "green", "blue"]
    columns = {
        "img": [Image.new("RGB", (4, 4), c) for c in ("red", "lime", "blue", "red")],
        "label": [0, 1, 2, 0],
    }
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    one = datasets.Dataset.from_dict(columns, features=features)
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": one, "train": one}).save_to_disk(str(tmp_path / "two"))
    check(open_images(f"hf:{tmp_path}/one"), 4)
    data = open_images(f"hf:{tmp_path}/two")
    check(data, 4)
    assert data.split == "test"
    with pytest.raises(HeadwordError, match="no split 'val'; its splits are test, train"):
        open_images(f"hf:{tmp_path}/two", split="val")
    with pytest.raises(HeadwordError, match="one split"):
        open_images(f"hf:{tmp_path}/one", split="test")
    for splits, chosen in ((("train", "validation"), "validation"), (("train",), "train")):
        datasets.DatasetDict(dict.fromkeys(splits, one)).save_to_disk(str(tmp_path / chosen))
        assert open_images(f"hf:{tmp_path}/{chosen}").split == chosen
    datasets.DatasetDict({"train": one, "extra": one}).save_to_disk(str(tmp_path / "odd"))
    with pytest.raises(HeadwordError, match="has the splits train, extra; say which"):
        open_images(f"hf:{tmp_path}/odd")
    one.remove_columns("label").save_to_disk(str(tmp_path / "bare"))
    with pytest.raises(HeadwordError, match="no column of labels; it has img"):
        open_images(f"hf:{tmp_path}/bare")
    words = one.remove_columns("label").add_column("class", ["red", "green", "blue", "red"])
    words.save_to_disk(str(tmp_path / "words"))
    check(open_images(f"hf:{tmp_path}/words"), 4)


@pytest.mark.parametrize("name", SETS)
def test_torchvision_sets_exist(name):
    import torchvision.datasets

    assert hasattr(torchvision.datasets, SETS[name].dataset)


def test_torchvision_set(tmp_path, monkeypatch):
    import torchvision.datasets as tv

    class Small:
        classes = ("AnnualCrop", "/r/red_car/indoor", "blue")
        targets = (0, 1, 2)

        def __init__(self, root, *, train, download):  # noqa: ARG002
            if not download:
                raise RuntimeError("Dataset not found. You can use download=True to download it")
            self.train = train

        def __len__(self):
            return 3

        def __getitem__(self, row):
            if row == 2:
                raise OSError("broken")
            return Image.new("RGB", (4, 4), "red"), row

    monkeypatch.setattr(tv, "CIFAR10", Small)
    data = open_images("torchvision:cifar10")
    assert data.names == ("Annual Crop", "red car indoor", "blue")
    assert (data.split, data.templates) == ("test", ("A photo of a {}",))
    found = extract(colours_model().vision, data.images)
    assert found.kept == (0, 1)
    assert "image 2 of Small cannot be read" in found.errors[2]
    with pytest.raises(HeadwordError, match="no split 'val'; it has test, train"):
        open_images("torchvision:cifar10", split="val")
    with pytest.raises(HeadwordError, match="RESISC45 is not torchvision's"):
        open_images("torchvision:resisc45")

    def offline(self, root, *, train, download):
        raise OSError("no net")

    monkeypatch.setattr(Small, "__init__", offline)
    with pytest.raises(HeadwordError, match="cannot be downloaded: no net"):
        open_images("torchvision:cifar10")
