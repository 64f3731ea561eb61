"""Several real classifiers as one: the encoder, the model made of it, the folder and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner

import headword
from headword.aligners import JointKernelRidge
from headword.cli.app import app
from headword.data.safe_images import load_image
from headword.encoders import load_vision
from headword.errors import HeadwordError

SIZE = 24
SPECIES = ("house sparrow", "barn owl", "mallard", "kestrel", "tawny owl", "house martin")


@pytest.fixture(scope="module")
def specialist():
    """A small classifier of its own six classes: its head is real, its features are random."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def transform(image) -> Tensor:
        from torchvision.transforms.functional import pil_to_tensor

        return pil_to_tensor(image.resize((SIZE, SIZE))).float() / 255

    module = nn.Sequential(*layers, nn.Linear(16, len(SPECIES)))
    return load_vision(module, transform=transform, names=SPECIES, device="cpu")


@pytest.fixture(scope="module")
def general():
    return load_vision("embedded", device="cpu")


@pytest.fixture(scope="module")
def twins():
    """The embedded classifier and its larger sister, as one model; bare names, which are soon fitted."""
    return headword.recycle(["embedded", "embedded:lite1"], words="plain", device="cpu")


def test_features_are_the_parts_side_by_side(twins, pictures) -> None:
    images = [load_image(path) for path in list(pictures.values())[:3]]
    parts = [load_vision(f"embedded:{name}", device="cpu") for name in ("lite0", "lite1")]
    alone = torch.cat([part.encode(part.preprocess(images)) for part in parts], dim=1)
    vision = twins.vision
    torch.testing.assert_close(vision.encode(vision.preprocess(images)), alone, rtol=1e-4, atol=1e-4)
    assert vision.head.widths == (1280, 1280)
    assert vision.name == "joint:embedded:lite0 + embedded:lite1"


def test_the_joint_head_gives_the_joint_logits(general, specialist) -> None:
    joint = load_vision([general, specialist], device="cpu")
    batch = torch.randn(2, 3, *joint.source.input_size, generator=torch.Generator().manual_seed(0))
    features, logits = joint.reader(batch)
    torch.testing.assert_close(features @ joint.head.weight.T + joint.head.bias, logits, rtol=1e-3, atol=1e-3)
    assert logits.shape == (2, 1006)
    assert not joint.head.weight[:1000, 1280:].any()
    assert not joint.head.weight[1000:, :1280].any()


def test_same_classes_share_their_rows_and_average_their_logits(twins) -> None:
    assert len(twins.classes) == twins.pairs.sources["head"] == 1000
    size = twins.vision.source.input_size
    batch = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    features, logits = twins.vision.reader(batch)
    head = twins.vision.head
    torch.testing.assert_close(features @ head.weight.T + head.bias, logits, rtol=1e-3, atol=1e-3)


def test_cosines_of_a_joint_model_are_the_mean_of_the_parts(twins, pictures) -> None:
    images, words = list(pictures.values())[:3], ["a cat", "a bridge"]
    parts = [headword.recycle(name, words="plain", device="cpu") for name in ("embedded", "embedded:lite1")]
    alone = sum(part.cosines(images, words) for part in parts) / 2
    torch.testing.assert_close(twins.cosines(images, words), alone, rtol=1e-3, atol=1e-4)
    assert twins.scores.fitted_on == 1000


def test_a_joint_model_saves_and_loads(twins, pictures, tmp_path) -> None:
    features = twins.image_features(list(pictures.values())[:4])
    twins.centre_on(features)
    again = headword.load(twins.save(tmp_path / "model"), device="cpu")
    assert isinstance(again.aligner, JointKernelRidge)
    same = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(again.encode_image(features), twins.encode_image(features), **same)
    torch.testing.assert_close(again.encode_text(["a cat"]), twins.encode_text(["a cat"]), **same)
    assert all(torch.equal(again.aligner.tensors[k], v) for k, v in twins.aligner.tensors.items())
    assert again.vision.provenance() == twins.vision.provenance()


def test_a_joint_model_takes_its_encoders_along(twins, tmp_path) -> None:
    folder = twins.save(tmp_path / "model", with_encoders=True)
    assert json.loads((folder / "vision" / "joint.json").read_text()) == {
        "parts": [{"kind": "embedded", "id": "lite0"}, {"kind": "embedded", "id": "lite1"}]
    }
    again = headword.load(folder, device="cpu")
    assert again.vision.name == twins.vision.name
    assert again.vision.fingerprint == twins.vision.fingerprint


def test_a_general_and_a_special_classifier(general, specialist, tmp_path, pictures) -> None:
    model = headword.recycle([general, specialist], words="plain", device="cpu")
    assert [c.name for c in model.classes[-6:]] == list(SPECIES)
    knows = model.aligner.gates(F.normalize(model.text.encode(["a tawny owl", "a fire engine"]), dim=1))
    assert knows[0, 1] > knows[1, 1]
    assert knows[1, 0] > 0.5
    folder = model.save(tmp_path / "model")
    again = headword.load(folder, vision=[general, specialist], device="cpu")
    image = pictures[min(pictures)]
    torch.testing.assert_close(again.cosines([image], ["an owl"]), model.cosines([image], ["an owl"]))


def test_recycle_takes_several_classifiers_from_the_command_line(tmp_path, pictures) -> None:
    out = tmp_path / "model"
    both = ("--vision", "embedded", "--vision", "embedded:lite1")
    done = CliRunner().invoke(app, ["recycle", *both, "--words", "plain", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "embedded:lite0 + embedded:lite1" in " ".join(done.output.split())
    labelled = CliRunner().invoke(
        app, ["classify", str(out), str(pictures[min(pictures)]), "--labels", "a cat,a bridge", "--json", "-"]
    )
    assert labelled.exit_code == 0, labelled.output
    assert json.loads(labelled.output)["model"]["aligner"]["name"] == "joint-kernel-ridge"


@pytest.mark.parametrize(
    ("vision", "said"),
    [
        ([], "the list of classifiers is empty"),
        (["embedded", "embedded:lite0"], "embedded:lite0 is given twice"),
        (["embedded", "joint:embedded:lite1"], "cannot be a part of another"),
        (["embedded", "embedded:lite9"], "unknown embedded classifier 'lite9'"),
    ],
)
def test_wrong_parts_are_refused(vision: list[str], said: str) -> None:
    with pytest.raises(HeadwordError, match=said):
        load_vision(vision, device="cpu")


def test_only_kernel_ridge_joins_different_classes(general, specialist) -> None:
    with pytest.raises(HeadwordError, match="cannot be joined by procrustes; use kernel-ridge"):
        headword.recycle([general, specialist], aligner="procrustes", device="cpu")


def test_a_damaged_copy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadwordError, match=r"it has no joint\.json"):
        load_vision(f"joint:{tmp_path}", device="cpu")
