"""The implicit bound is the density where the score is exact, and above it elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Linear,
    Product,
    uniform,
)
from structdiff.counter import Counter
from structdiff.denoiser import Denoiser
from structdiff.divergence import Hutchinson
from structdiff.likelihood import continuous_bound, flow_log_prob
from structdiff.likelihood.implicit import implicit_bound
from structdiff.objectives import UniformTimes
from structdiff.processes import Estimate, GeodesicFlow
from structdiff.processes.affine import Affine
from structdiff.processes.covariance_dense import Cholesky
from structdiff.processes.langevin import Langevin
from structdiff.processes.phase import PhaseSpace, with_velocities
from structdiff.processes.phase_motion import critically_damped
from structdiff.schedules.by_entry import Speeds
from structdiff.spaces import SO3, Euclidean, HeatKernel, Torus, WrappedNormal
from structdiff.spaces.sphere import Sphere
from structdiff.testing import ExactDenoiser, NormalDenoiser

NOISE = Geometric(0.3, 3.0)
TIMES = UniformTimes(0.1, 1.0)
EARLY = torch.tensor(0.1, dtype=torch.float64)
SPACES: dict[str, HeatKernel] = {"sphere": Sphere(2), "torus": Torus(2), "SO3": SO3()}


class Scaled(Denoiser):
    """Another denoiser's estimates, times a factor: a wrong model."""

    def __init__(self, denoiser: Denoiser, factor: float) -> None:
        super().__init__()
        self.denoiser, self.factor, self.process = denoiser, factor, denoiser.process

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        return {"x": Estimate(self.factor * self.denoiser(batch, t)["x"].value)}


def world(space: HeatKernel, rows: int) -> tuple[ExactDenoiser, Batch, Tensor]:
    """Two points on a space, draws of p_a around them, and -log p_a there."""
    process = Product({"x": Brownian(NOISE, space)})
    data = space.uniform(2, Generator(2), torch.float64, "cpu")
    denoiser = ExactDenoiser(process, Batch.of(data))
    clean = Batch.of(data.repeat(rows // 2, *(1,) * (data.ndim - 1)))
    x = process.bind(clean).diffuse(clean.leaves, {"x": EARLY}, Generator(3))["x"]
    tau = NOISE.sigma(EARLY).square()
    kernels = [space.log_kernel(point.expand_as(x), x, tau) for point in data]
    return denoiser, Batch.of(x), -torch.stack(kernels).logsumexp(0) + math.log(2)


def is_zero(values: Tensor, limit: float = 4.5) -> None:
    assert abs(float(values.mean())) < limit * float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("name", SPACES)
def test_exact_score_reaches_the_density(name: str) -> None:
    """R02: of each point, -log p_a within the Monte-Carlo error."""
    denoiser, batch, truth = world(SPACES[name], 1000)
    few = batch.select(list(range(4)))
    many = Batch.of(few["x"].repeat(500, *(1,) * (few["x"].ndim - 1)))
    bound = implicit_bound(denoiser, many, Generator(0), times=TIMES)
    for k in range(4):
        is_zero(bound.total[k::4] - truth[k])
    whole = implicit_bound(denoiser, batch, Generator(1), times=TIMES)
    is_zero(whole.total - truth)


def test_wrong_score_pays_its_error() -> None:
    """On the sphere, by the integral of g^2 |s - s*|^2 / 2."""
    denoiser, batch, truth = world(Sphere(2), 3000)
    wrong = Scaled(denoiser, 0.5)
    gap = implicit_bound(wrong, batch, Generator(0), times=TIMES).total - truth
    process: Any = denoiser.process.bind(batch)
    time = TIMES.draw(3000, Generator(4))
    t = {"x": time}
    x = batch.with_leaves(process.corrupt(batch.leaves, {"x": EARLY}, t, Generator(5)))
    square = process.score(denoiser(x, t), x.leaves, t)["x"].square().sum(1)
    growth = 2 * NOISE.sigma(time).square() * NOISE.slope(time)
    price = 0.25 * growth * square / 2 * 0.9
    error = math.hypot(float(gap.std()), float(price.std())) / math.sqrt(3000)
    assert float(price.mean()) > 5 * error
    assert float(gap.mean()) == pytest.approx(float(price.mean()), abs=4.5 * error)


@pytest.mark.parametrize("factor", [1.0, 0.6])
def test_agrees_with_the_bound_of_closed_kernels(factor: float) -> None:
    """Less the entropy of q(x_a | x_0), for a wrong model too."""
    space = Torus(2)
    exact, batch, _ = world(space, 3000)
    denoiser = Scaled(exact, factor)
    ours = implicit_bound(denoiser, batch, Generator(0), times=TIMES)
    clean = Batch.of(exact.data["x"].repeat(1500, 1))
    theirs = continuous_bound(denoiser, clean, Generator(1), times=TIMES)
    entropy = space.log_volume - float(space.entropy_gap(NOISE.sigma(EARLY).square()))
    left = ours.total - entropy
    right = theirs.prior["x"] + theirs.divergence["x"]
    error = math.hypot(float(left.std()), float(right.std())) / math.sqrt(3000)
    assert float(left.mean()) == pytest.approx(float(right.mean()), abs=4.5 * error)
    assert error < 0.1


class Drawn(Denoiser):
    """The exact estimate of a Langevin leaf on a line, for the data -1 and 2."""

    def __init__(self, leaf: Langevin) -> None:
        super().__init__()
        self.leaf, self.process = leaf, Product({"x": leaf})

    def log_prob(self, x: Tensor, tau: Tensor) -> Tensor:
        """An Ornstein-Uhlenbeck kernel from each point."""
        alpha, variance = torch.exp(-self.leaf.rate * tau), self.leaf.variance(tau)
        kernels = [
            -((x - alpha * m) ** 2) / (2 * variance) - 0.5 * torch.log(2 * math.pi * variance)
            for m in (-1.0, 2.0)
        ]
        return torch.stack(kernels).logsumexp(0) - math.log(2)

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        x, tau = batch["x"], NOISE.sigma(t["x"]).square()
        tau = tau[:, None] if tau.ndim else tau
        alpha, variance = torch.exp(-self.leaf.rate * tau), self.leaf.variance(tau)
        points = torch.tensor([[-1.0, 2.0]], dtype=torch.float64)
        share = torch.softmax(-((x - alpha * points) ** 2) / (2 * variance), 1)
        score = (alpha * (share * points).sum(1, keepdim=True) - x) / variance
        return {"x": Estimate(tau * score)}


def test_drift_of_a_law_counts() -> None:
    """On a line with a normal law: the exact density of the Ornstein-Uhlenbeck process."""
    space = Euclidean(1)
    leaf = Langevin(NOISE, space, WrappedNormal(space, 1.2), steps=1, rate=1 / (2 * 1.2**2))
    denoiser = Drawn(leaf)
    x = torch.tensor([[-1.5], [0.3], [2.5]], dtype=torch.float64)
    truth = -denoiser.log_prob(x[:, 0], NOISE.sigma(EARLY).square())
    many = Batch.of(x.repeat(2000, 1))
    bound = implicit_bound(denoiser, many, Generator(0), times=TIMES)
    for k in range(3):
        is_zero(bound.total[k::3] - truth[k])


def test_flat_space_with_shrinking_data() -> None:
    """Variance preserving: the drift of x counts; records of two numbers."""
    process = Product({"x": Gaussian(Linear(), event=(2,))})
    data = torch.tensor([[1.0, 0.0], [-0.5, 0.8]], dtype=torch.float64)
    denoiser = ExactDenoiser(process, Batch.of(data))
    x = torch.tensor([[0.7, 0.2], [-1.0, 1.5]], dtype=torch.float64)
    both = Batch.of(x.repeat(2, 1))
    kernels = process.bind(both).log_prob(
        both.leaves, {"x": data.repeat_interleave(2, 0)}, {"x": EARLY}
    )
    truth = -kernels["x"].reshape(2, 2).logsumexp(0) + math.log(2)
    many = Batch.of(x.repeat(3000, 1))
    bound = implicit_bound(denoiser, many, Generator(0), times=TIMES)
    for k in range(2):
        is_zero(bound.total[k::2] - truth[k])


def test_report() -> None:
    denoiser, batch, truth = world(Torus(2), 60)
    bound = implicit_bound(
        denoiser, batch, Counter(0), times=TIMES, draws=40, divergence=Hutchinson(1)
    )
    z = (bound.total - truth) / bound.error
    assert float(z.abs().max()) < 5
    assert 0.5 < float(z.std()) < 1.6
    assert "at t = 0.1, implicit, up to t = 1" in str(bound)


def test_refusals() -> None:
    data = Batch.of(torch.tensor([0, 1]))
    chain = ExactDenoiser(Product({"x": Categorical(Flow(), uniform(2))}), data)
    with pytest.raises(ValueError, match=r"needs a score: .* is not Scored"):
        implicit_bound(chain, data, Generator(0))
    angle = Batch.of(torch.zeros(1, 1))
    flow = ExactDenoiser(Product({"x": GeodesicFlow(Torus(1))}), angle)
    with pytest.raises(ValueError, match="needs a score"):
        implicit_bound(flow, angle, Generator(0))
    walk = ExactDenoiser(Product({"x": Brownian(NOISE, Torus(1))}), angle)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        implicit_bound(walk, angle, Generator(0), draws=0)


def test_noise_with_a_matrix() -> None:
    """Correlated noise, and noise on velocities alone: with the exact score, the density."""
    factor = Cholesky(torch.tensor([[2.0, 0.6], [0.6, 0.5]]).double())
    wide = Affine(Gaussian(Linear(), event=(2,)), factor)
    points = torch.tensor([[0.4, -0.3], [-0.5, 0.6], [0.1, -0.3]]).double()
    points -= points.mean(0)
    motion = critically_damped(Linear())
    data = {"wide": points, "pairs": with_velocities(points[:, :1])}
    process = Product({"wide": wide, "pairs": PhaseSpace(motion, event=(1,))})
    batch = Batch.of(data)
    denoiser = ExactDenoiser(process, batch)
    many = batch.select([1] * 20000)
    bound = implicit_bound(denoiser, many, Generator(3), times=UniformTimes(0.7, 1.0))
    density = flow_log_prob(denoiser, batch.select([1]), start=0.7, tolerance=1e-6)
    mean, error = float(bound.total.mean()), float(bound.total.std()) / 20000**0.5
    assert mean == pytest.approx(-float(density.total), abs=5 * error)
    assert error < 0.08


@pytest.mark.parametrize("samples", [2, 3])
def test_each_entry_has_noise_of_its_own(samples: int) -> None:
    """At a point, with the exact score, the density; as many samples as entries too."""
    schedule = Speeds(Linear(), torch.tensor([0.5, 2.0]))
    process = Product({"x": Gaussian(schedule, event=(2,))})
    denoiser = NormalDenoiser(process["x"], torch.tensor([[0.3, -0.2]]), torch.tensor([0.8]))
    x = torch.tensor([[0.5, 0.1], [-1.0, 0.4], [0.2, 0.9]]).double()[:samples]
    for batch in (Batch.of(x), Batch.of(x.repeat(1500, 1))):
        bound = implicit_bound(denoiser, batch, Generator(0), times=UniformTimes(0.05, 1.0))
    level = schedule(torch.full((1, 1), 0.05).double())
    law = torch.distributions.Normal(
        level.alpha * torch.tensor([0.3, -0.2]), (level.alpha**2 * 0.64 + level.sigma**2).sqrt()
    )
    for k, truth in enumerate(law.log_prob(x).sum(1)):
        is_zero(bound.total[k::samples] + truth)
