"""What the benchmarks share: processes of their own, seconds, memory, and results with all they depend on."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from headword.results import versions
from headword.server.client import Running

RESULTS = Path(__file__).parent / "benchmarks" / "results"
HEADWORD = [sys.executable, "-m", "headword"]
T = TypeVar("T")


class Cost(NamedTuple):
    """What some work took."""

    seconds: float
    cpu_seconds: float


def cost(work: Callable[[], object]) -> Cost:
    """Seconds on the clock, and of this process's processors."""
    begun, busy = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - begun, time.process_time() - busy)


def seconds(work: Callable[[], object]) -> float:
    """Seconds on the clock."""
    return cost(work).seconds


def medians(runs: Sequence[Mapping[str, float]], digits: int | None = None) -> dict[str, float]:
    """The median of each figure over runs."""
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return middle if digits is None else {key: round(value, digits) for key, value in middle.items()}


def apart(work: Callable[..., T], *arguments: object) -> T:
    """What a function of a module gives in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def command_cost(command: Sequence[object], environment: Mapping[str, str] | None = None) -> tuple[Cost, str]:
    """What a command that must succeed took, with its children's processor time, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    done = subprocess.run([str(word) for word in command], check=True, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, env={**os.environ, **(environment or {})})  # fmt: skip
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, busy), done.stdout


def memory(field: str = "VmHWM", process: int | str = "self") -> int:
    """Bytes of a process by /proc: the peak of what was resident (`VmHWM`), `VmRSS`, `RssAnon` (Linux).

    `getrusage` would count the parent's peak too.
    """
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    sys.exit(f"no {field} in /proc/{process}/status; this benchmark needs Linux or a GPU")


def forget_peak(device: str = "cpu") -> int:
    """Forget the peak so far; bytes in use now."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def peak(device: str = "cpu") -> int:
    """Bytes at the peak since `forget_peak`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else memory()


@contextmanager
def own_cache() -> Iterator[Path]:
    """A folder that is headword's cache meanwhile, empty at the start."""
    before = os.environ.get("HEADWORD_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADWORD_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("HEADWORD_CACHE")
            os.environ |= {"HEADWORD_CACHE": before} if before is not None else {}


@contextmanager
def serving(index: Path) -> Iterator[tuple[Running, int, float]]:
    """A server of the index in a process of its own: where it listens, its process, seconds to its start."""
    begun = time.perf_counter()
    process = subprocess.Popen([*HEADWORD, "app", str(index), "--port", "0", "--quiet"])
    try:
        while (running := Running.read(index)) is None:
            if process.poll() is not None:
                sys.exit("the server ended")
            time.sleep(0.05)
        yield running, process.pid, time.perf_counter() - begun
        if process.poll() is not None:
            sys.exit("the server ended")
    finally:
        process.terminate()
        process.wait()


def load() -> float:
    """How busy the machine was over the last minute."""
    return round(os.getloadavg()[0], 2)


def write(name: str, result: dict[str, Any]) -> None:
    """Write a result beside the others, with versions, machine and date."""
    stamped = {
        "benchmark": name,
        "date": datetime.date.today().isoformat(),
        **result,
        "environment": {
            **versions(),
            "python": platform.python_version(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_average": [round(x, 2) for x in os.getloadavg()],
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }
    file = RESULTS / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(stamped, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
