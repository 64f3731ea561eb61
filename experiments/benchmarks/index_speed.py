"""Seconds and memory of indexing, and milliseconds of a query from words to hits.

Images: flickr8k's 8,000 (HEADWORD_DATA), whose features the cache is made to hold first; then 100 new ones.
Queries: indexes of 100,000 and 1,000,000 images that do not exist, with features (1,280-d) noise around
flickr8k's; a different text each time, text encoding included, in a warm process; medians. Memory: of a
process that indexes 100,000 synthetic features, above what it holds with the model loaded.

Run: python -m experiments index-speed [images|queries|memory] ... [--sizes 100000 1000000] [--threads 2]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import headword
from experiments.benchmarks.common import data_root, write
from experiments.benchmarks.synthetic_index import make_index
from headword.data.folders import list_images
from headword.model import DualEncoder
from headword.search import Index, Query, build_index

NEW = 100
QUERIES = 40


def seconds(work: Callable[[], Any]) -> dict[str, float]:
    """Of the clock, and of this process's processors."""
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}


def images(model: DualEncoder) -> dict[str, Any]:
    """The first index of 8,000 images, nothing new, 100 new ones, tags."""
    source = list_images(data_root() / "flickr8k" / "images")
    with tempfile.TemporaryDirectory() as parent:
        folder, out = Path(parent) / "images", Path(parent) / "index"
        shutil.copytree(source[0].parent, folder)
        held = [folder / path.name for path in source[-NEW:]]
        for path in held:
            path.rename(Path(parent) / path.name)
        first = model.image_features(list_images(folder))  # into the cache
        result: dict[str, Any] = {
            "images": len(first),
            "first": seconds(lambda: build_index(model, folder, out)),
            "nothing_new": seconds(lambda: build_index(model, folder, out)),
        }
        for path in held:
            (Path(parent) / path.name).rename(path)
        result["new_images"] = NEW
        result["new"] = seconds(lambda: build_index(model, folder, out))
        alone = Path(parent) / "alone"
        alone.mkdir()
        for path in held:
            shutil.copy(path, alone / path.name)
        result["the_new_by_themselves"] = seconds(lambda: build_index(model, alone, Path(parent) / "other"))
        index = Index.open(out, model=model)
        labels = [entry.name for entry in model.classes[::50]]
        result["labels"] = len(labels)
        result["tag"] = seconds(lambda: index.tag(labels))
        return result


def queries(model: DualEncoder, base: Tensor, sizes: list[int], k: int = 10) -> list[dict[str, Any]]:
    """Milliseconds from words to hits."""
    texts = [entry.synonyms[0] if entry.synonyms else entry.name for entry in model.classes]
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as parent:
            out = Path(parent) / "index"
            made = seconds(partial(make_index, model, out, size, base))
            index = Index.open(out, model=model)
            took: list[dict[str, float]] = []
            for n in range(QUERIES + 3):
                query = Query(text=f"{texts[n]} in the park, number {n}")
                took.append(seconds(partial(index.search, query, k=k)))
            encoding = [seconds(partial(model.encode_text, [f"{text} at night"])) for text in texts[:QUERIES]]
            opened = seconds(partial(Index.open, out, model=model))
            found.append(
                {
                    "images": size,
                    "dim": model.vision.dim,
                    "made": made,
                    "open_ms": 1000 * opened["seconds"],
                    "p50_ms": 1000 * statistics.median(one["seconds"] for one in took[3:]),
                    "p50_cpu_ms": 1000 * statistics.median(one["cpu_seconds"] for one in took[3:]),
                    "of_which_text_p50_ms": 1000 * statistics.median(one["seconds"] for one in encoding),
                }
            )
    return found


def memory(model: DualEncoder, base: Tensor, count: int = 100_000) -> dict[str, float]:
    """Peak of this process while it makes an index: anonymous memory, as mapped files are the system's."""
    import threading

    def anonymous() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3

    before, most, done = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    with tempfile.TemporaryDirectory() as parent:
        make_index(model, Path(parent) / "index", count, base)
        size = sum(path.stat().st_size for path in Path(parent).rglob("*") if path.is_file())
    done.set()
    thread.join()
    return {
        "images": count,
        "loaded_mb": before,
        "peak_mb": most[0],
        "above_loaded_mb": most[0] - before,
        "index_mb": size / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["images", "queries", "memory"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    begin = time.perf_counter()
    model = headword.recycle(device="cpu")
    result: dict[str, Any] = {"threads": given.threads, "model_seconds": time.perf_counter() - begin}
    base = model.image_features(list_images(data_root() / "flickr8k" / "images"))
    if "images" in given.parts:
        result["images"] = images(model)
    if "memory" in given.parts:
        result["memory"] = memory(model, base)
    if "queries" in given.parts:
        result["queries"] = queries(model, base, given.sizes)
    write("index_speed" if len(given.parts) == 3 else f"index_speed_{given.parts[0]}", result)


if __name__ == "__main__":
    if not os.environ.get("HEADWORD_DATA"):
        sys.exit("set HEADWORD_DATA to a folder that has data/ (see experiments/benchmarks/README.md)")
    main()
