"""The commands of the README on a real terminal: what a person reads, and what Ctrl-C leaves."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from extraction import draw_many
from terminal import CTRL_C, Shown, Terminal, open_terminal
from training import TINY

WIDTHS = (80, 120)
PICTURES = 96
"""Enough for three batches, and for the cache."""
CLASSES = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, Path]) -> Path:
    """A tiny classifier `net`, pictures in `photos`, class folders in `classes`."""
    import timm

    from headword.names import imagenet_classes

    root = tmp_path_factory.mktemp("terminal")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=CLASSES)
    names = [c.name for c in imagenet_classes(1000).classes[:CLASSES]]
    config = {"label_names": names, "num_classes": CLASSES}
    timm.models.save_for_hf(model, root / "net", model_config=config, safe_serialization=True)
    draw_many(root / "photos", PICTURES)
    for n, name in enumerate(("red", "green")):
        draw_many(root / "classes" / name, 40 + n)
    (root / "words.txt").write_text("a cat\na dog,\n\na house\n")
    return root


@pytest.fixture(scope="module")
def terminal(folder: Path) -> Iterator[Terminal]:
    with open_terminal(folder) as opened:
        made = opened.run("recycle", "--vision", "net", "--words", "plain", "--out", "model")
        assert made.code == 0, made.text
        yield opened


def read(shown: Shown, columns: int, *, code: int = 0, last: str = "Next: ") -> Shown:
    """What a person may expect of every command."""
    assert shown.code == code, shown.text
    assert "Traceback" not in shown.text
    assert shown.lines[-1].startswith(last), shown.text
    assert max(map(len, shown.lines)) <= columns, shown.text
    return shown


def moved(shown: Shown, what: str, count: int, steps: int = 2) -> None:
    """A bar was seen, and went on."""
    assert len({done for word, done, of in shown.counts if (word, of) == (what, count)}) >= steps, (
        shown.counts
    )


@pytest.mark.parametrize("columns", WIDTHS)
def test_what_a_person_reads(terminal: Terminal, folder: Path, columns: int) -> None:
    """The commands of the README, in its order."""

    def run(*arguments: object, **options: object) -> Shown:
        return read(terminal.run(*arguments, columns=columns, pause=0.25, **options), columns)

    made = run(
        "recycle", "--vision", "net", "--words", "plain", "--centre-on", "photos", "--out", f"m{columns}"
    )
    moved(made, "images", PICTURES)
    assert "Recycled into" in made.text
    photo = "photos/0001.jpg"
    assert "cat" in run("classify", "model", photo, "--labels", "a cat,a dog,").text
    options = ("--labels-file", "words.txt", "--centre-on", "collection", "-k", 1, "--json", "labels.json")
    moved(run("classify", "model", "photos", *options), "images", PICTURES, steps=1)  # from the cache
    run("explain", "model", "a zebra", "a birthday party", "-k", 3)
    moved(run("index", "model", "photos", "--out", f"i{columns}"), "images", PICTURES)
    found = run("search", f"i{columns}", "children", "playing", "football", "--not", "indoors", "-k", 3)
    assert re.search(r"1 +-?0\.\d{3} +\d{4}\.jpg", found.text), found.text
    moved(run("tag", f"i{columns}", "--labels-file", "words.txt"), "images", PICTURES, steps=1)
    run("inspect", "net", "--names", 3)
    run("inspect", "model", "--names", 3)
    moved(run("embed", "model", "photos", "--out", f"e{columns}"), "images", PICTURES)
    options = (
        "--task",
        "classification",
        "--data",
        "classes",
        "--centre-on",
        "collection",
        "--seed",
        columns,
    )
    moved(run("evaluate", "model", *options), "images", 81)
    run("reproduce", "--list")


def test_train_and_demo(terminal: Terminal, folder: Path) -> None:
    words = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    read(terminal.run("train", "--out", "run", *words, "--steps", 3), 80)
    demo = read(terminal.run("demo"), 80)
    assert re.search(r"(\d+) of 14 pictures got their own words first", demo.text)
    assert re.search(r"[✓✗] +my pet is looking at me .* \d+(st|nd|rd|th) of 14", demo.text)


def test_the_app_ends_with_ctrl_c(terminal: Terminal) -> None:
    terminal.run("index", "model", "photos", "--out", "served")
    press = (CTRL_C, lambda screen: "Ctrl-C stops it" in screen)
    read(terminal.run("app", "served", "--port", 0, press=press), 80, last="stopped")


# ---- Ctrl-C

COMMANDS = {
    "recycle": ("recycle", "--vision", "net", "--words", "plain", "--centre-on", "own", "--out", "made"),
    "classify": ("classify", "model", "own", "--labels", "a cat,a dog", "--centre-on", "none"),
    "index": ("index", "model", "own", "--out", "made"),
    "embed": ("embed", "model", "own", "--out", "made"),
    "evaluate": ("evaluate", "model", "--task", "classification", "--data", "own"),
}


@pytest.fixture
def own(folder: Path) -> Iterator[Path]:
    """Pictures that no cache knows, in two class folders."""
    for name in ("red", "green"):
        shutil.copytree(folder / "photos", folder / "own" / name)
        for path in sorted((folder / "own" / name).iterdir())[PICTURES // 2 :]:
            path.unlink()
    yield folder / "own"
    shutil.rmtree(folder / "own")
    shutil.rmtree(folder / "made", ignore_errors=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_keeps_what_was_done(terminal: Terminal, own: Path, command: str) -> None:
    """One line that says what is kept, and the same command goes on from there."""
    press = (CTRL_C, re.compile(r"images .* 64/96").search)
    stopped = read(
        terminal.run(*COMMANDS[command], press=press, pause=0.4, columns=200),
        200, code=130, last="headword: interrupted: ",
    )  # fmt: skip
    assert "the same command goes on from there" in stopped.lines[-1]
    kept = re.search(r"(\d+) (?:of 96 |embedded )images", stopped.lines[-1])
    assert kept is not None, stopped.text
    assert int(kept[1]) >= 64
    made = read(terminal.run(*COMMANDS[command], pause=0.2), 80)
    assert all(PICTURES - of + done >= int(kept[1]) for _, done, of in made.counts), made.counts


def test_ctrl_c_twice_ends_at_once(terminal: Terminal, own: Path) -> None:
    press = (CTRL_C, re.compile(r"images .* 64/96").search)
    stopped = terminal.run(*COMMANDS["index"], press=press, again=2, pause=0.4)
    read(stopped, 80, code=130, last="headword: interrupted")
    read(terminal.run(*COMMANDS["index"]), 80)


def test_an_interrupted_tag_leaves_the_index_as_it_was(terminal: Terminal, own: Path) -> None:
    read(terminal.run(*COMMANDS["index"]), 80)
    press = (CTRL_C, re.compile(r"images .* 96/96").search)
    tag = ("tag", "made", "--labels", "a cat,a dog")
    stopped = read(terminal.run(*tag, press=press, pause=1), 80, code=130, last="headword: interrupted")
    assert "run the same command again" in stopped.text
    assert "tag" not in terminal.run("search", "made", "snow", "-k", 1).lines[1]
    read(terminal.run(*tag), 80)
    assert "tag" in terminal.run("search", "made", "snow", "-k", 1).lines[1]
