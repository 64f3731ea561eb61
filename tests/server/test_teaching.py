"""Labels taught by clicks: over the API, after a kill, and in a real Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import headword
from headword.search import Index, Query, build_index
from headword.search.lesson import Answer
from headword.server.clicks import Click, Clicks, Undo
from headword.server.schemas import Labelling
from support.browser import keep, opened_page, tiles
from support.serving import served

LABELS = ["a cat", "a cup of coffee", "a rocket"]


@pytest.fixture
def fresh(index, embedded, tmp_path):
    """A copy of the index, without clicks."""
    folder = tmp_path / "index"
    shutil.copytree(index.path, folder, ignore=shutil.ignore_patterns("server.json", "clicks.jsonl"))
    return Index.open(folder, model=embedded)


def click(live, path, label, **options):
    reply = live.post(
        "/lesson/answers", {"answers": [{"path": path, "label": label} | options], "shown": [path]}
    )
    return reply.status, reply.json


def test_clicks_count_and_are_taken_back(fresh):
    with served(fresh) as live:
        assert live.post("/lesson/state", {}).json["labels"] == []
        status, said = click(live, "cat.png", "a cat")
        assert status == 400
        assert "write a list" in said["error"]
        live.post("/lesson", {"labels": LABELS})
        status, said = click(live, "coffee.png", "a rocket")
        assert status == 200
        assert said["shown"] == [
            {"path": "coffee.png", "label": "a rocket", "probability": 1.0, "said": "right"}
        ]
        assert [row["shown"] for row in said["labels"]] == [0, 0, 1]
        assert said["answers"] == 1
        assert said["accuracy"] is not None
        status, said = click(live, "cat.png", "a rocket", wrong=True)
        assert said["shown"][0]["said"] == "wrong"
        assert said["shown"][0]["label"] != "a rocket"
        assert click(live, "owl.png", "a cat")[0] == 404
        assert click(live, "cat.png", "a dog")[0] == 400
        for left in (1, 0, 0):
            said = live.post("/lesson/undo", {"shown": ["coffee.png"], "suggest": 2}).json
            assert said["answers"] == left
        assert said["shown"][0]["said"] is None
        assert said["accuracy"] is None
        assert len(said["suggested"]) == 2


def test_a_label_more_keeps_the_clicks_and_a_label_less_its_own(fresh):
    with served(fresh) as live:
        live.post("/lesson", {"labels": LABELS})
        click(live, "coffee.png", "a cup of coffee")
        click(live, "cat.png", "a cat")
        said = live.post("/lesson", {"labels": [*LABELS, "an astronaut"], "none_of_these": True}).json
        assert [row["shown"] for row in said["labels"]] == [1, 1, 0, 0, 0]
        assert click(live, "rocket.jpg", "none of these")[1]["answers"] == 3
        said = live.post("/lesson", {"labels": ["a cat", "a rocket"]}).json
        assert [row["shown"] for row in said["labels"]] == [1, 0]
        assert live.post("/lesson", {"labels": ["a cat", "a cat "]}).status == 400
        assert live.post("/lesson", {"labels": [" "]}).status == 400


def test_other_labels_are_taken_back_with_the_clicks_they_cost(fresh):
    with served(fresh) as live:
        live.post("/lesson", {"labels": LABELS})
        click(live, "coffee.png", "a cup of coffee")
        click(live, "cat.png", "a cat")
        before = live.post("/lesson/tags", {}).json
        tags = live.get("/tags").json["tags"]
        live.post("/lesson", {"labels": ["a cat", "a lamp"]})
        assert live.post("/lesson/tags", {}).json["answers"] == 1
        assert live.post("/tag/undo", {}).json["tags"] == tags
        after = live.post("/lesson/state", {}).json
        assert {**after, "index_version": ""} == {**before, "index_version": ""}
        assert live.post("/tag/undo", {}).status == 409
        assert len(Clicks(fresh.path / "clicks.jsonl").clicks) == 2


def test_taught_labels_become_tags_and_a_classifier(fresh, embedded):
    """What the page shows, the index's tags and the saved classifier say the same."""
    with served(fresh) as live:
        live.post("/tag", {"labels": LABELS})
        for path in ("coffee.png", "cat.png"):  # swapped, to tell them from words
            click(live, path, "a cat" if path == "coffee.png" else "a cup of coffee")
        paths = [picture["path"] for picture in live.get("/pictures").json["pictures"]]
        live.post("/lesson/tags", {})
        tagged = {picture["path"]: picture["tag"] for picture in live.get("/pictures").json["pictures"]}
        shown = {
            row["path"]: row["label"] for row in live.post("/lesson/state", {"shown": paths}).json["shown"]
        }
        assert tagged == shown
        assert tagged["coffee.png"] == "a cat"
        saved = live.post("/lesson/classifier", {}).json
        assert saved == {"folder": "classifier", "labels": 3, "examples": 2}
    classifier = headword.load_classifier(fresh.path / "classifier", model=embedded)
    assert [*classifier.predict([fresh.root / path for path in paths])] == [tagged[path] for path in paths]


def test_a_refined_search_becomes_a_tag(fresh):
    """In Python: its words are a label more, what was judged are answers; undo takes back the last."""
    lesson = fresh.lesson(["a cat"], none_of_these=True)
    lesson.keep(Query(text="a drink", right=("coffee.png",), wrong=("cat.png",)))
    assert lesson.counts == {"a cat": 0, "a drink": 1, "none of these": 0}
    best, _ = lesson.tags()
    named = [lesson.classifier.classes_[place] for place in best.tolist()]
    assert named[lesson.names.index("coffee.png")] == "a drink"
    assert named[lesson.names.index("cat.png")] != "a drink"
    assert lesson.undo() == (lesson.names.index("cat.png"), "a drink", True)
    assert len(lesson.answers) == 1
    assert fresh.tag(lesson.classifier)["a drink"] >= 1
    with pytest.raises(headword.HeadwordError, match=r"'owl.png' is no picture"):
        lesson.keep(Query(text="an owl", right=("owl.png",)))
    with pytest.raises(headword.HeadwordError, match="without words"):
        lesson.keep(Query(like="cat.png"))


def test_the_page_begins_with_a_classifier(fresh, embedded):
    """Its labels and its examples; clicks add to them, and a label more keeps them."""
    lesson = fresh.lesson(LABELS)
    lesson.answer(Answer(lesson.names.index("coffee.png"), "a rocket"))
    lesson.learn()
    with served(fresh, taught=lesson.classifier) as live:
        said = live.post("/lesson/state", {"shown": ["coffee.png"]}).json
        assert [(row["label"], row["shown"]) for row in said["labels"]] == [
            ("a cat", 0), ("a cup of coffee", 0), ("a rocket", 1)
        ]  # fmt: skip
        assert said["shown"][0]["label"] == "a rocket"
        assert said["answers"] == 0
        said = live.post("/lesson", {"labels": [*LABELS, "an owl"]}).json
        assert [row["shown"] for row in said["labels"]] == [0, 0, 1, 0]
        said = click(live, "coffee.png", "a cup of coffee")[1]
        assert [row["shown"] for row in said["labels"]] == [0, 1, 0, 0]
    several = embedded.classifier(LABELS, multi_label=True)
    with pytest.raises(headword.HeadwordError, match="one label"), served(fresh, taught=several):
        pass


def test_clicks_are_there_after_a_restart(fresh, embedded):
    with served(fresh) as live:
        live.post("/tag", {"labels": LABELS})
        before = click(live, "coffee.png", "a rocket")[1]
    with served(Index.open(fresh.path, model=embedded)) as live:
        after = live.post("/lesson/state", {"shown": ["coffee.png"]}).json
    assert {**after, "index_version": ""} == {**before, "index_version": ""}


CLICKING = """
import sys
from pathlib import Path
from headword.server.clicks import Click, Clicks
from headword.server.schemas import Labelling
clicks = Clicks(Path(sys.argv[1]))
clicks.add(Labelling(labels=["a cat"]))
for number in range(1_000_000):
    clicks.add(Click(path=f"{number}.png", label="a cat"))
    print(number, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_kill_loses_no_click(tmp_path):
    file = tmp_path / "clicks.jsonl"
    command = [sys.executable, "-c", CLICKING, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line == "20\n":
                running.send_signal(signal.SIGKILL)
                break
        answered = 20 + len(running.stdout.readlines())
    kept = Clicks(file)
    assert [one.path for one in kept.clicks[: answered + 1]] == [f"{n}.png" for n in range(answered + 1)]
    kept.add(Undo(undo=True))
    assert len(Clicks(file).clicks) == len(kept.clicks)


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path):
    file = tmp_path / "clicks.jsonl"
    clicks = Clicks(file)
    clicks.add(Labelling(labels=["a cat"]), Click(path="a.png", label="a cat"))
    with file.open("ab") as opened:
        opened.write(b'{"path": "b.p')
    Clicks(file).add(Click(path="c.png", label="a cat"))
    assert [one.path for one in Clicks(file).clicks] == ["a.png", "c.png"]


def test_clicks_that_cannot_be_kept_do_not_count(tmp_path):
    clicks = Clicks(tmp_path / "gone" / "clicks.jsonl")
    with pytest.raises(headword.HeadwordError, match="not kept"):
        clicks.add(Labelling(labels=["a cat"]), Click(path="a.png", label="a cat"))
    assert clicks.clicks == []


# ---- in a browser

KINDS = ("rose", "tulip", "dandelion")


@pytest.fixture(scope="module")
def flowers(saved, tmp_path_factory) -> Path:
    """An index of three kinds of flowers; 24 pictures of each, in its folder."""
    folder = tmp_path_factory.mktemp("flowers")
    for kind in KINDS:
        (folder / "photos" / kind).mkdir(parents=True)
        pictures = sorted((Path(os.environ["HEADWORD_DATA"]) / "data" / "tf_flowers" / kind).iterdir())
        for picture in pictures[:24]:
            shutil.copy(picture, folder / "photos" / kind / picture.name)
    build_index(saved, folder / "photos", folder / "index")
    return folder / "index"


@pytest.fixture(params=[1280, 360])
def width(request) -> int:
    return request.param


@pytest.fixture
def taught(chromium, flowers, embedded, tmp_path):
    shutil.copytree(flowers, tmp_path / "index")
    with served(Index.open(tmp_path / "index", model=embedded)) as live:
        live.post("/tag", {"labels": [f"a {kind}" for kind in KINDS]})
        yield live


def tags(live) -> dict[str, str]:
    return {row["path"]: row["tag"] for row in live.get("/pictures?k=500").json["pictures"]}


def accuracy(tagged: dict[str, str], paths: set[str]) -> float:
    return sum(tagged[path] == f"a {path.partition('/')[0]}" for path in paths) / len(paths)


def asked(page) -> str:
    return page.get_attribute("#teach-picture", "alt")


def answered(page, n: int) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#teach-state")).to_contain_text(re.compile(rf"^{n} click"))
    expect(page.locator("#taught")).to_contain_text(re.compile(rf"^{n} click"))


@pytest.mark.browser
@pytest.mark.data
def test_fifteen_clicks_raise_the_accuracy(browser, taught, width):
    """By mouse, digits and a typed label; of the pictures that were never clicked, more are right."""
    before = tags(taught)
    clicked: set[str] = set()
    estimates: set[str] = set()
    with opened_page(browser, taught, 60, width) as page:
        page.click("#teach-open")
        page.wait_for_selector("#teach-labels button")
        for n in range(1, 16):
            path = asked(page)
            assert path not in clicked
            clicked.add(path)
            place = KINDS.index(path.partition("/")[0])
            if n % 2:
                page.keyboard.press(str(place + 1))
            else:
                page.locator("#teach-labels button").nth(place).click()
            answered(page, n)
            estimates.add(page.locator("#teach-state").text_content())
        assert len(estimates) == 15
        keep(page, f"teach-{width}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.keyboard.press("Escape")
        page.click('#tags [data-tag="a tulip"]')
        page.wait_for_selector('#tags [data-tag="a tulip"][aria-pressed="true"]')
        tiles(page, min(60, int(page.locator('#tags [data-tag="a tulip"] .count').text_content())))
    after = tags(taught)
    others = before.keys() - clicked
    assert accuracy(after, others) > accuracy(before, others) + 0.1


@pytest.mark.browser
@pytest.mark.data
def test_under_a_picture(browser, taught, width):
    """Right, wrong and another label by mouse and by keys; undo; and all of it there after a reload."""
    from playwright.sync_api import expect

    with opened_page(browser, taught, 60, width) as page:
        tile = page.locator("#grid li").first
        label = tile.locator(".label").text_content()
        tile.hover()
        tile.locator(".wrong").click()
        expect(page.locator("#taught")).to_contain_text(re.compile("^1 click"))
        expect(tile.locator(".label")).not_to_have_text(label)
        tile.locator(".other").click()
        page.fill("#teach-new", "a weed")
        page.keyboard.press("Enter")
        expect(page.locator("#teach")).not_to_be_visible()
        expect(tile.locator(".label")).to_have_text("a weed")
        expect(tile.locator(".right")).to_have_attribute("aria-pressed", "true")
        page.focus("#words")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("2")
        expect(tile.locator(".label")).to_have_text("a tulip")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("y")
        expect(page.locator("#taught")).to_contain_text(re.compile("^4 clicks"))
        keep(page, f"taught-{width}")
        page.reload()
        tiles(page, 60)
        expect(tile.locator(".label")).to_have_text("a tulip")
        page.click("#undo")
        page.click("#undo")
        expect(page.locator("#taught")).to_contain_text(re.compile("^2 clicks"))
        expect(tile.locator(".label")).to_have_text("a weed")
        page.click("#save")
        expect(page.locator("#taught")).to_contain_text("4 labels and 1 examples")
    assert headword.load_classifier(taught.index.path / "classifier").labels[-1] == "a weed"


@pytest.mark.browser
@pytest.mark.data
def test_hits_that_are_right_or_wrong(browser, taught, width):
    """Marks on hits refine the search at once, by mouse and by keys; another search begins without them."""
    from playwright.sync_api import expect

    status = "#status"
    with opened_page(browser, taught, 60, width) as page:
        page.fill("#words", "a flower")
        expect(page.locator(status)).to_contain_text("“a flower”")
        hits = taught.post("/search", {"text": "a flower", "k": 60}).json["hits"]
        right, wrong = hits[1]["path"], hits[0]["path"]
        page.locator(f'[data-path="{wrong}"]').hover()
        page.locator(f'[data-path="{wrong}"] .less-so').click()
        expect(page.locator(status)).to_contain_text("0 right and 1 wrong")
        page.locator(f'[data-path="{right}"] .like').focus()
        page.keyboard.press("+")
        expect(page.locator(status)).to_contain_text("1 right and 1 wrong")
        refined = {"text": "a flower", "k": 60, "right": [right], "wrong": [wrong]}
        expected = [hit["path"] for hit in taught.post("/search", refined).json["hits"]]
        assert expected != [hit["path"] for hit in hits]
        assert [tile.get_attribute("data-path") for tile in page.locator("#grid li").all()] == expected
        expect(page.locator(f'[data-path="{right}"] .more-so')).to_have_attribute("aria-pressed", "true")
        keep(page, f"refined-{width}")
        page.fill("#words", "a flower in a field")
        expect(page.locator(status)).to_contain_text("“a flower in a field” ·")
