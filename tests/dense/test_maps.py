"""`DualEncoder.locate`: shares that add up, sizes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image, ImageDraw

import headword
from headword.dense.maps import FITS
from headword.encoders import load_text, load_vision
from headword.errors import HeadwordError
from headword.model import DualEncoder
from support.evaluation_helpers import COLOURS, colours_model

NAMES = ["red", "green", "blue", "cat", "dog"]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A red square on the right of a green ground."""
    image = Image.new("RGB", (200, 120), COLOURS["green"])
    ImageDraw.Draw(image).rectangle((150, 40, 190, 80), fill=COLOURS["red"])
    return image


def _recycled(*names: str, **options: object) -> DualEncoder:
    torch.manual_seed(0)
    models = [timm.create_model(name, num_classes=5, **options).eval() for name in names]
    parts = [load_vision(model, names=NAMES, device="cpu", dtype="float32") for model in models]
    text = load_text(colours_model().text.source, device="cpu")
    return headword.recycle(parts if len(parts) > 1 else parts[0], text, device="cpu")


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    return _recycled("test_resnet")


def test_the_mean_share_is_the_cosine(model, picture):
    size = max(model.vision.source.input_size)
    (shares,) = model.locate(picture, ["red", "green"], size=size, refine=False)
    assert torch.allclose(shares.mean(dim=(1, 2)), model.cosines(picture, ["red", "green"])[0], atol=1e-5)


def test_shares_add_up_with_a_centre_and_of_transformed_pictures(model, picture):
    model = DualEncoder(**{name: getattr(model, name) for name in ("vision", "text", "aligner", "pairs")},
                        templates=model.templates, scores=model.scores, centre=model.centre)  # fmt: skip
    pixels = model.vision.preprocess([picture, picture.rotate(90)])
    model.aligner = model.aligner.centred_on(model.image_features(pixels))
    maps = model.locate(pixels, ["red", "green"])
    means = torch.stack([shares.mean(dim=(1, 2)) for shares in maps])
    assert torch.allclose(means, model.cosines(pixels, ["red", "green"]), atol=1e-5)


def test_shares_of_joint_backbones_add_up(picture):
    joint = _recycled("test_resnet", "test_convnext")
    pixels = joint.vision.preprocess([picture])
    (shares,) = joint.locate(pixels, ["red"])
    assert torch.allclose(shares.mean(dim=(1, 2)), joint.cosines(pixels, ["red"])[0], atol=1e-5)


def test_a_map_covers_the_picture_and_has_its_shape(model, picture):
    (coarse,) = model.locate(picture, ["red"], size=320, refine=False)
    assert coarse.shape == (1, 6, 10)
    (fine,) = model.locate(picture, ["red"], size=320)
    assert fine.shape[1] * 5 == fine.shape[2] * 3


def test_words_need_the_more_the_more_the_head_tells_them_apart():
    model = colours_model(fitted=True)
    rows = model.aligner.image(model.pairs.image)
    words = torch.stack([rows[0], 0.1 * rows[0]])
    known, vague = model.locator.least(words)
    assert known == pytest.approx(FITS * float((rows @ words[0]).std()), rel=1e-4)
    assert vague == pytest.approx(known / 10, rel=1e-4)


def test_without_rows_words_need_what_labels_do():
    trained = colours_model()
    words = trained.encode_text(["red", "blue"])
    assert trained.locator.least(words) == [FITS * trained.scores.threshold] * 2


@pytest.mark.parametrize("size", [(1, 1), (2000, 3)])
def test_pictures_of_odd_sizes(model, size):
    (shares,) = model.locate(Image.new("RGB", size), ["red"])
    assert shares.isfinite().all()


def test_what_is_refused(model, picture, tmp_path: Path):
    with pytest.raises(HeadwordError, match="size must be 32 to 2048 pixels, got 9999"):
        model.locate(picture, ["red"], size=9999)
    with pytest.raises(HeadwordError, match="features have no places"):
        model.locate(torch.zeros(1, model.vision.dim), ["red"])
    fixed = _recycled("test_vit", dynamic_img_size=False)
    with pytest.raises(HeadwordError, match="reads pictures of 160 pixels alone"):
        fixed.locate(picture, ["red"], size=320)
    assert fixed.locate(picture, ["red"])[0].isfinite().all()
