"""Where words are in a picture of the index: the route /maps, and the places of pictures it keeps."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeAlias

from fastapi import APIRouter, Depends, Request
from fastapi import Path as FromPath
from fastapi import Query as FromQuery
from PIL import Image
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from torch import Tensor

from headword.data.safe_images import load_image
from headword.dense.places import DenseFeatures
from headword.dense.regions import regions
from headword.encoders.prompts import check_labels
from headword.model import DualEncoder
from headword.server.memory import Recent
from headword.server.model_thread import Overloaded
from headword.server.schemas import Label
from headword.server.service import Service

MAX_WORDS = 8
MAX_PLACES = 100_000_000
"""Bytes of pictures' places that are kept: those of a dozen pictures, or more."""

_REGIONS = 5  # of each of the words, at most
_AT_ONCE = 2  # pictures that are decoded
_TURN_SECONDS = 30.0  # that a picture waits for it

Passes: TypeAlias = list[list[DenseFeatures]]
Key: TypeAlias = tuple[int, str, int, int]


class WordRegion(BaseModel):
    """A part of a picture; lengths are shares of its width and height."""

    box: tuple[float, float, float, float] = Field(description="Left, top, right, bottom.")
    point: tuple[float, float] = Field(description="(x, y) of its strongest place.")
    share: float = Field(description="What that place adds to the cosine, times the number of places.")


class WordMap(BaseModel):
    """Where some words are."""

    words: str
    levels: list[list[int]] = Field(
        description="Rows of places, 0 for the least that one says, 255 the most."
    )
    regions: list[WordRegion] = Field(description="The strongest first; none where the words are nowhere.")


class MapsResponse(BaseModel):
    """A map for each of the words."""

    maps: list[WordMap]
    exact: bool = Field(description="Whether places add up to the picture's cosine.")


class Mapper:
    """Maps of the index's pictures; a picture's places are kept for the words that are asked next."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._recent: Recent[Key, Passes] = Recent(MAX_PLACES, _bytes)
        self._decoding = asyncio.Semaphore(_AT_ONCE)

    async def maps(self, path: str, words: list[str]) -> MapsResponse:
        """Where words are in a picture: a piece of work a size it is read at, between searches."""
        file = await self.service.file(path)
        model = (await self.service.newest()).model
        size = await self.service.run(_size, model)
        status = file.stat()
        key = (id(model.vision), str(file), status.st_mtime_ns, status.st_size)
        passes = self._recent.get(key)
        if passes is None:
            picture = await self._picture(file, size)
            sizes = model.locator.sizes(size)
            passes = [await self.service.run(model.locator.read, picture, one) for one in sizes]
            self._recent.put(key, passes)
        vectors = await self.service.encode_text(model, words, model.templates)
        maps = await self.service.run(_maps, model, passes, vectors, words)
        return MapsResponse(maps=maps, exact=model.locator.exact)

    async def _picture(self, file: Path, size: int) -> Image.Image:
        try:
            await asyncio.wait_for(self._decoding.acquire(), _TURN_SECONDS)
        except asyncio.TimeoutError:
            raise Overloaded from None
        try:
            return await run_in_threadpool(load_image, file, shrink_to=size, inside=self.service.root)
        finally:
            self._decoding.release()


def _bytes(passes: Passes) -> int:
    return sum(part.cells.nbytes for parts in passes for part in parts)


def _size(model: DualEncoder) -> int:
    return model.locator.size(None)


def _maps(model: DualEncoder, passes: Passes, vectors: Tensor, words: list[str]) -> list[WordMap]:
    shares = model.locator.maps(passes, vectors)
    found = []
    for word, one, least in zip(words, shares, model.locator.least(vectors), strict=True):
        spread = (one.max() - one.min()).clamp_min(1e-6)
        levels = ((one - one.min()) / spread * 255).round().int().tolist()
        parts = [WordRegion(**asdict(part)) for part in regions(one, least=least)[:_REGIONS]]
        found.append(WordMap(words=word, levels=levels, regions=parts))
    return found


async def _mapper(request: Request) -> Mapper:
    mapper: Mapper = request.app.state.mapper
    return mapper


router = APIRouter()


@router.get("/maps/{path:path}")
async def maps(
    mapper: Annotated[Mapper, Depends(_mapper)],
    path: Annotated[str, FromPath(min_length=1, max_length=4096)],
    words: Annotated[list[Label], FromQuery(min_length=1, max_length=MAX_WORDS)],
) -> MapsResponse:
    """Where words are in a picture of the index."""
    return await mapper.maps(path, check_labels(words))
