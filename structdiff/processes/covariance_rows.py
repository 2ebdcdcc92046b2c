r"""Covariances of the rows of a sample, such as the frames of a video: shared and AR(1) noise.

`Shared` gives the rows a common part, `Autoregressive` makes a chain of them. Both take samples
of any number of rows, packed one after the other, in vector operations over all rows; `Frames`
makes them act on the frames along an axis of a row.

References:
    Preserve Your Own Correlation: A Noise Prior for Video Diffusion Models (Ge et al., 2023),
    section 4.1: mixed and progressive noise. https://arxiv.org/abs/2305.10474
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.processes.covariance import Factor, axis_of, axis_size, given_mask

__all__ = ["Autoregressive", "Frames", "Shared"]


def _free(batch: Batch) -> Tensor | None:
    """Rows that are not given, `(rows,)`; None where all are free."""
    mask = given_mask(batch)
    return None if mask is None else ~mask


def _sizes(layout: Layout) -> Tensor:
    """Rows of each sample, in a way that does not wait for the device."""
    return layout.sum(torch.ones_like(layout.sample))


def _wide(by_row: Tensor, x: Tensor) -> Tensor:
    """A number for each row, to broadcast against x."""
    return by_row.to(x.dtype if by_row.is_floating_point() else by_row.dtype).reshape(
        -1, *(1,) * (x.ndim - 1)
    )


class Shared(Factor):
    r"""Rows of a sample with one correlation: part of their noise is common to all.

    epsilon_i = sqrt(rho) epsilon + sqrt(1 - rho) epsilon_i'. With J / n the mean over the n rows,
    the symmetric root is A = sqrt(1 - rho) (I - J / n) + sqrt(1 - rho + rho n) J / n.

    Arguments:
        correlation: rho, in [0, 1).

    Raises:
        ValueError: If the correlation is out of range.

    Example:
        >>> round(Shared.mixed(2.0).correlation, 6)
        0.8
    """

    mixes_rows = True
    layout: Layout
    free: Tensor | None
    count: Tensor

    def __init__(self, correlation: float) -> None:
        super().__init__()
        if not 0 <= correlation < 1:
            msg = f"correlation must be in [0, 1), got {correlation}"
            raise ValueError(msg)
        self.correlation = correlation

    @classmethod
    def mixed(cls, ratio: float) -> Shared:
        """The correlation a^2 / (1 + a^2), where a is the ratio of common to own deviations."""
        return cls(ratio**2 / (1 + ratio**2))

    def bind(self, batch: Batch) -> Self:
        """Count the free rows of each sample."""
        self.refuse_entries(batch)
        (layout,), free = batch.layouts.values(), _free(batch)
        count = _sizes(layout).double() if free is None else layout.sum(free.double())
        return self.bound(layout=layout, free=free, count=count)

    @property
    def _own(self) -> float:
        return math.sqrt(1 - self.correlation)

    def _common(self) -> Tensor:
        """Scale of the mean, `(samples,)`, float64."""
        return torch.sqrt(1 - self.correlation + self.correlation * self.count)

    def _mixed(self, x: Tensor, own: float, common: Tensor) -> Tensor:
        """Own times x and, in the mean over free rows, common instead."""
        counted = x if self.free is None else torch.where(_wide(self.free, x), x, 0.0)
        mean = self.layout.sum(counted) / _wide(self.count.clamp(min=1), x)
        moved = own * x + self.layout.spread(_wide(common - own, x) * mean)
        return moved if self.free is None else torch.where(_wide(self.free, x), moved, x)

    def multiply(self, u: Tensor) -> Tensor:
        """A u."""
        return self._mixed(u, self._own, self._common())

    def solve(self, x: Tensor) -> Tensor:
        """A^{-1} x."""
        return self._mixed(x, 1 / self._own, 1 / self._common())

    def multiply_transpose(self, x: Tensor) -> Tensor:
        """A x: it is symmetric."""
        return self.multiply(x)

    def solve_transpose(self, u: Tensor) -> Tensor:
        """A^{-1} u: it is symmetric."""
        return self.solve(u)

    def log_det(self, x: Tensor) -> Tensor:
        """The mean over the free rows of a sample."""
        own = math.log(self._own)
        share = own + (self._common().log() - own) / self.count.clamp(min=1)
        by_row = self.layout.spread(share)
        return _wide(by_row if self.free is None else torch.where(self.free, by_row, 0.0), x)


class Autoregressive(Factor):
    r"""Rows of a sample as a stationary chain: epsilon_i = rho epsilon_{i-1} + fresh noise.

    The correlation of rows i and j is rho^|i - j|. The inverse looks at one row before; the
    chain itself is summed by doubling, in log2(rows) vector operations. Given rows are gaps.

    Arguments:
        correlation: rho, in (-1, 1).

    Raises:
        ValueError: If the correlation is out of range.

    Example:
        >>> batch = Batch({"x": torch.zeros(3)}, {"x": Layout.ragged([3])})
        >>> Autoregressive(0.6).bind(batch).multiply(torch.tensor([1.0, 0.0, 1.0]))
        tensor([1.0000, 0.6000, 1.1600])
    """

    mixes_rows = True
    longest: int
    earlier: Tensor
    later: Tensor
    free: Tensor
    before: Tensor
    pull: Tensor
    fresh: Tensor

    def __init__(self, correlation: float) -> None:
        super().__init__()
        if not -1 < correlation < 1:
            msg = f"correlation must be in (-1, 1), got {correlation}"
            raise ValueError(msg)
        self.correlation = correlation

    def bind(self, batch: Batch) -> Self:
        """Find the free row before each free row: rho^gap of it is carried on."""
        self.refuse_entries(batch)
        (layout,), free = batch.layouts.values(), _free(batch)
        size = _sizes(layout)
        start = layout.spread(size.cumsum(0) - size)
        place = torch.arange(layout.rows, device=batch.device)
        free = torch.ones_like(place, dtype=torch.bool) if free is None else free
        last = torch.cummax(torch.where(free, place, -1), 0).values if layout.rows else place
        before = torch.cat([last.new_full((min(1, layout.rows),), -1), last[:-1]])
        follows = free & (before >= start)
        before = torch.where(follows, before, place)
        pull = torch.where(follows, self.correlation ** (place - before).double(), 0.0)
        return self.bound(
            longest=max(layout.counts, default=0),
            earlier=place - start,
            later=start + layout.spread(size) - 1 - place,
            free=free,
            before=before,
            pull=pull,
            fresh=torch.sqrt(1 - pull**2),
        )

    def _summed(self, x: Tensor, direction: int) -> Tensor:
        """y_i = x_i + rho y_{i - direction}, within each sample."""
        others = self.earlier if direction > 0 else self.later
        place = torch.arange(len(x), device=x.device)
        reach = 1
        while reach < self.longest:
            inside = others >= reach
            weight = self.correlation**reach * inside.to(x.dtype)
            x = x + _wide(weight, x) * x[torch.where(inside, place - direction * reach, place)]
            reach *= 2
        return x

    def multiply(self, u: Tensor) -> Tensor:
        """The chain of fresh noise u."""
        free = _wide(self.free, u)
        return torch.where(free, self._summed(free * _wide(self.fresh, u) * u, 1), u)

    def solve(self, x: Tensor) -> Tensor:
        """The fresh noise of each row."""
        return (x - _wide(self.pull, x) * x[self.before]) / _wide(self.fresh, x)

    def multiply_transpose(self, x: Tensor) -> Tensor:
        """The chain backwards, then weighed."""
        free = _wide(self.free, x)
        return torch.where(free, _wide(self.fresh, x) * self._summed(free * x, -1), x)

    def solve_transpose(self, u: Tensor) -> Tensor:
        """What each row is to itself and to the one after it."""
        own = u / _wide(self.fresh, u)
        return own.index_add(0, self.before, -_wide(self.pull, u) * own)

    def log_det(self, x: Tensor) -> Tensor:
        """Log of the deviation of the fresh noise."""
        return _wide(self.fresh.log(), x)


class Frames(Factor):
    """A covariance of the rows of a sample as one of the entries along an axis of a row.

    Arguments:
        factor: The covariance of frames, one that mixes rows.
        axis: The axis of frames.

    Example:
        >>> factor = Frames(Autoregressive(0.6), 0).bind(Batch.of(torch.zeros(1, 2, 2)))
        >>> factor.multiply(torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]))
        tensor([[[1.0000, 2.0000],
                 [0.6000, 1.2000]]])
    """

    mixes_entries = True

    def __init__(self, factor: Factor, axis: int = 0) -> None:
        super().__init__()
        self.factor, self.axis = factor, axis

    def check(self, event: Sequence[int]) -> None:
        """Refuse an event without the axis."""
        axis_size(event, self.axis)

    def bind(self, batch: Batch) -> Self:
        """Bind the factor to the frames of all rows."""
        ((name, x),), mask = batch.leaves.items(), given_mask(batch)
        frames = x.shape[1:][self.axis]
        given = {}
        if mask is not None:
            wide = mask.repeat_interleave(frames) if mask.ndim == 1 else self._fold(mask)
            given[name] = wide
        sample = torch.arange(len(x), device=x.device).repeat_interleave(frames)
        layout = Layout((frames,) * len(x), sample)
        folded = Batch({name: self._fold(x)}, {name: layout}, given=given)
        return self.bound(factor=self.factor.bind(folded))

    def _fold(self, x: Tensor) -> Tensor:
        return x.movedim(axis_of(x, self.axis), 1).flatten(0, 1)

    def _unfold(self, folded: Tensor, x: Tensor) -> Tensor:
        place = axis_of(x, self.axis)
        return folded.reshape(x.movedim(place, 1).shape).movedim(1, place)

    def multiply(self, u: Tensor) -> Tensor:
        """A u."""
        return self._unfold(self.factor.multiply(self._fold(u)), u)

    def solve(self, x: Tensor) -> Tensor:
        """A^{-1} x."""
        return self._unfold(self.factor.solve(self._fold(x)), x)

    def multiply_transpose(self, x: Tensor) -> Tensor:
        """A^T x."""
        return self._unfold(self.factor.multiply_transpose(self._fold(x)), x)

    def solve_transpose(self, u: Tensor) -> Tensor:
        """A^{-T} u."""
        return self._unfold(self.factor.solve_transpose(self._fold(u)), u)

    def log_det(self, x: Tensor) -> Tensor:
        """That of the frames."""
        folded = self._fold(x)
        return self._unfold(self.factor.log_det(folded).expand_as(folded), x)
