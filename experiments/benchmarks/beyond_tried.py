"""Ideas for the mapping that are not the default, against it: by leaving classes out, and on images.

All read the default's words, on EfficientNet-Lite0 and all-MiniLM-L6-v2:

- width: the kernel's τ and penalty λ;
- mixture: the kernel and a linear map, or two widths, added up;
- network: the closed form as the start of a network of one hidden layer, one unit a pair, whose output layer
  Adam trains on cosines or on contrast among classes; stopped early on a tenth of the classes held out;
- structure: the same with texts' similarities kept by the mapped texts (a Gram term);
- words: a second text encoder (WordLlama's static token vectors; `pip install --target DIR --no-deps
  wordllama`, `--wordllama DIR/wordllama`) joined to the first.

"left out" chooses (`left_out`: no image). The four sets and flickr8k's validation captions only report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from experiments import harness
from experiments.bench import CLASSIFICATION, Bench, data_root
from experiments.measure import first_ten
from experiments.rungs import accuracy_rung
from experiments.words import Texts, left_out, stages
from headword.aligners import Aligner, KernelRidge
from headword.aligners.kernel import name_kernel
from headword.aligners.linalg import double, solve_positive
from headword.errors import HeadwordError

BATCH, EPOCHS, CONTRAST = 512, 8, 0.05
WORDS = stages()[-1]


@dataclass(eq=False, repr=False)
class Mixture(KernelRidge):
    """(1 − γ) k_τ + γ k₂, where k₂ is the inner product, or a kernel of another width."""

    name = "mixture"

    share: float = 0.0
    other: float | None = None

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        second = a @ b.T if self.other is None else name_kernel(a, b, self.other)
        return name_kernel(a, b, self.tau).lerp_(second, self.share)

    def _exact(self, target: Tensor, text: Tensor, weight: Tensor) -> Tensor:
        texts, root = double(text), double(weight).sqrt()[:, None]
        system = self._kernel(texts, texts).mul_(root).mul_(root.T)
        system.diagonal().add_(self.penalty)
        return root * solve_positive(system, root * double(target))

    def _map_text(self, text: Tensor) -> Tensor:
        return self._kernel(text, self.text_) @ self.alpha_


@dataclass(eq=False, repr=False)
class Network(KernelRidge):
    """Kernel ridge's α as the start of gradient descent, for as many epochs as held-out classes gain by."""

    name = "network"

    loss: str = "cosine"
    structure: float = 0.0
    rate: float = 0.03
    epochs_used: int | None = field(default=None, init=False)

    def _solved(self, image: Tensor, text: Tensor, weight: Tensor) -> Tensor:
        image, text, weight = image.clone(), text.clone(), weight.clone()
        classes = torch.unique(image, dim=0, return_inverse=True)[1]
        drawn = torch.randperm(int(classes.max()) + 1, generator=torch.Generator().manual_seed(self.seed))
        held = torch.isin(classes, drawn[: len(drawn) // 10])
        fit, out = (~held).nonzero().flatten(), held.nonzero().flatten()
        start = super()._solved(image[fit], text[fit], weight[fit])
        losses = [
            self._loss(
                name_kernel(text[out], text[fit], self.tau) @ alpha, image[out], text[out], weight[out]
            )
            for alpha in self._trained(start, image[fit], text[fit], weight[fit], EPOCHS)
        ]
        self.epochs_used = int(torch.stack(losses).argmin())
        whole = super()._solved(image, text, weight)
        return list(self._trained(whole, image, text, weight, self.epochs_used))[-1]

    def _trained(
        self, start: Tensor, image: Tensor, text: Tensor, weight: Tensor, epochs: int
    ) -> Iterator[Tensor]:
        """α before the first epoch and after each."""
        yield start
        alpha = start.clone().requires_grad_()
        order = torch.Generator().manual_seed(self.seed)
        optimiser = torch.optim.Adam([alpha], lr=self.rate * float(start.std()))
        with torch.enable_grad():
            for _ in range(epochs):
                for rows in torch.split(torch.randperm(len(text), generator=order), BATCH):
                    mapped = name_kernel(text[rows], text, self.tau) @ alpha
                    optimiser.zero_grad()
                    self._loss(mapped, image[rows], text[rows], weight[rows]).backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                yield alpha.detach().clone()

    def _loss(self, mapped: Tensor, image: Tensor, text: Tensor, weight: Tensor) -> Tensor:
        """Images are centred on their own mean, as in use."""
        target = F.normalize(image - image.mean(dim=0), dim=1)
        unit = F.normalize(mapped, dim=1)
        if self.loss == "cosine":
            each = 1 - (unit * target).sum(dim=1)
        else:
            classes, place = torch.unique(target, dim=0, return_inverse=True)
            each = F.cross_entropy(unit @ classes.T / CONTRAST, place, reduction="none")
        loss = (weight * each).sum() / weight.sum()
        return loss + self.structure * F.mse_loss(unit @ unit.T, text @ text.T)


class Second(Texts):
    """Two encoders side by side: [√(1 − γ) a, √γ b] of unit-norm a and b, so that inner products add up."""

    def __init__(self, bench: Bench, folder: Path, share: float) -> None:
        super().__init__(bench)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizers/l2_supercat_tokenizer_config.json"))
        [self._table] = load_file(folder / "weights/l2_supercat_256.safetensors").values()
        self._share = share
        self.dim += self._table.shape[1]

    def encode(self, texts: Sequence[str], *, progress: object = None) -> Tensor:  # noqa: ARG002
        """Unit-norm `[N, k₁ + k₂]`."""
        if not texts:
            return torch.zeros(0, self.dim)
        tokens = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        means = torch.stack([self._table[torch.tensor(one.ids)].float().mean(dim=0) for one in tokens])
        parts = (math.sqrt(1 - self._share) * super().encode(texts), F.normalize(means, dim=1))
        return torch.cat((parts[0], math.sqrt(self._share) * parts[1]), dim=1)


def measured(bench: Bench, texts: Texts, aligner: Aligner, *, captions: bool = True) -> dict[str, Any]:
    """A mapping by left-out classes, on the four sets and on flickr8k's validation captions; percent."""
    head = bench.head()
    fitted = aligner.unfitted(0).fit(texts.pairs(head, WORDS))
    found: dict[str, Any] = {"left_out": round(left_out(head, texts, WORDS, aligner=aligner), 1)}
    data = {name: bench.labelled(name) for name in CLASSIFICATION}
    labels = {name: texts.labels(one.names, WORDS) for name, one in data.items()}
    truth = {name: one.labels for name, one in data.items()}
    for way in ("inductive", "pool"):
        scores = {}
        for name, one in data.items():
            mapping = fitted if way == "inductive" else fitted.centred_on(one.features)
            scores[name] = mapping.image(one.features) @ mapping.text(labels[name]).T
        found[way] = round(accuracy_rung(scores, truth, bench.seed).value, 1)
    if captions:
        found["val_t2i_r10"] = round(first_ten(fitted, bench.captions("val")), 1)
    if isinstance(fitted, Network):
        found["epochs"] = fitted.epochs_used
    return found


def ideas(bench: Bench, wordllama: Path | None) -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
    """(Group, setting, what measures it)."""
    texts = Texts(bench)

    def of(aligner: Aligner) -> Callable[[], dict[str, Any]]:
        return partial(measured, bench, texts, aligner)

    yield "default", "τ 0.15, λ 0.3", of(KernelRidge())
    for share in (0.1, 0.25, 0.5):
        yield "mixture", f"linear {share:g}", of(Mixture(share=share))
        yield "mixture", f"τ 0.6 {share:g}", of(Mixture(share=share, other=0.6))
    yield "network", "cosine, a tenth of the rate", of(Network(loss="cosine", rate=0.003))
    for loss in ("cosine", "contrast"):
        yield "network", loss, of(Network(loss=loss))
        yield "structure", f"{loss}, 1", of(Network(loss=loss, structure=1.0))
        yield "structure", f"{loss}, 10", of(Network(loss=loss, structure=10.0))
    for tau in (0.08, 0.1, 0.15, 0.2, 0.3):
        for penalty in (0.1, 0.3, 1.0, 3.0):
            yield "width", f"τ {tau:g}, λ {penalty:g}", of(KernelRidge(tau=tau, penalty=penalty))
    for share in (0.1, 0.25, 0.5, 1.0) if wordllama else ():
        joined = Second(bench, wordllama, share)  # type: ignore[arg-type]
        yield "words", f"share {share:g}", partial(measured, bench, joined, KernelRidge(), captions=False)


def run(
    only: Annotated[str | None, typer.Option(help="Of width, mixture, network, structure, words.")] = None,
    wordllama: Annotated[Path | None, typer.Option(help="The installed package's folder, for words.")] = None,
    classes: int | None = None,
) -> dict[str, Any]:
    """Measure one group, or all, and keep what other runs found."""
    if only == "words" and wordllama is None:
        raise HeadwordError("words needs --wordllama FOLDER")
    bench, file = Bench(root=data_root(), classes=classes), harness.RESULTS / "beyond_tried.json"
    rows: dict[str, Any] = json.loads(file.read_text())["rows"] if file.exists() else {}
    with torch.inference_mode():
        for group, setting, measure in ideas(bench, wordllama):
            if only in (None, group):
                rows.setdefault(group, {})[setting] = measure()
                print(group, setting, rows[group][setting], flush=True)
    return {"rows": rows, "provenance": bench.provenance(), "seed": bench.seed}
