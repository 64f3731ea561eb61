"""The one kind of error a user causes. The command line prints it as one line and exits with 2."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

_LONGEST = 2_000  # characters of a line; foreign files have names and fields of any length


class HeadwordError(Exception):
    """The user's mistake, in one line: what is wrong, where, and how to mend it.

    Names and fields out of foreign files are part of it, so it is made one line, of characters that do
    nothing to a terminal, and at most 2,000 of them.
    """

    def __init__(self, line: object = "") -> None:
        text = str(line)
        if len(text) > _LONGEST:
            text = f"{text[:1200]} … {text[-700:]}"
        super().__init__(text if text.isprintable() else "".join(map(_printable, text)))


def _printable(character: str) -> str:
    odd_byte = "\udc80" <= character <= "\udcff"  # of a file's name, as Python has it
    if unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"} or odd_byte:
        return character
    return " " if character.isspace() else f"\\x{ord(character):02x}"


class MissingExtraError(HeadwordError):
    """A part that is not installed is asked for.

    Args:
        what: what needs it, as the user would say it ("the embedded encoders").
        extra: the extra of headword's that holds it ("embedded").
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed; install it with: pip install 'headword[{extra}]'")
        self.extra = extra


def near(name: str, known: Iterable[str], n: int = 3) -> str:
    """A hint that names the nearest of the known names, or nothing: "; did you mean 'a' or 'b'?"."""
    matches = difflib.get_close_matches(name, list(known), n=n, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else ""
