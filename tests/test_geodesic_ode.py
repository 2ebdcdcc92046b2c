"""The solver on manifolds: closed-form curves, its tolerance, and samples by themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Generator, Layout
from structdiff.geodesic_ode import Path, integrate
from structdiff.spaces import SO3, Euclidean, Manifold, Torus
from structdiff.spaces.hyperbolic import Hyperbolic
from structdiff.spaces.spd import SPD
from structdiff.spaces.sphere import Sphere

AXIS = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)


def sphere_points(rows: int) -> Tensor:
    return Sphere(2).uniform(rows, Generator(0), torch.float64, "cpu")


def turning(x: Mapping[str, Tensor], t: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The sphere turns about an axis, faster and faster; beside it the integral of 2 t."""
    v = 2 * t[:, None] * torch.linalg.cross(AXIS.expand_as(x["x"]), x["x"])
    return {"x": v}, {"q": 2 * t}


def turned(x: Tensor, angle: float) -> Tensor:
    spin = torch.zeros(3, 3, dtype=torch.float64)
    a, b, c = AXIS.tolist()
    spin[0, 1], spin[0, 2], spin[1, 2] = -c, b, -a
    return x @ torch.linalg.matrix_exp(angle * (spin - spin.T)).T


def solve(x: Tensor, tolerance: float, start: float = 0.0, end: float = 2.0) -> Path:
    space = {"x": Sphere(2)}
    return integrate(turning, space, Batch.of(x), start, end, tolerance=tolerance)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_a_turn_of_the_sphere(tolerance: float) -> None:
    x = sphere_points(20)
    path = solve(x, tolerance)
    assert float((path.x["x"] - turned(x, 4.0)).abs().max()) < 30 * tolerance
    torch.testing.assert_close(path.totals["q"], torch.full((20,), 4.0).double())
    assert float((path.x["x"].norm(dim=1) - 1).abs().max()) < 1e-14


def test_the_order_is_five() -> None:
    """The number of calls grows as tolerance^(-1/5): a thousandth needs four times as many."""
    x = sphere_points(1)
    few, many = (solve(x, tolerance).calls for tolerance in (1e-9, 1e-12))
    assert 3.5 < many / few < 4.5


def test_backwards_is_the_way_back() -> None:
    x = sphere_points(5)
    there = solve(x, 1e-10)
    back = solve(there.x["x"], 1e-10, 2.0, 0.0)
    torch.testing.assert_close(back.x["x"], x, rtol=0, atol=1e-8)
    torch.testing.assert_close(back.totals["q"], -there.totals["q"])


@pytest.mark.parametrize(
    "space", [Torus(2), SO3(), Hyperbolic(2), SPD(2), Euclidean(3)], ids=lambda s: type(s).__name__
)
def test_geodesics_have_transported_velocities(space: Manifold) -> None:
    """The flow of -log_x(goal) / t is the geodesic away from the goal; all charts are crossed."""
    origin = space.origin(torch.float64, "cpu").expand(6, *space.point)
    goal = space.exp(origin, 0.3 * space.noise(origin, Generator(1)))
    x = space.exp(goal, 0.2 * space.noise(goal, Generator(2)))

    def field(at: Mapping[str, Tensor], t: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        v = -space.log(at["x"], goal)
        return {"x": v / t.reshape(-1, *(1,) * (v.ndim - 1))}, {}

    path = integrate(field, {"x": space}, Batch.of(x), 0.2, 1.0, tolerance=1e-8)
    truth = space.exp(goal, 5 * space.log(goal, x))
    assert float(space.distance(path.x["x"], truth).max()) < 1e-6


def test_a_sample_does_not_depend_on_the_others() -> None:
    """Ragged, and of very different speeds."""
    layout = Layout.ragged([2, 1, 3])
    x = sphere_points(6)
    rate = torch.tensor([1.0, 30.0, 0.1]).double()

    def solve_some(batch: Batch, speed: Tensor) -> Path:
        def field(
            at: Mapping[str, Tensor], t: Tensor
        ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            v, _ = turning(at, batch.layouts["x"].spread(t * speed))
            centre = batch.layouts["x"].spread(batch.layouts["x"].mean(at["x"]))
            pull = Sphere(2).to_tangent(at["x"], centre)
            return {"x": v["x"] + pull}, {"q": speed * t}

        return integrate(field, {"x": Sphere(2)}, batch, 0.0, 1.0, tolerance=1e-4)

    batch = Batch({"x": x}, {"x": layout})
    whole = solve_some(batch, rate)
    for i in range(3):
        alone = solve_some(batch.select([i]), rate[[i]])
        rows = layout.rows_of(torch.tensor([i]))
        assert torch.equal(whole.x["x"][rows], alone.x["x"])
        assert torch.equal(whole.totals["q"][[i]], alone.totals["q"])


def test_refusals() -> None:
    x = sphere_points(3)
    with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
        solve(x, 0.0)

    def blown(at: Mapping[str, Tensor], t: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {"x": at["x"] / (0.5 - t)[:, None] ** 2}, {}

    with pytest.raises(ArithmeticError, match=r"did not reach t = 1 in 60 steps for 3 samples"):
        integrate(blown, {"x": Euclidean(3)}, Batch.of(x), 0.0, 1.0, tolerance=1e-6, limit=60)


def test_what_is_not_finite_is_given_up_soon() -> None:
    """Not after ten thousand steps; the samples are named."""
    x, seen = torch.tensor([[0.3], [math.nan], [1.0]]), []

    def field(at: Mapping[str, Tensor], t: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        seen.append(t)
        return {"x": -at["x"].sin()}, {}

    with pytest.raises(ArithmeticError, match=r"for 1 samples \(ids \[1\]\): see that they"):
        integrate(field, {"x": Torus(1)}, Batch.of(x), 0.0, 1.0, tolerance=1e-6)
    assert len(seen) < 500


def test_no_step_leaves_its_chart() -> None:
    """A fast turn of the circle: many times round, in steps below the injectivity radius."""
    speed = 100 * math.pi

    def field(at: Mapping[str, Tensor], t: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {"x": torch.full_like(at["x"], speed)}, {"q": torch.full_like(t, speed)}

    x = torch.zeros(1, 1).double()
    path = integrate(field, {"x": Torus(1)}, Batch.of(x), 0.0, 1.0, tolerance=1.0)
    assert float(path.totals["q"]) == pytest.approx(speed)
    assert abs(float(path.x["x"])) < 1e-9
    assert path.calls > 6 * speed / (0.4 * math.pi)
