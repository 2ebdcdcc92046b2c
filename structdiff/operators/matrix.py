"""A linear operator as a matrix, with its singular values by decomposition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from structdiff.operators.base import Factored, LinearOperator, rounded

__all__ = ["Matrix"]


class Matrix(Factored):
    """H as a matrix; for rows of up to some thousand entries.

    Arguments:
        matrix: `(measured, entries)`, with the entries of a row in a line.
        event: Shape of a row; `(entries,)` by default.

    Raises:
        ValueError: If it is not a matrix of finite numbers, or does not fit the event.

    Example:
        >>> matrix = Matrix(torch.tensor([[3.0, 4.0]]))
        >>> matrix.pinv(torch.tensor([[25.0]]))
        tensor([[3., 4.]])
    """

    matrix: Tensor
    basis: Tensor
    scales: Tensor

    def __init__(self, matrix: Tensor, event: Sequence[int] | None = None) -> None:
        if matrix.ndim != 2 or not bool(torch.isfinite(matrix).all()):
            msg = f"matrix must be finite, (measured, entries), got {tuple(matrix.shape)}"
            raise ValueError(msg)
        shape = matrix.shape[1:] if event is None else event
        if math.prod(shape) != matrix.shape[1]:
            msg = f"matrix has {matrix.shape[1]} columns, but event {tuple(shape)} other entries"
            raise ValueError(msg)
        super().__init__(shape, matrix.shape[:1])
        _, found, vectors = torch.linalg.svd(matrix.double(), full_matrices=True)
        scales = found.new_zeros(matrix.shape[1])
        scales[: len(found)] = rounded(found)
        self.register_buffer("matrix", matrix.double())
        self.register_buffer("basis", vectors.mT.contiguous())
        self.register_buffer("scales", scales)

    @classmethod
    def of(cls, operator: LinearOperator) -> Matrix:
        """Any linear operator, by its values on the entries one at a time."""
        entries = math.prod(operator.event)
        device = next((b.device for b in operator.buffers()), torch.device("cpu"))
        one = torch.eye(entries, dtype=torch.float64, device=device)
        columns = operator(one.reshape(entries, *operator.event)).reshape(entries, -1)
        return cls(columns.mT, operator.event)

    @property
    def singular(self) -> Tensor:
        """By decomposition; 0 for entries beyond the rank."""
        return self.scales

    def forward(self, x: Tensor) -> Tensor:
        """H x."""
        return x.flatten(1) @ self.matrix.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        """H^T y."""
        return (y @ self.matrix.to(y)).reshape(len(y), *self.event)

    def analysis(self, x: Tensor) -> Tensor:
        """V^T x."""
        return x.flatten(1) @ self.basis.to(x)

    def synthesis(self, c: Tensor) -> Tensor:
        """V c."""
        return (c @ self.basis.to(c).mT).reshape(len(c), *self.event)
