"""A protocol on one model, or on several."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from headword.encoders.vision import Vision
from headword.errors import HeadwordError
from headword.evaluation.probe import FewShot, Probe
from headword.evaluation.protocol import Protocol, Result, Results
from headword.evaluation.subjects import check_aligners, open_model, refitted
from headword.evaluation.tasks import Retrieval, Task, ZeroShot
from headword.evaluation.where import Localisation, Segmentation
from headword.extract import Progress
from headword.files import expand
from headword.model import DualEncoder

TASKS: dict[str, type[Task]] = {
    "classification": ZeroShot,
    "retrieval": Retrieval,
    "probe": Probe,
    "few-shot": FewShot,
    "localisation": Localisation,
    "segmentation": Segmentation,
}

Model: TypeAlias = "str | Path | DualEncoder"  # a model, or the name that `open_model` opens it by


def evaluate(
    models: Model | Iterable[Model] | Mapping[str, Model],
    protocol: Protocol,
    *,
    aligners: Sequence[str] | None = None,
    vision: Vision | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> Results:
    """Measure models by a protocol, one after the other; the data are opened once, and before any model is.

    Args:
        models: one or several, open or by name, or a mapping from what results call them; only one with
            `aligners`. An open model is called by its aligner where nothing else is said.
        protocol: what to measure.
        aligners: mappings to measure instead of one model's own, in their default settings, fitted on its
            pairs.
        vision: the classifier of the saved models among those given by name, as in `headword.load`.
        device: "auto", "cpu", "cuda" or "mps", of models given by name.
        dtype: "auto", "float32" or "bfloat16", of their vision encoders.
        progress: called with (done, all) while images are embedded.

    Returns:
        A result for each model, or aligner, in their order.

    Raises:
        HeadwordError: if the data, a split or a name is wrong, a model cannot be opened or does not do for
            the task, or the task has no such metric.
    """
    if isinstance(models, Mapping):
        named = list(models.items())
    else:
        several = [models] if isinstance(models, (str, Path, DualEncoder)) else models
        named = [
            (model.aligner.name if isinstance(model, DualEncoder) else os.fspath(model), model)
            for model in several
        ]
    if not named:
        raise HeadwordError("there is no model to evaluate")
    if aligners is not None:
        check_aligners(aligners)
        if len(named) != 1:
            raise HeadwordError("aligners exchange the mapping of one model; give one")
    task = TASKS[protocol.task](protocol)

    def opened() -> Iterator[tuple[str, DualEncoder]]:
        """Models and what they are called, each opened when it is its turn."""
        by_name = [(name, model) for name, model in named if not isinstance(model, DualEncoder)]
        folders = {name for name, model in by_name if expand(model).is_dir()}
        for name, model in named:
            if not isinstance(model, DualEncoder):
                own = vision if name in folders or not folders else None
                model = open_model(model, vision=own, device=device, dtype=dtype)
            if aligners is None:
                yield name, model
            else:
                yield from ((aligner, refitted(model, aligner=aligner)) for aligner in aligners)

    return Results(_result(task, name, model, progress) for name, model in opened())


def _result(task: Task, name: str, model: DualEncoder, progress: Progress | None) -> Result:
    start = time.perf_counter()
    measured, settled, metrics, data, notes = task.measure(model, progress)
    if settled.metric not in metrics:
        known = ", ".join(metrics)
        raise HeadwordError(f"{settled.task} has no metric {settled.metric!r}; it has {known}")
    if task.protocol.split is None and settled.split is not None:
        notes = (f"measured on the split {settled.split}, since none was named (--split)", *notes)
    provenance = measured.provenance()
    del provenance["scores"]  # the scale and threshold of probabilities: evaluation is by cosines
    metrics = {**metrics, "seconds": time.perf_counter() - start}
    return Result(name=name, model=provenance, protocol=settled, metrics=metrics, data=data, notes=notes)
