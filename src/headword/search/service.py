"""An index and its model as the server uses them: one model thread, texts kept, changes noticed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import torch
from PIL import Image
from torch import Tensor

from headword import __version__
from headword.data.images import load_image, load_image_bytes
from headword.dual_encoder import DualEncoder
from headword.encoders.prompts import check_labels, check_templates
from headword.errors import HeadwordError
from headword.results import environment
from headword.scoring import NONE_OF_THESE
from headword.search.index import Index
from headword.search.manifest import NAME as MANIFEST
from headword.search.model_thread import ModelThread
from headword.search.query import Hit, Query
from headword.search.schemas import MAX_PIXELS
from headword.search.text_vectors import TextVectors

T = TypeVar("T")

_TEXTS_AT_ONCE = 32
_COVERED = 8192  # texts whose coverage is kept
_DECODED_AT_ONCE = 4  # pictures that were sent and are in memory whole, up to 192 MB each


class BusyError(Exception):
    """What was asked for is under way already."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A search as it waits for the model thread."""

    query: Query
    k: int
    where: str | None


class Service:
    """What the routes of the API call. Its coroutines belong to one event loop.

    Args:
        index: the index; when another process has changed it, its new version is taken up.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self._texts = TextVectors(index.model)
        self._seen: tuple[int, int] | None = None  # of the manifest, when it was last read
        self._pictures = asyncio.Semaphore(_DECODED_AT_ONCE)
        self._tagging = asyncio.Lock()
        self._said: dict[str, dict[str, Any]] = {}
        self._covered: dict[str, tuple[float, bool] | None] = {}
        self._thread: ModelThread[Asked, list[Hit]] = ModelThread(self._answer)

    @property
    def model(self) -> DualEncoder:
        """The index's model."""
        return self.index.model

    def warm(self) -> None:
        """Do now what would make the first search slow, and beside it what would the first filter."""
        threading.Thread(target=self._warm_filter, daemon=True).start()
        self._thread.ask(Asked(Query(text="a picture"), 1, None)).result()

    def _warm_filter(self) -> None:
        with suppress(HeadwordError):  # the first filter will tell
            self.index.count("path = ''")

    def close(self) -> None:
        """End the model thread."""
        self._thread.close()

    # ---- searching

    async def search(self, query: Query, *, k: int, where: str | None, upload: bytes | None) -> list[Hit]:
        """The k nearest pictures, answered together with the other searches that wait.

        Args:
            query: what to look for.
            k: how many pictures.
            where: a condition they must meet.
            upload: a picture that was sent, for the query's image.

        Raises:
            HeadwordError: for a query that says nothing, a picture that cannot be read or is not in the
                index, or a bad condition.
        """
        if upload is None:
            query.check()
            return await asyncio.wrap_future(self._thread.ask(Asked(query, k, where)))
        async with self._pictures:
            query = replace(query, image=await in_thread(partial(decoded, upload)))
            query.check()
            return await asyncio.wrap_future(self._thread.ask(Asked(query, k, where)))

    async def coverage(self, text: str | None) -> tuple[float, bool] | None:
        """See `Index.coverage`; None without a text."""
        if text is None:
            return None
        if text not in self._covered:
            if len(self._covered) >= _COVERED:
                self._covered.clear()
            self._covered[text] = await self._run(partial(self.index.coverage, text))
        return self._covered[text]

    async def browse(self, *, k: int, offset: int, where: str | None) -> tuple[list[Hit], int]:
        """Pictures in the order of their paths from the `offset`-th on, and how many there are."""
        index = await self._run(self._current)
        hits = await in_thread(partial(index.browse, k=k, offset=offset, where=where))
        total = len(index) if where is None else await in_thread(partial(index.count, where))
        return hits, total

    # ---- the model by itself

    async def embed_texts(self, texts: Sequence[str], template: Sequence[str]) -> Tensor:
        """Texts → unit vectors `[N, D]`, in pieces between searches."""
        templates = check_templates(template)
        parts = [texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE)]
        vectors = [await self._run(partial(self._encode_texts, part, templates)) for part in parts]
        return torch.cat(vectors) if vectors else torch.empty(0, self.model.dim)

    async def embed_images(self, images: Sequence[bytes | Path]) -> Tensor:
        """Pictures that were sent, and files → unit vectors `[N, D]`, one by one between searches."""
        vectors = []
        for source in images:
            async with self._pictures:
                image = await in_thread(partial(decoded, source, self.index.root))
                vectors.append(await self._run(partial(self.model.encode_image, image)))
        return torch.cat(vectors) if vectors else torch.empty(0, self.model.dim)

    async def classify(
        self,
        images: Sequence[bytes | Path],
        labels: Sequence[str],
        *,
        template: Sequence[str] | None,
        multi_label: bool,
        none_of_these: bool,
    ) -> list[list[tuple[str, float, float | None]]]:
        """For each picture its labels, with probability and cosine, best first."""
        names = check_labels(labels)
        words = await self.embed_texts(names, self.model.template if template is None else template)
        cosines = await self.embed_images(images) @ words.T
        chances = self.model.scores.probabilities(
            cosines, multi_label=multi_label, none_of_these=none_of_these
        )
        names = [*names, NONE_OF_THESE] if none_of_these else names
        return [
            sorted(zip(names, chance, [*cosine, None], strict=False), key=lambda entry: -entry[1])
            for chance, cosine in zip(chances.tolist(), cosines.tolist(), strict=True)
        ]

    # ---- the index

    async def tag(
        self, labels: Sequence[str], *, template: Sequence[str] | None, none_of_these: bool
    ) -> dict[str, int]:
        """Give every picture of the index its best label; returns how many got which.

        Raises:
            HeadwordError: for bad labels.
            BusyError: if the index is being changed, here or by another process.
        """
        names = check_labels(labels)
        templates = check_templates(self.model.template if template is None else template)
        if self._tagging.locked():
            raise BusyError("the folder is being tagged already; try again when that is done")
        async with self._tagging:
            vectors = await self.embed_texts(names, templates)
            work = partial(
                self.index.tag,
                names,
                template=templates,
                none_of_these=none_of_these,
                words=lambda _: vectors,  # of these names, from the model thread
            )
            try:
                return await in_thread(work)
            except HeadwordError as error:  # labels and templates were found good: it is the index
                raise BusyError(str(error)) from error

    async def tags(self) -> dict[str, int]:
        """Tags, and how many pictures have each."""
        index = await self._run(self._current)
        return await in_thread(index.tags)

    async def file(self, path: str) -> Path:
        """The file of a picture of the index.

        Raises:
            HeadwordError: if there is none of this path, or its file lies outside the indexed folder.
        """
        return await in_thread(partial(self.index.file, path))

    async def about(self) -> dict[str, Any]:
        """The index, the model, and the versions at work."""
        index = await self._run(self._current)
        if index.version not in self._said:
            self._said = {index.version: await self._run(partial(_about, index))}
        return self._said[index.version]

    # ---- on the model thread

    def _answer(self, batch: list[Asked]) -> list[list[Hit] | Exception]:
        try:
            return list(self._found(self._current(), batch))
        except HeadwordError as error:
            if len(batch) == 1:
                return [error]
            return [answer for asked in batch for answer in self._answer([asked])]  # one's mistake is its own

    def _found(self, index: Index, batch: list[Asked]) -> list[list[Hit]]:
        vectors = index.encode([asked.query for asked in batch], words=self._texts)
        found: dict[int, list[Hit]] = {}
        for where in dict.fromkeys(asked.where for asked in batch):
            places = [place for place, asked in enumerate(batch) if asked.where == where]
            most = max(batch[place].k for place in places)
            hits = index.nearest(vectors[places], k=most, where=where)
            found |= {place: row[: batch[place].k] for place, row in zip(places, hits, strict=True)}
        return [found[place] for place in range(len(batch))]

    def _current(self) -> Index:
        """The index, in its newest version."""
        with suppress(HeadwordError, OSError):  # while it is being replaced, what is open answers
            status = (self.index.path / MANIFEST).stat()
            seen = (status.st_ino, status.st_mtime_ns)
            if seen != self._seen:
                self.index.reload()
                if self.index.model is not self._texts.model:
                    self._texts = TextVectors(self.index.model)
                self._seen = seen
        return self.index

    def _encode_texts(self, texts: Sequence[str], template: tuple[str, ...]) -> Tensor:
        return self._texts(texts, template)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._thread.run(work))


async def in_thread(work: Callable[[], T]) -> T:
    """Do what waits for a disk, or takes a moment, beside the event loop."""
    return await anyio.to_thread.run_sync(work)


def decoded(source: bytes | Path, root: Path | None = None) -> Image.Image:
    """A picture that was sent, or a file, which must lie in `root`.

    Raises:
        HeadwordError: if it is none, or has too many pixels.
    """
    if isinstance(source, Path):
        return load_image(source, inside=root)
    return load_image_bytes(source, "the picture that was sent", max_pixels=MAX_PIXELS)


def _about(index: Index) -> dict[str, Any]:
    return {
        "headword": __version__,
        "folder": str(index.root).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "images": len(index),
        "index_version": index.version,
        "index": index.about(),
        "model": index.model.provenance(),
        "classes": len(index.model.classes),
        "environment": environment(),
    }
