"""An index of the gallery, and a server of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from headword.search import Index
from support.serving import Live, gallery_index, served


@pytest.fixture(scope="module")
def index(request, embedded, saved, pictures, tmp_path_factory) -> Index:
    """Of four pictures, or of those in the module's `PICTURES`."""
    names = getattr(request.module, "PICTURES", ("cat", "coffee", "rocket", "astronaut"))
    chosen: dict[str, Path] = {name: pictures[name] for name in names or pictures}
    return Index.open(gallery_index(saved, chosen, tmp_path_factory.mktemp("served")), model=embedded)


@pytest.fixture(scope="module")
def live(index: Index) -> Iterator[Live]:
    """A server of the index."""
    with served(index) as server:
        yield server


@pytest.fixture
def alive_afterwards(live: Live) -> Iterator[None]:
    """Whatever a test does to the server, it answers."""
    yield
    reply = live.post("/search", {"text": "a cat", "k": 1})
    assert reply.json["hits"][0]["path"] == "cat.png"


@pytest.fixture(scope="module")
def chromium():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    sandbox = [] if hasattr(os, "getuid") and os.getuid() else ["--no-sandbox"]  # root has none
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        yield running
        running.close()
