"""Leaping: first order on every space, and never better on classes than the analytic step."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Linear,
    Product,
    UniformTime,
    absorbing,
    marginal,
    uniform,
)
from structdiff.samplers import Carry, Leaping
from structdiff.schedules import Survival
from structdiff.spaces import Torus
from structdiff.testing import (
    Addressed,
    ExactDenoiser,
    Impulses,
    NormalDenoiser,
    check_sampler,
    walk,
)
from tests.enumerable import World, records
from tests.samplers.tables import Table, apart, drawn, noise_of

WORLD = World.random(3, 3)
CHAINS = {
    "absorbing": Categorical(Flow(), absorbing(3)),
    "uniform": Categorical(Flow(), uniform(3)),
    "marginal": Categorical(Flow(), marginal(torch.tensor([0.5, 0.2, 0.3]).double())),
}
chains = pytest.mark.parametrize("chain", CHAINS)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def end_law(factory, chain: Categorical, steps: int, world: World = WORLD) -> torch.Tensor:
    """The exact law of a walk's end."""
    process = world.process(chain)
    denoiser = world.denoiser(process)
    bound = factory(denoiser, UniformTime(steps)).bind(world.data_batch, Generator(0))
    law = world.prior(process)
    for t, coefficients in zip(bound.times, bound.coefficients, strict=False):
        law = world.step(denoiser, law, t, coefficients["x"])
    return law


def distance(factory, chain: str, steps: int) -> float:
    """Its total variation from the data."""
    return WORLD.distance(end_law(factory, CHAINS[chain], steps))


@chains
@pytest.mark.parametrize("factory", [Leaping, DDPM])
def test_the_law_of_records_is_right_to_first_order(factory, chain):
    """E02, D01: below 0.03 at T = 100, and half of it at T = 200."""
    coarse, fine = (distance(factory, chain, steps) for steps in (100, 200))
    assert coarse < 0.03
    assert abs(math.log2(coarse / fine) - 1) < 0.1
    assert (
        factory(WORLD.denoiser(WORLD.process(CHAINS[chain])), UniformTime(2)).order("classes") == 1
    )


@pytest.mark.parametrize("factory", [Leaping, DDPM])
def test_the_law_of_six_rows_is_right_to_first_order(factory):
    """64 records of two classes."""
    world, chain = World.random(2, 6), Categorical(Flow(), uniform(2))
    ends = [end_law(factory, chain, steps, world) for steps in (100, 200)]
    coarse, fine = (world.distance(law) for law in ends)
    assert coarse < 0.03
    assert abs(math.log2(coarse / fine) - 1) < 0.1


@chains
def test_the_analytic_step_is_never_worse_than_leaping(chain):
    """E02, in total variation, on any grid."""
    for steps in (2, 4, 8, 16, 32, 64):
        assert distance(DDPM, chain, steps) <= distance(Leaping, chain, steps) + 1e-12


@chains
def test_the_analytic_step_is_that_of_score_entropy(chain):
    """Lou et al., eq. 19: exp(-d Q) applied to the ratios, times exp(d Q); ours is at eta = 1."""
    process = WORLD.process(CHAINS[chain])
    denoiser, leaf = WORLD.denoiser(process), process["x"]
    size, pi = leaf.symbols, leaf.stationary
    generator = pi.expand(size, size) - torch.eye(size)
    times = torch.tensor([0.7, 0.4])
    alpha = leaf.schedule.alpha(times)
    length = torch.log(alpha[1] / alpha[0])
    states = records(size, WORLD.rows)
    x, batch = states.flatten(), WORLD.batch(states)
    estimate = WORLD.estimates(denoiser, states, times[0])["x"]
    bound = process.bind(batch)["x"]
    ratios = bound.ratios(estimate, x, times[0].expand(len(x))).exp()
    back = ratios @ torch.matrix_exp(-length * generator)
    step = back * torch.matrix_exp(length * generator)[:, x].T
    (coefficients,) = bound.plan(times, 1.0)
    ours = bound.log_kernel(estimate, x, coefficients).exp()
    torch.testing.assert_close(step, ours, rtol=1e-9, atol=1e-12)


def test_ratios_of_the_exact_denoiser_are_those_of_the_noisy_law():
    """E02: p_t(x with one row changed) / p_t(x), by enumeration."""
    process = WORLD.process(CHAINS["uniform"])
    states = records(3, 3)
    law = WORLD.noisy(process, 0.6).reshape(3, 3, 3)
    estimate = WORLD.estimates(WORLD.denoiser(process), states, 0.6)["x"]
    bound = process.bind(WORLD.batch(states))["x"]
    ratios = bound.ratios(estimate, states.flatten(), torch.full((81,), 0.6)).exp()
    for k, state in enumerate(states.tolist()):
        for row in range(3):
            for j in range(3):
                other = [j if place == row else one for place, one in enumerate(state)]
                want = law[tuple(other)] / law[tuple(state)]
                assert float(ratios[3 * k + row, j]) == pytest.approx(float(want), rel=1e-9)


@chains
def test_what_is_drawn_has_that_law(chain):
    """On a coarse grid, where it is far from that of the data."""
    process, samples = WORLD.process(CHAINS[chain]), 20_000
    table = Table(WORLD, process, 0.5 if chain == "absorbing" else None)
    share = drawn(Leaping(table, UniformTime(4)), WORLD, samples)
    law = WORLD.clean(end_law(Leaping, CHAINS[chain], 4))
    assert apart(share, law) < noise_of(law, samples) < 0.03
    assert apart(law, WORLD.probability) > 0.1


def moment_error(schedule, end, steps, mean=1.5, std=0.7):
    """Errors of mean and deviation, exactly, by impulses."""
    denoiser = NormalDenoiser(Gaussian(schedule), torch.tensor([mean]), torch.tensor([std]))
    sampler = Leaping(denoiser, UniformTime(steps, end=end))
    ends = schedule(sampler.times[[0, -2]])
    means, stds = ends.alpha * mean, ((ends.alpha * std) ** 2 + ends.sigma**2).sqrt()
    x = means[0].repeat(steps + 4)
    x[-1] += stds[0]
    y = walk(sampler, {"x": x}, Impulses())["x"]
    deviation = (y[1:] - y[0]).square().sum().sqrt()
    return float((y[0] - means[1]).abs() + (deviation - stds[1]).abs())


@pytest.mark.parametrize(
    ("schedule", "end"), [(Linear(), 0.1), (Geometric(0.05, 50.0), 0.2)], ids=["vp", "ve"]
)
def test_euler_maruyama_is_of_first_weak_order(schedule, end):
    """S11: in mean and deviation of normal data."""
    coarse, fine = (moment_error(schedule, end, steps) for steps in (512, 1024))
    assert abs(math.log2(coarse / fine) - 1) < 0.1


def test_a_geodesic_walk_on_the_torus_is_of_first_weak_order():
    """The mean of cos and sin on a circle, by quadrature of the steps' wrapped normals."""
    schedule, nodes = Geometric(0.4, 4.0), 128
    points = torch.tensor([[-2.0], [0.3], [1.0]])
    weights = torch.tensor([0.2, 0.5, 0.3])
    process = Product({"x": Brownian(schedule, Torus(1))})
    denoiser = ExactDenoiser(process, Batch.of(points), weights)
    angle = 2 * math.pi * torch.arange(nodes)[:, None] / nodes - math.pi
    bound = process.bind(Batch.of(angle))

    def law(t):
        time = torch.tensor(t)
        each = [bound["x"].log_prob(angle, p.expand(nodes, 1), time).exp() for p in points]
        return (weights @ torch.stack(each)) * 2 * math.pi / nodes

    def end(steps):
        grid = UniformTime(steps + 1, end=0.1)
        sampler = Leaping(denoiser, grid).bind(Batch.of(angle), Generator(0))
        p = law(1.0)
        for t, coefficients in zip(sampler.times[:-2], sampler.coefficients, strict=False):
            value = denoiser(Batch.of(angle), {"x": t})["x"].value
            centre = angle + coefficients["x"].drift * value
            gap = angle.T - centre + 2 * math.pi * torch.arange(-6, 7)[:, None, None]
            kernel = torch.exp(-((gap / coefficients["x"].noise) ** 2) / 2).sum(0)
            p = p @ (kernel / kernel.sum(1, keepdim=True))
        return p

    truth = law(0.1)
    errors = [0.5 * float((end(steps) - truth).abs().sum()) for steps in (48, 96)]
    assert abs(math.log2(errors[0] / errors[1]) - 1) < 0.15, errors


def test_the_laws_of_a_sampler():
    check_sampler(Leaping, steps=32)


def test_a_step_to_clean_data_or_from_pure_noise_is_that_of_ddpm():
    """There is no rate at alpha = 0, and no length of the step to clean data."""
    denoiser = WORLD.denoiser(WORLD.process(CHAINS["absorbing"]))
    walks = [f(denoiser, UniformTime(1)) for f in (Leaping, DDPM)]
    batch = WORLD.data_batch
    ends = [each.sample(batch, Generator(3))["x"] for each in walks]
    assert torch.equal(*ends)


def test_given_rows_stay_and_a_walk_goes_on_from_saved_tensors():
    process = WORLD.process(Categorical(Survival(Linear()), uniform(3)))
    batch = WORLD.data_batch.select([3, 8, 20])
    held = torch.tensor([True, False, False] * 3)
    sampler = Leaping(WORLD.denoiser(process), UniformTime(6))
    bound = sampler.bind(batch.with_given({"x": held}), Addressed(2))
    carry = bound.start()
    for i in range(3):
        carry = bound.step(carry, i)
    saved = Carry.from_tensors(carry.tensors())
    for i in range(3, 6):
        carry, saved = bound.step(carry, i), bound.step(saved, i)
    assert torch.equal(carry.x["x"], saved.x["x"])
    assert torch.equal(carry.x["x"][held], batch["x"][held])
    assert carry.calls == 6
