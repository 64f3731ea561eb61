"""What reading costs training: images/s with a data set against the same batches ready in memory.

    python -m experiments train-input
    python -m experiments train-input --data $HEADWORD_DATA/data/flickr8k/captions.jsonl --backbone embedded
    python -m experiments train-input --device cuda --workers 8 --batch 256

Three ways in turn, block by block, so that all meet the same machine: batches in memory; read and decoded
between steps; read ahead as `headword train` does it (a thread, or `--workers` processes behind it). The
figure is the median over blocks of the ratio of images/s to memory's in the same block. The ratio of CPU time
an image, of all threads of this process, says what reading costs where no core is idle.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from functools import partial

import torch

from experiments.benchmarks.common import write
from headword.training.build import build
from headword.training.config import TrainConfig
from headword.training.data import Batch, open_training_set
from headword.training.engine import make_fabric
from headword.training.feed import ahead, batches_from, make_batches
from headword.training.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="shapes")
    parser.add_argument("--backbone", default=None)
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of the step's arithmetic"
    )
    parser.add_argument("--steps", type=int, default=6, help="steps of one way in a block")
    parser.add_argument("--blocks", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = TrainConfig(
        data=args.data, backbone=args.backbone, image_size=args.image_size, batch_size=args.batch,
        workers=args.workers, device=args.device,
    )  # fmt: skip
    fabric = make_fabric(config)
    model, blueprint = build(config)
    data = open_training_set(config.data)
    made = partial(make_batches, config, data, blueprint, model.tokenizer, pin_memory=args.device == "cuda")
    trainer = Trainer(fabric, config, model, steps=10**6)
    far = 10**6
    memory = list(itertools.islice(batches_from(made(), 0, far), 4))
    plain = batches_from(made(), 0, far)
    thread = ahead(lambda: batches_from(made(), 0, far))
    ways: dict[str, Iterator[Batch]] = {"memory": itertools.cycle(memory), "between": plain, "ahead": thread}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for name in ways:
        speed(trainer, ways[name], 2, args)
    for _ in range(args.blocks):
        for name, batches in ways.items():
            rate, cpu = speed(trainer, batches, args.steps, args)
            rates[name].append(rate)
            costs[name].append(cpu)
    thread.close()
    read = ("between", "ahead")
    pairs = {name: zip(rates[name], rates["memory"], strict=True) for name in read}
    cpu_pairs = {name: zip(costs["memory"], costs[name], strict=True) for name in read}
    write(
        f"train_input_{args.device}" + ("" if args.data == "shapes" else "_files"),
        {
            "protocol": {**vars(args), "data": "shapes" if args.data == "shapes" else "caption file"},
            "images_per_second": {name: round(statistics.median(r), 1) for name, r in rates.items()},
            "share_of_memory": {
                name: round(statistics.median(a / b for a, b in both), 3) for name, both in pairs.items()
            },
            "cpu_seconds_per_image": {name: round(statistics.median(c), 5) for name, c in costs.items()},
            "share_of_cpu_time": {
                name: round(statistics.median(a / b for a, b in both), 3) for name, both in cpu_pairs.items()
            },
            "blocks": {name: [round(rate, 1) for rate in r] for name, r in rates.items()},
        },
    )


def speed(
    trainer: Trainer, batches: Iterator[Batch], steps: int, args: argparse.Namespace
) -> tuple[float, float]:
    """Images a second over some steps, and CPU seconds an image."""
    begun, cpu = time.perf_counter(), time.process_time()
    for batch in itertools.islice(batches, steps):
        images = batch.images.to(trainer.fabric.device, non_blocking=True)
        trainer.advance(images, batch.texts.to(trainer.fabric.device, non_blocking=True))
    if args.device == "cuda":
        torch.cuda.synchronize()
    images_read = float(steps * args.batch)
    return images_read / (time.perf_counter() - begun), (time.process_time() - cpu) / images_read


if __name__ == "__main__":
    main()
