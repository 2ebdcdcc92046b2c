"""A space of a library as maps that `geometry_safety.py` asks, whatever the library calls them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structdiff.spaces.base import Manifold


@dataclass(frozen=True)
class Library:
    """A space of a library; tensors have one row.

    Arguments:
        exp: Of the origin and `t` times the unit vector e.
        log: The component along e of the tangent vector at the origin to a point.
        dist: Between points.
        square: The squared distance, by the route that the library offers for it.
        length: Of the tangent vector from a point to another.
        back: What exp makes of log, for two points.
    """

    exp: Callable[[Tensor], Tensor]
    log: Callable[[Tensor], Tensor]
    dist: Callable[[Tensor, Tensor], Tensor]
    square: Callable[[Tensor, Tensor], Tensor]
    length: Callable[[Tensor, Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]


def structdiff(space: Manifold, axis: int) -> Library:
    """`axis` is the coordinate of e at the origin."""

    def origin(like: Tensor) -> Tensor:
        return space.origin(like.dtype, "cpu").expand(len(like), *space.point)

    def exp(t: Tensor) -> Tensor:
        unit = torch.zeros(1, *space.tangent, dtype=t.dtype)
        unit[0, axis] = 1
        return space.exp(origin(t), t[:, None] * unit)

    return Library(
        exp=exp,
        log=lambda y: space.log(origin(y), y)[:, axis],
        dist=space.distance,
        square=lambda x, y: space.norm2(space.log(x, y)),
        length=lambda x, y: space.norm2(space.log(x, y)).sqrt(),
        back=lambda x, y: space.exp(x, space.log(x, y)),
    )


def peer(
    name: str,
    make: Callable[[Any], Any],
    origin: Tensor,
    unit: Tensor,
    *,
    scale: float = 1.0,
) -> dict[str, Library]:
    """A manifold with expmap, logmap and dist, or of geomstats; none where it is not installed."""
    module = {"flow-matching": "flow_matching.utils.manifolds"}.get(name, name)
    if importlib.util.find_spec(module.split(".")[0]) is None:
        return {}
    manifold = make(importlib.import_module(module))
    if name == "geomstats":
        metric = manifold.metric
        exp, log = lambda x, u: metric.exp(u, x), lambda x, y: metric.log(y, x)
        dist, square = metric.dist, metric.squared_dist
    else:
        exp, log, dist = manifold.expmap, manifold.logmap, manifold.dist
        square = getattr(manifold, "dist2", lambda x, y: dist(x, y).square())
    size = unit.square().sum()

    def ambient(t: Tensor) -> Tensor:
        return t.reshape(-1, *(1,) * (unit.dim() - 1)) * (scale * unit.to(t))

    def base(like: Tensor) -> Tensor:
        return origin.to(like).expand(len(like), *origin.shape[1:])

    def along(v: Tensor) -> Tensor:
        return (v * unit.to(v)).flatten(1).sum(1) / (scale * size)

    def length(x: Tensor, y: Tensor) -> Tensor:
        return log(x, y).flatten(1).norm(dim=1) / (scale * size.sqrt())

    return {
        name: Library(
            exp=lambda t: exp(base(t), ambient(t)),
            log=lambda y: along(log(base(y), y)),
            dist=lambda x, y: dist(x, y).reshape(-1),
            square=lambda x, y: square(x, y).reshape(-1),
            length=length,
            back=lambda x, y: exp(x, log(x, y)),
        )
    }


def of_geomstats(name: str) -> Callable[[Any], Any]:
    """Makes the manifold `name(size)` given as "module.Class(size)"."""
    module, rest = name.split(".")
    kind, size = rest.rstrip(")").split("(")
    return lambda _: getattr(importlib.import_module(f"geomstats.geometry.{module}"), kind)(
        int(size)
    )
