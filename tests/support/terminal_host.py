"""Runs commands of headword on pseudo-terminals of their own; a script, for a clean `fork`.

Usage: terminal_host.py SOCKET_FD. Gets a JSON line a command, sends back the terminal and the process's id,
and when it is told to go on, the exit code. The libraries that commands import are imported here, once.
"""

from __future__ import annotations

import array
import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
import termios
import time
from typing import Any

import torch

torch.set_num_threads(1)  # no threads of OpenMP before the fork

# What commands import.
import pyarrow.parquet  # noqa: E402, F401
import timm  # noqa: E402, F401

from headword.cli import bars, main  # noqa: E402


def start(said: dict[str, Any]) -> tuple[int, int]:
    """The command on a new terminal; in the child this ends as the command does."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, said["columns"], 0, 0))
    pid = os.fork()
    if pid:
        os.close(theirs)
        return pid, ours
    os.setsid()
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(theirs, fd)
    if said["stdout"] == "|":  # a pipe whose reader is gone
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    elif said["stdout"]:
        os.dup2(os.open(said["stdout"], os.O_WRONLY | os.O_CREAT), 1)
    sys.stdin, sys.stdout, sys.stderr = (
        open(fd, mode, closefd=False)  # noqa: SIM115
        for fd, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    os.chdir(said["folder"])
    if said["pause"]:
        slow_down(said["pause"])
    for name, value in said["constants"].items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, value)
    sys.argv = ["headword", *said["arguments"]]
    main()
    raise AssertionError("a command ends with an exit code")


def slow_down(seconds: float) -> None:
    """Bars pause at every step, so that a person, or a test, may see them and press Ctrl-C."""
    once = bars.Bars.step

    def step(self: bars.Bars, *arguments: Any) -> None:
        once(self, *arguments)
        time.sleep(seconds)

    bars.Bars.step = step  # type: ignore[method-assign]


def serve(control: socket.socket) -> None:
    """Commands until the other side is gone."""
    with control, control.makefile("r") as lines:
        for line in lines:
            pid, terminal = start(json.loads(line))
            control.sendmsg(
                [str(pid).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [terminal]))]
            )
            os.close(terminal)
            lines.readline()
            _, status = os.waitpid(pid, 0)
            control.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        os.environ.pop(name, None)
    os.environ["TERM"] = "xterm-256color"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    gc.freeze()  # a collection in a child would copy the parent's memory
    serve(socket.socket(fileno=int(sys.argv[1])))
