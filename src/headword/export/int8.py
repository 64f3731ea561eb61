"""An ONNX file in eight bits, by onnxruntime's quantiser."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headword.export.onnx_file import quiet, run, session

_QUANTISED = ["Conv", "Gemm", "MatMul", "Add", "Clip", "Relu", "Pad"]
_ROUNDS = 15  # of timing, float32 and int8 in turn


def quantised(
    written: Path, target: Path, pictures: NDArray[np.float32], metadata: Mapping[str, str]
) -> dict[str, float]:
    """Write an ONNX file in eight bits; returns its `speedup` over and `agreement` with float32.

    Of the pictures `[N, 3, H, W]` every second one is calibrated on, and the others are compared.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class _Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(np.array_split(pictures[::2], max(1, len(pictures) // 16)))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixels": batch}

    prepared = target.with_suffix(".prepared")
    with quiet():
        quant_pre_process(written, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        quantization.quantize_static(
            prepared,
            target,
            _Batches(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=_QUANTISED,
            nodes_to_exclude=[*_after_embeddings(graph), *_first_convolution(graph)],
            extra_options={"TensorQuantOverrides": _weight_ranges(graph), "CalibMovingAverage": True},
        )
    model = onnx.load(target)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, target)
    pair = [session(file, threads=1) for file in (written, target)]
    first = [run(opened, pictures[1::2])[0].argmax(axis=1) for opened in pair]
    return {
        "speedup": _speedup(pair[0], pair[1], pictures[:4]),
        "agreement": float((first[0] == first[1]).mean()),
    }


def _after_embeddings(graph: Any) -> list[str]:
    """The nodes that make probabilities of embeddings: a small product, in which labels lie close."""
    makers = {output: node for node in graph.node for output in node.output}
    names, waiting = [], ["probabilities"]
    while waiting:
        tensor = waiting.pop()
        if tensor in makers and tensor != "embeddings":
            names.append(makers[tensor].name)
            waiting += makers[tensor].input
    return names


def _first_convolution(graph: Any) -> list[str]:
    """The node that reads the pixels: little work, whose rounding all others see."""
    return [node.name for node in graph.node if node.op_type == "Conv"][:1]


def _weight_ranges(graph: Any) -> dict[str, list[dict[str, Any]]]:
    """The largest range of each output channel's weights that no processor saturates on.

    Without dot products of bytes (VNNI), x86 adds up pairs of products of an activation (to 255) and a weight
    in 16 bits: two adjacent weights of one sign may have 128 together. onnxruntime's `reduce_range` halves
    all weights for that, which hardly any pair needs, and all activations with them; depthwise kernels add up
    in 32 bits.
    """
    import onnx
    from onnxruntime import quantization

    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    ranges = {}
    for node in graph.node:
        weight = tensors.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if weight is None or (node.op_type == "MatMul" and weight.ndim != 2):
            continue
        transposed = {one.name: one.i for one in node.attribute}.get("transB", 0)
        axis = 0 if node.op_type == "Conv" or transposed else weight.ndim - 1
        weight = np.moveaxis(weight, axis, 0)
        steps = np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127
        if weight.shape[1] > 1:  # in either order that kernels read a patch in
            for order in (weight, np.moveaxis(weight, 1, -1)):
                rows = order.reshape(len(weight), -1)
                sides = np.stack([rows.clip(min=0), (-rows).clip(min=0)])
                pairs = sides[..., :-1] + sides[..., 1:]
                steps = np.maximum(steps, pairs.max(axis=(0, 2)) / 128)
        ranges[node.input[1]] = [
            {
                "quant_type": quantization.QuantType.QInt8,
                "axis": axis,
                "symmetric": True,
                "rmin": np.float32(-127 * step),
                "rmax": np.float32(127 * step),
            }
            for step in steps
        ]
    return ranges


def _speedup(slow: Any, fast: Any, batch: NDArray[np.float32]) -> float:
    """The median of how many times as long one takes as the other, measured in turn on one core each."""
    ratios = []
    for _ in range(_ROUNDS):
        seconds = []
        for opened in (slow, fast):
            start = time.process_time()
            opened.run(None, {"pixels": batch})
            seconds.append(time.process_time() - start)
        ratios.append(seconds[0] / seconds[1])
    return float(np.median(ratios))
