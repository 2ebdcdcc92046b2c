"""IGSO(3): laws of its draws, and its entropy."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import igso3
from tests.spaces.turning import SPACE, reference, rotations, time, turn


def law(tau: float, nodes: int = 4001) -> tuple[Tensor, Tensor]:
    """The distribution function of the kernel's angle, by Simpson's rule on a grid."""
    w = torch.linspace(0, math.pi, nodes, dtype=torch.float64)
    log_f = igso3.log_density(turn(w), time(tau))
    density = log_f.exp() * (1 - torch.cos(w)) / math.pi
    return w, torch.from_numpy(
        integrate.cumulative_simpson(density.numpy(), x=w.numpy(), initial=0)
    )


def interpolate(x: Tensor, grid: Tensor, values: Tensor) -> Tensor:
    index = torch.searchsorted(grid, x).clamp(1, len(grid) - 1)
    share = (x - grid[index - 1]) / (grid[index] - grid[index - 1])
    return torch.lerp(values[index - 1], values[index], share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [1e-4, 0.1, 0.6, 0.99, 1.01, 2.0, 8.0])
def test_angle_of_draws_follows_the_density(tau: float, dtype: torch.dtype) -> None:
    x = rotations(20_000).to(dtype)
    y = SPACE.diffuse(x, torch.tensor(tau, dtype=dtype), Generator(1))
    v = SPACE.log(x.double(), y.double())
    angle = v.norm(dim=-1)
    grid, values = law(tau, 40_001 if tau < 0.01 else 4001)
    assert stats.kstest(interpolate(angle, grid, values).numpy(), "uniform").pvalue > 1e-3
    axis = v / angle[:, None]
    for i in range(3):
        assert stats.kstest((axis[:, i] / 2 + 0.5).numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("tau", [0.05, 0.4, 0.8, 0.99, 1.01, 1.5, 3.0, 10.0])
def test_draws_solve_for_the_rank(tau: float) -> None:
    """The rank of the angle is the one of the normal numbers it came from, row by row."""
    z = Generator(4).normal((5000, 4), torch.float64, "cpu")
    length = z[:, 1:].norm(dim=-1)
    angle = igso3.draw(z, time(tau)).norm(dim=-1)
    if tau < 1:
        # The angle is not folded yet: beyond a half turn it counts on to a full turn.
        found, expected = _unfolded(tau, angle), igso3._maxwell(length)
    else:
        grid, values = law(tau)
        found = interpolate(angle, grid, values)
        expected = igso3._haar(2 * torch.atan2(length, z[:, 0].abs()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def _unfolded(tau: float, angle: Tensor) -> Tensor:
    """Integral of the term k = 0 of the dual from 0 to each angle, by Simpson's rule."""
    w = torch.linspace(0, min(2 * math.pi, 8 * math.sqrt(tau)), 8001, dtype=torch.float64)
    scale = 2 / math.pi * math.sqrt(2 * math.pi) * math.exp(tau / 8) / tau**1.5
    density = scale * torch.sin(w / 2) * w * torch.exp(-w * w / (2 * tau))
    values = torch.from_numpy(
        integrate.cumulative_simpson(density.numpy(), x=w.numpy(), initial=0)
    )
    return interpolate(angle, w, values)


def test_uniform_draws_are_uniform() -> None:
    v = SPACE.log(
        torch.eye(3, dtype=torch.float64).expand(20_000, 3, 3), rotations(20_000, seed=9)
    )
    angle = v.norm(dim=-1)
    assert stats.kstest(igso3._haar(angle).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest((v[:, 2] / angle / 2 + 0.5).numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 0.05, 0.0685, 0.1, 0.4, 0.99, 1.4, 6.0])
def test_entropy_gap_agrees_with_quadrature(tau: float) -> None:
    def integrand(w: float) -> float:
        value = reference(w, tau)[0]
        return math.exp(value) * value * (1 - math.cos(w)) / math.pi

    end = min(math.pi, 10 * math.sqrt(tau))
    truth, _ = integrate.quad(integrand, 0, end, epsabs=1e-12, epsrel=1e-12, limit=200)
    assert math.isclose(SPACE.entropy_gap(time(tau)).item(), truth, rel_tol=1e-9, abs_tol=1e-12)
