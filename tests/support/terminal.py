"""Commands on a terminal, as a person meets them: what is on the screen, and keys that are pressed."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path

import pyte

CTRL_C = b"\x03"
_COUNT = re.compile(r"(\w+) .*?([\d,]+)/([\d,]+)")


@dataclass
class Shown:
    """What a command left on the screen."""

    code: int
    lines: list[str]
    """Those that are not empty."""
    counts: list[tuple[str, int, int]] = field(default_factory=list)
    """What progress bars said, in order: of what, how many, of how many."""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


class Terminal:
    """A process that runs commands on terminals; see terminal_host.py."""

    def __init__(self, control: socket.socket, folder: Path) -> None:
        self._control, self._folder = control, folder

    def run(
        self,
        *arguments: object,
        columns: int = 80,
        press: tuple[bytes, Callable[[str], object]] | None = None,
        again: int = 0,
        pause: float = 0.0,
        stdout: Path | str | None = None,
        constants: dict[str, float] | None = None,
    ) -> Shown:
        """Run a command to its end.

        Args:
            arguments: of headword.
            columns: of the terminal.
            press: keys, and by which text that appears they are pressed.
            again: how often they are pressed once more right after.
            pause: seconds that a progress bar stops at each step.
            stdout: a file in place of the terminal, or "|" for a pipe whose reader is gone.
            constants: other values for constants, by MODULE.NAME.
        """
        said = {
            "arguments": [str(argument) for argument in arguments],
            "columns": columns,
            "folder": str(self._folder),
            "pause": pause,
            "stdout": None if stdout is None else str(stdout),
            "constants": constants or {},
        }
        self._control.sendall(dumps(said).encode() + b"\n")
        _, (terminal, *_), _, _ = socket.recv_fds(self._control, 64, 1)
        # Twice as wide as the command believes, so that a line that is too long shows.
        screen = pyte.Screen(2 * columns, 100)
        stream = pyte.ByteStream(screen)
        counts: list[tuple[str, int, int]] = []
        deadline = time.monotonic() + 120
        try:
            while time.monotonic() < deadline:
                ready, _, _ = select.select([terminal], [], [], 1)
                if not ready:
                    continue
                try:
                    read = os.read(terminal, 65536)
                except OSError:  # nobody holds the other side any more
                    break
                if not read:
                    break
                stream.feed(read)
                changed = "\n".join(_line(screen, row) for row in sorted(screen.dirty))
                screen.dirty.clear()
                for what, done, count in _COUNT.findall(changed):
                    entry = (what, int(done.replace(",", "")), int(count.replace(",", "")))
                    if counts[-1:] != [entry]:
                        counts.append(entry)
                if press is not None and press[1](changed):
                    for _ in range(1 + again):
                        os.write(terminal, press[0])
                        time.sleep(0.05)
                    press = None
            else:
                raise AssertionError(f"it does not end: {screen.display}")
        finally:
            os.close(terminal)
        self._control.sendall(b"\n")
        code = int(self._control.recv(64))
        lines = [_line(screen, row) for row in range(screen.lines)]
        return Shown(code, [line for line in lines if line], counts)


def _line(screen: pyte.Screen, row: int) -> str:
    """A line of the screen; `Screen.display` makes all of them, at a hundred times the cost."""
    cells = screen.buffer[row]
    return "".join(
        cells[place].data if place in cells else " " for place in range(max(cells, default=-1) + 1)
    ).rstrip()


@contextmanager
def open_terminal(folder: Path) -> Iterator[Terminal]:
    """A terminal whose commands run in a folder."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        host = Path(__file__).with_name("terminal_host.py")
        process = subprocess.Popen(
            [sys.executable, host, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        try:
            yield Terminal(ours, folder)
        finally:
            ours.close()
            process.wait(30)
