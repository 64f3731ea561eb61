"""Centres from few images and from images as they arrive, the network's own estimate, fits by source."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from headword.aligners import CCA, KernelRidge, Ridge
from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError
from headword.scoring.centring import RunningCentre


def rows(n: int, d: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 0.5


# ---- images as they arrive


def test_running_centre_against_a_loop():
    features, prior = rows(5), rows(1, seed=1)[0] / 9
    centres = RunningCentre(prior, 2.0).centres(features)
    total = torch.zeros(6, dtype=torch.float64)
    for i, x in enumerate(features):
        total += x / x.norm()
        torch.testing.assert_close(centres[i], (2 * prior + total) / (2 + i + 1))


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_batches_do_not_matter(cuts, seed):
    features, prior = rows(sum(cuts), seed=seed), rows(1, seed=1)[0] / 9
    running = RunningCentre(prior, 3.0)
    parts = torch.cat([running.centres(part) for part in features.split(cuts)])
    torch.testing.assert_close(parts, RunningCentre(prior, 3.0).centres(features))
    assert running.images == len(features)


def test_strength_shrinks_a_centre():
    aligner = KernelRidge().fit(Pairs(rows(9), rows(9, 4)))
    pool, old = rows(4, seed=3), rows(30, seed=2)
    aligner.centre_on(old)
    centre = aligner.centre_
    aligner.centre_on(pool, strength=2.0)
    naive = (2 * centre + F.normalize(pool, dim=1).sum(dim=0)) / 6
    torch.testing.assert_close(aligner.centre_, naive)
    torch.testing.assert_close(aligner.centre_on(pool).centre_, F.normalize(pool, dim=1).mean(dim=0))


def test_a_centre_for_each_image():
    pairs = Pairs(rows(40), rows(40, 4, seed=1))
    for aligner in (KernelRidge().fit(pairs), CCA().fit(pairs)):
        images, centres = rows(3, seed=5), rows(3, seed=6) / 9
        by_row = [aligner.image(images[i : i + 1], centres[i]) for i in range(3)]
        torch.testing.assert_close(aligner.image(images, centres), torch.cat(by_row))
        torch.testing.assert_close(aligner.image(images, aligner.centre_), aligner.image(images))


def test_running_centre_mistakes():
    for strength in (0.0, -1.0, float("nan")):
        with pytest.raises(HeadwordError, match="more than 0 images"):
            RunningCentre(torch.zeros(3), strength)
    running = RunningCentre(torch.zeros(3), 1.0)
    for wrong in (torch.zeros(2, 4), torch.zeros(0, 3), torch.zeros(3)):
        with pytest.raises(HeadwordError, match="cannot take features"):
            running.centres(wrong)
    with pytest.raises(HeadwordError, match="NaN"):
        running.centres(torch.full((1, 3), float("nan")))
    assert running.images == 0


# ---- head rows and captioned images


def gap(n: int = 30, apart: float = 3.0) -> tuple[Pairs, Pairs]:
    """Head rows and caption pairs by one linear map, each kind with a mean of its own."""
    W = rows(4, 6, seed=9)
    head, shown = rows(n, 4, seed=1), rows(n, 4, seed=2)
    offset = apart * F.normalize(rows(1, 6, seed=3), dim=1)
    names = Pairs(head @ W - offset, head, source=("head",) * n)
    captions = Pairs(shown @ W + offset, shown, source=("caption",) * n)
    return names, captions.weighted(0.5)


@pytest.mark.parametrize("aligner", [KernelRidge(centre_by_source=True), Ridge(centre_by_source=True)])
def test_by_source_against_centring_by_hand(aligner):
    head, captions = gap()
    both = head + captions
    weight = both.weight / both.weight.mean()
    X, T = F.normalize(both.image, dim=1), F.normalize(both.text, dim=1)
    sides = []
    for side in (X, T):
        means = [(weight[at, None] * side[at]).sum(0) / weight[at].sum() for at in (slice(30), slice(30, 60))]
        sides.append((side - torch.stack(means).repeat_interleave(30, dim=0), means))
    (image, image_means), (text, text_means) = sides
    aligner.fit(both)
    torch.testing.assert_close(aligner.centre_, image_means[1])
    new = F.normalize(rows(5, 4, seed=7), dim=1)
    if isinstance(aligner, Ridge):
        gram = text.T @ (weight[:, None] * text) + aligner.penalty * torch.eye(4)
        naive = (new - text_means[1]) @ torch.linalg.solve(gram, text.T @ (weight[:, None] * image))
    else:
        K = ((T @ T.T - 1) / aligner.tau).exp() + aligner.penalty * torch.diag(1 / weight)
        naive = ((new @ T.T - 1) / aligner.tau).exp() @ torch.linalg.solve(K, image)
    torch.testing.assert_close(aligner.text(new), F.normalize(naive, dim=1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", [KernelRidge, Ridge])
def test_by_source_with_one_source_changes_nothing(kind):
    head, captions = gap()
    plain, apart = kind().fit(head), kind(centre_by_source=True).fit(head)
    new = rows(5, 4, seed=7)
    torch.testing.assert_close(apart.text(new), plain.text(new))
    assert not apart.centre_.any()
    alone = kind(centre_by_source=True).fit(captions)
    torch.testing.assert_close(alone.centre_, F.normalize(captions.image, dim=1).mean(dim=0))


@pytest.mark.parametrize("kind", [KernelRidge, Ridge])
def test_by_source_takes_the_gap_out(kind):
    """Rows and captions a large constant apart: the map is nearly that of pairs without the gap."""
    new = rows(20, 4, seed=7)
    truth = kind(centre_by_source=True).fit(sum_of(*gap(apart=0.0))).text(new)

    def agreement(aligner):
        return float((aligner.fit(sum_of(*gap(apart=1.0))).text(new) * truth).sum(dim=1).mean())

    assert agreement(kind(centre_by_source=True)) > agreement(kind()) + 0.01


def sum_of(head: Pairs, captions: Pairs) -> Pairs:
    return head + captions
