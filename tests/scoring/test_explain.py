"""Explanations: weights on prototypes reproduce the mapped text, and repeated rows are one prototype."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from headword.aligners import ALIGNERS, Aligner, KernelRidge, PrototypeAttention, Ridge, make_aligner
from headword.aligners.base import prepared, weighted_mean
from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError
from headword.scoring.explain import distinct_rows, explain

SUMS = [
    KernelRidge(tau=0.4, penalty=0.7),
    KernelRidge(tau=0.4, max_exact=10, n_landmarks=7),
    KernelRidge(tau=0.4, max_exact=10, n_landmarks=7, landmarks="farthest"),
    PrototypeAttention(tau=0.3),
    Ridge(penalty=0.5),
]


def some_pairs(n: int = 23, d: int = 7, k: int = 5, seed: int = 0) -> Pairs:
    """Random pairs with random weights; the last three share the first one's image row."""
    drawn = torch.Generator().manual_seed(seed)
    image, text = torch.randn(n, d, generator=drawn), torch.randn(n, k, generator=drawn)
    image[-3:] = image[0]
    weight = torch.rand(n, generator=drawn) + 0.1
    return Pairs(image, text, tuple(f"class {i}" for i in range(n)), ("head",) * n, weight)


def queries(m: int = 4, k: int = 5) -> torch.Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("aligner", SUMS, ids=lambda a: f"{a.name}-{a.settings.get('max_exact', '')}")
def test_weights_reproduce_the_mapped_text(aligner: Aligner) -> None:
    pairs = some_pairs()
    aligner.fit(pairs)
    weights = aligner.weights(queries(), pairs)
    image, _, omega = prepared(pairs)
    vectors = weights @ (image - weighted_mean(image, omega))
    torch.testing.assert_close(F.normalize(vectors, dim=1), aligner.text(queries()), atol=2e-5, rtol=0)
    mapped = aligner._map_text(F.normalize(queries(), dim=1))
    torch.testing.assert_close(vectors, mapped, atol=2e-5, rtol=0)


def test_kernel_weights_against_the_formula() -> None:
    pairs = some_pairs()
    _, text, omega = (side.double() for side in prepared(pairs))
    kernel = ((text @ text.T - 1) / 0.4).exp()
    near = ((F.normalize(queries(), dim=1).double() @ text.T - 1) / 0.4).exp()
    naive = near @ torch.linalg.inv(kernel + 0.7 * torch.diag(1 / omega))
    weights = KernelRidge(tau=0.4, penalty=0.7).fit(pairs).weights(queries(), pairs)
    torch.testing.assert_close(weights.double(), naive, atol=1e-5, rtol=0)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_shares_add_up_to_one_and_weights_to_all(seed: int, k: int) -> None:
    pairs = some_pairs(seed=seed)
    aligner = KernelRidge(tau=0.5).fit(pairs)
    for row, said in zip(
        aligner.weights(queries(), pairs), explain(aligner, pairs, queries(), k=k), strict=True
    ):
        shown = [part.weight for part in said.prototypes]
        assert len(shown) + said.others == 20  # four of 23 pairs have one row
        assert [abs(weight) for weight in shown] == sorted(map(abs, shown), reverse=True)
        assert sum(part.share for part in said.prototypes) + said.others_share == pytest.approx(1, abs=1e-3)
        assert sum(shown) + said.others_weight == pytest.approx(float(row.sum()), abs=1e-4)


def test_pairs_of_one_row_are_one_prototype_named_after_the_first() -> None:
    pairs = some_pairs()
    rows, group = distinct_rows(pairs)
    assert rows == list(range(20))
    assert group == [*range(20), 0, 0, 0]
    aligner = KernelRidge(tau=0.1).fit(pairs)
    (said,) = explain(aligner, pairs, pairs.text[21:22], k=1)
    weights = aligner.weights(pairs.text[21:22], pairs)[0]
    (part,) = said.prototypes
    assert (part.name, part.words) == ("class 0", "class 21")
    assert part.weight == pytest.approx(float(weights[[0, 20, 21, 22]].sum()), abs=1e-6)


def test_negative_weights_are_shown() -> None:
    """Of two names on either side of a text's neighbour, ridge subtracts the far one."""
    text = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    pairs = Pairs(torch.eye(3), text, ("near", "far", "beside"))
    (said,) = explain(Ridge(penalty=0.1).fit(pairs), pairs, torch.tensor([[1.0, 0.0]]), k=3)
    weights = {part.name: part.weight for part in said.prototypes}
    assert weights["near"] > 0 > weights["far"]


@pytest.mark.parametrize("name", sorted(set(ALIGNERS) - {a.name for a in SUMS}))
def test_other_mappings_show_the_nearest_prototypes(name: str) -> None:
    pairs = some_pairs()
    aligner = make_aligner(name, **({"epochs": 2} if ALIGNERS[name].iterative else {})).fit(pairs)
    before = aligner.image(pairs.image)
    assert aligner.weights(queries(), pairs) is None
    for text, said in zip(aligner.text(queries()), explain(aligner, pairs, queries(), k=3), strict=True):
        assert (said.kind, said.others, said.others_weight) == ("cosines", 17, None)
        centred = make_aligner(name, **aligner.settings).fit(pairs).centre_on(pairs.image[:20])
        naive = centred.image(pairs.image[:20]) @ text
        assert [part.weight for part in said.prototypes] == pytest.approx(
            naive.topk(3).values.tolist(), abs=1e-5
        )
        assert all(part.share is None for part in said.prototypes)
    assert torch.equal(aligner.image(pairs.image), before)  # its centre was not touched


def test_wrong_arguments_are_one_line() -> None:
    pairs = some_pairs()
    aligner = KernelRidge().fit(pairs)
    with pytest.raises(HeadwordError, match="k must be at least 1, got 0"):
        explain(aligner, pairs, queries(), k=0)
    with pytest.raises(HeadwordError, match=r"text vectors must have shape \[N, 5\]"):
        explain(aligner, pairs, torch.zeros(1, 4))
