"""Checks the built site: its links and, where there is a Chromium, its pages as people see them.

    python docs/check.py [SITE] [SCREENSHOTS]

Links within the site must lead somewhere. In Chromium, wide and narrow, light and dark: nothing on the
console, nothing fetched from elsewhere, nothing wider than the screen, and what axe-core finds (texts of
pictures, contrast, names of fields, order of headings).
"""

from __future__ import annotations

import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

SEEN = ((1280, "light"), (1280, "dark"), (360, "light"))
"""Widths and colours; axe-core looks at the wide ones."""
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
"""axe-core's rules of WCAG 2.1, levels A and AA."""


class Links(HTMLParser):
    """What a page leads to, and the places on it that can be led to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.to: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down an element's links and its place."""
        for name, value in attrs:
            if name in {"href", "src"} and value is not None:
                self.to.append(value)
            elif name in {"id", "name"} and value:
                self.places.add(value)


def broken_links(site: Path) -> Iterator[str]:
    """Links within the site that lead nowhere."""
    pages = {page: Links(page) for page in sorted(site.rglob("*.html"))}
    for page, links in pages.items():
        for link in links.to:
            target, place = urldefrag(link)
            if urlsplit(link).scheme or target.startswith("//"):
                continue
            file = (page.parent / unquote(target)).resolve() if target else page
            if page.name == "404.html":
                file = site / unquote(target).lstrip("/")
            if file.is_dir():
                file /= "index.html"
            if not file.is_file() or (place and file in pages and unquote(place) not in pages[file].places):
                yield f"{page.relative_to(site)}: no such place as {link}"


def chromium() -> str | None:
    """The browser there is."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def faults(site: Path, screenshots: Path | None) -> Iterator[str]:
    """What a browser finds wrong with the pages."""
    from playwright.sync_api import sync_playwright

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for width, scheme in SEEN:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said: list[str] = []
            listen(page, home, said)
            for file in sorted(site.rglob("*.html")):
                name = file.relative_to(site).as_posix()
                page.goto(home + name)
                for what in (*said, *too_wide(page, width), *(seen(page) if width > 1000 else ())):
                    yield f"{name} at {width}, {scheme}: {what}"
                said.clear()
                if screenshots is not None:
                    screenshots.mkdir(parents=True, exist_ok=True)
                    shot = screenshots / f"{name.replace('/', '-')}-{width}-{scheme}.png"
                    page.screenshot(path=shot, full_page=True)
            page.close()
        browser.close()
    server.shutdown()


def listen(page: Any, home: str, said: list[str]) -> None:
    """Take down what the console says, and what is fetched from elsewhere."""
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda line: said.append(line.text) if line.type in {"error", "warning"} else None)
    page.on("request", lambda r: None if r.url.startswith((home, "blob:", "data:")) else said.append(r.url))


def too_wide(page: Any, width: int) -> list[str]:
    """Whether it has to be scrolled sideways."""
    wide = page.evaluate("document.documentElement.scrollWidth")
    return [f"{wide} pixels wide"] if wide > width else []


def seen(page: Any) -> list[str]:
    """What axe-core finds on a page that is open."""
    from axe_playwright_python.sync_playwright import Axe

    wrong = []
    for rule in (
        Axe().run(page, options={"resultTypes": ["violations"], "runOnly": WCAG}).response["violations"]
    ):
        nodes = [" ".join(map(str, node["target"])) for node in rule["nodes"]]
        wrong.append(f"{rule['id']}: {rule['help']}: {', '.join(nodes[:3])} ({len(nodes)})")
    return wrong


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the site without a line a request."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    """Print what is wrong, and fail where something is."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "build/site").resolve()
    wrong = broken_links(site)
    if chromium():
        wrong = chain(wrong, faults(site, Path(sys.argv[2]) if len(sys.argv) > 2 else None))
    else:
        print("no Chromium: only links are checked")
    failed = False
    for line in wrong:
        failed = True
        print(line, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
