"""Asking a running server in place of loading the model: a fraction of a second instead of several.

Whatever is in the way (no server, one of another version of the index, an answer that is no success), the
caller searches by itself, and tells what is wrong if something is. Imports no torch.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headword.errors import HeadwordError
from headword.files import expand
from headword.search.manifest import Manifest
from headword.search.query import Hit, Query
from headword.server.running import Running

_SECONDS = 20.0
_MOST_IMAGE = 16_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    url: str
    """The server's page."""
    hits: list[Hit]
    index: dict[str, Any]
    """The `model` and the `engine` of the index, read from its folder: a server says no paths."""
    environment: dict[str, Any]
    """The server's; empty unless it was asked for."""
    coverage: tuple[float | None, bool] | None
    """As `Index.coverage`."""


def ask_server(
    index: str | Path, query: Query, *, k: int, where: str | None = None, about: bool = False
) -> Answer | None:
    """A search by the server of an index, if one runs that can answer it.

    Args:
        index: the index's folder.
        query: what to look for; its image must be a file.
        k: how many pictures.
        where: a condition they must meet.
        about: whether to ask for the server's environment, too.
    """
    folder = expand(index).resolve()
    running = Running.read(folder)
    body = None if running is None else _request(query, k, where)
    if running is None or body is None:
        return None
    try:
        manifest = Manifest.read(folder)
        said = _ask(running, "POST", "/search", body)
        if said is None or said["index_version"] != manifest.version:
            return None
        facts = _ask(running, "GET", "/about") if about else {"environment": {}}
        if facts is None:
            return None
        known = said["coverage"]
        far = bool(said["out_of_depth"])
        return Answer(
            running.url,
            [Hit(**hit) for hit in said["hits"]],
            {"model": manifest.model, "engine": "exact"},
            facts["environment"],
            (None if known is None else float(known), far) if far or known is not None else None,
        )
    except (OSError, ValueError, KeyError, TypeError, HeadwordError):
        return None


def _request(query: Query, k: int, where: str | None) -> bytes | None:
    """The body of POST /search; None for what the API does not take."""
    usual = Query()
    weights = (query.text_weight, query.image_weight, query.negative_weight)
    if weights != (usual.text_weight, usual.image_weight, usual.negative_weight):
        return None
    said: dict[str, Any] = {"k": k, "text": query.text, "negative": query.negative, "like": query.like}
    if query.image is not None:
        if not isinstance(query.image, str | Path):
            return None
        try:
            image = expand(query.image)
            if not image.is_file() or image.stat().st_size > _MOST_IMAGE:
                return None
            said["image"] = base64.b64encode(image.read_bytes()).decode()
        except (OSError, RuntimeError):
            return None
    said["where"] = where
    return json.dumps(said).encode()


def _ask(running: Running, method: str, path: str, body: bytes | None = None) -> dict[str, Any] | None:
    """An answer; None for any that is no success."""
    from http.client import HTTPConnection, HTTPException

    headers = {"Authorization": f"Bearer {running.token}"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    connection = HTTPConnection(running.host, running.port, timeout=_SECONDS)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
    except HTTPException:  # what answers there speaks something else
        return None
    finally:
        connection.close()
    said = json.loads(content) if response.status == 200 else None
    return said if isinstance(said, dict) else None
