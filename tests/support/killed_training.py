"""A training run in children that are killed as they write; a script, for a clean `fork`.

Usage: killed_training.py FOLDER KILLS SEED. Leaves FOLDER/unbroken and FOLDER/killed, the second killed KILLS
times: each time at some change of its checkpoints on disk, counted from the child's start. Prints those
changes as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)  # no threads of OpenMP before the fork

from headword.training.run import train  # noqa: E402
from headword.training.trainer import Evaluator  # noqa: E402
from support.training import tiny  # noqa: E402

CONFIG = tiny(checkpoint_every=1, eval_every=2, keep_last=2)
MEASURED = {"size": Evaluator(("norm",), lambda model: {"norm": -float(model.clip.logit_scale)})}
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}
"""What Python tells its audit hooks of, besides files that are opened for writing."""


def killed_at(change: int, run: Path, told: int) -> None:
    """Be killed just before so many changes in the run's folder were made, with a file half-written."""
    left = change

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if not (writes or event in CHANGES) or str(run) not in (path := str(arguments[0])):
            return
        left -= 1
        if left:
            return
        if event == "os.chmod" and ".tmp" in path and Path(path).is_file():
            os.truncate(path, Path(path).stat().st_size // 2)
        os.write(told, f"{event} {Path(path).relative_to(run)}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def child(run: Path, change: int = 0, told: int = 2) -> int:
    """A child's exit status."""
    process = os.fork()
    if process == 0:
        if change:
            killed_at(change, run, told)
        train(CONFIG, run, evaluators=MEASURED, resume="auto")
        os._exit(0)
    return os.waitpid(process, 0)[1]


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3])
    train(tiny(steps=1), folder / "warm")  # what a run imports is there before the fork
    gc.freeze()
    assert child(folder / "unbroken") == 0
    moments = random.Random(seed)
    reader, writer = os.pipe()
    for kill in range(kills):
        early = kill % 3 == 0  # while it goes on from where it was killed
        status = child(folder / "killed", moments.randint(1, 8) if early else moments.randint(9, 45), writer)
        assert os.WIFSIGNALED(status), "it ended before it was killed"
    os.close(writer)
    assert child(folder / "killed") == 0
    with os.fdopen(reader) as changes:
        print(json.dumps(changes.read().splitlines()))


if __name__ == "__main__":
    main()
