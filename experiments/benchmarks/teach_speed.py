"""Seconds to learn: fits of made-up examples by size, and a click over HTTP on an index of 10,000 pictures.

The examples are directions of their labels with noise of one and a half times their length, their words as
far off. The index is the one of `serve-speed`: what is timed is a click's whole answer, which is on the disk
by then, the classifier learnt anew, all pictures labelled anew, accuracy estimated, the next picture chosen.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

import headword
from experiments.harness import cost, load, seconds, serving
from experiments.synthetic_index import make_index
from headword.scoring.taught import teach

SIZES = ("10x160", "100x1600", "250x4000", "1000x16000")
D, SEED = 1280, 0


def made_up(labels: int, examples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings `[n, D]` and what is judged of them `[n, L]`, and words `[L, D]`."""
    generator = torch.Generator().manual_seed(SEED)
    directions = F.normalize(torch.randn(labels, D, generator=generator), dim=1)

    def near(rows: Tensor) -> Tensor:
        return F.normalize(rows + 1.5 * torch.randn(rows.shape, generator=generator) / D**0.5, dim=1)

    y = torch.arange(examples) % labels
    return near(directions[y]), F.one_hot(y, labels).to(torch.int8), near(directions)


def run(
    sizes: Annotated[list[str] | None, typer.Option("--size", help="LABELSxEXAMPLES.")] = None,
    images: int = 10_000,
    labels: int = 20,
    clicks: int = 100,
) -> dict[str, Any]:
    """Fits, then clicks."""
    before, fits = load(), {}
    for size in sizes or SIZES:
        L, n = map(int, size.split("x"))
        X, judged, words = made_up(L, n)

        def fit() -> None:
            teach(X, judged, words, torch.zeros(L), independent=False, scale=20.0)  # noqa: B023

        least = min(cost(fit) for _ in range(1 if n > 4000 else 3))
        fits[size] = {"seconds": round(least.seconds, 3), "processor_seconds": round(least.cpu_seconds, 3)}
    took = clicked(images, labels, clicks)
    return {
        "fits": fits,
        "median_click_seconds": {
            f"{n - 9} to {n}": round(statistics.median(took[n - 10 : n]), 3)
            for n in range(10, clicks + 1, 10)
        },
        "slowest_click_seconds": round(max(took), 3),
        "protocol": {"images": images, "labels": labels, "dim": D, "seed": SEED, "load_before": before},
    }


def clicked(images: int, labels: int, clicks: int) -> list[float]:
    """Seconds that each click on a suggested picture takes."""
    took: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        index, model = Path(folder) / "index", headword.recycle()
        assert model.pairs is not None
        saved = model.save(Path(folder) / "model")
        make_index(model, index, images, model.pairs.image, saved=saved, seed=SEED)
        words = list(dict.fromkeys(model.pairs.names))[: 50 * labels : 50]
        with serving(index) as (running, _, _):
            connection = http.client.HTTPConnection(running.host, running.port, timeout=60)

            def post(path: str, body: dict[str, Any]) -> Any:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status != 200:
                    raise RuntimeError(answer)
                return answer

            post("/lesson", {"labels": words})
            state = post("/lesson/state", {"suggest": 1})
            for n in range(clicks):
                click = {"path": state["suggested"][0]["path"], "label": words[n % labels]}

                def request() -> None:
                    nonlocal state
                    state = post("/lesson/answers", {"answers": [click], "suggest": 1})  # noqa: B023

                took.append(seconds(request))
            connection.close()
    return took
