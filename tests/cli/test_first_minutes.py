"""What the first commands do not do: import what they have no use for, encode padding, fight for cores."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from headword import load, load_text
from headword.errors import HeadwordError
from headword.files import sealed
from headword.saved import CONFIG, read_config
from headword.search import Index, Query, build_index

SLOW = (
    "torchvision",
    "torch._dynamo",
    "sympy",
    "pandas",
    "transformers",
    "timm",
    "sklearn",
    "openvino",
)

_RUN = """
import json, sys
from headword.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["headword", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    print("\\nimported: " + " ".join(name for name in {slow} if name in sys.modules))
"""


@pytest.fixture(scope="module")
def index(embedded, saved, pictures, tmp_path_factory):
    """An index of a few pictures, made with the saved model."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "photos").mkdir()
    for path in list(pictures.values())[:4]:
        shutil.copy(path, folder / "photos")
    build_index(saved, folder / "photos", folder / "index")
    return folder / "index"


def slow_imports(*commands: tuple[object, ...]) -> list[set[str]]:
    """Which slow libraries a process has imported after each of its commands."""
    said = json.dumps([[str(argument) for argument in command] for command in commands])
    command = [sys.executable, "-c", _RUN.format(slow=SLOW), said]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [set(line.split()[1:]) for line in done.stdout.splitlines() if line.startswith("imported:")]


def test_commands_import_only_what_they_need(index, saved, pictures):
    """A search by words no vision library, and `classify` its classifier's alone."""
    picture = next(iter(pictures.values()))
    search, classify = slow_imports(
        ("search", index, "a red car"), ("classify", saved, picture, "--labels", "a cat,a dog")
    )
    assert search == set()
    assert not classify & {"pandas", "transformers", "sklearn", "openvino"}


def test_words_alone_leave_the_vision_encoder_unloaded(saved, embedded, pictures, monkeypatch):
    loaded = []
    import headword.saved as saved_model

    original = saved_model.load_vision
    monkeypatch.setattr(saved_model, "load_vision", lambda *a, **k: loaded.append(1) or original(*a, **k))
    model = load(saved, defer_vision=True)
    assert model.provenance() == embedded.provenance()
    assert model.encode_text(["a cat"]).equal(embedded.encode_text(["a cat"]))
    assert model.classes == embedded.classes
    assert not loaded
    picture = next(iter(pictures.values()))
    assert model.encode_image([picture]).equal(embedded.encode_image([picture]))
    assert loaded == [1]
    assert model.provenance() == embedded.provenance()


def test_a_deferred_encoder_is_checked_when_it_loads(saved, pictures, tmp_path):
    shutil.copytree(saved, tmp_path / "model")
    config = read_config(saved)
    config["vision"]["weights_sha256"] = "0" * 64
    (tmp_path / "model" / CONFIG).write_text(json.dumps(sealed(config)), encoding="utf-8")
    model = load(tmp_path / "model", defer_vision=True)
    with pytest.raises(HeadwordError, match="other weights"):
        model.encode_image([next(iter(pictures.values()))])


def test_an_index_searches_by_picture_too(index, pictures):
    path = next(iter(pictures.values()))
    assert Index.open(index).search(Query(image=path), k=1)[0].path == path.name


def test_many_texts_are_encoded_without_padding_and_each_by_one_core():
    text = load_text("embedded")
    # Of like many characters, but of few tokens or of many.
    texts = [f"{('mountain photograph', 'a b c d e f g h i j')[n % 2]} {100 + n}" for n in range(200)]
    alone = torch.cat([text.encode([one], cache=False) for one in texts[::5]])
    seen, threads = [], set()
    embed = text.source.embed

    def watched(batch):
        seen.append(text.source.lengths(batch))
        threads.add(torch.get_num_threads())
        return embed(batch)

    text.source.embed = watched
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = text.encode(texts, cache=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(together[::5], alone, rtol=0, atol=1e-6)
    assert threads == {1}
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in seen)
    assert padding < 0.1 * sum(map(sum, seen))


def test_progress_and_the_cache_survive_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWORD_CACHE", str(tmp_path))
    text = load_text("embedded")
    texts = [f"thing {n}" for n in range(300)]
    told = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        text.encode(texts, progress=stop)
    done = told[-1][0]
    assert 100 < done < 300
    again = []
    text.encode(texts, progress=lambda done, total: again.append((done, total)))
    assert again[0][0] > done
    assert again[-1] == (300, 300)
