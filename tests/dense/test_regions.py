"""Boxes, masks and pictures of maps."""

from __future__ import annotations

import torch
from PIL import Image

from headword.dense.regions import mask_image, overlay, regions, segment


def _map() -> torch.Tensor:
    """Two places that are high, in 4 × 8: the right one higher and larger."""
    shares = torch.zeros(4, 8)
    shares[1, 1] = 0.6
    shares[1:3, 5:7] = 0.8
    shares[2, 6] = 1.0
    return shares


def test_regions_are_connected_and_the_strongest_comes_first():
    first, second = regions(_map())
    assert first.box == (5 / 8, 1 / 4, 7 / 8, 3 / 4)
    assert first.point == (6.5 / 8, 2.5 / 4)
    assert first.share == 1.0
    assert second.box == (1 / 8, 1 / 4, 2 / 8, 2 / 4)


def test_a_flat_map_and_words_that_fit_nothing_have_no_region():
    assert regions(torch.full((4, 8), 0.3)) == []
    assert regions(_map(), least=1.1) == []


def test_every_pixel_gets_the_label_whose_map_is_highest():
    shares = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    labels = segment(shares, 2, 4)
    assert labels.tolist() == [[0, 0, 1, 1]] * 2
    image = mask_image(labels, 1)
    assert image.mode == "L"
    assert list(image.tobytes()) == [1, 1, 0, 0] * 2


def test_large_pictures_are_segmented_a_stretch_at_a_time(monkeypatch):
    shares = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    whole = segment(shares, 40, 60)
    monkeypatch.setattr("headword.dense.regions._ROWS", 500)
    assert torch.equal(segment(shares, 40, 60), whole)


def test_an_overlay_is_bright_where_the_map_is_and_has_a_panel_a_word():
    shares = torch.stack([_map(), _map().flip(1)])
    picture = overlay(Image.new("RGB", (80, 40)), shares, ["a", "b"], [regions(_map()), []])
    assert picture.size == (160, 60)
    red, _, blue = picture.getpixel((65, 45))
    assert red > blue + 40
