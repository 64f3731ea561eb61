"""A warm server beside the command line: found, asked, and never in the way; and its inner parts."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from headword.cli import app
from headword.errors import HeadwordError
from headword.search import Index, Query
from headword.server.client import NAME, Running, ask_server
from headword.server.memory import TextVectors, Thumbnails
from headword.server.model_thread import ModelThread, Overloaded
from headword.server.serving import Address, listening
from support.serving import Live

# ---- asked by the command line


def test_client_has_what_the_index_has(live: Live, pictures):
    for query in (
        Query(text="a rocket", negative=("a cat",)),
        Query(image=pictures["coffee"]),
        Query(text="red", image=str(pictures["coffee"])),
        Query(like="rocket.jpg"),
    ):
        said = ask_server(live.index.path, query, k=3, where="path != 'cat.png'")
        wanted = live.index.search(query, k=3, where="path != 'cat.png'")
        assert said is not None
        assert [hit.path for hit in said.hits] == [hit.path for hit in wanted]
        assert [hit.score for hit in said.hits] == pytest.approx([hit.score for hit in wanted], abs=1e-5)
        assert said.environment == {}
        assert said.url == live.address.url
    told = ask_server(live.index.path, Query(text="a"), k=1, about=True)
    assert told is not None
    assert told.index["engine"] == live.index.about()["engine"]
    assert told.environment["torch"] == importlib.metadata.version("torch")


def test_client_leaves_to_others_what_it_cannot_ask(live: Live, tmp_path):
    """Then the command line searches by itself, and says what is wrong in its own words."""
    folder = live.index.path
    for query in (
        Query(),
        Query(text="a", text_weight=2.0),
        Query(image=Image.new("RGB", (8, 8))),
        Query(image=tmp_path / "nope.png"),
        Query(like="nope.png"),
    ):
        assert ask_server(folder, query, k=3) is None
    assert ask_server(folder, Query(text="a"), k=3, where="tga = 1") is None
    assert ask_server(folder, Query(text="a"), k=100_000) is None
    assert ask_server(tmp_path, Query(text="a"), k=3) is None


def test_client_loads_no_model_library(live: Live):
    code = (
        "import sys; from headword.server.client import ask_server; from headword.search import Query; "
        f"answer = ask_server({str(live.index.path)!r}, Query(text='a rocket'), k=1); "
        "print(answer.hits[0].path, {'torch', 'numpy', 'pyarrow', 'PIL'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "rocket.jpg set()"


def test_server_file(live: Live):
    file = live.index.path / NAME
    assert file.stat().st_mode & 0o777 == 0o600
    said = json.loads(file.read_text())
    assert said["port"] == live.address.port
    assert said["pid"] == os.getpid()
    assert live.get("/tags", Authorization=f"Bearer {said['token']}").status == 200


def test_stale_server_files(index, tmp_path):
    """A server that is gone, another program in its place, a file that others could have written."""
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "index.json").write_bytes((index.path / "index.json").read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free = closed.getsockname()[1]
    running = Running("127.0.0.1", free, "t", 1)
    assert running.write(folder)
    assert Running.read(folder) == running
    assert ask_server(folder, Query(text="a"), k=1) is None
    (folder / NAME).chmod(0o644)
    assert Running.read(folder) is None
    for text in ("", "[]", "{", '{"port": 1}', '{"host": 1, "port": "x", "token": 2, "pid": 3}'):
        (folder / NAME).write_text(text)
        (folder / NAME).chmod(0o600)
        assert Running.read(folder) is None, text
    dataclasses.replace(running, token="other").write(folder)
    running.remove(folder)
    assert (folder / NAME).exists()  # it is another's
    assert not running.write(tmp_path / "no such folder")


@pytest.mark.parametrize(
    "said", [b"", b"hello\r\n", b"HTTP/1.1 200 OK\r\n\r\nno JSON", b"HTTP/1.1 200 OK\r\n\r\n[]"]
)
def test_something_else_on_the_port(index, tmp_path, said):
    (tmp_path / "index.json").write_bytes((index.path / "index.json").read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        Running("127.0.0.1", listener.getsockname()[1], "t", 1).write(tmp_path)
        assert ask_server(tmp_path, Query(text="a"), k=1) is None
        thread.join()


def test_server_of_another_version(live: Live, tmp_path):
    """An index that was copied with its server's file, and then changed."""
    said = json.loads((live.index.path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**said, "version": "another"}))
    running = Running.read(live.index.path)
    assert running is not None
    running.write(tmp_path)
    assert ask_server(tmp_path, Query(text="a"), k=1) is None
    dataclasses.replace(running, token="guessed").write(live.index.path)
    assert ask_server(live.index.path, Query(text="a"), k=1) is None
    running.write(live.index.path)
    assert ask_server(live.index.path, Query(text="a"), k=1) is not None


def test_search_asks_the_server(live: Live, monkeypatch, tmp_path):
    """`headword search`: the same with a server and without, down to the JSON."""
    asked = ("search", live.index.path, "a rocket", "--not", "a cat", "-k", 2, "--json", "-")
    with monkeypatch.context() as patch:
        patch.setattr(Index, "open", lambda *_, **__: pytest.fail("the model was loaded"))
        warm = json.loads(run(*asked))
    monkeypatch.setattr("headword.server.client.ask_server", lambda *_, **__: None)
    monkeypatch.setattr(Index, "open", lambda *_, **__: live.index)
    cold = json.loads(run(*asked))
    for said in (warm, cold):
        said["least_shown"] = pytest.approx(said["least_shown"], abs=1e-4)
        for result in said["results"]:
            result["score"] = pytest.approx(result["score"], abs=1e-5)
            result["relevance"] = pytest.approx(result["relevance"], abs=1e-4)
    assert warm == cold
    assert warm["results"][0]["path"] == "rocket.jpg"


# ---- the command


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + result.stderr + repr(result.exception)
    return result.stderr if code else result.stdout + result.stderr


def test_app_until_interrupted(index, monkeypatch):
    opened: list[str] = []

    def visit(url: str) -> None:
        """In place of a browser: the server answers, and is then interrupted as by Ctrl-C."""
        opened.append(url)
        assert Running.read(index.path) is not None
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("typer.launch", visit)
    said = run("app", index.path, "--port", 0, "--open", "--host", "0.0.0.0")
    assert opened[0].startswith("http://127.0.0.1:")
    assert opened[0] in said
    assert "whoever reaches this machine can see the pictures" in said
    assert "\nstopped\n" in said
    assert not (index.path / NAME).exists()


def test_app_mistakes(index, tmp_path):
    assert "is no index" in run("app", tmp_path, code=2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = run("app", index.path, "--port", port, code=2)
    assert f"port {port}: Address already in use; give another with --port" in line
    assert "no address of this machine" in run("app", index.path, "--host", "no.such.host.invalid", code=2)
    assert run("app", index.path, "--port", 70_000, code=2)
    for line in (run("app", tmp_path, code=2), run("app", index.path, "--host", "x y", code=2)):
        assert line.count("\n") == 1


def test_where_it_listens():
    with listening("127.0.0.1", 0) as first, listening("127.0.0.1", 0) as second:
        assert first.getsockname()[1] != second.getsockname()[1]
    with listening("localhost", None) as usual, listening("localhost", None) as other:
        assert usual.getsockname()[1] != other.getsockname()[1]  # the usual port is taken by one of them
        assert (
            usual.proto == socket.IPPROTO_TCP
        )  # or asyncio leaves Nagle's algorithm on, for 40 ms an answer
    assert Address("127.0.0.1", 80).loopback
    assert Address("localhost", 80).loopback
    assert not Address("0.0.0.0", 80).loopback
    assert Address("0.0.0.0", 80).url == "http://127.0.0.1:80/"
    assert Address("::", 80).url == "http://[::1]:80/"


# ---- the parts


def test_model_thread_batches():
    """What waits while a batch is answered is the next batch, in order; work gets its turns between."""
    begun, go = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def answer(batch: list[int]) -> list[int | Exception]:
        batches.append(batch)
        begun.set()
        go.wait(10)
        return [ValueError(str(n)) if n == 5 else n * n for n in batch]

    thread = ModelThread(answer, batch=4)
    futures = [thread.ask(0)]
    assert begun.wait(10)
    futures += [thread.ask(n) for n in range(1, 12)]
    order: list[int] = []
    work = [thread.run(lambda n=n: order.append(len(batches)) or n) for n in range(2)]
    go.set()
    for n, future in enumerate(futures):
        if n == 5:
            with pytest.raises(ValueError, match="5"):
                future.result(10)
        else:
            assert future.result(10) == n * n
    assert [one.result(10) for one in work] == [0, 1]
    assert batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]
    assert order == [3, 4]
    failed = thread.run(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failed.result(10)
    thread.close()
    with pytest.raises(Overloaded):
        thread.ask(1)


def test_model_thread_limits():
    begun, go = threading.Event(), threading.Event()

    def answer(batch: list[int]) -> list[int | Exception]:
        begun.set()
        go.wait(10)
        raise RuntimeError("all of them")

    thread = ModelThread(answer, most=3)
    first = thread.ask(0)
    assert begun.wait(10)
    waiting = [thread.ask(n) for n in range(3)]
    with pytest.raises(Overloaded):
        thread.ask(9)
    late = thread.run(lambda: None)
    waiting[1].cancel()
    closing = threading.Thread(target=thread.close)
    closing.start()
    while not thread._closed:
        pass
    go.set()
    closing.join(10)
    with pytest.raises(RuntimeError, match="all of them"):
        first.result(10)
    assert all(future.cancelled() for future in (*waiting, late))


def test_texts_are_remembered(embedded):
    asked: list[list[str]] = []
    embed = embedded.text.source.embed

    def counting(texts: list[str]) -> torch.Tensor:
        asked.append(texts)
        return embed(texts)

    remembered = TextVectors(counting, limit=3)
    got = remembered(["a cat", "a dog", "a cat"])
    torch.testing.assert_close(got, embed(["a cat", "a dog", "a cat"]), rtol=0, atol=1e-6)
    assert torch.equal(remembered(["a dog"]), got[1:2])
    assert asked == [["a cat", "a dog"]]
    remembered(["a bird"])
    remembered(["a fish"])  # a fourth: the one not asked for longest goes
    assert remembered.recent.held == 3
    remembered(["a dog"])
    assert len(asked) == 3
    remembered(["a cat"])
    assert asked[3:] == [["a cat"]]
    many = remembered([f"text {n}" for n in range(10)])  # more than are kept
    assert many.shape == (10, embedded.text.dim)
    assert remembered.recent.held == 3


def test_thumbnails_stay_within_their_bound(pictures, tmp_path):
    thumbnails = Thumbnails(limit=30_000)
    first = thumbnails.get(pictures["cat"], 320)
    assert thumbnails.get(pictures["cat"], 320) is first
    for name in ("coffee", "rocket", "astronaut", "flower"):
        for size in (160, 320):
            assert Image.open(io.BytesIO(thumbnails.get(pictures[name], size))).format == "JPEG"
            assert 0 < thumbnails.recent.held <= 30_000
    again = thumbnails.get(pictures["cat"], 320)
    assert again == first
    assert again is not first
    with pytest.raises(HeadwordError, match="there is no image file"):
        thumbnails.get(tmp_path / "nope.png", 320)
