"""What is measured and how, as settings; and what came out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from headword.encoders.prompts import check_templates
from headword.errors import HeadwordError
from headword.results import Table, result_json
from headword.scoring.transductive import OFF, check_method
from headword.settings import Settings

Positive = Annotated[int, Field(ge=1)]
FIRST = "first:"


class Protocol(Settings):
    """One way to measure a model. What is None is settled by the data or the model, and the result says how.

    Raises:
        HeadwordError: for a setting that does not exist, or a value that cannot be meant.
    """

    task: Literal["classification", "retrieval", "probe", "few-shot", "localisation", "segmentation"]
    """"classification" (zero-shot), "retrieval", "probe" (logistic regression on features), "few-shot",
    "localisation" (labels against boxes) or "segmentation" (against masks)."""
    data: str
    """Where the images are: see `headword.data.labelled`; for retrieval, a caption file; for localisation and
    segmentation, see `headword.data.boxes_and_masks`."""
    probe: bool = False  # for segmentation: a linear layer on the features of places in place of words
    name: str | None = None  # what tables call it; the task and the data when None
    split: str | None = None
    """Which part of the data, "a+b" being two; when None, the test split of data that have one, else the
    validation split, else all of them. A result says which."""
    train_split: str | None = None
    """Where the shots of probe and few-shot come from; the tested split itself, whose shots are then not
    tested on, when None."""
    class_names: tuple[str, ...] | None = None
    """What the classes are called, in the order of the data's own names."""
    classifier: str | None = None
    """For classification: a taught classifier's folder, which has the labels and what was learnt of them."""
    templates: tuple[str, ...] | None = None
    """With "{}" for the class name; the data set's own when None, else the model's."""
    centre_on: str = "none"
    """"none" (the centre the model has), "collection" (the mean of the tested images), "online" (each image
    on the ones before it, in an order drawn with the seed), "first:N" (the first N of that order),
    "reference" (the images of `hubness`) or a folder of images."""
    collection: str = OFF
    """How classification labels the tested images at once, a method of `headword.scoring.transductive`."""
    prior: str | None = None  # for "sinkhorn": "uniform", or a JSON file from class name to share
    hubness: str | None = None
    """For retrieval: the split of the caption file whose images and texts, unmatched, say what is near to
    everything; see `headword.scoring.transductive.Hubs`."""
    k: tuple[Positive, ...] | None = None
    """The k of top-k and recall@k; 1 and 5, or 1, 5 and 10, as far as the set is large enough, when None."""
    shots: tuple[Positive, ...] = (1, 2, 4, 8, 16)  # images of a class that probe and few-shot learn from
    draws: Positive = 3  # how often the shots are drawn; results are means, with their standard deviation
    missing: Literal["error", "skip"] = "error"
    """Captions that name a missing image: "error" or "skip" (and count)."""
    metric: str | None = None  # the metric that tables are read by; each task has its own when None
    seed: int = 0  # of the draws

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse settings that do not go together, before any data is opened."""
        check_method(self.collection, self.prior is not None)
        if self.collection != OFF and self.task != "classification":
            raise HeadwordError(f"collection is for the task classification, not for {self.task}")
        if self.classifier is not None and (self.task != "classification" or self.templates or self.prior):
            raise HeadwordError("classifier is for the task classification, without templates and prior")
        if self.probe and self.task != "segmentation":
            raise HeadwordError(f"probe as a setting is for the task segmentation, not for {self.task}")
        if self.hubness is not None and self.task != "retrieval":
            raise HeadwordError(f"hubness is for the task retrieval, not for {self.task}")
        if self.centre_on == "reference" and self.hubness is None:
            raise HeadwordError("centre_on reference centres on the images of hubness; give hubness a split")
        number = self.centre_on.removeprefix(FIRST)
        if self.centre_on.startswith(FIRST) and not (number.isdecimal() and int(number)):
            raise HeadwordError(f"centre_on first:N needs a positive number, got {self.centre_on!r}")
        if self.task == "retrieval" and (self.class_names or self.templates):
            raise HeadwordError("retrieval has captions, not classes: class names and templates do not apply")
        if self.templates is not None:
            check_templates(self.templates)
        for numbers in (self.shots, self.k or (1,)):
            if not numbers or len(set(numbers)) != len(numbers):
                raise HeadwordError("k and shots must name a number, and each once")
        return self

    @property
    def first(self) -> int | None:
        """N where the protocol centres on the "first:N" images."""
        return int(self.centre_on.removeprefix(FIRST)) if self.centre_on.startswith(FIRST) else None

    @property
    def pool_folder(self) -> str | None:
        """The folder of images that the protocol centres on, where it is one."""
        words = ("none", "collection", "online", "reference")
        return None if self.centre_on in words or self.first is not None else self.centre_on

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.name or f"{self.task} on {self.data}" + (f" ({self.split})" if self.split else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a protocol says of a model."""

    name: str  # the model, as tables call it
    model: dict[str, Any]  # its provenance
    protocol: Protocol  # with split, class names, templates, k and metric settled
    metrics: dict[str, float]  # percent, save `seconds`, the time all of it took
    data: dict[str, Any]  # counts: `images`, `classes` or `captions`, `missing`; a line each of `skipped`
    notes: tuple[str, ...] = field(default=())  # what a reader of the numbers should know

    def as_json(self) -> dict[str, Any]:
        """The result JSON (schema 1)."""
        return result_json("evaluate", **self.parts())

    def parts(self) -> dict[str, Any]:
        """What this result puts into a result JSON."""
        return {
            "model": {"name": self.name, **self.model},
            "protocol": self.protocol.as_dict(),
            "metrics": self.metrics,
            "seed": self.protocol.seed,
            "data": self.data,
            "notes": list(self.notes),
        }


class Results(Table, list[Result]):
    """What a protocol says of several models, in their order."""

    def columns(self) -> dict[str, list[Any]]:
        """The models' names, and a column for each metric."""
        names = list(dict.fromkeys(key for one in self for key in one.metrics))
        return {
            "model": [one.name for one in self],
            **{key: [one.metrics.get(key) for one in self] for key in names},
        }


def table(results: list[Result]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of results of one protocol, a model a row, the best by its metric first."""
    metric = results[0].protocol.metric or ""
    others = [key for key in results[0].metrics if key != metric and not key.endswith("_std")]
    keys = [metric, *others] if metric else others
    ordered = sorted(results, key=lambda result: -result.metrics.get(metric, 0.0))

    def shown(metrics: dict[str, float], key: str) -> str:
        spread = metrics.get(f"{key}_std")
        return f"{metrics[key]:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")

    return ("model", *keys), [(one.name, *(shown(one.metrics, key) for key in keys)) for one in ordered]
