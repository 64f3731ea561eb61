"""The one kind of error a user causes. The command line prints it as one line and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HeadwordError(Exception):
    """The user's mistake, in one line: what is wrong, where, and how to mend it."""


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
