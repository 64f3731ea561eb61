"""Asking a running server in place of loading the model: a fraction of a second instead of several.

Which server answers for an index is in `server.json` in the index's folder, while one runs. Only its owner
may read it (0600). It holds a token, which a client sends along: whatever else listens on that port by now
does not know it, and this server refuses every other. Imports no torch.
"""

from __future__ import annotations

import base64
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headword.errors import HeadwordError
from headword.files import expand, read_json, write_text_atomic
from headword.search.manifest import Manifest
from headword.search.query import Hit, Hits, Query, Tag

NAME = "server.json"

_SECONDS = 20.0
_MAX_IMAGE = 16_000_000


@dataclass(frozen=True, slots=True)
class Running:
    """A server."""

    host: str
    """The address to reach it at."""
    port: int
    token: str
    pid: int

    @property
    def url(self) -> str:
        """The page."""
        return url_of(self.host, self.port)

    def write(self, index: Path) -> bool:
        """Put it into an index's folder; False where that cannot be written."""
        if not index.is_dir():
            return False
        with suppress(HeadwordError):
            write_text_atomic(index / NAME, json.dumps(asdict(self)), private=True)
            return True
        return False

    def remove(self, index: Path) -> None:
        """Take it out again, unless another server took the place."""
        if Running.read(index) == self:
            with suppress(OSError):
                (index / NAME).unlink()

    @classmethod
    def read(cls, index: Path) -> Running | None:
        """The server an index's folder names, running or not; None where there is none to trust."""
        try:
            status = (index / NAME).stat()
            if os.name == "posix" and (status.st_uid != os.getuid() or status.st_mode & 0o077):
                return None
            running = cls(**read_json(index / NAME))
        except (OSError, HeadwordError, TypeError):
            return None
        kinds = {"host": str, "port": int, "token": str, "pid": int}
        return running if all(isinstance(getattr(running, name), kinds[name]) for name in kinds) else None


def url_of(host: str, port: int) -> str:
    """The page of a server, by the address it is reached at."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """What a server found."""

    url: str
    """The server's page."""
    hits: Hits
    index: dict[str, Any]
    """The `model` and the `engine` of the index, read from its folder: a server says no paths."""
    environment: dict[str, Any]
    """The server's; empty unless it was asked for."""
    doubt: str | None
    """The model's."""


def ask_server(
    index: str | Path, query: Query, *, k: int, where: str | None = None, about: bool = False
) -> ServerAnswer | None:
    """A search by the server of an index, as `Index.search`; with `about` its environment is asked for, too.

    Whatever is in the way (no server, one of another version of the index, an answer that is no success, an
    image that is no file), the answer is None: the caller searches by itself, and tells what is wrong.
    """
    from http.client import HTTPException  # slow to import, and most indices have no server

    folder = expand(index).resolve()
    running = Running.read(folder)
    usual = Query()
    weights = [(q.text_weight, q.image_weight, q.negative_weight) for q in (query, usual)]
    if running is None or weights[0] != weights[1]:  # the API takes no weights
        return None
    body = {"k": k, "text": query.text, "negative": query.negative, "like": query.like, "where": where}
    try:
        if query.image is not None:
            body["image"] = _base64(query.image)
        manifest = Manifest.read(folder)
        result = _ask(running, "POST", "/search", json.dumps(body).encode())
        if result["index_version"] != manifest.version:
            return None
        hits = Hits(Hit(**hit | {"tags": tuple(Tag(**tag) for tag in hit["tags"])}) for hit in result["hits"])
        hits.least_shown = result["least_shown"]
        return ServerAnswer(
            running.url,
            hits,
            {"model": manifest.model, "engine": "exact"},
            _ask(running, "GET", "/about")["environment"] if about else {},
            result["doubt"],
        )
    except (OSError, ValueError, KeyError, TypeError, HeadwordError, HTTPException):
        return None


def _base64(image: Any) -> str:
    path = expand(image)  # a TypeError for a picture that is no file
    if not path.is_file() or path.stat().st_size > _MAX_IMAGE:
        raise ValueError(f"{path} is not what the API takes")
    return base64.b64encode(path.read_bytes()).decode()


def _ask(running: Running, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    """The JSON of an answer; a ValueError if it is no success."""
    from http.client import HTTPConnection

    headers = {"Authorization": f"Bearer {running.token}", "Content-Type": "application/json"}
    connection = HTTPConnection(running.host, running.port, timeout=_SECONDS)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise ValueError(f"the server answered {response.status}")
    answer: dict[str, Any] = json.loads(content)
    return answer
