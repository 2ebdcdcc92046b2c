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

import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import rotations, volumes
from structdiff.spaces.base import Belonging, Compact, Isometry, Manifold, check_points
from structdiff.spaces.orthonormal import Orthonormal

if TYPE_CHECKING:
    from structdiff.random import Randomness

__all__ = ["CompactGeomstats", "Geomstats"]

Draw = Callable[[int, "Randomness"], Tensor]
"""Uniform points in float64 on the CPU: `(rows, random) -> (rows, *point)`."""

_NEWTON = 5
_FOUND = 1e-6
_SHORT = 0.1


@contextmanager
def _double() -> Iterator[None]:
    """Within it torch's default dtype is float64, without which geomstats fails."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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

    @_double()
    def __init__(
        self,
        manifold: Any,
        *,
        log_volume: float | None = None,
        draw: Draw | None = None,
        origin: Tensor | None = None,
    ) -> None:
        _check(manifold)
        if draw is not None and log_volume is None:
            msg = "draw was given without log_volume: give the logarithm of the volume too"
            raise ValueError(msg)
        self.manifold, self.metric = manifold, manifold.metric
        self.point = self.tangent = tuple(manifold.shape)
        self._origin = _drawn(manifold) if origin is None else _wide(origin.detach())
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

    @_double()
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """geomstats' `metric.exp`."""
        if len(x) == 0:
            return x + v
        start = _wide(x)
        return self._give(self.metric.exp(self.vector(start, _wide(v)), start), x)

    @_double()
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """geomstats' `metric.log`; where it is found by iterations, Newton's method ends them.

        The latter gives it a gradient, and mends it where p > n / 2 in Stiefel(n, p), where
        geomstats' iterations may stop short of the solution.

        Raises:
            ValueError: If the metric has none.
        """
        if len(x) == 0:
            return x - y
        start, end = _wide(x), _wide(y)
        if not self._iterates():
            return self._give(self.coordinates(start, self._log(start, end)), x)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the iterations, whose result is looked at below
            way = self.coordinates(start, self._log(start, end).reshape(start.shape))
            for _ in range(_NEWTON):
                way = self._newton(start, end, way)
            off = (self.exp(start, way) - end).abs().flatten(1).amax(1)
        if lost := int((~(off < _FOUND)).sum()):
            name = type(self.manifold).__name__
            msg = (
                f"log was not found for {lost} of {len(x)} rows of {name}: points may be too far "
                f"apart (the injectivity radius is {self.injectivity:.3g})"
            )
            warnings.warn(msg, stacklevel=3)
        return self._give(self._newton(start, end, way), x)

    @_double()
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
        start, end, w = _wide(x), _wide(y), _wide(v)
        try:
            moved = self.metric.parallel_transport(self.vector(start, w), start, end_point=end)
            return self._give(self.coordinates(end, moved.reshape(end.shape)), x)
        except NotImplementedError:
            laddered = not self._iterates() and self._has_log()
        if not laddered:
            arrow = self.vector(start, w)
            moved = self._orthonormal.tangent(end, arrow)
            return self._give(_rescaled(self.coordinates(end, moved), self.norm2(w)), x)
        size = self.norm2(w)
        unit = _rescaled(w, torch.full_like(size, _SHORT**2))
        rung = self.metric.ladder_parallel_transport(
            self.vector(start, unit), start, self._log(start, end), n_rungs=1, scheme="pole"
        )
        moved = rung["transported_tangent_vec"].reshape(end.shape)
        return self._give(_rescaled(self.coordinates(end, moved), size), x)

    @_double()
    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """By differentiating `exp`; zero at v = 0, where it may have no derivative."""
        graph = torch.is_grad_enabled() and (x.requires_grad or v.requires_grad)
        start, arrow = _wide(x), _wide(v)
        _, jacobian = self._differential(start, arrow, graph=graph)
        zero = (self.norm2(arrow) == 0)[:, None, None]
        unit = torch.eye(self.dimension, dtype=torch.float64)
        value: Tensor = torch.linalg.slogdet(torch.where(zero, unit, jacobian))[1]
        return value.to(x)

    # Tangent vectors.

    @_double()
    def vector(self, x: Tensor, w: Tensor) -> Tensor:
        """The vector that geomstats knows of coordinates `w`; both in float64 on the CPU."""
        return self._orthonormal.vector(x, w)

    @_double()
    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """The coordinates of a tangent vector that geomstats knows; the inverse of `vector`."""
        return self._orthonormal.coordinates(x, u)

    @_double()
    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Orthogonal projection of coordinates."""
        return v if len(x) == 0 else self._give(self._orthonormal.project(_wide(x), _wide(v)), x)

    @_double()
    def frame(self, x: Tensor) -> Tensor:
        """Fixed vectors projected and made orthonormal: smooth almost everywhere."""
        if len(x) == 0:
            return x.new_zeros(0, self.dimension, *self.tangent)
        return self._orthonormal.frame(_wide(x)).to(x)

    # Points.

    @_double()
    def project(self, x: Tensor) -> Tensor:
        """geomstats' `projection`; the point itself where it has none."""
        return x if len(x) == 0 else self._give(_projection(self.manifold, _wide(x)), x)

    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """The point that was given, or one that geomstats draws."""
        return self._origin.to(device, dtype)

    def features(self, x: Tensor) -> Tensor:
        """The entries of the point."""
        return x.flatten(1)

    @_double()
    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """What geomstats says, and that `project` moves no entry by more than the tolerance."""
        check_points(self, x)
        points = _wide(x)
        if len(x) == 0:
            return Belonging(torch.ones(0, dtype=torch.bool, device=x.device), None)
        inside = torch.as_tensor(self.manifold.belongs(points, atol=tolerance)).expand(len(x))
        moved = (_projection(self.manifold, points).reshape(points.shape) - points).flatten(1)
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

    def _iterates(self) -> bool:
        return hasattr(self.metric, "log_solver")

    def _has_log(self) -> bool:
        try:
            self._log(self._origin[None], self._origin[None])
        except ValueError:
            return False
        return True

    def _log(self, x: Tensor, y: Tensor) -> Tensor:
        try:
            way: Tensor = self.metric.log(y, x)
        except (NotImplementedError, ValueError) as error:
            if isinstance(error, ValueError) and "log_solver" not in str(error):
                raise
            msg = (
                f"geomstats has no log for {type(self.metric).__name__}: flow matching and the "
                f"likelihood by its ODE need it, random walks do not; give the metric a "
                f"log_solver (see geomstats.numerics.geodesic) or take another metric"
            )
            raise ValueError(msg) from error
        return way

    def _newton(self, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """One step towards exp(x, w) = y; its derivatives are those of the solution."""
        w = self._orthonormal.project(x, w)
        end, jacobian = self._differential(x, w, graph=False)
        off = self.coordinates(end, self._orthonormal.tangent(end, y - end)).flatten(1)
        rest = self._orthonormal.frame(end).flatten(2) @ off[..., None]
        # Where exp has no derivative (Stiefel at w = 0) it is near the identity.
        unit = torch.eye(self.dimension, dtype=x.dtype)
        jacobian = torch.where(jacobian.isfinite().all(-1).all(-1)[:, None, None], jacobian, unit)
        step: Tensor = torch.linalg.solve(jacobian, rest)
        return w + (self._orthonormal.frame(x).flatten(2).mT @ step).reshape(w.shape)

    def _differential(self, x: Tensor, w: Tensor, *, graph: bool) -> tuple[Tensor, Tensor]:
        """exp(x, w), and the matrix of d exp_x at w in the frames at both ends."""
        outside = torch.is_grad_enabled()
        with torch.enable_grad():
            arrow = w if graph and w.requires_grad else w.detach().requires_grad_()
            end = self.exp(x if graph else x.detach(), arrow)
            axes = self._orthonormal.lowered(end, self._orthonormal.frame(end)).unbind(1)
            rows = [
                torch.autograd.grad(end, arrow, axis, retain_graph=True, create_graph=graph)[0]
                for axis in axes
            ]
        columns = self._orthonormal.frame(x if graph else x.detach()).flatten(2)
        jacobian = torch.stack(rows, 1).flatten(2) @ columns.mT
        if graph:
            return end, jacobian
        return (self.exp(x, w) if outside else end.detach()), jacobian.detach()

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


def _wide(x: Tensor) -> Tensor:
    return x.to("cpu", torch.float64)


def _projection(manifold: Any, x: Tensor) -> Tensor:
    try:
        nearest: Tensor = manifold.projection(x)
    except (AttributeError, NotImplementedError):
        return x
    return nearest


def _drawn(manifold: Any) -> Tensor:
    """A point that geomstats draws from torch's generator, whose state is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        point = manifold.random_point()
    return _wide(point.detach()).reshape(manifold.shape)


def _check(manifold: Any) -> None:
    """Refuse what is no manifold of geomstats' PyTorch backend, or has no metric."""
    loaded = sys.modules.get("geomstats.geometry.manifold")
    if loaded is None or not isinstance(manifold, loaded.Manifold):
        how = "see geomstats.geometry, for example Stiefel(5, 2)"
        if importlib.util.find_spec("geomstats") is None:
            how = "geomstats is not installed: pip install 'structdiff[manifolds]' (numpy<2.4)"
        msg = f"manifold must be a manifold of geomstats, got {type(manifold).__name__}: {how}"
        raise ValueError(msg)
    backend = sys.modules["geomstats._backend"].BACKEND_NAME
    if backend != "pytorch":
        msg = (
            f"geomstats runs on its {backend} backend, which torch cannot differentiate: set the "
            f"environment variable GEOMSTATS_BACKEND=pytorch before geomstats is first imported"
        )
        raise ValueError(msg)
    if not hasattr(manifold, "metric"):
        name = type(manifold).__name__
        msg = f"manifold must have a metric, got {name} without: call its equip_with_metric"
        raise ValueError(msg)
