"""Seconds and memory of indexing, and milliseconds of a query from words to hits.

Images: flickr8k's 8,000 (HEADWORD_DATA), whose features the cache is made to hold first; then 100 new ones.
Queries: indexes of 100,000 and 1,000,000 images that do not exist, with features (1,280-d) noise around
flickr8k's; a different text each time, text encoding included, in a warm process; medians. Memory: of a
process that indexes 100,000 synthetic features, above what it holds with the model loaded.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import headword
from experiments.bench import data_root
from experiments.harness import cost, memory, seconds
from experiments.synthetic_index import make_index
from headword.data.folders import list_images
from headword.model import DualEncoder
from headword.search import Index, Query, build_index

PARTS = ["images", "memory", "queries"]
SIZES = [100_000, 1_000_000]


def run(
    parts: Annotated[list[str], typer.Argument(help="Of images, memory, queries.")] = PARTS,
    sizes: Annotated[list[int], typer.Option("--size", help="Images of an index that is queried.")] = SIZES,
    count: Annotated[int, typer.Option(help="Images of the index that memory is measured of.")] = 100_000,
    new: Annotated[int, typer.Option(help="Images that come later.")] = 100,
    queries: int = 40,
    threads: int = 2,
) -> dict[str, Any]:
    """Measure some parts, or all."""
    torch.set_num_threads(threads)
    models: list[DualEncoder] = []
    loading = seconds(lambda: models.append(headword.recycle(device="cpu")))
    model, source = models[0], list_images(data_root() / "data" / "flickr8k" / "images")
    base = model.image_features(source)
    result: dict[str, Any] = {"threads": threads, "model_seconds": loading}
    if "images" in parts:
        result["images"] = of_images(model, source, new)
    if "memory" in parts:
        result["memory"] = of_memory(model, base, count)
    if "queries" in parts:
        result["queries"] = [of_queries(model, base, size, queries) for size in sizes]
    return {"file": "index_speed" if len(parts) == len(PARTS) else f"index_speed_{parts[0]}", **result}


def of_images(model: DualEncoder, source: list[Path], new: int) -> dict[str, Any]:
    """The first index of all but the new images, nothing new, the new ones, tags."""
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name)
        folder, alone, out = parent / "images", parent / "alone", parent / "index"
        folder.mkdir()
        alone.mkdir()
        for path in source[:-new]:
            shutil.copy(path, folder)
        first = model.image_features(list_images(folder))  # into the cache
        index = partial(build_index, model, folder, out)
        costs = {"first": cost(index), "nothing_new": cost(index)}
        for path in source[-new:]:
            shutil.copy(path, folder)
            shutil.copy(path, alone)
        costs["new"] = cost(index)
        costs["the_new_by_themselves"] = cost(lambda: build_index(model, alone, parent / "other"))
        labels = [entry.name for entry in model.classes[::50]]
        opened = Index.open(out, model=model)
        costs["tag"] = cost(lambda: opened.tag(labels))
        counts = {"images": len(first), "new_images": new, "labels": len(labels)}
        return counts | {what: one._asdict() for what, one in costs.items()}


def of_queries(model: DualEncoder, base: Tensor, size: int, queries: int, k: int = 10) -> dict[str, Any]:
    """Milliseconds from words to hits."""
    texts = [entry.synonyms[0] if entry.synonyms else entry.name for entry in model.classes][: queries + 3]
    with tempfile.TemporaryDirectory() as parent:
        out = Path(parent) / "index"
        made = cost(partial(make_index, model, out, size, base))
        index = Index.open(out, model=model)
        asked = [Query(text=f"{text} in the park, number {n}") for n, text in enumerate(texts)]
        costs = [cost(partial(index.search, query, k=k)) for query in asked][3:]
        encoding = [seconds(partial(model.encode_text, [f"{text} at night"])) for text in texts[3:]]
        opened = seconds(partial(Index.open, out, model=model))
    return {
        "images": size,
        "dim": model.vision.dim,
        "made": made._asdict(),
        "open_ms": 1000 * opened,
        "p50_ms": 1000 * statistics.median(one.seconds for one in costs),
        "p50_cpu_ms": 1000 * statistics.median(one.cpu_seconds for one in costs),
        "of_which_text_p50_ms": 1000 * statistics.median(encoding),
    }


def of_memory(model: DualEncoder, base: Tensor, count: int) -> dict[str, float]:
    """Peak of this process while it makes an index: anonymous memory, as mapped files are the system's."""
    before, most, done = memory("RssAnon"), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], memory("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with tempfile.TemporaryDirectory() as parent:
            make_index(model, Path(parent) / "index", count, base)
            size = sum(path.stat().st_size for path in Path(parent).rglob("*") if path.is_file())
    finally:
        done.set()
        thread.join()
    return {
        "images": count,
        "loaded_mb": before / 1e6,
        "peak_mb": most[0] / 1e6,
        "above_loaded_mb": (most[0] - before) / 1e6,
        "index_mb": size / 1e6,
    }
