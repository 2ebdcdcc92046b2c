"""Delicate places of geometry: what comes out, here and in other libraries.

For every space, at its origin o and along a unit tangent vector e there, with y(t) = exp_o(t e)
written in closed form:

    slope of log            d/dt <log_o y(t), e> at 0, which is 1
    bend of dist^2          d^2/dt^2 dist(o, y(t))^2 at 0, which is 2
    bend of exp             d^2/dt^2 exp_o(t e) at 0, which is y''(0)
    dist at 1e-8            of o and y(1e-8) in float32
    dist at 1e-6 afar       of two points 1e-6 apart, 3 from the origin (1 in SO(3)), in float64
    dist(x, x)              of 10,000 points in float32: how many are NaN, and the largest

and where the space has them: opposite points, half turns, equal eigenvalues, points far apart.
Truth is a closed form, or mpmath with 50 digits. "right" is within 1e-3 of it (float32) or 1e-6
(float64), relative; its error stands beside it.

    OMP_NUM_THREADS=1 GEOMSTATS_BACKEND=pytorch python tests/benchmarks/geometry_safety.py

Libraries that are not installed are left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import SO3
from structdiff.spaces.base import Manifold
from structdiff.spaces.hyperbolic import Hyperbolic, PoincareBall
from structdiff.spaces.spd import SPD
from structdiff.spaces.sphere import Sphere

Cell = tuple[float, float, float]
"""What came out, the truth, the tolerance."""

WIDE, NARROW = 1e-6, 1e-3
_PLAIN = "no gradient"


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
        raise RuntimeError(_PLAIN)
    found = torch.autograd.grad(value.sum(), t, create_graph=True, allow_unused=True)[0]
    # A constant (of a curve that is linear in an entry) has no graph.
    return 0 * t if found is None else found + 0 * t


def slope_of_log(place: Place, library: Library) -> Cell:
    t = number(0.0)
    return slope(library.log(place.curve(t)), t).item(), 1.0, WIDE


def bend_of_square(place: Place, library: Library) -> Cell:
    t = number(0.0)
    square = library.square(place.curve(number(0.0).detach()), place.curve(t))
    return slope(slope(square, t), t).item(), 2.0, WIDE


def bend_of_exp(place: Place, library: Library) -> Cell:
    """The entry of the second derivative that is largest in truth."""

    def bends(path: Callable[[Tensor], Tensor]) -> Tensor:
        t = number(0.0)
        entries = path(t).flatten()
        if not entries.requires_grad:
            raise RuntimeError(_PLAIN)
        return torch.stack([slope(slope(x, t), t)[0] for x in entries])

    truth = bends(place.curve)
    place_of = truth.abs().argmax()
    return bends(library.exp)[place_of].item(), truth[place_of].item(), WIDE


def small_distance(place: Place, library: Library) -> Cell:
    start, end = (place.curve(torch.tensor([s], dtype=torch.float32)) for s in (0.0, 1e-8))
    return library.dist(start, end).item(), 1e-8, NARROW


def distance_afar(place: Place, library: Library) -> Cell:
    x, y = place.apart()
    return library.dist(x, y).item(), 1e-6, WIDE


def self_distance(place: Place, library: Library) -> str:
    """The share of NaN and the largest number."""
    space = place.native
    start = space.origin(torch.float64, "cpu").expand(10_000, *space.point)
    x = space.exp(start, space.noise(start, Generator(0))).float()
    found = library.dist(x, x)
    lost = found.isnan().double().mean().item()
    largest = found.nan_to_num(0.0).abs().max().item()
    if lost:
        return f"**NaN for {100 * lost:.0f} %**"
    return f"right (0 to {largest:.0e})" if largest < 1e-6 else f"**wrong: up to {largest:.1g}**"


# Our spaces.


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


# Spheres.


def sphere() -> Place:
    def curve(t: Tensor) -> Tensor:
        return torch.stack([torch.cos(t), torch.sin(t), 0 * t], 1)

    def apart() -> tuple[Tensor, Tensor]:
        return tuple(curve(torch.tensor([3.0 + s], dtype=torch.float64)) for s in (0.0, 1e-6))

    def opposite(library: Library) -> Cell:
        x = curve(torch.tensor([0.0], dtype=torch.float64))
        return library.length(x, -x).item(), math.pi, WIDE

    def slope_opposite(library: Library) -> str:
        """Of the distance along y(t) at t = pi, the cut locus: from -1 to 1."""
        t = number(math.pi)
        value = slope(library.length(curve(0 * t.detach()), curve(t)), t).item()
        if math.isnan(value):
            return "**NaN**"
        return f"right ({value:.0f})" if abs(value) < 1 + WIDE else f"**wrong: {value:.1g}**"

    origin, unit = curve(torch.zeros(1).double()), torch.tensor([[0.0, 1.0, 0.0]])
    return Place(
        curve,
        Sphere(2),
        apart,
        {
            "structdiff": structdiff(Sphere(2), 1),
            **peer("geoopt", lambda g: g.Sphere(), origin, unit),
            **peer("geomstats", of_geomstats("hypersphere.Hypersphere(2)"), origin, unit),
            **peer("flow-matching", lambda m: m.Sphere(), origin, unit),
        },
        {
            "length of log, opposite points": opposite,
            "slope of the distance there": slope_opposite,
        },
    )


# Rotations.


def about(t: Tensor, axis: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Tensor:
    """Rotations by `t`, by Rodrigues' formula."""
    n = torch.tensor(axis, dtype=t.dtype)
    x, y, z = n.tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=t.dtype)
    square = cross @ cross
    s, c = torch.sin(t)[:, None, None], 2 * torch.sin(t / 2).square()[:, None, None]
    return torch.eye(3, dtype=t.dtype) + s * cross + c * square


def rotations() -> Place:
    place = (0.48, 0.6, 0.64)

    def apart() -> tuple[Tensor, Tensor]:
        x = about(torch.tensor([1.0], dtype=torch.float64), place)
        return x, x @ about(torch.tensor([1e-6], dtype=torch.float64))

    def half(library: Library, dtype: torch.dtype = torch.float64) -> Cell:
        x = torch.eye(3, dtype=dtype)[None]
        y = about(torch.tensor([math.pi], dtype=torch.float64), place).to(dtype)
        off = (library.back(x, y) - y).abs().max().item()
        return 1 + off, 1.0, WIDE if dtype == torch.float64 else NARROW

    def near_half(library: Library) -> Cell:
        x = torch.eye(3, dtype=torch.float32)[None]
        angle = math.pi - 1e-3
        y = about(torch.tensor([angle], dtype=torch.float64), place).float()
        return library.length(x, y).item(), angle, 1e-6

    def slope_half(library: Library) -> Cell:
        """The angle's slope, from below."""
        t = number(math.pi - 1e-7)
        y = about(t, place)
        return slope(library.length(torch.eye(3).double()[None], y), t).item(), 1.0, WIDE

    libraries = {"structdiff": structdiff(SO3(), 2)}
    skew = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    libraries |= peer(
        "geomstats",
        of_geomstats("special_orthogonal.SpecialOrthogonal(3)"),
        torch.eye(3)[None],
        skew,
    )
    if importlib.util.find_spec("roma") is not None:
        roma = importlib.import_module("roma")

        def log(x: Tensor, y: Tensor) -> Tensor:
            return roma.rotmat_to_rotvec(x.mT @ y)

        axis = torch.tensor([[0.0, 0.0, 1.0]])
        libraries["roma"] = Library(
            exp=lambda t: roma.rotvec_to_rotmat(t[:, None] * axis.to(t)),
            log=lambda y: roma.rotmat_to_rotvec(y)[:, 2],
            dist=roma.rotmat_geodesic_distance,
            square=lambda x, y: roma.rotmat_geodesic_distance(x, y).square(),
            length=lambda x, y: log(x, y).norm(dim=1),
            back=lambda x, y: x @ roma.rotvec_to_rotmat(log(x, y)),
        )
    from scipy.spatial.transform import Rotation

    def rotvec(x: Tensor, y: Tensor) -> Tensor:
        return torch.as_tensor(Rotation.from_matrix((x.mT @ y).detach().numpy()).as_rotvec())

    libraries["scipy (no gradients)"] = Library(
        exp=lambda t: torch.as_tensor(Rotation.from_rotvec([[0, 0, t.item()]]).as_matrix()),
        log=lambda y: rotvec(torch.eye(3, dtype=y.dtype)[None], y)[:, 2],
        dist=lambda x, y: rotvec(x, y).norm(dim=1),
        square=lambda x, y: rotvec(x, y).square().sum(1),
        length=lambda x, y: rotvec(x, y).norm(dim=1),
        back=lambda x, y: (
            x @ torch.as_tensor(Rotation.from_rotvec(rotvec(x, y).numpy()).as_matrix()).to(x)
        ),
    )
    return Place(
        about,
        SO3(),
        apart,
        libraries,
        {
            "exp(log) of a half turn": half,
            "the same in float32": lambda library: half(library, torch.float32),
            "angle pi - 1e-3, float32": near_half,
            "slope of the angle at pi - 1e-7": slope_half,
        },
    )


# Hyperbolic spaces.


def sinh_over(r: float) -> tuple[float, float]:
    """cosh and sinh by mpmath."""
    import mpmath

    with mpmath.workdps(50):
        return float(mpmath.cosh(r)), float(mpmath.sinh(r))


def tanh_half(r: float) -> float:
    """tanh(r / 2) by mpmath."""
    import mpmath

    with mpmath.workdps(50):
        return float(mpmath.tanh(mpmath.mpf(r) / 2))


def hyperboloid() -> Place:
    def curve(t: Tensor) -> Tensor:
        return torch.stack([torch.cosh(t), torch.sinh(t), 0 * t], 1)

    def at(r: float) -> Tensor:
        c, s = sinh_over(r)
        return torch.tensor([[c, s, 0.0]], dtype=torch.float64)

    def far(library: Library) -> Cell:
        return library.dist(at(15.0), at(-15.0)).item(), 30.0, WIDE

    def far32(library: Library) -> Cell:
        return library.dist(at(6.0).float(), at(-6.0).float()).item(), 12.0, NARROW

    def out(library: Library) -> Cell:
        start = at(0.0).float()
        return (
            library.dist(start, library.exp(torch.tensor([8.0], dtype=start.dtype))).item(),
            8.0,
            NARROW,
        )

    origin, unit = at(0.0), torch.tensor([[0.0, 1.0, 0.0]])
    return Place(
        curve,
        Hyperbolic(2),
        lambda: (at(3.0), at(3.0 + 1e-6)),
        {
            "structdiff": structdiff(Hyperbolic(2), 0),
            **peer("geoopt", lambda g: g.Lorentz(), origin, unit),
            **peer("geomstats", of_geomstats("hyperboloid.Hyperboloid(2)"), origin, unit),
        },
        {
            "dist of points 30 apart": far,
            "12 apart in float32": far32,
            "dist(o, exp(8 e)), float32": out,
        },
    )


def ball() -> Place:
    def curve(t: Tensor) -> Tensor:
        return torch.stack([torch.tanh(t / 2), 0 * t], 1)

    def at(r: float) -> Tensor:
        return torch.tensor([[tanh_half(r), 0.0]], dtype=torch.float64)

    def far(library: Library) -> Cell:
        return library.dist(at(10.0), at(-10.0)).item(), 20.0, WIDE

    def far32(library: Library) -> Cell:
        return library.dist(at(4.0).float(), at(-4.0).float()).item(), 8.0, NARROW

    origin, unit = at(0.0), torch.tensor([[1.0, 0.0]])
    return Place(
        curve,
        PoincareBall(2),
        lambda: (at(3.0), at(3.0 + 1e-6)),
        {
            "structdiff": structdiff(PoincareBall(2), 0),
            # The metric of the ball is 4 at its centre.
            **peer("geoopt", lambda g: g.PoincareBall(), origin, unit, scale=0.5),
            **peer(
                "geomstats", of_geomstats("poincare_ball.PoincareBall(2)"), origin, unit, scale=0.5
            ),
        },
        {"dist of points 20 apart": far, "8 apart in float32": far32},
    )


# Positive definite matrices.


def positive() -> Place:
    swap = torch.zeros(1, 3, 3)
    swap[0, 0, 1] = swap[0, 1, 0] = math.sqrt(0.5)

    def curve(t: Tensor) -> Tensor:
        """expm(t e) with e the unit swap of the first two axes."""
        c, s = torch.cosh(t * math.sqrt(0.5)), torch.sinh(t * math.sqrt(0.5))
        zero, one = 0 * t, 1 + 0 * t
        rows = [c, s, zero, s, c, zero, zero, zero, one]
        return torch.stack(rows, 1).reshape(-1, 3, 3)

    def apart() -> tuple[Tensor, Tensor]:
        diagonal = torch.tensor(
            [math.exp(2.0), math.exp(-2.0), math.exp(1.0)], dtype=torch.float64
        )
        root = torch.diag(diagonal.sqrt())[None]
        return root @ root, root @ curve(torch.tensor([1e-6], dtype=torch.float64)) @ root

    def equal(library: Library) -> Cell:
        """d/ds <log_I(diag(2, 2, 1) + s e), e> at 0 is 1/2, the slope of the logarithm at 2."""
        s = number(0.0)
        y = (
            torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))[None]
            + s * swap.double()
        )
        return slope(library.log(y), s).item(), 0.5, WIDE

    def bend_equal(library: Library) -> Cell:
        """The second derivative of dist(I, .)^2 there, by differences of the closed form."""
        s = number(0.0)
        y = (
            torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))[None]
            + s * swap.double()
        )
        square = library.square(torch.eye(3, dtype=torch.float64)[None], y)
        return slope(slope(square, s), s).item(), (1 - math.log(2.0)) / 2, WIDE

    def slope_of_exp(library: Library) -> Cell:
        t = number(0.0)
        return slope(library.exp(t)[:, 0, 1], t).item(), math.sqrt(0.5), WIDE

    def slope_of_both(library: Library) -> Cell:
        """d/dt exp_x(log_x y) at x = y(t), t = 0, is 0: it is y for every x."""
        t = number(0.0)
        y = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))[None]
        return slope(library.back(curve(t), y)[:, 0, 1], t).item(), 0.0, WIDE

    libraries = {
        "structdiff": structdiff(SPD(3), 3),
        **peer("geoopt", lambda g: g.SymmetricPositiveDefinite(), torch.eye(3)[None], swap),
        **peer("geomstats", of_geomstats("spd_matrices.SPDMatrices(3)"), torch.eye(3)[None], swap),
    }
    return Place(
        curve,
        SPD(3),
        apart,
        libraries,
        {
            "slope of exp at the identity": slope_of_exp,
            "slope of exp_x(log_x y) in x at I": slope_of_both,
            "slope of log, equal eigenvalues": equal,
            "bend of dist^2, equal eigenvalues": bend_equal,
        },
    )


PLACES = {
    "S^2": sphere,
    "SO(3)": rotations,
    "H^2, hyperboloid": hyperboloid,
    "H^2, ball": ball,
    "SPD(3), affine-invariant": positive,
}
CASES: dict[str, Callable[[Place, Library], Cell]] = {
    "slope of log(x, y) at y = x": slope_of_log,
    "bend of dist^2 at y = x": bend_of_square,
    "bend of exp at v = 0": bend_of_exp,
    "dist at 1e-8, float32": small_distance,
    "dist at 1e-6, afar": distance_afar,
}


def verdict(cell: Callable[[], Cell | str]) -> str:
    """In words."""
    try:
        outcome = cell()
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).split("\n")[0].split(":")[0].rstrip(".")
        return _PLAIN if reason == _PLAIN or "requires grad" in reason else f"**raises**: {reason}"
    if isinstance(outcome, str):
        return outcome
    found, truth, tolerance = outcome
    if math.isnan(found):
        return "**NaN**"
    error = abs(found - truth) / (abs(truth) or 1)
    if error <= tolerance:
        return f"right ({error:.0e})"
    return f"**off by {error:.0e}**" if error < 0.01 else f"**wrong: {found:.3g}**, is {truth:.3g}"


def table(title: str, place: Place) -> str:
    """A Markdown table: cases by libraries."""
    names = list(place.libraries)
    lines = [f"**{title}**\n", "| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    rows: dict[str, Callable[[Library], Cell | str]] = {
        label: lambda library, case=case: case(place, library) for label, case in CASES.items()
    }
    rows["dist(x, x), float32"] = lambda library: self_distance(place, library)
    for label, case in (rows | place.extra).items():
        cells = [
            verdict(lambda case=case, library=library: case(library))
            for library in place.libraries.values()
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print a table per space."""
    os.environ["GEOMSTATS_BACKEND"] = "pytorch"
    for title, make in PLACES.items():
        torch.set_default_dtype(torch.float64)  # geomstats fails with another one
        print(table(title, make()))


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
