"""Cached gradients are the big batch's, for every loss; with dropout, those of the same dropped patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from headword.training.build import build
from headword.training.gradcache import backward
from headword.training.objective import SuperCLIPTask, Tensors, TrainingTask, make_task
from support.training import tiny

CASES: dict[str, dict[str, Any]] = {
    "superclip": {},
    "clip": {"method": "clip"},
    "siglip": {"sigmoid": True},
    "superclass": {"method": "superclass"},
    "reference counting": {"token_targets": "reference"},
}
CAPTIONS = ["a red boat", "two dogs !", "", "the blue lake", "a", "rain on two boats", "red", "a dog on it"]


def task_for(**options: Any) -> TrainingTask:
    config = tiny(**options)
    return make_task(build(config)[0], config).double()  # so that equality is not a matter of rounding


def batch(task: TrainingTask) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(len(CAPTIONS), 3, 32, 32, generator=generator, dtype=torch.float64)
    return {"images": images, "texts": task.model.tokenize(CAPTIONS).ids}


def gradients(
    pieces: int, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor | None], dict[str, Tensor]]:
    task = task_for(**options)
    losses = backward(task, batch(task), pieces=pieces)
    return losses, {name: p.grad for name, p in task.named_parameters()}, task.loss.state_dict()


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
    assert losses.keys() == whole.keys()
    for name, loss in losses.items():
        assert torch.allclose(loss, whole[name], rtol=1e-6), name
        assert not loss.requires_grad
    for name, count in counts.items():
        assert torch.equal(counted[name], count), name


def test_both_passes_of_a_piece_drop_the_same_patches() -> None:
    cached = task_for(patch_dropout=0.5)
    joint = batch(cached)
    backward(cached, joint, pieces=2, seed=lambda piece: torch.manual_seed(7 + piece))

    # The same by hand: one graph over both pieces, each with its own seed.
    plain = task_for(patch_dropout=0.5)
    outputs = []
    for piece, rows in enumerate((slice(0, 4), slice(4, 8))):
        torch.manual_seed(7 + piece)
        outputs.append(plain.features({name: tensor[rows] for name, tensor in joint.items()}))
    features = {name: torch.cat([output[name] for output in outputs]) for name in outputs[0]}
    plain.losses(features, joint["texts"])["loss"].backward()
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

    class Watched(SuperCLIPTask):
        def features(self, batch: Tensors) -> dict[str, Tensor]:
            before = torch.get_rng_state()
            drawn[-1].append(torch.rand(()).item())  # what dropout would begin with
            torch.set_rng_state(before)
            return super().features(batch)

    task = Watched(task_for(patch_dropout=0.5).model)
    joint = batch(task)

    def steps() -> list[list[float]]:
        drawn.clear()
        torch.manual_seed(3)
        for _ in range(3):
            drawn.append([])
            backward(task, joint, pieces=pieces)
        return [list(step) for step in drawn]

    first = steps()
    if pieces > 1:
        assert all(step[:pieces] == step[pieces:] for step in first)
    assert len({number for step in first for number in step}) == 3 * pieces
    assert steps() == first  # the generator's seed says it all
