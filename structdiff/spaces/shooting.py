r"""The differential of a map exp by automatic differentiation, and log from it by shooting.

To find w with exp(x, w) = y, let J be the matrix of d exp_x at w in orthonormal frames at both
ends, and r the coordinates of y - exp(x, w), projected to the tangent space there. A step of
Newton's method is

    w <- w + J^{-1} r .                                                                        (1)

At the solution one more step has the derivatives of log by x and y, whatever found the solution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from structdiff.spaces.orthonormal import Orthonormal

__all__ = ["differential", "newton"]

Exp = Callable[[Tensor, Tensor], Tensor]
"""Of points and coordinates of tangent vectors."""


def newton(exp: Exp, orthonormal: Orthonormal, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """One step towards exp(x, w) = y; its derivatives are those of the solution (equation 1)."""
    w = orthonormal.project(x, w)
    end, jacobian = differential(exp, orthonormal, x, w, graph=False)
    off = orthonormal.coordinates(end, orthonormal.tangent(end, y - end)).flatten(1)
    rest = orthonormal.frame(end).flatten(2) @ off[..., None]
    # Where exp has no derivative (Stiefel at w = 0) it is near the identity.
    unit = torch.eye(orthonormal.dimension, dtype=x.dtype)
    jacobian = torch.where(jacobian.isfinite().all(-1).all(-1)[:, None, None], jacobian, unit)
    step: Tensor = torch.linalg.solve(jacobian, rest)
    return w + (orthonormal.frame(x).flatten(2).mT @ step).reshape(w.shape)


def differential(
    exp: Exp, orthonormal: Orthonormal, x: Tensor, w: Tensor, *, graph: bool
) -> tuple[Tensor, Tensor]:
    """exp(x, w), and the matrix of d exp_x at w in the frames at both ends."""
    outside = torch.is_grad_enabled()
    with torch.enable_grad():
        arrow = w if graph and w.requires_grad else w.detach().requires_grad_()
        end = exp(x if graph else x.detach(), arrow)
        axes = orthonormal.lowered(end, orthonormal.frame(end)).unbind(1)
        rows = [
            torch.autograd.grad(end, arrow, axis, retain_graph=True, create_graph=graph)[0]
            for axis in axes
        ]
    columns = orthonormal.frame(x if graph else x.detach()).flatten(2)
    jacobian = torch.stack(rows, 1).flatten(2) @ columns.mT
    if graph:
        return end, jacobian
    return (exp(x, w) if outside else end.detach()), jacobian.detach()
