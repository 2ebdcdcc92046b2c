"""The variance of a reverse step, against the closed forms of normal data."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    Batch,
    Categorical,
    Cosine,
    Discrete,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Product,
    StepBound,
    absorbing,
    bound,
    uniform,
)
from structdiff.clock_table import ClockTable
from structdiff.processes import Estimate
from structdiff.processes.gaussian_step import deviation
from structdiff.reverse_variance import (
    AnalyticVariance,
    FixedVariance,
    NormalVariance,
    ReverseVariance,
    second_order_score,
)
from structdiff.schedules import Schedule, UniformTime
from structdiff.spaces import ZeroCentre
from structdiff.testing import ExactDenoiser, NormalDenoiser

SCHEDULES = [Linear(), Cosine(), Discrete.ddpm(100), Geometric(0.01, 20.0), Flow()]
each = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
ONE = Batch.of(torch.zeros(1).double())


def normal(schedule: Schedule, mean: float = 0.0, std: float = 1.0) -> NormalDenoiser:
    return NormalDenoiser(
        Gaussian(schedule), torch.tensor([mean]).double(), torch.tensor([std]).double()
    )


def moments(denoiser: Any, first: Tensor, times: Tensor) -> Tensor:
    """Variances along a walk whose estimate is affine in x_t, `(steps + 1,)`, by recursion."""
    leaf = denoiser.process.bind(ONE)["x"]
    found = [first]
    for t, step in zip(times, leaf.plan(times, 1.0), strict=False):
        zero, one = (
            denoiser(Batch.of(torch.full((1,), x).double()), {"x": t})["x"] for x in (0.0, 1.0)
        )
        factor = step.keep + step.data * (one.value - zero.value)
        found.append((factor**2 * found[-1] + deviation(zero.extras, step) ** 2).squeeze())
    return torch.stack(found)


def test_beta_is_exact_for_unit_normals_and_beta_tilde_for_a_point() -> None:
    """In 100 steps, every marginal; the other choice is wrong for each, on its own side."""
    schedule = Discrete.ddpm(100)
    times = torch.arange(100, 0, -1).double() / 100
    level = schedule(times)
    unit, point = normal(schedule), normal(schedule, 0.7, 0.0)
    kept = moments(FixedVariance(unit, 1.0), torch.tensor(1.0).double(), times)
    torch.testing.assert_close(kept, torch.ones(100).double(), rtol=1e-12, atol=0)
    spread = moments(FixedVariance(point, 0.0), level.sigma[0] ** 2, times)
    torch.testing.assert_close(spread, level.sigma**2, rtol=1e-12, atol=0)
    assert moments(FixedVariance(unit, 0.0), torch.tensor(1.0).double(), times)[-1] < 0.98
    assert moments(FixedVariance(point, 1.0), level.sigma[0] ** 2, times)[-1] > 1.2 * spread[-1]
    between = moments(FixedVariance(unit, 0.5), torch.tensor(1.0).double(), times)[-1]
    assert moments(unit, torch.tensor(1.0).double(), times)[-1] < between < 1
    # The same by the variance of unit data, and of data that are a point.
    torch.testing.assert_close(
        moments(NormalVariance(unit, 1.0), torch.tensor(1.0).double(), times), kept
    )
    torch.testing.assert_close(
        moments(NormalVariance(point, 0.0), level.sigma[0] ** 2, times), spread
    )


@each
@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_steps_have_the_variance_of_normal_data(schedule: Schedule, std: float) -> None:
    """Var x_s - Cov^2 / Var x_t, and the formula of Analytic-DPM in its letters."""
    denoiser = NormalVariance(normal(schedule, 0.4, std), std)
    leaf: Any = denoiser.process.bind(ONE)["x"]
    for t, s in ((0.9, 0.7), (0.5, 0.1), (0.3, 0.29)):
        times = torch.tensor([t, s]).double()
        (step,) = leaf.plan(times, 1.0)
        estimate = denoiser(ONE, {"x": times[0]})["x"]
        got = deviation(estimate.extras, step) ** 2
        (a_t, a_s), (s_t, s_s), _ = schedule(times)
        var_t, var_s = a_t**2 * std**2 + s_t**2, a_s**2 * std**2 + s_s**2
        truth = var_s - (a_t / a_s * var_s) ** 2 / var_t
        torch.testing.assert_close(got.squeeze(), truth, rtol=1e-9, atol=1e-14)
        # lambda^2 + (sqrt(beta_t / a) - sqrt(beta_s - lambda^2))^2 (1 - beta_t E|score|^2).
        square = step.noise**2
        root = s_t * a_s / a_t - torch.sqrt(s_s**2 - square)
        paper = square + root**2 * (1 - s_t**2 / var_t)
        torch.testing.assert_close(paper.squeeze(), truth, rtol=1e-7, atol=1e-12)


@each
def test_the_analytic_variance_is_measured(schedule: Schedule) -> None:
    """On normal data that of x_0 given x_t, to the error of the sample."""
    std, rows = 0.6, 50_000
    data = Batch.of(0.4 + std * Generator(0).normal((rows,), torch.float64, "cpu"))
    fitted = AnalyticVariance.fit(normal(schedule, 0.4, std), data, UniformTime(8), Generator(1))
    truth = NormalVariance(normal(schedule, 0.4, std), std)
    for t in (1.0, 0.75, 0.5, 0.125):  # times of the grid
        time = torch.tensor(t).double()
        right = truth.extras("x", ONE["x"], time)["variance"]
        if torch.isinf(schedule(time).clock):  # taken from the next time
            right, limit = torch.tensor(std**2).double(), 0.1
        else:
            limit = 4.5 * math.sqrt(2 / rows)
        assert abs(float(fitted.extras("x", ONE["x"], time)["variance"] / right) - 1) < limit


def test_the_table_is_read_as_it_is_and_clipped() -> None:
    """With the right shares it is right to 1e-12; a share above a score of 0 is none."""
    denoiser, times = normal(Linear(), 0.0, 0.5), torch.tensor([0.2, 0.6]).double()
    clock = Linear()(times).clock
    snr = torch.exp(2 * clock)
    shares = 0.25 * (1 + snr) / (1 + 0.25 * snr)
    table = ClockTable(clock.flip(0), shares.flip(0))
    analytic = AnalyticVariance(denoiser, {"x": table})
    truth = NormalVariance(denoiser, 0.5)
    for t in times:
        torch.testing.assert_close(
            analytic.extras("x", ONE["x"], t)["variance"],
            truth.extras("x", ONE["x"], t)["variance"],
            rtol=1e-12,
            atol=0,
        )
    for share, largest, expected in (
        (1e9, math.inf, torch.exp(-2 * clock)),
        (1e9, 0.01, torch.full((2,), 0.01).double()),
    ):
        wide = ClockTable(clock.flip(0), torch.full((2,), share))
        clipped = AnalyticVariance(denoiser, {"x": wide}, largest=largest)
        got = torch.stack([clipped.extras("x", ONE["x"], t)["variance"] for t in times])
        torch.testing.assert_close(got, torch.minimum(torch.exp(-2 * clock), expected))


def test_the_analytic_variance_has_the_least_bound() -> None:
    """Of a mixture in few steps: below beta tilde, beta and what is between, at the same draws."""
    process = Gaussian(Linear(), event=(2,))
    mean = torch.tensor([[1.5, 0.0], [-1.0, 0.5]]).double()
    exact = NormalDenoiser(process, mean, torch.tensor([0.3, 0.3]).double())
    pick = Generator(0).uniform((4000,), torch.float64, "cpu") < 0.5
    centres = torch.where(pick[:, None], mean[0], mean[1])
    data = Batch.of(centres + 0.3 * Generator(1).normal((4000, 2), torch.float64, "cpu"))
    grid = UniformTime(10)
    analytic = AnalyticVariance.fit(exact, data, grid, Generator(2))
    bounds = {
        name: float(bound(one, data, grid, Generator(3)).divergence["x"].mean())
        for name, one in {
            "tilde": exact,
            "beta": FixedVariance(exact, 1.0),
            "half": FixedVariance(exact, 0.5),
            "analytic": analytic,
        }.items()
    }
    best = bounds.pop("analytic")
    assert best < min(bounds.values()) - 0.01, (best, bounds)


def test_the_bound_in_training_knows_the_variance() -> None:
    """Of one step a sample, in the mean, the bound of all of them; numbers for all rows too."""
    exact, rows = normal(Linear(), 0.4, 0.6), 20_000
    data = Batch.of(0.4 + 0.6 * Generator(0).normal((rows,), torch.float64, "cpu"))
    values = []
    for denoiser in (exact, FixedVariance(exact, 1.0), NormalVariance(exact, 0.6)):
        whole = bound(denoiser, data, UniformTime(8), Generator(1))
        drawn = StepBound(UniformTime(8))(denoiser, data, Generator(2)).leaves["x"]
        whole_mean = float((whole.divergence["x"] + whole.reconstruction["x"]).mean())
        error = float(drawn.std()) / math.sqrt(rows)
        assert abs(float(drawn.mean()) - whole_mean) < 4 * error
        values.append(whole_mean)
    # With the variance of the data's own reversal the steps lose nothing: only the last one does.
    assert values[2] < min(values[:2]) - 0.005


def test_second_order_score_of_a_correlated_normal() -> None:
    """From the posterior covariance, -(alpha^2 S + sigma^2)^-1; from variances its diagonal."""
    root = torch.tensor([[1.2, 0.0, 0.0], [-0.7, 0.4, 0.0], [0.2, 0.1, 0.9]]).double()
    for covariance in (root @ root.T, torch.diag(torch.tensor([0.2, 1.0, 4.0]).double())):
        alpha, sigma, _ = Linear()(torch.tensor(0.4).double())
        total = alpha**2 * covariance + sigma**2 * torch.eye(3).double()
        given = covariance - alpha**2 * covariance @ torch.linalg.solve(total, covariance)
        torch.testing.assert_close(
            second_order_score(given, alpha, sigma), -torch.linalg.inv(total), rtol=0, atol=1e-10
        )
    spread = NormalVariance(
        NormalDenoiser(Gaussian(Linear(), event=(3,)), torch.zeros(1, 3), torch.ones(1)),
        torch.diag(covariance).sqrt(),
    )
    said = spread.extras("x", torch.zeros(1, 3).double(), torch.tensor(0.4).double())
    diagonal = second_order_score(torch.diag(said["variance"].squeeze()), alpha, sigma)
    torch.testing.assert_close(diagonal, -torch.linalg.inv(total), rtol=0, atol=1e-10)


def mixed() -> tuple[Product, Batch]:
    """Ragged centred positions and a class a row."""
    layout = Layout.ragged([3, 2, 4] * 60)
    process = Product(
        {
            "x": Gaussian(Cosine(), event=(2,), space=ZeroCentre()),
            "k": Categorical(Flow(), uniform(3)),
        }
    )
    x = ZeroCentre().project(Generator(0).normal((540, 2), torch.float64, "cpu"), layout, None)
    return process, Batch({"x": x, "k": torch.arange(540) % 3}, {"x": layout, "k": layout})


class Silent(ReverseVariance):
    """Adds nothing."""

    def extras(self, name: str, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        return {}


def test_dimensions_of_a_subspace_are_counted_and_classes_left_alone() -> None:
    """Data that are unknown to the denoiser: the residual is theirs, of variance 1."""
    process, batch = mixed()
    zeros = {"x": torch.zeros_like(batch["x"][:9]), "k": batch["k"][:9]}
    layout = Layout.ragged([3, 2, 4])
    point = ExactDenoiser(process, Batch(zeros, {"x": layout, "k": layout}))
    fitted = AnalyticVariance.fit(point, batch, UniformTime(4), Generator(0))
    t = process.bind(batch).times(torch.tensor(0.5).double())
    noisy = batch.with_leaves(process.bind(batch).diffuse(batch.leaves, t, Generator(1)))
    said, plain = fitted(noisy, t), point(noisy, t)
    # 540 rows of 2 coordinates, a third of them used up by the centres.
    assert abs(float(said["x"].extras["variance"]) - 1) < 4.5 * math.sqrt(2 / 720)
    assert said["k"].extras == plain["k"].extras
    torch.testing.assert_close(said["x"].value, plain["x"].value)


def test_given_entries_have_no_variance() -> None:
    """They stay, and others have that of their own time."""
    batch = Batch.of(torch.tensor([0.3, -1.0]).double())
    held = batch.with_given({"x": torch.tensor([True, False])})
    denoiser = NormalVariance(normal(Linear()), 1.0)
    process: Any = denoiser.process.bind(held)
    t = process.times(torch.tensor([0.5, 0.5]).double())
    variance = denoiser(held, t)["x"].extras["variance"]
    assert variance[0] == 0
    level = Linear()(torch.tensor(0.5).double())
    torch.testing.assert_close(variance[1], level.sigma**2)


def test_divergences_of_the_free_entries_are_those_of_normals() -> None:
    """Rows that are given in part, with a variance for each entry."""
    random = Generator(0)
    x, wrong = (random.normal((4, 3), torch.float64, "cpu") for _ in range(2))
    held = torch.tensor([[True, False, False], [False] * 3, [True] * 3, [False, True, True]])
    variance = random.uniform((4, 3), torch.float64, "cpu")
    leaf: Any = Gaussian(Cosine(), event=(3,)).bind(Batch.of(x).with_given({"x": held}))
    (step,) = leaf.plan(torch.tensor([0.6, 0.4]).double(), 1.0)
    said = Estimate(torch.where(held, x, wrong), {"variance": variance})
    found = leaf.divergence(Estimate(x), said, x, step)
    Normal = torch.distributions.Normal
    truth, model = (
        Normal(step.data * x, step.noise.expand(4, 3)),
        Normal(step.data * said.value, (step.noise**2 + step.data**2 * variance).sqrt()),
    )
    each = torch.distributions.kl_divergence(truth, model)
    torch.testing.assert_close(found, torch.where(held, 0.0, each).sum(1))
    y = torch.where(held, x, step.keep * x + 0.3)
    log_prob = Normal(step.keep * x + model.mean, model.scale).log_prob(y)
    density = leaf.reverse_log_prob(y, x, said, step)
    torch.testing.assert_close(density, torch.where(held, 0.0, log_prob).sum(1))


@pytest.mark.parametrize("name", ["variance", "interpolation"])
def test_what_is_made_of_estimates_tells_a_variance(name: str) -> None:
    """That of the latest estimate, of the last direction, of the estimate that is moved."""
    leaf: Any = Gaussian(Linear()).bind(Batch.of(torch.zeros(2).double()))
    x, t = torch.tensor([0.4, -0.2]).double(), torch.tensor(0.5).double()
    first, second = (Estimate(x, {name: torch.full((2,), v).double()}) for v in (0.2, 0.9))
    (step,) = leaf.plan(torch.tensor([0.5, 0.3]).double(), 1.0)
    wide, narrow = deviation(second.extras, step), deviation(first.extras, step)
    assert (wide > narrow).all()
    halves = (torch.tensor(1.5).double(), torch.tensor(-0.5).double())
    for found in (
        leaf.tilt([first, second], [-1.0, 2.0]),
        leaf.combine([(x, second), (x, first)], halves, x),
        leaf.shift(second, torch.ones_like(x), x, t),
    ):
        assert torch.equal(deviation(found.extras, step), wide)
    known = leaf.impose(second, torch.zeros_like(x), torch.tensor([True, False]), x, t)
    expected = torch.stack([step.noise, wide[1]])
    torch.testing.assert_close(deviation(known.extras, step), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", ["variance", "interpolation"])
def test_a_row_steps_as_alone_beside_one_that_comes_to_rest(name: str) -> None:
    """The first row steps on, the second one to its clean value, which draws nothing."""
    leaf: Any = Gaussian(Cosine()).bind(Batch.of(torch.zeros(2).double()))
    both = torch.tensor([[0.5, 0.5], [0.3, -1.0]]).double()
    said = Estimate(torch.ones(2).double(), {name: torch.full((2,), 0.7).double()})
    x_t = torch.tensor([0.4, -0.2]).double()
    (own,), (first,) = leaf.plan(both, 1.0), leaf.plan(both[:, 0], 1.0)
    found = leaf.move(x_t, said, own, Generator(0))
    assert found[1] == 1
    assert found[0] == leaf.move(x_t, said, first, Generator(0))[0]
    assert deviation(said.extras, own)[0] > own.noise[0]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda d: FixedVariance(d, 1.5), r"factor must be in \[0, 1\].*got 1.5"),
        (lambda d: NormalVariance(d, -1.0), "std must be at least 0 and finite, got -1.0"),
        (lambda d: NormalVariance(d, math.nan), "std must be at least 0 and finite, got nan"),
        (lambda d: AnalyticVariance(d, {}), r"shares must have the Gaussian leaves \['x'\]"),
        (
            lambda d: AnalyticVariance(
                d, {"x": ClockTable(torch.zeros(1), torch.ones(1))}, largest=0
            ),
            "largest must be positive, got 0",
        ),
        (
            lambda d: AnalyticVariance.fit(
                d, ONE.with_given({"x": torch.tensor([True])}), UniformTime(2), Generator(0)
            ),
            r"batch has given entries of \['x'\]",
        ),
        (lambda d: ClockTable(torch.tensor([1.0, 0.0]), torch.ones(2)), "must be finite and rise"),
        (lambda d: ClockTable(torch.zeros(2, 1), torch.ones(2)), r"clock must be \(n,\)"),
        (
            lambda d: Silent(
                ExactDenoiser(
                    Product({"x": Categorical(Flow(), absorbing(2))}), Batch.of(torch.tensor([1]))
                )
            ),
            "Silent is about Gaussian noise on R\\^n, but no leaf",
        ),
    ],
)
def test_refusals(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make(normal(Linear()))
