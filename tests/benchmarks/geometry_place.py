"""A delicate place of geometry: a space, a curve y(t) in it, and slopes along t by autograd.

Truth is a closed form, or mpmath with 50 digits; what a library is asked gives a `Cell`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from geometry_libraries import Library
from torch import Tensor

from structdiff.spaces.base import Manifold

Cell = tuple[float, float, float]
"""What came out, the truth, the tolerance."""

WIDE, NARROW = 1e-6, 1e-3
PLAIN = "no gradient"


@dataclass(frozen=True)
class Place:
    """A space and a curve in it.

    Arguments:
        curve: y(t) for `t` of shape `(1,)`.
        native: Ours; its origin is the curve's start.
        apart: Two points 1e-6 apart, and how far they are.
        libraries: By name.
        extra: Further cases, by name.
    """

    curve: Callable[[Tensor], Tensor]
    native: Manifold
    apart: Callable[[], tuple[Tensor, Tensor]]
    libraries: dict[str, Library]
    extra: dict[str, Callable[[Library], Cell | str]]


def number(t: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """`(1,)`, with a gradient."""
    return torch.tensor([t], dtype=dtype, requires_grad=True)


def slope(value: Tensor, t: Tensor) -> Tensor:
    """The derivative, to be derived again."""
    if not value.requires_grad:
        raise RuntimeError(PLAIN)
    found = torch.autograd.grad(value.sum(), t, create_graph=True, allow_unused=True)[0]
    # A constant (of a curve that is linear in an entry) has no graph.
    return 0 * t if found is None else found + 0 * t
