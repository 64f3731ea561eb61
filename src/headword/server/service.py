"""An index and its model as the server uses them: one model thread, texts kept, changes noticed."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
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
from headword.classifier import Classifier
from headword.data.images import load_image_bytes
from headword.data.images import transformed as shaped
from headword.encoders import VisionEncoder
from headword.encoders.prompts import check_labels, check_templates, tidy_labels
from headword.errors import HeadwordError
from headword.model import DualEncoder
from headword.results import environment
from headword.search.filter import Condition
from headword.search.index import Index, coverage
from headword.search.manifest import NAME as MANIFEST
from headword.search.query import Hit, Query
from headword.search.tagging import tag_index
from headword.server.model_thread import ModelThread, Overloaded
from headword.server.outward import outward
from headword.server.schemas import MAX_PIXELS
from headword.server.text_vectors import remembering

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_TEXTS_AT_ONCE = 32
_DECODED_AT_ONCE = 2  # pictures that are in memory whole: with transparency, 0.6 GB each
_PICTURE_SECONDS = 30.0  # for its turn


class BusyError(Exception):
    """What was asked for is under way already."""


@dataclass(frozen=True, slots=True)
class Serving:
    """One version of the index and its model; a request keeps to the one it began with."""

    index: Index
    model: DualEncoder


@dataclass(frozen=True, slots=True)
class Asked:
    """A search as it waits for the model thread."""

    query: Query
    k: int
    where: Condition | None
    transformed_for: DualEncoder | None = None
    """Whose transform the query's image has been through."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, all of it in one version of the index."""

    hits: list[Hit]
    coverage: tuple[float | None, bool] | None
    """See `Index.coverage`; None without a text."""
    version: str


class Service:
    """What the routes of the API call. Its coroutines belong to one event loop.

    Args:
        index: the index; when another process has changed it, its new version is taken up.
    """

    def __init__(self, index: Index) -> None:
        self._path = index.path
        self._now = Serving(index, remembering(index.model))
        self._seen: tuple[int, int] | None = None  # of the manifest, when it was last read
        self._pictures = asyncio.Semaphore(_DECODED_AT_ONCE)
        self._tagging = asyncio.Lock()
        self._said: dict[str, dict[str, Any]] = {}
        self._thread: ModelThread[Asked, Found] = ModelThread(self._answer)

    @property
    def model(self) -> DualEncoder:
        """The index's model."""
        return self._now.model

    @property
    def root(self) -> Path:
        """The indexed folder."""
        return self._now.index.root

    def warm(self) -> None:
        """Do now what would make the first search slow."""
        self._thread.ask(Asked(Query(text="a picture"), 1, None)).result()

    def close(self) -> None:
        """End the model thread."""
        self._thread.close()

    # ---- searching

    async def search(self, query: Query, *, k: int, where: Condition | None, upload: bytes | None) -> Found:
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
        serving = None
        if upload is not None:
            serving = self._now
            query = replace(query, image=await self._pixels(serving, upload, "the picture that was sent"))
        query.check()
        asked = Asked(query, k, where, None if serving is None else serving.model)
        return await asyncio.wrap_future(self._thread.ask(asked))

    async def browse(self, *, k: int, offset: int, where: Condition | None) -> tuple[list[Hit], int, str]:
        """Pictures in the order of their paths from the `offset`-th on, how many there are, the version."""

        def read(index: Index) -> tuple[list[Hit], int]:
            return index.browse(k=k, offset=offset, where=where), index.count(where)

        (hits, total), version = await self._read(read)
        return hits, total, version

    # ---- the model by itself

    async def embed(
        self, texts: Sequence[str], images: Sequence[bytes], template: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Texts and pictures that were sent → unit vectors `[N, D]` and `[M, D]`, as the model gives them."""
        serving = await self._run(self._newest)
        words = await self._embed_texts(serving, texts, check_templates(template))
        encode = serving.model.encode_image
        vectors = [
            await self._run(partial(encode, pixels)) async for pixels in self._each_pixels(serving, images)
        ]
        return words, _joined(vectors, serving)

    async def classify(
        self,
        images: Sequence[bytes],
        pictures: Sequence[str],
        labels: Sequence[str],
        *,
        template: Sequence[str] | None,
        multi_label: bool,
        none_of_these: bool,
    ) -> list[list[tuple[str, float, float | None]]]:
        """For each picture sent and each of the index its labels, with probability and cosine, best first.

        They are centred as the index is: a picture's first label is what `tag` gives it.
        """
        serving = await self._run(self._newest)
        classifier = await self._classifier(
            serving, labels, template, multi_label=multi_label, none_of_these=none_of_these
        )
        queries = [Query(image=pixels) async for pixels in self._each_pixels(serving, images)]
        queries += [Query(like=path) for path in pictures]
        vectors = [await self._run(partial(serving.index.encode, [query])) for query in queries]
        embeddings = _joined(vectors, serving)
        chances = classifier.probabilities(classifier.logits(embeddings))
        cosines, names = classifier.cosines(embeddings), classifier.classes_.tolist()
        return [
            sorted(zip(names, chance, [*cosine, None], strict=False), key=lambda entry: -entry[1])
            for chance, cosine in zip(chances.tolist(), cosines.tolist(), strict=True)
        ]

    async def _classifier(
        self, serving: Serving, labels: Sequence[str], template: Sequence[str] | None, **options: bool
    ) -> Classifier:
        """Its texts are embedded in pieces between searches, and remembered."""
        names = check_labels(tidy_labels(labels))
        templates = check_templates(serving.model.template if template is None else template)
        await self._embed_texts(serving, names, templates)
        return await self._run(partial(serving.model.classifier, names, templates=templates, **options))

    async def _embed_texts(self, serving: Serving, texts: Sequence[str], template: tuple[str, ...]) -> Tensor:
        """In pieces between searches."""
        parts = [texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE)]
        encode = partial(serving.model.encode_text, template=template)
        return _joined([await self._run(partial(encode, part)) for part in parts], serving)

    async def _each_pixels(self, serving: Serving, images: Sequence[bytes]) -> AsyncIterator[Tensor]:
        one = "the picture that was sent" if len(images) == 1 else "picture {} of those that were sent"
        for place, image in enumerate(images, start=1):
            yield await self._pixels(serving, image, one.format(place))

    async def _pixels(self, serving: Serving, image: bytes, name: str) -> Tensor:
        """A picture, decoded and transformed beside the model thread: `[1, 3, H, W]`."""
        async with _turn(self._pictures):
            return await in_thread(partial(transformed, serving.model.vision, image, name))

    # ---- the index

    async def tag(
        self, labels: Sequence[str], *, template: Sequence[str] | None, none_of_these: bool
    ) -> tuple[dict[str, int], str]:
        """Give every picture of the index its best label; returns how many got which, and the version.

        Raises:
            HeadwordError: for bad labels.
            BusyError: if the index is being changed, here or by another process.
        """
        names = check_labels(tidy_labels(labels))
        check_templates(self.model.template if template is None else template)
        if self._tagging.locked():
            raise BusyError("the folder is being tagged already; try again when that is done")
        async with self._tagging:
            serving = await self._run(self._newest)
            classifier = await self._classifier(serving, names, template, none_of_these=none_of_these)
            work = partial(tag_index, self._path, serving.model, classifier)
            try:
                await in_thread(work)
            except HeadwordError as error:  # labels and templates were found good: it is the index
                raise BusyError(str(error)) from error
        return await self.tags()

    async def tags(self) -> tuple[dict[str, int], str]:
        """Tags, how many pictures have each, and the version."""
        return await self._read(Index.tags)

    async def _read(self, read: Callable[[Index], T]) -> tuple[T, str]:
        """What there is to read in the index, and in which version; again if that was replaced under it."""
        serving = await self._run(self._newest)
        try:
            return await in_thread(partial(read, serving.index)), serving.index.version
        except Exception:
            if await self._run(self._newest) is serving:
                raise
        return await self._read(read)

    async def file(self, path: str) -> Path:
        """The file of a picture of the index.

        Raises:
            HeadwordError: if there is none of this path, or its file lies outside the indexed folder.
        """
        return await in_thread(partial(self._now.index.file, path))

    async def about(self) -> dict[str, Any]:
        """The index, the model, and the versions at work."""
        serving = await self._run(self._newest)
        version = serving.index.version
        if version not in self._said:
            facts = await in_thread(partial(_about, serving))
            self._said = {version: outward(facts, self.folders)}
        return self._said[version]

    @property
    def folders(self) -> list[str]:
        """Folders of this machine that lines about the index may name."""
        return [str(self._path), str(self._now.index.root)]

    # ---- on the model thread

    def _answer(self, batch: list[Asked]) -> list[Found | Exception]:
        serving = self._newest()
        try:
            return list(self._found(serving, batch))
        except Exception as error:  # each of a batch gets its own
            if len(batch) > 1:
                return [answer for asked in batch for answer in self._answer([asked])]
            if self._newest() is not serving:  # it was replaced under the search
                return self._answer(batch)
            return [error]

    def _found(self, serving: Serving, batch: list[Asked]) -> list[Found]:
        index = serving.index
        if any(asked.transformed_for not in (None, serving.model) for asked in batch):
            raise BusyError("the index has another model by now; send the picture again")
        vectors = index.encode([asked.query for asked in batch], words=serving.model.encode_text)
        found: dict[int, list[Hit]] = {}
        for where in dict.fromkeys(asked.where for asked in batch):
            places = [place for place, asked in enumerate(batch) if asked.where == where]
            most = max(batch[place].k for place in places)
            hits = index.nearest(vectors[places], k=most, where=where)
            found |= {place: row[: batch[place].k] for place, row in zip(places, hits, strict=True)}
        texts = list(dict.fromkeys(asked.query.text for asked in batch if asked.query.text is not None))
        known: dict[str | None, tuple[float | None, bool] | None] = {}
        known |= zip(texts, coverage(serving.model, texts), strict=True)
        return [
            Found(found[place], known.get(asked.query.text), index.version)
            for place, asked in enumerate(batch)
        ]

    def _newest(self) -> Serving:
        """The index in its newest version; while that cannot be had, the one that could."""
        with suppress(OSError):
            status = (self._path / MANIFEST).stat()
            seen = (status.st_ino, status.st_mtime_ns)
            if seen != self._seen:
                self._seen = seen
                self._take_up(copy.copy(self._now.index))  # the other stays whole for those who are at it
        return self._now

    def _take_up(self, fresh: Index) -> None:
        try:
            if fresh.reload():
                same = fresh.model is self._now.index.model
                self._now = Serving(fresh, self._now.model if same else remembering(fresh.model))
        except (HeadwordError, OSError) as error:
            _LOG.warning("headword: the old index goes on answering: %s", " ".join(str(error).split()))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._thread.run(work))


async def in_thread(work: Callable[[], T]) -> T:
    """Do what waits for a disk, or takes a moment, beside the event loop."""
    return await anyio.to_thread.run_sync(work)


@asynccontextmanager
async def _turn(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """One of a few places.

    Raises:
        Overloaded: if none is free for long.
    """
    try:
        await asyncio.wait_for(places.acquire(), _PICTURE_SECONDS)
    except asyncio.TimeoutError:
        raise Overloaded from None
    try:
        yield
    finally:
        places.release()


def _joined(vectors: Sequence[Tensor], serving: Serving) -> Tensor:
    return torch.cat([torch.empty(0, serving.model.dim), *vectors])


def transformed(vision: VisionEncoder, data: bytes, name: str) -> Tensor:
    """A picture that was sent as the model reads it: float32 `[1, 3, H, W]`.

    Raises:
        HeadwordError: if it is none, has too many pixels, or the model's transform fails on it.
    """
    wanted = (3, *vision.source.input_size)

    def transform(image: Image.Image) -> Tensor:
        pixels = vision.source.transform(image)
        if isinstance(pixels, Tensor) and (pixels.shape != wanted or not bool(pixels.isfinite().all())):
            raise ValueError(f"it made {pixels.dtype} of the shape {list(pixels.shape)}, or not finite")
        return pixels

    return shaped(transform, load_image_bytes(data, name, max_pixels=MAX_PIXELS), name)[None]


def _about(serving: Serving) -> dict[str, Any]:
    index = serving.index
    return {
        "headword": __version__,
        "folder": index.root.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "images": len(index),
        "index_version": index.version,
        "index": index.about(),
        "model": serving.model.provenance(),
        "classes": len(serving.model.classes),
        "environment": environment(),
    }
