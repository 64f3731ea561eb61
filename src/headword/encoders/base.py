"""What both kinds of encoders are: a frozen model with a name, a device, and a hash of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headword.errors import HeadwordError


@dataclass(slots=True)
class Source:
    """What a loader hands over: one frozen model, and how to come by it again."""

    kind: str
    """Which loader, as in the tables `SOURCES`; also "module" and "joint"."""
    id: str
    """The name to load it by again, in the loader's own words; a folder is absolute."""
    model: nn.Module
    revision: str | None = field(default=None, kw_only=True)
    """The commit, of a repository on the hub."""
    licence: str | None = field(default=None, kw_only=True)
    save: Callable[[Path], str] | None = field(default=None, kw_only=True)
    """Writes the model into a folder and returns the file or folder name to load it from, where it can."""

    @property
    def name(self) -> str:
        """kind:id, the whole name."""
        return f"{self.kind}:{self.id}"


@dataclass(slots=True, repr=False)
class Encoder:
    """A frozen model on a device."""

    source: Source
    device: torch.device
    dim: int
    """Width of what it gives."""
    _fingerprint: str = field(default="", kw_only=True)

    @property
    def name(self) -> str:
        """kind:id, the whole name of the encoder."""
        return self.source.name

    @property
    def fingerprint(self) -> str:
        """sha256 over the model's tensors."""
        if not self._fingerprint:
            self._fingerprint = fingerprint(self.source.model)
        return self._fingerprint

    def provenance(self) -> dict[str, Any]:
        """All that is needed to name, find and verify the encoder again, as JSON."""
        return {
            "kind": self.source.kind,
            "id": self.source.id,
            "revision": self.source.revision,
            "licence": self.source.licence,
            "weights_sha256": self.fingerprint,
        }


def fingerprint(model: nn.Module) -> str:
    """sha256 over names, shapes and bytes of a model's parameters and buffers, in their order."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that "auto", "cpu", "cuda", "cuda:1" or "mps" means here; refused if it is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(kind for kind, present in available.items() if present))
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise HeadwordError(f"unknown device {device!r}; choose auto, cpu, cuda or mps") from None
    if not available.get(chosen.type, False):
        raise HeadwordError(f"device {device!r} is not available on this machine; choose auto or cpu")
    return chosen


def resolve_dtype(dtype: str) -> torch.dtype:
    """The precision that "auto", "float32" or "bfloat16" means."""
    known = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise HeadwordError(f"unknown dtype {dtype!r}; choose {', '.join(known)}")
    return known[dtype]
