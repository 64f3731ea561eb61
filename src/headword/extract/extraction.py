"""`extract_features`: a source of images → a feature store, going on where an earlier run stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from headword import __version__
from headword.data.items import Item
from headword.encoders import VisionEncoder, load_vision
from headword.errors import HeadwordError
from headword.extract.engines import Choice, choose
from headword.extract.features import Progress
from headword.extract.given import items_of
from headword.extract.job import Computed, Job
from headword.extract.store import HEADER, OK, StoreWriter, read_header, read_status
from headword.files import expand


@dataclass(frozen=True, slots=True)
class Shared:
    """How features become embeddings in the shared space of a dual encoder."""

    project: Callable[[Tensor], Tensor]
    """Features `[N, d]` → what is stored `[N, D]`."""
    dim: int
    """Width D of the shared space."""
    identity: str
    """A hash of all that the projection depends on."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """What a run did."""

    folder: Path
    rows: int
    """Rows of the store."""
    ok: int
    """Rows that have an embedding."""
    unreadable: int
    resumed: int
    """Rows that were there before."""
    engine: str
    precision: str
    note: str | None
    """Why the engine is not the one that was chosen first."""
    seconds: float
    notes: tuple[str, ...]
    """What of the source was left out, for people."""
    images_per_second: float
    """Of this run, from the first image's reading to the last row's writing."""


def extract_features(
    vision: VisionEncoder,
    source: object,
    out: str | os.PathLike[str],
    *,
    shared: Shared | None = None,
    engine: str = "auto",
    dtype: str = "auto",
    store_dtype: str = "float32",
    batch_size: int = 32,
    workers: int | None = None,
    draft: bool = True,
    progress: Progress | None = None,
    loader: Callable[[], VisionEncoder] | None = None,
) -> Extraction:
    """Images of any source → a feature store.

    Args:
        vision: the encoder.
        source: a folder, glob, table of paths, WebDataset shards, Hugging Face data set, URL, or images: see
            `headword.data.listing`.
        out: the store's folder. Rows that are there already are left alone and not computed again, also those
            of unreadable images.
        shared: store embeddings in the shared space, not features.
        engine: "auto", "torch", "openvino" or "ray".
        dtype: "auto", "float32" or "bfloat16": the precision that is computed in.
        store_dtype: "float32" or "float16": the precision that is stored.
        batch_size: images that go through the model together.
        workers: how many decode at once, or with Ray how many actors compute; None for as many as there are
            processors.
        draft: whether JPEG photos above 1,000 pixels may be decoded at a fraction of their size.
        progress: called after every batch with (done, all) of this run.
        loader: with Ray, loads the encoder on a worker; `load_vision` by the encoder's name when not given.

    Raises:
        HeadwordError: in one line, if the source or a setting is wrong, or the store cannot be written or was
            made with other settings. Images that cannot be read are rows with a status, not errors.
    """
    if store_dtype not in {"float32", "float16"}:
        raise HeadwordError(f"unknown store dtype {store_dtype!r}; choose float32 or float16")
    if batch_size < 1 or (workers is not None and workers < 1):
        raise HeadwordError("batch size and workers must be 1 or more")
    items = items_of(source)
    folder = expand(out)
    job = Job(
        vision,
        len(items),
        engine="auto" if engine == "ray" else engine,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        draft=draft,
        **_as_before(folder, vision, engine, dtype),
    )
    run: Callable[[Sequence[Item]], Iterator[Computed]] = job.run
    if engine == "ray":
        from headword.extract.ray_engine import connect, run_on_ray

        connect()
        run = partial(run_on_ray, job, loader or _loader_of(vision), workers)
    header = {
        "headword": __version__,
        "space": "features" if shared is None else "shared",
        "dim": vision.dim if shared is None else shared.dim,
        "dtype": store_dtype,
        **job.key,
        "model": None if shared is None else shared.identity,
        "source": str(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__,
    }
    start = time.perf_counter()
    with _going_on(folder, len(items)), StoreWriter(folder, header) as writer:
        resumed = writer.rows
        left = [item for item in items if item.id not in writer.done]
        done = 0
        for computed in run(left):
            writer.describe(engine=job.choice.engine, precision=job.choice.dtype, engine_note=job.note)
            features = computed.features
            writer.add(
                [left[place].id for place in computed.places],
                [left[place].path for place in computed.places],
                [computed.errors.get(place, OK) for place in computed.places],
                features if shared is None else shared.project(features),
            )
            done += len(computed.places)
            if progress is not None:
                progress(done, len(left))
    seconds = time.perf_counter() - start
    return Extraction(
        folder=folder,
        rows=writer.rows,
        ok=writer.ok,
        unreadable=writer.rows - writer.ok,
        resumed=resumed,
        engine=job.choice.engine,
        precision=job.choice.dtype,
        note=job.note,
        seconds=seconds,
        notes=items.notes,
        images_per_second=done / seconds,
    )


@contextmanager
def _going_on(folder: Path, count: int) -> Iterator[None]:
    """Says what an interrupted run leaves; its writer has written by then what was computed."""
    try:
        yield
    except KeyboardInterrupt:
        rows = sum(1 for _ in read_status(folder))
        raise KeyboardInterrupt(
            f"{rows:,} of {count:,} images are in {folder}; the same command goes on from there"
        ) from None


def _loader_of(vision: VisionEncoder) -> Callable[[], VisionEncoder]:
    """Loads the same encoder again, by its name, in another process."""
    if vision.source.kind in ("module", "trained"):
        raise HeadwordError(
            "a module of your own is not known on other machines; give loader=, which makes it there"
        )
    dtype = "auto" if vision.auto_dtype else str(vision.dtype).removeprefix("torch.")
    head, labels = vision.named_head()
    return partial(load_vision, vision.name, names=labels.classes, head=head.modules, dtype=dtype)


def _as_before(folder: Path, vision: VisionEncoder, engine: str, dtype: str) -> dict[str, Any]:
    """A store that has rows goes on as it began, unless other things are asked for by name."""
    if not (folder / HEADER).is_file() or not any(folder.glob("part-*.parquet")):
        return {}
    header = read_header(folder)
    before = Choice(str(header.get("engine")), str(header.get("precision")))
    if engine not in {"auto", "ray", before.engine} or dtype not in {"auto", before.dtype}:
        return {}
    choose(vision, None, engine=before.engine, dtype=before.dtype)  # it may not be installed here
    return {"like": before, "exact": bool(header.get("exact"))}
