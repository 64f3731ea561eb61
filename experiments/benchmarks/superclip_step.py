"""Time of a whole training step, CLIP against SuperCLIP: forward, losses, backward, AdamW.

    python -m experiments superclip-step --device cuda --model ViT-B-16 --batch 256 --dtype bfloat16
    python -m experiments superclip-step --device cpu --model ViT-B-16 --batch 16 --steps 4

Steps of the two alternate, so that both meet the same machine; the ratio is that of the medians. Random
images, captions of 5 to 40 words, the same for both. The synchronisation between steps belongs to the clock,
not to training.
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import time
from collections.abc import Callable

import open_clip
import torch
from open_clip.loss import ClipLoss
from torch import Tensor

from experiments.benchmarks.common import write
from headword.training import SuperCLIP

WORDS = (
    "a",
    "the",
    "red",
    "blue",
    "small",
    "boat",
    "dog",
    "cat",
    "tree",
    "house",
    "lake",
    "street",
    "on",
    "in",
    "two",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="autocast's type")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument(
        "--threads", type=int, help="CPU threads; 1 makes CPU time independent of a busy machine"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.WARNING)

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    size = open_clip.get_model_config(args.model)["vision_cfg"]["image_size"]
    images = torch.randn(args.batch, 3, size, size, device=args.device)
    texts = captions(args)
    steps = {"clip": training_step(args, with_head=False), "superclip": training_step(args, with_head=True)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(args.warmup + args.steps):
        for name, step in steps.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            step(images, texts)
            if args.device == "cuda":
                torch.cuda.synchronize()
            if number >= args.warmup:
                seconds[name].append(round(time.perf_counter() - start, 5))
                cpu_seconds[name].append(round(time.process_time() - cpu_start, 5))
                print(name, seconds[name][-1], cpu_seconds[name][-1], flush=True)
    wall = {name: statistics.median(times) for name, times in seconds.items()}
    cpu = {name: statistics.median(times) for name, times in cpu_seconds.items()}
    metrics = {
        "clip_seconds": wall["clip"],
        "superclip_seconds": wall["superclip"],
        "ratio": round(wall["superclip"] / wall["clip"], 4),
        "clip_cpu_seconds": cpu["clip"],
        "superclip_cpu_seconds": cpu["superclip"],
        "cpu_ratio": round(cpu["superclip"] / cpu["clip"], 4),
    }
    protocol = {k: v for k, v in vars(args).items() if k != "seed"}
    runs = {"seconds": seconds, "cpu_seconds": cpu_seconds}
    write(
        f"superclip_step_{args.device}",
        {"protocol": protocol, "metrics": metrics, "runs": runs, "seed": args.seed},
    )


def captions(args: argparse.Namespace) -> Tensor:
    draw = random.Random(args.seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(5, 40))) for _ in range(args.batch)]
    ids: Tensor = open_clip.get_tokenizer(args.model)(texts).to(args.device)
    return ids


def training_step(args: argparse.Namespace, with_head: bool) -> Callable[[Tensor, Tensor], None]:
    clip = open_clip.create_model(args.model, device=args.device)
    model = SuperCLIP(clip, open_clip.get_tokenizer(args.model)) if with_head else clip
    model.train()
    losses = model.loss() if with_head else ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(images: Tensor, texts: Tensor) -> None:
        with torch.autocast(args.device, getattr(torch, args.dtype), enabled=args.dtype != "float32"):
            out = model(images, texts)
            loss = losses(out, texts).total if with_head else losses(*out)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
