"""A saved model is what was saved: edits are found, and copied encoders load by themselves."""

from __future__ import annotations

import json
import shutil

import pytest
import timm
import torch

import headword
from headword.errors import HeadwordError
from headword.files import sealed
from headword.saved import read_config


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.mark.parametrize(
    "path",
    [
        ("scores", {}),
        ("scores", "scale", "x"),
        ("centre", "extra", 1),
        ("vision", {}),
        ("vision", []),
        ("vision", "head", {}),
        ("templates", 5),
        ("files", None),
        ("aligner", {}),
        ("aligner", "name", ["ridge"]),
        ("aligner", "settings", "nope", 1),
        ("aligner", "settings", "tau", "x"),
        ("aligner", "settings", "tau", 0.2),
        ("format", True),
        ("sha256", None),
    ],
    ids=str,
)
def test_any_edit_of_the_configuration_is_refused_in_one_line(copied, path):
    *entries, last, value = path
    config = json.loads((copied / "headword.json").read_text())
    place = config
    for entry in entries:
        place = place[entry]
    place[last] = value
    (copied / "headword.json").write_text(json.dumps(config))
    with pytest.raises(HeadwordError, match=r"headword\.json (was edited|does not say its format)") as caught:
        read_config(copied)
    assert "\n" not in str(caught.value)


def test_configuration_may_be_laid_out_otherwise(copied):
    config = json.loads((copied / "headword.json").read_text())
    (copied / "headword.json").write_text(json.dumps(config, sort_keys=True))
    assert read_config(copied) == config


def change(folder, edit) -> None:
    config = json.loads((folder / "headword.json").read_text())
    edit(config)
    (folder / "headword.json").write_text(json.dumps(sealed(config)))


def first_format(config, *without) -> None:
    """The same, as format 1 names it; `without` what the oldest models have not."""
    for old, new in {"template": "templates", "kinds": "hypernym_weight", "coverage": "familiarity"}.items():
        value = config.pop(new)
        if old not in without:
            config[old] = value
    config["format"] = 1


def test_the_first_format_is_migrated(copied, embedded):
    change(copied, first_format)
    loaded = headword.load(copied)
    assert loaded.provenance() == embedded.provenance()
    assert loaded.familiarity_fit == embedded.familiarity_fit
    assert headword.load(loaded.save(copied.parent / "again")).provenance() == embedded.provenance()


def test_the_oldest_models_lack_what_is_younger(copied):
    change(copied, lambda config: first_format(config, "kinds", "coverage"))
    loaded = headword.load(copied)
    assert loaded.hypernym_weight == 0
    assert loaded.familiarity_fit is None


@pytest.mark.parametrize(
    "edit",
    [
        lambda config: config["aligner"]["settings"].update(nope=1),
        lambda config: config["scores"].update(nope=1),
    ],
)
def test_settings_of_another_version_are_one_line(copied, edit):
    change(copied, edit)
    with pytest.raises(HeadwordError, match=r"written by headword .* does not take: .*nope"):
        headword.load(copied)


def test_other_tokens_are_refused(copied):
    change(copied, lambda config: config["text"].update(tokenizer_sha256="0" * 64))
    with pytest.raises(HeadwordError, match="cuts texts into other tokens"):
        headword.load(copied)


def test_transform_is_held_to_its_pixels(copied):
    change(copied, lambda config: config["vision"]["transform"].update(crop_mode="renamed"))
    headword.load(copied)  # written otherwise, but the same pixels
    change(copied, lambda config: config["vision"].update(transform_sha256="0" * 64))
    with pytest.raises(HeadwordError, match=r"transforms images otherwise .* recycle again"):
        headword.load(copied)


def test_copied_encoders_are_held_to_their_files(embedded, tmp_path):
    folder = embedded.save(tmp_path / "m", with_encoders=True)
    names = json.loads((folder / "headword.json").read_text())["files"]
    assert {"text/tokenizer.json", "vision/model.safetensors"} <= set(names)
    modes = {file.stat().st_mode for file in folder.rglob("*") if file.is_file()}
    assert modes == {(folder / "headword.json").stat().st_mode}
    (folder / "text" / "added.json").write_text("{}")
    with pytest.raises(HeadwordError, match=r"added\.json was not saved with the model"):
        headword.load(folder)
    (folder / "text" / "added.json").unlink()
    tokenizer = folder / "text" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"lowercase": true', '"lowercase": false') + " ")
    with pytest.raises(HeadwordError, match=r"tokenizer\.json is not the file that was saved"):
        headword.load(folder)


def test_timm_module_is_copied_and_loads_by_itself(embedded, tmp_path):
    torch.manual_seed(0)
    module = timm.create_model("mobilenetv3_small_050", num_classes=3)
    made = headword.recycle(module, class_names=["cat", "dog", "car"])
    made.save(tmp_path / "m", with_encoders=True)
    loaded = headword.load(tmp_path / "m")
    picture = torch.rand(1, 3, 224, 224)
    assert torch.equal(loaded.encode_image(picture), made.encode_image(picture))
    assert loaded.vision.source.kind == "module"
    module.classifier = torch.nn.Sequential(torch.nn.Linear(1024, 3))
    changed = headword.recycle(module, class_names=["cat", "dog", "car"])
    with pytest.raises(HeadwordError, match="was changed after timm built it"):
        changed.save(tmp_path / "n", with_encoders=True)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_overwrite_keeps_a_folder_with_other_things(embedded, copied):
    (copied / "thesis.tex").write_text("years")
    with pytest.raises(HeadwordError, match=r"holds 'thesis\.tex'"):
        embedded.save(copied, overwrite=True)
    assert (copied / "thesis.tex").is_file()


def run(*arguments: object) -> str:
    from typer.testing import CliRunner

    from headword.cli import app

    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    return " ".join(result.stdout.split())


def test_inspect_reads_the_record_alone(saved, monkeypatch):
    def fail(*_, **__):
        pytest.fail("an encoder was loaded")

    monkeypatch.setattr("headword.saved.load_vision", fail)
    monkeypatch.setattr("headword.saved.load_text", fail)
    shown = run(saved, "--names", 2)
    for words in (
        "embedded:lite0",
        "1,000 classes × 1,280 features",
        "224×224 px, bicubic (timm's own transform)",
        "embedded:minilm (384 wide)",
        "kernel-ridge (tau=0.15",
        "Classes (2 of 1,000)",
        "tench",
    ):
        assert words in shown, words
    said = json.loads(run(saved, "--json", "-"))
    assert said["model"]["text"]["dim"] == 384
    assert len(said["classes"]) == 1000


def test_inspect_of_a_model_made_with_a_module(tmp_path):
    from support.own_classifier import Own, to_tensor

    made = headword.recycle(Own(), class_names=["cat", "dog", "car"], head="fc", transform=to_tensor)
    made.save(tmp_path / "m")
    shown = run(tmp_path / "m")
    assert "module:Own" in shown
    assert "32×32 px, your transform" in shown
    assert "weights' licence unknown: see the model's page" in shown


def test_inspect_names_is_no_negative_number(saved):
    from typer.testing import CliRunner

    from headword.cli import app

    assert CliRunner().invoke(app, ["inspect", str(saved), "--names", "-1"]).exit_code == 2
