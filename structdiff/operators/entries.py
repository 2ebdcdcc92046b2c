"""Operators on the entries themselves: some of them, or means of blocks of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from structdiff.operators.base import Factored

__all__ = ["Downsample", "Mask"]


class Mask(Factored):
    """Some entries of a row, in a line.

    Arguments:
        keep: Which ones, `(*event)`, bool, at least one.

    Raises:
        ValueError: If it is not bool or keeps nothing.

    Example:
        >>> mask = Mask(torch.tensor([True, False, True]))
        >>> mask(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[1., 3.]])
    """

    keep: Tensor
    places: Tensor

    def __init__(self, keep: Tensor) -> None:
        if keep.dtype != torch.bool or not bool(keep.any()):
            has = f"got {keep.dtype} with {int(keep.bool().sum())} kept"
            msg = f"keep must be a bool mask of at least one entry, {has}"
            raise ValueError(msg)
        super().__init__(keep.shape, (int(keep.sum()),))
        self.register_buffer("keep", keep)
        self.register_buffer("places", keep.flatten().nonzero().squeeze(1))

    @property
    def singular(self) -> Tensor:
        """1 where it is seen."""
        return self.keep.to(torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """The kept entries."""
        return x.flatten(1).index_select(1, self.places)

    def adjoint(self, y: Tensor) -> Tensor:
        """Them in their places, and zeros."""
        flat = y.new_zeros(len(y), math.prod(self.event)).index_copy(1, self.places, y)
        return flat.reshape(len(y), *self.event)

    def analysis(self, x: Tensor) -> Tensor:
        """The entries are the coefficients."""
        return x

    def synthesis(self, c: Tensor) -> Tensor:
        """The coefficients are the entries."""
        return c


def reflection(size: int) -> Tensor:
    """A symmetric orthonormal matrix whose first row is constant, `(size, size)`."""
    normal = -torch.full((size,), size**-0.5, dtype=torch.float64)
    normal[0] += 1
    length = normal.square().sum()
    safe = torch.where(length > 0, length, 1.0)
    return torch.eye(size, dtype=torch.float64) - 2 * torch.outer(normal, normal) / safe


class Downsample(Factored):
    """Means of blocks: `factor` neighbours along each of the last axes become one.

    Arguments:
        event: Shape of a row.
        factor: Side of a block, at least 1.
        axes: How many of the last axes have blocks; all by default.

    Raises:
        ValueError: If a side is no multiple of the factor, or a number is out of range.

    Example:
        >>> Downsample((4,), 2)(torch.tensor([[1.0, 3.0, 5.0, 9.0]]))
        tensor([[2., 7.]])
    """

    basis: Tensor

    def __init__(self, event: Sequence[int], factor: int, axes: int | None = None) -> None:
        axes = len(event) if axes is None else axes
        if factor < 1 or not 1 <= axes <= len(event):
            msg = f"factor must be at least 1 and axes in [1, {len(event)}], got {factor}, {axes}"
            raise ValueError(msg)
        lead, sides = tuple(event[: len(event) - axes]), tuple(event[len(event) - axes :])
        if any(side % factor for side in sides):
            msg = f"event {tuple(event)} must have sides that are multiples of factor {factor}"
            raise ValueError(msg)
        self.lead, self.factor = lead, factor
        self.small = tuple(side // factor for side in sides)
        super().__init__(event, lead + self.small)
        self.register_buffer("basis", reflection(factor**axes))

    @property
    def singular(self) -> Tensor:
        """Of a block of n entries 1 / sqrt(n) for its mean, 0 for the rest."""
        size = len(self.basis)
        first = torch.zeros(size, dtype=torch.float64, device=self.basis.device)
        first[0] = size**-0.5
        return first.expand(*self.measured, size)

    def blocks(self, x: Tensor) -> Tensor:
        """`(rows, *measured, entries of a block)`."""
        axes, lead = len(self.small), 1 + len(self.lead)
        split = [number for side in self.small for number in (side, self.factor)]
        cut = x.reshape(len(x), *self.lead, *split)
        order = [*range(lead), *range(lead, lead + 2 * axes, 2)]
        inside = range(lead + 1, lead + 2 * axes, 2)
        return cut.permute(*order, *inside).flatten(lead + axes)

    def joined(self, blocks: Tensor) -> Tensor:
        """The inverse of `blocks`."""
        axes, lead = len(self.small), 1 + len(self.lead)
        cut = blocks.reshape(*blocks.shape[:-1], *(self.factor,) * axes)
        pairs = [axis for i in range(axes) for axis in (lead + i, lead + axes + i)]
        return cut.permute(*range(lead), *pairs).reshape(len(blocks), *self.event)

    def forward(self, x: Tensor) -> Tensor:
        """Means of the blocks."""
        return self.blocks(x).mean(-1)

    def adjoint(self, y: Tensor) -> Tensor:
        """Each mean over its block, divided by its size."""
        size = len(self.basis)
        return self.joined((y / size).unsqueeze(-1).expand(*y.shape, size))

    def analysis(self, x: Tensor) -> Tensor:
        """The block's mean, scaled, beside a basis of what the mean does not see."""
        return self.blocks(x) @ self.basis.to(x)

    def synthesis(self, c: Tensor) -> Tensor:
        """The basis is its own inverse."""
        return self.joined(c @ self.basis.to(c))
