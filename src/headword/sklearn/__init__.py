"""Pictures in scikit-learn's pipelines: `ImageEmbedder`, from paths to embeddings."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from headword.errors import HeadwordError, MissingExtraError
from headword.model import DualEncoder, load

try:
    from sklearn.base import BaseEstimator, TransformerMixin
except ModuleNotFoundError:
    raise MissingExtraError("scikit-learn", "eval") from None


class ImageEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Images → embeddings, a transformer with nothing to learn.

    Args:
        model: a model, or what `headword.load` takes.
        space: "shared", unit-norm vectors `[N, D]` in one space with words; or "features", the classifier's
            own `[N, d]`.
        batch_size: images that go through the model together.
    """

    def __init__(
        self, model: DualEncoder | str | os.PathLike[str], *, space: str = "shared", batch_size: int = 32
    ) -> None:
        self.model = model
        self.space = space
        self.batch_size = batch_size

    def fit(self, X: object = None, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn's interface
        """Load the model, where it is named.

        Raises:
            HeadwordError: if it cannot be had, or there is no such space.
        """
        if self.space not in ("shared", "features"):
            raise HeadwordError(f"unknown space {self.space!r}; choose shared or features")
        self.model_ = self.model if isinstance(self.model, DualEncoder) else load(self.model)
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Images, as `DualEncoder.encode_image` takes them → float32 `[N, D]`."""
        if not hasattr(self, "model_"):
            self.fit()
        encode = self.model_.encode_image if self.space == "shared" else self.model_.image_features
        return encode(X, batch_size=self.batch_size).numpy()

    def get_feature_names_out(self, input_features: object = None) -> NDArray[Any]:  # noqa: ARG002 - as above
        """A name for each coordinate."""
        width = self.model_.dim if self.space == "shared" else self.model_.vision.dim
        return np.array([f"{self.space}{place}" for place in range(width)], dtype=object)

    def __sklearn_clone__(self) -> Self:  # the model is shared, not copied
        return type(self)(**self.get_params(deep=False))

    def __sklearn_is_fitted__(self) -> bool:
        return True
