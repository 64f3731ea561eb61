"""The centre that a network's own batch norm expects, without an image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.expected_centre import expected_centre
from headword.encoders import load_vision


class Small(nn.Module):
    """Convolution, batch norm, activation, pooling, head: a classifier in one breath."""

    def __init__(self, activation: nn.Module, *, pooled: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.act = nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), activation
        self.pool = nn.AdaptiveAvgPool2d(1) if pooled else nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(16, 5)
        nn.init.normal_(self.bn.weight, 1.0, 0.3)
        nn.init.normal_(self.bn.bias, 0.0, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.act(self.bn(self.conv(x)))).flatten(1))


def small(activation: nn.Module, *, pooled: bool = True):
    model = Small(activation, pooled=pooled)
    model.train()
    torch.manual_seed(1)
    for _ in range(60):  # its running statistics become those of noise
        model(torch.randn(8, 3, 32, 32))

    def transform(image):
        return torch.zeros(3, 32, 32)

    return load_vision(model, names=list("abcde"), transform=transform, device="cpu"), model


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.ReLU(inplace=True), nn.SiLU(), nn.Identity()])
def test_expected_centre_is_near_the_mean_on_what_it_was_trained_on(activation):
    vision, _ = small(activation)
    centre = expected_centre(vision)
    features = vision.encode(torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(2)))
    mean = F.normalize(features, dim=1).mean(dim=0)
    assert float(F.cosine_similarity(centre, mean, dim=0)) > 0.99
    assert 0.3 < float(centre.norm()) <= 1


def test_expected_centre_cannot_be_told():
    assert expected_centre(small(nn.ReLU(), pooled=False)[0]) is None
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    blank = torch.zeros(3, 32, 32)
    vision = load_vision(linear, names=list("abcde"), transform=lambda _: blank, device="cpu")
    assert expected_centre(vision) is None
