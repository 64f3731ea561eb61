"""What the tests of search share."""

from __future__ import annotations

from pathlib import Path

import pytest

from headword import DualEncoder
from headword.extract.job import Job
from support.indexing import tiny_model


@pytest.fixture(scope="module")
def tiny() -> DualEncoder:
    return tiny_model()


@pytest.fixture
def embedded_files(monkeypatch) -> list[str]:
    """Names of the files that are embedded from now on."""
    names: list[str] = []
    run = Job.run

    def spy(self, items, places):
        names.extend(Path(items[place].path).name for place in places)
        return run(self, items, places)

    monkeypatch.setattr(Job, "run", spy)
    return names
