"""The `headword` command: its groups, and how errors become lines and exit codes."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any, NoReturn

import typer
from typer import Option
from typer.core import TyperCommand, TyperGroup

from headword import __version__
from headword.cli import options
from headword.cli.common import Output
from headword.errors import HeadwordError, near

OUR_ERROR, USER_ERROR, INTERRUPTED = 1, 2, 130
LESS_MEMORY = "a smaller --batch-size, fewer --workers, fewer or smaller pictures at once need less"
NOTHING_KEPT = "no result was written; run the same command again"

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # click's, wherever typer keeps it

ORDER = (
    "recycle", "inspect", "classify", "explain", "locate", "embed", "index", "search", "tag", "teach",
    "duplicates", "app", "evaluate", "export", "push", "train", "demo", "cache",
)  # fmt: skip
"""The commands in the order of the work."""


class _Formatter(typer.Context.formatter_class):  # type: ignore[misc,valid-type]
    """Help whose lines are not broken within `--a-flag` or a path."""

    HYPHEN = "\ue000"  # stands for a hyphen until the lines are broken

    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", self.HYPHEN))

    def write_dl(self, rows: Any, *args: Any, **options: Any) -> None:
        super().write_dl([(name, text.replace("-", self.HYPHEN)) for name, text in rows], *args, **options)

    def getvalue(self) -> str:
        return str(super().getvalue()).replace(self.HYPHEN, "-")


class _Context(typer.Context):
    formatter_class = _Formatter


class Command(TyperCommand):
    """A command whose help is whole, its options in the groups that their `rich_help_panel` names."""

    context_class = _Context

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then each group of options in the order of the command."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            usual = "Arguments" if param.param_type_name == "argument" else "Options"
            usual = options.COMMON if param.name == "help" else usual
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


@contextmanager
def _one_line() -> Iterator[None]:
    """An error becomes one line on stderr and an exit code.

    2 is the user's mistake, 1 is ours or the machine's, 130 is Ctrl-C. A layer that knows what an
    interrupted run leaves raises `KeyboardInterrupt` with that as its message.
    """
    try:
        yield
    except HeadwordError as error:
        _end(str(error), USER_ERROR)
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            raise
        _end(usage_line(error), USER_ERROR)
    except KeyboardInterrupt as error:
        _end(f"interrupted: {error if error.args else NOTHING_KEPT}", INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        _end(f"the memory ran out; {LESS_MEMORY}", OUR_ERROR)


def usage_line(error: Any) -> str:
    """What is wrong with a command line, in the words of the other mistakes."""
    line, ctx = str(error.format_message()), error.ctx
    if hasattr(error, "possibilities"):
        options = [name for param in ctx.command.get_params(ctx) for name in param.opts]
        line = f"no such option {error.option_name}{near(error.option_name, options, n=1)}"
    line = line.removesuffix(".").replace("Value error, ", "").replace(". Did you mean ", "; did you mean ")
    if "did you mean" not in line and ctx is not None:
        line += f"; see {ctx.command_path} -h"
    return line[:1].lower() + line[1:]


class CommandGroup(TyperGroup):
    """Commands in the order of the work; errors, those of the command line included, are one line each."""

    context_class = _Context

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Read the command line."""
        with _one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with _one_line():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        names = super().list_commands(ctx)
        return [name for name in ORDER if name in names] + [name for name in names if name not in ORDER]


def _end(line: str, code: int) -> NoReturn:
    typer.echo(f"headword: {' '.join(line.split())}", err=True)
    raise typer.Exit(code) from None


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch and OpenVINO say so in a `RuntimeError` of whatever kind."""
    signs = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "bad allocation")
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in signs)


app = typer.Typer(
    cls=CommandGroup,
    name="headword",
    help="Turn a trained classifier's head into words: label and search images with any text, without "
    "captions.",
    epilog="Each command has examples: headword COMMAND -h. The first two to try: headword demo, and "
    "headword recycle --out model",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would double the time --help takes
    context_settings={"help_option_names": ["-h", "--help"]},
)


QUIET = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=options.Quiet)
JSON = inspect.Parameter("json_to", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=options.Json)


def command(
    *examples: str, name: str | None = None, group: typer.Typer = app, json: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function as a command, with examples below its help.

    Its first parameter gets the command's `Output`; the options --quiet and --json, which decide on that, are
    added to its own.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        called = name or function.__name__
        whole = called if group is app else f"{group.info.name} {called}"

        @wraps(function)
        def run(quiet: bool, json_to: str | None = None, **arguments: Any) -> None:
            function(Output(quiet, json_to, whole), **arguments)

        parameters = [*list(inspect.signature(function, eval_str=True).parameters.values())[1:], QUIET]
        if json:
            parameters.append(JSON)
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return group.command(called, cls=Command, epilog=shown_examples(*examples))(run)

    return add


def shown_examples(*examples: str) -> str:
    """Lines for the end of a command's help, kept as they are."""
    return "\n".join(["\b", "Examples:", *(f"  headword {example}" for example in examples)])


def _show_version(flag: bool) -> None:
    if flag:
        typer.echo(f"headword {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # its remarks on damaged tags, several lines each
    app(prog_name="headword")


def _interrupt(*_: object) -> None:
    """The first Ctrl-C ends the work in order, a second one ends the process wherever it is."""
    signal.signal(signal.SIGINT, _interrupt_again)
    raise KeyboardInterrupt


def _interrupt_again(*_: object) -> None:
    if sys.stderr.isatty():
        os.write(2, b"\r\x1b[K\x1b[?25h")  # a progress bar hides the cursor
    os.write(2, b"headword: interrupted twice; the same command goes on from what is kept\n")
    os._exit(INTERRUPTED)
