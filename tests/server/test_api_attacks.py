"""Strangers on the wire: slow, many, large, odd. Nobody else waits for them, and one line is the answer."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from headword.search.manifest import writing
from headword.server import connection, guard
from headword.server.guard import outward, without_folders
from support.serving import Live, base64_of

POST = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /tags HTTP/1.1\r\nHost: localhost\r\n"

pytestmark = pytest.mark.usefixtures("alive_afterwards")


def rest_of(peer: socket.socket) -> bytes:
    """All that a server still says, until it ends the connection."""
    said = b""
    with peer, suppress(ConnectionError):
        while part := peer.recv(1 << 16):
            said += part
    return said


def statuses(said: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", said)]


def error_in(said: bytes) -> str:
    """The one thing that the last answer's body says."""
    (line,) = json.loads(said.rpartition(b"\r\n\r\n")[2]).items()
    assert line[0] == "error"
    return line[1]


def noise(side: int) -> bytes:
    """A PNG that does not pack: of about 3 · side² bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


# ---- slow and many


@pytest.mark.attack
def test_who_is_slow_holds_up_nobody(live: Live, monkeypatch):
    """200 connections with half their headers, 50 with half a large body, 20 with nothing."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 8.0)
    monkeypatch.setattr(guard, "BODY_SECONDS", 8.0)
    headers = [live.send(GET + b"X-Slow: ") for _ in range(200)]
    bodies = [live.send(POST + b"Content-Length: 5000000\r\n\r\n{") for _ in range(50)]
    silent = [live.send(b"") for _ in range(20)]
    assert live.post("/search", {"image": base64_of(noise(700)), "k": 1}).status == 200  # a large one
    assert live.post("/search", {"text": "new words", "k": 1}).status == 200
    for peer in headers:
        said = rest_of(peer)
        assert statuses(said) == [408]
        assert error_in(said) == "the headers took longer than 8 seconds"
    for peer in bodies:
        said = rest_of(peer)
        assert statuses(said) == [408]
        assert error_in(said) == "the body took longer than 8 seconds"
    assert {rest_of(peer) for peer in silent} == {b""}


def test_the_oldest_makes_room(live: Live, monkeypatch):
    monkeypatch.setattr(connection, "MOST", 20)
    peers = [live.send(GET) for _ in range(40)]
    assert live.get("/tags").status == 200
    for peer in peers[:20]:
        assert statuses(rest_of(peer)) in ([503], [])  # none if it was not read yet
    peers[-1].sendall(b"Connection: close\r\n\r\n")
    assert statuses(rest_of(peers[-1])) == [200]
    for peer in peers[20:]:
        peer.close()


def test_bodies_are_held_up_to_a_bound(live: Live, monkeypatch):
    """What arrives slowest goes when there is too much of it."""
    monkeypatch.setattr(guard, "BODIES", 3_000_000)
    peers = [live.send(POST + b"Content-Length: 900001\r\n\r\n" + b" " * 900_000) for _ in range(6)]
    assert statuses(rest_of(peers[0])) == [503]
    assert live.post("/search", {"text": "a cat"}).status == 200
    peers[-1].sendall(b"1")
    peers[-1].settimeout(20)
    assert peers[-1].recv(100).startswith(b"HTTP/1.1 422")
    for peer in peers:
        peer.close()


def test_requests_under_way_are_bounded(live: Live, monkeypatch):
    with live.send(POST + b"Content-Length: 2\r\n\r\n{"):
        monkeypatch.setattr(guard, "REQUESTS", 1)
        wait_until(lambda: live.get("/tags").status == 503)
        assert set(live.get("/tags").json) == {"error"}
    wait_until(lambda: live.get("/tags").status == 200)


def wait_until(true) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("seconds", "held"), [(1.0, 256_000_000), (60.0, 1_000_000)])
def test_answers_that_nobody_takes(live: Live, monkeypatch, seconds, held):
    """They end after a time, and before that when there are too many."""
    monkeypatch.setattr(connection, "TAKE_SECONDS", seconds)
    monkeypatch.setattr(connection, "UNTAKEN", held)
    body = json.dumps({"texts": [f"text {n}" for n in range(8)] * 32}).encode()
    request = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request += b"Content-Length: %d\r\n\r\n" % len(body) + body
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", live.address.port))
        peer.sendall(request)
        wait_until(lambda: untaken(live) > 0)
        wait_until(lambda: untaken(live) == 0)
        peer.settimeout(30)
        assert len(rest_of(peer)) < 6_000_000


def untaken(live: Live) -> int:
    """Bytes of answers that the server holds."""
    return sum(one.transport.get_write_buffer_size() for one in set(live.server.server_state.connections))


def test_a_body_without_end(live: Live):
    with live.send(POST + b"Transfer-Encoding: chunked\r\n\r\n") as peer, suppress(ConnectionError):
        for _ in range(3_000):  # 196 MB, unless it is cut off
            peer.sendall(b"10000\r\n" + bytes(65_536) + b"\r\n")
        pytest.fail("it read on for ever")


def test_a_body_after_the_answer(live: Live, monkeypatch):
    """A GET is answered at once; what it sends on is not read for ever."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 1.0)
    with live.send(GET + b"Transfer-Encoding: chunked\r\n\r\n") as peer:
        end = time.monotonic() + 20
        with suppress(ConnectionError):
            while time.monotonic() < end:
                peer.sendall(b"5\r\nAAAAA\r\n")
                time.sleep(0.05)
            pytest.fail("it read on for ever")


# ---- pictures


def test_the_model_is_not_held_by_a_picture(live: Live, pictures, monkeypatch):
    """Whatever a transform takes, words are answered meanwhile."""
    begun, go = threading.Event(), threading.Event()
    transform = live.index.model.vision.source.transform

    def slow(image):
        begun.set()
        assert go.wait(60)
        return transform(image)

    monkeypatch.setattr(live.index.model.vision.source, "transform", slow)
    replies: list[int] = []
    uploads = [
        ("/search", {"image": base64_of(pictures["cat"])}),
        ("/embed", {"images": [base64_of(pictures["cat"])]}),
        ("/classify", {"images": [base64_of(pictures["cat"])], "labels": ["a cat"]}),
    ]
    threads = [
        threading.Thread(target=lambda asked=asked: replies.append(live.post(*asked).status))
        for asked in uploads
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    try:
        assert live.post("/search", {"text": "words in between"}).status == 200
        assert live.post("/embed", {"texts": ["more words in between"]}).status == 200
        assert live.post("/classify", {"pictures": ["cat.png"], "labels": ["a cat"]}).status == 200
        assert live.get("/thumbnails/cat.png").status == 200
        assert not replies
    finally:
        go.set()
        for thread in threads:
            thread.join()
    assert replies == [200] * 3


@pytest.mark.parametrize("made", ["an error", "another shape", "NaN", "no tensor"])
def test_a_transform_that_fails_names_the_picture(live: Live, pictures, monkeypatch, made):
    good = live.index.model.vision.source.transform(Image.open(pictures["cat"]).convert("RGB"))

    def odd(_image):
        if made == "an error":
            raise MemoryError("no room\nfor this")
        return {"another shape": good[:, :9, :9], "NaN": good * float("nan"), "no tensor": 7}[made]

    monkeypatch.setattr(live.index.model.vision.source, "transform", odd)
    sent = base64_of(pictures["cat"])
    for path, body, name in [
        ("/search", {"image": sent}, "the picture that was sent"),
        ("/embed", {"images": [sent, sent]}, "picture 1 of those that were sent"),
        ("/classify", {"images": [sent], "labels": ["a"]}, "the picture that was sent"),
    ]:
        reply = live.post(path, body)
        assert reply.status == 400
        assert reply.json["error"].startswith(f"{name} (")
        why = "does not fit in the memory" if made == "an error" else "the model's transform fails on it: "
        assert why in reply.json["error"]
        assert "\n" not in reply.json["error"]


@pytest.mark.attack
@pytest.mark.parametrize("size", [(1_000_000, 1), (1, 1_000_000)])
def test_a_picture_that_is_all_side(live: Live, size):
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 5_000
    asked = {"image": base64_of(buffer.getvalue())}
    upload = threading.Thread(target=lambda: live.post("/search", asked))
    upload.start()
    assert live.post("/search", {"text": "meanwhile, a cat"}).status == 200
    upload.join()


# ---- what is sent


@pytest.mark.parametrize(
    "body",
    [
        b'{"labels": [' + b"[]," * 6_000_000 + b"1]}",
        b'{"labels": ["a"]' + b', "k": {}' * 200_000 + b"}",
        b'{"labels": [' + b'"a",' * 5_000_000 + b'"a"]}',
        b"[" * 20_000_000,
        b'{"a":' * 4_000_000,
    ],
    ids=["lists", "keys", "labels", "depth", "objects"],
)
def test_json_of_many_values(live: Live, body):
    """24 MB of it would be a gigabyte of objects, and nothing else would be answered for seconds."""
    reply = live.post("/tag", body)
    assert (reply.status, set(reply.json)) == (413, {"error"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tag", {"labels": ["x" * 10_000_000]}),
        *[(path, {"labels": ["a", "\0"]}) for path in ("/tag", "/classify")],
        ("/tag", {"labels": [f"label {n}" for n in range(100_000)]}),
        ("/tag", b'{"labels": ["\\udc80"]}'),
        ("/tag", b'{"labels": ["a"], "templates": ["\\ud800{}"]}'),
        ("/classify", b'{"labels": ["a"], "pictures": ["\\ud800"]}'),
        ("/embed", b'{"texts": ["\\ud800"]}'),
        ("/search", b'{"like": "\\ud800"}'),
        ("/search", b'{"text": "a", "where": "\\ud800"}'),
        ("/search", b'{"\\ud800": 1}'),
        ("/search", b'{"text": "a", "k": Infinity}'),
        ("/search", b'{"text": NaN}'),
        ("/search", b'{"text": "a"} x'),
        ("/search", b""),
        ("/search", b"1" * 100_000),
        ("/search", b'{"text": "a", "text": 7}'),
        *[("/tag", {"labels": ["a"], "templates": [t]}) for t in ("{", "{0}", "{{}}", "{x}", "{}{}", "%s")],
    ],
)  # fmt: skip
def test_odd_bodies(live: Live, path, body):
    reply = live.post(path, body)
    assert reply.status in {400, 404, 422}
    assert set(reply.json) == {"error"}
    assert "\n" not in reply.json["error"]
    assert len(reply.json["error"]) < 1_000


END = b"Connection: close\r\n\r\n"
WIRE = {
    "pipelined": ((GET + b"\r\n") * 20 + GET + END, [200] * 21),
    "pipelined nonsense": ((GET + b"\r\n") * 3 + b"NONSENSE\r\n\r\n", [200] * 3 + [400]),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", [400]),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", [400]),
    "an odd length": (POST + b"Content-Length: 0x10\r\n\r\n", [400]),
    "too short a length": (POST + b"Content-Length: 5\r\n" + END + b'{"text": "a"}', [422]),
    "another coding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", [400]),
    "a chunk that is none": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", [400]),
    "refused, then no chunk": (
        b"POST /search HTTP/1.1\r\nHost: evil.example\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        [421],
    ),
    "an upgrade": (GET + b"Connection: upgrade, close\r\nUpgrade: websocket\r\n\r\n", [200]),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [421, 400]),
    "a long header": (GET + b"X: " + b"a" * 3_000_000 + b"\r\n" + END, [400]),
    "many headers": (GET + b"X: y\r\n" * 400_000 + END, [400]),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00" + bytes(100) + b"\r\n\r\n", [400]),
    "trace": (GET.replace(b"GET", b"TRACE") + END, [405]),
    "connect": (GET.replace(b"GET /tags", b"CONNECT a:1") + END, [404]),
}


@pytest.mark.parametrize("kind", WIRE)
def test_on_the_wire(live: Live, kind):
    sent, expected = WIRE[kind]
    peer = live.send(sent)
    said = rest_of(peer)
    # Refused, it may be gone before its answer was read.
    assert statuses(said)[: len(expected)] == expected or (not said and expected[0] >= 400), said[:300]
    assert not [status for status in statuses(said) if status == 500]


@pytest.mark.parametrize(
    "host",
    [
        "localhost.", "localhost.evil.example", "127.0.0.1.nip.io", "evil@localhost", "localhost@evil",
        "localhost/x", "localhost:80@evil", "localhost#", "localhost, evil", "2130706433", "0x7f.1", "127.1",
        "0.0.0.0", "[::2]", "[::ffff:192.168.1.1]", "[::1%lo]x", "[fe80::1]", "\xff", "a" * 5_000,
    ],
)  # fmt: skip
def test_hosts_that_are_not_its_own(live: Live, host):
    peer = live.send(b"GET /tags HTTP/1.1\r\nHost: " + host.encode("latin-1") + b"\r\n" + END)
    assert statuses(rest_of(peer)) in ([421], [400])


def test_a_compressed_body_is_not_unpacked(live: Live):
    import gzip

    for body in (gzip.compress(b'{"text": "a cat"}'), gzip.compress(bytes(50_000_000))):
        reply = live.post("/search", body, **{"Content-Encoding": "gzip"})
        assert reply.status in {400, 422}


def test_a_page_in_place_of_a_picture(live: Live):
    """A file that became HTML since it was indexed is still said to be a picture, and is no page."""
    file = live.index.root / "rocket.jpg"
    kept = file.read_bytes()
    try:
        file.write_bytes(b"<script>alert(1)</script>")
        reply = live.get("/images/rocket.jpg")
        assert reply.body == b"<script>alert(1)</script>"
        assert reply.headers["content-type"] == "image/jpeg"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert live.get("/thumbnails/rocket.jpg").status == 404
    finally:
        file.write_bytes(kept)


def test_features_that_are_cut_short(live: Live):
    """By whoever may write to the index, while it is served: to read on would end the process."""
    (path,) = live.index.path.glob("rows-*.f32")
    whole = path.read_bytes()
    os.truncate(path, 100)
    try:
        replies = [live.post("/search", body) for body in ({"text": "a cat"}, {"like": "cat.png"})]
        replies.append(live.post("/tag", {"labels": ["a"]}))
        assert [reply.status for reply in replies] == [400, 400, 409]
        for reply in replies:
            line = f"{path.name} is cut short (100 bytes); index the folder again"
            assert reply.json["error"] == line
        assert live.get("/pictures").json["total"] == 4
    finally:
        path.write_bytes(whole)


# ---- what is told


def test_no_folder_of_this_machine_is_told(live: Live, tmp_path):
    """Neither in facts nor in errors."""
    folders = (str(live.index.path), str(live.index.root), str(live.index.path.parent))
    gone = live.index.root / "coffee.png"
    kept = gone.rename(tmp_path / "coffee.png")
    try:
        with writing(live.index.path):
            replies = [
                live.post("/tag", {"labels": ["a"]}),
                live.get("/images/coffee.png"),
                live.get("/thumbnails/coffee.png"),
            ]
    finally:
        kept.rename(gone)
    assert [reply.status for reply in replies] == [409, 404, 404]
    replies += [
        live.get("/about"),
        live.get("/images/nope.png"),
        live.post("/search", {"like": "nope.png"}),
        live.post("/search", {"text": "a", "where": "nope = 1"}),
        live.get("/openapi.json"),
    ]
    for reply in replies:
        for folder in folders:
            assert folder not in reply.body.decode(), reply.body
    assert "another process is changing index" in replies[0].json["error"]
    about = live.get("/about").json
    assert about["index"]["root"] == about["folder"] == "photos"
    assert about["index"]["folder"] == "index"
    assert about["index"]["model"]["folder"] == "model"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("no file /srv/my photos/a b/cat.png; see x/y", "no file a b/cat.png; see x/y"),
        ("cannot write in /srv/my photos: disk full", "cannot write in my photos: disk full"),
        ("cannot read '/home/me/models/it'", "cannot read 'it'"),
        ("joint:/home/me/one + timm:/home/me/two", "joint:one + timm:two"),
        ("https://example.org/a/b, people/cat.png, 1/2", "https://example.org/a/b, people/cat.png, 1/2"),
        ("C:\\Users\\me\\cat.png is gone", "cat.png is gone"),
    ],
)  # fmt: skip
def test_lines_without_folders(line, told):
    assert without_folders(line, ["/srv/my photos"]) == told
    assert outward({"a": [line, 1, None]}, ["/srv/my photos"]) == {"a": [told, 1, None]}
