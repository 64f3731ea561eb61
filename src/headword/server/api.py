"""The HTTP API: what `headword app` answers, a function a route.

Mistakes get `{"error": "one line"}`: 400 for what headword refuses, 404 for a picture that is not in the
index, 409 while something else is under way, 422 for a request that is not of its form.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import mimetypes
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi import Path as FromPath
from fastapi import Query as FromQuery
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from headword import __version__
from headword.errors import HeadwordError
from headword.files import open_regular
from headword.search import query
from headword.search.filter import Compare, Condition, Every, parse
from headword.server import page, schemas
from headword.server.model_thread import Overloaded
from headword.server.outward import without_folders
from headword.server.schemas import K
from headword.server.service import BusyError, Service, in_thread
from headword.server.thumbnails import Thumbnails
from headword.server.words import parse_words

MAX_FILE = 256_000_000
"""Bytes an image file may have to be handed out as it is."""

FILES_AT_ONCE = 4
"""Image files that are made into thumbnails at the same time."""

_PART = 256_000

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Error, "description": what}
    for status, what in {
        400: "headword refuses this, and says why",
        401: "the token is another server's",
        403: "a page of another site asks",
        404: "not in the index",
        408: "the body took too long",
        409: "under way already, or the index is not the one that was meant",
        413: "too large",
        421: "asked by another name than its own",
        422: "not of the form that is documented",
        503: "too many requests wait, or too much is being sent",
    }.items()
}

TypedWords = Annotated[schemas.Text, FromQuery(description="-word keeps away from a word.")]
Offset = Annotated[int, FromQuery(ge=0, le=100_000_000)]
Tag = Annotated[schemas.Label | None, FromQuery(description="Only pictures with this tag.")]
Where = Annotated[schemas.Filter | None, FromQuery(description="Only pictures that meet this condition.")]
Version = Annotated[str | None, FromQuery(max_length=100, description="The index's: an answer may be kept.")]
InIndex = Annotated[str, FromPath(min_length=1, max_length=4096)]


def create_app(service: Service, *, token: str = "") -> FastAPI:
    """The API and the page as an ASGI app; `guard.Guard` belongs around it.

    Args:
        service: what answers.
        token: what clients that send an `Authorization` header must have in it.
    """
    app = FastAPI(
        title="headword",
        version=__version__,
        description="Search and label a folder of pictures with any words.",
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
        dependencies=[Depends(partial(_check_token, token))],
    )
    _answer_errors(app, service)
    app.include_router(page.router)
    _add_searching(app, service)
    _add_labelling(app, service)
    _add_pictures(app, service)
    _add_facts(app, service)
    return app


def _add_searching(app: FastAPI, service: Service) -> None:
    async def answer(request: schemas.SearchRequest) -> schemas.SearchResponse:
        start = time.perf_counter()
        text, negative = request.text, tuple(request.negative)
        if request.words is not None:
            if text is not None or negative:
                raise HeadwordError("give words as typed, or text and negative, not both")
            text, negative = parse_words(request.words)
        asked = query.Query(text=text, like=request.like, negative=negative)
        where = _condition(request.tag, request.where)
        found = await service.search(asked, k=request.k, where=where, upload=request.image)
        known = found.coverage
        return schemas.SearchResponse(
            text=text,
            negative=list(negative),
            hits=[_hit(hit, asked=True) for hit in found.hits],
            coverage=None if known is None else known[0],
            out_of_depth=known is not None and known[1],
            seconds=time.perf_counter() - start,
            index_version=found.version,
        )

    @app.get("/search")
    async def search_words(
        q: TypedWords, k: K = 24, tag: Tag = None, where: Where = None
    ) -> schemas.SearchResponse:
        """Search with words as they are typed."""
        return await answer(schemas.SearchRequest(words=q, k=k, tag=tag, where=where))

    @app.post("/search")
    async def search(request: schemas.SearchRequest) -> schemas.SearchResponse:
        """Search with words, a picture, or both."""
        return await answer(request)

    @app.get("/pictures")
    async def pictures(
        offset: Offset = 0, k: K = 100, tag: Tag = None, where: Where = None
    ) -> schemas.PicturesResponse:
        """Pictures in the order of their paths."""
        hits, total, version = await service.browse(k=k, offset=offset, where=_condition(tag, where))
        return schemas.PicturesResponse(
            pictures=[_hit(hit, asked=False) for hit in hits],
            total=total,
            index_version=version,
        )


def _add_labelling(app: FastAPI, service: Service) -> None:
    @app.post("/embed")
    async def embed(request: schemas.EmbedRequest) -> schemas.EmbedResponse:
        """Bring texts and images into the shared space."""
        texts, images = await service.embed(request.texts, request.images, request.template)
        return schemas.EmbedResponse(dim=texts.shape[1], texts=texts.tolist(), images=images.tolist())

    @app.post("/classify")
    async def classify(request: schemas.ClassifyRequest) -> schemas.ClassifyResponse:
        """Label images with any words."""
        for path in request.pictures:
            await _file(service, path)
        judged = await service.classify(
            request.images,
            request.pictures,
            request.labels,
            template=request.template,
            multi_label=request.multi_label,
            none_of_these=request.none_of_these,
        )
        return schemas.ClassifyResponse(
            results=[
                [schemas.LabelScore(label=label, probability=p, cosine=cosine) for label, p, cosine in row]
                for row in judged
            ],
            doubt=service.model.doubt,
        )

    @app.post("/tag")
    async def tag(request: schemas.TagRequest) -> schemas.TagsResponse:
        """Give every picture of the index the label that fits it best."""
        counts, version = await service.tag(
            request.labels, template=request.template, none_of_these=request.none_of_these
        )
        return _tags(service, counts, version)

    @app.get("/tags")
    async def tags() -> schemas.TagsResponse:
        """The tags that pictures have."""
        return _tags(service, *await service.tags())


def _add_pictures(app: FastAPI, service: Service) -> None:
    thumbnails = Thumbnails()
    reading = asyncio.Semaphore(FILES_AT_ONCE)

    @app.get("/images/{path:path}", response_class=Response)
    async def image(path: InIndex) -> Response:
        """A picture of the index, the file as it is."""
        file = await _file(service, path)
        parts = _parts(file, service.root)
        try:
            first = await in_thread(partial(next, parts, b""))  # what is wrong with the file is said here
        except OSError as error:
            raise HTTPException(404, f"{path} cannot be read: {error.strerror}") from error
        kind = mimetypes.guess_type(file.name)[0] or ""
        raster = kind.startswith("image/") and "svg" not in kind
        # Read as it is taken: who takes nothing holds no more than a part.
        content = itertools.chain((first,), parts)
        return StreamingResponse(content, media_type=kind if raster else "application/octet-stream")

    @app.get("/thumbnails/{path:path}", response_class=Response)
    async def thumbnail(
        path: InIndex, request: Request, size: schemas.Size = schemas.Size.SMALL, version: Version = None
    ) -> Response:
        """A picture of the index as a JPEG of at most `size` pixels a side."""
        file = await _file(service, path)
        try:
            async with reading:
                content = await in_thread(partial(thumbnails.get, file, size.value, service.root))
        except HeadwordError as error:
            raise HTTPException(404, str(error)) from error
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"etag": etag, "cache-control": f"private, max-age={86_400 if version else 60}"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type="image/jpeg")


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/about")
    async def about() -> schemas.About:
        """What the index and the model are."""
        return schemas.About(**await service.about())

    @app.get("/classes")
    async def classes(
        find: Annotated[str, FromQuery(max_length=100)] = "", k: K = 100
    ) -> schemas.ClassesResponse:
        """The classes of the recycled head whose name or synonyms have `find` in them."""
        wanted = find.casefold()
        found = [c for c in service.model.classes if wanted in c.synset.casefold()]
        return schemas.ClassesResponse(classes=[c.name for c in found[:k]], total=len(found))


def _check_token(token: str, request: Request) -> None:
    said = request.headers.get("authorization")
    if said is not None and not secrets.compare_digest(said.encode(), f"Bearer {token}".encode()):
        raise HTTPException(401, "this server was started by someone else, or anew")


def _answer_errors(app: FastAPI, service: Service) -> None:
    def error(status: int, line: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        line = without_folders(" ".join(line.split()), service.folders)
        line = line.encode("utf-8", "backslashreplace").decode()  # an odd name, or what was sent
        return JSONResponse({"error": line}, status, headers)

    @app.exception_handler(HeadwordError)
    async def refused(_request: Request, mistake: HeadwordError) -> JSONResponse:
        return error(400, str(mistake))

    @app.exception_handler(BusyError)
    async def busy(_request: Request, state: BusyError) -> JSONResponse:
        return error(409, str(state))

    @app.exception_handler(Overloaded)
    async def overloaded(_request: Request, _state: Overloaded) -> JSONResponse:
        return error(503, "too many requests wait; try again in a moment")

    @app.exception_handler(StarletteHTTPException)
    async def http(_request: Request, mistake: StarletteHTTPException) -> JSONResponse:
        return error(mistake.status_code, str(mistake.detail), mistake.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, mistake: RequestValidationError) -> JSONResponse:
        first = mistake.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return error(422, f"{where}: {first['msg']}" if where else str(first["msg"]))

    @app.exception_handler(Exception)
    async def bug(_request: Request, _mistake: Exception) -> JSONResponse:
        return error(500, "headword failed on this; its terminal says how")


async def _file(service: Service, path: str) -> Path:
    try:
        return await service.file(path)
    except HeadwordError as error:
        raise HTTPException(404, str(error)) from error


def _parts(file: Path, root: Path) -> Iterator[bytes]:
    with open_regular(file, inside=root) as opened:
        if os.fstat(opened.fileno()).st_size > MAX_FILE:
            raise OSError(0, f"it is larger than {MAX_FILE:,} bytes")
        while part := opened.read(_PART):
            yield part


def _condition(tag: str | None, where: str | None) -> Condition | None:
    conditions = [] if where is None else [parse(where)]
    if tag is not None:
        conditions.append(Compare("tag", "=", tag))
    return Every(tuple(conditions)) if conditions else None


def _hit(hit: query.Hit, *, asked: bool) -> schemas.Hit:
    return schemas.Hit(
        path=hit.path, score=hit.score if asked else None, tag=hit.tag, tag_score=hit.tag_score
    )


def _tags(service: Service, counts: dict[str, int], version: str) -> schemas.TagsResponse:
    rows = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return schemas.TagsResponse(
        tags=[schemas.TagCount(tag=tag, count=count) for tag, count in rows],
        doubt=service.model.doubt,
        index_version=version,
    )
