"""The OpenVINO engine: the encoder's torch module, converted once, for x86 processors.

Every picture is a request of its own and several run at once. That is OpenVINO's fastest way on a CPU (its
memory stays in the caches), and a picture's features do not depend on which others are in its batch, to the
last bit.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headword.cache import evict, place
from headword.encoders import VisionEncoder
from headword.errors import HeadwordError
from headword.extract.machine import available_cpus
from headword.extract.pixels import PixelPlan
from headword.files import new_folder

if TYPE_CHECKING:
    import openvino

_PRECISION = {"float32": "f32", "bfloat16": "bf16"}

_compiled: dict[tuple[str, str, int], openvino.CompiledModel] = {}  # of this process
_compiling = threading.Lock()


class OpenVinoEngine:
    """An encoder on OpenVINO's CPU plug-in; called with batches, see `headword.extract.engines.Engine`.

    How uint8 pixels are normalised (`plan`) becomes part of the graph. What OpenVINO cannot convert or
    compile is a RuntimeError.
    """

    def __init__(self, vision: VisionEncoder, dtype: str, plan: PixelPlan | None) -> None:
        self._dim = vision.dim
        model = _compile(vision, dtype, plan)
        # Twice as many as run at once, so that none waits for the next picture to be handed over.
        requests = 2 * int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = [model.create_infer_request() for _ in range(requests)]

    def __call__(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """See the class."""
        free = deque(self._requests)
        running: deque[tuple[Any, Tensor, int]] = deque()  # with the row that the picture's features go to
        unfinished: deque[tuple[Tensor, int]] = deque()  # a batch's features, and how many end with it
        started = finished = 0

        def finish() -> None:
            nonlocal finished
            request, features, row = running.popleft()
            request.wait()
            features[row] = torch.from_numpy(request.get_output_tensor(0).data[0])
            free.append(request)
            finished += 1

        try:
            for batch in batches:
                features = torch.empty(len(batch), self._dim)
                for row, pixels in enumerate(batch.numpy()):
                    if not free:
                        finish()
                    request = free.popleft()
                    request.get_input_tensor(0).data[0] = pixels
                    request.start_async()
                    running.append((request, features, row))
                started += len(batch)
                unfinished.append((features, started))
                while unfinished and unfinished[0][1] <= finished:
                    yield unfinished.popleft()[0]
            while running:
                finish()
            for features, _ in unfinished:
                yield features
        finally:
            for request, _, _ in running:  # the reader stopped early, perhaps
                request.wait()


def openvino_library() -> Any:
    """The library without its telemetry, which would report every conversion over the network, unasked."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _compile(vision: VisionEncoder, dtype: str, plan: PixelPlan | None) -> openvino.CompiledModel:
    """From this process, else from disk, else from the torch module."""
    openvino = openvino_library()
    size = plan.crop if plan is not None else vision.source.input_size
    depends_on = {
        "weights": vision.fingerprint,
        "head": vision.read_at,
        "architecture": repr(vision.source.model),
        "plan": repr(plan),
        "size": size,
        "versions": [version("openvino"), torch.__version__],
    }
    key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:32]
    threads = available_cpus()
    with _compiling:
        if (key, dtype, threads) not in _compiled:
            folder = place("openvino", key)
            if not (folder / "model.xml").is_file():
                model = _convert(vision, plan, size)
                with suppress(HeadwordError), new_folder(folder) as new:  # another process was first, perhaps
                    openvino.save_model(model, new / "model.xml", compress_to_fp16=False)
                evict()
            settings = {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": _PRECISION[dtype],
                "INFERENCE_NUM_THREADS": threads,
                # Pinned, the model's threads would wait for the decoders that share their processor.
                "ENABLE_CPU_PINNING": False,
                "CACHE_DIR": str(folder),
            }
            compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", settings)
            _compiled[key, dtype, threads] = compiled
    return _compiled[key, dtype, threads]


def _convert(vision: VisionEncoder, plan: PixelPlan | None, size: tuple[int, int]) -> openvino.Model:
    example = torch.zeros(1, 3, *size) if plan is None else torch.zeros(1, *size, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer's, about itself and about shapes that are fixed here
        module, shape = _Features(vision, plan).eval(), [list(example.shape)]
        return openvino_library().convert_model(module, example_input=example, input=shape)


class _Features(torch.nn.Module):
    """Batches of one picture → its features, as a module that can be traced.

    Where there is a plan, pictures are uint8 `[1, H, W, 3]`; the division by 255 is folded into the scale.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, vision: VisionEncoder, plan: PixelPlan | None) -> None:
        super().__init__()
        self.model, self._read, self._plan = vision.source.model, vision.reader, plan
        if plan is not None:
            mean, std = torch.tensor(plan.mean), torch.tensor(plan.std)
            self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1))
            self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        if self._plan is not None:
            pixels = pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift
        return self._read(pixels)[0]
