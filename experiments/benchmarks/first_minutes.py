"""What a new user's first commands cost: processor seconds beside `import torch`, in one run.

    python -m experiments first-minutes             # some four minutes
    python -m experiments first-minutes --large     # the 21,843-class head alone, some five more

Every command runs as a user types it, in a process of its own; processor seconds are user + system of that
process and its children. Rounds are interleaved, so that a busy moment touches all, and medians quoted.
`recycle` starts with an empty cache each time. The large head has timm's imagenet-21k names with rich words
and seeded random rows, 1,280 wide, also with an empty cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from experiments.benchmarks.common import RESULTS, write

HEADWORD = [sys.executable, "-m", "headword"]
ROUNDS = 5
RECYCLES = 3
LARGE, WIDTH, SEED = 21_843, 1280, 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--one-large", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one_large:
        recycle_large()
        return
    file = RESULTS / "first_minutes.json"
    before = json.loads(file.read_text())["metrics"] if file.exists() else {}
    measured = {"large": measure_large()} if chosen.large else measure()
    write(
        "first_minutes",
        {
            "metrics": before | measured,
            "protocol": {
                "rounds": ROUNDS,
                "recycles": RECYCLES,
                "processes": "one a measurement, interleaved",
            },
            "seed": SEED,
        },
    )


def measure() -> dict[str, object]:
    """The commands of the first minutes."""
    from headword.data.gallery import gallery

    seconds: dict[str, list[tuple[float, float]]] = {}
    steps: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = gallery()[0].path
        for n in range(RECYCLES):
            clock(seconds, "import torch", [sys.executable, "-c", "import torch"])
            command = [
                *HEADWORD,
                "recycle",
                "--out",
                f"{folder}/model",
                "--overwrite",
                "--json",
                f"{folder}/made",
            ]
            clock(seconds, "recycle", [*command, "--quiet"], {"HEADWORD_CACHE": f"{folder}/cache-{n}"})
            for step, value in json.loads((folder / "made").read_text())["metrics"].items():
                steps.setdefault(step, []).append(value)
        index = [
            *HEADWORD,
            "index",
            f"{folder}/model",
            str(picture.parent),
            "--out",
            f"{folder}/index",
            "--quiet",
        ]
        subprocess.run(index, check=True, capture_output=True)
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "search": [*HEADWORD, "search", f"{folder}/index", "a red car"],
            "classify": [*HEADWORD, "classify", f"{folder}/model", str(picture), "--labels", "a cat,a dog"],
            "help": [*HEADWORD, "--help"],
            "import headword": [sys.executable, "-c", "import headword"],
        }
        for _ in range(ROUNDS):
            for name, command in commands.items():
                clock(seconds, name, command)
    cpu, wall = (
        {name: statistics.median(s[i] for s in all_) for name, all_ in seconds.items()} for i in (0, 1)
    )
    return {
        "cpu_seconds_median": cpu,
        "wall_seconds_median": wall,
        "cpu_seconds_beyond_torch": {
            name: cpu[name] - cpu["import torch"] for name in ("search", "classify", "recycle")
        },
        "recycle_steps_wall_seconds_median": {
            step: statistics.median(values) for step, values in steps.items()
        },
    }


def measure_large() -> dict[str, object]:
    """The first recycling of a head of 21,843 classes."""
    seconds: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one-large"]
        said = clock(seconds, "recycle", command, {"HEADWORD_CACHE": folder, "OMP_WAIT_POLICY": "PASSIVE"})
    cpu, wall = seconds["recycle"][0]
    return {"cpu_seconds": cpu, "wall_seconds": wall, **json.loads(said.splitlines()[-1])}


def recycle_large() -> None:
    """Make the large model and print its steps, as JSON."""
    import torch
    from torch import nn

    import headword
    from headword.head.names import imagenet_classes

    torch.manual_seed(SEED)
    pooled = nn.Sequential(nn.Conv2d(3, WIDTH, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    known = imagenet_classes(LARGE)
    assert known is not None
    model = headword.recycle(
        nn.Sequential(pooled, nn.Linear(WIDTH, LARGE)),
        class_names=known[1],
        transform=lambda _image: torch.zeros(3, 32, 32),
        watch=lambda what: nullcontext(lambda done, of: print(f"{done} of {of} {what}", file=sys.stderr)),
    )
    assert model.pairs is not None
    print(json.dumps({"pairs": len(model.pairs), "steps_wall_seconds": model.timings}))


def clock(
    seconds: dict[str, list[tuple[float, float]]],
    name: str,
    command: list[str],
    environment: Mapping[str, str] | None = None,
) -> str:
    """Note the processor and wall seconds of a process that must succeed; returns what it printed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL,
                          env={**os.environ, **(environment or {})})  # fmt: skip
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds.setdefault(name, []).append((cpu, wall))
    return done.stdout


if __name__ == "__main__":
    main()
