"""What this machine has: processors this process may really use, and precisions it computes natively."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import torch


def available_cpus() -> int:
    """Processors this process may use: its affinity, the container's quota and `OMP_NUM_THREADS`, whichever
    is least.

    The machine may have many more. `OMP_NUM_THREADS` is how Ray and others tell a worker its share.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    share = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return max(1, min(count, _quota() or count, int(share) if share.isdigit() else count))


@cache
def _quota() -> int | None:
    """Processors that the container's cgroup (version 2 or 1) grants, rounded up; None without a limit."""
    two = Path("/sys/fs/cgroup/cpu.max")
    one = [Path(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = two.read_text().split() if two.is_file() else [file.read_text() for file in one]
        return max(1, -(-int(quota) // int(period))) if int(quota) > 0 else None
    except (OSError, ValueError):  # no cgroup, or its quota is "max"
        return None


def is_x86() -> bool:
    """Whether the processor is an x86, which OpenVINO's CPU plug-in is made for."""
    return platform.machine().lower() in {"x86_64", "amd64", "i686", "x86"}


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively: emulated, it is slower than float32 and no better."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and _cpu_bfloat16()


@cache
def _cpu_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported") if is_x86() else ()
    if any(getattr(torch.cpu, name, lambda: False)() for name in checks):
        return True
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & _cpu_flags())


def _cpu_flags() -> set[str]:
    """The processor's own list (Linux on x86 and ARM); empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    lists = (line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features")))
    return {flag for flags in lists for flag in flags.split()}
