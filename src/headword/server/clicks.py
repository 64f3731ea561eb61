"""What was clicked, kept in the index: a line of JSON for each click, on the disk before it is answered.

The lines in their order are all there is; of a line that was cut off (a kill, a full disk) nothing is taken.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from headword.errors import HeadwordError
from headword.files import open_file
from headword.scoring.calibration import NONE_OF_THESE
from headword.server.schemas import Closed, InIndex, Label, Labelling

NAME = "clicks.jsonl"
MAX_BYTES = 64_000_000
"""Of the file: some 600,000 clicks."""

_LOG = logging.getLogger(__name__)


class Click(Closed):
    """What was said of one picture."""

    path: InIndex
    label: Label
    wrong: bool = False
    """The picture has the label not; which it has is not said."""


class Undo(Closed):
    """The last click is taken back."""

    undo: Literal[True]


class EarlierLabels(Closed):
    """The last list of labels is taken back, and with it what was clicked since."""

    earlier_labels: Literal[True]


Line = Labelling | Click | Undo | EarlierLabels
_LINE: TypeAdapter[Line] = TypeAdapter(Line)


class Clicks:
    """The labels that are taught, and the clicks that count.

    Args:
        file: where they are kept; need not be there.

    Raises:
        HeadwordError: if the file is too large to be read.
    """

    def __init__(self, file: Path) -> None:
        self.labelling: Labelling | None = None
        self.clicks: list[Click] = []
        self._earlier: list[tuple[Labelling | None, list[Click]]] = []  # before each list of labels
        self._file = file
        if not file.is_file():
            return
        with open_file(file) as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise HeadwordError(f"{file} has more than {MAX_BYTES:,} bytes; move it away to begin anew")
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                self._take(_LINE.validate_json(line))
            except ValidationError:
                _LOG.warning("headword: %s line %d is damaged and does not count", file, number)

    @property
    def labels(self) -> list[str]:
        """What a click may say."""
        if self.labelling is None:
            return []
        return self.labelling.labels + [NONE_OF_THESE] * self.labelling.none_of_these

    def add(self, *lines: Line) -> None:
        """Keep lines: when this returns, they are on the disk.

        Raises:
            HeadwordError: if they cannot be written; then none of them counts.
        """
        text = "".join(f"{line.model_dump_json()}\n" for line in lines)
        try:
            new = not self._file.exists()
            with self._file.open("a+b", buffering=0) as file:
                file.seek(0, os.SEEK_END)
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # after a line that was cut off
                        text = "\n" + text
                file.write(text.encode())
                os.fsync(file.fileno())
            if new:
                _sync_folder(self._file.parent)
        except OSError as error:
            raise HeadwordError(
                f"cannot write {self._file}: {error.strerror}; the click is not kept"
            ) from error
        for line in lines:
            self._take(line)

    def _take(self, line: Line) -> None:
        if isinstance(line, Click):
            if line.label in self.labels:
                self.clicks.append(line)
        elif isinstance(line, Undo):
            del self.clicks[-1:]
        elif isinstance(line, EarlierLabels):
            if self._earlier:
                self.labelling, self.clicks = self._earlier.pop()
        else:
            self._earlier.append((self.labelling, list(self.clicks)))
            self.labelling = line
            self.clicks = [click for click in self.clicks if click.label in self.labels]


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows opens no folders
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
