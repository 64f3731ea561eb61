"""What people do with the page all day, in a real Chromium: wide and light, narrow and dark."""

from __future__ import annotations

import csv
import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from headword.search import Index, build_index
from support.browser import PATIENCE, first, focused, keep, opened_page, status, tiles
from support.serving import Live, served

pytestmark = pytest.mark.browser

SMALL = 70
"""Pictures of one colour, so that there is something to scroll."""

TOTAL = SMALL + 16
"""With the gallery, a picture of a camera, and a copy."""


@pytest.fixture(scope="module")
def live(chromium, embedded, saved, pictures, tmp_path_factory) -> Iterator[Live]:
    """The gallery, one picture of a camera, and many small ones in a folder."""
    folder = tmp_path_factory.mktemp("use")
    photos = folder / "photos"
    (photos / "small" / "er").mkdir(parents=True)
    for name, path in pictures.items():
        shutil.copy(path, photos / f"{name}{path.suffix}")
    shutil.copy(pictures["coffee"], photos / "small" / "again.png")
    random = np.random.default_rng(0)
    for n in range(SMALL):
        colour = tuple(int(part) for part in random.integers(0, 256, 3))
        Image.new("RGB", (16, 16), colour).save(
            photos / "small" / ("er" if n % 7 == 0 else ".") / f"{n:02}.png"
        )
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Kodak", "Brownie"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = "1957:03:02 10:20:30"
    details[ExifTags.Base.ExposureTime], details[ExifTags.Base.FNumber] = 1 / 40, 11.0
    Image.open(pictures["cat"]).convert("RGB").save(photos / "cat-taken.jpg", exif=exif)
    build_index(saved, photos, folder / "index")
    with served(Index.open(folder / "index", model=embedded)) as server:
        yield server


@pytest.fixture(params=[(1280, "light"), (360, "dark")], ids=["wide", "narrow"])
def page(request, browser, live):
    width, scheme = request.param
    with opened_page(browser, live, 60, width, scheme) as opened:
        yield opened
        assert opened.evaluate("document.documentElement.scrollWidth") <= width


def expect(place):
    from playwright.sync_api import expect as expected

    expected.set_options(timeout=PATIENCE)
    return expected(place)


def test_a_click_opens_the_picture(page):
    page.click('[data-path="cat-taken.jpg"] .open')
    facts = page.locator("#picture-facts")
    for fact in ("× ", "JPEG", "Mar 2, 1957", "Kodak Brownie", "1/40 s · f/11"):
        expect(facts).to_contain_text(fact)
    assert page.text_content("#picture-path") == "cat-taken.jpg"
    page.click("#picture-zoom")
    expect(page.locator("#picture-zoom")).to_have_attribute("aria-pressed", "true")
    scrolls = "(e) => e.scrollWidth > e.clientWidth"
    page.wait_for_function(f"() => ({scrolls})(document.getElementById('picture-frame'))")
    page.keyboard.press("z")
    expect(page.locator("#picture-frame")).not_to_have_class("zoomed")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#picture-name")).to_have_text("cat.png")
    keep(page, f"detail-{page.viewport_size['width']}")
    page.keyboard.press("c")
    assert page.evaluate("navigator.clipboard.readText()") == "cat.png"
    with page.expect_download() as downloading:
        page.click("#picture-download")
    assert downloading.value.suggested_filename == "cat.png"
    page.click("#picture-like")
    status(page, "like cat.png")
    first(page, "cat-taken.jpg")


def test_why_these_words(page, live):
    """What they are made of, as headword explain says it."""
    page.fill("#words", "a hot drink")
    first(page, "coffee.png")
    page.click('[data-path="coffee.png"] .open')
    expect(page.locator("#picture-why-title")).to_have_text("What “a hot drink” is made of")
    (explained,) = live.index.model.explain(["a hot drink"], k=6)
    shown = page.locator("#picture-why li span:first-child").all_text_contents()
    assert shown == [part.name for part in explained.prototypes]
    page.keyboard.press("Escape")
    page.fill("#words", "")
    status(page, f"{TOTAL} pictures")
    page.click('[data-path="coffee.png"] .open')
    assert not page.locator("#picture-why-title").is_visible()


def test_tags_are_corrected_by_hand(page, live):
    page.click('[data-path="cat.png"] .open')
    page.fill("#picture-new", "Felix <b>")
    page.keyboard.press("Enter")
    chip = page.locator("#picture-tags li")
    expect(chip).to_contain_text("Felix <b>by hand")
    page.keyboard.press("Escape")
    expect(page.locator("#tags")).to_contain_text("Felix <b>")
    page.click("#tags button")
    tiles(page, 1)
    page.click('[data-path="cat.png"] .open')
    page.click("#picture-tags button")
    expect(chip).to_have_count(0)
    assert live.get("/tags").json["tags"] == []


def test_keys(page):
    page.keyboard.press("ArrowDown")
    page.keyboard.press("o")
    page.keyboard.press("/")
    assert focused(page) == "words"
    assert not page.locator("#picture").is_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    keep(page, f"help-{page.viewport_size['width']}")
    page.keyboard.press("Escape")
    page.focus("#size")
    page.keyboard.press("/")
    assert focused(page) == "words"
    assert page.input_value("#words") == ""
    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+X")
    expect(page.locator("#selection-count")).to_have_text("3 pictures selected")


def test_select_and_take_away(page, live):
    page.locator("#grid li").first.hover()
    page.click('[data-path="cat.png"] .select')
    page.fill("#words", "a cup of coffee")
    first(page, "coffee.png")
    page.locator("#grid li").first.hover()
    page.click('[data-path="coffee.png"] .select')
    expect(page.locator("#selection-count")).to_have_text("2 pictures selected")
    keep(page, f"selection-{page.viewport_size['width']}")
    page.click("#selection-copy")
    expect(page.locator("#note")).to_contain_text("Copied 2 paths")
    assert page.evaluate("navigator.clipboard.readText()") == "cat.png\ncoffee.png"
    with page.expect_download() as downloading:
        page.click("#selection-export")
    table = list(csv.DictReader(io.StringIO(Path(downloading.value.path()).read_text("utf-8"))))
    assert [row["path"] for row in table] == ["cat.png", "coffee.png"]
    assert float(table[1]["cosine"]) > 0.2
    with page.expect_download() as downloading:
        page.click("#selection-download")
    with zipfile.ZipFile(downloading.value.path()) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["cat.png", "coffee.png"]
        assert archive.read("cat.png") == (live.index.root / "cat.png").read_bytes()
    page.click("#selection-clear")
    assert not page.locator("#selection").is_visible()
    page.click("#selection-all")
    expect(page.locator("#selection-count")).to_have_text("60 pictures selected")


def filters(page) -> None:
    """Open what is folded where there is little room."""
    page.evaluate("document.getElementById('filters').open = true")


def test_folders_and_dates(page):
    filters(page)
    page.select_option("#folders", "small")
    status(page, f"{SMALL + 1} pictures in small")
    page.select_option("#folders", "small/er")
    tiles(page, 10)
    page.fill("#words", "blue")
    status(page, "Best of 10 in small/er: “blue”")
    page.fill("#from", "2035-01-31")
    status(page, "No pictures in small/er, since 2035-01-31")
    page.reload()
    status(page, "No pictures in small/er, since 2035-01-31")
    page.fill("#from", "1990-01-31")
    status(page, "Best of 10")
    page.click("#filters-clear")
    status(page, f"Best of {TOTAL}")
    page.go_back()
    status(page, "Best of 10 in small/er, since 1990-01-31")


def test_copies_stand_together(page):
    filters(page)
    page.click("#copies")
    status(page, "pictures that are there more than once")
    keep(page, f"copies-{page.viewport_size['width']}")
    shown = [tile.get_attribute("data-path") for tile in page.locator("#grid li").all()]
    places = sorted(shown.index(path) for path in ("coffee.png", "small/again.png"))
    group = page.locator("#grid li").nth(places[0])
    expect(group).to_have_class(re.compile("starts"))
    assert places[1] == places[0] + 1
    page.reload()
    status(page, "pictures that are there more than once")
    filters(page)
    page.click("#copies")
    status(page, f"{TOTAL} pictures")


def test_what_answered_something_else_goes(page):
    page.fill("#words", "a cat")
    status(page, "a cat")
    page.route("**/search", lambda route: route.abort())
    page.fill("#words", "a dog")
    status(page, "does not answer")
    tiles(page, 0)
    page.unroute("**/search")
    page.click("#ways button >> text=Try again")
    status(page, "“a dog”")
    assert page.locator("#grid li").count() > 0
    page.wrong[:] = [line for line in page.wrong if "ERR_FAILED" not in line]  # what was kept back


def test_a_tag_that_is_none(page, live):
    page.goto(f"{live.address.url}?tag=owls&q=night")
    status(page, "No pictures tagged “owls”")
    page.click("#ways button >> text=Without this tag")
    status(page, "“night”")
    page.go_back()
    status(page, "No pictures tagged “owls”")
    page.click("#ways button >> text=Show all pictures")
    status(page, f"{TOTAL} pictures")


def test_a_picture_of_ones_own_stays(page, pictures):
    """Through a reload, and Back to it."""
    page.set_input_files("#file", pictures["rocket"])
    first(page, "rocket.jpg")
    page.reload()
    status(page, "like your picture")
    first(page, "rocket.jpg")
    assert page.evaluate("document.getElementById('example-picture').naturalWidth") > 0
    page.click("#example-remove")
    status(page, f"{TOTAL} pictures")
    page.go_back()
    status(page, "like your picture")
    first(page, "rocket.jpg")


def test_tagging_anew_asks_and_is_undone(page, live):
    live.post("/tag", {"labels": ["a cat", "a colour"]})
    before = live.get("/tags").json["tags"]
    page.reload()
    expect(page.locator("#tags button")).to_have_count(len(before))
    page.click("#labels-open")
    page.fill("#labels-words", "dark\nbright")
    page.click("#labels-apply")
    expect(page.locator("#labels-confirm")).to_contain_text(f"replaces the tags of {TOTAL} pictures")
    assert live.get("/tags").json["tags"] == before
    page.click("#labels-apply")
    expect(page.locator("#labels")).not_to_be_visible(timeout=PATIENCE)
    expect(page.locator("#tags")).to_contain_text("dark")
    page.click("#note-act")
    expect(page.locator("#tags")).to_contain_text("a cat")
    assert live.get("/tags").json["tags"] == before
    page.click("#labels-open")
    assert set(page.input_value("#labels-words").split("\n")) == {"a cat", "a colour"}
    page.check("#labels-several")
    page.fill("#labels-words", "a cat\nan animal\na pet")
    page.click("#labels-apply")
    page.click("#labels-apply")
    expect(page.locator("#labels")).not_to_be_visible(timeout=PATIENCE)
    cat = page.locator('[data-path="cat.png"] .label')
    expect(cat).to_contain_text("a cat")
    expect(cat).to_contain_text(",")


def in_view(page) -> str:
    below = "(e) => e.getBoundingClientRect().top > 0"
    return page.evaluate(f"[...document.querySelectorAll('#grid li')].find({below}).dataset.path")


def test_scrolling_goes_on_and_is_come_back_to(page):
    page.locator("#more").scroll_into_view_if_needed()
    tiles(page, TOTAL)
    assert not page.locator("#more").is_visible()
    page.locator("#grid li").nth(70).scroll_into_view_if_needed()
    page.wait_for_timeout(400)  # until the place is kept
    there = page.evaluate("scrollY")
    assert there > 500
    shown = in_view(page)
    page.reload()
    tiles(page, TOTAL)
    page.wait_for_function(f"() => Math.abs(scrollY - {there}) < 5")
    assert in_view(page) == shown
    page.fill("#words", "rocket")
    first(page, "rocket.jpg")
    page.click('[data-path="rocket.jpg"] .open')
    page.click("#picture-like")
    status(page, "like rocket.jpg")
    page.go_back()
    status(page, "“rocket”")
    page.locator("#more").scroll_into_view_if_needed()
    tiles(page, TOTAL)


def test_size_of_the_pictures(page):
    tile = page.locator("#grid li").first
    before = tile.bounding_box()["width"]
    page.fill("#size", "5")
    assert tile.bounding_box()["width"] > before
    expect(tile.locator("img")).to_have_attribute("src", re.compile("size=640"))
    page.reload()
    tiles(page, 60)
    assert tile.bounding_box()["width"] > before


# ---- for everyone

SHEETS = ("#about-open", "#help-open", "#labels-open", "#grid .open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing(browser, live, width, scheme):
    """The page, a search with something selected, and every sheet."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python"
    ).Axe()

    def violations(page) -> list[str]:
        found = axe.run(page).response["violations"]
        return [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]]

    with opened_page(browser, live, 60, width, scheme) as page:
        page.emulate_media(reduced_motion="reduce", color_scheme=scheme)
        filters(page)
        assert violations(page) == []
        page.fill("#words", "a cat")
        status(page, "“a cat”")
        page.locator("#grid li").first.hover()
        page.locator("#grid .select").first.click()
        assert violations(page) == []
        for opener in SHEETS:
            page.locator(opener).first.click()
            page.wait_for_load_state("networkidle")
            assert violations(page) == []
            page.keyboard.press("Escape")
