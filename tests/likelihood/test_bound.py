"""The bound is above the exact negative log-likelihood and reaches it where theory says so."""

from __future__ import annotations

import math
from itertools import product as pairs

import pytest
import torch

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
    UniformLogSNR,
    UniformTime,
    absorbing,
    bound,
    marginal,
    uniform,
)
from structdiff.counter import Counter
from structdiff.likelihood import Bound
from structdiff.processes import Process
from structdiff.processes.leaf import Leaf
from structdiff.spaces import Torus
from structdiff.testing import Addressed, ExactDenoiser, NormalDenoiser


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def joint(seed: int = 0) -> torch.Tensor:
    """A coupled law of three rows of three classes."""
    logits = 1.5 * torch.randn(27, generator=torch.Generator().manual_seed(seed))
    return torch.softmax(logits, 0)


STATES = torch.tensor(list(pairs(range(3), repeat=3)))
TRANSITIONS = {
    "uniform": uniform(3),
    "absorbing": absorbing(3),
    "marginal": marginal(torch.tensor([0.5, 0.3, 0.2])),
}


@pytest.mark.parametrize("name", TRANSITIONS)
def test_bound_on_an_enumerable_joint(name):
    """A15, FX3: above the entropy for every T, falling towards it as T grows."""
    process = Product({"x": Categorical(Flow(), TRANSITIONS[name], event=(3,))})
    law = joint()
    denoiser = ExactDenoiser(process, Batch.of(STATES), law)
    copies, entropy = 40, float(-(law * law.log()).sum())
    batch = Batch.of(STATES.repeat(copies, 1))
    gaps = []
    for steps in (2, 8, 32):
        report = bound(denoiser, batch, UniformTime(steps), Generator(1))
        each = report.total.reshape(copies, 27)
        error = float((each.var(0) * law**2 / copies).sum().sqrt())
        gaps.append(float((each.mean(0) * law).sum()) - entropy)
        assert gaps[-1] > -4 * error, (steps, gaps, error)
        assert report.divergence["x"].min() > -1e-9
    assert gaps[2] < gaps[0] / 3
    assert gaps[2] < 0.15


def test_bound_of_two_bits_by_enumeration():
    """One step, absorbing: nothing is known at t = 1, so the bound is the sum of the marginals."""
    process = Product(
        {"a": Categorical(Flow(), absorbing(2)), "b": Categorical(Flow(), absorbing(2))}
    )
    bits = Batch.of({"a": torch.tensor([0, 0, 1, 1]), "b": torch.tensor([0, 1, 0, 1])})
    law = torch.tensor([0.4, 0.1, 0.2, 0.3])
    report = bound(ExactDenoiser(process, bits, law), bits, UniformTime(1), Generator(0))
    a, b = torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.4])
    torch.testing.assert_close(report.leaf("a"), -a.log()[bits["a"]])
    torch.testing.assert_close(report.leaf("b"), -b.log()[bits["b"]])
    assert (report.prior["a"] == 0).all()
    assert (report.divergence["b"] == 0).all()
    # The gap is the mutual information of the two bits.
    information = (law * (law / (a[bits["a"]] * b[bits["b"]])).log()).sum()
    gap = (law * (report.total + law.log())).sum()
    torch.testing.assert_close(gap, information)


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_absorbing_single_row_is_exact(steps):
    """With one row the bound is -log p, in expectation over the masking, for every T."""
    process = Product({"x": Categorical(Flow(), absorbing(3))})
    law, copies = torch.tensor([0.2, 0.5, 0.3]), 4000
    denoiser = ExactDenoiser(process, Batch.of(torch.arange(3)), law)
    batch = Batch.of(torch.arange(3).repeat(copies))
    each = bound(denoiser, batch, UniformTime(steps), Generator(2)).total.reshape(copies, 3)
    error = each.std(0) / math.sqrt(copies)
    assert ((each.mean(0) + law.log()).abs() < 4 * error + 1e-6).all()


def test_normal_data_reach_their_likelihood():
    """A15: above -log p for every T, and to it as T grows; three terms are reported."""
    schedule, mean, std = Linear(), 0.8, 0.6
    denoiser = NormalDenoiser(Gaussian(schedule), torch.tensor([mean]), torch.tensor([std]))
    points = torch.tensor([-0.5, 0.3, 1.0, 2.0])
    copies = 500
    truth = -torch.distributions.Normal(mean, std).log_prob(points)
    gaps = []
    for steps in (16, 64, 256):
        grid = UniformLogSNR(schedule, steps, end=2e-3)
        report = bound(denoiser, Batch.of(points.repeat(copies)), grid, Generator(0))
        each = report.total.reshape(copies, 4)
        gap, error = each.mean(0) - truth, each.std(0) / math.sqrt(copies)
        # -log p(x) is bounded on average over the data, not at each point.
        gaps.append(float(gap.mean()))
        assert gaps[-1] > -4 * float(error.norm()) / 4, (steps, gap, error)
    assert gaps[2] < gaps[1] / 3 < gaps[0] / 9
    # It falls as 1 / steps: extrapolated to infinitely many steps nothing is left.
    assert abs((4 * gaps[2] - gaps[1]) / 3) < 0.03 + 4 * float(error.norm()) / 3
    end = schedule.sigma(torch.ones(()))
    at = (schedule.alpha(torch.ones(())) * points / end) ** 2 / 2
    torch.testing.assert_close(report.prior["x"][:4], at)
    assert set(report.divergence) == set(report.reconstruction) == {"x"}


def leaves():
    return {
        "x": Gaussian(Linear(), event=(2,)),
        "y": Categorical(Flow(), uniform(3)),
        "z": Brownian(Geometric(0.05, 6.0), Torus(1)),
    }


def mixed() -> tuple[Product, Batch, list[torch.Tensor]]:
    process = Product(leaves())
    parts = {
        "x": torch.tensor([[0.0, 1.0], [1.0, -1.0]]),
        "y": torch.tensor([0, 2]),
        "z": torch.tensor([[0.5], [-2.0]]),
    }
    index = torch.tensor(list(pairs(range(2), repeat=3)))
    laws = [torch.tensor([0.3, 0.7]), torch.tensor([0.6, 0.4]), torch.tensor([0.5, 0.5])]
    weight = laws[0][index[:, 0]] * laws[1][index[:, 1]] * laws[2][index[:, 2]]
    data = Batch.of({n: parts[n][index[:, k]] for k, n in enumerate(parts)})
    return process, data, [weight, *laws]


def test_independent_parts_add_up():
    """K01: the joint bound of independent parts is the sum of the parts' bounds, to 1e-5."""
    process, data, (weight, *laws) = mixed()
    whole = ExactDenoiser(process, data, weight)
    grid = UniformTime(6)
    report = bound(whole, data, grid, Addressed(3))
    total = torch.zeros(8)
    for k, name in enumerate(("x", "y", "z")):
        rows = [0, 4] if k == 0 else [0, 2] if k == 1 else [0, 1]
        alone = ExactDenoiser(
            Product({name: leaves()[name]}), Batch.of({name: data[name][rows]}), laws[k]
        )
        part = bound(alone, Batch.of({name: data[name]}), grid, Addressed(3))
        torch.testing.assert_close(part.total, report.leaf(name), rtol=1e-5, atol=1e-5)
        total = total + part.total
    torch.testing.assert_close(report.total, total, rtol=1e-5, atol=1e-5)


def test_a_subset_of_terms_is_unbiased():
    process, data, (weight, *_) = mixed()
    denoiser, copies = ExactDenoiser(process, data, weight), 150
    batch = data.select(list(range(8)) * copies)
    grid = UniformTime(12)
    all_terms = bound(denoiser, batch, grid, Generator(0))
    few = bound(denoiser, batch, grid, Generator(1), terms=3, draws=16)
    for name in data.leaves:
        a, b = (r.divergence[name].reshape(copies, 8).mean(1) for r in (all_terms, few))
        # Which terms were looked at is shared by all samples of a draw.
        assert abs(a.mean() - b.mean()) < 0.2 * a.mean() + 4 * a.std() / math.sqrt(copies), name
    # Exactly, over a fine grid of shifts: each term is chosen with probability used / steps.
    from structdiff.likelihood.bound import _chosen

    class Shift(Generator):
        def uniform(self, shape, dtype, device):
            return torch.full(shape, self.at, dtype=dtype)

    counts, source = torch.zeros(11), Shift(0)
    for k in range(3300):
        source.at = (k + 0.5) / 3300
        counts[_chosen(11, 3, source)] += 1
    torch.testing.assert_close(counts, torch.full((11,), 900.0), rtol=0.01, atol=2)


def test_monte_carlo_error():
    """The stated error is the spread of the report over repetitions."""
    process, data, (weight, *_) = mixed()
    denoiser = ExactDenoiser(process, data, weight)
    reports = [bound(denoiser, data, UniformTime(4), Generator(k), draws=4) for k in range(30)]
    spread = torch.stack([r.total for r in reports]).std(0)
    stated = torch.stack([r.error for r in reports]).square().mean(0).sqrt()
    assert (spread / stated - 1).abs().max() < 0.6
    for name in data.leaves:
        spread = torch.stack([r.leaf(name) for r in reports]).std(0)
        stated = torch.stack([r.leaf_error(name) for r in reports]).square().mean(0).sqrt()
        assert ((spread - stated).abs() < 0.6 * stated + 1e-12).all(), name
    one = bound(denoiser, data, UniformTime(4), Generator(0))
    assert one.error.isnan().all()
    assert math.isnan(one.mean_error())


def test_error_of_the_mean_knows_that_samples_share_steps():
    """With few terms a draw, errors of samples go together and do not average out."""
    process, data, (weight, *_) = mixed()
    denoiser, grid = ExactDenoiser(process, data, weight), UniformTime(12)
    batch = data.select(list(range(8)) * 20)
    reports = [bound(denoiser, batch, grid, Generator(k), draws=8, terms=1) for k in range(40)]
    spread = torch.stack([r.total.mean() for r in reports]).std()
    stated = torch.tensor([r.mean_error() for r in reports]).square().mean().sqrt()
    alone = torch.stack([r.error for r in reports]).square().mean().div(batch.samples).sqrt()
    # A standard deviation of 40 has a relative error of 1 / sqrt(2 * 39) = 0.11.
    assert abs(spread / stated - 1) < 0.4
    assert alone < 0.6 * spread
    apart = torch.stack([r.leaf("y").mean() for r in reports]).std()
    stated = torch.tensor([r.mean_error("y") for r in reports]).square().mean().sqrt()
    assert abs(apart / stated - 1) < 0.4


def test_parts_of_a_batch_join():
    process, data, (weight, *_) = mixed()
    denoiser, grid = ExactDenoiser(process, data, weight), UniformTime(4)
    whole = bound(denoiser, data, grid, Counter(0), draws=3)
    parts = [
        bound(denoiser, data.select(rows), grid, Counter(0), draws=3)
        for rows in ([0, 1, 2], [3, 4, 5, 6, 7])
    ]
    joined = Bound.concatenate(parts)
    torch.testing.assert_close(joined.total, whole.total)
    torch.testing.assert_close(joined.error, whole.error)
    assert joined.mean_error("z") == pytest.approx(whole.mean_error("z"))
    single = bound(denoiser, data, grid, Counter(0), draws=1)
    with pytest.raises(ValueError, match="one number of draws"):
        Bound.concatenate([whole, single])


def test_ragged_rows_and_given_rows():
    """A leaf's value is the sum of its rows; given rows have no law to be measured."""
    layout, schedule = Layout.ragged([1, 2, 3]), Linear()
    numbers = Batch({"x": torch.arange(1.0, 7.0)}, {"x": layout})
    gaussian = ExactDenoiser(Product({"x": Gaussian(schedule)}), numbers)
    report = bound(gaussian, numbers, UniformTime(3), Generator(0))
    alpha, sigma = (float(level) for level in schedule(torch.tensor(1.0))[:2])
    expected = torch.tensor([1.0, 4 + 9, 16 + 25 + 36]) * 0.5 * (alpha / sigma) ** 2
    torch.testing.assert_close(report.prior["x"], expected)
    process = Product({"x": Categorical(Flow(), uniform(2))})
    batch = Batch({"x": torch.tensor([0, 1, 0, 1, 1, 0])}, {"x": layout})
    held = batch.with_given({"x": torch.ones(6, dtype=torch.bool)})
    nothing = bound(ExactDenoiser(process, batch), held, UniformTime(3), Generator(0))
    assert torch.equal(nothing.total, torch.zeros(3))


def test_units_and_text():
    one = {"x": torch.tensor([math.log(2.0), 3 * math.log(2.0)])}
    zero = {"x": torch.zeros(2)}
    noise = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    report = Bound(zero, one, zero, {"x": one["x"] + noise})
    torch.testing.assert_close(report.bits_per(2), torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(report.bits_per(torch.tensor([1.0, 3.0])), torch.ones(2))
    text = str(report)
    assert "x: prior 0 + steps 1.386 + last 0" in text
    assert "total 1.386 +- 0.25 (Monte Carlo)" in text
    assert "nats" in text


def test_refusals():
    process, data, (weight, *_) = mixed()
    denoiser = ExactDenoiser(process, data, weight)
    with pytest.raises(ValueError, match="draws and terms must be at least 1"):
        bound(denoiser, data, UniformTime(2), Generator(0), draws=0)
    with pytest.raises(ValueError, match="draws and terms must be at least 1"):
        bound(denoiser, data, UniformTime(2), Generator(0), terms=0)

    class WalkOnly(Leaf, Process):
        """A leaf of which nothing is known but its name."""

    untractable = Product({"x": partial_leaf(WalkOnly)})
    denoiser = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
    denoiser.process = untractable
    with pytest.raises(ValueError, match="not Tractable"):
        bound(denoiser, Batch.of(torch.zeros(2)), UniformTime(2), Generator(0))


def partial_leaf(cls):
    """An instance of an abstract leaf."""
    cls.__abstractmethods__ = frozenset()
    return cls(Linear(), ())
