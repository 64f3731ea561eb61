"""The text side of the recipe `beyond`: enrichments step by step, and how leaving classes out ranks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.bench import Bench, Head
from headword.aligners import Aligner, KernelRidge
from headword.aligners.pairs import Pairs
from headword.encoders.enrichment import PLAIN, RICH, Enrichment, enriched_pairs
from headword.encoders.prompts import FOUR_TEMPLATES, Prompts

FOLDS = 5
MEASURED = 3
"""Folds that are measured; each takes a fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How names are read: at the fit, and as labels."""

    title: str
    enrichment: Enrichment
    templates: tuple[str, ...] = ("{}",)


def stages() -> tuple[Words, ...]:
    """From the paper's bare names to the default, one idea more each."""
    none = dict.fromkeys(("synonyms", "definitions", "kinds", "hypernyms", "hypernym_weight"), 0.0)
    steps = [Words(title="kernel ridge, bare names", enrichment=PLAIN)]
    steps.append(Words(title="+ four templates for labels", enrichment=PLAIN, templates=FOUR_TEMPLATES))
    for setting, title in (
        ("synonyms", "+ synonyms"),
        ("definitions", "+ definitions"),
        ("kinds", "+ “a kind of” at the fit"),
        ("hypernyms", "+ prototypes of hypernyms"),
        ("hypernym_weight", "+ “a kind of” for labels: the default"),
    ):
        none[setting] = getattr(RICH, setting)
        steps.append(Words(title=title, enrichment=Enrichment(**none), templates=FOUR_TEMPLATES))
    return tuple(steps)


class Texts:
    """The bench's text encoder, each text embedded once."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._known: dict[str, Tensor] = {}
        self.dim = bench.words(["a"]).shape[1]

    def encode(self, texts: Sequence[str], *, progress: object = None) -> Tensor:  # noqa: ARG002
        """Unit-norm `[N, k]`; signature as `TextEncoder.encode`."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._bench.words(new), strict=True))
        return torch.stack([self._known[text] for text in texts]) if texts else torch.zeros(0, self.dim)

    def labels(self, names: Sequence[str], words: Words) -> Tensor:
        """Names as labels, `[L, k]`."""
        prompts = Prompts(tuple(names), words.templates, words.enrichment.hypernym_weight)
        return prompts.combine(self.encode(prompts.texts))

    def pairs(self, head: Head, words: Words, rows: Tensor | None = None) -> Pairs:
        """A head's pairs, or those of some of its rows."""
        kept = torch.arange(len(head.rows)) if rows is None else rows
        classes = [head.classes[row] for row in kept.tolist()]
        return enriched_pairs(head.rows[kept], classes, self, "{}", words.enrichment)  # type: ignore[arg-type]


@torch.inference_mode()
def left_out(
    head: Head, texts: Texts, words: Words, *, aligner: Aligner | None = None, seed: int = 0
) -> float:
    """How often a left-out row finds its own name first among the names left out with it, in percent.

    No image is seen. A fifth of the classes is left out at a time, rows and names; the rows stand for images.
    `aligner` says which mapping and settings, the default's if None.
    """
    settings = aligner or KernelRidge()
    shuffled = torch.randperm(len(head.rows), generator=torch.Generator().manual_seed(seed))
    parts = shuffled.chunk(FOLDS)
    right = 0
    for out in parts[:MEASURED]:
        kept = torch.cat([part for part in parts if part is not out]).sort().values
        pairs = texts.pairs(head, words, kept)
        mapping = settings.unfitted(len(pairs)).fit(pairs).centre_on(head.rows[kept])
        names = [head.names[row] for row in out.tolist()]
        scores = mapping.image(head.rows[out]) @ mapping.text(texts.labels(names, words)).T
        right += int((scores.argmax(dim=1) == torch.arange(len(out))).sum())
    return 100 * right / sum(len(out) for out in parts[:MEASURED])
