"""A classifier taught by clicks on the pictures of an index: answers, undo, and what they change at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from headword.classifier import Classifier
from headword.errors import HeadwordError
from headword.scoring.examples import Examples, judgements, keys
from headword.search.query import Query


class Answer(NamedTuple):
    """What was said of one picture."""

    place: int
    """Of the picture."""
    label: str
    wrong: bool = False
    """The picture has the label not; which it has is not said."""


class Lesson:
    """A classifier and the N pictures that it is taught by, one answer at a time.

    The answers, in their order, are all of its state: `Lesson(…).answer` of the same ones is the same lesson.
    A later answer on a picture replaces an earlier one.

    Args:
        classifier: its model is centred as the pictures are; learns in place.
        features: `[N, d]` of the pictures, before centring.
        names: how they are called in a saved classifier; their paths.
    """

    def __init__(self, classifier: Classifier, features: Tensor, names: list[str]) -> None:
        self.classifier = classifier
        self.answers: list[Answer] = []
        self.names = names
        self._features = features
        self._embeddings = classifier.model.encode_image(features, batch_size=4096)
        self._before, self._labels = classifier.examples, classifier.classes_.tolist()
        self._stale = False

    def answer(self, *answers: Answer) -> None:
        """Take down answers, in a moment; they are learnt from when something is asked.

        Raises:
            HeadwordError: for a place or a label that is none; then none of the answers is taken down.
        """
        for answer in answers:
            if not 0 <= answer.place < len(self.names):
                raise HeadwordError(f"there is no picture {answer.place}; there are {len(self.names)}")
        labels = self.classifier.classes_.tolist()
        judgements([answer.label for answer in answers], labels, several=False)
        self.answers += answers
        self._stale = True

    def keep(self, query: Query) -> None:
        """Keep a refined query as a label: its words, and the hits that were judged as answers.

        Raises:
            HeadwordError: for a query without words, or a hit that is no picture of the lesson.
        """
        if query.text is None:
            raise HeadwordError("a query without words is no label; give text")
        places = {name: place for place, name in enumerate(self.names)}
        judged = [(path, False) for path in query.right] + [(path, True) for path in query.wrong]
        if strange := [path for path, _ in judged if path not in places]:
            raise HeadwordError(f"{strange[0]!r} is no picture of the lesson")
        answers = [Answer(places[path], query.text, wrong) for path, wrong in judged]
        if query.text not in self.classifier.classes_:
            self.add_label(query.text)
        self.answer(*answers)

    def undo(self) -> Answer | None:
        """Take back the last answer, and return it; None where there is none."""
        if not self.answers:
            return None
        self._stale = True
        return self.answers.pop()

    def add_label(self, label: str) -> None:
        """Add a label, known by its words until a picture is shown; answers so far stay.

        Raises:
            HeadwordError: for an empty label, or one that is there.
        """
        self.learn()
        self.classifier.add_labels([label])

    def learn(self) -> None:
        """Learn from the answers since the last time."""
        if self._stale:
            self.classifier.learn(self._examples())
            self._stale = False

    def tags(self) -> tuple[Tensor, Tensor]:
        """The place of the likeliest label in `classifier.classes_` and its probability, of each picture."""
        self.learn()
        best = self.classifier.probabilities(self.classifier.logits(self._embeddings)).max(dim=1)
        return best.indices, best.values

    def suggest(self, k: int = 1) -> list[int]:
        """Places of the pictures whose labels would teach most, the first first; none that was answered."""
        self.learn()
        places: list[int] = self.classifier.suggest_among(self._embeddings, k).tolist()
        return places

    @property
    def accuracy(self) -> float | None:
        """The estimate of `Classifier.accuracy_`, 0 … 1, with all answers; None where there is none."""
        self.learn()
        return self.classifier.accuracy_

    @property
    def counts(self) -> dict[str, int]:
        """How many pictures were shown of each label."""
        self.learn()
        return dict(zip(self.classifier.classes_.tolist(), self.classifier.examples.counts, strict=True))

    def _examples(self) -> Examples:
        """What the classifier had learnt before, and the answers in their order."""
        labels, single = self.classifier.classes_.tolist(), not self.classifier.multi_label
        columns = {label: column for column, label in enumerate(labels)}
        before = self._before.relabelled(self._labels, labels)
        if not self.answers:
            return before
        places = [answer.place for answer in self.answers]
        rows: dict[bytes, tuple[int, Tensor]] = {}
        for key, (place, label, wrong) in zip(keys(self._features[places]), self.answers, strict=True):
            row = rows.setdefault(key, (place, torch.zeros(len(labels), dtype=torch.int8)))[1]
            if single and not wrong:
                row.zero_()  # another label replaces it; of several labels the others stay as they are
            row[columns[label]] = -1 if wrong else 1
        first = [place for place, _ in rows.values()]
        judged = torch.stack([row for _, row in rows.values()])
        new = Examples(self._features[first], judged, tuple(self.names[place] for place in first))
        return before.plus(new, single=single)
