"""What the commands share: tables, progress, the result JSON, and what is read of their arguments."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from headword.errors import HeadwordError

if TYPE_CHECKING:
    from headword.classifier.folder import SavedClassifier
    from headword.cli.bars import Bars
    from headword.data.folders import ImageList
    from headword.extract import Progress

_NAMED = 5  # unreadable files that are named for people


class Output:
    """Where a command's result goes: tables unless `--quiet` or `--json -`, and JSON by `--json`."""

    def __init__(self, quiet: bool, json_to: str | None, command: str) -> None:
        self.command = command
        self.json_to = json_to
        self.quiet = quiet or json_to == "-"
        self._bars: Bars | None = None
        if json_to not in (None, "-") and Path(json_to).is_dir():
            raise HeadwordError(f"--json {json_to} is a folder; give a file's name, or - for standard output")

    def say(self, text: str = "") -> None:
        """Print a line for people; one wider than their terminal is broken between words."""
        if self.quiet:
            return
        text = printable(text)
        width = shutil.get_terminal_size().columns
        if sys.stdout.isatty() and len(text) > width:
            text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
        typer.echo(text)

    def next_step(self, text: str) -> None:
        """Print what to do next, the last line of a command, in one piece so that it can be copied."""
        if not self.quiet:
            typer.echo(printable(f"Next: {text}"))

    def note(self, text: str) -> None:
        """Say on stderr what is being done, unless `--quiet`."""
        if not self.quiet:
            typer.echo(printable(text), err=True)

    def table(
        self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, whole: str | None = None
    ) -> None:
        """Print a table for people; without columns, one of names and values.

        The title is never broken, nor are the cells (paths, say) of the column `whole`, best the last one.
        """
        if self.quiet:
            return
        from rich import box
        from rich.console import Console
        from rich.measure import Measurement
        from rich.table import Table
        from rich.text import Text

        # Plain `Text`, since names of files and labels may look like markup.
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        table.show_header = bool(columns)
        cells = [[Text(printable(cell)) for cell in row] for row in rows]
        for n, column in enumerate(columns):
            least = max((row[n].cell_len for row in cells), default=0) if column == whole else None
            table.add_column(Text(printable(column)), min_width=least)
        console = Console()
        if not columns and cells:
            # A long path keeps its end: names go over lines before the words of values do.
            name, value = (
                max(len(word) for row in cells for word in ("", *row[n].plain.split())) for n in (0, 1)
            )
            room = console.width - value - 3
            names = max(row[0].cell_len for row in cells)
            table.add_column(max_width=max(name, min(names, room)))
            table.add_column(min_width=value)
        for row in cells:
            table.add_row(*row)
        console.print(Text(printable(title), style="bold"), soft_wrap=True)
        needed = Measurement.get(console, console.options.update(max_width=_WIDEST), table).minimum
        console.width = max(console.width, needed)
        with console.capture() as capture:
            console.print(table)
        # Without the blanks that fill up cells: they would wrap where a row is wider than the terminal.
        typer.echo(re.sub(r" +((?:\x1b\[[0-9;]*m)*)$", r"\1", capture.get(), flags=re.MULTILINE))

    def facts(self, title: str, facts: Iterable[tuple[str, str]]) -> None:
        """Print names and values for people."""
        self.table(title, (), facts)

    def unreadable(self, reasons: Mapping[str, str]) -> None:
        """Name what could not be read and was left out: how many, and of the first few why."""
        if not reasons:
            return
        self.say(f"Left out, since they cannot be read: {len(reasons):,}")
        for path, why in list(reasons.items())[:_NAMED]:
            before, _, rest = why.partition(path)  # the reason may name it, by its whole path
            self.say(f"  {path}: {rest.lstrip(': ') or before.rstrip()}")
        if len(reasons) > _NAMED:
            self.say(f"  … and {len(reasons) - _NAMED:,} more; all are in the JSON (--json)")

    def result(self, **parts: Any) -> None:
        """Write the command's result JSON (schema 1) where `--json` says."""
        if self.json_to is None:
            return
        from headword.results import result_json

        text = json.dumps(result_json(self.command, **parts), indent=2, ensure_ascii=False, allow_nan=False)
        text = printable(text) + "\n"
        if self.json_to == "-":
            sys.stdout.write(text)
        else:
            from headword.files import write_text_atomic

            write_text_atomic(self.json_to, text)

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress | None]:
        """A progress bar on stderr where a person is watching: what to call with (done, all), or None.

        `what` is counted: "images", "texts". Several may be open at once, or one after another.
        """
        if self.quiet or not sys.stderr.isatty():
            yield None
            return
        from headword.cli.bars import Bars

        self._bars = self._bars or Bars()
        with self._bars.open(what) as progress:
            yield progress


_WIDEST = 10_000  # columns; what a table is measured in that may be wider than the terminal


def quoted(word: str | Path) -> str:
    """A path or another word as it is typed in a shell; in double quotes where it holds a '."""
    text = str(word)
    return f'"{text}"' if "'" in text and not set('"$`\\!') & set(text) else shlex.quote(text)


def flags(**given: str | Path | None) -> str:
    """Options that the next command needs as this one did, as they are typed; with a space before each."""
    return "".join(f" --{name} {quoted(value)}" for name, value in given.items() if value is not None)


def printable(text: str) -> str:
    """Text with what is not UTF-8 (in names of files, say) replaced, so that it can be written anywhere."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def expand_images(arguments: Sequence[str]) -> ImageList:
    """Paths of images, folders and globs → the images they mean, and what was left out."""
    from headword.data.folders import ImageList
    from headword.extract.given import named_images

    images = ImageList()
    for argument in arguments:
        named = named_images(argument)
        images.notes += named.notes
        images += named
    return images


def taught_labels(
    classifier: Path | None, labels: str | None, labels_file: Path | None, *settled: object
) -> tuple[list[str], SavedClassifier | None]:
    """The labels of a `--classifier`, and what was read of it; or else of `--labels` or `--labels-file`.

    `settled` are options that go without a classifier alone.
    """
    if classifier is None:
        return read_labels(labels, labels_file), None
    if labels is not None or labels_file is not None or any(settled):
        raise HeadwordError(
            f"what labels there are and how they are judged is settled in {classifier}; leave out --labels "
            "and the options that go with them"
        )
    from headword.classifier.folder import read_classifier

    saved = read_classifier(classifier)
    return list(saved.parameters["labels"]), saved


def read_labels(labels: str | None, labels_file: Path | None) -> list[str]:
    """The words of `--labels`, parted by commas, or of `--labels-file`, a line each; none that is empty."""
    if (labels is None) == (labels_file is None):
        raise HeadwordError('give the words to choose from with --labels "a cat,a dog" or --labels-file FILE')
    from headword.encoders.prompts import check_labels, tidy_labels
    from headword.files import read_text

    words = read_text(labels_file).split("\n") if labels_file else (labels or "").split(",")
    return check_labels(tidy_labels(words))
