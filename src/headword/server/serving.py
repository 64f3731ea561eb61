"""`headword app`: the API and the page on a port of this machine, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ipaddress
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from headword.classifier import Classifier
from headword.errors import HeadwordError
from headword.search.index import Index
from headword.server.api import create_app
from headword.server.client import Running, url_of
from headword.server.connection import Connection, sweep
from headword.server.guard import Guard
from headword.server.schemas import MAX_BODY
from headword.server.service import Service

DEFAULT_PORT = 7860
_BACKLOG = 2048
_MMAP_THRESHOLD = -3  # in glibc's malloc.h


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def reachable(self) -> str:
        """The host to reach it at from this machine."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def url(self) -> str:
        """The page."""
        return url_of(self.reachable, self.port)

    def guarded(self, app: ASGIApp) -> Guard:
        """An app with its guard, to be served here."""
        names = set() if self.loopback else {self.host.lower(), socket.gethostname().lower()}
        return Guard(app, hosts=frozenset(names), any_address=not self.loopback, max_body=MAX_BODY)


class Server(uvicorn.Server):
    """A server that is ready to `run`, until `should_exit` or a signal.

    `on_start` is called when requests are answered, `on_stop` when they no longer are.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        on_start: Callable[[], object],
        on_stop: Callable[[], object],
    ) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            lifespan="off",
            log_level="error",  # a warning for every request that is not HTTP would fill the terminal
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            backlog=_BACKLOG,
            timeout_graceful_shutdown=3,
        )
        super().__init__(config)
        self._listener, self._on_start, self._on_stop = listener, on_start, on_stop

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests."""
        # Have glibc's allocator return large blocks when they are freed. Its own rule comes to keep blocks of
        # up to 32 MB, and bodies and pictures of all sizes then leave gaps as large as all of them together.
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 20)
        super().run(sockets or [self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._on_start()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % 10 == 0:
            sweep(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was asked, and end."""
        self._on_stop()
        await super().shutdown(sockets)


@contextlib.contextmanager
def prepared(
    index: Index,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    taught: Classifier | None = None,
    ready: Callable[[Address, bool], object],
) -> Iterator[Server]:
    """A server of an index, warm, with its place on the network taken; a classifier is what it teaches first.

    Port 0 is any that is free; not given, 7860 or, if that is taken, any that is free. `ready` is called when
    requests are answered, with the address, and whether this user's command line finds the server.
    """
    with listening(host, port) as listener, contextlib.closing(Service(index)) as service:
        service.warm()
        address = Address(host, listener.getsockname()[1])
        running = Running(address.reachable, address.port, secrets.token_hex(16), os.getpid())
        yield Server(
            address.guarded(create_app(service, taught, token=running.token)),
            listener,
            on_start=lambda: ready(address, running.write(index.path)),
            on_stop=lambda: running.remove(index.path),
        )


@contextlib.contextmanager
def listening(host: str, port: int | None) -> Iterator[socket.socket]:
    """A socket that listens."""
    try:
        listener = _listener(host, DEFAULT_PORT if port is None else port)
    except HeadwordError:
        if port is not None:
            raise
        listener = _listener(host, 0)
    with contextlib.closing(listener):
        yield listener


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # The protocol by name: only then does asyncio switch off Nagle's algorithm, which would hold back the
        # end of every answer for 40 ms. `socket.create_server` leaves it open.
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        raise HeadwordError(_why_not(host, port, error)) from error
    return listener


def _why_not(host: str, port: int, error: Exception) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"{host!r} is no address of this machine; the usual one is 127.0.0.1"
    if isinstance(error, PermissionError):
        return f"port {port} may not be used: permission denied; give one above 1023"
    number = getattr(error, "errno", None)
    reason = os.strerror(number) if number else str(error)  # what Python adds to it repeats the address
    return (
        f"cannot listen on {host}, port {port}: {reason}; give another with --port, or 0 for any that is free"
    )
