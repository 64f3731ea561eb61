"""Kernel ridge with a block for each backbone, on random pairs against what it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headword.aligners import CCA, JointKernelRidge, KernelRidge, leave_out
from headword.aligners.joint import for_parts
from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError


def rows(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same_classes(n: int = 12) -> tuple[Pairs, list[Pairs]]:
    """Pairs of two parts with the same classes, 5 and 7 wide, and each part's alone."""
    text, parts = rows(n, 6, 0), [rows(n, 5, 1), 30 * rows(n, 7, 2)]
    names = tuple(f"class {i}" for i in range(n))
    return Pairs(torch.cat(parts, 1), text, names), [Pairs(part, text, names) for part in parts]


def specialist(n: int = 10) -> tuple[Pairs, list[Pairs]]:
    """Pairs of a part that knows one kind of text and of another that knows another kind."""
    sides = []
    for part, d in enumerate((5, 7)):
        text = rows(n, 6, part) + 6 * F.one_hot(torch.tensor(part), 6)
        names = tuple(f"{part}: {i}" for i in range(n))
        sides.append(Pairs(rows(n, d, part + 2), text, names))
    first, second = sides
    left = Pairs(torch.cat([first.image, torch.zeros(n, 7)], 1).double(), first.text, first.names)
    right = Pairs(torch.cat([torch.zeros(n, 5), second.image], 1).double(), second.text, second.names)
    return left + right, sides


@settings(max_examples=20, deadline=None)
@given(weights=st.tuples(*[st.floats(0.1, 10)] * 2), centred=st.booleans())
def test_cosines_are_the_weighted_mean_of_the_parts(weights: tuple[float, float], centred: bool) -> None:
    pairs, alone = same_classes()
    joint = JointKernelRidge(widths=(5, 7), part_weights=weights).fit(pairs)
    images, texts = torch.cat([rows(9, 5, 7), 0.01 * rows(9, 7, 8)], 1), rows(4, 6, 9)
    blocks = images.split([5, 7], 1)
    expected = torch.zeros(9, 4, dtype=torch.float64)
    for weight, block, own in zip(weights, blocks, alone, strict=True):
        single = KernelRidge().fit(own)
        if centred:
            single.centre_on(block)
        expected += weight * single.image(block) @ single.text(texts).T
    if centred:
        joint.centre_on(images)
    torch.testing.assert_close(joint.image(images) @ joint.text(texts).T, expected / sum(weights))


@pytest.mark.parametrize("settings", [{}, {"max_exact": 0, "n_landmarks": 8}])
def test_one_part_is_kernel_ridge(settings: dict[str, int]) -> None:
    pairs, _ = same_classes()
    one, plain = JointKernelRidge(**settings).fit(pairs), KernelRidge(**settings).fit(pairs)
    for aligner in (one, plain):
        aligner.centre_on(pairs.image)
    torch.testing.assert_close(one.image(pairs.image), plain.image(pairs.image))
    torch.testing.assert_close(one.text(pairs.text), plain.text(pairs.text))


def test_parts_of_different_classes_are_fitted_on_their_own_pairs_and_gated() -> None:
    pairs, alone = specialist()
    joint = JointKernelRidge(widths=(5, 7), gate=0.2).fit(pairs)
    texts = rows(4, 6, 9)
    unit = F.normalize(texts, dim=1)
    nearest = [(unit @ F.normalize(own.text, dim=1).T).sort(dim=1).values[:, -5:].mean(1) for own in alone]
    usual = []
    for own in alone:
        cosines = F.normalize(own.text, dim=1) @ F.normalize(own.text, dim=1).T
        usual.append(torch.stack([row.sort().values[-6:-1].mean() for row in cosines]).mean())
    gates = ((torch.stack(nearest, 1) - torch.stack(usual)) / 0.2).softmax(1)
    torch.testing.assert_close(joint.gates(unit), gates)
    singles = [KernelRidge().fit(own).text(texts) for own in alone]
    blocks = [gate[:, None] * single for gate, single in zip(gates.T, singles, strict=True)]
    torch.testing.assert_close(joint.text(texts), F.normalize(torch.cat(blocks, 1), dim=1))


def test_each_part_speaks_of_what_it_knows() -> None:
    pairs, _ = specialist()
    joint = JointKernelRidge(widths=(5, 7)).fit(pairs)
    speaks = joint.gates(F.normalize(pairs.text, dim=1)).argmax(1)
    assert speaks.tolist() == [0] * 10 + [1] * 10


def test_a_block_that_is_not_there_stays_silent() -> None:
    pairs, _ = specialist()
    joint = JointKernelRidge(widths=(5, 7)).fit(pairs).centre_on(pairs.image)
    images = joint.image(pairs.image)
    assert not images[:10, 5:].any()
    assert not images[10:, :5].any()
    torch.testing.assert_close(joint.centre_[:5], F.normalize(pairs.image[:10, :5], dim=1).mean(0))


def test_batches_do_not_matter_and_restoring_is_equal() -> None:
    pairs, _ = specialist()
    joint = JointKernelRidge(widths=(5, 7), part_weights=(1.0, 2.0)).fit(pairs).centre_on(pairs.image)
    again = JointKernelRidge.restore(
        {**joint.settings, "widths": list(joint.widths)},  # as JSON has it
        joint.tensors,
    )
    assert again.settings == joint.settings
    texts = rows(6, 6, 3)
    assert torch.equal(again.text(texts), joint.text(texts))
    assert torch.equal(again.image(pairs.image), joint.image(pairs.image))
    torch.testing.assert_close(joint.text(texts), torch.cat([joint.text(text[None]) for text in texts]))


def test_leaving_classes_out_keeps_the_parts() -> None:
    pairs, _ = specialist()
    out = leave_out(JointKernelRidge(widths=(5, 7)), pairs, centred=True)
    assert sorted(torch.cat(out.rows).tolist()) == list(range(len(pairs)))
    assert torch.isfinite(torch.cat(out.text)).all()
    assert not torch.cat(out.image)[torch.cat(out.rows) < 10, 5:].any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"widths": (5, 6)}, r"\[5, 6\] do not add up to the image side's 12"),
        ({"widths": (5, 7), "part_weights": (1.0,)}, "must be one for each part"),
        ({"widths": (5, 7), "part_weights": (1.0, 0.0)}, "must be more than 0"),
        ({"widths": (5, 7), "gate": 0.0}, "must be more than 0"),
        ({"widths": (5, 7), "tau": 0.0}, "must be more than 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(HeadwordError, match=said):
        JointKernelRidge(**settings).fit(same_classes()[0])  # type: ignore[arg-type]


def test_a_part_without_pairs_is_refused() -> None:
    pairs, _ = specialist()
    with pytest.raises(HeadwordError, match="no pair has an image side for part 2 of 2"):
        JointKernelRidge(widths=(5, 7)).fit(pairs[:10])


def test_the_aligner_for_parts() -> None:
    pairs, _ = specialist()
    made = for_parts(KernelRidge(tau=0.2), pairs.image, (5, 7))
    assert isinstance(made, JointKernelRidge)
    assert (made.tau, made.widths) == (0.2, (5, 7))
    with pytest.raises(HeadwordError, match="cannot be joined by cca; use kernel-ridge"):
        for_parts(CCA(), pairs.image, (5, 7))
    plain = CCA()
    assert for_parts(plain, same_classes()[0].image, (5, 7)) is plain
