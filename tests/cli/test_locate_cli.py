"""`headword locate` on a small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from headword.recycling import recycle
from support.commands import check_result, run
from support.own_classifier import Own, to_tensor


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> tuple[Path, str]:
    """A saved model of a classifier with places, and how its own module is named."""
    root = tmp_path_factory.mktemp("locate")
    factory = root / "own.py"
    factory.write_text(
        "from support.own_classifier import Own, to_tensor\n"
        "def make():\n    return Own().eval(), to_tensor, ['cat', 'dog', 'bird']\n"
    )
    recycle(Own().eval(), transform=to_tensor, class_names=["cat", "dog", "bird"]).save(root / "model")
    Image.effect_noise((96, 64), 80).convert("RGB").save(root / "noise.png")
    return root, f"module:{factory}:make"


def test_locate_writes_json_a_picture_and_masks(own, tmp_path):
    root, vision = own
    output = run(
        "locate", root / "model", root / "noise.png", "a cat", "a dog", "--vision", vision, "--boxes",
        "--out", tmp_path / "where.png", "--masks", tmp_path / "masks", "--json", "-",
    )  # fmt: skip
    result = json.loads(output)
    check_result(result | {"metrics": {}, "seed": 0}, "locate")
    assert result["protocol"]["exact"] is True
    assert result["protocol"]["mask_ids"] == {"a cat": 1, "a dog": 2}
    (found,) = result["results"]
    assert found["size"] == [96, 64]
    assert set(found["regions"]) == {"a cat", "a dog"}
    with Image.open(tmp_path / "where.png") as drawn:
        assert drawn.size == (192, 84)
    with Image.open(tmp_path / "masks" / "noise.png") as mask:
        assert mask.size == (96, 64)
        assert set(mask.tobytes()) <= {0, 1, 2}


def test_a_folder_leaves_out_what_cannot_be_read(own, tmp_path):
    root, vision = own
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    output = run("locate", root / "model", tmp_path, "a cat", "--vision", vision, "--json", "-")
    result = json.loads(output)
    assert [Path(one["path"]).name for one in result["results"]] == ["dot.png"]
    assert len(result["skipped"]) == 1


def test_a_size_out_of_bounds_is_one_line(own):
    root, vision = own
    arguments = ("locate", root / "model", root / "noise.png", "a cat", "--vision", vision)
    assert "size must be 32 to 2048 pixels, got 5" in run(*arguments, "--size", 5, code=2)


@pytest.mark.parametrize(
    ("option", "name", "line"),
    [
        ("--out", "where.xyz", "let its name end in .png"),
        ("--out", "there", "is a folder; give the name of a file"),
        ("--masks", "taken.png", "is a file; give the name of a folder"),
    ],
)
def test_places_that_will_not_do_are_refused_before_the_work(own, tmp_path, option, name, line):
    root, vision = own
    (tmp_path / "there").mkdir()
    (tmp_path / "taken.png").write_bytes(b"")
    arguments = ("locate", root / "model", root / "noise.png", "a cat", "--vision", vision)
    assert line in run(*arguments, option, tmp_path / name, code=2)


def test_more_words_than_a_mask_can_tell_apart_are_refused(own, tmp_path):
    root, vision = own
    words = [f"word {n}" for n in range(256)]
    arguments = ("locate", root / "model", root / "noise.png", *words, "--vision", vision)
    assert "a mask tells at most 255 words apart" in run(*arguments, "--masks", tmp_path, code=2)


def test_pictures_of_one_name_keep_their_own_masks(own, tmp_path):
    root, vision = own
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / folder / "one.png")
    arguments = ("locate", root / "model", tmp_path / "in", "a cat", "--vision", vision)
    run(*arguments, "--masks", tmp_path / "masks", "--out", tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "masks").iterdir()) == ["one-2.png", "one.png"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["one.png-2.png", "one.png.png"]
