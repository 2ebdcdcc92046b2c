r"""Any manifold of geomstats as a space.

A point is a tensor of the shape that geomstats gives it. Let P be geomstats' projection of an
ambient vector to the tangent space at x, and G its metric there. Then

    B = P^T G P + (I - P)^T (I - P) = L L^T                                                    (1)

is positive definite, equals the metric on tangent vectors, and keeps them orthogonal to what P
drops. The coordinates of a tangent vector u are w = L^T u, of the shape of a point: their inner
product is the sum of products, and L, a Cholesky factor, is as smooth in x as the metric. Where
the metric is the one that the ambient space induces, B = I and w = u. Otherwise (Stiefel's
canonical metric, half-spaces, positive definite matrices) w is no ambient vector: `vector` and
`coordinates` go between w and the u that geomstats knows. In coordinates the projection to the
tangent space is L^T P L^{-T}, which is symmetric since P is self-adjoint for B.

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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces.base import Belonging, Compact, Isometry, Manifold, check_points

if TYPE_CHECKING:
    from structdiff.random import Randomness

__all__ = ["CompactGeomstats", "Geomstats"]

Draw = Callable[[int, "Randomness"], Tensor]
"""Points drawn uniformly, in float64 on the CPU: `(rows, random) -> (rows, *point)`."""

Action = Callable[[Tensor, Tensor], Tensor]

_EXACT = 1e-9


class Geomstats(Manifold):
    """A manifold of geomstats, which must run on its PyTorch backend.

    Of finite volume, the space is a `CompactGeomstats`, which can be drawn from uniformly. The
    volume is known here for spheres, Stiefel and Grassmann manifolds, rotations and pre-shapes
    with their default metrics; for others give it. A quotient metric (shapes) has the horizontal
    vectors for tangent vectors, and any representative for a point.

    geomstats takes its backend from the environment when it is first imported, and sets torch's
    default dtype to float64 then; `torch.set_default_dtype(torch.float32)` after the import puts
    it back, and this class works either way.

    Arguments:
        manifold: With a metric, `Grassmannian(5, 2)` for example.
        log_volume: Logarithm of the volume, in nats, where it is finite and not known here.
        draw: Draws uniformly, where `log_volume` is given; else the projection of normal ambient
            points, which is uniform where rotations of the ambient space that keep the manifold
            bring any point to any other.
        origin: A distinguished point; else one that geomstats draws, always the same.

    Raises:
        ValueError: If `manifold` is not one of geomstats, or has no metric, or geomstats is not
            installed or has another backend, or if `draw` is given without a volume.

    References:
        See the head of the module.

    Example:
        >>> import os
        >>> os.environ["GEOMSTATS_BACKEND"] = "pytorch"
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
        finite = log_volume is not None or known_volume(manifold) is not None
        return object.__new__(CompactGeomstats if cls is Geomstats and finite else cls)

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
        self._induced = True
        self._origin = (
            _reproducible(manifold) if origin is None else origin.detach().to("cpu").double()
        )
        if not bool(torch.as_tensor(manifold.belongs(self._origin, atol=1e-6)).all()):
            msg = (
                f"origin must be a point of {type(manifold).__name__}, got {self._origin.tolist()}"
            )
            raise ValueError(msg)
        points = self._near_origin()
        self.dimension = round(float(self._projections(points).diagonal(dim1=1, dim2=2).sum(1)[0]))
        gap = self._gram(points) - torch.eye(math.prod(self.point), dtype=torch.float64)
        self._induced = float(gap.abs().max()) < _EXACT
        self.injectivity = self._injectivity()
        self._action = self._find_action(points)

    # Geodesics.

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """geomstats' `metric.exp`."""
        if len(x) == 0:
            return x + v
        start = _wide(x)
        return self._give(self.metric.exp(self.vector(start, _wide(v)), start), x)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """geomstats' `metric.log`.

        Raises:
            ValueError: If the metric has none.
        """
        if len(x) == 0:
            return x - y
        start = _wide(x)
        try:
            way = self.metric.log(_wide(y), start)
        except (NotImplementedError, ValueError) as error:
            if isinstance(error, ValueError) and "log_solver" not in str(error):
                raise
            msg = (
                f"geomstats has no log for {type(self.metric).__name__}: flow matching, distances "
                f"and transport along the shortest geodesic need it, random walks do not; give the "
                f"metric a log_solver (geomstats.numerics.geodesic) or another metric"
            )
            raise ValueError(msg) from error
        return self._give(self.coordinates(start, way), x)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """geomstats' `metric.parallel_transport`.

        Where geomstats has none, `v` is projected to the tangent space at `y` and given back its
        length: right at y = x only, so that multistep samplers are of first order there.
        """
        if len(x) == 0:
            return v
        start, end = _wide(x), _wide(y)
        arrow = self.vector(start, _wide(v))
        try:
            moved = self.metric.parallel_transport(arrow, start, end_point=end)
            return self._give(self.coordinates(end, moved), x)
        except NotImplementedError:
            moved = self.coordinates(end, self._tangent(arrow, end))
        length, kept = self.norm2(_wide(v)), self.norm2(moved)
        scale = torch.where(kept > 0, length / torch.where(kept > 0, kept, 1.0), 1.0)
        # The root of 0 has no slope.
        scale = torch.where(scale > 0, torch.where(scale > 0, scale, 1.0).sqrt(), 0.0)
        return self._give(moved * scale.reshape(-1, *(1,) * len(self.point)), x)

    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """By differentiating `exp`; zero at v = 0, where it may have no derivative."""
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            arrow = _wide(v) + torch.zeros_like(_wide(v), requires_grad=True)
            start = _wide(x)
            end = self.exp(start, arrow)
            there = self._lowered(end, self.frame(end)).unbind(1)
            slopes = [
                torch.autograd.grad(end, arrow, along, retain_graph=True, create_graph=graph)[0]
                for along in there
            ]
            jacobian = torch.stack(slopes, 1).flatten(2) @ self.frame(start).flatten(2).mT
            zero = self.norm2(arrow) == 0
            unit = torch.eye(self.dimension, dtype=torch.float64)
            value = torch.linalg.slogdet(torch.where(zero[:, None, None], unit, jacobian))[1]
        return value.to(x) if graph else value.detach().to(x)

    # Tangent vectors.

    def vector(self, x: Tensor, w: Tensor) -> Tensor:
        """The tangent vector, as geomstats writes it, of coordinates `w`: L^{-T} w by (1)."""
        if self._induced:
            return w
        root = self._root(x).mT
        return torch.linalg.solve_triangular(root, w.flatten(1)[..., None], upper=True).reshape(
            w.shape
        )

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """The coordinates L^T u of a tangent vector as geomstats writes it, by (1)."""
        if self._induced:
            return u
        return (self._root(x).mT @ u.flatten(1)[..., None]).reshape(u.shape)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Orthogonal projection of coordinates."""
        if len(x) == 0:
            return v
        start = _wide(x)
        inside = self._tangent(self.vector(start, _wide(v)), start)
        return self._give(self.coordinates(start, inside), x)

    def frame(self, x: Tensor) -> Tensor:
        """Fixed vectors projected and made orthonormal: smooth almost everywhere."""
        start, size = _wide(x), math.prod(self.point)
        seed = Generator(0).normal((size, self.dimension), torch.float64, "cpu")
        if size == self.dimension:
            seed = torch.eye(size, dtype=torch.float64)
        vectors = seed.mT.reshape(self.dimension, *self.point).repeat(
            len(x), *(1,) * len(self.point)
        )
        flat = self.to_tangent(start.repeat_interleave(self.dimension, 0), vectors)
        basis = torch.linalg.qr(flat.reshape(len(x), self.dimension, size).mT)[0]
        return self._give(basis.mT.reshape(len(x), self.dimension, *self.point), x, self.dimension)

    # Points.

    def project(self, x: Tensor) -> Tensor:
        """geomstats' `projection`; the point itself where it has none."""
        if len(x) == 0:
            return x
        try:
            return self._give(self.manifold.projection(_wide(x)), x)
        except (AttributeError, NotImplementedError):
            return x

    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """The point that was given, or one that geomstats draws."""
        return self._origin.to(device, dtype)

    def features(self, x: Tensor) -> Tensor:
        """The entries of the point."""
        return x.flatten(1)

    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """What geomstats says."""
        check_points(self, x)
        inside = self.manifold.belongs(_wide(x), atol=tolerance)
        inside = torch.as_tensor(inside).expand(len(x)).to(x.device)
        if bool(inside.all()):
            return Belonging(inside, None)
        row = int((~inside).nonzero()[0, 0])
        name = type(self.manifold).__name__
        reason = (
            f"row {row}: geomstats says that it is no point of {name} up to {tolerance:g}: "
            f"give points of it, or the nearest by project"
        )
        return Belonging(inside, reason)

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
        turn = _rotation(random.normal((side, side), dtype, device))
        return lambda x: action(turn.to(x), x)

    # geomstats' side.

    def _give(self, value: Tensor, like: Tensor, *inner: int) -> Tensor:
        return value.reshape(len(like), *inner, *self.point).to(like)

    def _tangent(self, u: Tensor, x: Tensor) -> Tensor:
        inside = self.manifold.to_tangent(u, x)
        bundle = getattr(self.metric, "_fiber_bundle", None)
        return inside if bundle is None else bundle.horizontal_projection(inside, x)

    def _projections(self, x: Tensor) -> Tensor:
        """P e_i, `(rows, i, size)`."""
        size = math.prod(self.point)
        unit = torch.eye(size, dtype=x.dtype).reshape(size, *self.point)
        units = unit.repeat(len(x), *(1,) * len(self.point))
        flat = self._tangent(units, x.repeat_interleave(size, 0))
        return flat.reshape(len(x), size, size)

    def _gram(self, x: Tensor) -> Tensor:
        """B of (1)."""
        size, graph = math.prod(self.point), torch.is_grad_enabled()
        inside = self._projections(x)
        many = (-1, *self.point)
        with torch.enable_grad():
            probe = inside.detach().reshape(many).requires_grad_()
            base = x.repeat_interleave(size, 0)
            value = self.metric.inner_product(probe, inside.reshape(many), base).sum()
            (lowered,) = torch.autograd.grad(value, probe, create_graph=graph)
        normal = torch.eye(size, dtype=x.dtype) - inside
        gram = inside @ lowered.reshape(inside.shape).mT + normal @ normal.mT
        return (gram + gram.mT) / 2

    def _root(self, x: Tensor) -> Tensor:
        return torch.linalg.cholesky(self._gram(x))

    def _lowered(self, x: Tensor, frame: Tensor) -> Tensor:
        """L times each coordinate vector: what its product with L^T u is for an ambient u."""
        if self._induced:
            return frame
        return (frame.flatten(2) @ self._root(x).mT).reshape(frame.shape)

    def _near_origin(self) -> Tensor:
        """Three points: the origin and two near it."""
        start = self._origin.expand(3, *self.point)
        noise = Generator(1).normal(start.shape, torch.float64, "cpu")
        noise = noise * torch.tensor([0.0, 0.3, 0.3]).reshape(3, *(1,) * len(self.point))
        return self.metric.exp(self._tangent(noise.to(start), start), start).reshape(start.shape)

    def _injectivity(self) -> float:
        """At the origin; 0 where geomstats does not know it."""
        try:
            return float(torch.as_tensor(self.metric.injectivity_radius(self._origin)).min())
        except NotImplementedError:
            return 0.0

    def _find_action(self, x: Tensor) -> tuple[Action, int] | None:
        """The first of the three that keeps the manifold and its metric, and the rotations' size."""
        shape = x.shape[1:]
        v, w = (self._tangent(Generator(i).normal(x.shape, x.dtype, "cpu"), x) for i in (2, 3))
        actions = [(_left, shape[0]), (_right, shape[-1])]
        if len(shape) == 2 and shape[0] == shape[1]:
            actions.insert(1, (_conjugate, shape[0]))
        product = self.metric.inner_product(v, w, x)
        for action, side in actions:
            turn = _rotation(Generator(4).normal((side, side), x.dtype, "cpu"))
            moved = action(turn, x)
            if not bool(torch.as_tensor(self.manifold.belongs(moved, atol=1e-6)).all()):
                continue
            after = self.metric.inner_product(action(turn, v), action(turn, w), moved)
            if bool(((after - product).abs() < _EXACT * (1 + product.abs())).all()):
                return action, side
        return None


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
        volume = known_volume(manifold) if log_volume is None else log_volume
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
        return self.project(random.normal((rows, *self.point), dtype, device))

    @property
    def log_volume(self) -> float:
        """Known or given."""
        return self._log_volume


# Volumes, of the default metrics.


def known_volume(manifold: Any) -> float | None:
    """The logarithm of the volume, where it is known here and the metric is the default one."""
    volume = _VOLUMES.get(type(manifold).__name__)
    metric = getattr(manifold, "metric", None)
    if volume is None or type(metric) is not manifold.default_metric():
        return None
    return volume(manifold)


def _sphere(dimension: int) -> float:
    half = (dimension + 1) / 2
    return math.log(2) + half * math.log(math.pi) - math.lgamma(half)


def _orthogonal(n: int) -> float:
    """O(n), where a basis of the skew matrices is orthonormal that has entries 1 and -1."""
    return sum(_sphere(k) for k in range(n))


def _stiefel(manifold: Any) -> float:
    return _orthogonal(manifold.n) - _orthogonal(manifold.n - manifold.p)


def _grassmannian(manifold: Any) -> float:
    """Projectors: each direction appears twice in the matrix."""
    n, p = manifold.n, manifold.p
    volume = _orthogonal(n) - _orthogonal(p) - _orthogonal(n - p)
    return volume + p * (n - p) / 2 * math.log(2)


_VOLUMES: dict[str, Callable[[Any], float]] = {
    "Grassmannian": _grassmannian,
    "Hypersphere": lambda manifold: _sphere(manifold.dim),
    "PreShapeSpace": lambda manifold: _sphere(manifold.dim),
    "Stiefel": _stiefel,
    "_SpecialOrthogonalMatrices": lambda manifold: _orthogonal(manifold.n) - math.log(2),
}


# Rotations of the ambient space.


def _rotation(x: Tensor) -> Tensor:
    turn = torch.linalg.qr(x.to("cpu", torch.float64))[0]
    return torch.cat([turn[:, :1] * torch.linalg.det(turn).sign(), turn[:, 1:]], 1)


def _left(turn: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("ij,rj...->ri...", turn, x)


def _right(turn: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("r...i,ij->r...j", x, turn)


def _conjugate(turn: Tensor, x: Tensor) -> Tensor:
    return turn @ x @ turn.mT


def _wide(x: Tensor) -> Tensor:
    return x.to("cpu", torch.float64)


def _reproducible(manifold: Any) -> Tensor:
    """A point that geomstats draws from torch's generator, whose state is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        point = manifold.random_point()
    point = point.detach().to("cpu", torch.float64).reshape(manifold.shape)
    try:
        # It may have been drawn in float32.
        mended: Tensor = manifold.projection(point)
    except (AttributeError, NotImplementedError):
        return point
    return mended


def _check(manifold: Any) -> None:
    """Refuse what is no manifold of geomstats' PyTorch backend, or has no metric."""
    loaded = sys.modules.get("geomstats.geometry.manifold")
    if loaded is None or not isinstance(manifold, loaded.Manifold):
        absent = importlib.util.find_spec("geomstats") is None
        how = (
            "geomstats is not installed: pip install 'structdiff[manifolds]' (it needs numpy<2.4)"
            if absent
            else "see geomstats.geometry, Stiefel(5, 2) for example"
        )
        msg = f"manifold must be a manifold of geomstats, got {type(manifold).__name__}: {how}"
        raise ValueError(msg)
    backend = sys.modules["geomstats._backend"].BACKEND_NAME
    if backend != "pytorch":
        msg = (
            f"geomstats runs on its {backend} backend, which has no gradients of torch: set the "
            f"environment variable GEOMSTATS_BACKEND=pytorch before geomstats is first imported"
        )
        raise ValueError(msg)
    if not hasattr(manifold, "metric"):
        name = type(manifold).__name__
        msg = f"manifold must have a metric, got {name} without: call its equip_with_metric"
        raise ValueError(msg)
