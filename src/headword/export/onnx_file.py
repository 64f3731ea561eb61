"""A module as an ONNX file, which onnxruntime must agree with before it is put in place."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headword.errors import HeadwordError, MissingExtraError

TOLERANCE = 0.01
"""By how much a probability, or a coordinate of an embedding, may differ from headword's."""


def onnx_runtime() -> Any:
    """onnxruntime, with what writes the files beside it.

    Raises:
        MissingExtraError: if one of them is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError("what writes and runs ONNX files", "onnx") from None
    return onnxruntime


def write_onnx(
    graph: nn.Module,
    example: Tensor,
    file: Path,
    *,
    name: str,
    inputs: str,
    outputs: Sequence[str],
    longest: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Write a module of one input as an ONNX file; returns it opened.

    Args:
        graph: the module.
        example: an input `[N, …]` with two or more in each axis that is to vary.
        file: the file.
        name: what the model is called, for messages.
        inputs: the input's name.
        outputs: the outputs' names.
        longest: the most that the second axis may have, where it varies as the first does.
        metadata: what the file says of itself.

    Raises:
        HeadwordError: if it is too large for one file, or torch cannot export it.
    """
    axes = {0: torch.export.Dim("N")}
    if longest is not None:
        axes[1] = torch.export.Dim("T", max=longest)
    with torch.no_grad(), quiet():
        try:
            program = torch.onnx.export(
                graph.eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=[inputs],
                output_names=list(outputs),
            )
        except torch.onnx.OnnxExporterError as error:
            raise HeadwordError(f"torch cannot export {name} to ONNX: {_first(error)}") from error
    assert program is not None
    program.model.metadata_props.update(metadata or {})
    program.save(file, external_data=False)
    opened = session(file)
    if not isinstance(opened.get_inputs()[0].shape[0], str):
        raise HeadwordError(f"{name} cannot be exported: it computes otherwise for another number of inputs")
    return opened


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporter and quantiser tell of their steps, on all the ways they have."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _first(error: BaseException) -> str:
    """The root of an exporter's error, whose own text is pages long, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__


def session(file: Path, threads: int = 0) -> Any:
    """An ONNX file in onnxruntime, on the CPU; on all its cores unless `threads` says how many."""
    onnxruntime = onnx_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def run(opened: Any, inputs: NDArray[Any], batch_size: int = 8) -> list[NDArray[np.float32]]:
    """Each output of a session, of all the inputs `[N, …]`."""
    (argument,) = opened.get_inputs()
    batches = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
    parts = [opened.run(None, {argument.name: batch}) for batch in batches]
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def check_agreement(got: NDArray[Any], expected: NDArray[Any], what: str) -> float:
    """The largest difference of what a file gives from what headword gives.

    Raises:
        HeadwordError: if it is more than `TOLERANCE`, so that the file would say something else.
    """
    difference = float(np.abs(got - expected).max())
    if not difference <= TOLERANCE:  # not so if it is NaN
        raise HeadwordError(
            f"the exported {what} differ from headword's by {difference:.3f}, more than {TOLERANCE}; nothing "
            "was written"
        )
    return difference
