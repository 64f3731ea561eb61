"""Models from strangers: whatever a folder holds, and whatever standard input says, none of its code runs.

Each payload writes a file when it runs. Each is given to every function that takes such a model, and one of
each kind to every flag.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import headword
from headword.cli import app
from headword.encoders import load_text, load_vision
from headword.encoders.clip_config import check_clip_config
from headword.errors import HeadwordError
from headword.evaluation import open_model
from headword.files import sealed
from headword.training.build import Blueprint
from support import stranger_models as made
from support.stranger_models import AUTO_MAP, NAMES, clip_settings, edit, numpy_pickled, pickled

pytestmark = pytest.mark.attack

YES = "y\n" * 20


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A sound model of each library, each in a folder of its name."""
    root = tmp_path_factory.mktemp("models")
    made.transformers_vision(root / "vision")
    made.transformers_text(root / "text")
    made.sentence_transformers(root / "sentences")
    made.timm_folder(root / "timm")
    made.open_clip_folder(root / "clip")
    made.open_clip_folder(root / "own-clip", theirs=False)
    (root / "names.txt").write_text("\n".join(NAMES))
    headword.recycle(str(root / "timm"), str(root / "text")).save(root / "saved", with_encoders=True)
    return root


@pytest.fixture(scope="module")
def pictures_of_two(tmp_path_factory) -> Path:
    from PIL import Image

    root = tmp_path_factory.mktemp("two")
    for name in NAMES[:2]:
        (root / name).mkdir()
        Image.new("RGB", (40, 40), "red" if name == "cat" else "blue").save(root / name / "1.png")
    return root


class Strangers:
    """A stranger's folder, made from a sound one, and everything that takes it."""

    def __init__(self, models: Path, pictures: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models, self.pictures, self.work, self.mark = models, pictures, work, work / "RAN"
        self.monkeypatch = monkeypatch
        self.tried: list[str] = []

    def folder(self, base: str) -> Path:
        folder = shutil.copytree(self.models / base, self.work / "stranger")
        made.bring_code(folder, self.mark)
        return folder

    def call(self, what: str, function: Any, *arguments: Any) -> None:
        """In Python: it works or is refused in one line."""
        self.monkeypatch.setattr("sys.stdin", io.StringIO(YES))
        try:
            function(*arguments)
        except HeadwordError as error:
            one_line = "\n" not in str(error)
        else:
            one_line = True
        assert one_line
        self._after(what)

    def command(self, *arguments: object) -> None:
        """On the command line: likewise."""
        result = CliRunner().invoke(app, [str(a) for a in arguments], input=YES)
        assert result.exit_code in (0, 2), (arguments, result.output, repr(result.exception))
        if result.exit_code:
            assert result.stderr.count("\n") == 1, result.stderr
            assert "[y/N]" not in result.output
        self._after(" ".join(map(str, arguments[:1])))

    def _after(self, what: str) -> None:
        self.tried.append(what)
        assert not self.mark.exists(), f"{what} ran a stranger's code"

    def vision(self, spec: object, *, flags: bool = False) -> None:
        """A classifier's name; with `flags`, for every command that takes one."""
        self.call("load_vision", load_vision, str(spec))
        if not flags:
            return
        out = self.work / f"out-{len(self.tried)}"
        names = ("--class-names", self.models / "names.txt")
        self.command("recycle", "--vision", spec, "--text", f"transformers:{self.models}/text", "--out", out)
        self.command("inspect", spec, *names)
        self.command("embed", spec, self.pictures, "--out", f"{out}-store", *names, "--engine", "torch")
        self.command("train", "--backbone", spec, "--data", "shapes", "--steps", 0, "--out", f"{out}-run")
        self.call("load", lambda: headword.load(self.models / "saved", vision=str(spec)))

    def text(self, spec: object, *, flags: bool = False) -> None:
        """A text encoder's name, likewise."""
        self.call("load_text", load_text, str(spec))
        if not flags:
            return
        out = self.work / f"out-{len(self.tried)}"
        self.command("recycle", "--vision", self.models / "timm", "--text", spec, "--out", out)
        self.call("load", lambda: headword.load(self.models / "saved", text=str(spec)))

    def subject(self, spec: object, *, flags: bool = False) -> None:
        """A CLIP model's name, likewise."""
        self.call("open_model", open_model, str(spec))
        if flags:
            self.command("evaluate", spec, "--task", "classification", "--data", self.pictures)

    def saved(self, folder: Path, *, flags: bool = False) -> None:
        """A saved model's folder, likewise."""
        self.call("load", headword.load, folder)
        if not flags:
            return
        words = ("--labels", "a cat,a dog")
        picture = self.pictures / "cat" / "1.png"
        self.command("classify", folder, picture, *words)
        self.command("explain", folder, "a cat")
        self.command("inspect", folder)
        self.command("embed", folder, self.pictures, "--out", self.work / "store", "--engine", "torch")
        self.command("index", folder, self.pictures, "--out", self.work / "new-index")
        self.command("evaluate", folder, "--task", "classification", "--data", self.pictures)
        self.command(
            "train", "--backbone", folder, "--data", "shapes", "--steps", 0, "--out", self.work / "run"
        )


@pytest.fixture(scope="module")
def architecture(models, tmp_path_factory) -> str:
    """A small architecture that open_clip knows."""
    import open_clip

    file = tmp_path_factory.mktemp("architecture") / "tiny-stranger.json"
    file.write_text(json.dumps(_json(models / "own-clip" / "open_clip_config.json")["model_cfg"]))
    open_clip.add_model_config(file)
    return file.stem


@pytest.fixture
def strangers(models, pictures_of_two, tmp_path, monkeypatch) -> Strangers:
    return Strangers(models, pictures_of_two, tmp_path, monkeypatch)


def brought(folder: Path, _mark: Path) -> None:
    edit(folder / "config.json", auto_map=AUTO_MAP)


def brought_alone(folder: Path, mark: Path) -> None:
    brought(folder, mark)
    edit(folder / "config.json", model_type="evil", architectures=["EvilModel"])


def tokenizer_code(folder: Path, _mark: Path) -> None:
    edit(folder / "tokenizer_config.json", auto_map=AUTO_MAP, tokenizer_class="EvilTokenizer")


def processor_code(folder: Path, _mark: Path) -> None:
    edit(
        folder / "preprocessor_config.json",
        auto_map=AUTO_MAP,
        image_processor_type="EvilProcessor",
        processor_class="EvilProcessor",
    )


def kernels(folder: Path, _mark: Path) -> None:
    edit(folder / "config.json", attn_implementation="me/kernels", _attn_implementation="me/kernels")


def adapters(folder: Path, _mark: Path) -> None:
    edit(folder / "adapter_config.json", base_model_name_or_path=str(folder), auto_mapping=AUTO_MAP)


def weights_pickle(folder: Path, mark: Path) -> None:
    pickled(folder / "pytorch_model.bin", mark, remove="*.safetensors")


def safetensors_pickle(folder: Path, mark: Path) -> None:
    pickled(folder / "model.safetensors", mark)


COMMON = [brought, brought_alone, kernels, adapters, weights_pickle, safetensors_pickle]


@pytest.mark.parametrize("attack", [*COMMON, processor_code])
def test_transformers_classifier(strangers, attack):
    folder = strangers.folder("vision")
    attack(folder, strangers.mark)
    strangers.vision(f"transformers:{folder}")
    strangers.vision(folder, flags=attack in (brought_alone, weights_pickle))


@pytest.mark.parametrize("attack", [*COMMON, tokenizer_code])
def test_transformers_text(strangers, attack):
    folder = strangers.folder("text")
    attack(folder, strangers.mark)
    strangers.text(f"transformers:{folder}", flags=attack is tokenizer_code)
    strangers.subject(f"transformers:{folder}", flags=attack is brought_alone)


def module_type(name: str):
    def attack(folder: Path, _mark: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules[-1]["type"] = name
        (folder / "modules.json").write_text(json.dumps(modules))

    attack.__name__ = f"type-{name}"
    return attack


def activation(folder: Path, _mark: Path) -> None:
    edit(folder / "2_Dense" / "config.json", activation_function="evil.EvilModel")


def torch_activation(folder: Path, _mark: Path) -> None:
    edit(folder / "2_Dense" / "config.json", activation_function="torch.hub.load")


def options(folder: Path, mark: Path) -> None:
    brought_alone(folder, mark)
    tokenizer_code(folder, mark)
    trust = {"trust_remote_code": True}
    names = (
        "model_args",
        "tokenizer_args",
        "config_args",
        "model_kwargs",
        "processor_kwargs",
        "config_kwargs",
    )
    edit(folder / "sentence_bert_config.json", **trust, **dict.fromkeys(names, trust))
    edit(folder / "config_sentence_transformers.json", **trust, model_kwargs=trust)


def dense_pickle(folder: Path, mark: Path) -> None:
    pickled(folder / "2_Dense" / "pytorch_model.bin", mark, remove="*.safetensors")


@pytest.mark.parametrize(
    "attack",
    [
        *COMMON,
        tokenizer_code,
        module_type("evil.Evil"),
        module_type("stranger.evil.Evil"),
        module_type("sentence_transformers.util.misc.import_from_string"),
        module_type("os.system"),
        activation,
        torch_activation,
        options,
        dense_pickle,
    ],
    ids=lambda attack: attack.__name__,
)
def test_sentence_transformers(strangers, attack):
    folder = strangers.folder("sentences")
    attack(folder, strangers.mark)
    strangers.text(folder)
    strangers.text(f"sentence-transformers:{folder}", flags=attack is options)


def tokenizer_options(folder: Path, mark: Path) -> None:
    tokenizer_code(folder, mark)
    clip_settings(folder, "text_cfg", tokenizer_kwargs={"trust_remote_code": True})


def tower_code(folder: Path, mark: Path) -> None:
    brought_alone(folder, mark)
    clip_settings(folder, "text_cfg", hf_model_name=str(folder), hf_model_pretrained=True)


def timm_tower(folder: Path, mark: Path) -> None:
    pickled(folder / "pytorch_model.bin", mark)
    edit(folder / "config.json", architecture="resnet18", num_classes=2)
    clip_settings(folder, "vision_cfg", timm_model_name=f"local-dir:{folder}", timm_model_pretrained=True)


def top_level_options(folder: Path, _mark: Path) -> None:
    clip_settings(folder, "", trust_remote_code=True, pretrained_text_path="evil.pt", weights_only=False)


def clip_pickle(folder: Path, mark: Path) -> None:
    pickled(folder / "open_clip_pytorch_model.bin", mark, remove="*.safetensors")


CLIP = [
    tokenizer_options,
    tokenizer_code,
    tower_code,
    timm_tower,
    top_level_options,
    clip_pickle,
    safetensors_pickle,
]


@pytest.mark.parametrize("attack", CLIP)
def test_open_clip(strangers, attack):
    folder = strangers.folder("clip")
    attack(folder, strangers.mark)
    flags = attack in (tokenizer_options, clip_pickle)
    strangers.text(f"open_clip:local-dir:{folder}", flags=flags)
    strangers.subject(f"open_clip:local-dir:{folder}", flags=flags)
    for load in (load_vision, load_text):
        strangers.call("trained", load, f"trained:{folder}")
    if flags:
        strangers.command("inspect", f"trained:{folder}")
    strangers.call(
        "assemble", lambda: Blueprint.from_json(_json(folder / "open_clip_config.json")).assemble()
    )


def _json(file: Path) -> Any:
    return json.loads(file.read_text())


def timm_arguments(folder: Path, mark: Path) -> None:
    pickled(folder / "evil.pth", mark)
    edit(
        folder / "config.json",
        model_args={"checkpoint_path": str(folder / "evil.pth"), "pretrained_strict": False},
    )


def timm_custom_load(folder: Path, mark: Path) -> None:
    numpy_pickled(folder / "evil.npz", mark)
    config = _json(folder / "config.json")
    config["architecture"] = "vit_tiny_patch16_224"
    config["pretrained_cfg"] |= {"custom_load": True, "file": str(folder / "evil.npz"), "source": ""}
    (folder / "config.json").write_text(json.dumps(config))


def ending(name: str):
    def attack(folder: Path, mark: Path) -> None:
        pickled(folder / name, mark, remove="*.safetensors")

    attack.__name__ = name
    return attack


@pytest.mark.parametrize(
    "attack",
    [
        weights_pickle,
        safetensors_pickle,
        timm_arguments,
        timm_custom_load,
        *map(ending, ("model.pth", "pytorch_model.pth", "open_clip_pytorch_model.bin", "x.pth.tar", "x.pth")),
    ],
    ids=lambda attack: attack.__name__,
)
def test_timm(strangers, attack):
    folder = strangers.folder("timm")
    attack(folder, strangers.mark)
    for spec in (folder, f"local-dir:{folder}", f"timm:local-dir:{folder}"):
        strangers.vision(spec, flags=attack is weights_pickle and spec == folder)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # NumPy leaves a file open
@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.bin", "x.ckpt", "x.safetensors", "x.npy", "x.npz"])
def test_files(strangers, architecture, name):
    file = strangers.work / name
    (numpy_pickled if name.startswith("x.np") else pickled)(file, strangers.mark)
    flags = name == "x.pth"
    strangers.vision(file, flags=flags)
    strangers.text(file, flags=flags)
    strangers.text(f"open_clip:{architecture}/{file}", flags=flags)
    strangers.subject(f"open_clip:{architecture}/{file}", flags=flags)
    strangers.call("centre_on", headword.load(strangers.models / "saved").centre_on, str(file))


def reseal(folder: Path, **sides: dict[str, Any]) -> None:
    """Write `headword.json` anew, with a valid seal and file list: the seal has no key."""
    from headword.files import sha256
    from headword.saved import _copied_files, _own_files

    config = _json(folder / "headword.json")
    for side, entries in sides.items():
        config[side].update(entries)
    config["files"] = {name: sha256(folder / name) for name in [*_own_files(config), *_copied_files(folder)]}
    (folder / "headword.json").write_text(json.dumps(sealed(config)))


@pytest.mark.parametrize(
    ("side", "kind", "base", "attack"),
    [
        ("vision", "transformers", "vision", brought_alone),
        ("vision", "transformers", "vision", processor_code),
        ("vision", "timm", "timm", weights_pickle),
        ("text", "transformers", "text", tokenizer_code),
        ("text", "sentence-transformers", "sentences", module_type("evil.Evil")),
        ("text", "sentence-transformers", "sentences", options),
        ("text", "open_clip", "clip", tokenizer_options),
        ("text", "trained", "clip", tokenizer_options),
        ("vision", "trained", "clip", tokenizer_options),
    ],
)
@pytest.mark.parametrize("where", ["copied along", "named"])
def test_saved_model(strangers, side, kind, base, attack, where):
    """What the folder names, or has copied along, is a stranger's model; and the seal fits."""
    stranger, folder = strangers.folder(base), strangers.work / "saved"
    attack(stranger, strangers.mark)
    shutil.copytree(strangers.models / "saved", folder)
    if where == "named":
        prefix = "local-dir:" if kind in ("timm", "open_clip") else ""
        config = _json(folder / "headword.json")
        del config[side]["saved"]
        (folder / "headword.json").write_text(json.dumps(config))
        reseal(folder, **{side: {"kind": kind, "id": f"{prefix}{stranger}"}})
    else:
        shutil.rmtree(folder / side)
        shutil.copytree(stranger, folder / side)
        reseal(folder, **{side: {"kind": kind, "saved": side}})
    strangers.saved(folder, flags=attack is tokenizer_options and side == "text")


@pytest.mark.parametrize("kind", ["module", "python", "evil", "module:evil.py", "joint"])
def test_saved_model_names_a_module(strangers, kind):
    """A folder may name a module of somebody's own; it is not imported for that."""
    stranger, folder = strangers.folder("timm"), strangers.work / "saved"
    shutil.copytree(strangers.models / "saved", folder)
    spec = f"{stranger}/evil.py:make"
    config = _json(folder / "headword.json")
    del config["vision"]["saved"]
    (folder / "headword.json").write_text(json.dumps(config))
    reseal(folder, vision={"kind": kind, "id": spec if kind != "joint" else f"module:{spec} + module:{spec}"})
    strangers.saved(folder, flags=kind == "module")


def test_index_names_a_stranger(strangers):
    """The model of an index is found by the index's own file."""
    stranger, model, index = strangers.folder("text"), strangers.work / "model", strangers.work / "index"
    shutil.copytree(strangers.models / "saved", model)
    strangers.command("index", model, strangers.pictures, "--out", index)
    assert (index / "headword-index.json").exists() or any(index.iterdir())
    tokenizer_code(stranger, strangers.mark)
    shutil.rmtree(model / "text")
    shutil.copytree(stranger, model / "text")
    reseal(model)
    strangers.command("search", index, "a cat")
    strangers.command("tag", index, "--labels", "a cat,a dog")


@pytest.mark.parametrize("name", ["aligner.safetensors", "prototypes.safetensors"])
def test_pickles_in_a_saved_model(strangers, name):
    folder = shutil.copytree(strangers.models / "saved", strangers.work / "saved")
    pickled(folder / name, strangers.mark)
    reseal(folder)
    strangers.saved(folder)


def test_the_payload_works(strangers):
    """Freely opened, each kind of payload does write its file."""
    folder = strangers.folder("text")
    pickled(folder / "x.pt", strangers.mark)
    torch.load(folder / "x.pt", weights_only=False)
    assert strangers.mark.exists()
    strangers.mark.unlink()
    from transformers import AutoTokenizer

    tokenizer_code(folder, strangers.mark)
    AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert strangers.mark.exists()


# ---- what an open_clip configuration may say


@pytest.mark.parametrize(
    ("part", "entries", "said"),
    [
        (
            "text_cfg",
            {"tokenizer_kwargs": {"trust_remote_code": True}},
            r"tokenizer_kwargs\.trust_remote_code is no",
        ),
        ("text_cfg", {"contxt_length": 8}, r"contxt_length is no setting.*did you mean 'context_length'"),
        (
            "text_cfg",
            {"hf_model_name": "me/evil"},
            r"hf_model_name is 'me/evil'; it must be one of roberta-base",
        ),
        ("text_cfg", {"layers": 10**9}, "layers is '1000000000'; it must be a whole number from 1 to 256"),
        ("text_cfg", {"layers": True}, "layers is 'True'"),
        ("text_cfg", {"width": "16"}, "must be a whole number"),
        ("text_cfg", {"norm_kwargs": {"dtype": "x"}}, r"norm_kwargs\.dtype is no setting"),
        ("text_cfg", {"norm_kwargs": [1]}, "norm_kwargs must be an object"),
        ("vision_cfg", {"timm_model_name": "hf-hub:me/x"}, "must be a plain name"),
        ("vision_cfg", {"image_size": [10**6, 3]}, "image_size"),
        ("", {"weights_only": False}, r"model_cfg\.weights_only is no setting"),
        ("", {"embed_dim": None}, "model_cfg has no embed_dim"),
    ],
)
def test_clip_settings_are_refused_by_name(models, tmp_path, part, entries, said):
    folder = shutil.copytree(models / "clip", tmp_path / "clip")
    clip_settings(folder, part, **entries)
    with pytest.raises(HeadwordError, match=said) as caught:
        load_text(f"open_clip:local-dir:{folder}")
    assert "\n" not in str(caught.value)


def test_every_configuration_of_open_clips_own_passes():
    import open_clip

    preprocess = {"size": 224, "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    for name in open_clip.list_models():
        check_clip_config({"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": preprocess}, name)


def test_sound_folders_load(models):
    assert load_text(f"open_clip:local-dir:{models}/clip").dim == 16
    assert load_text(f"open_clip:local-dir:{models}/own-clip").dim == 16
    assert load_text(str(models / "sentences")).dim == 8
    assert open_model(f"open_clip:local-dir:{models}/clip").provenance()["vision"]["revision"] is None
