"""Memory and time of SuperCLIP's token loss, forward and backward, against the dense formula.

Memory is the peak above inputs, parameters and parameter gradients: resident memory on the CPU (Linux), the
allocator's on CUDA (`--device cuda --dtype bfloat16`). Each variant runs in fresh processes, in turn with the
other, so that both meet the same machine.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.harness import apart, cost, forget_peak, medians, peak
from headword.losses import TokenClassificationLoss

VARIANTS = ("dense", "fused")


def run(
    batch: int = 4096,
    vocab: int = 49408,
    width: int = 768,
    device: str = "cpu",
    dtype: str = "float32",
    steps: int = 2,
    repeats: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """Some timed steps in each of some processes of each variant."""
    protocol = {
        "batch": batch, "vocab": vocab, "width": width, "device": device, "dtype": dtype, "steps": steps,
        "repeats": repeats,
    }  # fmt: skip
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(repeats):
        for variant in VARIANTS:
            runs[variant].append(apart(measure, variant, protocol, seed))
            print(variant, runs[variant][-1], flush=True)
    metrics: dict[str, float] = {}
    for variant in VARIANTS:
        metrics |= {f"{variant}_{name}": value for name, value in medians(runs[variant], 3).items()}
    metrics["memory_ratio"] = round(metrics["dense_mb"] / max(metrics["fused_mb"], 1e-6), 1)
    metrics["time_ratio"] = round(metrics["fused_seconds"] / metrics["dense_seconds"], 3)
    metrics["cpu_time_ratio"] = round(metrics["fused_cpu_seconds"] / metrics["dense_cpu_seconds"], 3)
    name = "token_loss_memory" + ("_cuda" if device == "cuda" else "")
    return {"file": name, "protocol": protocol, "metrics": metrics, "runs": runs, "seed": seed}


def dense(loss: TokenClassificationLoss, x: Tensor, W: Tensor, b: Tensor, captions: Tensor) -> Tensor:
    """−(1/B) Σ ŷ log softmax(z) as it is written down, everything `[B, V]` in float32."""
    loss.update(captions)
    ids, shares = loss.targets(captions)
    logits = F.linear(x, W, b).float()
    targets = torch.zeros_like(logits).scatter_add_(1, ids, shares)
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def measure(variant: str, protocol: dict[str, Any], seed: int) -> dict[str, float]:
    """One variant in this process."""
    torch.manual_seed(seed)
    batch, vocab, width, device = (protocol[name] for name in ("batch", "vocab", "width", "device"))
    dtype = getattr(torch, protocol["dtype"])
    x = torch.randn(batch, width, device=device, dtype=dtype, requires_grad=True)
    W = (torch.randn(vocab, width, device=device) * width**-0.5).requires_grad_()
    b = torch.zeros(vocab, device=device, requires_grad=True)
    # Captions of 5 to 40 words, the frequent ones often: id ~ V · u^4.
    words = (torch.rand(batch, 77) ** 4 * (vocab - 2)).long()
    words.scatter_(1, torch.randint(5, 41, (batch, 1)), vocab - 1)
    captions = words.to(device)
    loss = TokenClassificationLoss(vocab, excluded_ids=[vocab - 2, vocab - 1], end_id=vocab - 1).to(device)

    def step(rows: int) -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            if variant == "dense":
                value = dense(loss, x[:rows], W, b, captions[:rows])
            else:
                value = loss(x[:rows], W, b, captions[:rows])
        torch.autograd.backward(value)
        if device == "cuda":
            torch.cuda.synchronize()

    step(min(64, batch))  # loads kernels and libraries
    times, above = [], []
    for _ in range(protocol["steps"]):
        x.grad = W.grad = b.grad = None
        before = forget_peak(device)
        times.append(cost(lambda: step(batch)))
        above.append(peak(device) - before - W.nbytes - b.nbytes)  # gradients are as large as they
    wall, busy = (statistics.median(column) for column in zip(*times, strict=True))
    return {"seconds": wall, "cpu_seconds": busy, "mb": statistics.median(above) / 1e6}
