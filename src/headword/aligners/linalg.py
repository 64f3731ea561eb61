"""What the closed forms share: double precision where a system is solved, and bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

from headword.errors import HeadwordError

CHUNK_ELEMENTS = 2**23  # the most elements of an intermediate matrix held at once: 64 MiB in float64


def row_chunks(rows: Tensor, columns: int) -> tuple[Tensor, ...]:
    """Split `rows` so that a result with `columns` columns a row stays within `CHUNK_ELEMENTS`.

    An exported graph, whose rows are any number, has one piece.
    """
    if torch.compiler.is_exporting():
        return (rows,)
    return torch.split(rows, max(1, CHUNK_ELEMENTS // max(1, columns)))


def double(tensor: Tensor) -> Tensor:
    """The tensor in float64, where it is; on the CPU if its device has no float64 (Apple's GPUs)."""
    device = torch.device("cpu") if tensor.device.type == "mps" else tensor.device
    return tensor.to(device=device, dtype=torch.float64)


def cholesky(matrix: Tensor) -> Tensor:
    """Lower Cholesky factor of a symmetric positive definite float64 `[m, m]`; `matrix` is changed.

    The diagonal is raised by m · ε · trace, the size of the rounding errors; what is then not definite is
    refused.
    """
    diagonal = matrix.diagonal()
    diagonal += len(matrix) * torch.finfo(matrix.dtype).eps * diagonal.sum()
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed.any():
        raise HeadwordError("the penalty is too small for these pairs; raise it")
    return factor


def solve_positive(matrix: Tensor, right: Tensor) -> Tensor:
    """matrix⁻¹ right for a positive definite float64 `[m, m]` and `[m, d]`; `matrix` is changed."""
    return torch.cholesky_solve(right, cholesky(matrix))
