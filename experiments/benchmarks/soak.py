"""A server under mixed requests, good and bad: whether it fails, and whether its memory grows.

Searches by words and by pictures, labels, embeddings, files, facts, and requests that are to be refused, from
several clients at once, over an index of the gallery's pictures. The server is a process of its own; what is
reported of its memory is what is resident after each tenth of the requests.

    python -m experiments soak [--requests 5000] [--clients 4]
"""

from __future__ import annotations

import argparse
import base64
import collections
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import headword
from experiments.benchmarks.common import write
from headword.data.gallery import gallery
from headword.search import build_index
from headword.server.client import Running

PARTS = 10

Asked = tuple[str, str, Any]


def requests(pictures: list[Path]) -> list[Callable[[int], Asked]]:
    """Kinds of requests, each of a number: method, path, body."""
    names = [path.name for path in pictures]
    sent = [base64.b64encode(path.read_bytes()).decode() for path in pictures]

    def search(**body: Any) -> Asked:
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


def resident(process: int) -> float:
    """Megabytes of a process that are in memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    statuses: collections.Counter[int] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        photos, index = Path(folder) / "photos", Path(folder) / "index"
        photos.mkdir()
        pictures = [Path(shutil.copy(picture.path, photos)) for picture in gallery()]
        build_index(headword.recycle().save(Path(folder) / "model"), photos, index)
        process = subprocess.Popen(
            [sys.executable, "-m", "headword", "app", str(index), "--port", "0", "--quiet"]
        )
        try:
            while (running := Running.read(index)) is None:
                if process.poll() is not None:
                    sys.exit("the server ended")
                time.sleep(0.05)
            kinds = requests(pictures)

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

            memory = [resident(process.pid)]
            with ThreadPoolExecutor(options.clients) as pool:
                for part in range(PARTS):
                    every = range(options.requests * part // PARTS, options.requests * (part + 1) // PARTS)
                    statuses.update(pool.map(ask, every))
                    memory.append(resident(process.pid))
            alive = process.poll() is None
        finally:
            process.terminate()
            process.wait()
    write(
        "soak",
        {
            "metrics": {
                "statuses": {str(status): count for status, count in sorted(statuses.items())},
                "failures": sum(count for status, count in statuses.items() if status >= 500),
                "alive": alive,
                "resident_mb": memory,
                "grown_in_the_second_half_mb": memory[-1] - memory[PARTS // 2],
            },
            "protocol": {**vars(options), "pictures": len(pictures), "load": os.getloadavg()[0]},
        },
    )


if __name__ == "__main__":
    main()
