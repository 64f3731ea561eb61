"""Which server answers for an index: `server.json` in the index's folder, while one runs.

Only its owner may read it (0600). It holds a token, which a client sends along: whatever else listens on that
port by now does not know it, and this server refuses every other.
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from headword.errors import HeadwordError
from headword.files import read_json

NAME = "server.json"


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
        temporary = index / f".{NAME}.{secrets.token_hex(4)}.tmp"
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump(asdict(self), file)
            temporary.replace(index / NAME)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            return False
        return True

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
            said = read_json(index / NAME)
            running = cls(**said)
        except (OSError, HeadwordError, TypeError):
            return None
        sound = isinstance(running.host, str) and isinstance(running.token, str)
        return running if sound and isinstance(running.port, int) and isinstance(running.pid, int) else None


def url_of(host: str, port: int) -> str:
    """The page of a server, by the address it is reached at."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
