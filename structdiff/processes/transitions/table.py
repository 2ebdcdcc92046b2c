"""A kernel that all rows share, as a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from structdiff.processes.draws import draw_class
from structdiff.processes.transitions.base import Kernel
from structdiff.processes.transitions.generated import safe_log

__all__ = ["Table", "weigh"]


class Table(Kernel):
    """A matrix of probabilities.

    Arguments:
        matrix: Q(j, i), `(S, S)`, float64.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.log = safe_log(matrix)

    def draw(self, x_s: Tensor, uniform: Tensor) -> Tensor:
        """By inverse CDF of the row of x_s."""
        return draw_class(self.log[x_s], uniform)

    def log_prob(self, x_t: Tensor, x_s: Tensor) -> Tensor:
        """An entry."""
        return self.log[x_s, x_t]

    def column(self, x_t: Tensor) -> Tensor:
        """A column."""
        return self.log.T[x_t]

    def push(self, log_law: Tensor) -> Tensor:
        """A product with the matrix."""
        y, scale = weigh(log_law)
        return safe_log(y @ self.matrix) + scale


def weigh(log_law: Tensor) -> tuple[Tensor, Tensor]:
    """A law of any mass as float64 numbers of at most 1, and the log of their unit."""
    wide = log_law.double()
    scale = wide.detach().amax(-1, keepdim=True)
    scale = torch.where(scale == -torch.inf, 0.0, scale)
    return torch.exp(wide - scale), scale
