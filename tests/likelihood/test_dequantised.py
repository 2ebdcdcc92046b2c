"""Integers under a density: laws in the bin, bounds, units."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from structdiff import Batch, Counter, Gaussian, Generator, Geometric, Layout, flow_log_prob
from structdiff.likelihood import LearnedBins, NormalBins, UniformBins, integer_bound
from structdiff.testing import NormalDenoiser

CENTRES, SPREAD, VALUES = torch.tensor([1.2, 4.0]), torch.tensor([0.7, 0.5]), 7


def mixture(batch: Batch) -> torch.Tensor:
    """Log density of two normals, of records of two numbers."""
    z = (batch["x"][..., None] - CENTRES) / SPREAD
    each = -0.5 * z**2 - torch.log(SPREAD) - 0.5 * math.log(2 * math.pi) - math.log(2)
    return torch.logsumexp(each, -1).sum(1)


def chance(k: int) -> float:
    """The mixture's probability of a bin, by the error function."""
    ends = (torch.tensor([k, k + 1.0])[:, None] - CENTRES) / SPREAD
    low, high = torch.special.ndtr(ends).mean(1).tolist()
    return float(high - low)


def every_pair() -> Batch:
    grid = torch.arange(float(VALUES)).double()
    return Batch.of(torch.cartesian_prod(grid, grid))


def truth() -> torch.Tensor:
    logs = torch.tensor([math.log(chance(k)) for k in range(VALUES)], dtype=torch.float64)
    return torch.cartesian_prod(logs, logs).sum(1)


class Tilted(nn.Module):
    """A mean and a log standard deviation for each bin."""

    def __init__(self) -> None:
        super().__init__()
        start = torch.tensor([0.0, 0.5]).double()
        self.table = nn.Parameter(start.expand(VALUES, 2).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table[x.long()]


@pytest.mark.parametrize("law", [UniformBins(), NormalBins(0.3), LearnedBins(Tilted())])
def test_the_mean_is_below_the_truth_and_the_exponential_mean_is_the_truth(law) -> None:
    batch, draws = every_pair(), 4000
    found = integer_bound(mixture, batch, {"x": law}, Generator(0), draws=draws)
    assert (found.total < truth() + 4 * found.error).all()
    weights = found.draws.exp()  # p / q is an unbiased estimate of P
    error = weights.std(0) / math.sqrt(draws)
    assert ((weights.mean(0) - truth().exp()).abs() < 5 * error + 1e-12).all()


def test_a_density_that_is_flat_in_each_bin_loses_nothing() -> None:
    chances = torch.tensor([0.5, 0.3, 0.2]).double()

    def steps(batch: Batch) -> torch.Tensor:
        return chances[batch["x"].long()].log().sum(1)

    batch = Batch.of(torch.tensor([[0.0, 2.0], [1.0, 1.0]]).double())
    found = integer_bound(steps, batch, {"x": UniformBins()}, Generator(0))
    torch.testing.assert_close(found.total, torch.tensor([0.5 * 0.2, 0.09]).double().log())


@pytest.mark.parametrize("std", [0.05, 0.3, 5.0])
def test_the_cut_normal_has_mass_one_and_its_moments(std: float) -> None:
    n = 200_000
    u, log_prob = NormalBins(std)(torch.zeros(n, 1).double(), Generator(0))
    place = (torch.arange(4000).double() + 0.5) / 4000
    weight = torch.exp(-0.5 * ((place - 0.5) / std) ** 2)
    weight /= weight.sum()
    assert u.min() > 0
    assert u.max() < 1
    mean, second = float(u.mean()), float(((u - 0.5) ** 2).mean())
    spread = float((weight * (place - 0.5) ** 2).sum())
    assert mean == pytest.approx(0.5, abs=5 * math.sqrt(spread / n))
    assert second == pytest.approx(spread, abs=5 * spread * math.sqrt(2 / n))
    # E_q[1 / q] is the length of the bin; for a narrow law its tails are too rare to be seen.
    if std > 0.1:
        inverse = torch.exp(-log_prob)
        error = float(inverse.std()) / math.sqrt(n)
        assert float(inverse.mean()) == pytest.approx(1, abs=5 * error + 1e-9)
    inside = (place - 0.5).abs() < std
    share = float(((u - 0.5).abs() < std).double().mean())
    expected = float(weight[inside].sum())
    assert share == pytest.approx(expected, abs=5 / math.sqrt(n) + 2 / 4000)


def test_a_learned_law_comes_to_the_posterior_and_loses_less() -> None:
    network = Tilted()
    law, batch = LearnedBins(network), every_pair()
    weights = truth().exp()
    before = integer_bound(mixture, batch, {"x": UniformBins()}, Generator(1), draws=400)
    optimiser = torch.optim.Adam(network.parameters(), 0.03)
    for step in range(200):
        random = Generator(step)
        loss = -(weights * integer_bound(mixture, batch, {"x": law}, random, draws=8).total).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        after = integer_bound(mixture, batch, {"x": law}, Generator(1), draws=400)
    lost = [float((weights * (truth() - found.total)).sum()) for found in (before, after)]
    assert lost[0] > 0.05
    assert -0.01 < lost[1] < 0.25 * lost[0]


def test_bits_per_dimension_do_not_depend_on_the_scale_of_the_data() -> None:
    """A model of data divided by 8, whose bins are an eighth wide, says the same."""

    def scaled(batch: Batch) -> torch.Tensor:
        return mixture(batch.with_leaves({"x": 8 * batch["x"]})) + 2 * math.log(8)

    batch = every_pair()
    small = batch.with_leaves({"x": batch["x"] / 8})
    one = integer_bound(mixture, batch, {"x": UniformBins()}, Generator(0))
    other = integer_bound(scaled, small, {"x": UniformBins()}, Generator(0), width=1 / 8)
    torch.testing.assert_close(one.bits_per_dimension, other.bits_per_dimension)


def test_integers_under_a_probability_flow() -> None:
    """With the exact denoiser of two normals, against the error function."""
    process = Gaussian(Geometric(0.001, 1000.0), event=(1,))  # the prior hardly has a centre
    mean, std = torch.tensor([[1.2], [4.0]]).double(), torch.tensor([0.7, 0.5]).double()
    denoiser = NormalDenoiser(process, mean, std)
    batch = Batch.of(torch.arange(1.0, 5.0).double()[:, None])

    def log_prob(at: Batch) -> torch.Tensor:
        return flow_log_prob(denoiser, at, start=1e-3, tolerance=1e-5).total

    found = integer_bound(log_prob, batch, {"x": NormalBins(0.4)}, Generator(3), draws=12)
    exact = torch.tensor([math.log(chance(k)) for k in range(1, 5)])
    by_hand = integer_bound(mixture, batch, {"x": NormalBins(0.4)}, Generator(3), draws=12)
    # What the prior does not know of the centre: up to 4 / 1000 of a standard deviation or two.
    torch.testing.assert_close(found.draws, by_hand.draws, atol=1e-2, rtol=0)
    assert (found.total < exact + 4 * found.error).all()


def test_a_sample_is_placed_alike_alone_and_in_a_batch() -> None:
    batch = every_pair()
    whole = integer_bound(mixture, batch, {"x": UniformBins()}, Counter(0)).total
    part = integer_bound(mixture, batch.select([3, 5]), {"x": UniformBins()}, Counter(0)).total
    assert torch.equal(whole[[3, 5]], part)


def test_the_report_says_what_it_is() -> None:
    found = integer_bound(mixture, every_pair(), {"x": UniformBins()}, Generator(0), draws=3)
    assert "nats, against: counting" in str(found)
    assert "bits per dimension" in str(found)
    assert found.entries.tolist() == [2] * VALUES**2
    assert str(found).count(" +- ") == 2
    once = integer_bound(mixture, every_pair(), {"x": UniformBins()}, Generator(0))
    assert str(once).count(" +- ") == 1  # over samples; one draw has no error
    assert "nan" not in str(once)


@pytest.mark.parametrize("law", [UniformBins(), NormalBins()])
def test_a_sample_without_rows_has_no_bits(law) -> None:
    """Each row of a flat density of 2 on bins of half the unit is certain; D log w in full."""
    for counts in ([0, 0], [3, 0]):
        layout = Layout.ragged(counts)
        batch = Batch({"x": torch.zeros(sum(counts), 1000).double()}, {"x": layout})
        size = torch.tensor(counts).double()
        found = integer_bound(
            lambda at, size=size: 1000 * size * math.log(255),
            batch,
            {"x": law},
            Generator(0),
            width=1 / 255,
        )
        assert found.total.dtype == torch.float64
        if isinstance(law, UniformBins):
            torch.testing.assert_close(found.total, torch.zeros(2).double(), atol=1e-9, rtol=0)
        assert found.entries.tolist() == [1000 * n for n in counts]
        assert found.total[1] == 0


def test_refusals() -> None:
    batch = every_pair()
    held = batch.with_given({"x": torch.zeros(len(batch["x"]), 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"leaves \['x'\] of integers have given entries"):
        integer_bound(mixture, held, {"x": UniformBins()}, Generator(0))
    with pytest.raises(ValueError, match="width must be positive"):
        integer_bound(mixture, batch, {"x": UniformBins()}, Generator(0), width={"y": 1.0})
    with pytest.raises(ValueError, match="must name leaves of integers, got .'y'."):
        integer_bound(mixture, batch, {"y": UniformBins()}, Generator(0))
    with pytest.raises(ValueError, match="width must be positive"):
        integer_bound(mixture, batch, {"x": UniformBins()}, Generator(0), width=0.0)
    with pytest.raises(ValueError, match="draws at least 1"):
        integer_bound(mixture, batch, {"x": UniformBins()}, Generator(0), draws=0)
    with pytest.raises(ValueError, match="std must be positive"):
        NormalBins(0.0)
    with pytest.raises(ValueError, match=r"must return .* got \(49, 2\)"):
        integer_bound(mixture, batch, {"x": LearnedBins(nn.Identity())}, Generator(0))
