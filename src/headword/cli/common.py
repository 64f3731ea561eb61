"""What the commands share: options, progress, result JSON and tables."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headword.errors import HeadwordError

if TYPE_CHECKING:
    from headword.data.folders import ImageList
    from headword.extract import Progress


_NAMED = 5  # unreadable files that are named for people


class Device(str, Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Dtype(str, Enum):
    """Precision of the vision encoder."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Precision of the vision encoder.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print nothing but errors and asked-for JSON.")
]
JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE|-", help="Write the result as JSON to a file, or - for stdout."),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option("--template", help='A template with "{}" for the name; give several to average them.'),
]


class Output:
    """Where a command's result goes: a table for people unless `--quiet` or `--json -`, and JSON where
    asked.
    """

    def __init__(self, quiet: bool, json_to: str | None) -> None:
        self.json_to = json_to
        self.quiet = quiet or json_to == "-"
        if json_to not in (None, "-") and Path(json_to).is_dir():
            raise HeadwordError(f"--json {json_to} is a folder; give a file's name, or - for standard output")

    def say(self, text: str = "") -> None:
        """Print a line for people."""
        if not self.quiet:
            typer.echo(printable(text))

    def note(self, text: str) -> None:
        """Say on stderr what is being done, unless `--quiet`."""
        if not self.quiet:
            typer.echo(printable(text), err=True)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table for people; without columns, one of names and values."""
        if self.quiet:
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        # Plain `Text`, since names of files and labels may look like markup.
        table = Table(
            *columns,
            title=Text(printable(title)),
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        table.show_header = bool(columns)
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        Console().print(table)

    def facts(self, title: str, facts: Iterable[tuple[str, str]]) -> None:
        """Print names and values for people."""
        self.table(title, (), facts)

    def unreadable(self, reasons: Mapping[str, str]) -> None:
        """Name what could not be read and was left out: how many, and of the first few why."""
        if not reasons:
            return
        self.say(f"Left out, since they cannot be read: {len(reasons):,}")
        for path, why in list(reasons.items())[:_NAMED]:
            self.say(f"  {path}: {why.removeprefix(path).lstrip(': ')}")
        if len(reasons) > _NAMED:
            self.say(f"  … and {len(reasons) - _NAMED:,} more; all are in the JSON (--json)")

    def result(self, command: str, **parts: Any) -> None:
        """Write the result JSON (schema 1) where `--json` says."""
        if self.json_to is None:
            return
        from headword.results import result_json

        text = json.dumps(result_json(command, **parts), indent=2, ensure_ascii=False, allow_nan=False)
        text = printable(text) + "\n"
        if self.json_to == "-":
            sys.stdout.write(text)
        else:
            from headword.files import write_text_atomic

            write_text_atomic(self.json_to, text)

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress | None]:
        """A progress bar on stderr, with images a second and the time left, where a person is watching."""
        if self.quiet or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.speed:.0f}/s"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def printable(text: str) -> str:
    """Text with what is not UTF-8 (in names of files, say) replaced, so that it can be written anywhere."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def expand_images(arguments: Sequence[str]) -> ImageList:
    """Paths of images, folders and globs → the images they mean, and what was left out.

    Raises:
        HeadwordError: if a folder has no images or a glob matches none.
    """
    from headword.data.folders import ImageList, list_images

    images = ImageList()
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir() or (not path.exists() and glob.has_magic(argument)):
            listed = list_images(argument)
            images.notes += listed.notes
            images += listed
        else:
            images.append(path)
    return images
