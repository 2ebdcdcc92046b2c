"""Score distillation: its gradient in closed form, and where it leads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Product,
    uniform,
)
from structdiff.guidance.distillation import score_distillation
from structdiff.spaces import SO3, Sphere, Torus
from structdiff.testing import ExactDenoiser, NormalDenoiser


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def one(clock: Tensor) -> Tensor:
    return torch.ones_like(clock)


def test_the_gradient_is_predicted_less_drawn_noise():
    """w / sigma (predicted - drawn noise), and nothing through the denoiser."""
    denoiser = NormalDenoiser(
        Gaussian(Cosine(), event=(2,)), torch.ones(1, 2), torch.tensor([0.5])
    )
    theta, t = (
        Generator(1).normal((3, 2), torch.float64, "cpu").requires_grad_(),
        torch.tensor(0.4),
    )
    score_distillation(denoiser, Batch.of(theta), t, Generator(0), one).sum().backward()
    level = denoiser.leaf.schedule(t)
    z = Generator(0).normal((3, 2), torch.float64, "cpu")
    x_t = level.alpha * theta.detach() + level.sigma * z
    said = denoiser(Batch.of(x_t), {"x": t})["x"].value
    predicted = (x_t - level.alpha * said) / level.sigma
    torch.testing.assert_close(theta.grad, (predicted - z) / level.sigma)


def descend(denoiser: ExactDenoiser | NormalDenoiser, theta: Tensor, make: object) -> Tensor:
    """Two hundred steps at random times; `make` renders the record from theta."""
    theta = theta.clone().requires_grad_()
    descent, random = torch.optim.SGD([theta], lr=0.02), Generator(0)
    for t in 0.1 + 0.6 * Generator(1).uniform((300,), torch.float64, "cpu"):
        descent.zero_grad()
        score_distillation(denoiser, make(theta), t, random, one).sum().backward()
        descent.step()
    return theta.detach()


def test_theta_goes_to_the_mode():
    """Of a normal law its mean, through a linear g; every start to the same theta."""
    mean, a = torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    denoiser = NormalDenoiser(Gaussian(Cosine(), event=(2,)), mean, torch.tensor([0.2]))
    start = 3 * Generator(3).normal((64, 2), torch.float64, "cpu")
    theta = descend(denoiser, start, lambda theta: Batch.of(theta @ a))
    found = theta @ a
    torch.testing.assert_close(found.mean(0), mean[0], rtol=0, atol=0.1)
    assert found.std(0).max() < 0.5 * (start @ a).std(0).min()


def test_on_a_torus_too_and_rows_of_a_sample_together():
    """Angles go to the nearest point of the data."""
    points = torch.tensor([[1.0, 2.5], [1.0, 2.5], [-2.0, 0.0], [-2.0, 0.0]])
    layout = Layout.ragged([2, 2])
    process = Product({"x": Brownian(Geometric(0.1, 3.0), Torus(2))})
    denoiser = ExactDenoiser(process, Batch({"x": points}, {"x": layout}))
    near = points[:2] + torch.tensor([[0.4, -0.3], [-0.3, 0.3]])
    one_sample = {"x": Layout.ragged([2])}
    theta = descend(denoiser, near, lambda theta: Batch({"x": theta}, one_sample))
    assert (theta - points[:2]).abs().max() < 0.15


def test_leaves_without_a_score_are_refused():
    process = Product({"x": Categorical(Flow(), uniform(2))})
    denoiser = ExactDenoiser(process, Batch.of(torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="score distillation needs scores"):
        score_distillation(denoiser, denoiser.data, torch.tensor(0.5), Generator(0))


def test_points_of_curved_spaces_go_to_the_data():
    """On a sphere and on rotations, by projected descent from anywhere."""
    north, still = torch.tensor([[0.0, 0.0, 1.0]]), torch.eye(3)[None]
    for space, point in ((Sphere(2), north), (SO3(), still)):
        process = Product({"x": Brownian(Geometric(0.05, 3.0), space)})
        denoiser, random = ExactDenoiser(process, Batch.of(point)), Generator(1)
        many = Batch.of(point.repeat(32, *(1,) * (point.ndim - 1)))
        theta = start = process.bind(many).prior(Generator(0))["x"]
        for _ in range(120):
            theta = theta.detach().requires_grad_()
            score_distillation(
                denoiser, Batch.of(theta), torch.tensor(0.3), random
            ).sum().backward()
            theta = space.project(theta.detach() - 0.05 * theta.grad)
        gaps = [space.distance(x, many["x"]).mean() for x in (start, theta)]
        assert gaps[0] > 1 and gaps[1] < 0.2, gaps


def test_each_sample_has_its_time_and_its_weight():
    """By default sigma^2 where alpha^2 + sigma^2 = 1: sigma (predicted - drawn noise)."""
    denoiser = NormalDenoiser(Gaussian(Cosine()), torch.ones(1), torch.tensor([0.5]))
    theta, t = torch.tensor([0.3, -1.0, 2.0]).requires_grad_(), torch.tensor([0.2, 0.5, 0.8])
    score_distillation(denoiser, Batch.of(theta), t, Generator(0)).sum().backward()
    level, z = denoiser.leaf.schedule(t), Generator(0).normal((3,), torch.float64, "cpu")
    x_t = level.alpha * theta.detach() + level.sigma * z
    said = denoiser(Batch.of(x_t), {"x": t})["x"].value
    predicted = (x_t - level.alpha * said) / level.sigma
    torch.testing.assert_close(theta.grad, level.sigma * (predicted - z))
