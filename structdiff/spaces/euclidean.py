r"""Flat space R^n as a manifold.

A point and a tangent vector are tensors of one shape. exp is addition, log subtraction; the
volume is Lebesgue's. Gaussian noise on flat space is the business of the process `Gaussian`; here
it is a factor of products such as SE(3), and what flows walk on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from structdiff.spaces.base import Belonging, Framed, Isometry, check_points, judge

if TYPE_CHECKING:
    from torch import Tensor

    from structdiff.random import Randomness

__all__ = ["Euclidean"]


class Euclidean(Framed):
    """Tensors of a shape.

    Arguments:
        event: The shape; none is a number.

    Raises:
        ValueError: If a size is not positive.

    Example:
        >>> import torch
        >>> space = Euclidean(2)
        >>> space.distance(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        tensor([5.])
    """

    injectivity = math.inf

    def __init__(self, *event: int) -> None:
        if any(size < 1 for size in event):
            msg = f"sizes must be positive, got {event}: Euclidean(3) is R^3"
            raise ValueError(msg)
        self.point = self.tangent = tuple(event)
        self.dimension = math.prod(event)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """x + v."""
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """y - x."""
        return y - x

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """`v` itself."""
        del x, y
        return v

    def project(self, x: Tensor) -> Tensor:
        """`x` itself."""
        return x

    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """Zero."""
        del x
        return v.new_zeros(len(v))

    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """Zero."""
        return torch.zeros(self.point, dtype=dtype, device=device)

    def features(self, x: Tensor) -> Tensor:
        """The numbers."""
        return x.reshape(len(x), self.dimension)

    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """All finite tensors are points."""
        check_points(self, x)
        off = (
            torch.where(torch.isfinite(x), 0.0, torch.inf).reshape(len(x), self.dimension).amax(1)
        )
        return judge(off, tolerance, "numbers that are not finite: off by", "leave the row out")

    def isometry(
        self, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Isometry:
        """A random orthogonal map and a shift."""
        turn = torch.linalg.qr(random.normal((self.dimension,) * 2, dtype, device))[0]
        shift = random.normal((1, self.dimension), dtype, device)
        return lambda x: (x.reshape(len(x), self.dimension) @ turn.T + shift).reshape(x.shape)
