r"""Powers of a manifold: several of its points as one.

A point of `power(M, k)` is k points of M, `(k, *point)`, with the sum of the metrics: squared
distances, logarithms of volumes, kernels and Jacobians and relative entropies add. All maps of M
take the copies as rows, so k costs no loop. What is made is as capable as M: `Compact` if M is,
`HeatKernel` if M is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from structdiff.random import Randomness
from structdiff.spaces.base import (
    Belonging,
    Compact,
    HeatKernel,
    Isometry,
    Manifold,
    check_points,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from structdiff.layout import Layout

__all__ = ["CompactPower", "Folded", "HeatPower", "Power", "power"]


def power(space: Manifold, copies: int) -> Power:
    """`copies` points of one manifold: points `(rows, copies, *point)`.

    Arguments:
        space: The manifold.
        copies: How many, at least 1.

    Raises:
        ValueError: If there is no copy.

    Example:
        >>> import torch
        >>> from structdiff.spaces import SO3
        >>> space = power(SO3(), 100)
        >>> space.point, space.tangent, space.dimension
        ((100, 3, 3), (100, 3), 300)
    """
    if isinstance(space, HeatKernel):
        return HeatPower(space, copies)
    return CompactPower(space, copies) if isinstance(space, Compact) else Power(space, copies)


class Power(Manifold):
    """Copies of one manifold; made by `power`.

    Arguments:
        space: The manifold.
        copies: How many, at least 1.

    Raises:
        ValueError: If there is no copy.
    """

    def __init__(self, space: Manifold, copies: int) -> None:
        if copies < 1:
            message = f"copies is {copies}, must be at least 1: give the number of points"
            raise ValueError(message)
        self.space, self.copies = space, copies
        self.point, self.tangent = (copies, *space.point), (copies, *space.tangent)
        self.dimension = copies * space.dimension
        self.injectivity = space.injectivity

    def apart(self, x: Tensor) -> Tensor:
        """Copies as rows."""
        return x.flatten(0, 1)

    def together(self, x: Tensor) -> Tensor:
        """Rows as copies."""
        return x.reshape(len(x) // self.copies, self.copies, *x.shape[1:])

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """In each copy."""
        return self.together(self.space.exp(self.apart(x), self.apart(v)))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """In each copy."""
        return self.together(self.space.log(self.apart(x), self.apart(y)))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """In each copy."""
        moved = self.space.transport(self.apart(x), self.apart(y), self.apart(v))
        return self.together(moved)

    def project(self, x: Tensor) -> Tensor:
        """In each copy."""
        return self.together(self.space.project(self.apart(x)))

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """In each copy."""
        return self.together(self.space.to_tangent(self.apart(x), self.apart(v)))

    def frame(self, x: Tensor) -> Tensor:
        """The frames of the copies, in blocks."""
        sizes = (self.copies, self.space.dimension, math.prod(self.space.tangent))
        blocks = self.space.frame(self.apart(x)).reshape(len(x), *sizes)
        each = torch.eye(self.copies, dtype=x.dtype, device=x.device)
        frame = torch.einsum("rcdt,ce->rcdet", blocks, each)
        return frame.reshape(len(x), self.dimension, *self.tangent)

    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """The sum over copies."""
        return self.together(self.space.log_jacobian(self.apart(x), self.apart(v))).sum(1)

    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """Of each copy."""
        return self.space.origin(dtype, device).expand(self.point).contiguous()

    def features(self, x: Tensor) -> Tensor:
        """Those of all copies."""
        return self.together(self.space.features(self.apart(x))).flatten(1)

    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """Whether all copies are; the reason names the copy."""
        check_points(self, x)
        found = self.space.belongs(self.apart(x), tolerance)
        inside = self.together(found.inside)
        if found.reason is None:
            return Belonging(inside.all(1), None)
        row, copy = (~inside).nonzero()[0].tolist()
        reason = f"copy {copy} of row {row}, where copies are counted as rows: {found.reason}"
        return Belonging(inside.all(1), reason)

    def isometry(
        self, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Isometry:
        """One isometry in all copies, which are then shuffled."""
        order = random.uniform((self.copies,), torch.float64, device).argsort()
        move = self.space.isometry(random, dtype, device)
        return lambda x: self.together(move(self.apart(x)))[:, order]


class CompactPower(Power, Compact):
    """Copies of a compact manifold; made by `power`.

    Arguments:
        space: The manifold.
        copies: How many, at least 1.

    Raises:
        ValueError: If there is no copy.
    """

    def __init__(self, space: Compact, copies: int) -> None:
        super().__init__(space, copies)
        self.compact = space

    def uniform(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent uniform points."""
        each = Folded(random, self.copies)
        return self.together(self.compact.uniform(rows * self.copies, each, dtype, device))

    @property
    def log_volume(self) -> float:
        """`copies` times that of one."""
        return self.copies * self.compact.log_volume


class HeatPower(CompactPower, HeatKernel):
    """Copies of a manifold with a heat kernel; made by `power`.

    Arguments:
        space: The manifold.
        copies: How many, at least 1.

    Raises:
        ValueError: If there is no copy.
    """

    def __init__(self, space: HeatKernel, copies: int) -> None:
        super().__init__(space, copies)
        self.kernel = space

    def _times(self, tau: Tensor) -> Tensor:
        """The time of each copy."""
        return tau.repeat_interleave(self.copies) if tau.ndim else tau

    def diffuse(self, x: Tensor, tau: Tensor, random: Randomness) -> Tensor:
        """Independent draws."""
        each = Folded(random, self.copies)
        return self.together(self.kernel.diffuse(self.apart(x), self._times(tau), each))

    def log_kernel(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """The sum over copies."""
        value = self.kernel.log_kernel(self.apart(x), self.apart(y), self._times(tau))
        return self.together(value).sum(1)

    def score(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """Those of the copies."""
        value = self.kernel.score(self.apart(x), self.apart(y), self._times(tau))
        return self.together(value)

    def entropy_gap(self, tau: Tensor) -> Tensor:
        """`copies` times that of one."""
        return self.copies * self.kernel.entropy_gap(tau)


class Folded(Randomness):
    """Draws for copies that are counted as rows, from a source that knows the rows alone.

    Arguments:
        source: The source.
        copies: How many copies a row has.
    """

    def __init__(self, source: Randomness, copies: int) -> None:
        self.source, self.copies = source, copies

    def _shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (shape[0] // self.copies, self.copies, *shape[1:])

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent standard normal numbers."""
        return self.source.normal(self._shape(shape), dtype, device).flatten(0, 1)

    def uniform(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent numbers, uniform in [0, 1)."""
        return self.source.uniform(self._shape(shape), dtype, device).flatten(0, 1)

    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Folded:
        """The source at that address."""
        source = self.source.scoped(leaf=leaf, step=step, ids=ids, layout=layout)
        return Folded(source, self.copies)

    def state(self) -> Tensor:
        """That of the source."""
        return self.source.state()

    def restore(self, state: Tensor) -> None:
        """Restore the source."""
        self.source.restore(state)
