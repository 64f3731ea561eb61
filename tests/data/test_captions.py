"""Caption files in every shape they are passed on in, and one clear line for the malformed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from headword.data.captions import Captioned, read_captions
from headword.errors import HeadwordError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / "images" / name).touch()
    (tmp_path / "d.jpg").touch()
    return tmp_path


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="")
    elif path.suffix == ".jsonl":
        assert isinstance(content, list)
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in content), "utf-8")
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


def found(captions: list[Captioned]) -> list[tuple[str, tuple[str, ...], str | None]]:
    return [(item.image.name, item.captions, item.split) for item in captions]


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(HeadwordError) as caught:
        read_captions(path, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("key", ["image", "file", "filename", "file_name", "path", "filepath", "image_path"])
def test_jsonl_image_keys(folder: Path, key: str) -> None:
    path = write(folder, "c.jsonl", [{key: "a.jpg", "captions": ["one", "two"], "split": "train"}])
    assert found(read_captions(path)) == [("a.jpg", ("one", "two"), "train")]


@pytest.mark.parametrize(
    "said",
    [
        {"captions": [" one "]},
        {"caption": "one"},
        {"text": "one"},
        {"sentences": [{"raw": "one", "tokens": ["one"]}]},
        {"caption": ["one"]},
    ],
)
def test_jsonl_caption_keys(folder: Path, said: dict[str, object]) -> None:
    assert found(read_captions(write(folder, "c.jsonl", [{"image": "a.jpg", **said}]))) == [
        ("a.jpg", ("one",), None)
    ]


def test_rows_of_one_image_are_merged_in_order(folder: Path) -> None:
    rows = [("a.jpg", "1"), ("b.jpg", "2"), ("a.jpg", "3")]
    path = write(folder, "c.jsonl", [{"image": image, "caption": caption} for image, caption in rows])
    assert found(read_captions(path)) == [("a.jpg", ("1", "3"), None), ("b.jpg", ("2",), None)]
    path = write(folder, "c.csv", "image,caption\n" + "".join(f"{i},{c}\n" for i, c in rows))
    assert found(read_captions(path)) == [("a.jpg", ("1", "3"), None), ("b.jpg", ("2",), None)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", 'image,caption\na.jpg,"a dog, running"\n'),
        ("c.csv", 'filepath,title\r\na.jpg,"a dog, running"\r\n'),
        (
            "c.csv",
            "filepath\ttitle\na.jpg\ta dog, running\n",
        ),  # tabs under the name .csv, as CLIP training has it
        ("c.tsv", "path\tcaption\tlicence\na.jpg\ta dog, running\tCC0\n"),
        ("c.txt", 'image,caption\n\na.jpg,"a dog, running"\n'),
        ("c.csv", ',image,caption\n0,a.jpg,"a dog, running"\n'),  # a nameless index column
        ("c.csv", '\ufeffimage,caption\na.jpg,"a dog, running"\n'),
    ],
)
def test_tables(folder: Path, name: str, text: str) -> None:
    assert found(read_captions(write(folder, name, text))) == [("a.jpg", ("a dog, running",), None)]


def test_odd_line_ends_stay_inside_captions(folder: Path) -> None:
    odd = "one\u2028two\x0bthree"
    path = write(folder, "c.jsonl", [{"image": "a.jpg", "caption": odd}])
    assert found(read_captions(path)) == [("a.jpg", (odd,), None)]
    path = write(folder, "c.csv", f'image,caption\na.jpg,{odd}\nb.jpg,"two\nlines"\n')
    assert found(read_captions(path)) == [("a.jpg", (odd,), None), ("b.jpg", ("two\nlines",), None)]


def test_karpathy(folder: Path) -> None:
    content = {
        "dataset": "flickr30k",
        "images": [
            {
                "filename": "a.jpg",
                "split": "test",
                "sentids": [0],
                "sentences": [{"raw": "one"}, {"raw": "two"}],
            },
            {"filename": "b.jpg", "filepath": "images", "split": "restval", "sentences": [{"raw": "three"}]},
        ],
    }
    path = write(folder, "dataset.json", content)
    assert found(read_captions(path)) == [("a.jpg", ("one", "two"), "test"), ("b.jpg", ("three",), "restval")]


def test_coco(folder: Path) -> None:
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
        "annotations": [
            {"image_id": 9, "id": 1, "caption": "one"},
            {"image_id": 7, "id": 2, "caption": "two"},
            {"image_id": 9, "id": 3, "caption": "three"},
        ],
    }
    path = write(folder, "captions_val.json", content)
    assert found(read_captions(path)) == [("b.jpg", ("one", "three"), None), ("a.jpg", ("two",), None)]
    del content["images"][0]["file_name"]
    assert "not as COCO writes it" in refusal(write(folder, "captions_val.json", content))


def test_json_list(folder: Path) -> None:
    path = write(folder, "c.json", [{"image": "a.jpg", "caption": "one"}])
    assert found(read_captions(path)) == [("a.jpg", ("one",), None)]


def test_where_images_are_looked_for(folder: Path) -> None:
    (folder / "lists").mkdir()
    content = [{"image": "a.jpg", "caption": "one"}]
    path = write(folder / "lists", "c.jsonl", content)
    assert "1 of 1 images are missing" in refusal(path)
    path = write(
        folder, "c.jsonl", [{"image": name, "caption": "x"} for name in ("d.jpg", "images/a.jpg", "b.jpg")]
    )
    assert [item.image for item in read_captions(path)] == [
        folder / "d.jpg",
        folder / "images" / "a.jpg",
        folder / "images" / "b.jpg",
    ]
    path = write(folder / "lists", "c.jsonl", [{"image": str(folder / "d.jpg"), "caption": "absolute"}])
    assert read_captions(path)[0].image == folder / "d.jpg"


def test_missing_images(folder: Path) -> None:
    names = ["a.jpg", "x.jpg", "b.jpg", "y.jpg"]
    path = write(folder, "c.jsonl", [{"image": name, "caption": "x"} for name in names])
    said = refusal(path)
    assert "2 of 4 images are missing, the first is x.jpg" in said
    assert "c.jsonl:2" in said
    kept = read_captions(path, missing="skip")
    assert ([item.image.name for item in kept], kept.missing) == (["a.jpg", "b.jpg"], 2)
    none = write(folder, "none.jsonl", [{"image": "x.jpg", "caption": "x"}])
    assert "1 of 1 images are missing" in refusal(none, missing="skip")


def test_splits(folder: Path) -> None:
    rows = [("a.jpg", "train"), ("b.jpg", "test"), ("c.jpg", "restval"), ("d.jpg", "")]
    path = write(folder, "c.csv", "image,caption,split\n" + "".join(f"{i},x,{s}\n" for i, s in rows))
    assert [item.split for item in read_captions(path)] == ["train", "test", "restval", None]
    assert [item.image.name for item in read_captions(path, split="test")] == ["b.jpg"]
    assert [item.image.name for item in read_captions(path, split="train+restval")] == ["a.jpg", "c.jpg"]
    chosen = read_captions(path, default=("val", "test"))
    assert ([item.image.name for item in chosen], chosen.split) == (["b.jpg"], "test")
    assert read_captions(path, default=("val",)).split is None  # not all rows have one
    assert read_captions(path, split="train+restval").split == "restval+train"
    assert "has no split 'val'; its splits are restval, test, train" in refusal(path, split="val")
    path = write(folder, "plain.csv", "image,caption\na.jpg,x\n")
    assert "has no split 'val'; it has no splits" in refusal(path, split="val")
    path = write(folder, "torn.csv", "image,caption,split\na.jpg,x,train\na.jpg,y,test\n")
    said = refusal(path)
    assert "torn.csv:3: a.jpg is in split test, but in train at" in said
    assert said.endswith("torn.csv:2")


GOOD = '{"image": "a.jpg", "caption": "x"}\n'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.jsonl", GOOD + '{"image": "b.jpg"', "c.jsonl:2 is not valid JSON"),
        ("c.jsonl", GOOD + "\n[1]\n", "c.jsonl:3 is not an object"),
        ("c.jsonl", GOOD + '{"image": "b.jpg", "caption": " "}', "c.jsonl:2 has an empty caption"),
        ("c.jsonl", GOOD + '{"image": "b.jpg", "captions": ["x", ""]}', "c.jsonl:2 has an empty caption"),
        ("c.jsonl", GOOD + '{"image": "b.jpg", "captions": []}', "c.jsonl:2 has no captions"),
        ("c.jsonl", GOOD + '{"image": "b.jpg", "captions": [3]}', "c.jsonl:2: a caption must be a string"),
        (
            "c.jsonl",
            GOOD + '{"image": "b.jpg", "sentences": [{"tokens": []}]}',
            "c.jsonl:2: a caption must be",
        ),
        ("c.jsonl", GOOD + '{"image": " ", "caption": "x"}', "c.jsonl:2 has no image name"),
        ("c.jsonl", GOOD + '{"image": 3, "caption": "x"}', "c.jsonl:2 has no image name"),
        (
            "c.jsonl",
            GOOD + '{"image": "b.jpg", "caption": "x", "split": 3}',
            "the split must be a word, not 3",
        ),
        ("c.jsonl", GOOD.encode() + b'{"image": "\xff"}', "c.jsonl:2 is not UTF-8"),
        ("c.jsonl", "", "has no captions in it"),
        ("c.jsonl", '{"picture": "a.jpg", "caption": "x"}', "known are image, file, filename"),
        (
            "c.jsonl",
            '{"image": "a.jpg", "comment": "x"}',
            "no caption column: it has image, comment; known are captions, caption",
        ),
        ("c.csv", "a.jpg,a dog\nb.jpg,a cat\n", "c.csv:2 has no image column: it has a.jpg, a dog"),
        (
            "c.csv",
            "image,caption\na.jpg,x\nb.jpg,a dog, running\n",
            "c.csv:3 does not have the header's 2 columns",
        ),
        ("c.csv", "image,caption\na.jpg,x\nb.jpg\n", "c.csv:3 does not have the header's 2 columns"),
        ("c.csv", 'image,caption\na.jpg,"never closed\nb.jpg,x\n', "is malformed"),
        ("c.csv", "image,caption\na.jpg,\n", "c.csv:2 has an empty caption"),
        ("c.csv", "", "has no captions in it"),
        ("c.json", '{"a": 1}', "is no list of captioned images, nor"),
        ("c.json", "[\n{", "c.json:2 is not valid JSON"),
        ("c.json", '{"images": [{"filename": "a.jpg"}]}', "c.json, image 0 has no caption"),
        ("c.json", "[3]", "c.json, image 0 is not an object"),
        ("c.xml", "<a/>", "known are .jsonl, .csv, .tsv, .txt, .parquet and .json"),
    ],
)
def test_malformed_files_are_named_with_the_line(folder: Path, name: str, content: object, said: str) -> None:
    assert said in refusal(write(folder, name, content))


def test_missing_file(folder: Path) -> None:
    assert "there is no file" in refusal(folder / "nothing.jsonl")


@pytest.mark.data
@pytest.mark.skipif("HEADWORD_DATA" not in os.environ, reason="HEADWORD_DATA names no folder")
def test_flickr8k() -> None:
    root = Path(os.environ["HEADWORD_DATA"]) / "data" / "flickr8k"
    captions = read_captions(root / "captions.jsonl", split="test")
    assert len(captions) >= 100
    assert all(len(item.captions) == 5 and item.split == "test" for item in captions)
