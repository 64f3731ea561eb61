"""Few images of a class: a logistic regression on features, or class means as further pairs."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.encoders.prompts import embed_names
from headword.errors import HeadwordError, MissingExtraError
from headword.evaluation.centre import centred
from headword.evaluation.data_sets import LabelledImages, open_images
from headword.evaluation.protocol import Protocol, Result
from headword.evaluation.subjects import Subject
from headword.evaluation.zero_shot import check_spoken, counts, kept_labels, settled
from headword.extract import Extracted, Progress, extract
from headword.metrics import classification_metrics
from headword.recycling import class_mean_pairs

PENALTY = 100.0
"""C of the logistic regression: features have unit norm, so that scikit-learn's 1.0 would hardly fit them."""


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """Images to learn from and images to test on; the same ones where there is no training split."""

    data: LabelledImages
    found: Extracted
    labels: Tensor
    train: Tensor
    """`[N, d]` features the shots are drawn from."""
    train_labels: Tensor
    apart: bool
    """Whether the shots come from another split than the one tested."""


def probe(subject: Subject, protocol: Protocol, *, progress: Progress | None = None) -> Result:
    """scikit-learn's logistic regression on unit-norm features of n images a class, `mean_per_class_{n}`.

    Mean over the protocol's draws, with the standard deviation in `…_std`. Of one draw, fewer shots are among
    the more, and all n are tested on the same images.

    Raises:
        HeadwordError: if a class has too few images, or scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError:
        raise MissingExtraError("the linear probe (scikit-learn)", "eval") from None
    task = _open(subject, protocol, progress)
    unit = F.normalize(task.train, dim=1)
    tested = F.normalize(task.found.features, dim=1)

    def scores(shots: Tensor, tests: Tensor) -> Tensor:
        model = LogisticRegression(C=PENALTY, max_iter=1000, random_state=protocol.seed)
        model.fit(unit[shots].numpy(), task.train_labels[shots].numpy())
        logits = torch.from_numpy(model.decision_function(tested[tests].numpy())).float()
        if logits.ndim == 1:  # two classes: the second's score alone
            logits = torch.stack([-logits, logits], dim=1)
        out = torch.full((len(tests), len(task.data.names)), -torch.finfo(torch.float32).max)
        out[:, torch.from_numpy(model.classes_)] = logits
        return out

    return _result(subject, protocol, task, _measure(protocol, task, scores), (), None)


def few_shot(subject: Subject, protocol: Protocol, *, progress: Progress | None = None) -> Result:
    """Zero-shot classification after the mean of n images of each class was added to the pairs, beside the
    class's name; `mean_per_class_0` is without any, on the same images.

    The mean counts as one pair, as a row of the head does (Méndez et al. 2026). Results as for `probe`.

    Raises:
        HeadwordError: if a class has too few images, or the model is not made of pairs.
    """
    task = _open(subject, protocol, progress)
    check_spoken(task.data)
    templates = protocol.templates or task.data.templates or subject.templates
    names = embed_names(subject.text, task.data.names, templates, hypernym_weight=subject.hypernym_weight)
    notes: tuple[str, ...] = ()

    def scored(fitted: Subject, tests: Tensor) -> Tensor:
        nonlocal notes
        fitted, notes = centred(fitted, protocol, task.found)
        return fitted.image_embeds(task.found.features[tests]) @ fitted.text_embeds(names).T

    def scores(shots: Tensor, tests: Tensor) -> Tensor:
        if not len(shots):
            return scored(subject, tests)
        means = class_mean_pairs(task.train[shots], task.train_labels[shots], task.data.names, names)
        return scored(subject.with_pairs(means), tests)

    metrics = _measure(protocol, task, scores, start=(0,))
    return _result(subject, protocol, task, metrics, notes, templates)


def _open(subject: Subject, protocol: Protocol, progress: Progress | None) -> _Task:
    data = open_images(protocol.data, split=protocol.split, class_names=protocol.class_names)
    found = extract(subject.vision, data.images, progress=progress)
    labels = kept_labels(data, found)
    if protocol.train_split is None:
        return _Task(data, found, labels, found.features, labels, apart=False)
    if protocol.train_split == data.split:
        raise HeadwordError(f"the shots would be drawn from the tested split {data.split!r} itself")
    train = open_images(protocol.data, split=protocol.train_split, class_names=protocol.class_names)
    if train.names != data.names:
        raise HeadwordError(
            f"the splits {protocol.train_split!r} and {data.split!r} do not have the same classes"
        )
    seen = extract(subject.vision, train.images, progress=progress)
    return _Task(data, found, labels, seen.features, kept_labels(train, seen), apart=True)


def _measure(
    protocol: Protocol,
    task: _Task,
    scores: Callable[[Tensor, Tensor], Tensor],
    *,
    start: tuple[int, ...] = (),
) -> dict[str, float]:
    """Mean and deviation over draws; `scores` maps places of shots and of tests to `[tests, C]`."""
    numbers = (*start, *sorted(protocol.shots))
    runs: dict[int, list[float]] = {n: [] for n in numbers}
    for draw in range(protocol.draws):
        order = _drawn(task, max(numbers), protocol.seed + draw)
        tests = torch.arange(len(task.labels))
        if not task.apart:
            tests = tests[~torch.isin(tests, order.flatten())]
        for n in numbers:
            said = scores(order[:, :n].flatten(), tests)
            runs[n].append(classification_metrics(said, task.labels[tests], (1,))["mean_per_class"])
    metrics: dict[str, float] = {}
    for n in numbers:
        metrics[f"mean_per_class_{n}"] = statistics.fmean(runs[n])
        if protocol.draws > 1:
            metrics[f"mean_per_class_{n}_std"] = statistics.stdev(runs[n])
    return metrics


def _drawn(task: _Task, most: int, seed: int) -> Tensor:
    """Places of `most` random images of each class that is tested: `[C', most]`."""
    generator = torch.Generator().manual_seed(seed)
    needed = most if task.apart else most + 1
    rows = []
    for label in sorted(set(task.labels.tolist())):
        places = (task.train_labels == label).nonzero().flatten()
        if len(places) < needed:
            more = "" if task.apart else " and one to test on"
            raise HeadwordError(
                f"{most} shots{more} are more than the {len(places)} images of {task.data.names[label]!r}; "
                "choose fewer shots"
            )
        rows.append(places[torch.randperm(len(places), generator=generator)[:most]])
    return torch.stack(rows)


def _result(
    subject: Subject,
    protocol: Protocol,
    task: _Task,
    metrics: dict[str, float],
    notes: tuple[str, ...],
    templates: tuple[str, ...] | None,
) -> Result:
    return Result(
        name=subject.name,
        model=subject.provenance(),
        protocol=settled(
            protocol,
            task.data,
            templates=templates,
            metric=protocol.metric or f"mean_per_class_{max(protocol.shots)}",
        ),
        metrics=metrics,
        data=counts(task.data, task.found),
        notes=notes,
    )
