"""The simplex: the metric of Fisher and Rao, faces and vertices, Dirichlet draws, its volume."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from structdiff.batch import Batch
from structdiff.divergence import exact_divergence
from structdiff.processes import GeodesicFlow, Product
from structdiff.random import Generator
from structdiff.spaces.simplex import Simplex

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def points(space: Simplex, rows: int, seed: int = 0) -> Tensor:
    return space.uniform(rows, Generator(seed), torch.float64, "cpu")


@pytest.mark.parametrize("classes", [1, 129])
def test_number_of_classes(classes: int) -> None:
    with pytest.raises(ValueError, match=f"classes is {classes}, must be from 2 to 128"):
        Simplex(classes)


def test_distance_is_that_of_fisher_and_rao() -> None:
    """2 arccos of Bhattacharyya's coefficient; for two classes the integral of dp / sqrt(pq)."""
    space = Simplex(5)
    p, q = points(space, 50), points(space, 50, seed=1)
    expected = 2 * torch.acos((p.sqrt() * q.sqrt()).sum(1))
    torch.testing.assert_close(space.distance(p, q), expected, rtol=1e-12, atol=1e-12)
    length, _ = integrate.quad(lambda t: 1 / math.sqrt(t * (1 - t)), 0.2, 0.9)
    two = torch.tensor([[0.2, 0.8], [0.9, 0.1]], dtype=torch.float64)
    found = Simplex(2).distance(two[:1], two[1:]).item()
    assert math.isclose(found, length, rel_tol=1e-10)


def test_metric_is_the_fisher_information() -> None:
    """For a small step dp, |log|^2 is sum dp^2 / p, and log is dp / sqrt(p)."""
    space = Simplex(4)
    p = 0.5 * points(space, 30) + 0.125
    step = torch.tensor([2e-6, -1e-6, 1e-6, -2e-6], dtype=torch.float64)
    torch.testing.assert_close(space.log(p, p + step), step / p.sqrt(), rtol=1e-4, atol=0)
    # To second order the relative entropy is half the squared distance.
    gap = (p * (p / (p + 1e3 * step)).log()).sum(1)
    square = space.norm2(space.log(p, p + 1e3 * step))
    torch.testing.assert_close(gap, square / 2, rtol=2e-2, atol=0)


@DTYPES
def test_vertices_and_faces(dtype: torch.dtype) -> None:
    """Values are right there, and derivatives finite."""
    space, tolerance = Simplex(3), 10 * torch.finfo(dtype).eps
    x = torch.tensor([[1, 0, 0], [1, 0, 0], [0.5, 0.5, 0], [1, 0, 0]], dtype=dtype)
    y = torch.tensor([[0, 1, 0], [1, 0, 0], [0.2, 0, 0.8], [0.5, 0, 0.5]], dtype=dtype)
    expected = [math.pi, 0.0, 2 * math.acos(math.sqrt(0.1)), math.pi / 2]
    x.requires_grad_()
    v = space.log(x, y)
    found = space.distance(x, y).detach()
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=dtype), rtol=tolerance, atol=tolerance
    )
    end = space.exp(x, v)
    torch.testing.assert_close(end.detach(), y, rtol=tolerance, atol=tolerance)
    total = v.square().sum() + end.square().sum() + space.transport(x, y, v.detach()).sum()
    (grad,) = torch.autograd.grad(total, x, create_graph=True)
    assert grad.isfinite().all()
    (bend,) = torch.autograd.grad(grad.sum(), x)
    assert bend.isfinite().all()
    half = space.norm2(space.log(x[3:], y[3:])).sum() / 2
    (grad,) = torch.autograd.grad(half, x)
    assert grad[3, 0].abs() > 0.1
    assert grad[3, 1:].abs().sum() == 0  # stated: constant where p is 0


@pytest.mark.parametrize("x", [[1.0, 0.0, 0.0], [0.6, 0.4, 0.0], [0.6, 0.3, 0.1]])
def test_divergence_at_faces(x: list[float]) -> None:
    """Of log to a point: that of the sphere, -(1 + (K - 2) r cot r), at corners and faces too."""
    space = Simplex(3)
    point, y = torch.tensor([[x], [[0.2, 0.3, 0.5]]], dtype=torch.float64)
    batch = Batch.of(point)
    process = Product({"x": GeodesicFlow(space)}).bind(batch)
    found = exact_divergence(lambda at: {"x": space.log(at["x"], y)}, process, batch)
    r = space.distance(point, y) / 2
    torch.testing.assert_close(found.divergence["x"], -1 - r / r.tan(), rtol=1e-9, atol=0)


def test_geodesics_are_folded_at_faces() -> None:
    """As |cos| and |sin| of half the length: two classes are a circle, folded four times."""
    space = Simplex(2)
    length = torch.linspace(0, 12, 50, dtype=torch.float64)
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(50, 2)
    y = space.exp(x, torch.stack([0 * length, length], 1))
    expected = torch.stack([(length / 2).cos().square(), (length / 2).sin().square()], 1)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-14)
    folded = torch.acos(torch.cos(length))
    torch.testing.assert_close(space.distance(x, y), folded, rtol=0, atol=1e-7)


def test_uniform_draws_are_dirichlet() -> None:
    """Each probability has the law Beta(1/2, (K - 1) / 2), and the mean of p_i p_j is known."""
    classes, rows = 4, 20_000
    x = points(Simplex(classes), rows)
    assert stats.kstest(x[:, 1].numpy(), stats.beta(0.5, (classes - 1) / 2).cdf).pvalue > 1e-3
    both = x[:, 0] * x[:, 2]
    expected = 0.25 / (classes / 2 * (classes / 2 + 1))
    assert abs(both.mean().item() - expected) < 4 * both.std().item() / math.sqrt(rows)


@pytest.mark.parametrize("classes", [2, 3])
def test_volume(classes: int) -> None:
    """The integral of prod p_k^{-1/2} over the simplex."""

    def width(total: float) -> float:
        """Over p_1 + p_2 = total."""
        weight = {"weight": "alg", "wvar": (-0.5, -0.5)}
        return integrate.quad(lambda p: 1.0, 0, total, **weight)[0]

    if classes == 3:
        outer = {"weight": "alg", "wvar": (0.0, -0.5)}
        truth = integrate.quad(width, 0, 1, **outer)[0]
    else:
        truth = width(1.0)
    assert math.isclose(math.exp(Simplex(classes).log_volume), truth, rel_tol=1e-7)


def test_belongs_says_what_is_wrong() -> None:
    x = torch.tensor([[0.5, 0.5], [0.7, 0.7], [1.2, -0.2]])
    found = Simplex(2).belongs(x)
    assert found.inside.tolist() == [True, False, False]
    assert found.reason is not None
    assert "row 1: the sum differs from 1, or a number is below 0, by 0.4" in found.reason


def test_projection_mends() -> None:
    x = torch.tensor([[0.5, 0.6, -0.1], [0.2, 0.2, 0.4]], dtype=torch.float64)
    expected = torch.tensor([[5 / 11, 6 / 11, 0], [0.25, 0.25, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(Simplex(3).project(x), expected, rtol=1e-14, atol=0)
