"""The vision encoder of a saved model, loaded when a picture is first asked about: words do without."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from headword.encoders.vision import Labels, VisionEncoder, resolve_device, resolve_dtype
from headword.head.names import ClassName


class DeferredVision(VisionEncoder):
    """Says of an encoder what its record says, and loads it when asked for more.

    Args:
        record: the encoder's `provenance`, as the model was saved with it.
        load: gives the encoder itself, checked against the record.
        classes: what the head's rows are called.
        device: where it will compute.
        dtype: its precision; the record's when not given.

    Raises:
        HeadwordError: when it is loaded, if it cannot be had or is not the one of the record.
    """

    __slots__ = ("_load", "_record")

    def __init__(
        self,
        record: Mapping[str, Any],
        load: Callable[[], VisionEncoder],
        classes: tuple[ClassName, ...],
        device: str | torch.device,
        dtype: str | None,
    ) -> None:
        dtype = dtype or str(record["dtype"])
        # What the model's folder says besides is how it was saved, not what the encoder is.
        beside = ("input_size", "transform_sha256", "saved")
        self._record = {name: value for name, value in record.items() if name not in beside} | {
            "dtype": dtype
        }
        self._load = load
        self.labels = None if record["labels"] is None else Labels(classes, record["labels"]["origin"])
        self.device, self.dtype, self.auto_dtype = (
            resolve_device(device),
            resolve_dtype(dtype),
            dtype == "auto",
        )
        self._fingerprint = record["weights_sha256"]

    def __getattr__(self, name: str) -> Any:
        """A field that is not set yet: the encoder's model, head, reader and width come by loading it."""
        if name not in ("source", "head", "reader", "dim"):
            raise AttributeError(name)
        loaded = self._load()
        for field in dataclasses.fields(VisionEncoder):
            setattr(self, field.name, getattr(loaded, field.name))
        return getattr(self, name)

    def __repr__(self) -> str:
        return f"VisionEncoder({self.name})"

    @property
    def name(self) -> str:
        """kind:id, the whole name of the encoder."""
        return f"{self._record['kind']}:{self._record['id']}"

    def provenance(self) -> dict[str, Any]:
        """The record."""
        return dict(self._record)
