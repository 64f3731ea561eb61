"""An index and its model as the server uses them: one model thread, texts kept, changes noticed."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from starlette.concurrency import run_in_threadpool
from torch import Tensor

from headword import __version__
from headword.classifier import Classifier
from headword.data.photo import photo_facts
from headword.data.safe_images import load_image_bytes, transformed
from headword.errors import HeadwordError
from headword.files import printable
from headword.model import DualEncoder
from headword.results import environment
from headword.search.duplicates import Duplicates, find_duplicates
from headword.search.filter import Condition
from headword.search.index import Index
from headword.search.manifest import NAME as MANIFEST
from headword.search.query import Hit, Hits, Query
from headword.search.tagging import Tagged, correct_tags, restore_tags, tag_index
from headword.server.guard import outward
from headword.server.memory import Thumbnails, remembering
from headword.server.model_thread import ModelThread, Overloaded
from headword.server.schemas import MAX_PIXELS, PictureFacts

T = TypeVar("T")

MAX_COMPARED = 50_000
"""Pictures of an index that are compared with each other for the page: a minute or two."""

_LOG = logging.getLogger(__name__)

_TEXTS_AT_ONCE = 32
_DECODED_AT_ONCE = 2  # pictures that are in memory whole: with transparency, 0.6 GB each
_SHRUNK_AT_ONCE = 4  # image files that are made into thumbnails
_TURN_SECONDS = 30.0  # that a picture waits to be decoded


class BusyError(Exception):
    """What is asked for is under way already."""


class NotInIndexError(HeadwordError):
    """A picture is asked for that the index does not have, or whose file is gone."""


@dataclass(frozen=True, slots=True)
class Serving:
    """One version of the index and its model; a request keeps to the one it began with."""

    index: Index
    model: DualEncoder


@dataclass(frozen=True, slots=True)
class Search:
    """A search as it waits for the model thread."""

    query: Query
    k: int
    where: Condition | None
    transformed_for: DualEncoder | None = None
    """Whose transform the query's image has been through."""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found, all of it in one version of the index."""

    hits: list[Hit]
    total: int
    """Pictures that were searched."""
    least_shown: float | None
    """As in `Hits`."""
    doubt: str | None
    """The model's."""
    version: str


class Service:
    """What the routes of the API call. Its coroutines belong to one event loop.

    When another process has changed the index, its new version is taken up.
    """

    def __init__(self, index: Index) -> None:
        self.path = index.path
        self._serving = Serving(index, remembering(index.model))
        self._manifest: tuple[int, int] | None = None  # the file, when it was last read
        self._about: dict[str, Any] = {}  # of a version
        self._thumbnails = Thumbnails()
        self._decoding = asyncio.Semaphore(_DECODED_AT_ONCE)
        self._shrinking = asyncio.Semaphore(_SHRUNK_AT_ONCE)
        self._comparing = asyncio.Lock()
        self._compared: tuple[tuple[str, float | None], Duplicates] | None = None
        self._tagging = asyncio.Lock()
        self._tagged: Tagged | None = None  # what can be undone
        self._thread: ModelThread[Search, SearchResult] = ModelThread(self._answer)

    @property
    def model(self) -> DualEncoder:
        """The index's model."""
        return self._serving.model

    @property
    def root(self) -> Path:
        """The indexed folder."""
        return self._serving.index.root

    @property
    def folders(self) -> list[str]:
        """Folders of this machine that lines about the index may name."""
        return [str(self.path), str(self.root)]

    def warm(self) -> None:
        """Do now what would make the first search slow."""
        self._thread.ask(Search(Query(text="a picture"), 1, None)).result()

    def close(self) -> None:
        """End the model thread."""
        self._thread.close()

    async def search(self, search: Search) -> SearchResult:
        """Answered together with the other searches that wait; errors as `Index.search`."""
        return await asyncio.wrap_future(self._thread.ask(search))

    async def newest(self) -> Serving:
        """The index in its newest version."""
        return await self.run(self._refreshed)

    async def run(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        """Do a piece of work on the model thread, between two batches of searches."""
        return await asyncio.wrap_future(self._thread.run(work, *args, **options))

    async def read(self, read: Callable[[Index], T]) -> tuple[T, str]:
        """What there is to read in the index, and in which version; again if that was replaced under it."""
        serving = await self.newest()
        try:
            return await run_in_threadpool(read, serving.index), serving.index.version
        except Exception:
            if await self.newest() is serving:
                raise
        return await self.read(read)

    async def encode_text(
        self, model: DualEncoder, texts: Sequence[str], templates: tuple[str, ...]
    ) -> Tensor:
        """N texts → unit vectors `[N, D]`, in pieces between searches."""
        parts = [texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE)]
        vectors = [await self.run(model.encode_text, part, templates=templates) for part in parts]
        return torch.cat([torch.empty(0, model.dim), *vectors])

    async def classifier(
        self, model: DualEncoder, labels: Sequence[str], *, templates: tuple[str, ...], **options: bool
    ) -> Classifier:
        """`model.classifier`, whose texts are embedded in pieces between searches, and remembered."""
        await self.encode_text(model, labels, templates)
        return await self.run(model.classifier, labels, templates=templates, **options)

    def check_tagging(self) -> None:
        """Refuse to change tags while others are being given."""
        if self._tagging.locked():
            raise BusyError("the folder is being tagged already; try again when that is done")

    async def tag(self, model: DualEncoder, classifier: Classifier) -> None:
        """Tag every picture of the index by a classifier of its model; this can be undone."""
        self.check_tagging()
        async with self._tagging:
            self._tagged = await run_in_threadpool(tag_index, self.path, model, classifier)

    async def undo_tags(self) -> None:
        """Give the pictures the tags again that the last `tag` replaced."""
        self.check_tagging()
        async with self._tagging:
            if self._tagged is None:
                raise BusyError("there are no tags of before")
            await run_in_threadpool(restore_tags, self.path, self._tagged)
            self._tagged = None

    async def correct_tags(self, said: Mapping[str, Mapping[str, bool]]) -> None:
        """Say by hand which tags pictures have, and have not."""
        self.check_tagging()
        async with self._tagging:
            await run_in_threadpool(correct_tags, self.path, said)

    async def duplicates(self, similarity: float | None) -> tuple[Duplicates, str]:
        """Pictures that are there more than once, and in which version of the index; kept."""
        serving = await self.newest()
        if len(serving.index) > MAX_COMPARED:
            raise HeadwordError(f"the index has more than {MAX_COMPARED:,} pictures; use headword duplicates")
        asked = (serving.index.version, similarity)
        async with self._comparing:
            if self._compared is None or self._compared[0] != asked:

                def encode(images: list[Image.Image]) -> Tensor:
                    return self._thread.run(serving.model.image_features, images).result()

                found = await run_in_threadpool(
                    find_duplicates, serving.index, similarity=similarity, encode=encode
                )
                self._compared = (asked, found)
            return self._compared[1], serving.index.version

    async def pixels(
        self, model: DualEncoder, data: bytes, name: str = "the picture that was sent"
    ) -> Tensor:
        """A picture that was sent, as the model reads it: float32 `[1, 3, H, W]`, made beside its thread."""
        try:
            await asyncio.wait_for(self._decoding.acquire(), _TURN_SECONDS)
        except asyncio.TimeoutError:
            raise Overloaded from None
        try:
            return await run_in_threadpool(_pixels, model, data, name)
        finally:
            self._decoding.release()

    async def each_pixels(self, model: DualEncoder, images: Sequence[bytes]) -> AsyncIterator[Tensor]:
        """`pixels` of pictures that were sent together."""
        for place, data in enumerate(images, start=1):
            named = {} if len(images) == 1 else {"name": f"picture {place} of those that were sent"}
            yield await self.pixels(model, data, **named)

    async def file(self, path: str) -> Path:
        """The file of a picture of the index."""
        with _not_in_index():
            return await run_in_threadpool(self._serving.index.file, path)

    async def facts(self, path: str) -> PictureFacts:
        """What the file of a picture of the index says of itself."""
        file = await self.file(path)
        with _not_in_index():
            photo, status = await run_in_threadpool(
                lambda: (photo_facts(file, inside=self.root), file.stat())
            )
        modified = datetime.fromtimestamp(status.st_mtime, timezone.utc)
        return PictureFacts(path=path, bytes=status.st_size, modified=modified, **asdict(photo))

    async def thumbnail(self, path: str, side: int) -> bytes:
        """A picture of the index as a JPEG of at most `side` pixels a side."""
        file = await self.file(path)
        with _not_in_index():
            async with self._shrinking:
                return await run_in_threadpool(self._thumbnails.get, file, side, self.root)

    async def about(self) -> dict[str, Any]:
        """The index, the model, and the versions at work."""
        serving = await self.newest()
        if self._about.get("index_version") != serving.index.version:
            self._about = outward(await run_in_threadpool(_about, serving), self.folders)
        return self._about

    # ---- on the model thread

    def _answer(self, batch: list[Search]) -> list[SearchResult | Exception]:
        serving = self._refreshed()
        try:
            return list(self._results(serving, batch))
        except Exception as error:  # each of a batch gets its own
            if len(batch) > 1:
                return [answer for search in batch for answer in self._answer([search])]
            if self._refreshed() is not serving:  # it was replaced under the search
                return self._answer(batch)
            return [error]

    def _results(self, serving: Serving, batch: list[Search]) -> list[SearchResult]:
        index, model = serving.index, serving.model
        if any(search.transformed_for not in (None, model) for search in batch):
            raise BusyError("the index has another model by now; send the picture again")
        vectors = index.encode([search.query for search in batch], words=model.encode_text)
        hits: dict[int, Hits] = {}
        totals: dict[Condition | None, int] = {}
        for where in dict.fromkeys(search.where for search in batch):
            places = [place for place, search in enumerate(batch) if search.where == where]
            most = max(batch[place].offset + batch[place].k for place in places)
            totals[where] = index.count(where)
            judged = [batch[place].query.is_words for place in places]
            found = index.nearest(vectors[places], k=most, where=where, judged=judged)
            hits |= zip(places, found, strict=True)
        return [
            SearchResult(
                hits[place][search.offset : search.offset + search.k],
                totals[search.where],
                hits[place].least_shown,
                model.doubt,
                index.version,
            )
            for place, search in enumerate(batch)
        ]

    def _refreshed(self) -> Serving:
        """The index in its newest version; while that cannot be had, the one that could."""
        with suppress(OSError):
            status = (self.path / MANIFEST).stat()
            manifest = (status.st_ino, status.st_mtime_ns)
            if manifest != self._manifest:
                self._manifest = manifest
                self._take_up(copy.copy(self._serving.index))  # the other stays whole for those who are at it
        return self._serving

    def _take_up(self, fresh: Index) -> None:
        try:
            if fresh.reload():
                same = fresh.model is self._serving.index.model
                self._serving = Serving(fresh, self.model if same else remembering(fresh.model))
        except (HeadwordError, OSError) as error:
            _LOG.warning("headword: the old index goes on answering: %s", " ".join(str(error).split()))


@contextmanager
def _not_in_index() -> Iterator[None]:
    try:
        yield
    except HeadwordError as error:
        raise NotInIndexError(str(error)) from error


def _pixels(model: DualEncoder, data: bytes, name: str) -> Tensor:
    source = model.vision.source
    shape = (3, *source.input_size)

    def transform(image: Image.Image) -> Tensor:
        pixels = source.transform(image)
        if isinstance(pixels, Tensor) and (pixels.shape != shape or not bool(pixels.isfinite().all())):
            raise ValueError(f"it made {pixels.dtype} of the shape {list(pixels.shape)}, or not finite")
        return pixels

    return transformed(transform, load_image_bytes(data, name, max_pixels=MAX_PIXELS), name)[None]


def _about(serving: Serving) -> dict[str, Any]:
    index = serving.index
    return {
        "headword": __version__,
        "folder": printable(index.root.name),
        "images": len(index),
        "index_version": index.version,
        "index": index.about(),
        "model": serving.model.provenance(),
        "classes": len(serving.model.classes),
        "environment": environment(),
    }
