"""Numbers that are known at some clocks, and linear in the clock between them."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

__all__ = ["ClockTable"]


class ClockTable(nn.Module):
    """A function of the clock by its values at some; beyond the ends it is constant.

    Arguments:
        clock: Finite clocks that rise, `(n,)`.
        value: Values, `(n, *shape)`.

    Raises:
        ValueError: If the clocks do not rise or the shapes do not fit.

    Example:
        >>> table = ClockTable(torch.tensor([-1.0, 1.0]), torch.tensor([[0.0, 2.0], [1.0, 4.0]]))
        >>> table(torch.tensor([0.0, float("inf")])).tolist()
        [[0.5, 3.0], [1.0, 4.0]]
    """

    clock: Tensor
    value: Tensor

    def __init__(self, clock: Tensor, value: Tensor) -> None:
        super().__init__()
        if clock.ndim != 1 or value.shape[:1] != clock.shape or not len(clock):
            shapes = f"{tuple(clock.shape)} and {tuple(value.shape)}"
            msg = f"clock must be (n,) and value (n, *shape) with n at least 1, got {shapes}"
            raise ValueError(msg)
        if not bool(torch.isfinite(clock).all() & (clock.diff() > 0).all()):
            msg = "clock must be finite and rise: give times between clean data and pure noise"
            raise ValueError(msg)
        self.register_buffer("clock", clock.double())
        self.register_buffer("value", value.double())

    @final  # type: ignore[misc]  # nn.Module declares forward writable
    def forward(self, clock: Tensor) -> Tensor:
        """Clocks of any shape to values, `(*clock.shape, *shape)`, float64."""
        if len(self.clock) == 1:
            return self.value.expand(*clock.shape, *self.value.shape[1:])
        at = clock.double().clamp(self.clock[0], self.clock[-1])
        index = torch.searchsorted(self.clock, at.contiguous()).clamp(1, len(self.clock) - 1)
        low, high = self.clock[index - 1], self.clock[index]
        share = (at - low) / (high - low)
        missing = (1,) * (self.value.ndim - 1)
        return torch.lerp(
            self.value[index - 1], self.value[index], share.reshape((*share.shape, *missing))
        )
