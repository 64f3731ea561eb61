"""A connection and how long its peer may take: uvicorn's own has no limit but for an idle one.

Whoever opens connections and sends headers byte by byte, goes on with a body that is answered already, or
takes no answer, is cut off after a while, and before that if others want the place.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""For the whole headers of a request, from the connection or the last answer on."""

TAKE_SECONDS = 60.0
"""For an answer to be taken, as far as the system does not hold it already; of a file, each part."""

MOST = 1_000
"""Connections at a time; no more than half the files this process may have open."""

UNTAKEN = 256_000_000
"""Bytes of answers that are held for those who do not take them."""


class Connection(H11Protocol):
    """A connection that can be overdue."""

    since = 0.0
    """When it began what it is at: waiting for a request, or for its answer to be taken."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place; if there is none, that of whoever has waited longest without a request."""
        super().connection_made(transport)
        self.since = self.loop.time()
        if len(self.connections) > _most():
            waiting = [one for one in _ours(self.connections) if one.waits]
            min(waiting, key=lambda one: one.since).refuse(503, "there are too many connections")

    @property
    def waits(self) -> bool:
        """Whether no request of it is under way."""
        return self.cycle is None or self.cycle.response_complete

    def on_response_complete(self) -> None:
        """From here on the next request is waited for."""
        self.since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """From here on it is waited for that the answer is taken."""
        self.since = self.loop.time()
        super().pause_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words, for all mistakes alike
        """Refuse what is not HTTP."""
        self.refuse(400, "this is not HTTP as it should be")

    def refuse(self, status: int, line: str) -> None:
        """End it, with one line as the answer if a request has begun and none was given."""
        untaken = self.transport.get_write_buffer_size() > 0
        begun = self.conn.trailing_data[0] or self.conn.their_state is not h11.IDLE
        if begun and self.waits and self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = json.dumps({"error": line}).encode()
            head = f"HTTP/1.1 {status} \r\nconnection: close\r\ncontent-type: application/json\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.connections.discard(self)
        if untaken:
            self.transport.abort()
        else:
            self.transport.close()

    def sweep(self, now: float) -> None:
        """End it if it is overdue."""
        untaken = self.transport.get_write_buffer_size() > 0
        if self.flow.write_paused or (self.waits and untaken):
            if now - self.since > TAKE_SECONDS:
                self.transport.abort()
        elif self.waits and now - self.since > HEAD_SECONDS:
            self.refuse(408, f"the headers took longer than {HEAD_SECONDS:.0f} seconds")


def sweep(connections: Iterable[object], now: float) -> None:
    """End the connections that are overdue, and, where too much is held for them, who is it for longest."""
    ours = _ours(connections)
    for connection in ours:
        connection.sweep(now)
    held = {one: one.transport.get_write_buffer_size() for one in ours}
    total = sum(held.values())
    for connection in sorted((one for one in ours if held[one]), key=lambda one: one.since):
        if total <= UNTAKEN:
            return
        total -= held[connection]
        connection.transport.abort()


def _ours(connections: Iterable[object]) -> list[Connection]:
    return [one for one in connections if isinstance(one, Connection)]


def _most() -> int:
    if sys.platform == "win32":
        return MOST
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if files == resource.RLIM_INFINITY else min(MOST, files // 2)
