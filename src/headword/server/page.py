"""The page: a few hand-written files, held in memory."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, HTTPException, Request
from fastapi import Path as FromPath
from fastapi.responses import Response

PAGE = "index.html"

router = APIRouter(include_in_schema=False)


@router.get("/")
def page(request: Request) -> Response:
    """The page."""
    return _answer(PAGE, request)


@router.get("/static/{name}")
def static(name: Annotated[str, FromPath(max_length=50)], request: Request) -> Response:
    """What the page is made of."""
    if name not in contents():
        raise HTTPException(404, "there is no such file")
    return _answer(name, request)


@cache
def contents() -> dict[str, bytes]:
    """The files by name."""
    folder = files("headword.server") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def _answer(name: str, request: Request) -> Response:
    content = contents()[name]
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}  # asked for again, and then found unchanged
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    # By name, since what a system thinks of .js differs.
    kind = {"js": "text/javascript"}.get(name.rsplit(".", 1)[-1]) or mimetypes.guess_type(name)[0]
    return Response(content, headers=headers, media_type=kind)
