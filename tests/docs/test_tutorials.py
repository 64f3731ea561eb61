"""Every tutorial runs from its first line to its last, commands and Python alike, in one folder."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headword.cli import app
from headword.data.gallery import gallery
from headword.search import Index
from support.serving import served

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?^```(python|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHORTER = {"--steps 750": "--steps 2 --batch-size 8"}
"""What would take minutes, and what is run for it."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what tutorials take for granted: `pictures/`, class folders, and `holiday/`."""
    monkeypatch.chdir(tmp_path)
    Path("holiday").mkdir()
    for picture in gallery():
        kind = Path("pictures", picture.name)
        kind.mkdir(parents=True)
        for place in (kind, Path("holiday")):
            shutil.copy(picture.path, place / f"{picture.name}{picture.path.suffix}")
    return tmp_path


@pytest.mark.parametrize("page", sorted(TUTORIALS.glob("*.md")), ids=lambda page: page.stem)
def test_tutorial(page: Path, folder: Path) -> None:
    names: dict[str, Any] = {}
    for file, language, text in BLOCK.findall(page.read_text("utf-8")):
        if file:
            Path(file).write_text(text, "utf-8")
        elif language == "python":
            exec(compile(text, str(page), "exec"), names)
        else:
            for line in text.splitlines():
                run(line)
    if "right" in names:
        assert names["right"] > 0.8, "digits by words"
    if page.stem == "teach-and-export":
        assert names["label"] == "a cat"


def run(line: str) -> None:
    """Run a line of a shell in this process."""
    for long, short in SHORTER.items():
        line = line.replace(long, short)
    program, *arguments = shlex.split(line, comments=True)
    if program == "python":
        runpy.run_path(arguments[0], run_name="__main__")
    elif arguments[0] == "app":
        click(arguments[1])
    else:
        assert program == "headword"
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, f"{line}\n{result.output}"


def click(index: str) -> None:
    """What a reader does on the page of `headword app`."""
    right = {
        "cat.png": "a cat",
        "flower.jpg": "a flower",
        "rocket.jpg": "a rocket",
        "coins.png": "something else",
    }
    answers = [{"path": path, "label": label} for path, label in right.items()]
    with served(Index.open(index)) as live:
        for route, body in (
            ("/tag", {"labels": list(right.values())}),
            ("/lesson", {"labels": list(right.values())}),
            ("/lesson/answers", {"answers": answers}),
            ("/lesson/classifier", {}),
        ):
            assert live.post(route, body).status == 200, route
