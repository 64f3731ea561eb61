"""What many tests share: the embedded model, recycled once, and real pictures."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# Set before any model library is imported: nothing is downloaded, and each of the two test processes keeps
# to one core, since two that spin on the same cores take many times as long.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
# Child processes find what tests share.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
# Tests neither profit from nor add to what the user's own runs have cached.
# The processes of one run share what they cache; a folder in HEADWORD_TEST_CACHE keeps it for the next run.
_CACHE = None
if kept := os.environ.get("HEADWORD_TEST_CACHE"):
    os.environ["HEADWORD_CACHE"] = kept
elif "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="headword-tests-")
    os.environ["HEADWORD_CACHE"] = _CACHE.name


def pytest_unconfigure() -> None:
    """Remove the tests' cache."""
    if _CACHE is not None:
        _CACHE.cleanup()


@pytest.fixture(scope="session")
def headword_data() -> Path:
    """`$HEADWORD_DATA`, real images and classifiers."""
    root = os.environ.get("HEADWORD_DATA")
    if not root or not (Path(root) / "data").is_dir():
        pytest.skip("HEADWORD_DATA does not name a folder with data/ and weights/")
    return Path(root)


@pytest.fixture(scope="session")
def pictures() -> dict[str, Path]:
    """The gallery's pictures by name."""
    from headword.data.gallery import gallery

    return {picture.name: picture.path for picture in gallery()}


@pytest.fixture(scope="session")
def embedded():
    """The embedded default, recycled once. Tests that change a model take `model` instead."""
    import headword

    return headword.recycle()


@pytest.fixture(scope="session")
def plain():
    """The embedded classifier recycled by its classes' names alone: a fifth of the pairs, fitted at once."""
    import headword

    return headword.recycle(words="plain")


@pytest.fixture(scope="session")
def saved_plain(plain, tmp_path_factory) -> Path:
    """`plain`, saved; not to be changed."""
    return plain.save(tmp_path_factory.mktemp("saved-plain") / "model")


@pytest.fixture
def model(embedded):
    """The embedded default, a copy to change."""
    import copy

    fresh = copy.copy(embedded)
    fresh.aligner = copy.deepcopy(embedded.aligner)
    return fresh


@pytest.fixture(scope="session")
def saved(embedded, tmp_path_factory) -> Path:
    """The embedded default, saved; not to be changed."""
    return embedded.save(tmp_path_factory.mktemp("saved") / "model")
