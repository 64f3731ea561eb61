"""What runs the model: torch here, OpenVINO beside it, chosen by the machine and the size of the job.

A short call uses torch in the encoder's own precision, exactly: nothing has to be converted or compiled for
it. A long one takes the fastest engine, and what is not torch in float32 proves itself on the job's first
pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.encoders import VisionEncoder
from headword.errors import HeadwordError, MissingExtraError
from headword.extract.machine import is_x86, native_bfloat16
from headword.extract.pixels import PixelPlan
from headword.extract.torch_engine import Choice, TorchEngine

EngineName = Literal["auto", "torch", "openvino"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

LONG = 512
"""Images from which a job is long: a second's worth, as much as a fast engine takes to start."""

AGREEMENT = {"float32": 0.9999, "bfloat16": 0.998}
"""Least mean cosine to torch's float32 features on a job's first pictures, by precision.

A wrong conversion or a model that bfloat16 breaks is far below. On hundreds of photographs the embedded
classifiers reach 0.999 in bfloat16; the mean of the first few may be a little under that.
"""

_PROOF = 16  # images compared, of the first batch
_proven: set[tuple[str, Choice, str]] = set()  # in this process: weights, engine and precision, plan

_log = logging.getLogger("headword")


class Engine(Protocol):
    """Runs one encoder over batches."""

    choice: Choice

    def features(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Batches, in order → float32 features `[N, d]` of each, on the CPU.

        A batch is uint8 pixels `[N, H, W, 3]`, or float `[N, 3, H, W]`, already transformed.
        """


def choose(vision: VisionEncoder, count: int | None, *, engine: str = "auto", dtype: str = "auto") -> Choice:
    """The engine and precision for a job; does not depend on what ran before.

    Args:
        vision: the encoder.
        count: images in the job; None where it is not known, which counts as many.
        engine: "auto", "torch" or "openvino".
        dtype: "auto", "float32" or "bfloat16". "auto" leaves it to the encoder, and where that was loaded
            with "auto" too, is bfloat16 in long jobs if the device has it natively, else float32.

    Raises:
        HeadwordError: for an unknown engine or precision, or one that is not to be had here.
    """
    if engine not in {"auto", "torch", "openvino"}:
        raise HeadwordError(f"unknown engine {engine!r}; choose auto, torch, openvino or ray")
    if dtype not in {"auto", *DTYPES}:
        raise HeadwordError(f"unknown dtype {dtype!r}; choose auto, {', '.join(DTYPES)}")
    installed = find_spec("openvino") is not None
    if engine == "openvino" and not installed:
        raise MissingExtraError("the OpenVINO engine", "openvino")
    if engine == "openvino" and vision.device.type != "cpu":
        raise HeadwordError(f"OpenVINO computes on the CPU, not on {vision.device}; choose --device cpu")
    long = count is None or count >= LONG
    if engine == "auto":
        fits = installed and is_x86() and vision.device.type == "cpu"
        engine = "openvino" if long and fits else "torch"
    if dtype == "auto":
        if not vision.auto_dtype:
            dtype = str(vision.dtype).removeprefix("torch.")
        else:
            dtype = "bfloat16" if long and native_bfloat16(vision.device) else "float32"
    return Choice(engine, dtype)


def open_engine(
    vision: VisionEncoder,
    choice: Choice,
    plan: PixelPlan | None,
    first: Tensor,
    *,
    may_fall_back: bool = True,
) -> tuple[Engine, str | None]:
    """The chosen engine, once it agrees with torch in float32 on the first pictures it gets in this process.

    Args:
        vision: the encoder.
        choice: what `choose` said.
        plan: how uint8 pixels are normalised; None if batches are float.
        first: the job's first batch.
        may_fall_back: whether torch in float32 may take the place of a choice that fails; False for one that
            was asked for by name.

    Returns:
        The engine, and where it is not the chosen one the reason.

    Raises:
        HeadwordError: if the choice fails and nothing may take its place.
    """
    exact = TorchEngine(vision, "float32", plan)
    if choice == exact.choice:
        return exact, None
    what = (vision.fingerprint, choice, repr(plan))
    if what in _proven:
        return _start(vision, choice, plan), None
    proof = first[:_PROOF]
    (expected,) = exact.features([proof])
    reasons = []
    for candidate in [choice, Choice(choice.engine, "float32")] if may_fall_back else [choice]:
        if candidate == exact.choice:
            break
        try:
            engine = _start(vision, candidate, plan)
            (got,) = engine.features([proof])
        except RuntimeError as error:  # what both libraries raise on a layer they do not have
            reasons.append(f"{candidate}: {error}")
            continue
        cosine = float(F.cosine_similarity(expected, got, dim=1).mean())
        if cosine >= AGREEMENT[candidate.dtype]:  # not so if it is NaN
            if candidate == choice:
                _proven.add(what)
            return engine, _told(reasons, candidate)
        reasons.append(
            f"{candidate}: the cosine to torch in float32 on the first {len(proof)} images is {cosine:.5f}, "
            f"less than {AGREEMENT[candidate.dtype]}"
        )
    if not may_fall_back:
        raise HeadwordError(
            f"{vision.name} does not run on {_line(reasons[0])}; choose another engine or dtype"
        )
    return exact, _told(reasons, exact.choice)


def _told(reasons: list[str], instead: Choice) -> str | None:
    if not reasons:
        return None
    note = f"{instead} is used, because of {'; '.join(map(_line, reasons))}"
    _log.warning(note)
    return note


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _start(vision: VisionEncoder, choice: Choice, plan: PixelPlan | None) -> Engine:
    if choice.engine == "openvino":  # a library that takes a second to import
        from headword.extract.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(vision, choice.dtype, plan)
    return TorchEngine(vision, choice.dtype, plan)
