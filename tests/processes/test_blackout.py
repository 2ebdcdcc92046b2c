"""Blackout diffusion: counts that die one by one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Layout,
    Linear,
    Product,
    UniformTime,
    uniform,
)
from structdiff.processes import Conditional, Estimate, Markov
from structdiff.processes.blackout import Blackout, binomial_log_prob
from structdiff.schedules import CLEAN, Cosine, Survival
from structdiff.testing import ExactDenoiser, laws, sort_records
from tests.processes.cases import grid, time

SURVIVAL = Survival(Cosine())


def pascal(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def many(value: int, rows: int = 20_000) -> tuple[Blackout, Tensor]:
    x_0 = torch.full((rows,), value)
    return Blackout(SURVIVAL, 9).bind(Batch.of(x_0)), x_0


def frequencies(x: Tensor) -> Tensor:
    return torch.bincount(x, minlength=10).double() / len(x)


def close(found: Tensor, law: list[float], rows: int) -> None:
    p = torch.tensor(law + [0.0] * (10 - len(law)), dtype=torch.float64)
    assert bool(((found - p).abs() <= 4.5 * (p * (1 - p) / rows).sqrt() + 1e-12).all())


def test_counts_are_binomial_and_end_in_the_dark() -> None:
    process, x_0 = many(7)
    for t in (0.2, 0.6, 0.9):
        alpha = float(process.schedule.alpha(time(t)))
        law = [pascal(7, k, alpha) for k in range(8)]
        close(frequencies(process.diffuse(x_0, time(t), Generator(0))), law, len(x_0))
        k = torch.arange(8)
        found = process.log_prob(k, torch.full_like(k, 7), time(t)).exp()
        torch.testing.assert_close(found, torch.tensor(law), rtol=1e-5, atol=1e-7)
        assert process.log_prob(torch.tensor([8]), torch.tensor([7]), time(t)).isneginf()
    assert not process.diffuse(x_0, time(1.0), Generator(0)).any()
    assert not process.prior(Generator(0)).any()


def test_the_step_is_the_posterior() -> None:
    """By Bayes' rule over all counts, from q(x_t | x_s) q(x_s | x_0)."""
    process, x_0 = many(7)
    s, t, x_t = 0.3, 0.7, 2
    early, late = (float(process.schedule.alpha(time(v))) for v in (s, t))
    joint = [
        pascal(k, x_t, late / early) * pascal(7, k, early) if k >= x_t else 0.0 for k in range(8)
    ]
    law = [p / sum(joint) for p in joint]
    share = (early - late) / (1 - late)
    paper = [pascal(5, k - x_t, share) if k >= x_t else 0.0 for k in range(8)]
    assert law == pytest.approx(paper)
    (step,) = process.plan(grid(t, s), 1.0)
    assert float(step.born) == pytest.approx(share)
    drawn = process.step(torch.full_like(x_0, x_t), Estimate(x_0.double()), step, Generator(0))
    close(frequencies(drawn), law, len(x_0))


def test_births_keep_the_mean_of_an_uncertain_estimate() -> None:
    process, x_0 = many(7)
    (step,) = process.plan(grid(0.7, 0.3), 1.0)
    x_t = torch.full_like(x_0, 2)
    drawn = process.step(x_t, Estimate(torch.full((len(x_0),), 4.3)), step, Generator(0))
    expected = 2 + 2.3 * float(step.born)
    assert float(drawn.double().mean()) == pytest.approx(expected, abs=4.5 / math.sqrt(len(x_0)))
    most = process.step(x_t, Estimate(torch.full((len(x_0),), 50.0)), step, Generator(0))
    assert int(most.max()) <= 9
    least = process.step(x_t, Estimate(torch.zeros(len(x_0))), step, Generator(0))
    assert torch.equal(least, x_t)


def test_laws() -> None:
    for event in ((), (2,)):
        data = torch.tensor([[1, 4], [9, 0], [5, 6]])
        data = data if event else data[:, 0].clone()
        product = Product({"x": Blackout(SURVIVAL, 9, event=event)})
        bench = laws.Bench(product, Batch.of(data), 2500, 0.4, 0.7, 1, 5.0, 0)
        laws.semigroup(bench)
        laws.bayes(bench)
        laws.density(bench)
        laws.holding(bench)
        laws.independence(bench)
        assert product.offers(Markov)
        assert product.offers(Conditional)


def test_the_loss_is_least_at_the_posterior_mean() -> None:
    """E[loss(m)] over x_0 given x_t, and its difference is the divergence of birth rates."""
    process = Blackout(SURVIVAL, 9).bind(Batch.of(torch.tensor([3, 8])))
    x_0, x_t = torch.tensor([3, 8]), torch.tensor([1, 1])
    weights = torch.tensor([0.25, 0.75]).double()

    def expected(mean: Tensor) -> Tensor:
        return (weights * process.loss(Estimate(mean.expand(2)), x_0, x_t, time(0.5))).sum()

    mean = (weights * x_0).sum().requires_grad_()
    (slope,) = torch.autograd.grad(expected(mean), mean)
    mean = mean.detach()
    assert float(slope) == pytest.approx(0.0, abs=1e-12)
    assert float(expected(mean + 0.5)) > float(expected(mean))
    n, m = 2.0, 3.5
    loss = process.loss(Estimate(torch.tensor([4.5, 8.0]).double()), x_0, x_t, time(0.5))
    assert float(loss[0]) == pytest.approx(n * math.log(n / m) - n + m)
    assert float(loss[1]) == pytest.approx(0.0, abs=1e-12)


def test_outputs_are_shares_of_what_can_be_missing() -> None:
    process = Blackout(SURVIVAL, 9).bind(Batch.of(torch.tensor([3, 8])))
    x_t = torch.tensor([1, 5])
    found = process.decode(torch.tensor([0.0, 100.0]), x_t, time(0.5)).value
    torch.testing.assert_close(found, torch.tensor([5.0, 9.0]))
    assert process.encode(x_t, time(0.5)).tolist() == pytest.approx([1 / 9, 5 / 9])
    pair = [(x_t, Estimate(torch.tensor([2.0, 9.0]))), (x_t, Estimate(torch.tensor([9.0, 6.0])))]
    mixed = process.combine(pair, (torch.tensor(2.0), torch.tensor(-1.0)), x_t).value
    assert mixed.tolist() == [1.0, 9.0]


@pytest.mark.parametrize("steps", [20, 80])
def test_records_return_in_proportion_beside_other_leaves(steps: int) -> None:
    product = Product(
        {
            "count": Blackout(Flow(), 6),
            "kind": Categorical(Flow(), uniform(3)),
            "place": Gaussian(Linear()),
        }
    )
    data = Batch.of(
        {
            "count": torch.tensor([6, 2, 4]),
            "kind": torch.tensor([1, 1, 1]),
            "place": torch.tensor([0.0, 1.0, -1.0]),
        }
    )
    weights, rows = torch.tensor([0.5, 0.2, 0.3]), 1000
    sampler = DDPM(ExactDenoiser(product, data, weights), UniformTime(steps))
    record = sort_records(sampler.sample(Batch.of(product.empty(rows)), Generator(0)), data)
    assert float((record < 0).double().mean()) < 3 / steps + 0.01
    for k, weight in enumerate(weights.tolist()):
        share = float((record == k).double().mean())
        assert abs(share - weight) < 4 * math.sqrt(weight * (1 - weight) / rows) + 3 / steps


def test_given_counts_ragged_rows_and_times() -> None:
    x = torch.tensor([3, 0, 9])
    held = torch.tensor([True, False, False])
    batch = Batch({"x": x}, {"x": Layout.ragged([2, 1])}, given={"x": held})
    process = Blackout(SURVIVAL, 9).bind(batch)
    t = process.times(torch.tensor([0.9, 0.9, CLEAN]).double())
    x_t = process.diffuse(x, t, Generator(0))
    assert x_t.tolist() == [3, 0, 9]
    assert process.prior(Generator(0)).tolist() == [3, 0, 0]
    assert process.decode(torch.zeros(3), x_t, t).value[0] == 3
    assert process.log_prob(x_t, x, t).tolist() == [0.0, 0.0, 0.0]
    (step,) = process.plan(grid(0.5, CLEAN), 1.0)
    clean = process.step(torch.tensor([0, 0, 2]), Estimate(x.double()), step, Generator(0))
    assert clean.tolist() == [3, 0, 9]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blackout(Linear(), 5), "schedule of a death process must have alpha . sigma = 1"),
        (lambda: Blackout(Flow(), 0), "largest must be at least 1, got 0"),
        (lambda: many(3)[0].plan(grid(0.7, 0.3), 0.0), "eta must be 1, got 0.0"),
        (lambda: many(3)[0].plan(grid(0.3, 0.7), 1.0), "times must fall"),
        (lambda: drawn([-2, 3]), "counts go from -2 to 3, but they must be from 0 to largest = 9"),
        (lambda: drawn([2, 12]), "counts go from 2 to 12, but they must be from 0 to largest"),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def drawn(counts: list[int]) -> Tensor:
    x_0 = torch.tensor(counts)
    return Blackout(Flow(), 9).bind(Batch.of(x_0)).diffuse(x_0, time(0.5), Generator(0))


def test_a_deterministic_sampler_is_refused() -> None:
    product = Product({"x": Blackout(Flow(), 3)})
    denoiser = ExactDenoiser(product, Batch.of(torch.tensor([1, 2])))
    with pytest.raises(ValueError, match="use DDPM"):
        DDIM(denoiser, UniformTime(3)).bind(Batch.of(torch.zeros(2).long()), Generator(0))


def test_binomial_law_adds_up() -> None:
    for n in (0, 3, 200):
        law = binomial_log_prob(torch.arange(n + 1), torch.tensor(n), time(0.3)).exp()
        assert float(law.sum()) == pytest.approx(1.0)
