"""Held-out embeddings: no pair is mapped by a model that saw its class."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from headword.aligners import CCA, KernelRidge, Linear, held_out
from headword.aligners.leave_out import class_folds, class_groups
from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError


def some_pairs(n: int = 23, d: int = 7, k: int = 5) -> Pairs:
    drawn = torch.Generator().manual_seed(0)
    names = tuple(f"class {i}" for i in range(n))
    return Pairs(torch.randn(n, d, generator=drawn), torch.randn(n, k, generator=drawn), names)


def test_every_pair_is_mapped_by_the_fit_on_the_other_folds() -> None:
    pairs = some_pairs()
    out = held_out(KernelRidge(tau=0.5), pairs, folds=4, seed=2)
    assert out.rows.tolist() == list(range(23))
    assert sorted(torch.bincount(out.fold).tolist()) == [5, 6, 6, 6]
    for fold in range(4):
        inside = out.fold == fold
        model = KernelRidge(tau=0.5).fit(pairs[~inside])
        torch.testing.assert_close(out.text[inside], model.text(pairs.text[inside]))
        torch.testing.assert_close(out.image[inside], model.image(pairs.image[inside]))


def test_centred_centres_each_fold_on_its_own_rows() -> None:
    pairs = some_pairs()
    out = held_out(KernelRidge(), pairs, centred=True)
    for fold in range(5):
        inside = out.fold == fold
        unit = F.normalize(pairs.image, dim=1)
        expected = F.normalize(unit[inside] - unit[~inside].mean(dim=0), dim=1)
        torch.testing.assert_close(out.image[inside], expected)


def test_the_given_aligner_stays_as_it_was() -> None:
    pairs = some_pairs()
    aligner = KernelRidge().fit(pairs[:10])
    before = aligner.text(pairs.text)
    held_out(aligner, pairs)
    assert torch.equal(aligner.text(pairs.text), before)


def test_the_seed_decides_the_folds() -> None:
    pairs = some_pairs()
    folds = [held_out(KernelRidge(), pairs, seed=seed).fold.tolist() for seed in (0, 0, 1)]
    assert folds[0] == folds[1]
    assert folds[0] != folds[2]


def test_groups_join_pairs_that_share_a_name_a_text_or_a_row() -> None:
    pairs = some_pairs(8)
    image, text, names = pairs.image.clone(), pairs.text.clone(), list(pairs.names)
    names[1] = names[0]  # one name
    text[3] = text[2]  # one text
    image[4] = image[3]  # one row, so 2, 3 and 4 belong together
    names[5] = names[6] = ""  # no name is not a name in common
    groups = class_groups(Pairs(image, text, tuple(names))).tolist()
    assert groups[0] == groups[1]
    assert groups[2] == groups[3] == groups[4]
    assert len(set(groups)) == 5


def test_classes_leave_whole() -> None:
    once = some_pairs()
    pairs = once + once + once[[0, 0, 0, 0]]
    out = held_out(KernelRidge(), pairs)
    for fold in range(5):
        inside = {pairs.names[i] for i in out.rows[out.fold == fold].tolist()}
        outside = {pairs.names[i] for i in out.rows[out.fold != fold].tolist()}
        assert not inside & outside


def test_folds_are_even_in_pairs_though_classes_differ_in_size() -> None:
    one_large = torch.cat([torch.zeros(30, dtype=torch.long), torch.arange(1, 31)])
    for seed in range(5):
        assert sorted(torch.bincount(class_folds(one_large, 3, seed)).tolist()) == [15, 15, 30]


def test_no_more_folds_than_classes_and_no_fewer_than_two() -> None:
    assert held_out(KernelRidge(), some_pairs(3), folds=10).fold.unique().tolist() == [0, 1, 2]
    one = some_pairs(1)
    for pairs, folds in ((one + one, 5), (some_pairs(), 1)):
        with pytest.raises(HeadwordError, match="at least two classes and two folds"):
            held_out(KernelRidge(), pairs, folds=folds)


def test_shared_spaces_of_different_width_are_padded() -> None:
    """Of five pairs one leaves at a time and four span three directions; of three folds 2, 2, 1 leave."""
    pairs = some_pairs(5)
    out = held_out(CCA(), pairs, folds=3)
    assert out.text.shape == out.image.shape == (5, 3)
    for fold in range(3):
        inside = out.fold == fold
        model = CCA().fit(pairs[~inside])
        expected = model.image(pairs.image[inside]) @ model.text(pairs.text[inside]).T
        torch.testing.assert_close(out.image[inside] @ out.text[inside].T, expected)


def test_iterative_aligners_hold_one_fold_out_with_a_tenth_of_the_epochs() -> None:
    pairs = some_pairs()
    out = held_out(Linear(epochs=30, batch_size=8), pairs)
    assert out.fold.eq(0).all()
    assert len(out.rows) == len(out.text) == len(out.image) == 5
    rest = [i for i in range(23) if i not in out.rows.tolist()]
    model = Linear(epochs=3, batch_size=8).fit(pairs[rest])
    torch.testing.assert_close(out.text, model.text(pairs.text[out.rows]))
    assert Linear().unfitted(1000).settings["epochs"] == 250
    assert Linear().unfitted(21_841).settings["epochs"] == 50
    assert Linear(epochs=4).unfitted(1000).settings["epochs"] == 1
