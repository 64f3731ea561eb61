"""The page in a browser, and what is read off it. Screenshots go to $HEADWORD_ARTEFACTS, if that is set."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 20_000  # milliseconds; a busy machine takes its time


@contextmanager
def opened_page(browser, live, pictures: int, width: int = 1280, scheme: str = "light"):
    """The page, loaded and filled; anything it complains about fails the test."""
    context = browser.new_context(
        viewport={"width": width, "height": 860},
        color_scheme=scheme,
        permissions=["clipboard-read", "clipboard-write"],
    )
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    opened.on(
        "request", lambda r: None if r.url.startswith((live.address.url, "blob:")) else wrong.append(r.url)
    )
    opened.wrong = wrong
    opened.goto(live.address.url)
    tiles(opened, pictures)
    try:
        yield opened
    finally:
        context.close()
    assert wrong == [], wrong


def tiles(page, n: int) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#grid li")).to_have_count(n, timeout=PATIENCE)


def first(page, path: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#grid li").first).to_have_attribute("data-path", path, timeout=PATIENCE)


def status(page, text: str | re.Pattern[str]) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#status")).to_contain_text(text, timeout=PATIENCE)


def focused(page) -> str:
    return page.evaluate(
        "document.activeElement.id || document.activeElement.closest('li')?.dataset.path || ''"
    )


def keep(page, name: str) -> None:
    folder = os.environ.get("HEADWORD_ARTEFACTS")
    if folder:
        page.wait_for_load_state("networkidle")
        page.screenshot(path=str(Path(folder) / f"page-{name}.png"))
