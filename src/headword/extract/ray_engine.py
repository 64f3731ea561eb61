"""The same job on Ray Data: actors that load the model once, on one machine or a cluster.

Items go out by their places, features come back with their rows' numbers, and the driver alone writes the
store. A block whose worker dies is computed again by another; its rows come back once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from headword.data.items import Item, all_files
from headword.encoders import VisionEncoder
from headword.errors import HeadwordError, MissingExtraError
from headword.extract.job import Computed, Job

BLOCK_BATCHES = 4
"""Batches in a block: what is computed again where a worker dies."""


class Worker:
    """An actor: loads the encoder when it starts and keeps its engine open."""

    def __init__(self, loader: Callable[[], VisionEncoder], settings: dict[str, Any]) -> None:
        self._job = Job(loader(), **settings)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Rows of `row` and `item` → `row`, `embedding` (zeros for none) and `error` ("" for none)."""
        items = list(rows["item"])
        embeddings = np.zeros((len(items), self._job.vision.dim), np.float32)
        errors = np.full(len(items), "", dtype=object)
        for computed in self._job.run(items):
            embeddings[computed.read] = computed.features.numpy()
            for place, error in computed.errors.items():
                errors[place] = error
        return {"row": rows["row"], "embedding": embeddings, "error": errors}


def run_on_ray(
    job: Job, loader: Callable[[], VisionEncoder], workers: int | None, items: Sequence[Item]
) -> Iterator[Computed]:
    """A job's items → their features, in the order in which they are done, on the cluster that `RAY_ADDRESS`
    names, else on this machine.

    `loader` loads the same encoder on a worker; `workers` are actors, None for one a GPU, or one for every
    two processors.
    """
    ray = connect()
    if not items:
        return
    if not all_files(items):
        raise HeadwordError(
            "--engine ray reads files, URLs and shards; data sets and pictures in memory are local"
        )
    on_gpu = job.vision.device.type == "cuda"
    resources = ray.cluster_resources()
    cpus = int(resources.get("CPU", 1))
    workers = workers or max(1, int(resources.get("GPU", 0)) if on_gpu else cpus // 2)
    settings = {
        "count": job.count,
        "like": job.choice,
        "exact": job.plan is None,
        "draft": job.draft,
        "batch_size": job.batch_size,
    }
    blocks = -(-len(items) // (job.batch_size * BLOCK_BATCHES))
    rows = [{"row": row, "item": item} for row, item in enumerate(items)]
    ray.data.DataContext.get_current().enable_progress_bars = False
    done = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        Worker,
        fn_constructor_args=(loader, settings),
        batch_size=job.batch_size,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=workers),
        # One processor stays free for what Ray Data itself runs, or a small cluster would stand still.
        num_cpus=None if on_gpu else max(1, (cpus - 1) // workers),
        num_gpus=1 if on_gpu else None,
    )
    seen = np.zeros(len(items), dtype=bool)
    for part in done.iter_batches(batch_size=None, batch_format="numpy"):
        new = np.flatnonzero(~seen[part["row"]])  # a block may be computed twice
        places = part["row"][new].tolist()
        seen[places] = True
        errors = {place: str(why) for place, why in zip(places, part["error"][new], strict=True) if why}
        vectors = [part["embedding"][row] for row in new if not part["error"][row]]
        features = torch.from_numpy(np.stack(vectors)) if vectors else torch.empty(0, job.vision.dim)
        yield Computed(places, features, errors)
    if not seen.all():
        raise HeadwordError(
            f"Ray lost {int((~seen).sum()):,} of {len(items):,} images; run the same command again"
        )


def connect() -> Any:
    """Ray, started or joined."""
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise MissingExtraError("the Ray engine", "scale") from None
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError) as error:
            raise HeadwordError(f"cannot reach the Ray cluster: {error}".splitlines()[0]) from error
    return ray
