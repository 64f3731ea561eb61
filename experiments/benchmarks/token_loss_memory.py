"""Memory and time of the token loss, forward and backward, against the dense formula.

    python -m experiments token-loss-memory
    python -m experiments token-loss-memory --device cuda --dtype bfloat16

Memory is the peak above inputs, parameters and parameter gradients: resident memory on the CPU (Linux), the
allocator's on CUDA. Each variant runs in fresh processes, in turn with the other, so that both meet the same
machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.benchmarks.common import write
from headword.losses import TokenClassificationLoss

VARIANTS = ("dense", "fused")


def dense(loss: TokenClassificationLoss, x: Tensor, W: Tensor, b: Tensor, captions: Tensor) -> Tensor:
    """−(1/B) Σ ŷ log softmax(z) as it is written down, everything `[B, V]` in float32."""
    loss.update(captions)
    ids, shares = loss.targets(captions)
    logits = F.linear(x, W, b).float()
    targets = torch.zeros_like(logits).scatter_add_(1, ids, shares)
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def start_counting(device: str) -> int:
    """Forget the peak so far; bytes in use now."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"no {field} in /proc/self/status; this benchmark needs Linux or --device cuda")


def run_once(args: argparse.Namespace) -> dict[str, float]:
    """One variant in this process."""
    torch.manual_seed(args.seed)
    device, dtype = args.device, getattr(torch, args.dtype)
    x = torch.randn(args.batch, args.width, device=device, dtype=dtype, requires_grad=True)
    W = (torch.randn(args.vocab, args.width, device=device) * args.width**-0.5).requires_grad_()
    b = torch.zeros(args.vocab, device=device, requires_grad=True)
    # Captions of 5 to 40 words, the frequent ones often: id ~ V · u^4.
    words = (torch.rand(args.batch, 77) ** 4 * (args.vocab - 2)).long()
    words.scatter_(1, torch.randint(5, 41, (args.batch, 1)), args.vocab - 1)
    captions = words.to(device)
    loss = TokenClassificationLoss(
        args.vocab, excluded_ids=[args.vocab - 2, args.vocab - 1], end_id=args.vocab - 1
    ).to(device)

    def step(rows: int) -> tuple[float, float]:
        cast = torch.autocast(device, dtype, enabled=dtype != torch.float32)
        if device == "cuda":
            torch.cuda.synchronize()
        start, cpu_start = time.perf_counter(), time.process_time()
        with cast:
            if args.variant == "dense":
                value = dense(loss, x[:rows], W, b, captions[:rows])
            else:
                value = loss(x[:rows], W, b, captions[:rows])
        torch.autograd.backward(value)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, time.process_time() - cpu_start

    step(min(64, args.batch))  # loads kernels and libraries
    times: list[tuple[float, float]] = []
    above: list[int] = []
    for _ in range(args.steps):
        x.grad = W.grad = b.grad = None
        before = start_counting(device)
        times.append(step(args.batch))
        above.append(peak_bytes(device) - before - W.nbytes - b.nbytes)  # gradients are as large as they
    wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
    return {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3), "bytes": statistics.median(above)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--vocab", type=int, default=49408)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16"], help="of products; autocast"
    )
    parser.add_argument("--steps", type=int, default=2, help="timed steps in each process")
    parser.add_argument("--repeats", type=int, default=2, help="processes for each variant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--variant", choices=VARIANTS, help="run this one in this process and print its figures"
    )
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(run_once(args)))
        return

    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(args.repeats):
        for variant in VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[variant].append(json.loads(done.stdout.splitlines()[-1]))
            print(variant, runs[variant][-1], flush=True)
    metrics: dict[str, float] = {}
    for variant in VARIANTS:
        metrics[f"{variant}_seconds"] = round(statistics.median(r["seconds"] for r in runs[variant]), 3)
        metrics[f"{variant}_cpu_seconds"] = round(
            statistics.median(r["cpu_seconds"] for r in runs[variant]), 3
        )
        metrics[f"{variant}_mb"] = round(statistics.median(r["bytes"] for r in runs[variant]) / 1e6, 1)
    metrics["memory_ratio"] = round(metrics["dense_mb"] / metrics["fused_mb"], 1)
    metrics["time_ratio"] = round(metrics["fused_seconds"] / metrics["dense_seconds"], 3)
    metrics["cpu_time_ratio"] = round(metrics["fused_cpu_seconds"] / metrics["dense_cpu_seconds"], 3)
    protocol = {k: v for k, v in vars(args).items() if k not in {"seed", "variant"}}
    name = "token_loss_memory" + ("_cuda" if args.device == "cuda" else "")
    write(name, {"protocol": protocol, "metrics": metrics, "runs": runs, "seed": args.seed})


if __name__ == "__main__":
    main()
