"""The house's own rules: the order of its rooms, no circles, small files, and names that are there once."""

from __future__ import annotations

import ast
import importlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "headword"
SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """What each module imports, lazily too; not the package itself, whose names are imported when used."""
    graph = grimp.build_graph("headword", cache_dir=None)
    modules = graph.modules - {"headword"}
    return {module: graph.find_modules_directly_imported_by(module) & modules for module in modules}


def test_the_order_of_the_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    """As pyproject.toml has it."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


def test_no_circle_of_modules(imports: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def private_imports(file: Path) -> Iterator[str]:
    """The names with an underscore that a file of one room imports, or takes, from another's."""
    room = file.relative_to(PACKAGE).parts[0]
    rooms: dict[str, str] = {}  # of the modules that have a name in this file
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("headword."):
            _, other, *inner = str(node.module).split(".")
            for name in node.names:
                rooms[name.asname or name.name] = other
                if other != Path(room).stem and any(part.startswith("_") for part in (*inner, name.name)):
                    yield f"{file.relative_to(ROOT)}: {node.module}.{name.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            other = rooms.get(node.value.id, "")
            module = importlib.util.find_spec(f"headword.{other}.{node.value.id}") if other else None
            if module is not None and other != room and node.attr.startswith("_"):
                yield f"{file.relative_to(ROOT)}: {node.value.id}.{node.attr}"


def test_underscore_names_stay_in_their_room() -> None:
    assert [name for file in SOURCES for name in private_imports(file)] == []


def test_few_files_lie_loose() -> None:
    loose = {file.name for file in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert len(loose) <= 8, sorted(loose)


def test_no_file_is_too_long() -> None:
    long = {str(file.relative_to(ROOT)): len(file.read_text("utf-8").splitlines()) for file in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_a_file_name_is_there_once() -> None:
    """But in cli/, whose files have their commands' names."""
    files = [file for file in SOURCES if file.parent.name != "cli"]
    names = Counter(file.stem for file in files if file.stem not in {"__init__", "base"})
    assert [name for name, count in names.items() if count > 1] == []


def test_a_class_name_is_there_once() -> None:
    places = defaultdict(set)
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].add(str(file.relative_to(PACKAGE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_test_imports_another() -> None:
    for file in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            assert not [m for m in modules if "test_" in m or m.split(".")[0] in {"tests", "conftest"}], file
