"""Run a protocol on one model or on several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from headword.aligners import ALIGNERS
from headword.data.folders import list_images
from headword.errors import HeadwordError
from headword.evaluation.data_sets import open_images
from headword.evaluation.probe import few_shot, probe
from headword.evaluation.protocol import Protocol, Result
from headword.evaluation.retrieval import captioned, retrieval
from headword.evaluation.subjects import Recycled, Subject
from headword.evaluation.zero_shot import zero_shot
from headword.extract import Progress
from headword.metrics import check_k
from headword.model import DualEncoder
from headword.scoring.transductive import label_shares, read_prior

_TASKS: dict[str, Callable[..., Result]] = {
    "classification": zero_shot,
    "retrieval": retrieval,
    "probe": probe,
    "few-shot": few_shot,
}


def evaluate(model: Subject | DualEncoder, protocol: Protocol, *, progress: Progress | None = None) -> Result:
    """Measure a model by a protocol.

    Args:
        model: a dual encoder, or what `open_subject` opened.
        protocol: what to measure.
        progress: called with (done, all) while images are embedded.

    Raises:
        HeadwordError: if the data, a split or a name is wrong, or the task has no such metric.
    """
    subject = Recycled(model, model.aligner.name) if isinstance(model, DualEncoder) else model
    start = time.perf_counter()
    result = _TASKS[protocol.task](subject, protocol, progress=progress)
    metric = result.protocol.metric
    if metric not in result.metrics:
        raise HeadwordError(
            f"{protocol.task} has no metric {metric!r}; it has {', '.join(k for k in result.metrics)}"
        )
    notes = result.notes
    if protocol.split is None and result.protocol.split is not None:
        notes = (f"measured on the split {result.protocol.split}, since none was named (--split)", *notes)
    seconds = {"seconds": time.perf_counter() - start}
    return replace(result, metrics={**result.metrics, **seconds}, notes=notes)


def compare(
    models: Iterable[Subject | DualEncoder], protocol: Protocol, *, progress: Progress | None = None
) -> list[Result]:
    """The same protocol on several models, in their order; see `evaluate`."""
    return [evaluate(model, protocol, progress=progress) for model in models]


def check_data(protocol: Protocol) -> None:
    """Refuse data that no model could be measured on, before one is loaded.

    Raises:
        HeadwordError: as the task would.
    """
    if protocol.task == "retrieval":
        captioned(protocol)
        if protocol.hubness is not None:
            captioned(replace(protocol, split=protocol.hubness))
    else:
        data = open_images(protocol.data, split=protocol.split, class_names=protocol.class_names)
        if protocol.task == "classification":
            check_k(protocol.k or (1,), len(data.names), "classes")
        if protocol.prior is not None:
            label_shares(read_prior(protocol.prior), data.names)
    if protocol.pool_folder is not None:
        list_images(protocol.pool_folder)


def check_aligners(names: Sequence[str]) -> None:
    """Refuse aligners that do not exist.

    Raises:
        HeadwordError: for an unknown aligner, none or one twice.
    """
    if not names or len(set(names)) != len(names):
        raise HeadwordError(f"name each aligner once; there are {', '.join(ALIGNERS)}")
    for name in names:
        if name not in ALIGNERS:
            raise HeadwordError(f"there is no aligner {name!r}; the aligners are {', '.join(ALIGNERS)}")


def with_aligners(subject: Subject, names: Sequence[str]) -> Iterable[Recycled]:
    """A model with other mappings, each in its default settings and fitted on the model's own pairs.

    Raises:
        HeadwordError: for an unknown aligner, none or one twice, or a model that has none.
    """
    if not isinstance(subject, Recycled):
        raise HeadwordError(f"{subject.name} has no mapping to exchange; give a recycled model")
    check_aligners(names)
    return (subject.with_aligner(name) for name in names)
