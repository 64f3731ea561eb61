"""Where words are, on the page: a word under the mouse, one that stays, a frame; wide and narrow."""

from __future__ import annotations

import pytest

from support.browser import first, keep, opened_page

pytestmark = pytest.mark.browser


def expect(place):
    from playwright.sync_api import expect as expected

    expected.set_options(timeout=20_000)  # a map takes a second, and longer where others compute
    return expected(place)


@pytest.fixture(params=[(1280, "light"), (360, "dark")], ids=["wide", "narrow"])
def page(request, browser, live):
    width, scheme = request.param
    with opened_page(browser, live, 4, width, scheme) as opened:
        opened.fill("#words", "a cup of coffee")
        first(opened, "coffee.png")
        opened.locator('[data-path="coffee.png"]').hover()
        opened.click('[data-path="coffee.png"] .open')
        yield opened
        assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_a_word_under_the_mouse_shows_where_it_is(page):
    words = page.locator("#where-words button")
    expect(words).to_have_text(["a cup of coffee", "cup", "coffee"])
    assert not page.locator("#where-over").is_visible()
    words.nth(1).hover()
    expect(page.locator("#where-said")).to_have_text("“cup” is most in the frame.")
    large, over, frame = (
        page.locator(f"#{name}").bounding_box() for name in ("picture-large", "where-over", "where-region")
    )
    assert over["width"] <= large["width"] + 1
    assert over["height"] <= large["height"] + 1
    assert over["x"] - 3 <= frame["x"]
    assert frame["x"] + frame["width"] <= over["x"] + over["width"] + 3
    keep(page, f"where-{page.viewport_size['width']}")
    page.hover("#picture-name")
    expect(page.locator("#where-over")).to_be_hidden()


def test_a_word_stays_until_it_is_chosen_again(page):
    page.click("#where")
    chosen = page.locator('#where-words [aria-pressed="true"]')
    expect(chosen).to_have_text("a cup of coffee")
    page.hover("#picture-name")
    expect(page.locator("#where-over")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#where-said")).to_contain_text("a cup of coffee")
    expect(chosen).to_have_text("a cup of coffee")
    page.keyboard.press("w")
    expect(page.locator("#where")).to_have_attribute("aria-pressed", "false")
    page.hover("#picture-name")
    expect(page.locator("#where-over")).to_be_hidden()


def test_words_that_fit_nothing_have_no_frame(page):
    page.keyboard.press("Escape")
    page.fill("#words", "quarterly inflation")
    expect(page.locator("#status")).to_contain_text("quarterly inflation")
    page.locator('[data-path="cat.png"]').hover()
    page.click('[data-path="cat.png"] .open')
    page.click("#where")
    expect(page.locator("#where-said")).to_have_text("“quarterly inflation” is nowhere here.")
    expect(page.locator("#where-region")).to_be_hidden()
