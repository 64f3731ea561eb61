"""The commands of the README on a real terminal: what a person reads, and what Ctrl-C leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from headword import load
from support.commands import check_result
from support.extraction import draw_many
from support.terminal import CTRL_C, Shown, Terminal, open_terminal
from support.training import TINY

WIDTHS = (80, 120)
PICTURES = 96
"""Enough for three batches, and for the cache."""
CLASSES = 60
MODEL = "run/model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, Path]) -> Path:
    """A tiny classifier `net`, pictures in `photos`, class folders in `classes`."""
    import timm

    from headword.head.names import imagenet_classes

    root = tmp_path_factory.mktemp("t")  # short, since a path is never broken, however wide its line
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=CLASSES)
    names = [c.name for c in imagenet_classes(1000)[1][:CLASSES]]
    config = {"label_names": names, "num_classes": CLASSES}
    timm.models.save_for_hf(model, root / "net", model_config=config, safe_serialization=True)
    draw_many(root / "photos", PICTURES)
    for columns in WIDTHS:  # each of its own, which the other's run has not put into the cache
        for n, name in enumerate(("red", "green")):
            draw_many(root / f"classes{columns}" / name, 40 + n)
    (root / "words.txt").write_text("a cat\na dog,\n\na house\n")
    return root


@pytest.fixture(scope="module")
def terminal(folder: Path) -> Iterator[Terminal]:
    """With a recycled model in `recycled`, a trained one in `run/model` that takes less time, an `index`."""
    words = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    with open_terminal(folder) as opened:
        made = opened.run("recycle", "--vision", "net", "--words", "plain", "--out", "recycled")
        assert "Recycled into recycled" in read(made, 80).text
        assert "Trained into run" in read(opened.run("train", "--out", "run", *words, "--steps", 3), 80).text
        read(opened.run("index", MODEL, "photos", "--out", "index"), 80)
        yield opened


def read(shown: Shown, columns: int, *, code: int = 0, last: str = "Next: ") -> Shown:
    """What a person may expect of every command."""
    assert shown.code == code, shown.text
    assert "Traceback" not in shown.text
    assert shown.lines[-1].replace("^C", "").startswith(last), shown.text
    assert max(map(len, shown.lines)) <= columns, shown.text
    return shown


def moved(shown: Shown, what: str, count: int, steps: int = 2) -> None:
    """A bar was seen, and went on."""
    assert len({done for word, done, of in shown.counts if (word, of) == (what, count)}) >= steps, (
        shown.counts
    )


def test_what_a_person_reads(terminal: Terminal, folder: Path) -> None:
    """The commands of the README, one after the other."""

    def run(*arguments: object, columns: int = 80) -> Shown:
        return read(terminal.run(*arguments, columns=columns, pause=0.25), columns)

    photo = "photos/0001.jpg"
    assert "a cat" in run("classify", MODEL, photo, "--labels", "a cat,a dog,").text
    options = ("--labels-file", "words.txt", "--centre-on", "collection", "-k", 1, "--json", "labels.json")
    moved(run("classify", MODEL, "photos", *options), "images", PICTURES)
    run("explain", "recycled", "a zebra", "a birthday party", "-k", 3)
    found = run("search", "index", "children", "playing", "football", "--not", "indoors", "--all", "-k", 3)
    assert re.search(r"1 +-?0\.\d{3} +\d+% +\d{4}\.jpg", found.text), found.text
    moved(run("tag", "index", "--labels-file", "words.txt"), "images", PICTURES, steps=1)
    run("inspect", "net", "--names", 3)
    run("inspect", "recycled", "--names", 3)
    moved(run("embed", MODEL, "photos", "--out", "vectors"), "images", PICTURES)
    for columns in WIDTHS:
        data = f"classes{columns}"
        moved(run("index", MODEL, data, "--out", f"i{columns}", columns=columns), "images", 81)
        options = ("--task", "classification", "--centre-on", "collection", "--data", data)
        moved(run("evaluate", MODEL, *options, columns=columns), "images", 81)
    run("search", "index", "snow people", columns=120)


def test_the_demo_says_what_is_right_and_what_is_wrong(terminal: Terminal, folder: Path) -> None:
    demo = read(terminal.run("demo", "--json", "demo.json", pause=0.1), 80, last="Next: headword classify")
    moved(demo, "images", 14, steps=1)
    right = re.search(r"(\d+) of 14 pictures got their own words first", demo.text)
    result = json.loads((folder / "demo.json").read_text())
    check_result(result, "demo")
    assert (result["metrics"]["pictures"], result["metrics"]["own_words_first"] >= 9) == (14, True)
    assert right is not None
    assert (
        result["metrics"]["own_words_first"]
        == int(right[1])
        == sum(entry["labels"][0]["label"] == entry["own_words"]["name"] for entry in result["results"])
    )
    cat = next(entry for entry in result["searches"] if entry["sentence"] == "my pet is looking at me")
    mark = "✓" if cat["meant"]["rank"] == 1 else "✗"
    assert re.search(
        rf"{mark} +my pet is looking at me .* {cat['meant']['rank']}(st|nd|rd|th) of 14", demo.text
    )
    page = (folder / "headword-demo" / "index.html").read_text()
    assert page.count("<img") >= 14
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert load(folder / "headword-demo" / "model").centre.images == 14
    (folder / "mine").mkdir()
    (folder / "mine" / "index.html").write_text("somebody's own page")
    for again, said in (
        (("headword-demo",), "already exists"),
        (("mine", "--overwrite"), "not headword's own"),
    ):
        refused = terminal.run("demo", "--out", *again, columns=300)
        assert (refused.code, len(refused.lines), said in refused.text) == (2, 1, True), refused.text


def test_paths_alone_for_other_programs(terminal: Terminal, folder: Path) -> None:
    shown = terminal.run("search", "index", "snow", "-k", 5, "--all", "--paths", stdout=folder / "found.txt")
    assert (shown.code, shown.lines) == (0, [])
    found = [Path(line) for line in (folder / "found.txt").read_text().splitlines()]
    assert len(found) == 5
    assert all(path.is_absolute() and path.is_file() for path in found)


@pytest.mark.parametrize(
    "command", [("search", "index", "snow"), ("search", "index", "a", "--paths"), ("--help",)]
)
def test_a_reader_that_goes_away_is_no_error(terminal: Terminal, command: tuple[str, ...]) -> None:
    """As in `headword search index words | head -1`."""
    assert terminal.run(*command, stdout="|").lines == []


def test_an_index_whose_model_moved(terminal: Terminal, folder: Path) -> None:
    (folder / "run" / "model").rename(folder / "moved")
    try:
        for command in (("search", "index", "snow"), ("app", "index")):
            lost = terminal.run(*command, columns=500)
            assert (lost.code, len(lost.lines)) == (2, 1)
            assert "--model DIR" in lost.text
        read(terminal.run("search", "index", "snow", "--model", "moved"), 80)
        wrong = terminal.run("search", "index", "snow", "--model", "recycled", columns=500)
        assert wrong.code == 2
        assert "was made with the model" in wrong.text
    finally:
        (folder / "moved").rename(folder / "run" / "model")


def test_the_app_answers_searches_until_ctrl_c(terminal: Terminal, folder: Path) -> None:
    answers: list[str] = []

    def search(screen: str) -> bool:
        if "Ctrl-C stops it" not in screen:
            return False
        command = (sys.executable, "-m", "headword", "search", "index", "snow", "people")
        asked = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
        answers.append(asked.stdout)
        return True

    app = read(terminal.run("app", "index", "--port", 0, press=(CTRL_C, search)), 80, last="stopped")
    url = re.search(r"http://127\.0\.0\.1:\d+/", app.text)
    assert url is not None
    assert answers[0].splitlines()[-2:-1] == [f"Answered by the server at {url[0]}"]
    # None answers any more.
    alone = read(terminal.run("search", "index", "snow", "people"), 80)
    assert "server" not in alone.text
    hit = re.compile(r"^\d+ .*jpg$", re.MULTILINE)
    assert hit.findall(alone.text) == hit.findall(answers[0])


def test_a_search_that_took_long_says_what_would_make_it_quick(terminal: Terminal) -> None:
    long = {"headword.cli.search.LONG_SECONDS": 0.0}
    shown = read(terminal.run("search", "index", "snow people", constants=long), 80)
    assert "While headword app index runs, a search takes a fraction of a second." in shown.lines


def test_a_picture_like_another_leads_on(terminal: Terminal) -> None:
    """What a search says to do next is another search."""
    shown = read(terminal.run("search", "index", "--like", "0000.jpg", "-k", 2), 80)
    assert re.fullmatch(r"Next: headword search index --like (?!0000)\d{4}\.jpg", shown.lines[-1]), shown.text


def test_an_index_is_checked(terminal: Terminal, folder: Path) -> None:
    """Every file of it; one with a flipped bit is named, with how to mend it."""
    shown = terminal.run("index", "--check", "index", pause=0.25)
    read(shown, 80, last="seconds")
    assert shown.lines[0] == "Every file of index is as it was written"
    moved(shown, "rows", PICTURES, steps=1)
    shutil.copytree(folder / "index", folder / "flipped")
    rows = next((folder / "flipped").glob("rows-*.f32"))
    data = bytearray(rows.read_bytes())
    data[len(data) // 2] ^= 4
    rows.write_bytes(data)
    shown = read(terminal.run("index", "--check", "flipped", columns=200), 200, code=2, last="headword: ")
    assert len(shown.lines) == 1
    assert f"flipped/{rows.name} is damaged" in shown.text
    assert "index the folder again" in shown.text
    read(terminal.run("index", MODEL, "photos", "--out", "flipped"), 80)
    read(terminal.run("index", "--check", "flipped"), 80, last="seconds")


# ---- Ctrl-C

COMMANDS = {
    "recycle": ("recycle", "--vision", "net", "--words", "plain", "--centre-on", "own", "--out", "made"),
    "classify": ("classify", MODEL, "own", "--labels", "a cat,a dog", "--centre-on", "none"),
    "index": ("index", MODEL, "own", "--out", "made"),
    "embed": ("embed", MODEL, "own", "--out", "made"),
    "evaluate": ("evaluate", MODEL, "--task", "classification", "--data", "own"),
}


@pytest.fixture
def own(folder: Path) -> Iterator[Path]:
    """Pictures that no cache knows, in two class folders."""
    for name in ("red", "green"):
        shutil.copytree(folder / "photos", folder / "own" / name)
        for path in sorted((folder / "own" / name).iterdir())[PICTURES // 2 :]:
            path.unlink()
    for path in (folder / "own").rglob("*.jpg"):
        os.utime(path)
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


def test_ctrl_c_keeps_the_texts(terminal: Terminal, folder: Path) -> None:
    """While texts are encoded, as while images are."""
    words = [word for n in range(8) for word in ("--template", f"{folder.parent.name} {n}: {{}}")]
    recycle = ("recycle", "--vision", "net", "--words", "plain", *words, "--out", "made")
    press = (CTRL_C, re.compile(rf"texts .* [1-9]\d*/{8 * CLASSES}").search)
    try:
        stopped = read(
            terminal.run(*recycle, press=press, pause=0.4, columns=200),
            200, code=130, last="headword: interrupted: ",
        )  # fmt: skip
        kept = re.search(rf"(\d+) of {8 * CLASSES} encoded texts are kept; the same", stopped.lines[-1])
        assert kept is not None, stopped.text
        assert int(kept[1]) >= max(done for _, done, _ in stopped.counts) > 0
        assert not (folder / "made").exists()
        made = read(terminal.run(*recycle, pause=0.2), 80)
        assert all(done >= int(kept[1]) for word, done, _ in made.counts if word == "texts"), made.counts
    finally:
        shutil.rmtree(folder / "made", ignore_errors=True)


def test_ctrl_c_twice_ends_at_once(terminal: Terminal, own: Path) -> None:
    press = (CTRL_C, re.compile(r"images .* 64/96").search)
    stopped = terminal.run(*COMMANDS["index"], press=press, again=2, pause=0.4)
    assert (stopped.code, "Traceback" in stopped.text) == (130, False), stopped.text
    assert "headword: interrupted" in stopped.text


def test_an_interrupted_tag_leaves_the_index_as_it_was(terminal: Terminal, folder: Path) -> None:
    tag = ("tag", "index", "--labels", "a tree,a stone")
    press = (CTRL_C, re.compile(r"images .* 96/96").search)
    before = (folder / "index" / "index.json").read_bytes()
    stopped = read(terminal.run(*tag, press=press, pause=1), 80, code=130, last="headword: interrupted")
    assert "run the same command again" in stopped.text
    assert (folder / "index" / "index.json").read_bytes() == before
    read(terminal.run(*tag), 80)
    assert (folder / "index" / "index.json").read_bytes() != before
