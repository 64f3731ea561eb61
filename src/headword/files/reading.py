"""Reading files that anybody may have put there: regular ones alone, and text that says what is wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from headword import __version__
from headword.errors import HeadwordError

# Not to wait for a pipe's other end, nor to become a terminal's process; where the system has such flags.
_FLAGS = ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
_READING = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in _FLAGS)


def expand(path: str | os.PathLike[str]) -> Path:
    """The path with `~` and `~user` written out; a user that is not there is refused."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise HeadwordError(f"{os.fspath(path)}: there is no such user's home folder") from error


def printable(path: str) -> str:
    r"""A path as text that can be stored and sent: bytes that are no UTF-8 written as \xff."""
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, which JSON can say and no file is called
        return path.encode("utf-8", "backslashreplace").decode()


def open_regular(path: str | os.PathLike[str], *, inside: Path | None = None) -> BinaryIO:
    """A regular file, open for reading, within the folder `inside`: checked is what was opened."""
    try:
        descriptor = os.open(path, _READING)
    except ValueError:
        raise OSError(errno.EINVAL, "no file can have such a name", path) from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise OSError(errno.ENXIO, "it is not a regular file", path) from None
        raise
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder", path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        if inside is not None:
            real = Path(os.path.realpath(path))
            if inside not in real.parents or not os.path.samestat(real.lstat(), status):
                raise OSError(errno.EXDEV, "it lies outside the folder by now", path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def is_file(path: Path) -> bool:
    """Whether there is a regular file of a name, which may be anything: also far too long for one."""
    try:
        return path.is_file()
    except OSError:
        return False


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, open for reading; what keeps it from that is one line."""
    path = expand(path)
    try:
        return open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        reason = f"there is no file {path}"
    except IsADirectoryError:
        reason = f"{path} is a folder; give the name of a file"
    except PermissionError:
        reason = f"{path} may not be read: permission denied"
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror}"
    raise HeadwordError(reason)


def memory() -> int:
    """Bytes of memory that this process may have: the machine's, or less by a limit that was set."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        import resource
    except (AttributeError, ValueError, OSError, ImportError):  # Windows
        return 1 << 40
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return total if limit == resource.RLIM_INFINITY else min(total, limit)


def parse_json(text: str | bytes, where: str, line: int = 1) -> Any:
    """What a piece of JSON says, which begins on a line of the file `where`; mistakes name the line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise HeadwordError(f"{where}:{line + error.lineno - 1} is not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise HeadwordError(f"{where}:{line} is not read: its JSON is nested too deeply") from error
    except ValueError as error:  # no UTF-8, or a number of more digits than Python reads
        raise HeadwordError(f"{where}:{line} is not valid JSON: {error}") from error
    except MemoryError:
        raise HeadwordError(f"{where}:{line} is not read: it does not fit in memory") from None


def read_text(path: str | Path, *, limit: int | None = None) -> str:
    """The text of a UTF-8 file of up to `limit` bytes, without a byte-order mark."""
    path = expand(path)
    try:
        with open_file(path) as file:
            data = file.read() if limit is None else file.read(limit + 1)
        if limit is not None and len(data) > limit:
            raise HeadwordError(f"{path} has more than {limit:,} bytes, so it is not what is asked for here")
        return data.decode("utf-8-sig")
    except MemoryError:
        raise HeadwordError(f"{path} is not read: it does not fit in memory") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise HeadwordError(f"{path}:{line} is not UTF-8 text; save the file as UTF-8") from error


def read_json(path: str | Path) -> Any:
    """What a JSON file says; mistakes as in `read_text` and `parse_json`."""
    return parse_json(read_text(path), str(expand(path)))


def format_of(content: Any, file: Path, newest: int) -> int:
    """The format of a folder of headword's, as its `file` says it; one above the `newest` is refused."""
    written = content.get("format") if isinstance(content, dict) else None
    if type(written) is not int or written < 1:
        raise HeadwordError(f"{file} does not say its format; it was not written by headword, or was edited")
    if written > newest:
        raise HeadwordError(
            f"{file.parent} has format {written}, newer than this headword {__version__} reads (up to "
            f"{newest}); upgrade: pip install --upgrade headword"
        )
    return written


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
