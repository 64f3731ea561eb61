"""An index that changes while it is served: every answer is of one version, and none is a failure of ours."""

from __future__ import annotations

import copy
import shutil
import threading

import pytest
import torch
from PIL import Image

from headword.search import Index, Query, build_index
from headword.server.service import BusyError, Search, SearchResult, Service
from support.serving import Live, base64_of


@pytest.fixture(scope="module")
def other(embedded, tmp_path_factory):
    """Another model of the same classifier, saved."""
    fresh = copy.copy(embedded)
    fresh.aligner = copy.deepcopy(embedded.aligner)
    fresh.centre_on(torch.randn(8, embedded.vision.dim, generator=torch.Generator().manual_seed(0)).abs())
    return fresh.save(tmp_path_factory.mktemp("other") / "model")


@pytest.mark.attack
def test_requests_while_the_index_changes(live: Live, saved, other, tmp_path, pictures):
    """Pictures that come, go and change; tags; another folder in place; another model; no index at all."""
    index, root, model = live.index.path, live.index.root, live.index.model
    versions = {live.index.version: set(paths_of(live.index))}
    done, gone = threading.Event(), threading.Event()
    answers: list[tuple[str, int, dict, bool]] = []
    upload = base64_of(pictures["cat"])
    asked = [
        ("POST", "/search", {"text": "a cat", "k": 100}),
        ("POST", "/search", {"like": "cat.png", "negative": ["new words"], "k": 100}),
        ("POST", "/search", {"text": "a cat", "where": "path != 'none'", "k": 100}),
        ("POST", "/search", {"image": upload, "k": 100}),
        ("GET", "/pictures?k=100", None),
        ("GET", "/pictures?k=100&tag=dark", None),
        ("POST", "/classify", {"pictures": ["cat.png"], "labels": ["a cat", "a dog"]}),
        ("POST", "/embed", {"texts": ["a cat"], "images": [upload]}),
        ("GET", "/tags", None),
        ("GET", "/about", None),
        ("GET", "/thumbnails/extra.png", None),
        ("GET", "/images/extra.png", None),
    ]

    def ask() -> None:
        for n in range(600):
            if done.is_set():
                return
            method, path, body = asked[n % len(asked)]
            reply = live.ask(method, path, body)
            told = {} if path.startswith(("/th", "/im")) else reply.json
            answers.append((path, reply.status, told, gone.is_set()))

    def changed() -> None:
        opened = Index.open(index, model=model)
        versions[opened.version] = set(paths_of(opened))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        extra = root / "extra.png"
        for colour in ("red", "blue"):
            Image.new("RGB", (40, 40), colour).save(extra)
            build_index(model, root, index)
            changed()
            Index.open(index, model=model).tag(["dark", "bright"])
            changed()
        extra.unlink()
        build_index(model, root, index)
        changed()
        # Another index in its place, and one of another model.
        for folder in (saved, other):
            fresh = tmp_path / folder.parent.name
            build_index(folder, root, fresh)
            versions[Index.open(fresh).version] = set(paths_of(Index.open(fresh)))
            index.rename(tmp_path / f"old-{folder.parent.name}")
            fresh.rename(index)
            expected = Index.open(index).version
            assert live.get("/tags").json["index_version"] == expected
        # None at all: what was opened goes on answering, and nothing can be changed.
        gone.set()
        shutil.move(index, tmp_path / "gone")
        before = len(answers)
        while len(answers) < before + 3 * len(asked) and any(thread.is_alive() for thread in threads):
            done.wait(0.05)
        reply = live.post("/tag", {"labels": ["a"]})
        assert reply.status == 409
        assert str(tmp_path) not in reply.json["error"]
        shutil.rmtree(index, ignore_errors=True)
        shutil.move(tmp_path / "gone", index)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(answers) > 3 * len(asked)
    for path, status, said, without in answers:
        # A filter may need files that are not there any more.
        assert status in {200, 404, 409} or (without and status == 400), (path, status, said)
        assert status != 409 or "another model" in said["error"]
        if path == "/search" and status == 200:
            assert {hit["path"] for hit in said["hits"]} == versions[said["index_version"]]
        if path == "/pictures?k=100":
            assert {hit["path"] for hit in said["pictures"]} == versions[said["index_version"]]
            assert said["total"] == len(said["pictures"])
    assert live.post("/search", {"text": "a cat", "k": 1}).status == 200


def test_a_picture_for_another_model_costs_the_others_nothing(live: Live, model):
    """Of searches that are answered together."""
    service = Service(live.index)
    try:
        stale = Search(Query(image=torch.zeros(1, 3, 224, 224)), 1, None, model)
        said = service._answer(
            [Search(Query(text="a cat"), 1, None), stale, Search(Query(text="rust"), 1, None)]
        )
        assert [type(answer) for answer in said] == [SearchResult, BusyError, SearchResult]
        assert said[0].hits[0].path == "cat.png"
    finally:
        service.close()


def paths_of(index: Index) -> list[str]:
    return [hit.path for hit in index.browse(k=1_000)]
