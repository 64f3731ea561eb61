"""What runs the model: torch here, OpenVINO beside it, chosen by the machine and the size of the job.

A short call uses torch in the encoder's own precision, exactly: nothing has to be converted or compiled for
it. A long one takes the fastest engine, and what is not torch in float32 proves itself on the job's first
pictures.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.encoders import VisionEncoder
from headword.errors import HeadwordError, MissingExtraError
from headword.extract.machine import is_x86, native_bfloat16
from headword.extract.pixels import PixelPlan

LONG = 512
"""Images from which a job is long: a second's worth, as much as a fast engine takes to start."""

AGREEMENT = {"float32": 0.9999, "bfloat16": 0.998}
"""Least mean cosine to torch's float32 features on a job's first pictures, by precision.

A wrong conversion or a model that bfloat16 breaks is far below. On hundreds of photographs the embedded
classifiers reach 0.999 in bfloat16; the mean of the first few may be a little under that.
"""

_PROOF = 16  # images compared, of the first batch

Engine = Callable[[Iterable[Tensor]], Iterator[Tensor]]
"""Batches, in order → float32 features `[N, d]` of each, on the CPU.

A batch is uint8 pixels `[N, H, W, 3]`, or float `[N, 3, H, W]`, already transformed.
"""


@dataclass(frozen=True)
class Choice:
    """An engine and its precision: what features depend on besides model, transform and pictures."""

    engine: str
    """"torch" or "openvino"."""
    dtype: str
    """"float32" or "bfloat16"."""

    def __str__(self) -> str:
        return f"{self.engine} in {self.dtype}"


_EXACT = Choice("torch", "float32")
_proven: set[tuple[str, Choice, str]] = set()  # in this process: weights, engine and precision, plan

_log = logging.getLogger("headword")


def choose(vision: VisionEncoder, count: int | None, *, engine: str = "auto", dtype: str = "auto") -> Choice:
    """The engine and precision for a job of `count` images (None: many); does not depend on what ran before.

    "auto" leaves the precision to the encoder. Where that was loaded with "auto" too, it is bfloat16 in long
    jobs if the device has it natively, else float32. What is not to be had here is refused.
    """
    if engine not in {"auto", "torch", "openvino"}:
        raise HeadwordError(f"unknown engine {engine!r}; choose auto, torch, openvino or ray")
    if dtype not in {"auto", *AGREEMENT}:
        raise HeadwordError(f"unknown dtype {dtype!r}; choose auto, {', '.join(AGREEMENT)}")
    installed = find_spec("openvino") is not None
    if engine == "openvino" and not installed:
        raise MissingExtraError("the OpenVINO engine", "openvino")
    if engine == "openvino" and vision.device.type != "cpu":
        raise HeadwordError(f"OpenVINO computes on the CPU, not on {vision.device}; choose --device cpu")
    long = count is None or count >= LONG
    if engine == "auto":
        fits = installed and is_x86() and vision.device.type == "cpu"
        engine = "openvino" if long and fits else "torch"
    if dtype == "auto" and vision.auto_dtype:
        dtype = "bfloat16" if long and native_bfloat16(vision.device) else "float32"
    return Choice(engine, str(vision.dtype).removeprefix("torch.") if dtype == "auto" else dtype)


def open_engine(
    vision: VisionEncoder,
    choice: Choice,
    plan: PixelPlan | None,
    first: Tensor,
    *,
    may_fall_back: bool = True,
) -> tuple[Engine, Choice, str | None]:
    """The chosen engine, once it agrees with torch in float32 on the first pictures it gets in this process;
    what it is, and where that is not the choice the reason.

    A choice that fails is refused unless it `may_fall_back`: then torch in float32 takes its place.
    """
    if choice == _EXACT or (what := (vision.fingerprint, choice, repr(plan))) in _proven:
        return _start(vision, choice, plan), choice, None
    exact, proof = _start(vision, _EXACT, plan), first[:_PROOF]
    (expected,) = exact([proof])
    reasons = []
    for candidate in dict.fromkeys([choice, Choice(choice.engine, "float32")] if may_fall_back else [choice]):
        if candidate == _EXACT:
            break
        try:
            engine = _start(vision, candidate, plan)
            (features,) = engine([proof])
        except RuntimeError as error:  # what both libraries raise on a layer they do not have
            reasons.append(f"{candidate}: {error}")
            continue
        cosine = float(F.cosine_similarity(expected, features, dim=1).mean())
        if cosine >= AGREEMENT[candidate.dtype]:  # not so if it is NaN
            if candidate == choice:
                _proven.add(what)
            return engine, candidate, _note(reasons, candidate)
        reasons.append(
            f"{candidate}: the cosine to torch in float32 on the first {len(proof)} images is {cosine:.5f}, "
            f"less than {AGREEMENT[candidate.dtype]}"
        )
    if not may_fall_back:
        reason = " ".join(reasons[0].split())[:300]
        raise HeadwordError(f"{vision.name} does not run on {reason}; choose another engine or dtype")
    return exact, _EXACT, _note(reasons, _EXACT)


def _note(reasons: list[str], instead: Choice) -> str | None:
    if not reasons:
        return None
    note = f"{instead} is used, because of {'; '.join(' '.join(line.split())[:300] for line in reasons)}"
    _log.warning(note)
    return note


def _start(vision: VisionEncoder, choice: Choice, plan: PixelPlan | None) -> Engine:
    if choice.engine == "torch":
        return partial(_by_torch, vision, choice.dtype, plan)
    from headword.extract.openvino_engine import OpenVinoEngine  # a library that takes a second to import

    return OpenVinoEngine(vision, choice.dtype, plan)


@torch.inference_mode()
def _by_torch(
    vision: VisionEncoder, dtype: str, plan: PixelPlan | None, batches: Iterable[Tensor]
) -> Iterator[Tensor]:
    """The encoder's own module: channels-last, under autocast for bfloat16.

    On CUDA copies and kernels are queued while two earlier batches run: nobody waits for a batch but its
    reader.
    """
    device = vision.device
    on_gpu = device.type == "cuda"
    queued: deque[tuple[torch.cuda.Event, Tensor, Tensor]] = deque()
    for batch in batches:
        source = batch.pin_memory() if on_gpu else batch
        pixels = source.to(device, non_blocking=on_gpu)
        if plan is not None:
            pixels = plan.normalise(pixels)
        pixels = pixels.to(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            features = vision.reader(pixels)[0].float()
        if not on_gpu:
            yield features.cpu()
            continue
        host = torch.empty(features.shape, pin_memory=True).copy_(features, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        queued.append((done, host, source))  # pinned memory must outlive its copy
        if len(queued) > 2:
            yield _finished(queued)
    while queued:
        yield _finished(queued)


def _finished(queued: deque[tuple[torch.cuda.Event, Tensor, Tensor]]) -> Tensor:
    done, host, _ = queued.popleft()
    done.synchronize()
    return host
