"""Ctrl-C in a run: the first lets the step under way end and be kept, the second ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a terminal, a batch system and torchrun send."""

TOLD = b"\r\x1b[Kheadword: ending this step and keeping it; Ctrl-C again stops at once\n"


class Stop:
    """Whether a signal asked a run to stop."""

    asked: bool = False


@contextmanager
def stoppable(*, alone: bool) -> Iterator[Stop]:
    """Remember the first of `SIGNALS` in place of what it did before; in the main thread alone.

    Args:
        alone: the second does what it did before. Otherwise another process, torchrun, sends them, perhaps
            twice, and kills where nothing ends.
    """
    stop = Stop()
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def remember(*_: object) -> None:
        stop.asked = True
        if alone:
            restore()
            if sys.stderr is not None and sys.stderr.isatty():
                os.write(2, TOLD)  # print is not for signal handlers

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):  # nohup stays nohup
                before[number] = signal.signal(number, remember)
    try:
        yield stop
    finally:
        restore()
