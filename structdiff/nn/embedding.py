"""Features of a clock."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from structdiff.layout import Layout

__all__ = ["ClockEmbedding", "per_row"]


def per_row(value: Tensor, layout: Layout) -> Tensor:
    """A clock `()` or `(rows,)` as `(rows,)`."""
    return value.expand(layout.rows) if value.ndim == 0 else value


class ClockEmbedding(nn.Module):
    """Sines and cosines of a clock at geometric frequencies.

    Arguments:
        features: Number of features, even.
        lowest: Lowest angular frequency per unit of the clock.
        highest: Highest.

    Raises:
        ValueError: If `features` is odd or below 2.

    Example:
        >>> ClockEmbedding(4)(torch.zeros(2)).tolist()
        [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """

    frequency: Tensor

    def __init__(self, features: int = 32, *, lowest: float = 0.25, highest: float = 8.0) -> None:
        super().__init__()
        if features < 2 or features % 2:
            msg = f"features must be even and at least 2, got {features}"
            raise ValueError(msg)
        steps = torch.linspace(math.log(lowest), math.log(highest), features // 2)
        self.register_buffer("frequency", steps.exp(), persistent=False)

    def forward(self, clock: Tensor) -> Tensor:
        """`(rows,)` to `(rows, features)`."""
        phase = clock.unsqueeze(-1) * self.frequency.to(clock.dtype)
        return torch.cat([phase.sin(), phase.cos()], -1)
