"""Isometries of an embedded space that are rotations of the space around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from structdiff.random import Generator

if TYPE_CHECKING:
    from structdiff.spaces.orthonormal import Orthonormal

__all__ = ["Action", "find", "rotation"]

Action = Callable[[Tensor, Tensor], Tensor]
"""A rotation and points, `(rows, *point)`, to points; linear in them."""

_EXACT = 1e-9


def rotation(x: Tensor) -> Tensor:
    """A rotation made of a matrix: with normal entries, any, in float64 on the CPU."""
    turn = torch.linalg.qr(x.to("cpu", torch.float64))[0]
    return torch.cat([turn[:, :1] * torch.linalg.det(turn).sign(), turn[:, 1:]], 1)


def find(
    orthonormal: Orthonormal, belong: Callable[[Tensor], bool], x: Tensor
) -> tuple[Action, int] | None:
    """The first action that keeps points, tangent vectors and their inner products.

    Tried on the points `x` and two tangent vectors at each: multiplication from the left,
    conjugation, multiplication from the right.

    Arguments:
        orthonormal: The metric.
        belong: Whether all rows are points.
        x: Some points.

    Returns:
        It and the size of its rotations; None where no action does.
    """
    shape, tangent, product = x.shape[1:], orthonormal.tangent, orthonormal.metric.inner_product
    v, w = (tangent(x, Generator(i).normal(x.shape, x.dtype, "cpu")) for i in (2, 3))
    actions = [(_left, shape[0]), (_right, shape[-1])]
    if len(shape) == 2 and shape[0] == shape[1]:
        actions.insert(1, (_conjugate, shape[0]))
    for action, side in actions:
        turn = rotation(Generator(4).normal((side, side), x.dtype, "cpu"))
        y, a, b = action(turn, x), action(turn, v), action(turn, w)
        if belong(y):
            gap = (product(a, b, y) - product(v, w, x)).abs().amax()
            if float(torch.maximum(gap, (tangent(y, a) - a).abs().amax())) < _EXACT:
                return action, side
    return None


def _left(turn: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("ij,rj...->ri...", turn, x)


def _right(turn: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("r...i,ij->r...j", x, turn)


def _conjugate(turn: Tensor, x: Tensor) -> Tensor:
    return turn @ x @ turn.mT
