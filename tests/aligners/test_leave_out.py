"""Classes left out: no pair is mapped by a model that saw its class."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from headword.aligners import CCA, KernelRidge, Linear, leave_out
from headword.aligners.leave_out import class_folds, class_groups
from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError


def some_pairs(n: int = 23, d: int = 7, k: int = 5) -> Pairs:
    drawn = torch.Generator().manual_seed(0)
    names = tuple(f"class {i}" for i in range(n))
    return Pairs(torch.randn(n, d, generator=drawn), torch.randn(n, k, generator=drawn), names)


def test_every_pair_is_mapped_by_the_fit_on_the_other_folds() -> None:
    pairs = some_pairs()
    out = leave_out(KernelRidge(tau=0.5), pairs, folds=4, seed=2)
    assert sorted(torch.cat(out.rows).tolist()) == list(range(23))
    assert sorted(map(len, out.rows)) == [5, 6, 6, 6]
    for rows, image, text in zip(out.rows, out.image, out.text, strict=True):
        model = KernelRidge(tau=0.5).fit(pairs[others(rows)])
        torch.testing.assert_close(text, model.text(pairs.text[rows]))
        torch.testing.assert_close(image, model.image(pairs.image[rows]))


def others(rows: torch.Tensor, n: int = 23) -> list[int]:
    """The pairs outside a fold."""
    return [i for i in range(n) if i not in rows.tolist()]


def test_cosines_are_of_rows_with_the_names_of_their_fold() -> None:
    once = some_pairs()
    out = leave_out(KernelRidge(), once + once[[3, 5]])
    for rows, image, text, cosines, right in zip(
        out.rows, out.image, out.text, out.cosines, out.right, strict=True
    ):
        names = [out.known.names[i] for i in rows.tolist()]
        labels = list(dict.fromkeys(names))
        assert [labels[place] for place in right.tolist()] == names
        expected = image.double() @ text[[names.index(label) for label in labels]].double().T
        torch.testing.assert_close(cosines, expected)


def test_centred_centres_each_fold_on_its_own_rows() -> None:
    pairs = some_pairs()
    out = leave_out(KernelRidge(), pairs, centred=True)
    unit = F.normalize(pairs.image, dim=1)
    for rows, image in zip(out.rows, out.image, strict=True):
        expected = F.normalize(unit[rows] - unit[others(rows)].mean(dim=0), dim=1)
        torch.testing.assert_close(image, expected)


def test_the_given_aligner_stays_as_it_was() -> None:
    pairs = some_pairs()
    aligner = KernelRidge().fit(pairs[:10])
    before = aligner.text(pairs.text)
    leave_out(aligner, pairs)
    assert torch.equal(aligner.text(pairs.text), before)


def test_the_seed_decides_the_folds() -> None:
    pairs = some_pairs()
    folds = [torch.cat(leave_out(KernelRidge(), pairs, seed=seed).rows).tolist() for seed in (0, 0, 1)]
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
    out = leave_out(KernelRidge(), pairs)
    assert len(out.rows) == 5
    for rows in out.rows:
        inside = {pairs.names[i] for i in rows.tolist()}
        assert not inside & {pairs.names[i] for i in others(rows, len(pairs))}


def test_folds_are_even_in_pairs_though_classes_differ_in_size() -> None:
    one_large = torch.cat([torch.zeros(30, dtype=torch.long), torch.arange(1, 31)])
    for seed in range(5):
        assert sorted(torch.bincount(class_folds(one_large, 3, seed)).tolist()) == [15, 15, 30]


def test_no_more_folds_than_classes_and_no_fewer_than_two() -> None:
    assert [len(rows) for rows in leave_out(KernelRidge(), some_pairs(3), folds=10).rows] == [1, 1, 1]
    one = some_pairs(1)
    for pairs, folds in ((one + one, 5), (some_pairs(), 1)):
        with pytest.raises(HeadwordError, match="at least two classes and two folds"):
            leave_out(KernelRidge(), pairs, folds=folds)


def test_folds_may_differ_in_the_width_of_their_space() -> None:
    """Of five pairs one leaves at a time and four span three directions; of three folds 2, 2, 1 leave."""
    pairs = some_pairs(5)
    out = leave_out(CCA(), pairs, folds=3)
    assert sorted(text.shape[1] for text in out.text) == [2, 2, 3]
    for rows, image, text in zip(out.rows, out.image, out.text, strict=True):
        model = CCA().fit(pairs[others(rows, 5)])
        expected = model.image(pairs.image[rows]) @ model.text(pairs.text[rows]).T
        torch.testing.assert_close(image @ text.T, expected)


def test_iterative_aligners_hold_one_fold_out_with_a_tenth_of_the_epochs() -> None:
    pairs = some_pairs()
    out = leave_out(Linear(epochs=30, batch_size=8), pairs)
    (rows,), (text,) = out.rows, out.text
    assert len(rows) == len(text) == 5
    model = Linear(epochs=3, batch_size=8).fit(pairs[others(rows)])
    torch.testing.assert_close(text, model.text(pairs.text[rows]))
    assert Linear().unfitted(1000).settings["epochs"] == 250
    assert Linear().unfitted(21_841).settings["epochs"] == 50
    assert Linear(epochs=4).unfitted(1000).settings["epochs"] == 1
