"""Cached gradients: peak memory, time, and how far the gradient is from the whole batch's.

Memory is the peak above model, gradients and batch: resident memory on the CPU (Linux), the allocator's on
CUDA. Each number of pieces runs in a fresh process. On a GPU:

    python -m experiments gradcache --device cuda --model ViT-B-32 --batch 2048 --dtype bfloat16
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from experiments.harness import apart, cost, forget_peak, peak
from headword.files import load_tensors, save_tensors
from headword.training.build import build
from headword.training.config import TrainConfig
from headword.training.gradcache import backward
from headword.training.objective import SuperCLIPTask

WORDS = ("red", "blue", "boat", "dog", "lake", "rain", "tree", "house")
PIECES = [1, 4, 16]


def run(
    model: str = "small",
    batch: int = 512,
    pieces: list[int] = PIECES,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
) -> dict[str, Any]:
    """A step of each number of pieces; the first is what the others are compared with."""
    protocol = {"model": model, "batch": batch, "device": device, "dtype": dtype, "seed": seed}
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {n: Path(folder) / f"{n}.safetensors" for n in pieces}
        for n, file in files.items():
            results[str(n)] = apart(step, protocol, n, file)
        whole = load_tensors(files[pieces[0]])
        for n, file in files.items():
            mine = load_tensors(file)
            errors = [float((mine[k] - g).norm() / g.norm()) for k, g in whole.items() if g.any()]
            results[str(n)]["largest_relative_difference"] = max(errors)
    return {"file": f"gradcache_{device}", "protocol": protocol, "pieces": results}


def step(protocol: dict[str, Any], pieces: int, gradients: Path) -> dict[str, float]:
    """One number of pieces, in this process; its gradients into a file."""
    batch, device, seed = protocol["batch"], protocol["device"], protocol["seed"]
    model, blueprint = build(TrainConfig(model=protocol["model"], seed=seed))
    module = SuperCLIPTask(model).to(device)
    size = blueprint.image_size
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, size, size, generator=generator).to(device)
    picks = torch.randint(0, len(WORDS), (batch, 8), generator=generator)
    texts = model.tokenize([" ".join(WORDS[i] for i in row) for row in picks.tolist()]).ids.to(device)

    def work(rows: int) -> None:
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
        with torch.autocast(device, torch.bfloat16, enabled=protocol["dtype"] == "bfloat16"):
            backward(module, {"images": images[:rows], "texts": texts[:rows]}, pieces=min(pieces, rows))
        if device == "cuda":
            torch.cuda.synchronize()

    work(2)  # loads kernels and libraries
    before = forget_peak(device)
    wall, busy = cost(lambda: work(batch))
    above = peak(device) - before
    save_tensors(gradients, {name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    return {"megabytes": round(above / 1e6, 1), "seconds": round(wall, 2), "cpu_seconds": round(busy, 2)}
