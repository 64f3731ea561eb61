"""Linear and MLP: the training loop against one written with torch.nn, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headword.aligners import MLP, Linear
from headword.aligners.gradient_descent import GradientAligner, default_epochs
from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError

D, K, N = 6, 5, 10


def some_pairs(n: int = N, seed: int = 0, dtype: torch.dtype = torch.float64) -> Pairs:
    drawn = torch.Generator().manual_seed(seed)
    return Pairs(
        torch.randn(n, D, generator=drawn, dtype=dtype), torch.randn(n, K, generator=drawn, dtype=dtype)
    )


class Masked(nn.Module):
    """Dropout that draws from a generator of its own."""

    def __init__(self, keep: float, noise: torch.Generator, rescale: bool) -> None:
        super().__init__()
        self.keep, self.noise, self.rescale = keep, noise, rescale

    def forward(self, x: Tensor) -> Tensor:
        kept = x * (torch.rand(x.shape, generator=self.noise) < self.keep)
        return kept / self.keep if self.rescale else kept


def by_hand(
    aligner: GradientAligner, pairs: Pairs, epochs: int, batch: int, weighted: bool = False
) -> nn.Module:
    """The paper's loop with torch's own layers, losses and scheduler; the aligner gives only the
    starting point.
    """
    order = torch.Generator().manual_seed(aligner.seed)
    noise = torch.Generator().manual_seed(aligner.seed)
    start = {name: value.double() for name, value in aligner._initial(K, D, order).items()}
    if isinstance(aligner, MLP):
        model = nn.Sequential(
            nn.Linear(K, 4 * D), nn.GELU(), Masked(0.5, noise, True), nn.Linear(4 * D, D), nn.LayerNorm(D)
        )
    else:
        model = nn.Sequential(nn.Linear(K, D, bias=False))
    model.double()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), start.values(), strict=True):
            parameter.copy_(value)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=epochs)
    masked = Masked(0.5, noise, False)
    image, text = F.normalize(pairs.image, dim=1), F.normalize(pairs.text, dim=1)
    for _ in range(epochs):
        shuffled = torch.randperm(len(pairs), generator=order)
        for rows in shuffled.split(batch):
            inputs = text[rows]
            if torch.rand((), generator=order) < 0.3:
                inputs = masked(inputs)
            predicted = model(inputs)
            if isinstance(aligner, MLP):
                losses = nn.CosineEmbeddingLoss(reduction="none")(
                    predicted, image[rows], torch.ones(len(rows))
                )
            else:
                losses = nn.MSELoss(reduction="none")(predicted, image[rows]).mean(dim=1)
            weight = pairs.weight[rows] if weighted else torch.ones(len(rows))
            optimiser.zero_grad()
            (losses * weight / weight.sum()).sum().backward()
            optimiser.step()
        schedule.step()
    return model.eval()


@pytest.mark.parametrize("made", [Linear, MLP])
@pytest.mark.parametrize(("epochs", "batch"), [(1, 512), (7, 4)])
def test_training_is_the_loop_by_hand(made: type[Linear | MLP], epochs: int, batch: int) -> None:
    pairs = some_pairs()
    aligner = made(epochs=epochs, batch_size=batch, seed=3).fit(pairs)
    learnt = [value for name, value in aligner.tensors.items() if name != "centre_"]
    expected = by_hand(aligner, pairs, epochs, batch)
    for ours, theirs in zip(learnt, expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-6, rtol=0)


def test_use_is_the_network_without_dropout() -> None:
    pairs = some_pairs()
    aligner = MLP(epochs=2, batch_size=512).fit(pairs)
    model = by_hand(aligner, pairs, 2, 512)
    without = nn.Sequential(*(layer for layer in model if not isinstance(layer, Masked)))  # type: ignore[attr-defined]
    text = some_pairs(20, seed=4).text
    expected = F.normalize(without(F.normalize(text, dim=1)), dim=1).detach()
    torch.testing.assert_close(aligner.text(text), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("made", [Linear, MLP])
def test_pair_weights_weight_the_loss(made: type[Linear | MLP]) -> None:
    plain = some_pairs()
    pairs = Pairs(plain.image, plain.text, weight=torch.linspace(0.1, 5, N, dtype=torch.float64))
    aligner = made(epochs=5, batch_size=4).fit(pairs)
    learnt = [value for name, value in aligner.tensors.items() if name != "centre_"]
    expected = by_hand(aligner, pairs, 5, 4, weighted=True)
    for ours, theirs in zip(learnt, expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-6, rtol=0)
    equal = Pairs(plain.image, plain.text, weight=torch.full((N,), 8.0, dtype=torch.float64))
    assert torch.equal(made(epochs=3).fit(equal).text(pairs.text), made(epochs=3).fit(plain).text(pairs.text))


def test_defaults_are_the_papers() -> None:
    common = {"epochs": None, "lr": 5e-3, "batch_size": 512, "input_dropout": 0.3, "seed": 0}
    assert Linear().settings == common
    assert MLP().settings == common | {"expansion": 4, "dropout": 0.5}
    assert [default_epochs(n) for n in (1, 1000, 10_000, 10_001, 21_841)] == [2500, 2500, 2500, 500, 500]


def test_starts_as_torch_layers_do() -> None:
    start = MLP()._initial(100, 50, torch.Generator().manual_seed(0))
    for name, bound in (("hidden_weight_", 0.1), ("hidden_bias_", 0.1), ("output_weight_", 200**-0.5)):
        assert 0.97 * bound < start[name].abs().max() <= bound
        assert start[name].mean().abs() < 0.15 * bound
    assert start["norm_weight_"].eq(1).all()
    assert start["norm_bias_"].eq(0).all()
    again = MLP()._initial(100, 50, torch.Generator().manual_seed(0))
    assert all(torch.equal(start[name], again[name]) for name in start)


@pytest.mark.parametrize("made", [Linear, MLP])
def test_the_seed_decides_and_the_global_generator_is_left_alone(made: type[Linear | MLP]) -> None:
    pairs = some_pairs(dtype=torch.float32)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = made(epochs=3, batch_size=4).fit(pairs).text(pairs.text)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(made(epochs=3, batch_size=4).fit(pairs).text(pairs.text), one)
    assert not torch.allclose(made(epochs=3, batch_size=4, seed=1).fit(pairs).text(pairs.text), one)


@pytest.mark.parametrize("made", [Linear, MLP])
def test_progress_is_reported_and_not_saved(made: type[Linear | MLP]) -> None:
    told: list[tuple[int, int]] = []
    aligner = made(epochs=3)
    aligner.progress = lambda done, total: told.append((done, total))
    aligner.fit(some_pairs())
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert "progress" not in aligner.settings
    assert type(aligner).restore(aligner.settings, aligner.tensors).progress is None


@pytest.mark.parametrize("made", [Linear, MLP])
def test_continue_fit_goes_on_from_the_learnt_weights(made: type[Linear | MLP]) -> None:
    first, second = some_pairs(), some_pairs(seed=1)
    aligner = made(epochs=30).fit(first).centre_on(first.image)
    before, centre = aligner.text(second.text), aligner.centre_.clone()
    aligner.continue_fit(second, epochs=1, lr=1e-12)
    torch.testing.assert_close(aligner.text(second.text), before, atol=1e-8, rtol=0)
    aligner.continue_fit(second, epochs=60, lr=5e-3)
    target = F.normalize(second.image, dim=1)
    gain = (aligner.text(second.text) * target).sum(dim=1) - (before * target).sum(dim=1)
    assert gain.mean() > 0.1
    assert torch.equal(aligner.centre_, centre)
    assert aligner.settings == made(epochs=30).settings


def test_continue_fit_keeps_the_precision_of_the_fit() -> None:
    aligner = Linear(epochs=2).fit(some_pairs(dtype=torch.float32)).continue_fit(some_pairs(), epochs=2)
    assert aligner.weight_.dtype == torch.float32


def test_continue_fit_refuses_what_does_not_fit() -> None:
    with pytest.raises(HeadwordError, match="this Linear is not fitted"):
        Linear().continue_fit(some_pairs())
    aligner = Linear(epochs=1).fit(some_pairs())
    with pytest.raises(HeadwordError, match=r"text vectors must have shape \[N, 5\]"):
        aligner.continue_fit(Pairs(torch.ones(2, D), torch.ones(2, 3)))
    with pytest.raises(HeadwordError, match=r"image vectors must have shape \[N, 6\]"):
        aligner.continue_fit(Pairs(torch.ones(2, 3), torch.ones(2, K)))
    for wrong in ({"epochs": 0}, {"lr": 0.0}):
        with pytest.raises(HeadwordError, match="must be more than 0"):
            aligner.continue_fit(some_pairs(), **wrong)  # type: ignore[arg-type]


def test_linear_learns_a_planted_map() -> None:
    """Without input dropout the mean squared error has one minimum, the planted rotation."""
    drawn = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(200, 6, generator=drawn), dim=1)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=drawn))[0]
    aligner = Linear(epochs=200, input_dropout=0, lr=3e-2).fit(Pairs(text @ rotation, text))
    torch.testing.assert_close(aligner.weight_, rotation.T, atol=1e-2, rtol=0)
