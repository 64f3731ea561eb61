"""Indexes and tags in children that are killed at work; a script, for a clean `fork`.

Usage: killed_indexing.py IMAGES FOLDER [KILLS SEED]. Leaves FOLDER/ix, indexed and tagged; killed at set
points, or KILLS times at random moments. Prints how many lines the journal then has.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

torch.set_num_threads(1)  # no threads of OpenMP before the fork

from headword.search import build_index, embedding  # noqa: E402
from headword.search.tagging import tag_index  # noqa: E402
from support.indexing import tiny_model  # noqa: E402

embedding.BLOCK_FILES = 4 if len(sys.argv) < 4 else 64
MODEL = tiny_model()
IMAGES, INDEX = Path(sys.argv[1]), Path(sys.argv[2]) / "ix"


def index() -> None:
    build_index(MODEL, IMAGES, INDEX, workers=1)


def tag() -> None:
    tag_index(INDEX, MODEL, MODEL.classifier(["ant", "bee"]))


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


def kill_at_random(kills: int, seed: int) -> None:
    """While it starts, embeds, or finishes; a run that ended meanwhile counts for a kill too."""
    moments, seconds = random.Random(seed), 0.0
    for _ in range(kills):
        begin, child, before = time.perf_counter(), start(index), lines()
        # A run of its own length, or, for half of them, until there is more in the journal.
        wait = moments.uniform(0, 0.3)
        grown = moments.random() < 0.5
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            seconds = time.perf_counter() - begin
            if seconds > wait and (not grown or lines() > before or seconds > 10):
                break
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(lines(), flush=True)


gc.freeze()
if len(sys.argv) > 3:
    kill_at_random(int(sys.argv[3]), int(sys.argv[4]))
    finish(index)
    finish(tag)
    sys.exit()
for goal in (4, 20):
    kill_when(index, lambda goal=goal: lines() > goal)
finish(index)
kill_when(tag, lambda: (INDEX / "images-000002.sqlite").exists())
finish(tag)
