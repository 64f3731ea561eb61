"""The torch engine: the encoder's own module, on any device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from headword.encoders import VisionEncoder
from headword.extract.pixels import PixelPlan


@dataclass(frozen=True)
class Choice:
    """An engine and its precision: what features depend on besides model, transform and pictures."""

    engine: str
    """"torch" or "openvino"."""
    dtype: str
    """"float32" or "bfloat16"."""

    def __str__(self) -> str:
        return f"{self.engine} in {self.dtype}"


class TorchEngine:
    """The encoder's own module: channels-last, under autocast for bfloat16; on CUDA two batches ahead.

    Args:
        vision: the encoder.
        dtype: "float32" or "bfloat16".
        plan: how uint8 pixels are normalised; not needed for float batches.
    """

    def __init__(self, vision: VisionEncoder, dtype: str, plan: PixelPlan | None) -> None:
        self.choice = Choice("torch", dtype)
        self._vision, self._plan = vision, plan

    @torch.inference_mode()
    def features(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """See `Engine`."""
        if self._vision.device.type == "cuda":
            yield from self._ahead(batches)
        else:
            for batch in batches:
                yield self._run(batch.to(self._vision.device)).float().cpu()

    def _ahead(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Copies and kernels are queued while earlier ones run: nobody waits for a batch but its reader."""
        queued: deque[tuple[torch.cuda.Event, Tensor, Tensor]] = deque()
        for batch in batches:
            pinned = batch.pin_memory()
            result = self._run(pinned.to(self._vision.device, non_blocking=True)).float()
            host = torch.empty(result.shape, pin_memory=True)
            host.copy_(result, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
            queued.append((done, host, pinned))  # pinned memory must outlive its copy
            if len(queued) > 2:
                done, host, _ = queued.popleft()
                done.synchronize()
                yield host
        for done, host, _ in queued:
            done.synchronize()
            yield host

    def _run(self, batch: Tensor) -> Tensor:
        if batch.dtype == torch.uint8:
            assert self._plan is not None
            batch = self._plan.normalise(batch)
        batch = batch.to(memory_format=torch.channels_last)
        bfloat16 = self.choice.dtype == "bfloat16"
        with torch.autocast(self._vision.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            return self._vision.reader(batch)[0]
