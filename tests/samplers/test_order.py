"""Measured order = declared order, for every sampler on every space."""

from __future__ import annotations

import math
from functools import cache
from itertools import product as pairs

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Flow,
    Gaussian,
    Geometric,
    Heun,
    Linear,
    Multistep,
    Product,
    UniformLogSNR,
    UniformTime,
    absorbing,
    marginal,
)
from structdiff.processes import Estimate
from structdiff.random import Generator
from structdiff.samplers import Carry
from structdiff.spaces import SO3, Torus
from structdiff.testing import ExactDenoiser, Impulses, NormalDenoiser, Silent, flow_map, walk

DETERMINISTIC = {
    "DDIM": DDIM,
    "Heun": Heun,
    "Multistep1": lambda d, g: Multistep(d, g, order=1),
    "Multistep2": lambda d, g: Multistep(d, g, order=2),
    "Multistep3": lambda d, g: Multistep(d, g, order=3),
}
STOCHASTIC = {
    "DDIM0.5": lambda d, g: DDIM(d, g, eta=0.5),
    "DDPM": DDPM,
    "Heun1": lambda d, g: Heun(d, g, eta=1.0),
    "Multistep1-1": lambda d, g: Multistep(d, g, order=1, eta=1.0),
    "Multistep2-1": lambda d, g: Multistep(d, g, order=2, eta=1.0),
    "Multistep2-0.5": lambda d, g: Multistep(d, g, order=2, eta=0.5),
}


@pytest.fixture(autouse=True, scope="module")
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def slope(errors: list[float]) -> float:
    return math.log2(errors[-2] / errors[-1])


def moment_errors(factory, schedule, end, counts, mean=1.5, std=0.7):
    """Errors of mean and deviation, exactly, by impulses."""
    denoiser = NormalDenoiser(Gaussian(schedule), torch.tensor([mean]), torch.tensor([std]))
    errors = []
    for steps in counts:
        sampler = factory(denoiser, UniformLogSNR(schedule, steps + 1, end=end))
        ends = schedule(sampler.times[[0, -2]])
        means, stds = ends.alpha * mean, ((ends.alpha * std) ** 2 + ends.sigma**2).sqrt()
        x = means[0].repeat(2 * steps + 4)
        x[-1] += stds[0]
        y = walk(sampler, {"x": x}, Impulses())["x"]
        deviation = (y[1:] - y[0]).square().sum().sqrt()
        errors.append(float((y[0] - means[1]).abs() + (deviation - stds[1]).abs()))
    return errors


@pytest.mark.parametrize("schedule", [Linear(), Geometric(0.05, 1000.0)], ids=["vp", "ve"])
@pytest.mark.parametrize("name", DETERMINISTIC | STOCHASTIC)
def test_order_in_mean_and_variance_of_normal_data(name, schedule):
    factory = (DETERMINISTIC | STOCHASTIC)[name]
    counts = [128, 256] if name != "Multistep3" else [256, 512]
    measured = slope(
        moment_errors(factory, schedule, 0.05 if isinstance(schedule, Linear) else 0.2, counts)
    )
    declared = factory(
        NormalDenoiser(Gaussian(schedule), torch.zeros(1), torch.ones(1)),
        UniformLogSNR(schedule, 2),
    ).order("euclidean")
    assert abs(measured - declared) < 0.2, measured


def test_third_order_with_noise_is_second():
    """With fresh noise the order is at most 2: it falls from 3 towards 2 on finer grids."""
    errors = moment_errors(
        lambda d, g: Multistep(d, g, order=3, eta=1.0), Linear(), 0.05, [256, 512]
    )
    assert 1.8 < slope(errors) < 2.2


def test_first_order_weights_at_second_order_are_found_out():
    """The measure can fail: a wrong subscript in the weights costs the order."""

    class Wrong(Multistep):
        def rule(self, clock):
            right = super().rule(clock)
            past = torch.where(right[:, 1] < 0, 2 * right[:, 1], 0.0)
            return torch.stack([1 - past, past], 1)

    errors = moment_errors(Wrong, Linear(), 0.05, [64, 128])
    assert slope(errors) < 1.3


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_the_flow_of_a_mixture(name):
    """End points against the Runge-Kutta method, which shares no step with the samplers."""
    schedule, start = Linear(), torch.linspace(-2, 2, 9)
    mean, std = torch.tensor([-1.0, 0.5, 1.5]), torch.tensor([0.6, 0.5, 0.7])
    denoiser = NormalDenoiser(Gaussian(schedule), mean, std, torch.tensor([0.3, 0.5, 0.2]))
    truth = flow_map(denoiser, schedule, start, 1.0, 0.05, steps=400)
    errors = []
    for steps in (64, 128) if name != "Multistep3" else (192, 384):
        sampler = DETERMINISTIC[name](denoiser, UniformLogSNR(schedule, steps + 1, end=0.05))
        end = walk(sampler, {"x": start}, Silent())["x"]
        errors.append(float((end - truth).abs().mean()))
    assert abs(slope(errors) - sampler.order("euclidean")) < 0.2, slope(errors)


@pytest.mark.parametrize("space", [Torus(2), SO3()], ids=["Torus2", "SO3"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_the_flow_on_a_manifold(name, space):
    denoiser, schedule, start, truth = curved(space)
    errors = []
    for steps in (64, 128) if isinstance(space, Torus) else (96, 192):
        sampler = DETERMINISTIC[name](denoiser, UniformLogSNR(schedule, steps + 1, end=0.0))
        end = walk(sampler, {"x": start}, Silent())["x"]
        errors.append(float(space.norm2(space.log(truth, end)).sqrt().mean()))
    assert abs(slope(errors) - sampler.order("manifold")) < 0.2, slope(errors)


@cache
def curved(space):
    schedule = Geometric(0.3, 6.0)
    points = space.uniform(5, Generator(3), torch.float64, "cpu")
    weights = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15])
    denoiser = ExactDenoiser(Product({"x": Brownian(schedule, space)}), Batch.of(points), weights)
    start = space.uniform(8, Generator(4), torch.float64, "cpu")
    truth = flow_map(denoiser, schedule, start, 1.0, 0.0, space, steps=100)
    return denoiser, schedule, start, truth


# Classes: exact propagation of the law over enumerated states.

CLASSES = Product(
    {
        "a": Categorical(Flow(), absorbing(2)),
        "b": Categorical(Flow(), marginal(torch.tensor([0.3, 0.7], dtype=torch.float64))),
    }
)
RECORDS = Batch.of({"a": torch.tensor([0, 1, 1]), "b": torch.tensor([0, 1, 0])})
LAW = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
STATES = torch.tensor(list(pairs(range(3), range(2))))


def record(index):
    return {"a": STATES[index, 0], "b": STATES[index, 1]}


def kernel(bound, x, mixed, i):
    """Probabilities of the next state, `(rows, states)`."""
    rows, n = len(x["a"]), len(STATES)
    copies = torch.arange(rows).repeat_interleave(n)
    many = Batch.of(record(torch.arange(n).repeat(rows)))
    estimate = {k: type(e)(e.value[copies]) for k, e in mixed.items()}
    at = {k: v[copies] for k, v in x.items()}
    log_p = bound.denoiser.process.bind(many).reverse_log_prob(
        many.leaves, at, estimate, bound.coefficients[i]
    )
    return (log_p["a"] + log_p["b"]).double().exp().reshape(rows, n)


def looks_back(sampler) -> int:
    """How many estimates a step uses."""
    if not isinstance(sampler, Multistep):
        return 1
    return 1 + max(sampler.bind(Batch.of(record(torch.arange(1))), Silent()).memory)


def law_of(sampler) -> torch.Tensor:
    """The law of the last state: over windows of the last k states where the past matters."""
    n = len(STATES)
    past = looks_back(sampler)
    windows = torch.tensor(list(pairs(range(n), repeat=past)))  # latest first
    bound = sampler.bind(Batch.of(record(windows[:, 0])), Silent())
    one = Batch.of(record(torch.arange(n)))
    law = CLASSES.bind(one).prior_log_prob(one.leaves)
    weight = torch.zeros(len(windows))
    prior = (law["a"] + law["b"]).double().exp()
    weight[(windows == windows[:, :1]).all(1)] = prior
    for i in range(bound.steps):
        x = record(windows[:, 0])
        history = []
        for age in range(1, min(past, i + 1)):
            old = record(windows[:, age])
            seen = bound.batch.with_leaves(old)
            with_times = bound.leaf_times[i - age]
            history.append((old, bound.denoiser(seen, with_times)))
        carry = Carry(x, tuple(history))
        if isinstance(sampler, Heun) and i + 1 < bound.steps:
            step = heun_kernel(bound, x, i)
        else:
            mixed, _ = bound.effective(carry, i)
            step = kernel(bound, x, mixed, i)
        # Windows of probability zero may have no kernel.
        step = torch.where(weight[:, None] > 0, step, 0.0)
        joint = (weight[:, None] * step).reshape(*(n,) * past, n)
        joint = joint.sum(past - 1) if past > 1 else joint.sum(0)
        weight = joint.movedim(-1, 0).reshape(-1) if past > 1 else joint
    return weight.reshape(n, -1).sum(1)


def heun_kernel(bound, x, i):
    """The kernel averaged over the intermediate state."""
    n = len(STATES)
    first = bound.denoise(x, i, None)
    look = kernel(bound, x, first, i)
    total = torch.zeros_like(look)
    for j in range(n):
        middle = record(torch.full((len(x["a"]),), j))
        second = bound.denoise(middle, i + 1, None)
        mixed = bound.process.combine(((middle, second), (x, first)), bound.mixing[i], x)
        share = look[:, j : j + 1]
        total += torch.where(share > 0, share * kernel(bound, x, mixed, i), 0.0)
    return total


class Everywhere(ExactDenoiser):
    """Answers with the data's law in impossible windows too, whose probability is zero."""

    def forward(self, batch, t, previous=None):
        rows = batch.samples
        x = {k: v.repeat_interleave(3) for k, v in batch.leaves.items()}
        x_0 = {k: v.repeat(rows) for k, v in self.data.leaves.items()}
        log_p = self.process.bind(Batch.of(x)).log_prob(x, x_0, t)
        total = (log_p["a"] + log_p["b"]).reshape(rows, 3).exp() * LAW
        total = torch.where(total.sum(1, keepdim=True) > 0, total, LAW)
        share = total / total.sum(1, keepdim=True)
        one_hot = {
            k: torch.nn.functional.one_hot(v, 2).to(share) for k, v in self.data.leaves.items()
        }
        return {k: Estimate((share @ points).log()) for k, points in one_hot.items()}


CORRECTED = {"Multistep2 corrected": lambda d, g: Multistep(d, g, order=2, corrector=2)}


@pytest.mark.parametrize("name", DETERMINISTIC | STOCHASTIC | CORRECTED)
def test_order_on_classes_in_total_variation(name):
    """Order 1; for several estimates up to a factor log(steps), from the steps near clean data."""
    factory = (DETERMINISTIC | STOCHASTIC | CORRECTED)[name]
    denoiser = Everywhere(CLASSES, RECORDS, LAW)
    truth = torch.zeros(3, 2)
    truth[RECORDS["a"], RECORDS["b"]] = LAW
    several = getattr(factory(denoiser, UniformTime(2)), "nominal", 1) > 1
    errors = []
    for steps in (128, 256) if several else (32, 64):
        sampler = factory(denoiser, UniformTime(steps))
        error = 0.5 * float((law_of(sampler).reshape(3, 2) - truth).abs().sum())
        assert error < 0.4 / steps
        errors.append(error / math.log(steps) if several else error)
    assert abs(slope(errors) - sampler.order("classes")) < 0.2, errors
