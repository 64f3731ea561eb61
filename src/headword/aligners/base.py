"""The interface every mapping between two frozen encoders follows."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from headword.aligners.linalg import double
from headword.aligners.pairs import HEAD, ROW_SOURCES, Pairs, distinct
from headword.errors import HeadwordError

_LEAST = 1e-12  # below this a vector has no direction, as for `F.normalize`


@dataclass(eq=False, repr=False)
class Aligner(nn.Module, ABC):
    """Two maps, `image` and `text`, into one shared space, learnt from pairs.

    As in scikit-learn, `__init__` only stores settings, the fields of the class with the ranges they are
    annotated with, and `fit` checks them and learns; learnt tensors are buffers, fields without `init` whose
    names end in `_`. All normalisation and centring happens in here, so that fit and use cannot differ.

    The image side subtracts a *centre* from the unit-norm features: zero after `fit` unless an aligner says
    otherwise, and replaced by `centre_on` with the mean of any unlabelled pool.

    Inputs of any floating-point type are brought to the precision of the fit, at least float32. A row that
    says nothing (a zero vector, an image equal to the centre) comes out as a zero vector, never as NaN.
    """

    name: ClassVar[str]  # what the command line and a saved model call it
    iterative: ClassVar[bool] = False  # whether a fit takes minutes (gradient descent), not a moment
    text_axis: ClassVar[tuple[str, int]]  # the learnt tensor, and its axis, as wide as text embeddings
    centre_: Tensor = field(init=False)  # `[d]`, what is subtracted from unit-norm image features

    def __post_init__(self) -> None:
        super().__init__()

    def fit(self, pairs: Pairs) -> Self:
        """Learn the maps from pairs, anew; settings are checked, sides normalised, weights of mean 1."""
        self.checked_settings(self.settings)
        # Features often come out of `torch.inference_mode`; what is learnt must be usable outside it.
        with torch.inference_mode(False), torch.no_grad():
            image, text, weight = prepared(pairs)
            learnt = {"centre_": torch.zeros_like(image[0])}
            if self.by_source:
                kinds = [HEAD if source in ROW_SOURCES else source for source in pairs.source]
                learnt |= self._fit_by_source(image, text, weight, kinds)
            else:
                learnt |= self._fit(image, text, weight)
            self._learn(**learnt)
        return self

    def _fit_by_source(
        self, image: Tensor, text: Tensor, weight: Tensor, source: Sequence[str]
    ) -> dict[str, Tensor]:
        """`_fit` on images less their source's weighted mean; the centre is the captioned images' mean."""
        learnt = self._fit(image - source_means(image, weight, source), text, weight)
        shown = [n for n, one in enumerate(source) if one != HEAD]
        return learnt | ({"centre_": weighted_mean(image[shown], weight[shown])} if shown else {})

    @abstractmethod
    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """What unit-norm `[N, d]`, `[N, k]` and weights `[N]` of mean 1 teach; a centre only if not zero."""

    @abstractmethod
    def _map_text(self, text: Tensor) -> Tensor:
        """Map unit-norm text embeddings `[M, k]` to the shared space `[M, D]`, not yet normalised."""

    def _map_image(self, centred: Tensor) -> Tensor:
        """Map centred unit-norm image features `[M, d]` to the shared space; the image space by default."""
        return centred

    def unit(self, features: Tensor) -> Tensor:
        """Image features `[M, d]` on the scale that centres have: of unit norm."""
        return F.normalize(features, dim=1)

    def _present(self, unit: Tensor) -> Tensor:
        """Which entries of the features `[M, d]` an image has, as ones and zeros that broadcast to them."""
        return torch.ones_like(unit[:, :1])

    def image(self, features: Tensor, centre: Tensor | None = None) -> Tensor:
        """Image features `[M, d]` → unit-norm `[M, D]`, less a `centre` `[d]` or `[M, d]`, else `centre_`."""
        unit = self.unit(self._checked(features, "image_dim"))
        subtracted = self._present(unit) * (self.centre_ if centre is None else centre)
        return F.normalize(self._map_image(unit - subtracted), dim=1)

    def places(self, cells: Tensor, whole: Tensor) -> Tensor:
        """Each place's share of a picture's vector: features of P places `[P, d]` → `[P, D]`.

        Nothing is normalised place by place, so that where `whole` `[d]`, the picture's features, is the
        mean over places, the mean of the shares is `image(whole)`.
        """
        unit, centred = self._split(cells, whole, self.centre_)
        shares: Tensor = self._map_image(unit) / self._map_image(centred).norm().clamp_min(_LEAST)
        return shares

    @staticmethod
    def _split(cells: Tensor, whole: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Places `[P, d]` and the whole `[1, d]`, centred on the scale on which the whole has unit norm."""
        length = whole.norm().clamp_min(_LEAST)
        return cells / length - centre, (whole / length - centre)[None]

    def text(self, embeddings: Tensor) -> Tensor:
        """Text embeddings `[M, k]` → unit-norm `[M, D]` in the shared space."""
        unit = F.normalize(self._checked(embeddings, "text_dim"), dim=1)
        return F.normalize(self._map_text(unit), dim=1)

    def weights(self, embeddings: Tensor, pairs: Pairs) -> Tensor | None:  # noqa: ARG002 - for subclasses
        """How much each pair counts for texts `[M, k]`: β `[M, N]`, where text map = normalise(β (X − μ)).

        X are the unit-norm image rows of `pairs`, which must be those of the fit, and μ their weighted mean.
        None for a mapping that is no such sum.
        """
        return None

    def centre_on(self, features: Tensor, strength: float = 0.0) -> Self:
        """Set the centre to the mean of the unit-norm `features` `[M, d]` of an unlabelled pool, in place.

        Calling it again replaces the centre, and `fit` puts the default one back. With a `strength` κ above
        0 the old centre c₀ counts as κ images: (κ c₀ + Σ x_i)/(κ + M), better where the pool is a few images.

        Raises:
            HeadwordError: if there are no images or a feature is not finite.
        """
        unit = self.unit(self._checked(features, "image_dim"))
        if len(unit) == 0:
            raise HeadwordError("centring needs at least one image")
        total = unit.sum(dim=0)
        if not torch.isfinite(total).all():
            raise HeadwordError("the features to centre on have a NaN or infinite value")
        images = self._present(unit).sum(dim=0).clamp_min(1)
        self._learn(centre_=(strength * self.centre_ + total) / (strength + images))
        return self

    def centred_on(self, features: Tensor, strength: float = 0.0) -> Self:
        """A copy that is centred so; see `centre_on`."""
        return copy.deepcopy(self).centre_on(features, strength)

    def image_matrix(self) -> Tensor:
        """M `[d, D]` of the image side normalise((x/‖x‖ − centre) M).

        Raises:
            HeadwordError: if the image side is not linear.
        """
        eye = torch.eye(self.image_dim).to(self.centre_)
        probe = torch.linspace(-1, 1, len(eye)).to(eye)[None]
        with torch.inference_mode():
            matrix = self._map_image(eye)
            if not torch.allclose(self._map_image(probe), probe @ matrix, rtol=1e-3, atol=1e-4):
                raise HeadwordError(f"the image side of {self.name} is not linear, which this needs")
        return matrix

    @property
    def fitted(self) -> bool:
        """Whether `fit` (or loading) has happened."""
        return "centre_" in self._buffers

    @property
    def image_dim(self) -> int:
        """Width d of the image features."""
        return self._width("centre_", 0)

    @property
    def text_dim(self) -> int:
        """Width k of the text embeddings."""
        return self._width(*self.text_axis)

    @property
    def shared_dim(self) -> int:
        """Width D of the shared space."""
        return self.image_dim

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `__init__`, as given: with `tensors`, all there is to save."""
        return {name: getattr(self, name) for name in self.setting_names()}

    @classmethod
    def setting_names(cls) -> tuple[str, ...]:
        """The names of the arguments of `__init__`."""
        return tuple(one.name for one in fields(cls) if one.init)

    @classmethod
    def checked_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `__init__`, each of its type and in its range."""
        from headword.settings import settings_of  # which a fitted aligner does without

        try:
            config = settings_of(cls)(**settings)
        except HeadwordError as error:
            raise HeadwordError(f"{cls.name}: {error}") from error
        return {name: getattr(config, name) for name in settings}

    @property
    def by_source(self) -> bool:
        """Whether `fit` centres the pairs of each source (head rows, captioned images) on their own mean."""
        return bool(getattr(self, "centre_by_source", False))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The learnt tensors by name."""
        return {name: tensor for name, tensor in self._buffers.items() if tensor is not None}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The aligner of these settings and learnt tensors, refused if the class learns others."""
        learnt = {one.name for one in fields(cls) if one.name.endswith("_")}
        if set(tensors) != learnt:
            learns, given = (", ".join(sorted(names)) or "none" for names in (learnt, tensors))
            raise HeadwordError(f"a saved {cls.name} has the tensors {learns}, got {given}")
        aligner = cls(**settings)
        # Copies: those read from a file lie where they lay in it, and sums of unaligned rows differ in the
        # last bit.
        aligner._learn(**{name: tensor.clone() for name, tensor in tensors.items()})
        return aligner

    def unfitted(self, n_pairs: int) -> Self:  # noqa: ARG002 - iterative aligners spend by the number of pairs
        """A new aligner of the same settings, to fit on `n_pairs` pairs while other classes are held out."""
        return type(self)(**self.settings)

    def _learn(self, **tensors: Tensor) -> None:
        """Store learnt tensors as buffers; their names end in `_`."""
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().contiguous())

    def _width(self, name: str, axis: int) -> int:
        if not self.fitted:
            raise HeadwordError(f"this {type(self).__name__} is not fitted; call fit(pairs) first")
        return int(self.get_buffer(name).shape[axis])

    def _checked(self, rows: Tensor, side: str) -> Tensor:
        """The rows in the precision of the fit, if their width is `side`'s."""
        width = getattr(self, side)
        if rows.ndim != 2 or rows.shape[1] != width:
            raise HeadwordError(
                f"{side.removesuffix('_dim')} vectors must have shape [N, {width}], got {list(rows.shape)}; "
                "use the encoder the aligner was fitted with"
            )
        return rows.to(self.centre_.dtype)


def prepared(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """What a fit starts from: unit-norm `[N, d]`, `[N, k]` and weights `[N]` of mean 1, in one precision."""
    dtype = torch.promote_types(torch.promote_types(pairs.image.dtype, pairs.text.dtype), torch.float32)
    image, text, weight = (side.detach().to(dtype) for side in (pairs.image, pairs.text, pairs.weight))
    return F.normalize(image, dim=1), F.normalize(text, dim=1), weight / weight.mean()


def source_means(rows: Tensor, weight: Tensor, source: Sequence[str]) -> Tensor:
    """`[N, d]` for each row the weighted mean of the rows of its source: `[N, d]`, weights `[N]`, N words."""
    first, numbers = distinct(source)
    of = torch.tensor(numbers, device=rows.device)
    total = weight.new_zeros(len(first)).index_add_(0, of, weight)
    sums = rows.new_zeros(len(first), rows.shape[1]).index_add_(0, of, weight[:, None] * rows)
    return (sums / total[:, None])[of]


def centred(rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """In double precision: rows `[N, d]` less their weighted mean, and the mean `[d]`."""
    rows = double(rows)
    mean = weighted_mean(rows, double(weight))
    return rows - mean, mean


def weighted_mean(rows: Tensor, weight: Tensor) -> Tensor:
    """Σ ω_i row_i / Σ ω_i for rows `[N, d]` and weights `[N]`."""
    return torch.einsum("n,nd->d", weight, rows) / weight.sum()
