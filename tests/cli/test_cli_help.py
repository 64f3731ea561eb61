"""What is typed and what is said: help, words, labels, errors of the machine. In process, no model."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from headword.cli.app import ORDER, app, out_of_memory
from headword.cli.common import Output, quoted, read_labels
from headword.encoders.prompts import tidy_labels
from headword.errors import HeadwordError
from headword.results import result_json


def help_of(*command: str) -> str:
    result = CliRunner().invoke(app, [*command, "-h"], terminal_width=80, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_commands_come_in_the_order_of_the_work() -> None:
    listed = re.findall(r"^  (\w+)  ", help_of().split("Commands:")[1], re.MULTILINE)
    assert tuple(listed) == ORDER


@pytest.mark.parametrize("command", [(), *((name,) for name in ORDER), ("cache", "info"), ("cache", "clear")])
def test_help_is_whole(command: tuple[str, ...]) -> None:
    """Within 80 columns, nothing cut, no flag or word broken, two examples that are parsed."""
    shown = help_of(*command)
    assert max(map(len, shown.splitlines())) <= 80
    assert "..." not in re.sub(r"\[ARGS\]\.\.\.|\}\.\.\.|\]\.\.\.|\w\.\.\. ", "", shown.split("Commands:")[0])
    assert not re.search(r"\w(\.\.\.|-)$", shown, re.MULTILINE), shown
    assert "--no-none" not in shown
    if command:
        examples = shown.split("Examples:\n")[1].split("\n")
        examples = [line.strip() for line in examples if line.strip()]
        assert len(examples) == 2
        for example in examples:
            assert example.startswith(f"headword {' '.join(command)}")
            for flag in re.findall(r"(?<= )--?[a-z][a-z-]*", example):
                assert flag in shown or " ".join(command) == "cache", example


def test_how_many_is_k_everywhere() -> None:
    for command in ("classify", "explain", "search", "evaluate"):
        shown = help_of(command)
        assert re.search(r"^  -k ", shown, re.MULTILINE)
        assert "--top" not in shown


def test_centring_has_one_meaning() -> None:
    for command in ("classify", "evaluate"):
        words = " ".join(help_of(command).split())
        assert "FOLDER of images; collection, the images at hand themselves; online, each on those" in words
        assert "none, the model's own centre" in words
    assert "collection, the images at hand themselves; none, the model's own centre" in " ".join(
        help_of("index").split()
    )


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("--foo", "no such option --foo; see headword -h"),
        ("serch x", "no such command 'serch'; did you mean 'search'"),
        ("cache inf", "no such command 'inf'; did you mean 'info'?"),
        ("search", "missing argument 'index'; see headword search -h"),
        ("search ix --not", "option '--not' requires an argument"),
        ("search ix --whre x", "no such option --whre; did you mean '--where'?"),
        ("classify m x --device gpu", "invalid value for '--device': 'gpu' is not one of 'auto', 'cpu', "),
        ("app ix --port x", "invalid value for '--port': "),
        ("cache info x", "got unexpected extra argument(s) (x); see headword cache info -h"),
    ],
)  # fmt: skip
def test_a_mistake_in_what_is_typed_is_one_line(typed: str, line: str) -> None:
    result = CliRunner().invoke(app, typed.split())
    assert result.exit_code == 2
    assert result.stderr.startswith(f"headword: {line}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_options_are_grouped() -> None:
    own, common = help_of("search").split("Common options:\n")
    assert "--where" in own
    assert "--json" in common
    assert "--where" not in common


def test_a_shell_completes_commands() -> None:
    environment = {"_HEADWORD_COMPLETE": "complete_bash", "COMP_WORDS": "headword rec", "COMP_CWORD": "1"}
    code = "from headword.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["recycle"]


@pytest.mark.parametrize("typed", ["a cat,a dog", "a cat, a dog,", ",a cat,,a dog ,", "a cat ,a dog, "])
def test_labels_are_read_alike(typed: str, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text(typed.replace(",", ",\n"))
    assert read_labels(typed, None) == read_labels(None, words) == ["a cat", "a dog"]
    assert tidy_labels(typed.split(",")) == ["a cat", "a dog"]


@pytest.mark.parametrize("typed", ["", ",", " , "])
def test_no_labels(typed: str) -> None:
    with pytest.raises(HeadwordError, match="list of labels is empty"):
        read_labels(typed, None)


def test_results_come_first_in_the_json() -> None:
    assert list(result_json("search", results=[1], model={}))[:4] == [
        "schema",
        "headword",
        "command",
        "results",
    ]


def test_memory_that_runs_out_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.png").write_bytes(b"")

    def load(*_: object, **__: object) -> None:
        torch.empty(1 << 60)  # what a batch that is too large does

    monkeypatch.setattr("headword.model.load", load)
    line = ["classify", str(tmp_path), str(tmp_path / "photo.png"), "--labels", "a,b"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 1
    assert re.fullmatch(r"headword: the memory ran out; .*--batch-size.*\n", result.stderr)


def test_what_says_that_memory_ran_out() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(RuntimeError("std::bad_alloc"))
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_an_interrupt_that_says_nothing_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("headword.model.load", load)
    (tmp_path / "photo.png").write_bytes(b"")
    line = ["classify", str(tmp_path), str(tmp_path / "photo.png"), "--labels", "a,b"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 130
    assert result.stderr == "headword: interrupted: no result was written; run the same command again\n"


def test_a_long_path_is_never_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in a table's title nor in its last column, and no blanks fill up the lines."""
    monkeypatch.setenv("COLUMNS", "60")
    path = "/".join(["a folder with a name"] * 6) + "/photo.jpg"
    Output(False, None, "test").table(
        f"Found in {path}", ("", "cosine", "image"), [("1", "0.5", path)], whole="image"
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Found in {path}"
    assert lines[3].endswith(path)
    assert all(line == line.rstrip() for line in lines)


def test_classify_json_has_results_early(tmp_path: Path) -> None:
    text = json.dumps(result_json("classify", model={"x": 1}, results=[]))
    assert text.index('"results"') < text.index('"model"') < text.index('"environment"')


def test_what_cannot_be_read_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = {"b.jpg": "/home/me/in/b.jpg is not an image", "c.jpg": "permission denied", "d": "d: is empty"}
    Output(False, None, "test").unreadable(reasons)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  b.jpg: is not an image",
        "  c.jpg: permission denied",
        "  d: is empty",
    ]


@pytest.mark.parametrize("word", ["a b", "tag = 'food'", "it's", "'$HOME'", "'`id`'", "a\"b'c", "'\\", "'!'"])
def test_a_next_step_can_be_typed(word):
    assert shlex.split(quoted(word)) == [word]
    if "'" in word and not set('"$`\\!') & set(word):
        assert quoted(word) == f'"{word}"'
