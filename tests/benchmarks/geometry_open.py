"""Delicate places of hyperbolic spaces and definite matrices: far points, equal eigenvalues."""

from __future__ import annotations

import math

import torch
from geometry_libraries import Library, of_geomstats, peer, structdiff
from geometry_place import NARROW, WIDE, Cell, Place, number, slope
from torch import Tensor

from structdiff.spaces.hyperbolic import Hyperbolic, PoincareBall
from structdiff.spaces.spd import SPD

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
