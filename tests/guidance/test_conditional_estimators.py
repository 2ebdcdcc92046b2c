"""Joint models of x and y with a time for each leaf: three estimators of the score given y.

For normal (x, y) what minimises the denoising loss of x is linear, so it is found by least squares
on what `diffuse` draws, and compared with the conditional score in closed form.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Cosine, Gaussian, Generator, Linear, Product
from structdiff.schedules import CLEAN
from tests.guidance.worlds import Correlated

COVARIANCE = torch.tensor([[1.0, 0.7], [0.7, 1.3]]).double()
SAMPLES = 100_000


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


PROCESS = Product({"x": Gaussian(Cosine()), "y": Gaussian(Linear())})


def levels(t: float, s: float) -> tuple[Tensor, Tensor]:
    """alpha and sigma of x at t and of y at s, `(2,)` each."""
    found = [PROCESS[n].schedule(torch.tensor(u)) for n, u in (("x", t), ("y", s))]
    return torch.stack([one.alpha for one in found]), torch.stack([one.sigma for one in found])


def fitted(t: float, s: float) -> Tensor:
    """Slopes of x_0 in (x_t, y_s) that minimise the denoising loss of x."""
    z = Generator(0).normal((SAMPLES, 2), torch.float64, "cpu")
    x, y = (z @ torch.linalg.cholesky(COVARIANCE).T).unbind(1)
    clean = Batch.of({"x": x, "y": y})
    times = {"x": torch.tensor(t), "y": torch.tensor(s)}
    noisy = PROCESS.bind(clean).diffuse(clean.leaves, times, Generator(1))
    seen = torch.stack([noisy["x"], noisy["y"]], 1)
    return torch.linalg.lstsq(seen, x[:, None]).solution[:, 0]


def exact(t: float, s: float) -> Tensor:
    """Slopes of E[x_0 | x_t, y_s]."""
    alpha, sigma = levels(t, s)
    noisy = alpha[:, None] * COVARIANCE * alpha + torch.diag(sigma**2)
    return torch.linalg.solve(noisy, alpha * COVARIANCE[0])


def score_gap(slopes: Tensor, t: float, s: float, truth: Tensor | None = None) -> float:
    """Mean squared error of the score of x_t that slopes of x_0 stand for, on noisy records."""
    alpha, sigma = levels(t, s)
    truth = exact(t, s) if truth is None else truth
    noisy = alpha[:, None] * COVARIANCE * alpha + torch.diag(sigma**2)
    gap = (slopes - truth) * alpha[0] / sigma[0] ** 2
    return float(gap @ noisy @ gap)


def conditional_score(x_t: Tensor, y: Tensor, t: float) -> Tensor:
    """d/dx log N(x_t; E, V) of the law of x_t given y."""
    alpha, sigma = levels(t, CLEAN)
    slope = COVARIANCE[0, 1] / COVARIANCE[1, 1]
    left = COVARIANCE[0, 0] - slope * COVARIANCE[0, 1]
    return -(x_t - alpha[0] * slope * y) / (alpha[0] ** 2 * left + sigma[0] ** 2)


@pytest.mark.parametrize("t", [0.3, 0.6, 0.9])
def test_y_clean_gives_the_conditional_score(t):
    """K03, CDE: y at its data; the minimiser is d/dx log p_t(x | y)."""
    slopes = fitted(t, CLEAN)
    assert score_gap(slopes, t, CLEAN) < 1e-3
    alpha, sigma = levels(t, CLEAN)
    x_t, y = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    truth = exact(t, CLEAN)
    found = (alpha[0] * (truth[0] * x_t + truth[1] * y) - x_t) / sigma[0] ** 2
    torch.testing.assert_close(found, conditional_score(x_t, y, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [0.3, 0.6, 0.9])
def test_y_as_noisy_as_x_gives_the_joint_score(t):
    """K03, CDiffE: one time for both; the x part of the score of (x_t, y_t)."""
    assert score_gap(fitted(t, t), t, t) < 1e-3


@pytest.mark.parametrize("t", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("speed", [0.0, 0.25, 1.0])
def test_y_at_a_speed_of_its_own(speed, t):
    """K03, CMDE: y at speed * t. At speed 1 it is CDiffE, and at speed 0 CDE."""
    s = speed * t
    assert score_gap(fitted(t, s), t, s) < 1e-3
    if speed == 0:
        assert torch.equal(levels(t, 0.0)[1][1:], torch.zeros(1))
        torch.testing.assert_close(exact(t, 0.0), exact(t, CLEAN), rtol=1e-12, atol=0)
    else:
        assert score_gap(exact(t, CLEAN), t, s) > 1e-4  # what is known of y is less


def test_slower_y_is_nearer_to_the_conditional_score():
    """The gap between the two scores at the clean y falls with the speed."""
    gaps = [score_gap(exact(0.6, 0.6 * v), 0.6, CLEAN, exact(0.6, CLEAN)) for v in (1, 0.5, 0.2)]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


@pytest.mark.parametrize("t", [0.3, 0.7])
def test_one_model_is_the_marginal_the_conditional_and_the_joint_one(t):
    """N10: y at pure noise, at its data, at any time; the score error is below 0.05."""
    end = 1 - 1e-9
    alpha, sigma = levels(t, end)
    marginal = alpha[0] * COVARIANCE[0, 0] / (alpha[0] ** 2 * COVARIANCE[0, 0] + sigma[0] ** 2)
    slopes = fitted(t, end)
    assert math.sqrt(score_gap(slopes, t, end, torch.stack([marginal, 0 * marginal]))) < 0.05
    assert math.sqrt(score_gap(fitted(t, CLEAN), t, CLEAN)) < 0.05


@pytest.mark.parametrize("times", [(0.5, CLEAN), (0.5, 0.5), (0.5, 0.2)])
def test_the_exact_denoiser_of_one_leaf_says_the_same(times):
    """Entries of one leaf with times of their own are the same three estimators."""
    leaf = Gaussian(Cosine(), event=(2,))
    x = Generator(3).normal((6, 2), torch.float64, "cpu")
    t = torch.tensor(times).expand(6, 2)
    found = Correlated(leaf, COVARIANCE)(Batch.of(x), {"x": t})["x"].value[:, 0]
    level = [leaf.schedule(torch.tensor(u)) for u in times]
    alpha, sigma = (torch.stack([getattr(v, n) for v in level]) for n in ("alpha", "sigma"))
    noisy = alpha[:, None] * COVARIANCE * alpha + torch.diag(sigma**2)
    expected = x @ torch.linalg.solve(noisy, alpha * COVARIANCE[0])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
