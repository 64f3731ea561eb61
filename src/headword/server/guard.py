"""What every request passes first: which hosts and pages may ask, how large a body may be, and the headers of
every answer.

A server on loopback is reached by every page that the user's browser has open. A page elsewhere cannot read
answers (no CORS headers are sent), and here it cannot ask either: another host name that points to this
machine (DNS rebinding) is refused by the `Host` header, another page by `Origin` and `Sec-Fetch-Site`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

REQUESTS = 1_000
"""Requests that are under way at once, those whose sender is gone included."""

BODIES = 256_000_000
"""Bytes of bodies that are held at once: of those that arrive, and of those that are being answered."""

BODY_SECONDS = 30.0
"""For a whole body to arrive."""

LARGE = 1_000_000
"""Bytes from which a body is large; only some of these are read as JSON and answered at once."""

MAX_VALUES = 250_000
"""Values that the JSON of a body may have: 24 MB of them would be a gigabyte of objects."""

_LARGE_AT_ONCE = 4
_BETWEEN_VALUES = (b",", b"[", b"{", b":")  # base64 has none of these
_READ_ON = 100_000_000  # bytes of a body too large that are read and dropped, so that the answer arrives
_HOST = re.compile(r"(?:\[(?P<address>[^\[\]]+)\]|(?P<name>[\w.-]+))(?::\d*)?", re.ASCII)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """Wraps an ASGI app, which may be called localhost or by one of some names in lower case.

    A server that is not on loopback alone may be called by any IP address: an address cannot be rebound.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: frozenset[str] = frozenset(), any_address: bool = False, max_body: int
    ) -> None:
        self._app, self._hosts, self._any_address = app, hosts | {"localhost"}, any_address
        self._max_body = max_body
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._under_way = 0
        self._arriving: dict[asyncio.Task[bytearray | None], int] = {}  # bytes so far; the oldest first
        self._held = 0  # bytes of these, and of whole bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        headers = Headers(scope=scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is None and self._under_way >= REQUESTS:
            refusal = _refusal(503, "too many requests wait; try again in a moment")
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        self._under_way += 1
        try:
            empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
            if scope["method"] in _SAFE or empty:
                await self._app(scope, receive, send_guarded)
            else:
                await self._with_body(scope, receive, send_guarded)
        finally:
            self._under_way -= 1

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        if not self._known(host):
            return _refusal(421, "this server is not called that; use the address it printed when it started")
        origin, safe = headers.get("origin"), scope["method"] in _SAFE
        visit = headers.get("sec-fetch-mode") == "navigate" and scope["path"] == "/"
        elsewhere = headers.get("sec-fetch-site") in {"cross-site", "same-site"} and not visit
        if elsewhere or (origin is not None and not safe and _asking_host(origin) != host.lower()):
            return _refusal(403, "a page of another site may not ask this server")
        return None

    def _known(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        name = "" if parts is None else (parts["address"] or parts["name"]).lower()
        if name in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self._any_address

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body, then let the app answer: who sends slowly holds up nobody else."""
        body = await self._whole(receive)
        if not isinstance(body, bytearray):
            if body is not None:
                await body(scope, receive, send)
            return
        size = len(body)

        async def receive_body() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            whole, body = body, None
            return {"type": "http.request", "body": whole, "more_body": False}

        self._held += size
        try:
            async with self._large if size > LARGE else contextlib.nullcontext():
                await self._app(scope, receive_body, send)
        finally:
            self._held -= size

    async def _whole(self, receive: Receive) -> bytearray | JSONResponse | None:
        """A body; or why it is not answered, and None if its sender is gone."""
        reading = asyncio.ensure_future(self._read(receive))
        self._arriving[reading] = 0
        try:
            done, _ = await asyncio.wait({reading}, timeout=BODY_SECONDS)
            if not done:
                return _refusal(408, f"the body took longer than {BODY_SECONDS:.0f} seconds")
            if reading.cancelled():
                return _refusal(503, "more is being sent than the server can hold; send it again")
            body = reading.result()
        finally:
            reading.cancel()
            self._held -= self._arriving.pop(reading, 0)
        if body is not None and len(body) > self._max_body:
            return _refusal(413, f"the request is larger than {self._max_body:,} bytes")
        if body is not None and sum(map(body.count, _BETWEEN_VALUES)) > MAX_VALUES:
            return _refusal(413, f"the request has more than {MAX_VALUES:,} values")
        return body

    async def _read(self, receive: Receive) -> bytearray | None:
        """A body; the beginning of one that is too large, and None if its sender is gone."""
        reading = asyncio.current_task()
        assert reading is not None
        body, size, more = bytearray(), 0, True
        try:
            while more and size <= _READ_ON:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part, more = message.get("body", b""), message.get("more_body", False)
                size += len(part)
                if size - len(part) <= self._max_body:  # of what is too large, enough to tell
                    body += part
                    self._arriving[reading] += len(part)
                    self._held += len(part)
                while self._held > BODIES and self._arriving:
                    oldest = next(iter(self._arriving))
                    self._held -= self._arriving.pop(oldest)
                    oldest.cancel()
                    if oldest is reading:
                        await asyncio.sleep(0)  # where it is cancelled
        except asyncio.CancelledError:
            body.clear()  # or it would wait for the garbage collector
            raise
        return body


def _asking_host(origin: str) -> str:
    """Host and port of an `Origin` header in lower case; empty for "null" and what is none."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return parts.netloc.lower() if parts.scheme in {"http", "https"} else ""


def _refusal(status: int, line: str) -> JSONResponse:
    # The rest of the body may still be on its way.
    headers = {"connection": "close"} if status in {408, 413, 503} else None
    return JSONResponse({"error": line}, status, headers)


# ---- what leaves the server names no absolute path of this machine: of a folder or a file, its last name

_ABSOLUTE = re.compile(
    r"(?:(?<=^)|(?<=[\s:=('\"\[]))"  # begins a word; not the middle of people/cat.png or of https://
    r"(?:[A-Za-z]:)?[\\/](?![\\/\s])"
    r"(?:[^\\/:;,+'\"\n]*[\\/])*"
)


def without_folders(text: str, folders: Iterable[str | Path] = ()) -> str:
    """A line without absolute paths; what lies in these folders keeps its path within them."""
    for folder in sorted(map(str, folders), key=len, reverse=True):
        name = Path(folder).name
        if name:
            text = text.replace(folder + os.sep, "").replace(folder, name)
    return _ABSOLUTE.sub("", text)


def outward(facts: Any, folders: Iterable[str | Path] = ()) -> Any:
    """JSON without absolute paths; see `without_folders`."""
    if isinstance(facts, dict):
        return {without_folders(str(key), folders): outward(value, folders) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [outward(value, folders) for value in facts]
    return without_folders(facts, folders) if isinstance(facts, str) else facts
