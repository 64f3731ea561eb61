"""What is installed is the package alone: experiments stay in the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_wheel_does_not_hold_the_experiments():
    wheel = pytest.importorskip("hatchling.builders.wheel")
    files = [file.distribution_path for file in wheel.WheelBuilder(str(ROOT)).recurse_included_files()]
    assert "headword/__init__.py" in files
    assert {file.split("/")[0] for file in files} == {"headword"}


def test_the_package_does_not_know_the_experiments():
    for file in (ROOT / "src").rglob("*.py"):
        lines = file.read_text().splitlines()
        assert not [line for line in lines if line.strip().startswith(("import exp", "from exp"))], file
