"""Modules of one's own by name: on every command, never because a folder says so, and what goes wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import headword
from headword.cli import app
from headword.errors import HeadwordError
from headword.files import sealed, sha256

SOURCE = """
from pathlib import Path
import torch
from torch import nn
from torchvision.transforms import Compose, Resize, ToTensor
import colours

Path(__file__).with_name("IMPORTED").touch()
SIZE = 16

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, len(colours.NAMES))

    def forward(self, x):
        return self.head(self.body(x))

def transform(image):
    return Compose([Resize((SIZE, SIZE)), ToTensor()])(image)

def make():
    return Net(), transform, colours.NAMES

def other_weights():
    net = Net()
    nn.init.ones_(net.head.weight)
    return net, transform, colours.NAMES

def as_dict():
    return {"module": Net(), "transform": transform, "class_names": colours.NAMES}

class Whole(Net):
    transform = staticmethod(transform)
    class_names = colours.NAMES

made = Whole()
def fails(): raise ValueError("no weights here\\nnor there")
def wrong(): return Net(), transform, colours.NAMES, 5
def nothing(): return None
def no_transform(): return Net(), None, colours.NAMES
"""
NAMES = ["red", "green", "blue", "yellow", "black", "white", "cat", "dog", "car", "tree", "house", "boat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A file with the module, one beside it that it imports, and pictures."""
    root = tmp_path_factory.mktemp("own")
    (root / "nets.py").write_text(SOURCE)
    (root / "colours.py").write_text(f"NAMES = {NAMES!r}")
    for name, colour in (("red", "red"), ("blue", "blue")):
        for n in range(2):
            (root / "pictures" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24 + n, 20), colour).save(root / "pictures" / name / f"{n}.png")
    return root


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    if code:
        assert result.stderr.count("\n") == 1
        return result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def model(folder) -> Path:
    run("recycle", "--vision", f"module:{folder}/nets.py:make", "--out", folder / "model")
    return folder / "model"


def test_every_command(folder, model, tmp_path):
    own = ("--vision", f"module:{folder}/nets.py:make")
    pictures, index = folder / "pictures", tmp_path / "index"
    assert json.loads((model / "headword.json").read_text())["vision"]["id"] == f"{folder}/nets.py:make"
    shown = json.loads(run("classify", model, pictures, "--labels", "red,blue", *own, "--json", "-"))
    assert len(shown["results"]) == 4
    assert "prototype" in run("explain", model, "red", *own)
    run("embed", model, pictures, "--out", tmp_path / "store", "--engine", "torch", *own)
    run("index", model, pictures, "--out", index, *own)
    run("index", model, pictures, "--out", index, "--vision", f"module:{folder}/nets.py:as_dict")
    assert "0.png" in run("search", index, "red", "-k", 2, *own)
    assert "red" in run("tag", index, "--labels", "red,blue", *own)
    scores = ("--task", "classification", "--data", pictures, "--json", "-")
    measured = json.loads(run("evaluate", model, *scores, *own))["metrics"]
    compared = json.loads(run("evaluate", model, model, *scores, *own))["results"]
    for result in compared:
        assert result["metrics"]["mean_per_class"] == measured["mean_per_class"]
    assert "--vision goes with" in run("evaluate", "embedded", "embedded", *scores, *own, code=2)
    assert "nets.py:make" in "".join(run("inspect", model).split())  # a long path goes over lines
    run("inspect", model, *own)
    assert "12 classes" in run("inspect", f"module:{folder}/nets.py:make")
    run("embed", f"module:{folder}/nets.py:make", pictures, "--out", tmp_path / "own", "--engine", "torch")


def test_app(folder, model, tmp_path):
    """What `headword app` serves: an index whose model is loaded by the name that the user gave."""
    from headword.search import Index, Query

    own = f"module:{folder}/nets.py:make"
    run("index", model, folder / "pictures", "--out", tmp_path / "index", "--vision", own)
    assert len(Index.open(tmp_path / "index", vision=own).search(Query(text="red"), k=2)) == 2
    assert "--vision" in run("app", "--help")


@pytest.mark.parametrize("factory", ["make", "as_dict", "Whole", "made"])
def test_what_a_factory_may_make(folder, model, factory, monkeypatch):
    monkeypatch.chdir(folder)
    by_file = headword.load(model, vision=f"module:nets.py:{factory}")
    by_package = headword.load(model, vision=f"module:nets:{factory}")
    assert by_file.vision.fingerprint == by_package.vision.fingerprint
    assert by_file.classes[0].name == "red"


def test_a_module_itself_as_before(folder, model, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    import nets

    loaded = headword.load(model, vision=nets.Net(), transform=nets.transform)
    assert loaded.encode_image(torch.rand(1, 3, 16, 16)).shape[0] == 1


def test_a_folder_imports_nothing(folder, model, tmp_path):
    """The name in a saved model is shown and not imported, on any command and with any seal."""
    mark, pictures = folder / "IMPORTED", folder / "pictures"
    run("index", model, pictures, "--out", tmp_path / "index", "--vision", f"module:{folder}/nets.py:make")
    mark.unlink()
    for command in (
        ("classify", model, pictures, "--labels", "red,blue"),
        ("embed", model, pictures, "--out", tmp_path / "store"),
        ("index", model, pictures, "--out", tmp_path / "index"),
        ("search", tmp_path / "index", "--image", pictures / "red" / "0.png"),
        ("evaluate", model, "--task", "classification", "--data", pictures),
    ):
        said = run(*command, code=2)
        assert f"imported only where you name it: --vision module:{folder}/nets.py:make" in said
    for command in (  # with words alone it is not needed
        ("inspect", model),
        ("explain", model, "red"),
        ("search", tmp_path / "index", "red"),
        ("tag", tmp_path / "index", "--labels", "red,blue"),
    ):
        run(*command)
    for kind in ("module:" + str(folder / "nets.py"), "joint", "timm", "hf-hub", "nothing"):
        forged = shutil.copytree(model, tmp_path / f"forged-{len(kind)}")
        config = json.loads((forged / "headword.json").read_text())
        name = f"module:{folder}/nets.py:make"
        config["vision"] |= {"kind": kind, "id": {"joint": f"{name} + {name}"}.get(kind, name)}
        config["files"] = {file: sha256(forged / file) for file in config["files"]}
        (forged / "headword.json").write_text(json.dumps(sealed(config)))
        with pytest.raises(HeadwordError):
            headword.load(forged)
    (tmp_path / "config.yaml").write_text(f"backbone: module:{folder}/nets.py:make\ndata: shapes\nsteps: 1\n")
    said = run("train", "--config", tmp_path / "config.yaml", "--out", tmp_path / "run", code=2)
    assert "imported only where you name it yourself" in said
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.py:make", "there is no file .*nowhere.py"),
        ("nets.py:mak", r"has no 'mak'; did you mean 'make'"),
        ("nets.py", "names no factory; write module:FILE.py:FACTORY"),
        ("nets.py:fails", r"fails\(\) fails: ValueError: no weights here nor there \(nets.py:\d+\)"),
        ("nets.py:wrong", r"makes tuple; it must make \(module, transform, class_names\)"),
        ("nets.py:nothing", "makes NoneType; it must make"),
        ("nets.py:SIZE", "makes int; it must make"),
        ("nets.py:no_transform", "needs transform="),
        ("broken.py:make", r"importing .*broken.py fails: SyntaxError"),
        ("no_such_package.nets:make", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("nets.py:other_weights", "has other weights than"),
    ],
)
def test_errors_are_one_line(folder, model, monkeypatch, name, said):
    monkeypatch.chdir(folder)
    (folder / "broken.py").write_text("def make(:\n")
    with pytest.raises(HeadwordError, match=said) as caught:
        headword.load(model, vision=f"module:{name}")
    assert "\n" not in str(caught.value)


def test_joined_with_another(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "more.py").write_text("import nets\ndef make(): return nets.other_weights()\n")
    names = ("module:nets.py:make", "module:more.py:make")
    run("recycle", "--vision", names[0], "--vision", names[1], "--out", tmp_path / "both")
    with pytest.raises(HeadwordError, match=r"--vision module:nets\.py:make \+ module:more\.py:make"):
        headword.load(tmp_path / "both")
    assert len(headword.load(tmp_path / "both", vision=" + ".join(names)).vision.read_at) == 2


def test_other_places_say_where_to_name_it(folder):
    with pytest.raises(HeadwordError, match="imported only where you name it yourself: headword recycle"):
        headword.load_vision(f"module:{folder}/nets.py:make")
