"""A real server of a real index for tests, and plain requests to it."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headword.search import Index, build_index
from headword.server.serving import Address, Server, prepared


def gallery_index(saved: Path, pictures: dict[str, Path], folder: Path) -> Path:
    """An index of the gallery in `folder/index`, the pictures in `folder/photos`; two lie in a subfolder."""
    photos = folder / "photos"
    (photos / "people").mkdir(parents=True)
    for name, path in pictures.items():
        place = photos / "people" if name in {"astronaut", "photographer"} else photos
        shutil.copy(path, place / f"{name}{path.suffix}")
    build_index(saved, photos, folder / "index")
    return folder / "index"


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Live:
    """A server that runs in a thread."""

    index: Index
    address: Address
    server: Server

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """One request, its path sent as it is; a body that is no bytes goes as JSON."""
        said = {"Content-Type": "application/json"} if body is not None else {}
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.address.port, timeout=120)
        try:
            connection.request(method, path, content, {**said, **(headers or {})})
            response = connection.getresponse()
            lowered = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, lowered, response.read())
        finally:
            connection.close()

    def send(self, sent: bytes) -> socket.socket:
        """A connection on which these bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.address.port), timeout=30)
        connection.sendall(sent)
        return connection

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.ask("POST", path, body, headers)


@contextmanager
def served(index: Index, **options: Any) -> Iterator[Live]:
    """Serve an index from a thread; options as of `prepared`."""
    said: list[Address] = []
    started = threading.Event()

    def ready(address: Address, announced: bool) -> None:
        assert announced
        said.append(address)
        started.set()

    with prepared(index, port=0, ready=ready, **options) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            assert started.wait(30)
            yield Live(index, said[0], server)
        finally:
            server.should_exit = True
            thread.join()


def base64_of(data: Path | bytes) -> str:
    return base64.b64encode(data.read_bytes() if isinstance(data, Path) else data).decode()
