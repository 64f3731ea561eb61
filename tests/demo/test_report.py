"""The demo's page is one whole, safe, accessible file."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from headword.demo.report import Expected, Labelled, Match, Score, Searched, write_demo_page
from headword.errors import HeadwordError
from support.html_page import Page


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    Image.new("RGB", (1200, 600), (200, 30, 30)).save(tmp_path / "wide.png")
    Image.new("RGBA", (30, 40), (0, 0, 0, 0)).save(tmp_path / "small & clear.png")
    return [tmp_path / "wide.png", tmp_path / "small & clear.png"]


def write(path: Path, pictures: list[Path]) -> str:
    wide, small = pictures
    write_demo_page(
        path,
        labelled=[
            Labelled(
                wide,
                'A "wide" <red> one',
                [Score("red & wide", 0.957, 0.41), Score("tiny", 0.043, -0.02)],
                Expected("red & wide", 1, 2),
                "Me, CC0",
            ),
            Labelled(
                small, "A small one", [Score("<script>alert(1)</script>", 1.0, 1.0)], Expected("tiny", 2, 2)
            ),
        ],
        searches=[
            Searched(
                "pictures of <nothing>",
                [Match(small, "A small one", 0.3), Match(wide, "Wide", -0.1)],
                Expected("Wide", 2, 2),
            )
        ],
        facts=[("Fitting", "0.08 s"), ("Encoder", "a <b>bold</b> one")],
        labels=["red & wide", "tiny"],
        lead="What this is & how.",
    )
    return path.read_text(encoding="utf-8")


def test_the_page_holds_everything(tmp_path: Path, pictures: list[Path]) -> None:
    page = Page(write(tmp_path / "page.html", pictures))
    for said in (
        'A "wide" <red> one',
        "red & wide",
        "96 %",
        "4.3 %",
        "cosine 0.41",
        "cosine −0.02",
        "100 %",
        "“pictures of <nothing>”",
        "Fitting",
        "a <b>bold</b> one",
        "The 2 labels every picture could have had",
        "What this is & how.",
        'A "wide" <red> one: Me, CC0.',
        "1 of 2 pictures got their own words first.",
        "Its own words, “tiny”, came 2nd of 2",
        "0 of 1 sentences found the picture that was meant first.",
        "Wide: came 2nd of 2",
    ):
        assert said in page.text
    assert page.text.index("A small one", page.text.index("“pictures")) < page.text.rindex("Wide")


def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path, pictures: list[Path]) -> None:
    text = write(tmp_path / "page.html", pictures)
    page = Page(text)
    tags = Counter(tag for tag, _ in page.tags)
    assert not {"script", "link", "iframe", "object", "b"} & tags.keys()
    assert not re.search(r"https?://|url\(|@import", text)
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/jpeg;base64,")


def test_pictures_are_small_have_their_size_and_a_text(tmp_path: Path, pictures: list[Path]) -> None:
    page = Page(write(tmp_path / "page.html", pictures))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [image["alt"] for image in images] == ['A "wide" <red> one', "A small one", "A small one", "Wide"]
    sizes = []
    for image in images:
        data = base64.b64decode((image["src"] or "").partition(",")[2])
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.size == (int(image["width"] or 0), int(image["height"] or 0))
            sizes.append(opened.size)
    assert sizes == [(520, 260), (30, 40), (30, 40), (280, 140)]


def test_the_page_is_accessible_and_fits_every_screen(tmp_path: Path, pictures: list[Path]) -> None:
    text = write(tmp_path / "page.html", pictures)
    page = Page(text)
    tags = Counter(tag for tag, _ in page.tags)
    assert (tags["h1"], tags["main"], tags["title"]) == (1, 1, 1)
    assert dict(page.tags)["html"] == {"lang": "en"}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["aria-labelledby"] for tag, attributes in page.tags if tag == "section"} == set(ids)
    for said in ("width=device-width", "prefers-color-scheme: dark", "@media print"):
        assert said in text


def test_equal_input_gives_equal_bytes(tmp_path: Path, pictures: list[Path]) -> None:
    assert write(tmp_path / "a.html", pictures) == write(tmp_path / "b.html", pictures)


def test_a_bad_picture_leaves_no_page(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    labelled = [Labelled(tmp_path / "bad.png", "Bad", [], Expected("x", 1, 1))]
    with pytest.raises(HeadwordError, match=r"bad\.png is empty"):
        write_demo_page(tmp_path / "page.html", labelled=labelled, searches=[], facts=[], labels=[], lead="")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]


def test_empty_sections_are_still_a_page(tmp_path: Path) -> None:
    write_demo_page(tmp_path / "page.html", labelled=[], searches=[], facts=[], labels=[], lead="")
    assert "headword" in Page((tmp_path / "page.html").read_text(encoding="utf-8")).text


def test_pictures_come_before_facts(tmp_path: Path, pictures: list[Path]) -> None:
    page = Page(write(tmp_path / "page.html", pictures))
    assert page.text.index("“pictures of <nothing>”") < page.text.index("Fitting")


@pytest.mark.parametrize(
    ("rank", "text"), [(1, "1st of 200"), (2, "2nd of 200"), (13, "13th of 200"), (103, "103rd of 200")]
)
def test_ranks_in_words(rank: int, text: str) -> None:
    assert str(Expected("x", rank, 200)) == text
