"""Log densities of a sampler's steps, and rewards that they are trained by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Product,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.counter import Counter
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate
from structdiff.processes.phase import PhaseSpace, with_velocities
from structdiff.processes.phase_motion import critically_damped
from structdiff.reverse_variance import FixedVariance
from structdiff.samplers import (
    Ancestral,
    AnnealedLangevin,
    Carry,
    Churn,
    Heun,
    Leaping,
    Multistep,
    PredictorCorrector,
    Restart,
    Sampler,
    Staggered,
    StochasticRungeKutta,
    SymmetricSplitting,
)
from structdiff.samplers.solvers import DPMSolver
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser
from structdiff.training.policy import PolicyGradient, Rollout

GRID = UniformTime(8)
START = Batch.of(torch.zeros(6).double())


class Modes(Denoiser):
    """The mixture of two normals at +-1, whose odds are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.leaf = Gaussian(Linear())
        self.process = Product({"x": self.leaf})
        self.odds = nn.Parameter(torch.zeros(()).double())

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        alpha, sigma, _ = self.leaf.level(t["x"], batch["x"])
        centre = torch.tensor([-1.0, 1.0]).to(batch["x"])
        gap = batch["x"][:, None] - alpha * centre
        variance = alpha**2 * 0.04 + sigma**2
        log = -0.5 * gap**2 / variance + torch.stack([torch.zeros_like(self.odds), self.odds])
        each = centre + alpha * 0.04 / variance * gap
        return {"x": Estimate((log.softmax(1).to(each) * each).sum(1))}


SAMPLERS: dict[str, Callable[[Denoiser], Sampler]] = {
    "DDPM": lambda d: DDPM(d, GRID),
    "half": lambda d: DDIM(d, GRID, eta=0.5),
    "leaping": lambda d: Leaping(d, GRID),
    "multistep": lambda d: Multistep(d, GRID, eta=1.0),
    "heun": lambda d: Heun(d, GRID, eta=1.0),
    "solver": lambda d: DPMSolver(d, GRID, eta=1.0),
    "beta": lambda d: DDPM(FixedVariance(d, 1.0), GRID),
}
samplers = pytest.mark.parametrize("name", SAMPLERS)


@samplers
def test_log_densities_are_those_of_the_draws(name: str) -> None:
    """The step's mean by a walk without noise from the same carry, its spread by the noise."""
    sampler, random = SAMPLERS[name](Modes()), Counter(3)
    walk = Rollout.draw(sampler, START, random)
    got = walk.log_prob(sampler, random).detach()
    assert got.shape == (8, 6)
    bound = sampler.bind(START, random)
    for i, (before, after) in enumerate(zip(walk.carries, walk.carries[1:], strict=False)):
        with torch.no_grad():
            estimate, _ = bound.effective(before, i)
        step = bound.coefficients[i]["x"]
        mean = step.keep * before.x["x"] + step.data * estimate["x"].value
        spread = (after.x["x"] - mean) / (noise := normal_numbers(bound, i))
        if i < 7:
            torch.testing.assert_close(spread, spread[0].expand(6))
            truth = torch.distributions.Normal(mean, spread).log_prob(after.x["x"])
            torch.testing.assert_close(got[i], truth.double().detach())
            assert float(noise.std()) > 0.1
        else:  # to clean data: nothing is drawn
            assert not got[i].any()


def normal_numbers(bound: Sampler, i: int) -> Tensor:
    """The draw of step i, from its address."""
    layout = START.layouts["x"]
    scoped = bound.random.scoped(step=2 * i + 1)
    here = scoped.scoped(leaf="x", ids=START.ids, layout=layout)
    return here.normal((6,), torch.float64, "cpu")


@samplers
def test_gradients_are_finite_differences(name: str) -> None:
    """In the odds of the modes, for the walk as it is."""
    denoiser, random = Modes(), Counter(3)
    sampler = SAMPLERS[name](denoiser)
    walk = Rollout.draw(sampler, START, random)
    (slope,) = torch.autograd.grad(walk.log_prob(sampler, random).sum(), denoiser.odds)
    ends = []
    for move in (1e-5, -2e-5):
        with torch.no_grad():
            denoiser.odds += move
            ends.append(float(walk.log_prob(sampler, random).sum()))
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)
    assert abs(float(slope)) > 1e-3


class Constant(Generator):
    """The same numbers for every row."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(0)
        self.numbers = torch.tensor(numbers).double()

    def normal(self, shape: Any, dtype: torch.dtype, device: object) -> Tensor:
        return self.numbers.expand(shape)


def test_rows_that_wait_or_have_landed_decide_nothing() -> None:
    """Of rows at times of their own: those that draw add up, each with its own spread."""
    layout = Layout.ragged([3, 2])
    data = Batch({"x": torch.linspace(-2, 1, 5).double()}, {"x": layout})
    sampler = Staggered(ExactDenoiser(Product({"x": Gaussian(Linear())}), data), GRID, lag=0.5)
    random = Counter(3)
    walk = Rollout.draw(sampler, data, random)
    got, bound, count = walk.log_prob(sampler, random), sampler.bind(data, random), []
    for i in range(8):
        estimate, used = bound.effective(walk.carries[i], i)
        mean, other = (
            bound.process.step(used.x, estimate, bound.coefficients[i], Constant(z))["x"]
            for z in (0.0, 1.0)
        )
        draws = other > mean
        spread = torch.where(draws, other - mean, 1.0)
        each = torch.distributions.Normal(mean, spread).log_prob(walk.carries[i + 1].x["x"])
        torch.testing.assert_close(got[i].double(), layout.sum(torch.where(draws, each, 0.0)))
        count.append(int(draws.sum()))
    assert count[0] < 5 > count[-2] > count[-1] == 0
    assert max(count) == 5


def test_a_split_step_has_the_density_of_its_second_half() -> None:
    """Given the first, which no weight moves; the second half is affine in its noise."""
    data = Batch.of(with_velocities(torch.tensor([-1.0, 1.0]).double()))
    process = Product({"x": PhaseSpace(critically_damped(Linear()))})
    sampler = SymmetricSplitting(ExactDenoiser(process, data), GRID)
    start, random = Batch.of(torch.zeros(6, 2).double()), Counter(3)
    walk = Rollout.draw(sampler, start, random)
    got = walk.log_prob(sampler, random)
    bound = sampler.bind(start, random)
    for i in range(7):
        estimate, used = bound.effective(walk.carries[i], i)
        mean, first, second = (
            bound.process.step(used.x, estimate, bound.coefficients[i], Constant(*pair))["x"]
            for pair in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
        )
        root = torch.stack([first - mean, second - mean], 2)
        law = torch.distributions.MultivariateNormal(mean, root @ root.mT)
        truth = law.log_prob(walk.carries[i + 1].x["x"])
        torch.testing.assert_close(got[i].double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transition", [absorbing(3), uniform(3)], ids=["absorbing", "uniform"])
def test_classes_are_drawn_in_the_last_step_too(transition: Any) -> None:
    """By the kernel's own table."""
    points = Batch.of(torch.tensor([0, 1, 2]))
    process = Product({"x": Categorical(Flow(), transition)})
    sampler = DDPM(ExactDenoiser(process, points, torch.tensor([0.5, 0.3, 0.2])), UniformTime(3))
    start, random = Batch.of(torch.zeros(40, dtype=torch.long)), Generator(0)
    walk = Rollout.draw(sampler, start, random)
    got = walk.log_prob(sampler, random)
    bound = sampler.bind(start, random)
    for i, (before, after) in enumerate(zip(walk.carries, walk.carries[1:], strict=False)):
        estimate, _ = bound.effective(before, i)
        leaf: Any = bound.process["x"]  # type: ignore[index]
        table = leaf.log_kernel(estimate["x"], before.x["x"], bound.coefficients[i]["x"])
        truth = table.gather(1, after.x["x"][:, None]).squeeze(1)
        torch.testing.assert_close(got[i], truth.to(got.dtype))
    assert float(got[-1].min()) < -0.1


def test_leaves_and_rows_of_a_sample_add_up() -> None:
    """A product of three spaces, ragged, with a given row: its own leaves, one by one."""
    layout = Layout.ragged([2, 1])
    process = {
        "x": Gaussian(Linear()),
        "k": Categorical(Flow(), uniform(3)),
        "a": Brownian(Geometric(0.2, 3.0), Torus(1)),
    }
    record = {
        "x": torch.tensor([0.5, 1.0, -1.0]).double(),
        "k": torch.tensor([0, 1, 2]),
        "a": torch.tensor([[0.5], [1.0], [2.0]]).double(),
    }
    batch = Batch(record, dict.fromkeys(record, layout))
    held = batch.with_given({"x": torch.tensor([True, False, False])})
    sampler = DDPM(ExactDenoiser(Product(process), batch), UniformTime(4))
    random = Counter(0)
    walk = Rollout.draw(sampler, held, random)
    got = walk.log_prob(sampler, random)
    bound = sampler.bind(held, random)
    bound_process: Any = bound.process
    for i in range(4):
        before, after = walk.carries[i], walk.carries[i + 1]
        estimate, _ = bound.effective(before, i)
        rows = bound_process.reverse_log_prob(after.x, before.x, estimate, bound.coefficients[i])
        drawn = ("x", "k", "a") if i < 3 else ("k",)
        total = torch.stack([rows[name].double() for name in drawn]).sum(0)
        torch.testing.assert_close(got[i].double(), torch.stack([total[:2].sum(), total[2]]))


def reward(batch: Batch) -> Tensor:
    """The mode on the right is liked."""
    return (batch["x"] > 0).float()


@pytest.mark.parametrize("updates", [1, 4])
def test_the_mean_reward_rises(updates: int) -> None:
    """From one half, in each fifth of the training, to nearly one."""
    denoiser = Modes()
    objective = PolicyGradient(lambda d: DDPM(d, GRID), reward, updates=updates)
    optimiser, random = torch.optim.SGD(denoiser.parameters(), 0.2), Generator(0)
    batch, rewards = Batch.of(torch.zeros(200).double()), []
    for _ in range(60):
        optimiser.zero_grad()
        objective(denoiser, batch, random).total.backward()
        optimiser.step()
        rewards.append(objective.mean_reward)
    parts = torch.tensor(rewards).reshape(5, 12).mean(1)
    assert bool((parts.diff() > 0).all()), parts
    assert parts[0] < 0.75
    assert parts[-1] > 0.9


def test_the_first_gradient_is_that_of_the_reward() -> None:
    """Of E reward by its own derivative: at many walks, within 4 errors of finite differences."""
    denoiser, rows = Modes(), 20_000
    objective = PolicyGradient(lambda d: DDPM(d, GRID), reward)
    batch = Batch.of(torch.zeros(rows).double())
    terms = objective(denoiser, batch, Generator(0))
    (slope,) = torch.autograd.grad(terms.total, denoiser.odds)
    spread = float(reward(objective.rollout.samples).std())
    means = []
    for odds in (0.2, -0.2):
        with torch.no_grad():
            denoiser.odds.fill_(odds)
        drawn = DDPM(denoiser, GRID).sample(batch, Counter(1))
        means.append(float(reward(drawn).mean()))
    truth = (means[0] - means[1]) / 0.4
    error = math.sqrt(2 * 0.25 / rows) / 0.4
    assert abs(-float(slope) * spread - truth) < 4 * error
    assert truth > 10 * error


def test_ratios_far_from_one_are_clipped_where_that_is_worse() -> None:
    """The second call of a set of walks, by hand: gains stop at the clip, losses do not."""
    denoiser = Modes()
    objective = PolicyGradient(lambda d: DDPM(d, GRID), reward, updates=2, clip=0.01)
    batch = Batch.of(torch.zeros(200).double())
    objective(denoiser, batch, Generator(0))
    with torch.no_grad():
        denoiser.odds.fill_(0.8)
    got = objective(denoiser, batch, Generator(0)).leaves["x"].detach()
    now = objective.rollout.log_prob(DDPM(denoiser, GRID), Generator(0)).detach()
    ratio, better = torch.exp(now - objective.old), objective.advantage > 0
    gain = torch.where(better, ratio.clamp(max=1.01), ratio.clamp(min=0.99))
    torch.testing.assert_close(got, -(gain * objective.advantage).sum(0))
    for side in (ratio[:, better], ratio[:, ~better]):
        assert float(side.min()) < 0.99
        assert float(side.max()) > 1.01


class SecondThought(Ancestral):
    """Looks where its own noise leads to."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser, GRID, eta=1.0)

    def effective(self, carry: Carry, i: int) -> tuple[Any, Carry]:
        estimate, carry = super().effective(carry, i)
        if i + 1 == self.steps:
            return estimate, carry
        return self.denoise(self.advance(carry.x, estimate, i), i + 1, None), carry


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: PolicyGradient(DDIM, reward, updates=0), "updates must be at least 1, got 0"),
        (lambda: PolicyGradient(DDIM, reward, clip=0.0), "clip must be positive, got 0.0"),
        (
            lambda: PolicyGradient(lambda d: DDPM(d, GRID), lambda b: b["x"][:, None])(
                Modes(), START, Generator(0)
            ),
            r"finite number for each sample, \(6,\), got shape \(6, 1\) with 0 not finite",
        ),
        (
            lambda: PolicyGradient(lambda d: DDPM(d, GRID), lambda b: b["x"] * math.nan)(
                Modes(), START, Generator(0)
            ),
            r"got shape \(6,\) with 6 not finite",
        ),
        (
            lambda: PolicyGradient(lambda d: DDPM(d, GRID), reward)(
                Modes(), Batch.of(torch.zeros(1).double()), Generator(0)
            ),
            "batch must have at least 2 samples to compare, got 1",
        ),
        (
            lambda: Rollout.draw(DDIM(Modes(), GRID), START, Generator(0)).log_prob(
                DDIM(Modes(), GRID), Generator(0)
            ),
            "eta of the sampler must be positive, got 0: its steps have no density",
        ),
        (
            lambda: Rollout.draw(SecondThought(Modes()), START, Counter(0)).log_prob(
                SecondThought(Modes()), Counter(0)
            ),
            "the estimate of SecondThought depends on the noise of its own step",
        ),
    ],
)
def test_refusals(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda d: Churn(d, GRID, Linear()), "eta of the sampler must be positive, got 0"),
        (lambda d: AnnealedLangevin(d, GRID), "eta of the sampler must be positive, got 0"),
        (
            lambda d: StochasticRungeKutta(d, GRID),
            "the estimate of StochasticRungeKutta depends on the noise of its own step",
        ),
        (lambda d: PredictorCorrector(DDPM(d, GRID)), "must be a Sampler, not what walks around"),
        (
            lambda d: Restart(DDPM, d, GRID, interval=(0.2, 0.5)),
            "must be a Sampler, not what walks around one",
        ),
    ],
    ids=["Churn", "AnnealedLangevin", "StochasticRungeKutta", "PredictorCorrector", "Restart"],
)
def test_steps_without_a_density_are_refused(make: Any, match: str) -> None:
    sampler = make(Modes())
    walk = Rollout.draw(sampler, START, Counter(0))
    with pytest.raises(ValueError, match=match):
        walk.log_prob(sampler, Counter(0))
    with pytest.raises(ValueError, match=match):
        PolicyGradient(make, reward)(Modes(), START, Generator(0))
