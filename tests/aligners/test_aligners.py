"""What every mapping promises, whichever it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headword import aligners
from headword.aligners import ALIGNERS, MLP, Aligner, KernelRidge, Ridge, linalg, make_aligner
from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError

D, K = 12, 8
SMALL: dict[str, dict[str, Any]] = {
    "linear": {"epochs": 3},
    "mlp": {"epochs": 3},
    "cca": {"dim": 5},
}
VARIANTS: dict[str, Callable[[], Aligner]] = {
    name: lambda name=name: make_aligner(name, **SMALL.get(name, {})) for name in ALIGNERS
} | {
    "nystrom": lambda: KernelRidge(max_exact=0, n_landmarks=10),
    "farthest": lambda: KernelRidge(max_exact=0, n_landmarks=10, landmarks="farthest"),
    "plain cca": lambda: make_aligner("cca", penalty=0, weighted=False),
}
CLOSED = [name for name, make in VARIANTS.items() if not make().iterative]

every = pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)
every_closed = pytest.mark.parametrize("make", [VARIANTS[name] for name in CLOSED], ids=CLOSED)


def random_pairs(
    n: int = 40, d: int = D, k: int = K, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Pairs:
    drawn = torch.Generator().manual_seed(seed)
    text = torch.randn(n, k, generator=drawn, dtype=torch.float64)
    mix = torch.randn(k, d, generator=drawn, dtype=torch.float64)
    image = torch.tanh(text @ mix) + 0.5 + 0.3 * torch.randn(n, d, generator=drawn, dtype=torch.float64)
    weight = torch.rand(n, generator=drawn, dtype=torch.float64) + 0.5
    names = tuple(f"class {i}" for i in range(n))
    return Pairs(image.to(dtype), text.to(dtype), names, weight=weight.to(dtype))


def similarity(aligner: Aligner, pairs: Pairs) -> Tensor:
    """Cosines between all images and texts: the same whatever basis the shared space is written in."""
    return aligner.image(pairs.image) @ aligner.text(pairs.text).T


@every
def test_outputs_are_unit_norm_rows_of_the_shared_space(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs()
    aligner = make().fit(pairs)
    assert (aligner.image_dim, aligner.text_dim) == (D, K)
    for rows in (aligner.image(pairs.image), aligner.text(pairs.text)):
        assert rows.shape == (40, aligner.shared_dim)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(40))


@every
def test_learns_something(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs(200)
    # The iterative ones start from nothing and need more than three epochs for it.
    aligner = make() if not make().iterative else type(make())(epochs=40)
    cosines = similarity(aligner.fit(pairs).centre_on(pairs.image), pairs)
    assert cosines.diagonal().mean() > cosines.mean() + 0.2


@every
def test_scale_of_the_inputs_does_not_matter(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs()
    scale = torch.logspace(-3, 3, 40)[:, None]
    scaled = Pairs(pairs.image * scale, pairs.text * scale.flip(0), pairs.names, weight=pairs.weight)
    ours, theirs = make().fit(pairs), make().fit(scaled)
    torch.testing.assert_close(similarity(theirs, scaled), similarity(ours, pairs), atol=1e-4, rtol=0)


@every
def test_batches_do_not_matter(make: Callable[[], Aligner], monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = random_pairs()
    aligner = make().fit(pairs)
    whole = aligner.text(pairs.text), aligner.image(pairs.image)
    by_row = [
        torch.cat([side(row) for row in rows.split(7)])
        for side, rows in ((aligner.text, pairs.text), (aligner.image, pairs.image))
    ]
    torch.testing.assert_close(by_row, list(whole), atol=1e-5, rtol=0)
    monkeypatch.setattr(linalg, "CHUNK_ELEMENTS", 100)
    torch.testing.assert_close(aligner.text(pairs.text), whole[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(make().fit(pairs).text(pairs.text), whole[0], atol=1e-4, rtol=0)


@every
def test_no_rows_give_no_rows(make: Callable[[], Aligner]) -> None:
    aligner = make().fit(random_pairs())
    assert aligner.text(torch.zeros(0, K)).shape == (0, aligner.shared_dim)
    assert aligner.image(torch.zeros(0, D)).shape == (0, aligner.shared_dim)


@every
def test_restored_is_bit_equal(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs()
    aligner = make().fit(pairs).centre_on(pairs.image[:5])
    again = type(aligner).restore(aligner.settings, {k: v.clone() for k, v in aligner.tensors.items()})
    assert again.settings == aligner.settings
    assert again.fitted
    assert torch.equal(again.text(pairs.text), aligner.text(pairs.text))
    assert torch.equal(again.image(pairs.image), aligner.image(pairs.image))


@every
def test_what_is_learnt_is_declared_plain_and_saved(make: Callable[[], Aligner]) -> None:
    aligner = make()
    assert not aligner.fitted
    assert aligner.tensors == {}
    aligner.fit(random_pairs())
    assert set(aligner.tensors) == {one.name for one in fields(aligner) if one.name.endswith("_")}
    assert all(t.is_contiguous() and not t.requires_grad for t in aligner.tensors.values())
    assert list(aligner.parameters()) == []


def test_restore_refuses_other_tensors() -> None:
    aligner = Ridge().fit(random_pairs())
    kept = {name: tensor for name, tensor in aligner.tensors.items() if name != "weight_"}
    with pytest.raises(
        HeadwordError, match="a saved ridge has the tensors centre_, text_mean_, weight_, got centre_"
    ):
        Ridge.restore(aligner.settings, kept)


@every
def test_same_pairs_same_fit(make: Callable[[], Aligner]) -> None:
    one, two = make().fit(random_pairs()), make().fit(random_pairs())
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, two.tensors[name]), name


@every
def test_refitting_forgets(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs(seed=1)
    aligner = make().fit(random_pairs(seed=2)).centre_on(pairs.image).fit(pairs)
    fresh = make().fit(pairs)
    for name, tensor in fresh.tensors.items():
        assert torch.equal(tensor, aligner.tensors[name]), name


@every_closed
def test_float32_agrees_with_float64(make: Callable[[], Aligner]) -> None:
    single, double = random_pairs(), random_pairs(dtype=torch.float64)
    exact = similarity(make().fit(double), double)
    assert exact.dtype == torch.float64
    close = similarity(make().fit(single), single)
    assert close.dtype == torch.float32
    torch.testing.assert_close(close.double(), exact, atol=2e-4, rtol=0)


@every
def test_half_precision_inputs_are_raised_to_float32(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs()
    rough = pairs.to(dtype=torch.bfloat16)
    ours = make().fit(rough)
    theirs = make().fit(rough.to(dtype=torch.float32))
    assert ours.text(rough.text).dtype == torch.float32
    assert torch.equal(similarity(ours, rough), similarity(theirs, rough.to(dtype=torch.float32)))


# Which texts a seed draws as landmarks depends on their order.
@pytest.mark.parametrize("name", [name for name in CLOSED if name != "nystrom"])
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(order=st.permutations(range(25)))
def test_order_of_the_pairs_does_not_matter(name: str, order: list[int]) -> None:
    pairs = random_pairs(25, dtype=torch.float64)
    ours, theirs = VARIANTS[name]().fit(pairs), VARIANTS[name]().fit(pairs[order])
    torch.testing.assert_close(similarity(theirs, pairs), similarity(ours, pairs), atol=1e-8, rtol=0)


@every
def test_only_relative_weights_matter(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs()
    ours, theirs = make().fit(pairs), make().fit(pairs.weighted(2))
    torch.testing.assert_close(theirs.tensors, ours.tensors)
    flat = Pairs(pairs.image, pairs.text)
    assert not torch.allclose(make().fit(flat).text(pairs.text), ours.text(pairs.text), atol=1e-6)


@pytest.mark.parametrize("name", ["kernel-ridge", "ridge", "prototype-attention", "procrustes", "cca"])
def test_weight_two_is_the_row_twice(name: str) -> None:
    """With λ scaled by N + 1 rows over N: it is not scaled by the number of pairs, the weights' sum is."""
    pairs = random_pairs(20, dtype=torch.float64)
    weight = torch.ones(20, dtype=torch.float64)
    weight[0] = 2
    weighted = Pairs(pairs.image, pairs.text, weight=weight)
    twice = Pairs(*(torch.cat([side[:1], side]) for side in (pairs.image, pairs.text)))
    scaled = {"penalty": 0.3 * 21 / 20} if "ridge" in name else {}
    ours = make_aligner(name, **({"penalty": 0.3} if scaled else {})).fit(weighted)
    theirs = make_aligner(name, **scaled).fit(twice)
    torch.testing.assert_close(similarity(theirs, pairs), similarity(ours, pairs), atol=1e-9, rtol=0)


DEGENERATE = {
    "one pair": lambda p: p[[0]],
    "two pairs": lambda p: p[[0, 1]],
    "fewer pairs than dimensions": lambda p: p[:5],
    "every pair thrice": lambda p: p + p + p,
    "one text": lambda p: Pairs(p.image, p.text[:1].expand(40, K)),
    "one image": lambda p: Pairs(p.image[:1].expand(40, D), p.text),
    "one text and image": lambda p: Pairs(p.image[:1].expand(40, D), p.text[:1].expand(40, K)),
    "zero rows": lambda p: Pairs(
        p.image * (torch.arange(40) > 3)[:, None], p.text * (torch.arange(40) < 36)[:, None]
    ),
    "all zero": lambda p: Pairs(p.image * 0, p.text * 0),
    "tiny and huge weights": lambda p: Pairs(p.image, p.text, weight=torch.logspace(-30, 4, 40)),
}


@every
@pytest.mark.parametrize("degenerate", DEGENERATE.values(), ids=DEGENERATE)
def test_never_nan(make: Callable[[], Aligner], degenerate: Callable[[Pairs], Pairs]) -> None:
    pairs = degenerate(random_pairs())
    aligner = make().fit(pairs)
    probe = random_pairs(seed=9)
    for side, rows in ((aligner.image, probe.image), (aligner.text, probe.text)):
        for given_rows in (rows, pairs.image if side == aligner.image else pairs.text, rows * 0):
            norms = side(given_rows).norm(dim=1)
            assert bool(((norms - 1).abs().lt(1e-4) | norms.lt(1e-4)).all()), norms


@every
def test_gradients_pass_through_to_the_inputs(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs()
    aligner = make().fit(pairs)
    text, image = pairs.text.clone().requires_grad_(), pairs.image.clone().requires_grad_()
    (aligner.text(text) * aligner.image(image)).sum().backward()
    for leaf in (text, image):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert leaf.grad.abs().sum() > 0


@every
def test_fits_on_a_models_own_parameters_and_in_inference_mode(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs()
    expected = make().fit(pairs).text(pairs.text)
    rows = Pairs(torch.nn.Parameter(pairs.image), pairs.text, weight=pairs.weight)
    assert torch.equal(make().fit(rows).text(pairs.text), expected)
    with torch.inference_mode():
        inside = make().fit(Pairs(pairs.image * 1, pairs.text * 1, weight=pairs.weight * 1))
    assert torch.equal(inside.text(pairs.text), expected)
    assert not any(tensor.is_inference() for tensor in inside.tensors.values())


@every
def test_copies_are_independent(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs()
    aligner = make().fit(pairs)
    before = aligner.image(pairs.image)
    copy.deepcopy(aligner).centre_on(pairs.image)
    assert torch.equal(aligner.image(pairs.image), before)


@every
def test_unfitted_says_so(make: Callable[[], Aligner]) -> None:
    aligner = make()
    said = f"this {type(aligner).__name__} is not fitted; call fit"
    for use in (aligner.image, aligner.text, aligner.centre_on):
        with pytest.raises(HeadwordError, match=said):
            use(torch.zeros(1, 3))
    with pytest.raises(HeadwordError, match=said):
        _ = aligner.shared_dim


@every
def test_wrong_width_says_so(make: Callable[[], Aligner]) -> None:
    aligner = make().fit(random_pairs())
    with pytest.raises(HeadwordError, match=r"image vectors must have shape \[N, 12\], got \[1, 8\]"):
        aligner.image(torch.zeros(1, K))
    with pytest.raises(HeadwordError, match=r"image vectors must have shape \[N, 12\], got \[1, 8\]"):
        aligner.centre_on(torch.zeros(1, K))
    with pytest.raises(HeadwordError, match=r"text vectors must have shape \[N, 8\], got \[8\]"):
        aligner.text(torch.zeros(K))


@every
def test_centre_on_replaces_the_centre_and_only_it(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs()
    aligner = make().fit(pairs)
    pool = random_pairs(7, seed=3).image
    texts = aligner.text(pairs.text)
    assert aligner.centre_on(pairs.image).centre_on(pool * 5) is aligner
    torch.testing.assert_close(aligner.centre_, F.normalize(pool, dim=1).mean(dim=0))
    assert torch.equal(aligner.text(pairs.text), texts)
    # An image equal to the centre's direction and length has nothing left.
    centred = F.normalize(pairs.image, dim=1) - aligner.centre_
    mapped = centred if aligner.shared_dim == D else centred @ aligner.tensors["image_map_"]
    torch.testing.assert_close(aligner.image(pairs.image), F.normalize(mapped, dim=1))


@every
def test_default_centre(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs()
    aligner = make().fit(pairs)
    unit, weight = F.normalize(pairs.image, dim=1), pairs.weight / pairs.weight.sum()
    expected = weight @ unit if aligner.name == "cca" else torch.zeros(D)
    torch.testing.assert_close(aligner.centre_, expected)


def test_centre_on_refuses_nothing_and_nan() -> None:
    aligner = Ridge().fit(random_pairs())
    with pytest.raises(HeadwordError, match="at least one image"):
        aligner.centre_on(torch.zeros(0, D))
    with pytest.raises(HeadwordError, match="NaN or infinite"):
        aligner.centre_on(torch.full((2, D), torch.nan))
    assert aligner.centre_.abs().sum() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_closed
def test_cuda_agrees_with_cpu(make: Callable[[], Aligner]) -> None:
    pairs = random_pairs(dtype=torch.float64)
    there = pairs.to(device="cuda")
    result = similarity(make().fit(there), there)
    assert result.is_cuda
    torch.testing.assert_close(result.cpu(), similarity(make().fit(pairs), pairs), atol=1e-6, rtol=0)


@pytest.mark.parametrize("asked", ["kernel-ridge", "kernel_ridge", "KernelRidge", "KERNELRIDGE"])
def test_make_aligner_takes_any_spelling(asked: str) -> None:
    aligner = make_aligner(asked, tau=0.2)
    assert type(aligner) is KernelRidge
    assert aligner.tau == 0.2


def test_the_registry_has_every_mapping_once_under_its_name() -> None:
    assert set(ALIGNERS) == {
        "kernel-ridge", "prototype-attention", "ridge", "procrustes", "cca", "linear", "mlp",
        "joint-kernel-ridge",
    }  # fmt: skip
    assert all(
        made.name == name and getattr(aligners, made.__name__) is made for name, made in ALIGNERS.items()
    )
    assert [name for name, made in ALIGNERS.items() if made.iterative] == ["linear", "mlp"]
    assert type(make_aligner()) is KernelRidge


def test_make_aligner_leaves_an_instance_alone() -> None:
    aligner = MLP(epochs=7)
    assert make_aligner(aligner) is aligner
    with pytest.raises(HeadwordError, match="settings \\(epochs\\) go with a name"):
        make_aligner(aligner, epochs=8)


def test_make_aligner_hints_at_near_names() -> None:
    with pytest.raises(
        HeadwordError, match="no aligner 'procrustus'; did you mean 'procrustes'\\? the aligners are"
    ):
        make_aligner("procrustus")
    with pytest.raises(HeadwordError, match="no aligner 'zzz'; the aligners are kernel-ridge, prototype"):
        make_aligner("zzz")
    with pytest.raises(
        HeadwordError, match="kernel-ridge has no setting 'penalti'; did you mean 'penalty'\\? its"
    ):
        make_aligner("kernel-ridge", penalti=1)
    with pytest.raises(HeadwordError, match="procrustes has no setting 'tau'; it has no settings"):
        make_aligner("procrustes", tau=1)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("kernel-ridge", "tau", 0), ("kernel-ridge", "penalty", 0), ("kernel-ridge", "n_landmarks", 0),
        ("kernel-ridge", "landmarks", "random"), ("prototype-attention", "tau", -1), ("ridge", "penalty", 0),
        ("cca", "dim", 0), ("cca", "penalty", -1), ("linear", "epochs", 0), ("linear", "lr", 0),
        ("linear", "batch_size", 0), ("linear", "input_dropout", 1.5), ("mlp", "dropout", 1),
        ("mlp", "expansion", 0),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_at_fit(name: str, setting: str, value: Any) -> None:
    with pytest.raises(HeadwordError, match=f"{name}: {setting} must .*, not {value!r}"):
        make_aligner(name, **{setting: value}).fit(random_pairs())
