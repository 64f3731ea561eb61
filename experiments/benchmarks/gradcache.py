"""Cached gradients: peak memory, time, and how far the gradient is from the whole batch's.

    python -m experiments gradcache
    python -m experiments gradcache --device cuda --model ViT-B-32 --batch 2048 --dtype bfloat16

Memory is the peak above model, gradients and batch: resident memory on the CPU (Linux), the allocator's on
CUDA. Each number of pieces runs in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.common import write
from experiments.benchmarks.token_loss_memory import peak_bytes, start_counting
from headword.files import load_tensors, save_tensors
from headword.training.build import build
from headword.training.config import TrainConfig
from headword.training.gradcache import TrainingModule, backward


def run_once(args: argparse.Namespace, pieces: int, gradients: Path) -> dict[str, float]:
    """One number of pieces, in this process; its gradients into a file."""
    model, blueprint = build(TrainConfig(model=args.model, seed=args.seed))
    module = TrainingModule(model, model.loss()).to(args.device)
    size = blueprint.image_size
    generator = torch.Generator().manual_seed(args.seed)
    images = torch.randn(args.batch, 3, size, size, generator=generator).to(args.device)
    words = ["red", "blue", "boat", "dog", "lake", "rain", "tree", "house"]
    picks = torch.randint(0, len(words), (args.batch, 8), generator=generator)
    texts = model.tokenize([" ".join(words[i] for i in row) for row in picks.tolist()]).ids.to(args.device)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def step(rows: int) -> None:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.dtype == "bfloat16"):
            backward(module, images[:rows], texts[:rows], pieces=min(pieces, rows))
        if args.device == "cuda":
            torch.cuda.synchronize()

    step(2)  # loads kernels and libraries
    for parameter in module.parameters():
        assert parameter.grad is not None
        parameter.grad.zero_()
    before = start_counting(args.device)
    begun, cpu = time.perf_counter(), time.process_time()
    step(args.batch)
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    peak = peak_bytes(args.device) - before
    save_tensors(gradients, {name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    return {"megabytes": round(peak / 1e6, 1), "seconds": round(wall, 2), "cpu_seconds": round(cpu, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--pieces", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="run the first number of pieces here, gradients into this file")
    args = parser.parse_args()
    if args.out:
        print(json.dumps(run_once(args, args.pieces[0], Path(args.out))))
        return
    settings = ("model", "batch", "device", "dtype", "seed")
    flags = [word for name in settings for word in (f"--{name}", str(getattr(args, name)))]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {n: Path(folder) / f"{n}.safetensors" for n in args.pieces}
        for n, file in files.items():
            command = [sys.executable, __file__, *flags, "--pieces", str(n), "--out", str(file)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[str(n)] = json.loads(said.splitlines()[-1])
        whole = load_tensors(files[args.pieces[0]])
        for n, file in files.items():
            mine = load_tensors(file)
            errors = [float((mine[k] - g).norm() / g.norm()) for k, g in whole.items() if g.any()]
            found[str(n)]["largest_relative_difference"] = max(errors)
    protocol = {name: getattr(args, name) for name in settings}
    write(f"gradcache_{args.device}", {"protocol": protocol, "pieces": found})


if __name__ == "__main__":
    main()
