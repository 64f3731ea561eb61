"""Runs `extract_features` in children that are killed at random moments; a script, for a clean `fork`.

Usage: killed_runs.py IMAGES STORE KILLS SEED. Prints as JSON how many rows there were after each kill.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

torch.set_num_threads(1)  # no threads of OpenMP before the fork

from headword.data.folders import image_suffixes  # noqa: E402
from headword.extract import extract_features  # noqa: E402
from headword.extract import store as store_module  # noqa: E402
from headword.extract.pixels import plan_of  # noqa: E402
from support.extraction import tiny_vision  # noqa: E402

store_module.PART_SECONDS = 0.01


def start(images: str, store: str) -> int:
    child = os.fork()
    if child == 0:
        extract_features(VISION, images, store, engine="torch", dtype="float32", batch_size=4, workers=2)
        os._exit(0)
    return child


VISION = tiny_vision()
# What a run imports and computes once is there before the fork: kills shall meet runs at work.
with (
    tempfile.TemporaryDirectory() as folder,
    store_module.StoreWriter(folder, {"dim": 1, "dtype": "float32"}) as store,
):
    store.add(["x"], ["x"], ["ok"], torch.ones(1, 1))
plan_of(VISION.source)
image_suffixes()
gc.freeze()  # a collection in a child would copy the parent's memory
VISION.fingerprint  # noqa: B018


def parts(store: Path) -> int:
    return len(list(store.glob("part-*.parquet")))


def main() -> None:
    images, store, kills, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    begin = time.perf_counter()
    os.waitpid(start(images, str(store) + "-unbroken"), 0)
    seconds = time.perf_counter() - begin
    moments = random.Random(seed)
    rows = []
    for kill in range(kills):
        before = parts(store)
        child = start(images, str(store))
        if kill % 5:  # every fifth while it starts, the others at work, wherever in a part or between two
            while parts(store) == before and not os.waitid(
                os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
            ):
                time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.12) * seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rows.append(sum(1 for _ in store_module.read_status(store)))
    _, status = os.waitpid(start(images, str(store)), 0)
    print(json.dumps({"seconds": seconds, "rows": rows, "status": status}))


if __name__ == "__main__":
    main()
