"""A hub on this machine: enough of the Hugging Face hub's protocol to find, pin, download and push models.

A repository's commits are folders. Some names misbehave: "gated", "private", "busy" (429), "broken" (500),
"unknown-token" (401) and "cut" (weights whose connection breaks half-way). Who pushes needs the token
`TOKEN`, and may write to all names but "theirs/…" (403).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REFUSALS = {
    "gated": (401, "GatedRepo"),
    "private": (401, "RepoNotFound"),
    "unknown-token": (401, None),
    "busy": (429, None),
    "broken": (500, None),
}

TOKEN = "hf_a_token_that_may_write"


class LocalHub:
    """Serves repositories on a free port of the loopback until it is closed."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Path]] = {}
        """For each repository, its commits."""
        self.refs: dict[str, dict[str, str]] = {}
        """For each repository, the commit of each branch and tag."""
        self.requests: list[str] = []
        self.private: set[str] = set()
        self._pushed = tempfile.TemporaryDirectory(prefix="hub-")
        self.store = Path(self._pushed.name)
        """What was pushed: large files by their sha256, commits as folders."""
        hub = self

        class Handler(_Handler):
            served = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.elsewhere = self.url.replace("127.0.0.1", "localhost")
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def push(self, repo: str, folder: Path, *refs: str) -> str:
        """Add a commit and point branches and tags at it; returns the commit."""
        commit = hashlib.sha1(f"{repo} {folder}".encode()).hexdigest()
        self.repos.setdefault(repo, {})[commit] = folder
        self.refs.setdefault(repo, {}).update(dict.fromkeys(refs or ("main",), commit))
        return commit

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._pushed.cleanup()

    @contextmanager
    def for_client(self, cache: Path, monkeypatch: Any) -> Iterator[LocalHub]:
        """Make it the hub that huggingface_hub asks, with an empty cache."""
        from huggingface_hub import constants

        from headword.encoders import hub

        url = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        hub.hub_unreachable.cache_clear()
        yield self
        self.close()
        hub.hub_unreachable.cache_clear()

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> str:
        """A new commit on main: the one before it, and what the lines of a push say."""
        before = self.repos[repo].get(self.refs[repo].get("main", ""))
        folder = self.store / f"commit-{len(self.repos[repo])}-{repo.replace('/', '-')}"
        shutil.copytree(before, folder) if before else folder.mkdir()
        for line in lines:
            value = line["value"]
            file = folder / value.get("path", "")
            file.parent.mkdir(parents=True, exist_ok=True)
            if line["key"] == "file":
                file.write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                shutil.copy(self.store / value["oid"], file)
            elif line["key"] == "deletedFile":
                file.unlink()
                for parent in file.relative_to(folder).parents:  # as in git, no folder is empty
                    if parent.name and not any((folder / parent).iterdir()):
                        (folder / parent).rmdir()
        return self.push(repo, folder, "main")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: LocalHub

    def log_message(self, *_: Any) -> None:
        self.served.requests.append(f"{self.command} {self.path}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if about is not None:
            self._about(about[1], about[2], about[3] or "main")
        elif file is not None:
            self._file(*file.groups())
        elif path.startswith("/cdn/"):
            self._weights(path.removeprefix("/cdn/"))
        else:
            self._refuse(404, None)

    def do_PUT(self) -> None:
        size = int(self.headers["Content-Length"])
        with (self.served.store / self.path.rpartition("/")[2]).open("wb") as file:
            while size:
                part = self.rfile.read(min(size, 1 << 20))
                size -= file.write(part)
        self._send(200, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(urlsplit(self.path).path)
        new, push = (
            path == "/api/repos/create",
            re.fullmatch(r"/api/models/(.+/.+)/(preupload|commit)/main", path),
        )
        asked = {} if push and push[2] == "commit" else json.loads(body)
        large = re.fullmatch(r"/(.+/.+)\.git/info/lfs/objects/batch", path)
        repo = "/".join(filter(None, (asked.get("organization"), asked.get("name")))) if new else ""
        repo = push[1] if push else large[1] if large else repo
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, None)
        elif repo.startswith("theirs/"):
            self._refuse(403, None)
        elif new:
            if asked.get("private") or asked.get("visibility") == "private":
                self.served.private.add(repo)
            known = repo in self.served.repos
            if not known:
                self.served.repos[repo], self.served.refs[repo] = {}, {}
                self.served.commit(repo, [])
            self._answer({"url": f"{self.served.url}/{repo}"}, 409 if known else 200)
        elif large is not None:
            href = f"{self.served.url}/lfs/"
            self._answer({"objects": [
                {**one, "actions": {"upload": {"href": href + one["oid"]}}} for one in asked["objects"]
            ]})  # fmt: skip
        elif push is not None and push[2] == "preupload":
            modes = {True: "lfs", False: "regular"}
            self._answer({"files": [
                {"path": one["path"], "uploadMode": modes[_large(one["path"])], "shouldIgnore": False}
                for one in asked["files"]
            ]})  # fmt: skip
        elif push is not None:
            commit = self.served.commit(repo, [json.loads(line) for line in body.splitlines()])
            self._answer({"commitUrl": f"{self.served.url}/{repo}/commit/{commit}", "commitOid": commit})
        else:  # the check of a card's front matter
            self._answer({"errors": [], "warnings": []})

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        self._send(status, json.dumps(content).encode())

    def _commit(self, repo: str, revision: str) -> tuple[str, Path] | None:
        name = repo.partition("/")[2]
        if name in REFUSALS:
            return self._refuse(*REFUSALS[name])
        hidden = repo in self.served.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        if repo not in self.served.repos or hidden:
            return self._refuse(401, "RepoNotFound")
        commit = self.served.refs[repo].get(revision, revision)
        if commit not in self.served.repos[repo]:
            return self._refuse(404, "RevisionNotFound")
        return commit, self.served.repos[repo][commit]

    def _about(self, repo: str, what: str | None, revision: str) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        files = sorted(file for file in commit[1].rglob("*") if file.is_file())
        names = [file.relative_to(commit[1]).as_posix() for file in files]
        if what == "tree":
            entries = []
            for file, name in zip(files, names, strict=True):
                entry = {
                    "type": "file",
                    "path": name,
                    "size": file.stat().st_size,
                    "oid": _digest(file, hashlib.sha1),
                }
                if _large(name):
                    entry["lfs"] = {"oid": _digest(file), "size": file.stat().st_size, "pointerSize": 134}
                entries.append(entry)
            self._send(200, json.dumps(entries).encode())
            return
        siblings = [{"rfilename": name} for name in names]
        self._send(200, json.dumps({"id": repo, "sha": commit[0], "siblings": siblings}).encode())

    def _file(self, repo: str, revision: str, name: str) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        file = commit[1] / name
        if not file.is_file():
            self._refuse(404, "EntryNotFound")
            return
        headers = {"X-Repo-Commit": commit[0], "ETag": f'"{_digest(file, hashlib.sha1)}"'}
        if _large(name):  # as the hub does, from another address
            headers |= {
                "X-Linked-ETag": f'"{_digest(file)}"',
                "X-Linked-Size": str(file.stat().st_size),
                "Location": f"{self.served.elsewhere}/cdn/{repo}/{commit[0]}/{name}",
            }
            self._send(302, b"", headers)
            return
        self._send(200, file.read_bytes(), headers)

    def _weights(self, path: str) -> None:
        owner, name, commit, file = path.split("/", 3)
        content = (self.served.repos[f"{owner}/{name}"][commit] / file).read_bytes()
        start = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if start is not None:
            content = content[int(start[1]) :]
        if name != "cut":
            self._send(206 if start else 200, content)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True

    def _refuse(self, status: int, code: str | None) -> None:
        self._send(status, b"{}", {} if code is None else {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _digest(file: Path, algorithm: Any = hashlib.sha256) -> str:
    content = file.read_bytes()
    head = b"blob %d\0" % len(content) if algorithm is hashlib.sha1 else b""
    digest: str = algorithm(head + content).hexdigest()
    return digest
