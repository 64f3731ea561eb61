"""A warm server over 100,000 images: searches over HTTP, 200 of them at once, and the command line by it.

The index holds synthetic features, the rows of the embedded classifier's head with noise around them; model,
server, client and command line are the real ones, each in a process of its own. Texts are new in every search
unless said. Medians over searches; the command line with a server and without one take turns.

    python -m experiments serve-speed [--images 100000] [--searches 100] [--rounds 5] [--commands 3]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import headword
from experiments.benchmarks.common import write
from experiments.benchmarks.synthetic_index import make_index
from headword.server.client import Running

COMMAND = [sys.executable, "-m", "headword"]
PARALLEL = 200
SEED = 0


@contextmanager
def serving(index: Path) -> Iterator[tuple[Running, float]]:
    """A server of the index in a process of its own, and the seconds it took to answer."""
    start = time.perf_counter()
    process = subprocess.Popen([*COMMAND, "app", str(index), "--port", "0", "--quiet"])
    try:
        while (running := Running.read(index)) is None:
            if process.poll() is not None:
                sys.exit("the server ended")
            time.sleep(0.05)
        yield running, time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()


def asker(running: Running) -> Callable[[dict[str, Any]], float]:
    """Asks over one connection; seconds from the question to the whole answer, NaN for a failure."""
    connection = http.client.HTTPConnection(running.host, running.port, timeout=60)

    def ask(body: dict[str, Any]) -> float:
        start = time.perf_counter()
        try:
            connection.request("POST", "/search", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            hits = json.loads(response.read()).get("hits", [])
        except OSError:
            return float("nan")
        whole = response.status == 200 and len(hits) == body["k"]
        return time.perf_counter() - start if whole else float("nan")

    return ask


def at_once(running: Running, rounds: int) -> list[float]:
    """Seconds of each of `PARALLEL` searches that are asked at the same moment, several times over."""
    seconds: list[float] = []
    for turn in range(rounds):
        askers = [asker(running) for _ in range(PARALLEL)]
        bodies = [{"text": f"round {turn}, picture {n}", "k": 10} for n in range(PARALLEL)]
        with ThreadPoolExecutor(PARALLEL) as pool:
            seconds += pool.map(lambda ask, body: ask(body), askers, bodies)
    return seconds


def command(index: Path) -> tuple[float, float]:
    """Wall and processor seconds of `headword search`."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*COMMAND, "search", str(index), "two dogs in the snow"], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def quantiles(seconds: list[float]) -> dict[str, float]:
    """p50, p99 and the greatest in milliseconds, of those that were answered."""
    good = sorted(1000 * s for s in seconds if s == s)
    return {
        "p50": statistics.median(good),
        "p99": good[min(len(good) - 1, int(0.99 * len(good)))],
        "greatest": good[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commands", type=int, default=3)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        model = headword.recycle()
        assert model.pairs is not None
        saved = model.save(base / "model")
        index = base / "index"
        make_index(model, index, options.images, model.pairs.image, saved=saved, seed=SEED)
        kinds: dict[str, Callable[[int], dict[str, Any]]] = {
            "new_words": lambda n: {"text": f"a picture of thing {n}", "k": 10},
            "known_words": lambda _: {"text": "two dogs in the snow", "k": 10},
            "like_a_picture": lambda n: {"like": f"00000/{n:03d}.jpg", "k": 10},
        }
        alone: dict[str, list[float]] = {kind: [] for kind in kinds}
        commands: dict[str, list[tuple[float, float]]] = {"server": [], "alone": []}
        with serving(index) as (running, start_up):
            ask = asker(running)
            ask({"text": "two dogs in the snow", "k": 10})
            for n in range(options.searches):  # interleaved, so that a busy moment touches all
                for kind, body in kinds.items():
                    alone[kind].append(ask(body(n)))
            together = at_once(running, options.rounds)
            hidden = index / "hidden"
            for _ in range(options.commands):
                commands["server"].append(command(index))
                (index / "server.json").rename(hidden)
                commands["alone"].append(command(index))
                hidden.rename(index / "server.json")
    wall, processor = (
        {kind: statistics.median(pair[i] for pair in pairs) for kind, pairs in commands.items()}
        for i in range(2)
    )
    write(
        "serve_speed",
        {
            "metrics": {
                "search_over_http_ms": {kind: quantiles(seconds) for kind, seconds in alone.items()},
                "at_once": {
                    "searches": len(together),
                    "parallel": PARALLEL,
                    "failures": sum(s != s for s in together),
                    "ms": quantiles(together),
                },
                "start_up_seconds": start_up,
                "command_seconds": {"wall": wall, "processor": processor},
                "command_times_faster": {
                    "wall": wall["alone"] / wall["server"],
                    "processor": processor["alone"] / processor["server"],
                },
            },
            "protocol": {**vars(options), "dim": model.dim, "seed": SEED, "load_before": load_before},
        },
    )


if __name__ == "__main__":
    main()
