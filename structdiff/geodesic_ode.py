r"""Ordinary differential equations on products of manifolds, with adaptive steps.

dx/dt = f(x, t), and beside it dq/dt = g(x, t) for numbers q of each sample. A step of length h
from x_n looks at the curve in the chart u -> exp_{x_n}(u), where it is an equation in a vector
space,

    du/dt = D[w -> log_{x_n}(exp_y(w))]_{w = 0} f(y, t),    y = exp_{x_n}(u),

and takes one step of the embedded Runge-Kutta pair of Dormand and Prince (orders 5 and 4) there:
so the order on a manifold is that in flat space, and no point leaves the space. The steps are
chosen for each sample by itself, by the difference of the pair: what a sample becomes does not
depend on the others of its batch.

References:
    A family of embedded Runge-Kutta formulae (Dormand and Prince, 1980).
    https://doi.org/10.1016/0771-050X(80)90013-3
    Solving Ordinary Differential Equations I (Hairer, Norsett and Wanner, 1993), section II.4.
    https://doi.org/10.1007/978-3-540-78862-1
    Lie-group methods (Iserles et al., 2000), for charts that move along.
    https://doi.org/10.1017/S0962492900002154
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.spaces import Manifold

__all__ = ["Field", "Path", "integrate"]

Record: TypeAlias = Mapping[str, Tensor]

Field: TypeAlias = Callable[[Record, Tensor], tuple[Record, Record]]
"""(leaves, times of the samples) to dx/dt by leaf, `(rows, *tangent)`, and dq/dt by name,
`(samples,)`."""

_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_TABLEAU: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_FIRST = 0.01
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0
_LEAST = 1e-13
"""The shortest step, of the whole way: what needs a shorter one (NaN does) is given up."""
_REACH = 0.4
"""The most of an injectivity radius that one step may go: its stages stay inside the chart."""


@dataclass(frozen=True)
class Path:
    """Where an integration ended.

    Arguments:
        x: Leaves at the end.
        totals: The integrals q by name, `(samples,)`.
        calls: How often the field was looked at.
    """

    x: Record
    totals: Record
    calls: int


@torch.no_grad()
def integrate(
    field: Field,
    geometry: Mapping[str, Manifold],
    batch: Batch,
    start: float,
    end: float,
    *,
    tolerance: float,
    limit: int = 10_000,
) -> Path:
    """Follow dx/dt from `start` to `end`, which may lie before it.

    Arguments:
        field: The equation.
        geometry: The space of each leaf.
        batch: Where the leaves begin.
        start: First time.
        end: Last time.
        tolerance: Error of a step, as a root mean square over the coordinates of a sample
            relative to 1 + their distance from the origin, and of each q.
        limit: The most steps, accepted or not.

    Raises:
        ValueError: If the tolerance is not positive.
        ArithmeticError: If samples are not at the end after `limit` steps, or would need steps of
            no length, as samples do that are not finite.
    """
    if not tolerance > 0:
        msg = f"tolerance must be positive, got {tolerance}"
        raise ValueError(msg)
    walk = _Walk(field, geometry, batch, end, tolerance)
    x: Record = dict(batch.leaves)
    t = torch.full((batch.samples,), start, dtype=torch.float64, device=batch.device)
    h = (end - t) * _FIRST
    first, rates = field(x, t)
    totals: Record = {name: torch.zeros_like(rate) for name, rate in rates.items()}
    calls = 1
    for _ in range(limit):
        going = (t != end) & (h.abs() > _LEAST * abs(end - start))
        if not bool(going.any()):
            break
        h = walk.bounded(first, t, h)
        new, sums, (last, last_rates), error = walk.step(x, first, rates, t, h)
        calls += len(_NODES) - 1
        good = going & (error <= 1)
        x = walk.choose(good, new, x)
        totals = {n: torch.where(good, totals[n] + sums[n], totals[n]) for n in totals}
        first = walk.choose(good, last, first)
        rates = {n: torch.where(good, last_rates[n], rates[n]) for n in rates}
        ended = good & ((end - (t + h)).abs() <= 1e-12 * abs(end - start))
        t = torch.where(ended, end, torch.where(good, t + h, t))
        scale = _SAFETY * error.clamp(min=1e-10) ** -0.2
        h = h * torch.nan_to_num(scale, nan=_SHRINK).clamp(_SHRINK, _GROW)
    ids = batch.ids[t != end].tolist()
    if not ids:
        return Path(x, totals, calls)
    steps = (calls - 1) // (len(_NODES) - 1)
    msg = (
        f"the equation did not reach t = {end:g} in {steps} steps for {len(ids)} samples "
        f"(ids {ids[:10]}): see that they and the field are finite, raise the tolerance, "
        f"{tolerance:g}, or begin at a later time"
    )
    raise ArithmeticError(msg)


class _Walk:
    """What the steps of one integration share."""

    def __init__(
        self,
        field: Field,
        geometry: Mapping[str, Manifold],
        batch: Batch,
        end: float,
        tolerance: float,
    ) -> None:
        self.field, self.geometry, self.batch = field, geometry, batch
        self.end, self.tolerance = end, tolerance
        sizes = [batch.layouts[n].size * geometry[n].dimension for n in geometry]
        self.coordinates = torch.stack(sizes).sum(0).clamp(min=1)

    def rows(self, name: str, per_sample: Tensor, v: Tensor) -> Tensor:
        """A number of each sample, shaped to multiply the rows of a leaf."""
        spread = self.batch.layouts[name].spread(per_sample)
        return spread.to(v.dtype).reshape(-1, *(1,) * (v.ndim - 1))

    def choose(self, good: Tensor, new: Record, old: Record) -> dict[str, Tensor]:
        """Leaves of the samples that moved, and of those that did not."""
        picked = {}
        for name, x in new.items():
            mask = self.batch.layouts[name].spread(good).reshape(-1, *(1,) * (x.ndim - 1))
            picked[name] = torch.where(mask, x, old[name])
        return picked

    def bounded(self, velocity: Record, t: Tensor, h: Tensor) -> Tensor:
        """Steps that end in time and stay inside the charts."""
        h = torch.where(h.abs() < (self.end - t).abs(), h, self.end - t)
        for name, space in self.geometry.items():
            if math.isfinite(space.injectivity):
                layout = self.batch.layouts[name]
                speed = layout.sum(space.norm2(velocity[name])).sqrt().to(h)
                most = _REACH * space.injectivity / speed.clamp(min=1e-30)
                h = torch.where(h.abs() > most, h.sign() * most, h)
        return h

    def step(
        self, x: Record, first: Record, rates: Record, t: Tensor, h: Tensor
    ) -> tuple[Record, dict[str, Tensor], tuple[Record, Record], Tensor]:
        """One step: the leaves, what is added to q, the field there, and the error."""
        slopes, sums = [first], [rates]
        y: Record = x
        for node, row in zip(_NODES[1:], _TABLEAU[1:], strict=True):
            y = {n: self.reach(n, x[n], row, [k[n] for k in slopes], h) for n in x}
            seen, rate = self.field(y, t + node * h)
            slopes.append({n: _pull(self.geometry[n], x[n], y[n], v) for n, v in seen.items()})
            sums.append(rate)
        added = {n: _mix(_TABLEAU[-1], [r[n] for r in sums], h) for n in rates}
        return y, added, (seen, rate), self.error(x, slopes, sums, h)

    def reach(
        self, name: str, x: Tensor, row: tuple[float, ...], slopes: list[Tensor], h: Tensor
    ) -> Tensor:
        """exp_x of the weighted slopes."""
        u = _mix(row, slopes, self.rows(name, h, slopes[0]))
        space = self.geometry[name]
        return space.project(space.exp(x, u))

    def error(self, x: Record, slopes: list[Record], sums: list[Record], h: Tensor) -> Tensor:
        """The difference of the pair over the tolerance, `(samples,)`."""
        squares = torch.zeros_like(h)
        for name, space in self.geometry.items():
            off = _mix(_ERROR, [k[name] for k in slopes], self.rows(name, h, slopes[0][name]))
            origin = space.origin(off.dtype, off.device).expand(x[name].shape)
            scale = 1 + space.norm2(space.log(origin, x[name])).sqrt()
            layout = self.batch.layouts[name]
            squares = squares + layout.sum(space.norm2(off) / scale**2).to(squares)
        worst = (squares / self.coordinates).sqrt()
        for name in sums[0]:
            worst = torch.maximum(worst, _mix(_ERROR, [s[name] for s in sums], h).abs().to(worst))
        return torch.nan_to_num(worst / self.tolerance, nan=torch.inf)


def _mix(weights: tuple[float, ...], slopes: list[Tensor], h: Any) -> Tensor:
    """h times the weighted sum."""
    total = torch.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=False):
        if weight:
            total = total.add(slope, alpha=weight)
    scaled: Tensor = h * total
    return scaled


def _pull(space: Manifold, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """The tangent vector v at y in the chart exp_x: the derivative of log_x(exp_y(w)) along v.

    By differentiating twice: the derivative of w -> log_x(exp_y(w)) turned about is linear in the
    covector that it is applied to, and its derivative in that is what is wanted.
    """
    with torch.enable_grad():
        w = torch.zeros_like(v).requires_grad_()
        chart = space.log(x, space.exp(y, w))
        covector = torch.zeros_like(chart).requires_grad_()
        (turned,) = torch.autograd.grad(chart, w, covector, create_graph=True)
        (pulled,) = torch.autograd.grad(turned, covector, v)
    return pulled
