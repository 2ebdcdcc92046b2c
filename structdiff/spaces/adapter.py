r"""Any manifold of geomstats as a space.

A point is a tensor of the shape that geomstats gives it. A tangent vector has that shape too; it
is the ambient vector where the ambient space induces the metric (spheres, Grassmann manifolds of
projectors), and otherwise (Stiefel's canonical metric, half-spaces, positive definite matrices)
the orthonormal coordinates that `structdiff.spaces.orthonormal` makes: `Geomstats.vector` and
`Geomstats.coordinates` go between them and the vectors that geomstats knows.

All maps are geomstats': computed in float64 on the CPU, whatever the dtype and the device of what
is given, and no better than geomstats at singular places (`exp` of Stiefel has no gradient at
v = 0, `log` of spheres none at coincident points). The spaces that this package has of its own
have no such places and are many times faster.

References:
    Geomstats: A Python Package for Riemannian Geometry in Machine Learning (Miolane et al., 2020).
    https://jmlr.org/papers/v21/19-027.html
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import rotations, volumes
from structdiff.spaces.base import Belonging, Compact, Isometry, Manifold, check_points
from structdiff.spaces.geomstats_calls import (
    check,
    double,
    drawn,
    iterates,
    logarithm,
    projection,
    wide,
)
from structdiff.spaces.orthonormal import Orthonormal
from structdiff.spaces.shooting import differential, newton

if TYPE_CHECKING:
    from structdiff.random import Randomness

__all__ = ["CompactGeomstats", "Geomstats"]

Draw = Callable[[int, "Randomness"], Tensor]
"""Uniform points in float64 on the CPU: `(rows, random) -> (rows, *point)`."""

_NEWTON = 5
_FOUND = 1e-6
_SHORT = 0.1


class Geomstats(Manifold):
    """A manifold of geomstats, which must run on its PyTorch backend.

    Of finite volume, the space is a `CompactGeomstats`, which can be drawn from uniformly. The
    volume is known here for spheres, Stiefel and Grassmann manifolds, rotations and pre-shapes
    with their default metrics; for others give it. In a quotient of pre-shapes any representative
    stands for a point, and the tangent vectors are the horizontal ones.

    geomstats takes its backend from the environment when it is first imported, and sets torch's
    default dtype to float64 then; `torch.set_default_dtype(torch.float32)` after the import puts
    it back. Here it is float64 while geomstats works, and then what it was.

    Arguments:
        manifold: With a metric, `Grassmannian(5, 2)` for example.
        log_volume: Logarithm of the volume, in nats, where it is finite and not known here.
        draw: Draws uniformly, where `log_volume` is given; else the projection of normal ambient
            points, which is uniform where rotations of the ambient space that keep the manifold
            bring any point to any other.
        origin: A distinguished point; else one that geomstats draws, always the same.

    Raises:
        ValueError: If `manifold` is not one of geomstats, or has no metric, or none that is
            positive, or geomstats is not installed or has another backend, or `origin` is no
            point, or `draw` is given without a volume.

    References:
        See the head of the module.

    Example:
        With `GEOMSTATS_BACKEND=pytorch` in the environment:

        >>> from geomstats.geometry.grassmannian import Grassmannian  # doctest: +SKIP
        >>> space = Geomstats(Grassmannian(5, 2))  # doctest: +SKIP
        >>> x = space.uniform(1000, Generator(0), torch.float64, "cpu")  # doctest: +SKIP
        >>> y = space.exp(x, 0.1 * space.noise(x, Generator(1)))  # doctest: +SKIP
    """

    def __new__(
        cls,
        manifold: Any = None,
        *,
        log_volume: float | None = None,
        draw: Draw | None = None,
        origin: Tensor | None = None,
    ) -> Geomstats:
        """A `CompactGeomstats` where the volume is given or known."""
        del draw, origin
        finite = log_volume is not None or volumes.known(manifold) is not None
        return object.__new__(CompactGeomstats if cls is Geomstats and finite else cls)

    @double()
    def __init__(
        self,
        manifold: Any,
        *,
        log_volume: float | None = None,
        draw: Draw | None = None,
        origin: Tensor | None = None,
    ) -> None:
        check(manifold)
        if draw is not None and log_volume is None:
            msg = "draw was given without log_volume: give the logarithm of the volume too"
            raise ValueError(msg)
        self.manifold, self.metric = manifold, manifold.metric
        self.point = self.tangent = tuple(manifold.shape)
        self._origin = drawn(manifold) if origin is None else wide(origin.detach())
        if not self.belongs(self._origin[None], 1e-6).inside:
            msg = f"origin must be a point of {type(manifold).__name__}, got {self._origin}"
            raise ValueError(msg)
        start = self._origin.expand(3, *self.point)
        noise = Generator(1).normal(start.shape, torch.float64, "cpu")
        near = self.metric.exp(_SHORT * manifold.to_tangent(noise, start), start)
        near = torch.cat([start[:1], near.reshape(start.shape)[1:]])
        self._orthonormal = Orthonormal(manifold, near)
        self.dimension = self._orthonormal.dimension
        self.injectivity = self._injectivity()
        self._action = rotations.find(
            self._orthonormal, lambda x: bool(self.belongs(x, 1e-6).inside.all()), near
        )

    # Geodesics.

    @double()
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """geomstats' `metric.exp`."""
        if len(x) == 0:
            return x + v
        start = wide(x)
        return self._give(self.metric.exp(self.vector(start, wide(v)), start), x)

    @double()
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """geomstats' `metric.log`; where it is found by iterations, Newton's method ends them.

        The latter gives it a gradient, and mends it where p > n / 2 in Stiefel(n, p), where
        geomstats' iterations may stop short of the solution.

        Raises:
            ValueError: If the metric has none.
        """
        if len(x) == 0:
            return x - y
        start, end = wide(x), wide(y)
        if not iterates(self.metric):
            return self._give(self.coordinates(start, logarithm(self.metric, start, end)), x)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the iterations, whose result is looked at below
            way = self.coordinates(start, logarithm(self.metric, start, end).reshape(start.shape))
            for _ in range(_NEWTON):
                way = newton(self.exp, self._orthonormal, start, end, way)
            off = (self.exp(start, way) - end).abs().flatten(1).amax(1)
        if lost := int((~(off < _FOUND)).sum()):
            name = type(self.manifold).__name__
            msg = (
                f"log was not found for {lost} of {len(x)} rows of {name}: points may be too far "
                f"apart (the injectivity radius is {self.injectivity:.3g})"
            )
            warnings.warn(msg, stacklevel=3)
        return self._give(newton(self.exp, self._orthonormal, start, end, way), x)

    @double()
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """geomstats' `metric.parallel_transport`.

        Where geomstats has none, one step of the pole ladder, which is exact on symmetric spaces.
        Where `log` takes iterations (Stiefel), or is missing, `v` is projected to the tangent
        space at `y` and given back its length: that is right at y = x only, so that multistep
        samplers are of first order there.

        References:
            Numerical Accuracy of Ladder Schemes for Parallel Transport on Manifolds
            (Guigui and Pennec, 2022).
            https://arxiv.org/abs/2007.07585
        """
        if len(x) == 0:
            return v
        start, end, w = wide(x), wide(y), wide(v)
        try:
            moved = self.metric.parallel_transport(self.vector(start, w), start, end_point=end)
            return self._give(self.coordinates(end, moved.reshape(end.shape)), x)
        except NotImplementedError:
            laddered = not iterates(self.metric) and self._has_log()
        if not laddered:
            arrow = self.vector(start, w)
            moved = self._orthonormal.tangent(end, arrow)
            return self._give(_rescaled(self.coordinates(end, moved), self.norm2(w)), x)
        size = self.norm2(w)
        unit = _rescaled(w, torch.full_like(size, _SHORT**2))
        rung = self.metric.ladder_parallel_transport(
            self.vector(start, unit),
            start,
            logarithm(self.metric, start, end),
            n_rungs=1,
            scheme="pole",
        )
        moved = rung["transported_tangent_vec"].reshape(end.shape)
        return self._give(_rescaled(self.coordinates(end, moved), size), x)

    @double()
    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """By differentiating `exp`; zero at v = 0, where it may have no derivative."""
        graph = torch.is_grad_enabled() and (x.requires_grad or v.requires_grad)
        start, arrow = wide(x), wide(v)
        _, jacobian = differential(self.exp, self._orthonormal, start, arrow, graph=graph)
        zero = (self.norm2(arrow) == 0)[:, None, None]
        unit = torch.eye(self.dimension, dtype=torch.float64)
        value: Tensor = torch.linalg.slogdet(torch.where(zero, unit, jacobian))[1]
        return value.to(x)

    # Tangent vectors.

    @double()
    def vector(self, x: Tensor, w: Tensor) -> Tensor:
        """The vector that geomstats knows of coordinates `w`; both in float64 on the CPU."""
        return self._orthonormal.vector(x, w)

    @double()
    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """The coordinates of a tangent vector that geomstats knows; the inverse of `vector`."""
        return self._orthonormal.coordinates(x, u)

    @double()
    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Orthogonal projection of coordinates."""
        return v if len(x) == 0 else self._give(self._orthonormal.project(wide(x), wide(v)), x)

    @double()
    def frame(self, x: Tensor) -> Tensor:
        """Fixed vectors projected and made orthonormal: smooth almost everywhere."""
        if len(x) == 0:
            return x.new_zeros(0, self.dimension, *self.tangent)
        return self._orthonormal.frame(wide(x)).to(x)

    # Points.

    @double()
    def project(self, x: Tensor) -> Tensor:
        """geomstats' `projection`; the point itself where it has none."""
        return x if len(x) == 0 else self._give(projection(self.manifold, wide(x)), x)

    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """The point that was given, or one that geomstats draws."""
        return self._origin.to(device, dtype)

    def features(self, x: Tensor) -> Tensor:
        """The entries of the point."""
        return x.flatten(1)

    @double()
    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """What geomstats says, and that `project` moves no entry by more than the tolerance."""
        check_points(self, x)
        points = wide(x)
        if len(x) == 0:
            return Belonging(torch.ones(0, dtype=torch.bool, device=x.device), None)
        inside = torch.as_tensor(self.manifold.belongs(points, atol=tolerance)).expand(len(x))
        moved = (projection(self.manifold, points).reshape(points.shape) - points).flatten(1)
        inside = inside & (moved.abs() <= tolerance).all(1)
        if bool(inside.all()):
            return Belonging(inside.to(x.device), None)
        row = int((~inside).nonzero()[0, 0])
        reason = (
            f"row {row}: by geomstats it is no point of {type(self.manifold).__name__} up to "
            f"{tolerance:g}: give points of it, or the nearest by project"
        )
        return Belonging(inside.to(x.device), reason)

    def isometry(
        self, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Isometry:
        """A random rotation of the ambient space that keeps the manifold and its metric.

        It multiplies from the left, or conjugates, or multiplies from the right: the first of them
        that is an isometry. Where none is (half-spaces), the identity.
        """
        if self._action is None:
            return lambda x: x
        action, side = self._action
        turn = rotations.rotation(random.normal((side, side), dtype, device))
        return lambda x: action(turn.to(x), x)

    # geomstats' side.

    def _give(self, value: Tensor, like: Tensor) -> Tensor:
        return value.reshape(len(like), *self.point).to(like)

    def _has_log(self) -> bool:
        try:
            logarithm(self.metric, self._origin[None], self._origin[None])
        except ValueError:
            return False
        return True

    def _injectivity(self) -> float:
        """At the origin; 0 where geomstats does not know it."""
        if type(self.manifold).__name__ == "_SpecialOrthogonalMatrices":
            return math.pi  # geomstats 2.8 says pi sqrt(dimension), beyond the cut locus
        try:
            return float(torch.as_tensor(self.metric.injectivity_radius(self._origin)).min())
        except NotImplementedError:
            return 0.0


class CompactGeomstats(Geomstats, Compact):
    """A manifold of geomstats of finite volume; what `Geomstats` makes of one."""

    def __init__(
        self,
        manifold: Any,
        *,
        log_volume: float | None = None,
        draw: Draw | None = None,
        origin: Tensor | None = None,
    ) -> None:
        super().__init__(manifold, log_volume=log_volume, draw=draw, origin=origin)
        volume = volumes.known(manifold) if log_volume is None else log_volume
        if volume is None:
            name = type(manifold).__name__
            msg = f"the volume of {name} is not known here: give its logarithm as log_volume"
            raise ValueError(msg)
        self._log_volume, self._draw = volume, draw

    def uniform(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """The projection of normal ambient points, or what `draw` says."""
        if self._draw is not None:
            return self._draw(rows, random).to(device, dtype)
        # geomstats takes roots of x^T x: once more for what is lost where x is nearly singular.
        return self.project(self.project(random.normal((rows, *self.point), dtype, device)))

    @property
    def log_volume(self) -> float:
        """Known or given."""
        return self._log_volume


def _rescaled(w: Tensor, square: Tensor) -> Tensor:
    """Tangent vectors with the given squared lengths; those of length zero as they are."""
    now = w.square().flatten(1).sum(1)
    proper = (now > 0) & (square > 0)
    scale = torch.where(
        proper, torch.where(proper, square / torch.where(proper, now, 1.0), 1.0).sqrt(), 0.0
    )
    return w * scale.reshape(-1, *(1,) * (w.dim() - 1))
