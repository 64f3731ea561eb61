"""Rungs: figures with deviations over resamples, against the metrics themselves and plain loops."""

from __future__ import annotations

import pytest
import torch

from experiments.rungs import Rung, accuracy_rung, recall_rungs
from headword.metrics import classification_metrics, retrieval_metrics, retrieval_places


def test_the_first_value_is_the_metric():
    drawn = torch.Generator().manual_seed(0)
    scores = {name: torch.randn(60, 5, generator=drawn) for name in ("a", "b")}
    labels = {name: torch.randint(5, (60,), generator=drawn) for name in ("a", "b")}
    rung = accuracy_rung(scores, labels, seed=0)
    expected = [classification_metrics(scores[name], labels[name], (1,))["mean_per_class"] for name in scores]
    assert rung.value == pytest.approx(sum(expected) / 2)
    assert rung.cell.sd > 0


def test_recalls_are_those_of_the_metrics():
    drawn = torch.Generator().manual_seed(1)
    images = torch.nn.functional.normalize(torch.randn(40, 8, generator=drawn), dim=1)
    owner = torch.arange(40).repeat_interleave(3)
    noise = torch.randn(120, 8, generator=drawn)
    texts = torch.nn.functional.normalize(images[owner] + noise, dim=1)
    found = retrieval_metrics(retrieval_places(images, texts, owner), (10,))
    t2i, i2t = recall_rungs(texts @ images.T, owner, seed=0)
    assert t2i.value == pytest.approx(found["t2i_r10"])
    assert i2t.value == pytest.approx(found["i2t_r10"])


def test_the_deviation_is_that_of_a_share():
    """Of n independent answers right with share p, the share deviates by √(p(1 − p)/n)."""
    n, share = 400, 0.25
    scores = torch.zeros(n, 2)
    scores[: int(share * n), 0] = 1
    scores[int(share * n) :, 1] = 1
    rung = accuracy_rung({"a": scores}, {"a": torch.zeros(n, dtype=torch.long)}, seed=0)
    assert rung.value == pytest.approx(100 * share)
    assert rung.cell.sd == pytest.approx(100 * (share * (1 - share) / n) ** 0.5, rel=0.2)


def test_differences_are_paired():
    """A constant gain has no deviation, whatever the resamples."""
    values = torch.rand(201, generator=torch.Generator().manual_seed(0))
    low, high = Rung(values), Rung(values + 3)
    assert high.above(low).value == pytest.approx(3)
    assert high.above(low).sd == pytest.approx(0, abs=1e-6)
    assert high.times(low).value == pytest.approx(float(1 + 3 / values[0]))
