"""The house's own rules: the order of its rooms, no circles, small files, and names that are there once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "headword"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_the_order_of_the_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    """As pyproject.toml has it."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


def test_few_files_lie_loose() -> None:
    loose = {file.name for file in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert len(loose) <= 8, sorted(loose)


def test_no_file_is_too_long() -> None:
    long = {str(file.relative_to(ROOT)): len(file.read_text("utf-8").splitlines()) for file in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_no_test_imports_another() -> None:
    for file in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            assert not [m for m in modules if "test_" in m or m.split(".")[0] in {"tests", "conftest"}], file
