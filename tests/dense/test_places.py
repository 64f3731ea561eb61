"""Features of places, over one timm model of each family, and what cannot say where."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from headword.dense.places import place_readers
from headword.encoders import VisionEncoder, load_vision
from headword.errors import HeadwordError
from support.own_classifier import to_tensor

TRANSFORMER = {"depth": 2, "embed_dim": 64, "num_heads": 2}
EXACT = {
    "test_efficientnet": {},
    "mobilenetv2_050": {},
    "test_resnet": {},
    "test_convnext": {},  # a layer norm after the mean
    "test_convnext2": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (1, 1, 1, 1)},  # tokens are normed before it
    "beit_base_patch16_224": TRANSFORMER,  # the mean of tokens is normed
    "test_vit4": {},  # by an RMS norm
}
APPROXIMATE = {
    "mobilenetv3_small_050": {},  # a hidden layer after the mean
    "caformer_s18": {},
    "test_vit": {},  # a class token: the value path of the last block
    "deit_tiny_distilled_patch16_224": TRANSFORMER,  # two of them
    "vit_base_patch16_siglip_224": TRANSFORMER,  # an attention pool
}


def _timm(name: str, **options: object) -> VisionEncoder:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **options).eval()
    return load_vision(model, names=["red", "green", "blue"], device="cpu", dtype="float32")


def _check(vision: VisionEncoder, *, exact: bool) -> None:
    (reader,) = place_readers(vision)
    pixels = torch.randn(3, *vision.source.input_size, generator=torch.Generator().manual_seed(1))
    places = reader(pixels)
    feature = vision.encode(pixels[None])[0]
    assert torch.allclose(places.whole, feature, atol=1e-4 * float(feature.norm()))
    assert reader.exact is exact
    assert (places.error < 1e-4) is exact
    assert places.cells.flatten(1).std(dim=1).max() > 0


@pytest.mark.parametrize("name", EXACT)
def test_the_mean_over_places_is_the_feature(name):
    _check(_timm(name, **EXACT[name]), exact=True)


@pytest.mark.parametrize("name", APPROXIMATE)
def test_places_are_said_to_be_approximate(name):
    _check(_timm(name, **APPROXIMATE[name]), exact=False)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "mobilenetv3_small_050"])
def test_folded_batch_norms_change_nothing(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).eval()
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2.0)
        nn.init.uniform_(layer.weight, 0.5, 2.0)
        nn.init.normal_(layer.bias)
    vision = load_vision(model, names=["red", "green", "blue"], device="cpu", dtype="float32")
    (reader,) = place_readers(vision)
    assert len(reader.folded) == len(norms)
    _check(vision, exact=reader.exact)


def test_a_batch_norm_is_not_folded_where_the_convolution_is_used_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.conv(x)
            return self.fc((x + self.norm(x)).mean(dim=(2, 3)))

    torch.manual_seed(0)
    model = Twice().eval()
    nn.init.normal_(model.norm.running_mean)
    vision = load_vision(model, names=["a", "b", "c"], transform=to_tensor, input_size=32, device="cpu")
    (reader,) = place_readers(vision)
    assert reader.folded == {}
    _check(vision, exact=True)


def test_attention_of_torch_itself():
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    options = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64, "num_classes": 5}
    model = VisionTransformer(image_size=32, patch_size=8, **options)
    nn.init.normal_(model.heads.head.weight)
    vision = load_vision(model.eval(), names=list("abcde"), transform=to_tensor, input_size=32, device="cpu")
    (reader,) = place_readers(vision)
    assert reader(torch.randn(3, 32, 32)).cells.shape == (32, 4, 4)
    assert not reader.exact
    assert not reader.takes(64, 64)


def test_a_larger_picture_has_more_places():
    (reader,) = place_readers(_timm("test_resnet"))
    assert reader(torch.zeros(3, 160, 320)).cells.shape[1:] == (5, 10)


class _Flat(nn.Module):
    """A classifier that flattens its map."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(64, 3)

    def forward(self, x):
        return self.fc(self.body(x))


def test_a_model_without_places_is_refused_by_name():
    torch.manual_seed(0)
    vision = load_vision(_Flat().eval(), names=["a", "b", "c"], transform=to_tensor, input_size=32)
    with pytest.raises(HeadwordError, match="module:_Flat cannot say where: it keeps no places"):
        place_readers(vision)


def test_attention_is_never_called_exact():
    """CaiT's last attention counts for nearly nothing before it is trained."""
    (reader,) = place_readers(_timm("cait_xxs24_224", depth=1, embed_dim=48, num_heads=2))
    assert not reader.exact
