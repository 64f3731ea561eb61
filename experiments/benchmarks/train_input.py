"""What reading costs training: images/s with a data set against the same batches ready in memory.

Three ways in turn, block by block, so that all meet the same machine: batches in memory; read and decoded
between steps; read ahead as `headword train` does it (a thread, or `--workers` processes behind it). The
figure is the median over blocks of the ratio of images/s to memory's in the same block. The ratio of CPU time
an image, of all threads of this process, says what reading costs where no core is idle.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from experiments.harness import cost
from headword.training.build import build
from headword.training.config import TrainConfig
from headword.training.data import Batch, ahead, open_training_set
from headword.training.processes import Processes
from headword.training.run import make_batches
from headword.training.trainer import Trainer

Device = Literal["cpu", "cuda"]


def run(
    data: str = "shapes",
    backbone: str | None = None,
    image_size: int | None = None,
    batch: int = 64,
    workers: int = 0,
    device: Device = "cpu",
    threads: int | None = None,
    steps: int = 6,
    blocks: int = 5,
) -> dict[str, Any]:
    """Steps of one way in a block, and blocks of all ways in turn."""
    protocol = {
        "data": "shapes" if data == "shapes" else "caption file", "backbone": backbone,
        "image_size": image_size, "batch": batch, "workers": workers, "device": device, "threads": threads,
        "steps": steps, "blocks": blocks,
    }  # fmt: skip
    if threads:
        torch.set_num_threads(threads)
    config = TrainConfig(
        data=data, backbone=backbone, image_size=image_size, batch_size=batch, workers=workers, device=device,
        steps=10**6,
    )  # fmt: skip
    processes = Processes.join(config)
    model, blueprint = build(config)
    pairs = open_training_set(config.data)
    batches = partial(make_batches, config, pairs, blueprint, model.tokenizer, pin_memory=device == "cuda")
    trainer = Trainer(config, processes, model, blueprint, batches(), folder=Path("unused"))
    far = 10**6
    memory = list(itertools.islice(batches().steps(0, far), 4))
    plain = batches().steps(0, far)
    thread = ahead(lambda: batches().steps(0, far))
    ways: dict[str, Iterator[Batch]] = {"memory": itertools.cycle(memory), "between": plain, "ahead": thread}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}

    def advance(name: str, number: int) -> None:
        for one in itertools.islice(ways[name], number):
            trainer.advance(one.images, one.texts)
        if device == "cuda":
            torch.cuda.synchronize()

    for name in ways:
        advance(name, 2)
    for _ in range(blocks):
        for name in ways:
            took = cost(lambda: advance(name, steps))  # noqa: B023
            rates[name].append(steps * batch / took.seconds)
            costs[name].append(took.cpu_seconds / (steps * batch))
    thread.close()

    def share(of: dict[str, list[float]], name: str, *, less_is_more: bool = False) -> float:
        pairs = zip(of[name], of["memory"], strict=True)
        return round(statistics.median(b / a if less_is_more else a / b for a, b in pairs), 3)

    read = ("between", "ahead")
    return {
        "file": f"train_input_{device}" + ("" if data == "shapes" else "_files"),
        "protocol": protocol,
        "images_per_second": {name: round(statistics.median(r), 1) for name, r in rates.items()},
        "share_of_memory": {name: share(rates, name) for name in read},
        "cpu_seconds_per_image": {name: round(statistics.median(c), 5) for name, c in costs.items()},
        "share_of_cpu_time": {name: share(costs, name, less_is_more=True) for name in read},
        "blocks": {name: [round(rate, 1) for rate in r] for name, r in rates.items()},
    }
