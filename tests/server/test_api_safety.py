"""What a server on loopback must withstand: other pages, other files, broken and huge requests."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from contextlib import suppress

import pytest
from PIL import Image

from headword.server import schemas
from headword.server.guard import HEADERS
from support.serving import Live, base64_of

pytestmark = pytest.mark.usefixtures("alive_afterwards")


# ---- files


@pytest.mark.parametrize("route", ["/images/", "/thumbnails/", "/static/"])
@pytest.mark.parametrize(
    "path",
    [
        "../../../../../../etc/passwd",
        "..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "..%252f..%252fetc%252fpasswd",
        "%c0%ae%c0%ae/%c0%ae%c0%ae/etc/passwd",
        "..%5c..%5cetc%5cpasswd",
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "file:///etc/passwd",
        "people/../../index/index.json",
        "../photos/cat.png",
        "people/../cat.png",
        "./cat.png",
        "cat.png%00.jpg",
        "cat.png/",
        "CAT.PNG",
        "people",
        "%ff%fe",
        "~root/.profile",
        "a" * 5000,
    ],
)
def test_nothing_but_the_indexed_pictures(live: Live, route, path):
    reply = live.get(route + path)
    assert reply.status in {404, 422}
    assert set(reply.json) == {"error"}


def test_a_file_that_is_not_indexed(live: Live):
    (live.index.root / "notes.txt").write_text("mine")
    (live.index.root / "new.png").write_bytes((live.index.root / "cat.png").read_bytes())
    for name in ("notes.txt", "new.png"):
        assert live.get(f"/images/{name}").status == 404
        assert live.get(f"/thumbnails/{name}").status == 404


def test_links_that_lead_out(live: Live, tmp_path):
    """A picture, and a folder of pictures, that became links since they were indexed."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    root = live.index.root
    (tmp_path / "people").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "people" / "astronaut.png")
    (root / "rocket.jpg").rename(root / "kept.jpg")
    (root / "people").rename(root / "kept")
    try:
        (root / "rocket.jpg").symlink_to(secret)
        (root / "people").symlink_to(tmp_path / "people")
        for name in ("rocket.jpg", "people/astronaut.png"):
            for route in ("/images/", "/thumbnails/"):
                assert live.get(route + name).status == 404
            assert live.post("/classify", {"pictures": [name], "labels": ["a"]}).status == 404
        (root / "rocket.jpg").unlink()
        os.mkfifo(root / "rocket.jpg")  # reading it would wait for ever
        assert live.get("/images/rocket.jpg").status == 404
        assert live.get("/thumbnails/rocket.jpg").status == 404
    finally:
        (root / "rocket.jpg").unlink()
        (root / "people").unlink()
        (root / "kept.jpg").rename(root / "rocket.jpg")
        (root / "kept").rename(root / "people")


# ---- other pages


def test_only_by_its_own_name(live: Live):
    port = live.address.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST", "[::1]:9", "127.1.2.3"):
        assert live.get("/tags", Host=host).status == 200, host
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "192.168.1.7", "", "[::1"):
        reply = live.get("/tags", Host=host)
        assert reply.status == 421, host
        assert set(reply.json) == {"error"}


def test_other_pages_are_refused(live: Live):
    port = live.address.port
    own = f"http://127.0.0.1:{port}"
    body = {"labels": ["dark", "bright"]}
    for origin in (
        "http://evil.example",
        "null",
        f"http://127.0.0.1:{port + 1}",
        "http://localhost",
        "http://[",
    ):
        assert live.post("/tag", body, Origin=origin).status == 403, origin
    assert live.get("/tags").json["tags"] == []
    assert live.post("/search", {"text": "a"}, Origin=own).status == 200
    assert live.post("/search", {"text": "a"}, Host="localhost", Origin="http://localhost").status == 200
    for site in ("cross-site", "same-site"):
        assert live.get("/search?q=a", **{"Sec-Fetch-Site": site}).status == 403
        assert live.get("/images/cat.png", **{"Sec-Fetch-Site": site}).status == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert live.get("/", **link).status == 200
    assert live.get("/images/cat.png", **link).status == 403


def test_a_form_of_another_page_says_nothing(live: Live):
    """What a page may send without asking first (forms, plain text) is not taken for JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        reply = live.post("/tag", b'{"labels": ["dark"]}', **{"Content-Type": kind})
        assert reply.status == 422, kind
    assert live.get("/tags").json["tags"] == []


def test_headers_of_every_answer(live: Live):
    replies = [
        *(live.get(path) for path in ("/", "/static/page.js", "/tags", "/images/cat.png", "/nope")),
        live.get("/thumbnails/cat.png"),
        live.get("/tags", Host="evil.example"),
        live.post("/search", {}),
        live.ask("DELETE", "/tags"),
        live.ask("OPTIONS", "/tag", headers={"Origin": "http://evil.example"}),
    ]
    assert [r.status for r in replies] == [200, 200, 200, 200, 404, 200, 421, 400, 405, 405]
    for reply in replies:
        assert HEADERS.items() <= reply.headers.items()
        assert not any(name.startswith("access-control") for name in reply.headers)
        assert "server" not in reply.headers
    policy = HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_token(live: Live):
    assert live.get("/tags", Authorization="Bearer guessed").status == 401
    assert live.get("/tags", Authorization="Bearer ").status == 401
    assert live.get("/tags", Authorization="\xff").status == 401


# ---- broken and huge requests


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, and has hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_malformed_uploads(live: Live, pictures):
    whole = pictures["cat"].read_bytes()
    jpeg = io.BytesIO()
    Image.open(pictures["cat"]).save(jpeg, "JPEG")
    broken = {
        "no image": b"GIF, or is it?",
        "cut PNG": whole[: len(whole) // 2],
        "cut JPEG": jpeg.getvalue()[:2000],
        "bomb": png_header(30_000, 30_000),
        "large": png_header(9_000, 9_000),
        "too large to be true": png_header(2**31 - 1, 2**31 - 1),
        "script": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00",
    }
    for what, data in broken.items():
        reply = live.post("/search", {"image": base64_of(data)})
        assert (reply.status, set(reply.json)) == (400, {"error"}), (what, reply.body)
        assert "the picture that was sent" in reply.json["error"]
        assert live.post("/embed", {"images": [base64_of(data)]}).status == 400
    assert (
        f"limit of {schemas.MAX_PIXELS:,}"
        in live.post("/search", {"image": base64_of(broken["large"])}).json["error"]
    )
    for text in ("", "not base64!", "data:image/png;base64", "YQ=", 7, None):
        reply = live.post("/embed", {"images": [text]})
        assert reply.status == 422, text


def test_a_real_bomb_is_not_decoded(live: Live):
    """Some kilobytes that would be 0.2 GB of pixels."""
    packed = io.BytesIO()
    Image.new("1", (8_200, 8_200)).save(packed, "PNG")
    assert len(packed.getvalue()) < 100_000
    reply = live.post("/search", {"image": base64_of(packed.getvalue())})
    assert reply.status == 400
    assert "67,240,000 pixels" in reply.json["error"]


def test_oversized_uploads(live: Live):
    body = b'{"image": "' + b"A" * (schemas.MAX_BODY + 1) + b'"}'
    reply = live.post("/search", body)
    assert reply.status == 413
    assert f"{schemas.MAX_BODY:,} bytes" in reply.json["error"]
    too_long = b'{"image": "' + b"A" * (schemas.MAX_UPLOAD * 4 // 3 + 400) + b'"}'
    assert len(too_long) < schemas.MAX_BODY
    assert live.post("/search", too_long).status == 422
    chunks = iter([b"x" * 1_000_000] * 40)  # of no stated length
    assert chunked(live, chunks) == 413


def chunked(live: Live, chunks) -> int:
    """Status of a body that is sent in chunks, without saying how long it will be."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", live.address.port, timeout=30)
    try:
        connection.request(
            "POST", "/search", chunks, {"Content-Type": "application/json"}, encode_chunked=True
        )
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/1.1\r\n\r\n",  # no host
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999999\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\n\r\n{",  # and is gone
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_broken_requests(live: Live, sent):
    with socket.create_connection(("127.0.0.1", live.address.port), timeout=30) as connection:
        said = b""
        with suppress(OSError):  # refused, it may be gone before all was sent
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            said = connection.recv(100)
    assert not said.startswith(b"HTTP/1.1 5")
    assert not said.startswith(b"HTTP/1.1 200")


def test_nesting_and_odd_json(live: Live):
    for body in (
        b"[" * 100_000,
        b'{"text": ' * 50_000,
        b'{"text": "\\ud800"}',
        b'{"k": NaN}',
        b'{"k": 1e999}',
        b"\xff",
    ):
        reply = live.post("/search", body)
        assert reply.status in {400, 422}, body[:20]
        assert set(reply.json) == {"error"}


# ---- fuzzing


def test_fuzzed_from_its_own_document(live: Live):
    """Requests made from the OpenAPI document, fitting and not: no answer but those it documents."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [
        schemathesis.checks.not_a_server_error,
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    ]
    schema = schemathesis.openapi.from_url(live.address.url + "openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 11
    for operation in operations:
        asks = any((operation.path_parameters, operation.query, operation.body))
        for mode in list(GenerationMode) if asks else [GenerationMode.POSITIVE]:

            @settings(
                max_examples=12,
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def fuzz(case):
                case.call_and_validate(checks=checks)

            fuzz()
