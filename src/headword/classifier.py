"""Words as a classifier: the one way from texts to label vectors, and from cosines to probabilities."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from headword.encoders.prompts import check_labels
from headword.errors import HeadwordError
from headword.export import Exportable
from headword.scoring.centring import RunningCentre
from headword.scoring.probabilities import NONE_OF_THESE, Scores
from headword.scoring.transductive import OFF, check_method, collective_scores, label_shares


class Encoders(Protocol):
    """What a classifier asks of its model, as `DualEncoder` has it."""

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates for labels, where none are given."""

    @property
    def scores(self) -> Scores:
        """How sure to be of a cosine."""

    def encode_text(self, texts: Sequence[str], *, templates: str | Sequence[str]) -> Tensor:
        """Texts → `[L, D]`, unit norm."""

    def encode_image(self, images: object, *, batch_size: int, centre: RunningCentre | None = None) -> Tensor:
        """Images → `[N, D]`, unit norm."""


class Classifier(Exportable):
    """A linear classifier of a model's embeddings, whose rows are words; made by `DualEncoder.classifier`.

    logits = embeddings · `coef_`ᵀ + `intercept_`, of which the softmax is a choice among the labels and the
    sigmoid, with `multi_label`, each label's own chance. With s the model's scale, t_l a label's unit vector
    and θ the threshold where it is as likely right as wrong,

        coef_l = s t_l,  intercept_l = 0;   multi_label: s' t_l and −s' θ;   none of these: 0 and s θ.

    It has scikit-learn's interface (`get_params`, `set_params`, `clone`, `score`, tags) without importing
    scikit-learn, and is ready as it is: words are all it needs. `decision_function` gives a column for each
    label even where there are two.

    Args:
        model: what encodes pictures and words.
        labels: L words, any.
        templates: one or several with a "{}" for the label; the model's own when not given.
        none_of_these: one more class, the last, that wins where no label reaches the threshold.
        multi_label: an independent probability for each label instead of one choice among them.
    """

    _estimator_type = "classifier"

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

    @cached_property
    def weight(self) -> Tensor:
        """`coef_` as a tensor."""
        scores, words = self.model.scores, self.label_vectors
        if self.multi_label:
            return scores.sigmoid_scale * words
        rows = scores.scale * words
        return torch.cat([rows, torch.zeros_like(rows[:1])]) if self.none_of_these else rows

    @cached_property
    def bias(self) -> Tensor:
        """`intercept_` as a tensor."""
        scores, bias = self.model.scores, torch.zeros(len(self.weight))
        if self.multi_label:
            bias -= scores.sigmoid_scale * scores.threshold
        elif self.none_of_these:
            bias[-1] = scores.scale * scores.threshold
        return bias

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

    # ---- from embeddings, as tensors

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
        scale = self.model.scores.scale
        return scale * collective_scores(
            embeddings, self.label_vectors, method=collection, scale=scale, shares=shares
        )

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

    # ---- from pictures, as scikit-learn has it

    def decision_function(
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
            collection: as in `logits`.
            prior: as in `logits`.
            centre: as in `DualEncoder.encode_image`.
            batch_size: images that go through the model together.

        Raises:
            HeadwordError: if an image cannot be read, or options do not go together.
        """
        self.check(collection, prior)
        embeddings = self.model.encode_image(X, batch_size=batch_size, centre=centre)
        return self.logits(embeddings, collection=collection, prior=prior).numpy()

    def predict_proba(self, X: object, **options: Any) -> NDArray[np.float32]:
        """Probabilities `[N, L]` of images; arguments as of `decision_function`."""
        return self.probabilities(torch.from_numpy(self.decision_function(X, **options))).numpy()

    def predict(self, X: object, **options: Any) -> NDArray[Any]:
        """The best label of each image `[N]`; with `multi_label` which labels each has, `[N, L]` of 0 and 1.

        Arguments as of `decision_function`.
        """
        logits = self.decision_function(X, **options)
        return (logits >= 0).astype(int) if self.multi_label else self.classes_[logits.argmax(axis=1)]

    def score(self, X: object, y: Any, sample_weight: Any = None) -> float:
        """Accuracy on images of the labels `y` `[N]`; with `multi_label`, of all of `[N, L]` at once."""
        right = self.predict(X) == np.asarray(y)
        return float(np.average(right.reshape(len(right), -1).all(axis=1), weights=sample_weight))

    # ---- what scikit-learn asks of an estimator

    @classmethod
    def _parameters(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002 - nothing is nested
        """The arguments of the constructor, as given."""
        return {name: getattr(self, name) for name in self._parameters()}

    def set_params(self, **params: Any) -> Self:
        """Replace arguments of the constructor; returns the classifier.

        Raises:
            ValueError: for a name that is none, as scikit-learn has it.
        """
        for name, value in params.items():
            if name not in self._parameters():
                raise ValueError(f"Classifier has no parameter {name!r}; it has {self._parameters()}")
            setattr(self, name, value)
        for name in ("label_vectors", "weight", "bias") if params else ():
            self.__dict__.pop(name, None)
        return self

    def __sklearn_clone__(self) -> Self:  # the model is shared, not copied
        return type(self)(**self.get_params())

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(multi_label=self.multi_label),
            input_tags=InputTags(),
        )

    def __repr__(self) -> str:
        few = ", ".join(map(repr, self.labels[:3])) + ", …" * (len(self.labels) > 3)
        options = "".join(f", {name}" for name in ("none_of_these", "multi_label") if getattr(self, name))
        return f"Classifier({len(self.labels)} labels: {few}{options})"
