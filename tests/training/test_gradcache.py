"""Cached gradients are the big batch's, for every loss; with dropout, those of the same dropped patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from headword.training.build import build
from headword.training.gradcache import TrainingModule, backward
from headword.training.objective import SuperCLIPLosses
from support.training import tiny

CASES: dict[str, dict[str, Any]] = {
    "superclip": {},
    "clip": {"method": "clip"},
    "siglip": {"sigmoid": True},
    "superclass": {"method": "superclass"},
    "reference counting": {"token_targets": "reference"},
}
CAPTIONS = ["a red boat", "two dogs !", "", "the blue lake", "a", "rain on two boats", "red", "a dog on it"]


def module_for(**options: Any) -> TrainingModule:
    config = tiny(**options)
    model, _ = build(config)
    loss = model.loss(
        contrastive_weight=float(config.method != "superclass"),
        weight=float(config.method != "clip"),
        reference_counting=config.token_targets == "reference",
    )
    # In float64, so that equality is not a matter of rounding.
    return TrainingModule(model, loss, contrastive=config.method != "superclass").double()


def batch(module: TrainingModule) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(len(CAPTIONS), 3, 32, 32, generator=generator, dtype=torch.float64)
    return images, module.model.tokenize(CAPTIONS).ids


def gradients(
    pieces: int, **options: Any
) -> tuple[SuperCLIPLosses, dict[str, Tensor | None], dict[str, Tensor]]:
    module = module_for(**options)
    losses = backward(module, *batch(module), pieces=pieces)
    grads = {name: p.grad for name, p in module.named_parameters()}
    return losses, grads, module.loss.state_dict()


def assert_equal_gradients(found: dict[str, Tensor | None], wanted: dict[str, Tensor | None]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        mine = found[name]
        if gradient is None or not gradient.any():
            assert mine is None or not mine.any(), name
        else:
            assert mine is not None, name
            assert (mine - gradient).norm() <= 1e-10 * gradient.norm(), name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pieces", [2, 3])
def test_pieces_give_the_gradients_of_the_whole_batch(case: str, pieces: int) -> None:
    whole, wanted, counts = gradients(1, **CASES[case])
    losses, found, counted = gradients(pieces, **CASES[case])
    assert any(gradient is not None and gradient.any() for gradient in wanted.values())
    assert_equal_gradients(found, wanted)
    for mine, part in zip(losses, whole, strict=True):
        assert torch.allclose(mine, part, rtol=1e-6)
        assert not mine.requires_grad
    for name, count in counts.items():
        assert torch.equal(counted[name], count), name


def test_both_passes_of_a_piece_drop_the_same_patches() -> None:
    cached = module_for(patch_dropout=0.5)
    images, texts = batch(cached)
    backward(cached, images, texts, pieces=2, seed=lambda piece: torch.manual_seed(7 + piece))

    # The same by hand: one graph over both pieces, each with its own seed.
    plain = module_for(patch_dropout=0.5)
    outputs = []
    for piece, rows in enumerate((slice(0, 4), slice(4, 8))):
        torch.manual_seed(7 + piece)
        outputs.append(plain.model(images[rows], texts[rows]))
    sides = ("image_features", "text_features", "token_features")
    joined = outputs[0]._replace(**{s: torch.cat([getattr(o, s) for o in outputs]) for s in sides})
    plain.loss(joined, texts).total.backward()
    assert_equal_gradients(
        {name: p.grad for name, p in cached.named_parameters()},
        {name: p.grad for name, p in plain.named_parameters()},
    )


def test_more_pieces_than_pairs_is_one_pair_a_piece() -> None:
    _, wanted, _ = gradients(8)
    _, found, _ = gradients(50)
    assert_equal_gradients(found, wanted)


@pytest.mark.parametrize("pieces", [1, 2])
def test_dropout_is_drawn_anew_at_every_step_and_alike_in_both_passes(pieces: int) -> None:
    drawn: list[list[float]] = []

    class Watched(TrainingModule):
        def _towers(self, images: Tensor, texts: Tensor) -> Any:
            before = torch.get_rng_state()
            drawn[-1].append(torch.rand(()).item())  # what dropout would begin with
            torch.set_rng_state(before)
            return super()._towers(images, texts)

    whole = module_for(patch_dropout=0.5)
    module = Watched(whole.model, whole.loss)
    images, texts = batch(module)

    def steps() -> list[list[float]]:
        drawn.clear()
        torch.manual_seed(3)
        for _ in range(3):
            drawn.append([])
            backward(module, images, texts, pieces=pieces)
        return [list(step) for step in drawn]

    first = steps()
    if pieces > 1:
        assert all(step[:pieces] == step[pieces:] for step in first)
    assert len({number for step in first for number in step}) == 3 * pieces
    assert steps() == first  # the generator's seed says it all
