"""Words as a classifier, and pictures that teach it: the one way from labels to probabilities."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from headword.classifier.folder import Centred, write_classifier
from headword.encoders.prompts import check_labels
from headword.errors import HeadwordError
from headword.export import Exportable
from headword.scoring.calibration import NONE_OF_THESE, Scores
from headword.scoring.centring import RunningCentre
from headword.scoring.estimator import Estimator
from headword.scoring.examples import Examples, judgements
from headword.scoring.suggestions import suggest
from headword.scoring.taught import TaughtWeights, teach
from headword.scoring.transductive import OFF, check_method, collective_scores, label_shares


class Encoders(Centred, Protocol):
    """What a classifier asks of its model, as `DualEncoder` has it."""

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates for labels, where none are given."""

    @property
    def scores(self) -> Scores:
        """How sure to be of a cosine."""

    def image_features(self, images: object) -> Tensor:
        """Images → features `[N, d]`, before centring."""

    def encode_text(self, texts: Sequence[str], *, templates: str | Sequence[str]) -> Tensor:
        """Texts → `[L, D]`, unit norm."""

    def encode_image(self, images: object, *, batch_size: int, centre: RunningCentre | None = None) -> Tensor:
        """Images → `[N, D]`, unit norm."""


class Classifier(Estimator, Exportable):
    """A linear classifier of a model's embeddings, whose start are words and whose evidence are pictures;
    made by `DualEncoder.classifier`.

    logits = embeddings · `coef_`ᵀ + `intercept_`, of which the softmax is a choice among the labels and the
    sigmoid, with `multi_label`, each label's own chance. With s the model's scale, t_l a label's unit vector
    and θ the threshold where it is as likely right as wrong,

        coef_l = s t_l,  intercept_l = 0;   multi_label: s' t_l and −s' θ;   none of these: 0 and s θ

    until `fit` or `partial_fit` is given examples. Then `coef_` is a multinomial logistic regression (one for
    each label with `multi_label`) with these rows as the mean of its Gaussian prior; scale and strength of
    the prior follow the examples, and the probabilities are calibrated on examples left out. See
    docs/teach.md.

    It has scikit-learn's interface without importing it, and is ready as it is: words are all it needs.

    Args:
        model: what encodes pictures and words.
        labels: L words, any.
        templates: one or several with a "{}" for the label; the model's own when not given.
        none_of_these: one more class, the last, that wins where no label reaches the threshold.
        multi_label: an independent probability for each label instead of one choice among them.
    """

    depends = ("label_vectors", "examples_", "taught", "weight", "bias")

    def __init__(
        self,
        model: Encoders,
        labels: Sequence[str],
        *,
        templates: str | Sequence[str] | None = None,
        none_of_these: bool = False,
        multi_label: bool = False,
    ) -> None:
        self.model = model
        self.labels = labels
        self.templates = templates
        self.none_of_these = none_of_these
        self.multi_label = multi_label

    @cached_property
    def label_vectors(self) -> Tensor:
        """`[L, D]` the labels' unit vectors, encoded when first asked for.

        Raises:
            HeadwordError: for no labels, an empty or repeated one, a bad template, or options that exclude
                each other.
        """
        if self.multi_label and self.none_of_these:
            raise HeadwordError(
                "multi_label and none_of_these exclude each other: independent labels may all be absent"
            )
        labels = check_labels(self.labels)
        return self.model.encode_text(
            labels, templates=self.model.templates if self.templates is None else self.templates
        )

    def encoded(self) -> Self:
        """Itself, with its labels encoded; raises what `label_vectors` does."""
        _ = self.label_vectors
        return self

    examples_: Examples
    """What `fit` was given; not there before."""

    @cached_property
    def taught(self) -> TaughtWeights | None:
        """What the examples teach; None where there are none."""
        examples = self.examples
        if not len(examples):
            return None
        words, bias = self._words()
        embeddings = self.model.encode_image(examples.features, batch_size=len(examples))
        independent, scale = self.multi_label, self._scale
        return teach(embeddings, examples.judged, words, bias, independent=independent, scale=scale)

    def __sklearn_clone__(self) -> Self:
        """What scikit-learn's tools fit has its labels sorted: their scorers read columns so."""
        labels = self.labels if self.multi_label else sorted(self.labels)
        return type(self)(**(self.get_params() | {"labels": labels}))

    def _words(self) -> tuple[Tensor, Tensor]:
        """Rows `[L, D]`, zeros for none of these, and what is added to their cosines `[L]`."""
        words, bias = self.label_vectors, torch.zeros(len(self.classes_))
        if self.none_of_these:
            words = torch.cat([words, torch.zeros_like(words[:1])])
            bias[-1] = self.model.scores.threshold
        elif self.multi_label:
            bias -= self.model.scores.threshold
        return words, bias

    @cached_property
    def weight(self) -> Tensor:
        """`coef_` as a tensor."""
        return self._scale * self._words()[0] if self.taught is None else self.taught.weight

    @cached_property
    def bias(self) -> Tensor:
        """`intercept_` as a tensor."""
        return self._scale * self._words()[1] if self.taught is None else self.taught.bias

    @property
    def _scale(self) -> float:
        scores = self.model.scores
        return scores.sigmoid_scale if self.multi_label else scores.scale

    @property
    def classes_(self) -> NDArray[np.str_]:
        """The labels `[L]`; with `none_of_these`, that one more."""
        return np.array([*self.labels, *[NONE_OF_THESE] * self.none_of_these])

    @property
    def coef_(self) -> NDArray[np.float32]:
        """`[L, D]`, in the shared space."""
        return self.weight.numpy()

    @property
    def intercept_(self) -> NDArray[np.float32]:
        """`[L]`."""
        return self.bias.numpy()

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Image embeddings `[N, D]` → cosines `[N, L]` with the labels, without none of these."""
        return embeddings @ self.label_vectors.T

    def logits(
        self,
        embeddings: Tensor,
        *,
        collection: str = OFF,
        prior: str | Mapping[str, float] | None = None,
    ) -> Tensor:
        """Image embeddings `[N, D]` → logits `[N, L]`.

        Args:
            embeddings: from the model's `encode_image`.
            collection: label all the images at once: "csls", "inverted-softmax", "sinkhorn" or "adapt"; see
                `headword.scoring.transductive`.
            prior: for "sinkhorn", the share of the images that each label has: "uniform", or by label.

        Raises:
            HeadwordError: for options that do not go together.
        """
        shares = self.check(collection, prior)
        if collection == OFF:
            return embeddings @ self.weight.T + self.bias
        scale, vectors = self.model.scores.scale, self.label_vectors
        if self.taught is not None:
            scale, vectors = float(self.weight.norm(dim=1).mean()), F.normalize(self.weight, dim=1)
        return scale * collective_scores(embeddings, vectors, method=collection, scale=scale, shares=shares)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits `[N, L]` → probabilities `[N, L]`."""
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1)

    def check(self, collection: str, prior: str | Mapping[str, float] | None) -> Tensor | None:
        """The labels' shares `[L]` that a prior states, where there is one.

        Raises:
            HeadwordError: for options that do not go together.
        """
        check_method(
            collection, prior is not None, single_labels=not (self.multi_label or self.none_of_these)
        )
        return None if prior is None else label_shares(prior, self.labels)

    def image_logits(
        self,
        X: object,
        *,
        collection: str = OFF,
        prior: str | Mapping[str, float] | None = None,
        centre: RunningCentre | None = None,
        batch_size: int = 32,
    ) -> NDArray[np.float32]:
        """Logits `[N, L]` of images.

        Args:
            X: whatever `DualEncoder.encode_image` takes, features `[N, d]` included.
            collection: as in `logits`, as is `prior`.
            centre: as in `DualEncoder.encode_image`.
            batch_size: images that go through the model together.

        Raises:
            HeadwordError: if an image cannot be read, or options do not go together.
        """
        self.check(collection, prior)
        embeddings = self.model.encode_image(X, batch_size=batch_size, centre=centre)
        return self.logits(embeddings, collection=collection, prior=prior).numpy()

    def decision_function(self, X: object, **options: Any) -> NDArray[np.float32]:
        """`image_logits`; of two labels, as scikit-learn has it, the second's less the first's, `[N]`."""
        logits = self.image_logits(X, **options)
        return logits if self.multi_label or logits.shape[1] != 2 else logits[:, 1] - logits[:, 0]

    def predict_proba(self, X: object, **options: Any) -> NDArray[np.float32]:
        """Probabilities `[N, L]` of images; arguments as of `image_logits`."""
        return self.probabilities(torch.from_numpy(self.image_logits(X, **options))).numpy()

    def predict(self, X: object, **options: Any) -> NDArray[Any]:
        """The best label of each image `[N]`; with `multi_label` which each has, `[N, L]` of 0 and 1."""
        logits = self.image_logits(X, **options)
        return (logits >= 0).astype(int) if self.multi_label else self.classes_[logits.argmax(axis=1)]

    def score(self, X: object, y: Any, sample_weight: Any = None) -> float:
        """Accuracy on images of the labels `y` `[N]`; with `multi_label`, of all of `[N, L]` at once."""
        right = self.predict(X) == np.asarray(y)
        return float(np.average(right.reshape(len(right), -1).all(axis=1), weights=sample_weight))

    def around(self, model: Encoders) -> Self:
        """The same labels and examples, learnt with a model of another centre."""
        other = type(self)(**(self.get_params() | {"model": model}))
        other.learn(self.examples)
        return other

    def fit(self, X: object, y: Any, *, names: Sequence[str] | None = None) -> Self:
        """Start anew from the words, with examples.

        Args:
            X: whatever `DualEncoder.encode_image` takes, features `[N, d]` included.
            y: the label of each, by name or place in `classes_`; with `multi_label` a list of labels for each
                picture, all others absent, or rows `[N, L]` of 0 and 1.
            names: how the pictures are called, for `forget`; their paths, say.

        Raises:
            HeadwordError: if a picture cannot be read, a label is none of `classes_`, or one picture is given
                two labels.
        """
        self.learn(self._read(X, y, names, wrong=False))
        return self

    def partial_fit(
        self, X: object, y: Any, *, names: Sequence[str] | None = None, wrong: bool = False
    ) -> Self:
        """Add examples; as `fit` with all of them. Of a picture that is there already the new label counts.

        Args:
            X: as for `fit`, as are `y` and `names`.
            wrong: the pictures do not have the labels `y`; which they have, if any, is not said.
        """
        new = self._read(X, y, names, wrong=wrong)
        self.learn(self.examples.plus(new, single=not self.multi_label))
        return self

    def forget(self, names: Iterable[str | int]) -> Self:
        """Unlearn examples, by name or by place in `examples_`.

        Raises:
            HeadwordError: for a name or place that none has.
        """
        self.learn(self.examples.without(names))
        return self

    def add_labels(self, labels: Sequence[str]) -> Self:
        """Add labels, known by their words until there are examples; what was learnt stays.

        Raises:
            HeadwordError: for no label, or one that is empty or there already.
        """
        known, before = self.examples, self.classes_.tolist()
        self.labels = check_labels([*self.labels, *check_labels(labels)])
        self.__dict__.pop("label_vectors", None)
        self.learn(known.relabelled(before, self.classes_.tolist()))
        return self

    @property
    def accuracy_(self) -> float | None:
        """The share of the examples that the classifier labels right without them, by as many fits as there
        are examples, at most 20; None without examples. Examples that `suggest` chose are harder than others.
        """
        return None if self.taught is None else self.taught.accuracy

    @property
    def unseen_(self) -> list[str]:
        """Labels without an example, which stay at their words."""
        return [label for label, seen in zip(self.labels, self.examples.counts, strict=False) if not seen]

    def suggest(self, X: object, k: int = 1) -> NDArray[np.intp]:
        """Places `[k]` of pictures whose labels would teach most; see `headword.scoring.suggestions`."""
        return self.suggest_among(self.model.encode_image(X, batch_size=32), k).numpy()

    def suggest_among(self, embeddings: Tensor, k: int) -> Tensor:
        """As `suggest`, among pictures whose embeddings `[N, D]` are at hand."""
        known = self.examples.features
        examples = self.model.encode_image(known, batch_size=4096) if len(known) else embeddings[:0]
        chances = self.probabilities(self.logits(embeddings))
        return suggest(embeddings, chances, examples, k, independent=self.multi_label)

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Save into a new folder of safetensors and JSON, without the model and without pictures.

        `headword.load_classifier` reads it.

        Args:
            folder: must not hold anything yet, unless `overwrite` and it is a saved classifier.
            model: where the model lies, so that it need not be given again.
            overwrite: replace a classifier that is there.

        Raises:
            HeadwordError: if the folder cannot be written; nothing is left half-written.
        """
        parameters = self.get_params() | {"labels": list(self.labels)}
        del parameters["model"]
        target, where = Path(folder), None if model is None else Path(model)
        weights = {"weight": self.weight, "bias": self.bias}
        write_classifier(target, self.model, parameters, self.examples, weights, where, overwrite=overwrite)
        return target

    @property
    def examples(self) -> Examples:
        """What it was taught by; none before `fit`."""
        kept = self.__dict__.get("examples_")
        return Examples.none(len(self.classes_)) if kept is None else kept

    def _read(self, X: object, y: Any, names: Sequence[str] | None, *, wrong: bool) -> Examples:
        labels = self.classes_.tolist()
        judged = judgements(y, labels, several=self.multi_label, wrong=wrong)
        return Examples.of(self.model.image_features(X), judged, names)

    def use(self, weight: Tensor, bias: Tensor) -> None:
        """Take weights `[L, D]` and biases `[L]` that were learnt before, until something is learnt."""
        self.__dict__ |= {"weight": weight, "bias": bias}

    def learn(self, examples: Examples) -> None:
        """Learn from these examples alone, or stay as before where that cannot be done."""
        before = dict(self.__dict__)
        try:
            for name in ("taught", "weight", "bias"):
                self.__dict__.pop(name, None)
            self.examples_ = examples
            _ = self.weight, self.bias
        except HeadwordError:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def __repr__(self) -> str:
        few = ", ".join(map(repr, self.labels[:3])) + ", …" * (len(self.labels) > 3)
        return f"Classifier({len(self.labels)} labels: {few})"
