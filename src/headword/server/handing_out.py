"""Pictures of the index handed out: as they are, small, several in one file, and facts about them."""

from __future__ import annotations

import hashlib
import io
import itertools
import mimetypes
import os
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi import Path as FromPath
from fastapi import Query as FromQuery
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from headword.errors import HeadwordError
from headword.files import open_regular, printable
from headword.server import schemas
from headword.server.service import Service

MAX_FILE = 256_000_000
"""Bytes an image file may have to be handed out as it is."""

MAX_ARCHIVE = 4_000_000_000
"""Bytes that files may have to be handed out together."""

_PART = 256_000


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(_service)]
Version = Annotated[str | None, FromQuery(max_length=100, description="The index's: an answer may be kept.")]
InIndex = Annotated[str, FromPath(min_length=1, max_length=4096)]

router = APIRouter()


@router.get("/images/{path:path}", response_class=Response)
async def image(service: Served, path: InIndex) -> Response:
    """A picture of the index, the file as it is."""
    file = await service.file(path)
    parts = _parts(file, service.root)
    try:
        first = await run_in_threadpool(next, parts, b"")  # what is wrong with the file is said here
    except OSError as error:
        raise HTTPException(404, f"{path} cannot be read: {error.strerror}") from error
    kind = mimetypes.guess_type(file.name)[0] or ""
    raster = kind.startswith("image/") and "svg" not in kind
    # Read as it is taken: who takes nothing holds no more than a part.
    content = itertools.chain((first,), parts)
    return StreamingResponse(content, media_type=kind if raster else "application/octet-stream")


def _parts(file: Path, root: Path) -> Iterator[bytes]:
    with open_regular(file, inside=root) as opened:
        if os.fstat(opened.fileno()).st_size > MAX_FILE:
            raise OSError(0, f"it is larger than {MAX_FILE:,} bytes")
        yield from iter(partial(opened.read, _PART), b"")


@router.get("/facts/{path:path}")
async def facts(service: Served, path: InIndex) -> schemas.PictureFacts:
    """What the file of a picture of the index says of itself: size, date, camera, place."""
    return await service.facts(path)


@router.get("/thumbnails/{path:path}", response_class=Response)
async def thumbnail(
    service: Served,
    request: Request,
    path: InIndex,
    size: schemas.Size = schemas.Size.SMALL,
    version: Version = None,
) -> Response:
    """A picture of the index as a JPEG of at most `size` pixels a side."""
    content = await service.thumbnail(path, size.value)
    control = f"private, max-age={86_400 if version else 60}"
    return kept_by_browsers(content, request, media_type="image/jpeg", cache_control=control)


@router.post("/download", response_class=Response)
async def download(service: Served, request: schemas.DownloadRequest) -> Response:
    """Pictures of the index in one ZIP file, each as it is, under its path."""
    files = [await service.file(path) for path in dict.fromkeys(request.pictures)]
    try:
        size = await run_in_threadpool(lambda: sum(file.stat().st_size for file in files))
    except OSError as error:
        raise HTTPException(404, f"a picture cannot be read: {error.strerror}") from error
    if size > MAX_ARCHIVE:
        raise HeadwordError(f"these pictures have {size:,} bytes; {MAX_ARCHIVE:,} go into one file at most")
    headers = {"content-disposition": 'attachment; filename="pictures.zip"'}
    content = _zipped(files, service.root)
    return StreamingResponse(content, media_type="application/zip", headers=headers)


def _zipped(files: list[Path], root: Path) -> Iterator[bytes]:
    """A ZIP file, part by part; pictures hardly shrink, so nothing is compressed."""
    written = _Parts()
    with zipfile.ZipFile(written, "w") as archive:
        for file in files:
            name = printable(file.relative_to(root).as_posix())  # by no way round, which an index may write
            with archive.open(name, "w", force_zip64=True) as entry:
                for part in _parts(file, root):
                    entry.write(part)
                    yield written.taken()
    yield written.taken()


class _Parts(io.RawIOBase):
    """What is written, until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        part = bytes(data)
        self._parts.append(part)
        return len(part)

    def taken(self) -> bytes:
        whole, self._parts = b"".join(self._parts), []
        return whole


def kept_by_browsers(
    content: bytes, request: Request, *, media_type: str | None, cache_control: str
) -> Response:
    """An answer that a browser keeps, and need not get again while it is the same."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"etag": etag, "cache-control": cache_control}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)
