"""Packed rows of samples as a dense tensor, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from structdiff.layout import Layout

__all__ = ["Padding"]


@dataclass(frozen=True)
class Padding:
    """Packed rows as a dense tensor, and back.

    Arguments:
        samples: Number of samples.
        length: Rows of the longest sample.
        place: Row in the dense tensor of each packed one, `(rows,)`; None where it is a view.
        real: Which dense rows are no padding, `(samples, length)`; None where all are.
    """

    samples: int
    length: int
    place: Tensor | None
    real: Tensor | None

    @classmethod
    def of(cls, layout: Layout) -> Padding:
        """From the counts of a layout, which are Python ints: no device is read."""
        samples, length = layout.samples, max(layout.counts, default=0)
        if samples * length == layout.rows:
            return cls(samples, length, None, None)
        device = layout.sample.device
        size = torch.tensor(layout.counts, device=device)
        row = torch.arange(layout.rows, device=device) - (size.cumsum(0) - size)[layout.sample]
        real = torch.arange(length, device=device) < size.unsqueeze(1)
        return cls(samples, length, layout.sample * length + row, real)

    def dense(self, x: Tensor) -> Tensor:
        """`(rows, width)` to `(samples, length, width)`, zero where it is padding."""
        shape = (self.samples, self.length, x.shape[1])
        if self.place is None:
            return x.view(shape)
        zeros = x.new_zeros(self.samples * self.length, x.shape[1])
        return zeros.index_copy(0, self.place, x).view(shape)

    def packed(self, x: Tensor) -> Tensor:
        """`(samples, length, width)` to `(rows, width)`."""
        flat = x.reshape(-1, x.shape[2])
        return flat if self.place is None else flat.index_select(0, self.place)
