"""Indexes and tags in children that are killed at work; a script, for a clean `fork`.

Usage: killed_indexing.py IMAGES FOLDER. Leaves FOLDER/ix, indexed and tagged.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

torch.set_num_threads(1)  # no threads of OpenMP before the fork

from headword.search import build_index, embedding  # noqa: E402
from headword.search.tagging import tag_index  # noqa: E402
from indexing import tiny_model  # noqa: E402

embedding.BLOCK_FILES = 4
MODEL = tiny_model()
IMAGES, INDEX = Path(sys.argv[1]), Path(sys.argv[2]) / "ix"


def index() -> None:
    build_index(MODEL, IMAGES, INDEX, workers=1)


def tag() -> None:
    tag_index(INDEX, MODEL, ["ant", "bee"])


def start(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child


def kill_when(work: Callable[[], None], sign: Callable[[], bool]) -> None:
    child = start(work)
    while not sign():
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it was killed"
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def finish(work: Callable[[], None]) -> None:
    assert os.waitpid(start(work), 0)[1] == 0


def lines() -> int:
    path = INDEX / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


gc.freeze()
for goal in (4, 20):
    kill_when(index, lambda goal=goal: lines() > goal)
finish(index)
kill_when(tag, lambda: (INDEX / "images-000002.arrow").exists())
finish(tag)
