"""A server under mixed requests, good and bad: whether it fails, and whether its memory grows.

Searches by words and by pictures, labels, embeddings, files, facts, and requests that are to be refused, from
several clients at once, over an index of the gallery's pictures. The server is a process of its own; what is
reported of its memory is what is resident after each tenth of the requests.
"""

from __future__ import annotations

import base64
import collections
import http.client
import json
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import headword
from experiments.harness import load, memory, serving
from headword.data.gallery import gallery
from headword.search import build_index

PARTS = 10

Request = tuple[str, str, Any]


def run(requests: int = 5_000, clients: int = 4) -> dict[str, Any]:
    """Ask, and look at the server's memory now and then."""
    statuses: collections.Counter[int] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        photos, index = Path(folder) / "photos", Path(folder) / "index"
        photos.mkdir()
        pictures = [Path(shutil.copy(picture.path, photos)) for picture in gallery()]
        build_index(headword.recycle().save(Path(folder) / "model"), photos, index)
        with serving(index) as (running, process, _):
            kinds = kinds_of_requests(pictures)

            def ask(n: int) -> int:
                method, path, body = kinds[n % len(kinds)](n)
                content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
                connection = http.client.HTTPConnection(running.host, running.port, timeout=300)
                try:
                    connection.request(method, path, content, {"Content-Type": "application/json"})
                    response = connection.getresponse()
                    response.read()
                    return response.status
                finally:
                    connection.close()

            resident = [memory("VmRSS", process) / 1e6]
            with ThreadPoolExecutor(clients) as pool:
                for part in range(PARTS):
                    part_of = range(requests * part // PARTS, requests * (part + 1) // PARTS)
                    statuses.update(pool.map(ask, part_of))
                    resident.append(memory("VmRSS", process) / 1e6)
    return {
        "metrics": {
            "statuses": {str(status): count for status, count in sorted(statuses.items())},
            "failures": sum(count for status, count in statuses.items() if status >= 500),
            "alive": True,  # `serving` ends the run where the server has ended
            "resident_mb": resident,
            "grown_in_the_second_half_mb": resident[-1] - resident[PARTS // 2],
        },
        "protocol": {"requests": requests, "clients": clients, "pictures": len(pictures), "load": load()},
    }


def kinds_of_requests(pictures: list[Path]) -> list[Callable[[int], Request]]:
    """Kinds of requests, each of a number: method, path, body."""
    names = [path.name for path in pictures]
    sent = [base64.b64encode(path.read_bytes()).decode() for path in pictures]

    def search(**body: Any) -> Request:
        return "POST", "/search", body

    return [
        lambda n: search(text=f"a picture of thing {n}", k=10),
        lambda n: search(like=names[n % len(names)], negative=[f"word {n}"]),
        lambda n: search(image=sent[n % len(sent)], text="at night"),
        lambda n: search(text=f"thing {n}", where=f"bytes > {n} and path like '%.png'"),
        lambda n: ("POST", "/classify", {"images": [sent[n % len(sent)]], "labels": ["a cat", f"label {n}"]}),
        lambda n: ("POST", "/classify", {"pictures": names[:4], "labels": ["a cat", f"label {n}"]}),
        lambda n: ("POST", "/embed", {"texts": [f"text {n}", f"more text {n}"]}),
        lambda n: ("GET", f"/thumbnails/{names[n % len(names)]}?size={(160, 320, 640, 1280)[n % 4]}", None),
        lambda n: ("GET", f"/images/{names[n % len(names)]}", None),
        lambda n: ("GET", ("/pictures?k=5", "/tags", "/about", "/classes?find=cat", "/")[n % 5], None),
        lambda n: ("POST", "/tag", {"labels": ["a cat", "a cup", f"label {n}"]} if n % 10 == 0 else {}),
        lambda n: ("GET", ("/nothing", "/images/../x", "/search?q=", "/pictures?where=1=1")[n % 4], None),
        lambda n: ("POST", "/search", (b"{", b"[1]", b'{"text": 7}', b"\xff" * 1000, b'{"k": 1}')[n % 5]),
        lambda n: search(image=base64.b64encode(b"no picture %d" % n * 100).decode()),
    ]
