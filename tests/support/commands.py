"""The command line, in-process."""

from __future__ import annotations

import importlib.metadata

from typer import Typer
from typer.testing import CliRunner

import headword
from headword.cli import app


def run(*arguments: object, code: int = 0) -> str:
    """Standard output of a command that must end with `code`; on an error its one line."""
    return run_app(app, *arguments, code=code)


def run_app(app: Typer, *arguments: object, code: int = 0) -> str:
    """As `run`, of another command line."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + result.stderr + repr(result.exception)
    if code:
        assert result.stderr.count("\n") == 1, result.stderr
        return result.stderr
    return result.stdout


def check_result(result: dict, command: str) -> None:
    """What every result JSON has (schema 1)."""
    assert result["schema"] == 1
    assert result["command"] == command
    assert result["headword"] == headword.__version__
    assert {"model", "protocol", "metrics", "seed", "environment"} <= set(result)
    assert result["environment"]["torch"] == importlib.metadata.version("torch")
