"""The `headword` command: its groups, and how errors become exit codes."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headword import __version__
from headword.errors import HeadwordError

USER_ERROR = 2


class _Commands(TyperGroup):
    """Turns the user's mistakes into one line on stderr and exit code 2; a bug of ours exits with 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HeadwordError as error:
            line = " ".join(str(error).split())
            typer.echo(f"headword: {line}", err=True)
            raise typer.Exit(USER_ERROR) from None
        except KeyboardInterrupt:
            typer.echo("headword: interrupted", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    name="headword",
    help="Turn a trained classifier's head into words: label and search images with any text, without "
    "captions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would double the time --help takes
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headword {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # its remarks on damaged tags, several lines each
    app(prog_name="headword")


# Each adds its commands to `app`.
from headword.cli import (  # noqa: E402, F401
    cache,
    classify,
    demo,
    embed,
    evaluate,
    explain,
    index,
    inspect,
    recycle,
    reproduce,
    search,
    serve,
    tag,
    train,
)
