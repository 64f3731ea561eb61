"""The interface every mapping between two frozen encoders follows."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from headword.errors import HeadwordError
from headword.pairs import Pairs


class Aligner(nn.Module, ABC):
    """Two maps, `image` and `text`, into one shared space, learnt from pairs.

    As in scikit-learn, `__init__` only stores its settings and `fit` learns; learnt tensors are buffers whose
    names end in `_`. All normalisation and centring happens in here, once, so that fit and use cannot differ.

    The image side subtracts a *centre* from the unit-norm features. It starts as `default_centre` says and is
    replaced by `calibrate` with the mean of any unlabelled pool.
    """

    name: ClassVar[str]
    """What the command line and a saved model call it."""

    iterative: ClassVar[bool] = False
    """Whether a fit takes minutes (gradient descent) rather than a moment (closed form)."""

    centre_: Tensor
    """`[d]`, what is subtracted from unit-norm image features."""

    def fit(self, pairs: Pairs) -> Self:
        """Learn the maps from pairs; both sides are normalised first and the weights scaled to mean 1."""
        image, text = F.normalize(pairs.image, dim=1), F.normalize(pairs.text, dim=1)
        weight = pairs.weight / pairs.weight.mean()
        self._fit(image, text, weight)
        return self

    @abstractmethod
    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> None:
        """Learn from unit-norm `[N, d]` and `[N, k]`, weights `[N]` of mean 1; must set `centre_`."""

    @abstractmethod
    def _map_text(self, text: Tensor) -> Tensor:
        """Map unit-norm text embeddings `[M, k]` to the shared space `[M, D]`, not yet normalised."""

    def _map_image(self, centred: Tensor) -> Tensor:
        """Map centred unit-norm image features `[M, d]` to the shared space; the image space by default."""
        return centred

    def image(self, features: Tensor) -> Tensor:
        """Image features `[M, d]` → unit-norm `[M, D]` in the shared space."""
        self._check_input(features, "image_dim")
        return F.normalize(self._map_image(F.normalize(features, dim=1) - self.centre_), dim=1)

    def text(self, embeddings: Tensor) -> Tensor:
        """Text embeddings `[M, k]` → unit-norm `[M, D]` in the shared space."""
        self._check_input(embeddings, "text_dim")
        return F.normalize(self._map_text(F.normalize(embeddings, dim=1)), dim=1)

    def calibrate(self, features: Tensor) -> Self:
        """Set the centre to the mean of the unit-norm `features` `[M, d]` of an unlabelled pool, in place."""
        self._check_input(features, "image_dim")
        if len(features) == 0:
            raise HeadwordError("calibration needs at least one image")
        self.centre_ = F.normalize(features, dim=1).mean(dim=0).to(self.centre_)
        return self

    @property
    def fitted(self) -> bool:
        """Whether `fit` (or loading) has happened."""
        return "centre_" in self._buffers

    @property
    def image_dim(self) -> int:
        """Width d of the image features."""
        return self._width("centre_", 0)

    @property
    @abstractmethod
    def text_dim(self) -> int:
        """Width k of the text embeddings."""

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `__init__`, as given: with `tensors`, all there is to save."""
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in names if name != "self"}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The learnt tensors by name."""
        return {name: tensor for name, tensor in self._buffers.items() if tensor is not None}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The aligner that `settings` and `tensors` were taken from."""
        aligner = cls(**settings)
        for name, tensor in tensors.items():
            aligner._learn(name, tensor)
        return aligner

    def _learn(self, name: str, tensor: Tensor) -> None:
        """Store a learnt tensor as a buffer; its name ends in `_`."""
        self.register_buffer(name, tensor.detach())

    def _width(self, name: str, axis: int) -> int:
        if not self.fitted:
            raise HeadwordError(f"this {type(self).__name__} is not fitted; call fit(pairs) first")
        return int(self.get_buffer(name).shape[axis])

    def _check_input(self, rows: Tensor, side: str) -> None:
        width = getattr(self, side)
        if rows.ndim != 2 or rows.shape[1] != width:
            raise HeadwordError(
                f"{side.removesuffix('_dim')} vectors must have shape [N, {width}], got {list(rows.shape)}; "
                "use the encoder the aligner was fitted with"
            )


def weighted_mean(rows: Tensor, weight: Tensor) -> Tensor:
    """Σ ω_i row_i / Σ ω_i for rows `[N, d]` and weights `[N]`."""
    return torch.einsum("n,nd->d", weight, rows) / weight.sum()
