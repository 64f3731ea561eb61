"""Time of a whole training step, CLIP against SuperCLIP: forward, losses, backward, AdamW.

Steps of the two alternate, so that both meet the same machine; the ratio is that of the medians. Random
images, captions of 5 to 40 words, the same for both. The synchronisation between steps belongs to the clock,
not to training. On a GPU:

    python -m experiments superclip-step --device cuda --batch 256 --dtype bfloat16
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import open_clip
import torch
from open_clip.loss import ClipLoss
from torch import Tensor

from experiments.harness import Cost, cost, medians
from headword.training import SuperCLIP, SuperCLIPTask

WORDS = [
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
]


def run(
    model: str = "ViT-B-16",
    batch: int = 16,
    device: str = "cpu",
    dtype: str = "float32",
    steps: int = 20,
    warmup: int = 1,
    threads: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Steps of both in turn; one thread makes CPU time independent of a busy machine."""
    protocol = {
        "model": model, "batch": batch, "device": device, "dtype": dtype, "steps": steps, "warmup": warmup,
        "threads": threads,
    }  # fmt: skip
    logging.disable(logging.WARNING)
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    size = open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    images = torch.randn(batch, 3, size, size, device=device)
    texts = captions(model, batch, seed).to(device)
    arms = {
        name: training_step(model, device, dtype, with_head=name == "superclip")
        for name in ("clip", "superclip")
    }
    costs: dict[str, list[Cost]] = {name: [] for name in arms}

    def timed(name: str) -> None:
        arms[name](images, texts)
        if device == "cuda":
            torch.cuda.synchronize()

    for number in range(warmup + steps):
        for name in arms:
            took = cost(lambda: timed(name))  # noqa: B023
            if number >= warmup:
                costs[name].append(took)
                print(name, took, flush=True)
    logging.disable(logging.NOTSET)
    middle = {name: medians([one._asdict() for one in all_]) for name, all_ in costs.items()}
    clip, superclip = middle["clip"], middle["superclip"]
    metrics = {f"{name}_{key}": value for name, all_ in middle.items() for key, value in all_.items()}
    metrics["ratio"] = round(superclip["seconds"] / clip["seconds"], 4)
    metrics["cpu_ratio"] = round(superclip["cpu_seconds"] / clip["cpu_seconds"], 4)
    runs = {
        key: {name: [round(getattr(one, key), 5) for one in all_] for name, all_ in costs.items()}
        for key in Cost._fields
    }
    name = f"superclip_step_{device}"
    return {"file": name, "protocol": protocol, "metrics": metrics, "runs": runs, "seed": seed}


def captions(model: str, batch: int, seed: int) -> Tensor:
    """Of 5 to 40 words, as the model's tokenizer has them."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(5, 40))) for _ in range(batch)]
    ids: Tensor = open_clip.get_tokenizer(model)(texts)
    return ids


def training_step(name: str, device: str, dtype: str, *, with_head: bool) -> Callable[[Tensor, Tensor], None]:
    """Forward, losses, backward and AdamW of CLIP, or of SuperCLIP."""
    clip = open_clip.create_model(name, device=device)
    model = SuperCLIP(clip, open_clip.get_tokenizer(name)) if with_head else clip
    model.train()
    task = SuperCLIPTask(model) if with_head else None
    contrastive = ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(images: Tensor, texts: Tensor) -> None:
        with torch.autocast(device, getattr(torch, dtype), enabled=dtype != "float32"):
            if task is None:
                loss = contrastive(*model(images, texts))
            else:
                loss = task.training_forward({"images": images, "texts": texts})["loss"]
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step
