r"""Density estimates that hold the training points: what a network is to be compared with.

    p(x) = (1 - f) sum_b w_b 1/N sum_i k(x_i, x, s_b^2) + f / volume,

with the heat kernel k, bandwidths s_b and a uniform floor f of 1 %, without which one test point
far from all others decides. With one bandwidth, that is fitted to validation points; with
several, their weights are, by expectation maximisation, which has one maximum.

On a sphere the kernel depends on the angle alone, on a torus it is a product over angles. So

    log k(a, tau) = -a^2 / (2 tau) + c(a, tau)

takes one table of c, which is smooth, for each tau.

References:
    Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster, Laird and Rubin, 1977).
    Kernel density estimation with spherical data (Hall, Watson and Cabrera, 1987).
    https://doi.org/10.1093/biomet/74.4.751
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from structdiff.spaces import HeatKernel, Manifold, Torus
from structdiff.spaces.sphere import Sphere

__all__ = ["BANDWIDTHS", "FLOOR", "KernelDensity", "fit_bandwidth", "fit_mixture", "kernels_of"]

FLOOR = 0.01
"""Weight of the uniform law."""
BANDWIDTHS = tuple(5e-4 * 1000 ** (i / 10) for i in range(11))
"""Of the mixture: evenly spread in the logarithm, 0.0005 to 0.5 rad."""

_NODES = 4096
_TOGETHER = 1 << 16  # pairs of points
_ROUNDS = 500
_GOLDEN = (math.sqrt(5) - 1) / 2

Kernels = Callable[[Tensor, Tensor], Tensor]
"""Points `(n, *point)` and `(m, *point)` to log k of all pairs, `(n, m, bandwidths)`."""


def kernels_of(space: Manifold, bandwidths: Sequence[float]) -> Kernels:
    """The logarithm of the heat kernel of all pairs of points, for several bandwidths.

    Arguments:
        space: A sphere of dimension 2 or more, or a torus.
        bandwidths: sqrt(tau), in radians.

    Raises:
        ValueError: If the space is another one, or a bandwidth is not positive.
    """
    if not bandwidths or not min(bandwidths) > 0:
        msg = f"bandwidths must be positive, at least one, got {bandwidths}"
        raise ValueError(msg)
    if isinstance(space, Torus):
        return _angles(_Table(Torus(1), bandwidths))
    if isinstance(space, Sphere) and space.dimension > 1:
        return _directions(_Table(space, bandwidths))
    name = type(space).__name__
    msg = f"kernel density estimates are for spheres (of dimension 2 or more) and tori, got {name}"
    raise ValueError(msg)


class _Table:
    """log k as a function of the angle from 0 to pi, a column for each bandwidth."""

    def __init__(self, space: HeatKernel, bandwidths: Sequence[float]) -> None:
        tau = torch.tensor(bandwidths, dtype=torch.float64).square()
        angle = torch.linspace(0, math.pi, _NODES, dtype=torch.float64)
        start = space.origin(torch.float64, "cpu").expand(_NODES, *space.point)
        end = space.exp(start, angle[:, None] * space.frame(start)[:, 0])
        exact = torch.stack([space.log_kernel(start, end, one) for one in tau], 1)
        self.steep = -0.5 / tau
        self.rest = exact - angle.square()[:, None] * self.steep
        self.rise = torch.cat([self.rest.diff(dim=0), self.rest.new_zeros(1, len(tau))])

    def __call__(self, angle: Tensor) -> Tensor:
        place = angle * ((_NODES - 1) / math.pi)
        index = place.long().clamp(max=_NODES - 1)
        rest = torch.addcmul(self.rest[index], (place - index)[..., None], self.rise[index])
        return torch.addcmul(rest, angle.square()[..., None], self.steep)


def _directions(table: _Table) -> Kernels:
    def kernels(x: Tensor, y: Tensor) -> Tensor:
        # The angle is 2 arcsin(|x - y| / 2): precise for near points, where arccos is not.
        chord = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        return table(2 * torch.asin((chord / 2).clamp(max=1)))

    return kernels


def _angles(table: _Table) -> Kernels:
    def kernels(x: Tensor, y: Tensor) -> Tensor:
        gaps = [(a[:, None] - b).abs() for a, b in zip(x.T, y.T, strict=True)]
        return sum(
            (table(torch.minimum(gap, 2 * math.pi - gap)) for gap in gaps[1:]),
            start=table(torch.minimum(gaps[0], 2 * math.pi - gaps[0])),
        )

    return kernels


@dataclass(frozen=True, eq=False)
class KernelDensity:
    """A mixture of heat kernels around points.

    Arguments:
        space: A sphere or a torus.
        points: The points, `(N, *point)`.
        bandwidths: Square roots of the kernel's times.
        weights: Of the bandwidths; they sum to one.

    Example:
        >>> density = KernelDensity(Torus(1), torch.zeros(1, 1).double(), (100.0,), (1.0,))
        >>> density.log_prob(torch.ones(1, 1).double()).exp() * 2 * torch.pi
        tensor([1.], dtype=torch.float64)
    """

    space: HeatKernel
    points: Tensor
    bandwidths: tuple[float, ...]
    weights: tuple[float, ...]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density against the volume in nats, `(rows,)`."""
        parts = log_parts(self.space, self.points, x, self.bandwidths)
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return _mixed(parts, weights, self.space)


def log_parts(space: HeatKernel, points: Tensor, x: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """log of the mean kernel around the points, of each bandwidth, `(rows, bandwidths)`."""
    points, x = points.double(), x.double()
    kernels = kernels_of(space, bandwidths)
    rows = max(1, _TOGETHER // len(points))
    parts = [torch.logsumexp(kernels(some, points), 1) for some in torch.split(x, rows)]
    return torch.cat(parts) - math.log(len(points))


def _mixed(parts: Tensor, weights: Tensor, space: HeatKernel) -> Tensor:
    """The log density from its parts."""
    kernels = torch.logsumexp(parts + weights.log(), 1) + math.log1p(-FLOOR)
    floor = torch.full_like(kernels, math.log(FLOOR) - space.log_volume)
    return torch.logaddexp(kernels, floor)


def fit_bandwidth(space: HeatKernel, points: Tensor, validation: Tensor) -> KernelDensity:
    """The estimate with one bandwidth, that which the validation points are likeliest under.

    The best of `BANDWIDTHS` is made better by golden sections between its neighbours.

    Arguments:
        space: A sphere or a torus.
        points: The training points.
        validation: The validation points.
    """

    def worths(log_bandwidths: Sequence[float]) -> list[float]:
        parts = log_parts(space, points, validation, [math.exp(one) for one in log_bandwidths])
        one = torch.ones(1, dtype=torch.float64)
        return [float(_mixed(part[:, None], one, space).mean()) for part in parts.T]

    def worth(log_bandwidth: float) -> float:
        return worths([log_bandwidth])[0]

    grid = [math.log(bandwidth) for bandwidth in BANDWIDTHS]
    found = worths(grid)
    best = grid[found.index(max(found))]
    step = grid[1] - grid[0]
    low, high = best - step, best + step
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    values = worth(left), worth(right)
    while high - low > 0.02:
        if values[0] > values[1]:
            high, right = right, left
            left = high - _GOLDEN * (high - low)
            values = worth(left), values[0]
        else:
            low, left = left, right
            right = low + _GOLDEN * (high - low)
            values = values[1], worth(right)
    return KernelDensity(space, points, (math.exp((low + high) / 2),), (1.0,))


def fit_mixture(
    space: HeatKernel,
    points: Tensor,
    validation: Tensor,
    bandwidths: Sequence[float] = BANDWIDTHS,
) -> KernelDensity:
    """The estimate with several bandwidths, their weights the likeliest of the validation points.

    Arguments:
        space: A sphere or a torus.
        points: The training points.
        validation: The validation points.
        bandwidths: The bandwidths.
    """
    parts = log_parts(space, points, validation, bandwidths)
    weights = torch.full((len(bandwidths),), 1 / len(bandwidths), dtype=torch.float64)
    for _ in range(_ROUNDS):
        total = _mixed(parts, weights, space)
        share = torch.exp(parts + weights.log() - total[:, None]).sum(0)
        weights = share / share.sum()
    return KernelDensity(space, points, tuple(bandwidths), tuple(weights.tolist()))
