"""A warm server over 100,000 images: searches over HTTP, 200 of them at once, and the command line by it.

The index holds synthetic features, the rows of the embedded classifier's head with noise around them; model,
server, client and command line are the real ones, each in a process of its own. Texts are new in every search
unless said. Medians over searches; the command line with a server and without one take turns.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import headword
from experiments.harness import HEADWORD, Cost, command_cost, load, seconds, serving
from experiments.synthetic_index import make_index
from headword.server.client import Running

SEED = 0
Asker = Callable[[dict[str, Any]], float]


def run(
    images: int = 100_000, searches: int = 100, parallel: int = 200, rounds: int = 5, commands: int = 3
) -> dict[str, Any]:
    """Search alone, many at once, and by the command line."""
    load_before = load()
    kinds: dict[str, Callable[[int], dict[str, Any]]] = {
        "new_words": lambda n: {"text": f"a picture of thing {n}", "k": 10},
        "known_words": lambda _: {"text": "two dogs in the snow", "k": 10},
        "like_a_picture": lambda n: {"like": f"00000/{n:03d}.jpg", "k": 10},
    }
    alone: dict[str, list[float]] = {kind: [] for kind in kinds}
    costs: dict[str, list[Cost]] = {"server": [], "alone": []}
    with tempfile.TemporaryDirectory() as folder:
        index, model = Path(folder) / "index", headword.recycle()
        assert model.pairs is not None
        saved = model.save(Path(folder) / "model")
        make_index(model, index, images, model.pairs.image, saved=saved, seed=SEED)
        command = [*HEADWORD, "search", index, "two dogs in the snow"]
        with serving(index) as (running, _, start_up):
            ask, close = asker(running)
            ask({"text": "two dogs in the snow", "k": 10})
            for n in range(searches):  # interleaved, so that a busy moment touches all
                for kind, body in kinds.items():
                    alone[kind].append(ask(body(n)))
            close()
            together = at_once(running, parallel, rounds)
            for _ in range(commands):
                costs["server"].append(command_cost(command)[0])
                (index / "server.json").rename(index / "hidden")
                costs["alone"].append(command_cost(command)[0])
                (index / "hidden").rename(index / "server.json")
    wall, processor = (
        {kind: statistics.median(one[i] for one in all_) for kind, all_ in costs.items()} for i in (0, 1)
    )
    return {
        "metrics": {
            "search_over_http_ms": {kind: quantiles(times) for kind, times in alone.items()},
            "at_once": {
                "searches": len(together),
                "parallel": parallel,
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
        "protocol": {
            "images": images, "searches": searches, "rounds": rounds, "commands": commands,
            "dim": model.dim, "seed": SEED, "load_before": load_before,
        },
    }  # fmt: skip


def asker(running: Running) -> tuple[Asker, Callable[[], None]]:
    """Asks over one connection: seconds to the whole answer, NaN for a failure; and what closes it."""
    connection = http.client.HTTPConnection(running.host, running.port, timeout=60)

    def ask(body: dict[str, Any]) -> float:
        whole = []

        def request() -> None:
            connection.request("POST", "/search", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            hits = json.loads(response.read()).get("hits", [])
            whole.append(response.status == 200 and len(hits) == body["k"])

        try:
            took = seconds(request)
        except OSError:
            return float("nan")
        return took if whole == [True] else float("nan")

    return ask, connection.close


def at_once(running: Running, parallel: int, rounds: int) -> list[float]:
    """Seconds of each of many searches that are asked at the same moment, several times over."""
    times: list[float] = []
    for turn in range(rounds):
        askers = [asker(running) for _ in range(parallel)]
        bodies = [{"text": f"round {turn}, picture {n}", "k": 10} for n in range(parallel)]
        with ThreadPoolExecutor(parallel) as pool:
            times += pool.map(lambda one, body: one[0](body), askers, bodies)
        for _, close in askers:
            close()
    return times


def quantiles(times: list[float]) -> dict[str, float]:
    """p50, p99 and the greatest in milliseconds, of those that were answered."""
    good = sorted(1000 * s for s in times if s == s)
    return {
        "p50": statistics.median(good),
        "p99": good[min(len(good) - 1, int(0.99 * len(good)))],
        "greatest": good[-1],
    }
