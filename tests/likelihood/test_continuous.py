"""The bound in continuous time is the likelihood itself where the denoiser is exact."""

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
    Layout,
    Linear,
    Product,
    absorbing,
    bound,
    marginal,
    uniform,
)
from structdiff.counter import Counter
from structdiff.denoiser import Denoiser
from structdiff.likelihood import Bound, continuous_bound
from structdiff.objectives import UniformTimes
from structdiff.processes import Estimate
from structdiff.schedules import MaskCosine, Schedule, UniformTime
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser, NormalDenoiser
from tests.enumerable import World, integral

LAW = torch.tensor([0.5, 0.3, 0.2])
TRANSITIONS = {"uniform": uniform(3), "absorbing": absorbing(3), "marginal": marginal(LAW)}
WORLD = World.random(3, 3)


class Tempered(Denoiser):
    """Another denoiser's log-probabilities, divided by two: a wrong model."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.process = denoiser, denoiser.process

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        said = self.denoiser(batch, t, previous)["x"]
        return {"x": Estimate(torch.log_softmax(said.value / 2, -1))}


def rate(leaf: Any, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    value: Tensor = leaf.divergence_rate(estimate, x_0, x_t, t)
    return value


def chain(name: str, schedule: Schedule | None = None) -> Any:
    return WORLD.process(Categorical(schedule or Flow(), TRANSITIONS[name]))


@pytest.mark.parametrize("schedule", [Flow(), MaskCosine()], ids=["flow", "cosine"])
@pytest.mark.parametrize("name", TRANSITIONS)
def test_exact_denoiser_reaches_the_likelihood_of_each_record(name, schedule):
    """E01, FX3: the integral of the rate is -log p(x_0), for any schedule and chain."""
    denoiser = WORLD.denoiser(chain(name, schedule))
    each = integral(lambda t: WORLD.expectation(denoiser, t, rate))
    torch.testing.assert_close(each, -WORLD.probability.log(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_wrong_model_pays_for_its_rates(name):
    """Above the entropy by the mean divergence of its reversal from the exact one, to 1e-8."""
    exact = WORLD.denoiser(chain(name))
    wrong = Tempered(exact)
    paid = integral(lambda t: WORLD.expectation(wrong, t, rate)) @ WORLD.probability

    def between(leaf: Any, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """sum_j r_j - r*_j + r*_j log(r*_j / r_j) of the model's and the exact rates."""
        batch = WORLD.batch(x_t.reshape(-1, 3))
        truth = exact(batch, {"x": t}, None)["x"]
        mine, best = leaf.rates(estimate, x_t, t), leaf.rates(truth, x_t, t)
        log = torch.where(best > 1e-12, best.log() - mine.log(), 0.0)  # less is rounding
        return (mine - best + best * log).sum(-1)

    gap = integral(lambda t: WORLD.expectation(wrong, t, between)) @ WORLD.probability
    assert gap > 0.01
    assert abs(float(paid - gap) - WORLD.entropy) < 1e-8


def stepwise(denoiser: Denoiser, steps: int) -> float:
    """L_vb of a chain of T steps, exactly."""
    times = UniformTime(steps).times()
    process: Any = denoiser.process
    total = torch.zeros(27, dtype=torch.float64)
    for i, plan in enumerate(process.bind(WORLD.data_batch).plan(times, 1.0)):

        def term(
            leaf: Any,
            estimate: Estimate,
            x_0: Tensor,
            x_t: Tensor,
            t: Tensor,
            step: Any = plan["x"],
            last: bool = i == steps - 1,
        ) -> Tensor:
            if last:
                return leaf.reconstruction(estimate, x_0, x_t, t)
            return leaf.divergence(leaf.oracle(x_0, x_t, t), estimate, x_t, step)

        total += WORLD.expectation(denoiser, float(times[i]), term)
    return float(total @ WORLD.probability)


@pytest.mark.parametrize("name", TRANSITIONS)
def test_the_bound_of_steps_falls_to_the_continuous_one(name):
    """D01(c), D04, E01: L_vb >= entropy; its gap halves as T doubles, extrapolated it is gone."""
    denoiser = WORLD.denoiser(chain(name))
    gaps = [stepwise(denoiser, steps) - WORLD.entropy for steps in (8, 16, 32, 64)]
    assert gaps[-1] > 1e-3
    assert 1.9 < gaps[2] / gaps[3] < 2.1
    assert 1.7 < gaps[0] / gaps[1] < 2.3
    assert abs(2 * gaps[3] - gaps[2]) < 0.05 * gaps[3]


@pytest.mark.parametrize("name", TRANSITIONS)
def test_draws_agree_with_the_integral(name):
    """Divergence and reconstruction of each record, drawn, within their own error."""
    denoiser, low = WORLD.denoiser(chain(name)), 0.02
    # What survives to the end is impossible under the absorbing chain's prior.
    high = 1.0 if name == "absorbing" else 0.9
    copies = 20
    batch = WORLD.data_batch.select(list(range(27)) * copies)
    report = continuous_bound(
        denoiser, batch, Generator(0), draws=10, times=UniformTimes(low, high)
    )
    span = high - low
    inside = span * integral(
        lambda u: WORLD.expectation(denoiser, low + span * u, rate), power=1, nodes=24
    )

    def last(leaf: Any, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return leaf.reconstruction(estimate, x_0, x_t, t)

    leaf = denoiser.process.bind(WORLD.data_batch)["x"]
    prior = leaf.prior_divergence(WORLD.data_batch["x"], high).reshape(27, 3).sum(1)
    truth = inside + WORLD.expectation(denoiser, low, last) + prior
    each = report.total.reshape(copies, 27)
    error = each.std(0) / math.sqrt(copies)
    assert ((each.mean(0) - truth).abs() < 4.5 * error + 1e-9).all()
    assert (truth @ WORLD.probability) > WORLD.entropy
    torch.testing.assert_close(report.prior["x"][:27], prior)
    # The reported error of the mean over samples covers what it says.
    off = float(report.total.mean() - truth.mean())
    assert abs(off) < 4 * report.mean_error()
    assert 0.3 < report.mean_error() / float(each.mean(1).std() / math.sqrt(copies)) < 3


def test_each_sample_sees_all_times():
    """Its bound is unbiased alone: over draws, the times of any sample are uniform."""
    data = Batch.of(torch.tensor([0, 1, 2, 0]))
    seen: list[Tensor] = []

    class Spy(ExactDenoiser):
        def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
            if t["x"].ndim:
                seen.append(t["x"])
            return super().forward(batch, t, previous)

    process = Product({"x": Categorical(Flow(), absorbing(3))})
    even = UniformTimes()
    continuous_bound(Spy(process, data), data, Generator(0), draws=400, times=even)
    times = torch.stack(seen)
    # Evenly spaced in each draw: the gaps of four samples are a quarter.
    gaps = times.sort(1).values.diff(dim=1)
    torch.testing.assert_close(gaps, torch.full_like(gaps, 0.25 * (1 - 1e-4)))
    for sample in times.unbind(1):
        edges = torch.arange(1, 401).double() / 400
        assert (sample.sort().values - edges).abs().max() < 1.63 / math.sqrt(400)


def test_normal_data():
    """Kingma et al., eq. 14: the integral is log((1 + SNR_a s^2) / (1 + SNR_b s^2)) / 2."""
    schedule, mean, std, copies = Linear(), 0.8, 0.6, 4000
    denoiser = NormalDenoiser(
        Gaussian(schedule), torch.tensor([mean]).double(), torch.tensor([std]).double()
    )
    points = mean + std * Generator(3).normal((copies,), torch.float64, "cpu")
    law = UniformTimes(0.01, 1.0)
    report = continuous_bound(denoiser, Batch.of(points), Generator(0), draws=4, times=law)
    snr = torch.exp(schedule.log_snr(torch.tensor([0.01, 1.0])))
    high, low = torch.log1p(snr * std**2) / 2
    middle = report.divergence["x"]
    assert abs(float(middle.mean() - (high - low))) < 4 * float(middle.std()) / math.sqrt(copies)
    # Of the entropy, what is not in the integral is in the two ends.
    entropy = 0.5 * math.log(2 * math.pi * math.e * std**2)
    spread = float(report.total.std()) / math.sqrt(copies)
    assert -4 * spread < float(report.total.mean()) - entropy < 0.02 + 4 * spread


def test_a_single_point_costs_what_its_ends_cost():
    """With one point and its exact denoiser nothing is paid in between."""
    process = Product({"x": Gaussian(Linear(), event=(2,)), "k": Categorical(Flow(), uniform(3))})
    point = Batch.of({"x": torch.tensor([[0.5, -1.0]]).double(), "k": torch.tensor([2])})
    report = continuous_bound(ExactDenoiser(process, point), point, Generator(0), draws=3)
    for name in ("x", "k"):
        torch.testing.assert_close(
            report.divergence[name].double(), torch.zeros(1).double(), rtol=0, atol=1e-9
        )
    assert report.leaf("k").abs() < 1e-12
    bound_process: Any = process.bind(point)
    ends = (
        bound_process.prior_divergence(point.leaves)["x"]
        + bound_process.reconstruction(
            ExactDenoiser(process, point)(point, process.bind(point).times(torch.tensor(1e-4))),
            point.leaves,
            point.leaves,
            bound_process.times(torch.tensor(1e-4, dtype=torch.float64)),
        )["x"]
    )
    torch.testing.assert_close(report.leaf("x").double(), ends.double(), rtol=1e-4, atol=1e-4)


def test_a_product_of_a_chain_and_a_gaussian():
    """A class and a number that depends on it: the entropy of the pair, from both leaves."""
    centres, law = torch.tensor([-2.0, 0.0, 2.5]).double(), torch.tensor([0.5, 0.3, 0.2]).double()
    process = Product({"k": Categorical(Flow(), absorbing(3)), "x": Gaussian(Linear())})
    pairs = Batch.of({"k": torch.arange(3), "x": centres})
    denoiser = ExactDenoiser(process, pairs, law)
    copies = 3000
    batch = pairs.select(torch.multinomial(law, copies, True, generator=torch.manual_seed(0)))
    report = continuous_bound(
        denoiser, batch, Generator(0), draws=4, times=UniformTimes(0.01, 1.0)
    )
    # The place is a function of the class: both together cost the entropy of the class, and the
    # Gaussian end that a point at its own noise has.
    end = float(Linear().sigma(torch.tensor(0.01)) / Linear().alpha(torch.tensor(0.01)))
    point = 0.5 * math.log(2 * math.pi * end**2)
    entropy = -float((law * law.log()).sum())
    error = float(report.total.std()) / math.sqrt(copies)
    assert abs(float(report.total.mean() - report.prior["x"].mean()) - entropy - point) < 4 * error
    assert error < 0.05


def test_given_rows_cost_nothing_and_are_conditioned_on():
    """Given the first row, the other two cost -log p of them given it."""
    process = chain("uniform")
    denoiser, copies = WORLD.denoiser(process), 150
    batch = WORLD.data_batch.select(list(range(27)) * copies)
    held = batch.layouts["x"].row == 0
    report = continuous_bound(denoiser, batch.with_given({"x": held}), Generator(1), draws=4)
    given = WORLD.law / WORLD.law.sum((1, 2), keepdim=True)
    mean = report.total.reshape(copies, 27)
    error = mean.std(0) / math.sqrt(copies)
    off = (mean.mean(0) + given.flatten().log()).abs()
    assert (off < 4.5 * error + 0.01).all()
    everything = batch.with_given({"x": torch.ones_like(held)})
    assert (continuous_bound(denoiser, everything, Generator(1)).total == 0).all()


def test_kind_and_doors():
    data = Batch.of(torch.arange(3))
    denoiser = ExactDenoiser(Product({"x": Categorical(Flow(), absorbing(3))}), data)
    report = continuous_bound(denoiser, data, Generator(0), times=UniformTimes(0.25, 0.5))
    assert report.kind.endswith("continuous time from 0.25 to 0.5")
    assert Bound.concatenate([report, report]).kind == report.kind
    with pytest.raises(ValueError, match="of one kind"):
        Bound.concatenate([report, bound(denoiser, data, UniformTime(4), Generator(0))])
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        continuous_bound(denoiser, data, Generator(0), draws=0)
    # A source that follows addresses gives each draw noise of its own.
    many = continuous_bound(denoiser, data, Counter(0), draws=3).draws["x"]
    assert len({tuple(draw.tolist()) for draw in many}) == 3


def test_processes_without_densities_are_refused():
    class Untractable(Product):
        def offers(self, contract: type[Any]) -> bool:
            return False

    data = Batch({"x": torch.zeros(2, 1)}, {"x": Layout.regular(2)})
    process = Product({"x": Brownian(Geometric(0.05, 6.0), Torus(1))})
    denoiser = ExactDenoiser(process, data)
    denoiser.process = Untractable({"x": process["x"]})
    with pytest.raises(ValueError, match="the bound needs densities: .* is not Tractable"):
        continuous_bound(denoiser, data, Generator(0))
