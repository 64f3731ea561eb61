"""What a new user's first commands cost: processor seconds beside `import torch`, in one run.

Every command runs as a user types it, in a process of its own; processor seconds are user + system of that
process and its children. Rounds are interleaved, so that a busy moment touches all, and medians quoted.
`recycle` starts with an empty cache each time. Some four minutes; with `--large` the 21,843-class head alone,
some five more: timm's imagenet-21k names with rich words and seeded random rows, 1,280 wide, also with an
empty cache.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments import harness
from experiments.harness import HEADWORD, Cost, apart, command_cost, cost, own_cache

LARGE, WIDTH, SEED = 21_843, 1280, 0
TORCH = [sys.executable, "-c", "import torch"]


def run(
    large: bool = False,
    rounds: int = 5,
    recycles: int = 3,
    model: Annotated[Path | None, typer.Option(help="Use this one where none is recycled.")] = None,
    classes: Annotated[int, typer.Option(help="Of the large head.")] = LARGE,
) -> dict[str, Any]:
    """Measure the first commands, or the large head, and keep what the other run found."""
    file = harness.RESULTS / "first_minutes.json"
    before = json.loads(file.read_text())["metrics"] if file.exists() else {}
    measured = {"large": measure_large(classes)} if large else measure(rounds, recycles, model)
    protocol = {"rounds": rounds, "recycles": recycles, "processes": "one a measurement, interleaved"}
    return {"metrics": before | measured, "protocol": protocol, "seed": SEED}


def measure(rounds: int, recycles: int, model: Path | None) -> dict[str, object]:
    """The commands of the first minutes."""
    from headword.data.gallery import gallery

    costs: dict[str, list[Cost]] = defaultdict(list)
    steps: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder, picture = Path(name), gallery()[0].path
        for n in range(recycles):
            costs["import torch"].append(command_cost(TORCH)[0])
            model = folder / "model"
            command = [
                *HEADWORD,
                "recycle",
                "--out",
                model,
                "--overwrite",
                "--json",
                folder / "result",
                "--quiet",
            ]
            costs["recycle"].append(command_cost(command, {"HEADWORD_CACHE": f"{folder}/cache-{n}"})[0])
            for step, value in json.loads((folder / "result").read_text())["metrics"].items():
                steps[step].append(value)
        index = folder / "index"
        command_cost([*HEADWORD, "index", model, picture.parent, "--out", index, "--quiet"])
        commands: dict[str, list[object]] = {
            "import torch": [*TORCH],
            "search": [*HEADWORD, "search", index, "a red car"],
            "classify": [*HEADWORD, "classify", model, picture, "--labels", "a cat,a dog"],
            "help": [*HEADWORD, "--help"],
            "import headword": [sys.executable, "-c", "import headword"],
        }
        for _ in range(rounds):
            for name, command in commands.items():
                costs[name].append(command_cost(command)[0])
    cpu = {name: statistics.median(one.cpu_seconds for one in all_) for name, all_ in costs.items()}
    return {
        "cpu_seconds_median": cpu,
        "wall_seconds_median": {
            name: statistics.median(one.seconds for one in all_) for name, all_ in costs.items()
        },
        "cpu_seconds_beyond_torch": {
            name: cpu[name] - cpu["import torch"] for name in ("search", "classify", "recycle") if name in cpu
        },
        "recycle_steps_wall_seconds_median": {
            step: statistics.median(values) for step, values in steps.items()
        },
    }


def measure_large(classes: int) -> dict[str, object]:
    """The first recycling of a head of so many classes, in a process that spins on no core while it waits."""
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    with own_cache():
        return apart(recycle_large, classes)


def recycle_large(classes: int) -> dict[str, object]:
    """Make the large model; processor and wall seconds, and those of its steps."""
    import torch
    from torch import nn

    import headword
    from headword.head.names import imagenet_classes

    torch.manual_seed(SEED)
    pooled = nn.Sequential(nn.Conv2d(3, WIDTH, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    known = imagenet_classes(LARGE)
    assert known is not None
    models = []
    wall, busy = cost(
        lambda: models.append(
            headword.recycle(
                nn.Sequential(pooled, nn.Linear(WIDTH, classes)),
                class_names=known[1][:classes],
                transform=lambda _image: torch.zeros(3, 32, 32),
                watch=lambda what: nullcontext(lambda n, of: print(f"{n} of {of} {what}", file=sys.stderr)),
            )
        )
    )
    (model,) = models
    assert model.pairs is not None
    steps = {"pairs": len(model.pairs), "steps_wall_seconds": model.timings}
    return {"cpu_seconds": busy, "wall_seconds": wall, **steps}
