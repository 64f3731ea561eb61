"""Few images of a class: a logistic regression on features, or class means as further pairs."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.encoders.prompts import embed_names
from headword.errors import HeadwordError, MissingExtraError
from headword.evaluation.protocol import Protocol
from headword.evaluation.subjects import refitted
from headword.evaluation.tasks import MEAN_PER_CLASS, LabelledTask, Outcome, check_spoken, kept_labels
from headword.extract import Progress
from headword.metrics import classification_metrics
from headword.model import DualEncoder
from headword.recycling import class_mean_pairs

PENALTY = 100.0  # C of the logistic regression; features have unit norm, so 1.0 would hardly fit them

Scorer: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Places of shots `[S]` in what is learnt from, and of tests `[T]` in what is tested → scores `[T, C]`."""


class Probe(LabelledTask):
    """scikit-learn's logistic regression on unit-norm features of n images a class, `mean_per_class_{n}`.

    Mean over the protocol's draws, with the standard deviation in `…_std`. Of one draw, fewer shots are among
    the more, and all n are tested on the same images: those not drawn, or those of another split.
    """

    def __init__(self, protocol: Protocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self.numbers = tuple(sorted(protocol.shots))
        self.train = None if protocol.train_split is None else self.open(protocol.train_split)
        if self.train is not None:
            shown, tested = protocol.train_split, self.data.split
            if shown == tested:
                raise HeadwordError(f"the shots would be drawn from the tested split {tested!r} itself")
            if self.train.names != self.data.names:
                raise HeadwordError(f"the splits {shown!r} and {tested!r} do not have the same classes")

    def measure(self, model: DualEncoder, progress: Progress | None = None) -> Outcome:
        """See `Task`."""
        tested = shown = self.features(model, self.images, progress)
        labels = shown_labels = kept_labels(self.data, tested)
        if self.train is not None:
            shown = self.features(model, self.train.images, progress)
            shown_labels = kept_labels(self.train, shown)
        scorer, notes, settled = self.scorer(model, tested.features, shown.features, shown_labels)
        runs: dict[int, list[float]] = {n: [] for n in self.numbers}
        for draw in range(self.protocol.draws):
            order = self._drawn(labels, shown_labels, self.protocol.seed + draw)
            tests = torch.arange(len(labels))
            if self.train is None:
                tests = tests[~torch.isin(tests, order.flatten())]
            for n, results in runs.items():
                scores = scorer(order[:, :n].flatten(), tests)
                results.append(classification_metrics(scores, labels[tests], (1,))[MEAN_PER_CLASS])
        metrics: dict[str, float] = {}
        for n, results in runs.items():
            metrics[f"{MEAN_PER_CLASS}_{n}"] = statistics.fmean(results)
            if self.protocol.draws > 1:
                metrics[f"{MEAN_PER_CLASS}_{n}_std"] = statistics.stdev(results)
        metric = self.protocol.metric or f"{MEAN_PER_CLASS}_{max(self.numbers)}"
        return self.outcome(model, tested, metrics, notes, metric=metric, **settled)

    def scorer(
        self,
        model: DualEncoder,  # noqa: ARG002 - few-shot's
        tested: Tensor,
        shown: Tensor,
        labels: Tensor,
    ) -> tuple[Scorer, tuple[str, ...], dict[str, Any]]:
        """How tested `[N, d]` are scored by shots among shown features `[M, d]`; notes; what that settles."""
        try:
            from sklearn.linear_model import LogisticRegression
        except ModuleNotFoundError:
            raise MissingExtraError("the linear probe (scikit-learn)", "eval") from None
        shown, tested = F.normalize(shown, dim=1), F.normalize(tested, dim=1)

        def score(shots: Tensor, tests: Tensor) -> Tensor:
            regression = LogisticRegression(C=PENALTY, max_iter=1000, random_state=self.protocol.seed)
            regression.fit(shown[shots].numpy(), labels[shots].numpy())
            logits = torch.from_numpy(regression.decision_function(tested[tests].numpy())).float()
            if logits.ndim == 1:  # two classes: the second's score alone
                logits = torch.stack([-logits, logits], dim=1)
            scores = torch.full((len(tests), len(self.data.names)), -torch.finfo(torch.float32).max)
            scores[:, torch.from_numpy(regression.classes_)] = logits
            return scores

        return score, (), {}

    def _drawn(self, labels: Tensor, shown_labels: Tensor, seed: int) -> Tensor:
        """Places of as many random images as there are shots at most, of each tested class: `[C', most]`."""
        generator, most = torch.Generator().manual_seed(seed), max(self.numbers)
        rows = []
        for label in sorted(set(labels.tolist())):
            places = (shown_labels == label).nonzero().flatten()
            if len(places) < most + (self.train is None):
                more = " and one to test on" if self.train is None else ""
                raise HeadwordError(
                    f"{most} shots{more} are more than the {len(places)} images of "
                    f"{self.data.names[label]!r}; choose fewer shots"
                )
            rows.append(places[torch.randperm(len(places), generator=generator)[:most]])
        return torch.stack(rows)


class FewShot(Probe):
    """Zero-shot with the mean of n ≥ 0 images of each class added to the pairs (Méndez et al. 2026)."""

    def __init__(self, protocol: Protocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self.numbers = (0, *self.numbers)
        check_spoken(self.data)

    def scorer(
        self, model: DualEncoder, tested: Tensor, shown: Tensor, labels: Tensor
    ) -> tuple[Scorer, tuple[str, ...], dict[str, Any]]:
        """See `Probe`."""
        names, templates = self.data.names, self.templates(model)
        embedded = embed_names(model.text, names, templates, hypernym_weight=model.hypernym_weight)

        def score(shots: Tensor, tests: Tensor) -> Tensor:
            fitted = model
            if len(shots):
                fitted = refitted(model, more=class_mean_pairs(shown[shots], labels[shots], names, embedded))
            fitted, _ = self.centred(fitted, tested)
            classifier = fitted.classifier(names, templates=templates)
            return classifier.cosines(self.encode_images(fitted, tested[tests]))

        return score, self.centred(model, tested)[1], {"templates": templates}
