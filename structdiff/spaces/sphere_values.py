r"""Values of exp and log on the unit sphere, where no derivative is asked for.

The formulas of `structdiff.spaces.sphere` in few operations. With c = <x, y> and s = sign c, the
vector u = y - c x is (y - s x) + s |y - s x|^2 / 2 x, which keeps its digits near x and near -x.
With q = |y - s x|^2 its length is the root of q (1 - q / 4), and theta = atan2(|u|, c).

A Python number costs a tensor in a product, but not as the `alpha` or `value` of a sum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm

from structdiff.spaces.turns import across

__all__ = ["exp", "log"]

_TINY = 1e-30
_SHORT = 4

Parts = tuple[Tensor, ...]


def exp(x: Tensor, v: Tensor) -> Tensor:
    """The point cos(r) x + sin(r) / r v."""
    r = vector_norm(v, dim=1, keepdim=True).clamp_(min=_TINY)
    return (x * torch.cos(r)).addcmul_(torch.sin(r).div_(r), v)


def log(x: Tensor, y: Tensor) -> Tensor:
    """The vector theta / sin(theta) u; at -x, up to rounding, pi times the first of `frame(x)`."""
    start, end = _split(x), _split(y)
    cosine = _dot(start, end)
    side, one = cosine.sign(), torch.ones_like(cosine)
    u = [torch.addcmul(q, side, p, value=-1) for p, q in zip(start, end, strict=True)]
    square = _dot(u, u)
    opposite = torch.add(square, side, alpha=16 * torch.finfo(x.dtype).eps ** 2)
    twice_lost = one - one.copysign(opposite)
    sine = torch.add(one, square, alpha=-0.25).mul_(square).sqrt_()
    angle = torch.atan2(sine, cosine)
    factor = angle.div_(sine.add_(twice_lost, alpha=0.5).add_(one, alpha=_TINY))
    lift = side.mul_(square).sub_(_aside(u, start, one, twice_lost))
    return _join(
        [q.addcmul_(lift, p, value=0.5).mul_(factor) for p, q in zip(start, u, strict=True)]
    )


def _aside(u: list[Tensor], x: Parts, one: Tensor, twice_lost: Tensor) -> Tensor:
    """Add to `u`, where it is lost, the first vector of `frame(x)` but for a multiple of `x`.

    Returns:
        Twice the multiple, which is to be taken away.
    """
    first, second = x[:2] if len(x) > 1 else (x[0][:, :1], x[0][:, 1:2])
    sign = one.copysign(torch.add(first, one, alpha=0))
    share = second.div(sign + first).mul_(twice_lost)
    left, right = u[:2] if len(x) > 1 else (u[0][:, :1], u[0][:, 1:2])
    left.sub_(share, alpha=0.5)
    right.add_(twice_lost, alpha=0.5)
    return share.mul_(sign)


# A list of vectors over rows, or of one matrix where they are many.


def _split(x: Tensor) -> Parts:
    return x.unbind(1) if x.shape[1] <= _SHORT else (x,)


def _join(parts: list[Tensor]) -> Tensor:
    return across(torch.stack(parts)) if len(parts) > 1 else parts[0]


def _dot(a: Parts | list[Tensor], b: Parts | list[Tensor]) -> Tensor:
    if len(a) == 1:
        return (a[0] * b[0]).sum(1, keepdim=True)
    total = a[0] * b[0]
    for p, q in zip(a[1:], b[1:], strict=True):
        total.addcmul_(p, q)
    return total
