"""No mapping: for two encoders that were trained into one space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from headword.aligners.base import Aligner
from headword.errors import HeadwordError


@dataclass(eq=False, repr=False)
class Identity(Aligner):
    """Both sides as they are, normalised: image map normalise(x/‖x‖ − centre), text map t/‖t‖.

    The centre is zero until centred. Nothing is learnt from pairs, so it is not one of `ALIGNERS`.
    """

    name = "identity"
    text_axis = ("centre_", 0)

    @classmethod
    def of(cls, dim: int) -> Self:
        """For a space of `dim` dimensions."""
        return cls.restore({}, {"centre_": torch.zeros(dim)})

    def _fit(self, image: Tensor, text: Tensor, weight: Tensor) -> dict[str, Tensor]:  # noqa: ARG002 - the interface's
        if image.shape[1] != text.shape[1]:
            raise HeadwordError(
                f"identity is for encoders of one space; these are {image.shape[1]} and {text.shape[1]} wide"
            )
        return {}

    def _map_text(self, text: Tensor) -> Tensor:
        return text
