"""Restart: a walk through an interval again and again forgets errors and keeps the order."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Counter,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Heun,
    Layout,
    Linear,
    Multistep,
    Product,
    UniformLogSNR,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.processes import Process
from structdiff.samplers import Carry, Churn
from structdiff.samplers.restart import Restart
from structdiff.spaces import SO3, ZeroCentre
from structdiff.testing import (
    Addressed,
    ExactDenoiser,
    Impulses,
    NormalDenoiser,
    Silent,
    sort_records,
)

SAMPLERS = {
    "DDIM": DDIM,
    "Heun": Heun,
    "Multistep2": functools.partial(Multistep, order=2),
    "Multistep3": functools.partial(Multistep, order=3),
}
MEAN, STD = 1.5, 0.7


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normal(schedule):
    return NormalDenoiser(Gaussian(schedule), torch.tensor([MEAN]), torch.tensor([STD]))


def moments(schedule, t):
    level = schedule(t)
    return level.alpha * MEAN, ((level.alpha * STD) ** 2 + level.sigma**2).sqrt()


def end(walk, x, random=None):
    """The state before the step to clean data, from a given one."""
    bound = walk.bind(Batch.of(x), random or Impulses())
    carry = Carry({"x": x})
    for i in range(bound.steps - 1):
        carry = bound.step(carry, i)
    return carry.x["x"]


@pytest.mark.parametrize("schedule", [Linear(), Geometric(0.05, 50.0)], ids=["vp", "ve"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_order_of_the_sampler_is_kept_in_law(name, schedule):
    """Mean and deviation, exactly: 2 for second-order solvers though the walk is stochastic."""
    errors = []
    for steps in (64, 128):
        grid = UniformLogSNR(schedule, steps + 1, end=0.1)
        t = grid.times()
        interval = (float(t[3 * steps // 4]), float(t[steps // 2]))
        walk = Restart(SAMPLERS[name], normal(schedule), grid, interval=interval, rounds=2)
        (mean, std), (last, spread) = moments(schedule, t[0]), moments(schedule, t[-2])
        x = mean.repeat(6)
        x[-1] += std
        y = end(walk, x)
        deviation = (y[1:] - y[0]).square().sum().sqrt()
        errors.append(float((y[0] - last).abs() + (deviation - spread).abs()))
    assert abs(math.log2(errors[0] / errors[1]) - walk.order("euclidean")) < 0.25, errors


@pytest.mark.parametrize("schedule", [Linear(), Geometric(0.05, 50.0)], ids=["vp", "ve"])
def test_each_round_shrinks_errors_of_the_past(schedule):
    """By (alpha / std) at t_max over that at t_min: the factor of the exact flow, per round."""
    grid = UniformLogSNR(schedule, 400, end=0.1)
    t = grid.times()
    high, low = t[200], t[300]
    (_, wide), (_, narrow) = moments(schedule, high), moments(schedule, low)
    factor = schedule.alpha(high) / schedule.alpha(low) * narrow / wide
    wrong, means = torch.zeros(8), []
    wrong[0] = 1.0
    for rounds in (1, 2, 3):
        walk = Restart(
            Heun, normal(schedule), grid, interval=(float(low), float(high)), rounds=rounds
        )
        y = [end(walk, x) for x in (wrong, torch.zeros(8))]
        means.append(float(y[0][0] - y[1][0]))
    for one, more in zip(means, means[1:], strict=False):
        assert more / one == pytest.approx(float(factor), rel=1e-3)


def test_restarts_lower_the_error_of_a_wrong_start():
    """Of a mixture, in Wasserstein's distance: what a deterministic walk carries to the end."""
    schedule, n = Geometric(0.1, 20.0), 4000
    mean, std, share = (
        torch.tensor([-2.0, 2.0]),
        torch.tensor([0.5, 0.5]),
        torch.tensor([0.3, 0.7]),
    )
    denoiser = NormalDenoiser(Gaussian(schedule), mean, std, share)
    grid = UniformLogSNR(schedule, 17, end=0.2)
    t = grid.times()
    x = torch.linspace(-8, 8, 20_001)
    spread = (std**2 + schedule.sigma(t[-2]) ** 2).sqrt()
    cdf = torch.special.ndtr((x[:, None] - mean) / spread) @ share
    truth = x[torch.searchsorted(cdf, (torch.arange(n) + 0.5) / n)]
    start = 20 * torch.randn(n, generator=torch.Generator().manual_seed(0)) + 15
    walks = [Heun(denoiser, grid)] + [
        Restart(Heun, denoiser, grid, interval=(float(t[12]), float(t[3])), rounds=rounds)
        for rounds in (1, 4)
    ]
    errors = [
        float((end(w, start, Generator(1)).sort().values - truth).square().mean().sqrt())
        for w in walks
    ]
    assert errors[0] > 1.3 * errors[1] > 1.3 * 1.3 * errors[2]


def test_without_the_way_back_it_would_be_the_sampler():
    """The first leg and the last, one after the other, are the walk of a one-step method."""
    denoiser, grid = normal(Linear()), UniformTime(8)
    x = torch.linspace(-2, 2, 5)

    class Still(Restart):
        def restart(self, carry, turn):
            assert turn == 1
            return self.legs[0].start()

    walk = Still(DDIM, denoiser, grid, interval=(0.25, 1.0))
    assert walk.steps == 8 + 6
    batch = Batch.of(x)
    ends = [w.sample(batch, Counter(0))["x"] for w in (walk, DDIM(denoiser, grid))]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


def test_each_round_has_noise_of_its_own():
    """Ways back and the steps of every leg, under noise by address."""
    denoiser = normal(Linear())
    walk = Restart(DDPM, denoiser, UniformTime(8), interval=(0.25, 0.6), rounds=3)
    bound = walk.bind(Batch.of(torch.zeros(3)), Addressed(0))
    zero = Carry({"x": torch.zeros(3)})
    drawn = [bound.restart(zero, turn).x["x"] for turn in (1, 2, 3)]
    drawn += [
        leg.random.scoped(step=2 * j + 1, leaf="x").normal((3,), torch.float64, "cpu")
        for leg in bound.legs
        for j in range(4)
    ]
    assert float(torch.pdist(torch.stack(drawn)).min()) > 1e-3


def test_until_the_first_way_back_it_draws_what_the_sampler_draws():
    denoiser, grid, batch = normal(Linear()), UniformTime(6), Batch.of(torch.zeros(4))
    walk = Restart(DDPM, denoiser, grid, interval=(0.3, 0.7)).bind(batch, Counter(0))
    alone = DDPM(denoiser, grid).bind(batch, Counter(0))
    one, other = walk.start(), alone.start()
    for i in range(4):
        one, other = walk.step(one, i), alone.step(other, i)
    assert torch.equal(one.x["x"], other.x["x"])


def mixed():
    """A vector, a centred ragged cloud, a class and a rotation."""
    process = Product(
        {
            "place": Gaussian(Linear(), event=(2,)),
            "atoms": Gaussian(Linear(), event=(3,), space=ZeroCentre()),
            "kind": Categorical(Flow(), uniform(3)),
            "turn": Brownian(Geometric(0.02, 4.0), SO3()),
        }
    )
    counts = {"place": [1, 1, 1], "atoms": [2, 3, 2], "kind": [1, 1, 1], "turn": [1, 1, 1]}
    layouts = {name: Layout.ragged(count) for name, count in counts.items()}
    atoms = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    leaves = {
        "place": torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.5]]),
        "atoms": atoms - layouts["atoms"].spread(layouts["atoms"].mean(atoms)),
        "kind": torch.tensor([0, 1, 2]),
        "turn": SO3().uniform(3, Generator(2), torch.float64, "cpu"),
    }
    return process, Batch(leaves, layouts)


@pytest.mark.parametrize("source", [Addressed, Counter])
def test_given_rows_stay_and_a_sample_does_not_depend_on_its_mates(source):
    process, data = mixed()
    given = data.with_given({"turn": torch.tensor([True, False, True])})
    denoiser = ExactDenoiser(process, data)
    walk = Restart(SAMPLERS["Multistep2"], denoiser, UniformTime(5), interval=(0.3, 0.9))
    whole = walk.sample(given, source(0))
    assert torch.equal(whole["turn"][[0, 2]], data["turn"][[0, 2]])
    for i in range(3):
        alone = walk.sample(given.select([i]), source(0))
        for name, x in alone.leaves.items():
            rows = data.layouts[name].rows_of(torch.tensor([i]))
            torch.testing.assert_close(whole[name][rows], x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [DDPM, Heun, lambda d, g: Churn(d, g, Linear(), churn=3.0)])
def test_joint_records_return_whole_and_in_proportion(make):
    """Two of them differ in classes only; rows are redrawn there."""
    process = Product(
        {
            "x": Gaussian(Linear(), event=(2,)),
            "a": Categorical(Flow(), uniform(3)),
            "b": Categorical(Flow(), absorbing(3)),
        }
    )
    data = Batch.of(
        {
            "x": torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, 1.0]]),
            "a": torch.tensor([0, 1, 2]),
            "b": torch.tensor([2, 0, 1]),
        }
    )
    weights, samples, steps = torch.tensor([0.2, 0.5, 0.3]), 800, 24
    denoiser = ExactDenoiser(process, data, weights)
    walk = Restart(make, denoiser, UniformTime(steps), interval=(0.3, 0.7), rounds=2)
    drawn = walk.sample(Batch.of(process.empty(samples)), Generator(0))
    record = sort_records(drawn, data)
    assert float((record < 0).double().mean()) < 2 / steps + 4 * math.sqrt(2 / steps / samples)
    for k, weight in enumerate(weights.tolist()):
        share = float((record == k).double().mean())
        assert share == pytest.approx(weight, abs=4 * math.sqrt(0.25 / samples) + 2 / steps)


def test_alone_and_in_a_batch_the_same_bit_for_bit_and_goes_on():
    walk = Restart(SAMPLERS["Multistep2"], normal(Linear()), UniformTime(6), interval=(0.3, 0.7))
    batch = Batch.of(torch.zeros(4))
    whole = walk.sample(batch, Counter(1))["x"]
    for i in range(4):
        assert torch.equal(walk.sample(batch.select([i]), Counter(1))["x"], whole[[i]])
    bound, other = (walk.bind(batch, Counter(1)) for _ in range(2))
    carry = bound.start()
    for i in range(5):
        carry = bound.step(carry, i)
    saved = Carry.from_tensors(carry.tensors())
    for i in range(5, walk.steps):
        saved = other.step(saved, i)
    assert torch.equal(saved.x["x"], whole)
    assert saved.calls == walk.steps == 6 + 2


def test_a_round_begins_without_the_last_estimate():
    """That was of another state."""

    class Seen(NormalDenoiser):
        def forward(self, batch, t, previous=None):
            fresh.append(previous is None)
            return super().forward(batch, t, previous)

    fresh: list[bool] = []
    denoiser = Seen(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
    walk = Restart(DDIM, denoiser, UniformTime(6), interval=(0.3, 0.7))
    walk.sample(Batch.of(torch.zeros(2)), Generator(0))
    assert [i for i, alone in enumerate(fresh) if alone] == [0, 4]


class Unmarkov(Product):
    """Says that it has no forward kernel."""

    def offers(self, contract: type) -> bool:
        return contract is Process


def test_refusals():
    denoiser, grid = normal(Linear()), UniformTime(4)
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        Restart(Heun, denoiser, grid, interval=(0.2, 0.8), rounds=0)
    for interval in ((0.8, 0.2), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ValueError, match="interval must satisfy 0 <= t_min < t_max <= 1"):
            Restart(Heun, denoiser, grid, interval=interval)
    with pytest.raises(ValueError, match=r"must hold at least two times of the grid, got 1"):
        Restart(Heun, denoiser, grid, interval=(0.4, 0.6))
    denoiser.process = Unmarkov({"x": Gaussian(Linear())})
    with pytest.raises(ValueError, match="must be Markov .* Unmarkov is not"):
        Restart(Heun, denoiser, grid, interval=(0.2, 0.8))
    with pytest.raises(AssertionError, match="random number"):
        Restart(Heun, normal(Linear()), grid, interval=(0.2, 0.8)).sample(
            Batch.of(torch.zeros(2)), Silent()
        )
