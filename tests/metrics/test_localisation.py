"""Metrics of places, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from headword.metrics.localisation import (
    box_overlaps,
    confusion,
    max_box_accuracy,
    points_at,
    segmentation_metrics,
)


def test_pointing_game():
    shares = torch.zeros(2, 4)
    shares[1, 2] = 1.0  # its middle is at (2.5/4, 1.5/2)
    assert points_at(shares, [(0.6, 0.7, 0.7, 0.8)])
    assert not points_at(shares, [(0.0, 0.0, 0.6, 1.0), (0.0, 0.0, 1.0, 0.7)])


def test_max_box_accuracy():
    shares = torch.zeros(128, 128)
    shares[32:96, :64] = 1.0  # a quarter of the picture, as (0, 1/4, 1/2, 3/4)
    exact = box_overlaps(shares, [(0.0, 0.25, 0.5, 0.75)])
    assert exact[0] == 0.25  # everything is above the least: the whole picture
    assert exact[50] == 1.0
    half = box_overlaps(shares, [(0.0, 0.25, 1.0, 0.75)])
    assert half[50] == pytest.approx(0.5)
    metrics = max_box_accuracy(torch.stack([exact, half]))
    assert metrics == {
        "max_box_acc": pytest.approx((100 + 100 + 50) / 3),
        "max_box_acc_30": 100.0,
        "max_box_acc_50": 100.0,
        "max_box_acc_70": 50.0,
    }


def test_the_best_of_several_boxes_counts():
    shares = torch.zeros(128, 128)
    shares[:32, :32] = 1.0
    shares[96:, 96:] = 0.9
    overlaps = box_overlaps(shares, [(0.75, 0.75, 1.0, 1.0)])
    assert overlaps[50] == 1.0  # two parts, of which one fits
    assert overlaps[95] == 0.0  # the other alone


def test_mean_iou_and_pixel_accuracy():
    truth = torch.tensor([[0, 0, 1], [1, -1, -1]])
    labels = torch.tensor([[0, 1, 1], [1, 0, 2]])
    counts = confusion(truth, labels, 3)
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    # Class 0: 1 of 2; class 1: 2 of 3; class 2 is nowhere.
    assert segmentation_metrics(counts) == {
        "miou": pytest.approx(100 * (1 / 2 + 2 / 3) / 2),
        "pixel_accuracy": pytest.approx(75.0),
    }
