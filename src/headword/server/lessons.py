"""Labels taught by clicks: the routes below /lesson, and the lesson behind them."""

from __future__ import annotations

import copy
from typing import Annotated, Literal

import torch
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from headword.classifier import Classifier
from headword.encoders.prompts import check_labels, check_templates, tidy_labels
from headword.errors import HeadwordError
from headword.search.lesson import Answer, Lesson
from headword.server.clicks import NAME, Click, Clicks, EarlierLabels, Undo
from headword.server.schemas import MAX_K, Closed, InIndex, Labelling
from headword.server.service import NotInIndexError, Service, Serving

CLASSIFIER = "classifier"
"""The folder of what was taught, within the index's."""

MAX_PICTURES = 100_000
"""Pictures of an index that is taught on the page: their features and embeddings are in memory, 1 GB."""


class Asked(Closed):
    """What an answer about the lesson shall say besides its counts."""

    shown: list[InIndex] = Field(default=[], max_length=MAX_K, description="Pictures whose labels to give.")
    suggest: int = Field(default=0, ge=0, le=16, description="How many pictures to ask about next.")


class AnswerRequest(Asked):
    """What is said of pictures."""

    answers: list[Click] = Field(min_length=1, max_length=MAX_K)


class TaughtLabel(BaseModel):
    """A label of the lesson."""

    label: str
    shown: int
    """Pictures that were said to have it."""
    pictures: int
    """Pictures it fits best."""


class TaughtPicture(BaseModel):
    """The label that fits a picture best."""

    path: str
    label: str
    probability: float
    said: Literal["right", "wrong"] | None = None
    """What the last click on the picture said of the label it named."""


class LessonResponse(BaseModel):
    """What is taught so far."""

    labels: list[TaughtLabel] = Field(default=[], description="None where nothing was tagged yet.")
    none_of_these: bool = False
    answers: int = 0
    accuracy: float | None = Field(
        default=None, description="Share of the clicked pictures labelled right by the others; null without."
    )
    shown: list[TaughtPicture] = Field(default=[], description="Of those asked for, in their order.")
    suggested: list[TaughtPicture] = Field(default=[], description="What to ask about next, the best first.")
    index_version: str


class SavedResponse(BaseModel):
    """Where the classifier lies."""

    folder: str = Field(description="Within the index's folder.")
    labels: int
    examples: int


class Teacher:
    """The lesson of a server's index; all but `__init__` runs on the model thread.

    Args:
        service: whose index is taught, and in whose folder the clicks are kept.
        taught: a classifier of the index's model that goes on: its labels are taught, and those that clicks
            added to them; its examples count as long as their labels are there.
    """

    def __init__(self, service: Service, taught: Classifier | None = None) -> None:
        self.service = service
        self._clicks = Clicks(service.path / NAME)
        self._taught = taught
        self._begun: Labelling | None = None  # what was asked for last
        self._kept = False  # among the clicks, since there were some
        if taught is not None and taught.multi_label:
            raise HeadwordError("the page gives each picture one label; this classifier gives several")
        if taught is not None:
            before = [] if self._clicks.labelling is None else self._clicks.labelling.labels
            self.begin(
                Labelling(
                    labels=before if set(taught.labels) <= set(before) else list(taught.labels),
                    templates=list(check_templates(taught.templates)) if taught.templates else None,
                    none_of_these=taught.none_of_these,
                )
            )
        self._lesson: Lesson | None = None
        self._serving: Serving | None = None
        self._places: dict[str, int] = {}

    def begin(self, labelling: Labelling) -> None:
        """Teach these labels; clicks that name one of them stay."""
        labels = check_labels(tidy_labels(labelling.labels))
        templates = labelling.templates and list(check_templates(labelling.templates))
        self._begun = labelling.model_copy(update={"labels": labels, "templates": templates})
        self._kept = bool(self._clicks.clicks)
        if self._kept:
            self._clicks.add(self._begun)
        self._lesson = None

    def answer(self, serving: Serving, clicks: list[Click]) -> None:
        """Keep clicks, and learn from them."""
        lesson = self.lesson(serving)
        known = set(lesson.classifier.classes_.tolist())
        for click in clicks:
            if click.path not in self._places:
                raise NotInIndexError(f"{click.path!r} is not in the index")
            if click.label not in known:
                raise HeadwordError(f"{click.label!r} is none of the labels that are taught; add it first")
        asked = self._labelling(serving)
        first = [] if asked is None or asked == self._clicks.labelling else [asked]
        self._clicks.add(*first, *clicks)
        lesson.answer(*map(self._answer, clicks))

    def undo(self, serving: Serving) -> None:
        """Take back the last click, if there is one."""
        lesson = self.lesson(serving)
        if self._clicks.clicks:
            gone = self._clicks.clicks[-1].path not in self._places
            self._clicks.add(Undo(undo=True))
            if not gone:
                lesson.undo()

    def end(self, *, earlier: bool = False) -> None:
        """Forget labels of which nothing was clicked; or go back to `earlier` ones, with their clicks."""
        if earlier and self._kept:
            self._clicks.add(EarlierLabels(earlier_labels=True))
        if earlier or not self._clicks.clicks:
            self._begun = self._lesson = None
            self._kept = False

    def classifier(self, serving: Serving) -> Classifier:
        """The classifier as it is now; later clicks do not change it."""
        lesson = self.lesson(serving)
        lesson.learn()
        return copy.copy(lesson.classifier.encoded())

    def lesson(self, serving: Serving) -> Lesson:
        """The lesson, with all clicks on pictures that are there."""
        if self._lesson is None or self._serving is None or self._serving.index is not serving.index:
            index = serving.index
            if len(index) > MAX_PICTURES:
                raise HeadwordError(
                    f"the index has more than {MAX_PICTURES:,} pictures; teach it with headword teach"
                )
            asked = self._labelling(serving)
            if asked is None:
                raise HeadwordError("there are no labels to teach; write a list of them first")
            classifier = serving.model.classifier(
                asked.labels, templates=asked.templates, none_of_these=asked.none_of_these
            )
            if self._taught is not None:
                before, after = self._taught.classes_.tolist(), classifier.classes_.tolist()
                classifier.learn(self._taught.examples.relabelled(before, after))
            lesson = index.lesson(classifier)
            self._places = {path: place for place, path in enumerate(lesson.names)}
            lesson.answer(
                *(self._answer(click) for click in self._clicks.clicks if click.path in self._places)
            )
            self._lesson, self._serving = lesson, serving
        return self._lesson

    def state(self, serving: Serving, asked: Asked) -> LessonResponse:
        """What is taught, and the labels of some pictures."""
        version = serving.index.version
        if self._labelling(serving) is None:
            return LessonResponse(index_version=version)
        lesson = self.lesson(serving)
        (best, chance), counts = lesson.tags(), lesson.counts
        names = lesson.classifier.classes_.tolist()
        tagged = torch.bincount(best, minlength=len(names)).tolist()
        said = {click.path: click for click in self._clicks.clicks}

        def picture(place: int) -> TaughtPicture:
            path = lesson.names[place]
            label, click = names[int(best[place])], said.get(path)
            if click is None:
                return TaughtPicture(path=path, label=label, probability=float(chance[place]))
            if click.wrong:
                return TaughtPicture(path=path, label=label, probability=float(chance[place]), said="wrong")
            return TaughtPicture(path=path, label=click.label, probability=1.0, said="right")

        return LessonResponse(
            labels=[
                TaughtLabel(label=label, shown=counts[label], pictures=number)
                for label, number in zip(names, tagged, strict=True)
            ],
            none_of_these=lesson.classifier.none_of_these,
            answers=len(lesson.answers),
            accuracy=lesson.accuracy,
            shown=[picture(self._places[path]) for path in asked.shown if path in self._places],
            suggested=[picture(place) for place in lesson.suggest(asked.suggest)] if asked.suggest else [],
            index_version=version,
        )

    def _labelling(self, serving: Serving) -> Labelling | None:
        """What is taught: until the first click, what the index was tagged with last."""
        if self._clicks.clicks:
            return self._clicks.labelling
        tags = serving.index.about()["tags"]
        if self._begun is not None or tags is None:
            return self._begun
        templates, none_of_these = tags["template"], tags["none_of_these"]
        return Labelling(labels=tags["labels"], templates=templates, none_of_these=none_of_these)

    def _answer(self, click: Click) -> Answer:
        return Answer(self._places[click.path], click.label, click.wrong)


async def _teacher(request: Request) -> Teacher:
    teacher: Teacher = request.app.state.teacher
    return teacher


Taught = Annotated[Teacher, Depends(_teacher)]
router = APIRouter(prefix="/lesson")


@router.post("/state")
async def state(teacher: Taught, request: Asked) -> LessonResponse:
    """What is taught so far, and what to ask about next."""
    service = teacher.service
    return await service.run(teacher.state, await service.newest(), request)


@router.post("")
async def begin(teacher: Taught, request: Labelling) -> LessonResponse:
    """Teach these labels; clicks that name one of them stay."""
    await teacher.service.run(teacher.begin, request)
    return await state(teacher, Asked())


@router.post("/answers")
async def answers(teacher: Taught, request: AnswerRequest) -> LessonResponse:
    """Say which label pictures have, or have not. It is on the disk when the answer arrives."""
    service = teacher.service
    await service.run(teacher.answer, await service.newest(), request.answers)
    return await state(teacher, request)


@router.post("/undo")
async def undo(teacher: Taught, request: Asked) -> LessonResponse:
    """Take back the last click."""
    service = teacher.service
    await service.run(teacher.undo, await service.newest())
    return await state(teacher, request)


@router.post("/tags")
async def write_tags(teacher: Taught) -> LessonResponse:
    """Give every picture of the index its label, as `/tag` does."""
    service = teacher.service
    serving = await service.newest()
    classifier = await service.run(teacher.classifier, serving)
    await service.tag(serving.model, classifier)
    return await state(teacher, Asked())


@router.post("/classifier")
async def save(teacher: Taught) -> SavedResponse:
    """Save what was taught as a classifier, for `--classifier` of the command line, in the index's folder."""
    service = teacher.service
    serving = await service.newest()
    classifier = await service.run(teacher.classifier, serving)
    model = serving.index.about()["model"]["folder"]
    await run_in_threadpool(classifier.save, service.path / CLASSIFIER, model=model, overwrite=True)
    return SavedResponse(
        folder=CLASSIFIER, labels=len(classifier.classes_), examples=len(classifier.examples)
    )
