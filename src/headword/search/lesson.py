"""A classifier taught by clicks on the pictures of an index: answers, undo, and what they change at once."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from headword.classifier import Classifier
from headword.errors import HeadwordError
from headword.scoring.examples import Examples, judgements


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
        self._before = classifier.examples
        self._examples = self._before
        self._stale = False

    def answer(self, *answers: Answer) -> None:
        """Take down answers, in a moment; they are learnt from when something is asked.

        Raises:
            HeadwordError: for a place or a label that is none; then none of the answers is taken down.
        """
        examples = self._examples
        for answer in answers:
            examples = examples.plus(self._example(answer), single=not self.classifier.multi_label)
        self._examples, self._stale = examples, True
        self.answers += answers

    def undo(self) -> Answer | None:
        """Take back the last answer, and return it; None where there is none."""
        if not self.answers:
            return None
        *before, last = self.answers
        self._examples, self.answers = self._before, []
        self.answer(*before)
        return last

    def add_label(self, label: str) -> None:
        """Add a label, known by its words until a picture is shown; answers so far stay.

        Raises:
            HeadwordError: for an empty label, or one that is there.
        """
        at = len(self.classifier.labels)
        self.learn()
        self.classifier.add_labels([label])
        self._before = self._before.widened(1, at)
        self._examples = self.classifier.examples

    def learn(self) -> None:
        """Learn from the answers since the last time."""
        if self._stale:
            self.classifier.learn(self._examples)
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
        return dict(zip(self.classifier.classes_.tolist(), self._examples.counts, strict=True))

    def _example(self, answer: Answer) -> Examples:
        place, label, wrong = answer
        if not 0 <= place < len(self._features):
            raise HeadwordError(f"there is no picture {place}; there are {len(self._features)}")
        # Of several labels one is said; the others stay as they are.
        judged = judgements([label], self.classifier.classes_.tolist(), several=False, wrong=wrong)
        return Examples(self._features[place : place + 1], judged, (self.names[place],))
