"""Additive noise that is not Gaussian: gamma noise and mixtures of normals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from scipy.special import gammaincinv
from torch import Tensor

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Product,
    UniformLogSNR,
    uniform,
)
from structdiff.likelihood import flow_log_prob
from structdiff.parameterisations import Noise
from structdiff.processes import Conditional, Estimate, Flowing, Markov, Process
from structdiff.processes.gamma import GammaNoise
from structdiff.processes.gamma_law import gamma_quantile, rate, rate_inverse, reshaped
from structdiff.processes.mixture import MixtureNoise
from structdiff.random import Tempered
from structdiff.schedules import CLEAN
from structdiff.testing import ExactDenoiser, laws, sort_records
from tests.processes.cases import grid, time

THREE = (torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.3, 0.5, 0.2]), torch.tensor([2.0, 1, 1]))
CASES = {
    "gamma": GammaNoise(Linear(), 0.7),
    "gamma nearly normal": GammaNoise(Linear(), 0.01, Noise()),
    "gamma exploding": GammaNoise(Geometric(0.1, 20.0), 2.0, event=(2,)),
    "mixture": MixtureNoise(Linear(), *THREE),
    "mixture of scales": MixtureNoise(
        Geometric(0.1, 20.0), torch.zeros(2), torch.tensor([0.5, 2.0]), event=(2,)
    ),
}
cases = pytest.mark.parametrize("process", CASES.values(), ids=CASES.keys())


def many(process: Process, rows: int, value: float = 0.4) -> tuple[Process, Tensor]:
    x_0 = torch.full((rows, *process.event), value, dtype=torch.float64)
    return process.bind(Batch.of(x_0)), x_0


def bench(process: Process, copies: int = 1500) -> laws.Bench:
    data = torch.tensor([-1.0, 0.4, 1.3]).double()
    data = data.reshape(3, *(1,) * len(process.event)).expand(3, *process.event)
    product = Product({"x": process})
    return laws.Bench(product, Batch.of(data.clone()), copies, 0.4, 0.7, 1, 5.0, 0)


@cases
def test_laws(process: Process) -> None:
    """Of densities, of undoing with the data known, of rows, dtypes and given entries."""
    found = bench(process)
    assert process.offers(Conditional)
    assert process.offers(Flowing)
    laws.density(found)
    laws.undoing(found)
    laws.dtypes(found)
    laws.holding(found)
    laws.independence(found)
    if process.offers(Markov):
        laws.semigroup(found)
    else:
        assert isinstance(process, MixtureNoise)


@cases
@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_noise_has_mean_zero_and_the_variance_of_the_schedule(process: Process, t: float) -> None:
    bound, x_0 = many(process, 60_000)
    level = process.schedule(time(t))
    z = ((bound.diffuse(x_0, time(t), Generator(0)) - level.alpha * x_0) / level.sigma).flatten()
    assert abs(float(z.mean())) < 4.5 / math.sqrt(len(z))
    error = float(z.square().std()) / math.sqrt(len(z))
    assert abs(float(z.square().mean()) - 1) < 4.5 * error


@cases
@pytest.mark.parametrize("t", [0.35, 0.5, 1.0])
def test_draws_have_the_closed_law(process: Process, t: float) -> None:
    """Kolmogorov and Smirnov's test against scipy's distribution functions."""
    bound, x_0 = many(process, 20_000)
    level = process.schedule(time(t))
    drawn = bound.diffuse(x_0, time(t), Generator(1)).reshape(len(x_0), -1)[:, 0]
    z = ((drawn - level.alpha * 0.4) / level.sigma).numpy()
    if isinstance(process, GammaNoise):
        if k_of(process, t) < 0.3:
            return  # nearly all mass lies closer to the end than rounding
        k = k_of(process, t)
        law = stats.gamma(k, loc=-math.sqrt(k), scale=1 / math.sqrt(k)).cdf
    else:
        law = lambda v: sum(  # noqa: E731
            float(w.exp()) * stats.norm(float(m), float(s)).cdf(v)
            for w, m, s in zip(process.log_weights, process.means, process.stds, strict=True)
        )
    assert stats.kstest(z, law).pvalue > 0.01


def k_of(process: GammaNoise, t: float) -> float:
    return float(process.shape(time(t), torch.zeros(1))[1])


@cases
def test_densities_add_up_to_one(process: Process) -> None:
    x = torch.linspace(-120, 200, 400_001, dtype=torch.float64)
    one = type(process).__new__(type(process))
    one.__dict__.update(process.__dict__, event=())
    one = one.bind(Batch.of(x))
    density = one.log_prob(x, torch.full_like(x, 0.4), time(0.8)).exp()
    assert float(torch.trapezoid(density, x)) == pytest.approx(1.0, abs=1e-3)


def test_sums_of_gamma_steps_are_the_closed_gamma_law() -> None:
    """Forty steps of noise against Gamma of the summed shapes; skewness 2 / sqrt(k)."""
    process, x_0 = many(GammaNoise(Linear(), 0.9), 4_000)
    times = torch.linspace(0, 0.5, 41, dtype=torch.float64)
    x = process.diffuse(x_0, times[0], Generator(0))
    for i in range(40):
        x = process.corrupt(x, times[i], times[i + 1], Generator(i + 1))
    alpha, k = process.shape(times[-1], x)
    g = (x / alpha - x_0) / 0.9 + k
    assert stats.kstest(g.numpy(), "gamma", args=(float(k),)).pvalue > 0.01
    level = process.schedule(time(0.5))
    assert float(k) == pytest.approx(float((level.sigma / level.alpha) ** 2 / 0.81))
    many_x, start = many(GammaNoise(Linear(), 0.9), 200_000)
    drawn = many_x.diffuse(start, time(0.5), Generator(7)) - level.alpha * start
    assert stats.skew(drawn.numpy()) == pytest.approx(2 / math.sqrt(float(k)), rel=0.05)


def test_shapes_add_up_over_a_papers_betas() -> None:
    """k_t = sum of beta_i / (alpha_bar_i theta^2) on a grid of one-step betas."""
    process, x = many(GammaNoise(Linear(), 0.5), 1)
    times = torch.linspace(0, 0.8, 30_001, dtype=torch.float64)
    square = process.schedule(times).alpha.square()
    beta = 1 - square[1:] / square[:-1]
    total = (beta / square[1:]).sum() / 0.25
    start, end = (process.shape(times[i], x)[1] for i in (0, -1))
    assert float(end - start) == pytest.approx(float(total), rel=1e-9)


@pytest.mark.parametrize("k", [0.1, 0.7, 1.0, 3.0, 200.0, 1e5, 1e8])
def test_gamma_quantiles(k: float) -> None:
    u = torch.rand(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u = torch.cat([u, grid(1e-9, 1e-4, 0.999, 1 - 1e-9)])
    expected = torch.from_numpy(gammaincinv(k, u.numpy()))
    torch.testing.assert_close(
        gamma_quantile(torch.full_like(u, k), u), expected, rtol=2e-6, atol=1e-14
    )
    assert gamma_quantile(torch.zeros(2), torch.tensor([0.1, 0.9])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("k", [0.1, 1.0, 30.0, 900.0, 5000.0, 1e6])
def test_the_flow_between_gamma_laws(k: float) -> None:
    """Its rate against differences of scipy's quantiles, its inverse, and the map."""
    u = torch.linspace(0.05, 0.999, 60, dtype=torch.float64)
    quantile = lambda shape: torch.from_numpy(gammaincinv(shape, u.numpy()))  # noqa: E731
    h, g, shapes = 1e-3 * min(k, math.sqrt(k)), quantile(k), torch.full_like(u, k)
    expected = (quantile(k + h) - quantile(k - h)) / (2 * h)
    found = rate(shapes, g)
    spread = 0.5 / math.sqrt(k)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * spread)
    deviation = 1e-4 * math.sqrt(k)
    torch.testing.assert_close(rate_inverse(shapes, found), g, rtol=1e-6, atol=deviation)
    moved = reshaped(shapes, 0.6 * shapes, g)
    torch.testing.assert_close(moved, quantile(0.6 * k), rtol=1e-6, atol=deviation)


def test_a_small_scale_steps_as_gaussian_noise_does() -> None:
    process, x_0 = many(GammaNoise(Linear(), 1e-4), 6, 0.5)
    plain = Gaussian(Linear()).bind(Batch.of(x_0))
    x_t = plain.diffuse(x_0, time(0.7), Generator(0))
    torch.testing.assert_close(process.oracle(x_0, x_t, time(0.7)).value, x_0, rtol=0, atol=1e-3)
    for estimate in (Estimate(x_0), Estimate(x_0 - 1)):
        ours, theirs = (p.plan(grid(0.7, 0.4), 0.0)[0] for p in (process, plain))
        a, b = process.step(x_t, estimate, ours, None), plain.step(x_t, estimate, theirs, None)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)
    (ours,) = process.plan(grid(0.7, 0.4), 1.0)
    (theirs,) = plain.plan(grid(0.7, 0.4), 1.0)
    spread = float(ours.after * 1e-4 * ours.fresh.sqrt())
    assert spread == pytest.approx(float(theirs.noise), rel=1e-6)


def test_a_small_scale_is_gaussian_noise() -> None:
    process, x_0 = many(GammaNoise(Linear(), 1e-3), 20_000)
    level = process.schedule(time(0.5))
    z = (process.diffuse(x_0, time(0.5), Generator(0)) - level.alpha * x_0) / level.sigma
    assert stats.kstest(z.numpy(), "norm").pvalue > 0.01
    density = process.log_prob(x_0 + 0.3, x_0, time(0.5))
    gap = x_0 + 0.3 - level.alpha * x_0
    expected = -0.5 * (gap / level.sigma) ** 2 - level.sigma.log() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(density, expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_mixture_of_one_steps_as_gaussian_noise_does(eta: float) -> None:
    """Between close times, where much of the noise is carried."""
    mixture, x_0 = many(MixtureNoise(Linear(), torch.tensor([3.0]), torch.tensor([2.0])), 6)
    plain = Gaussian(Linear()).bind(Batch.of(x_0))
    x_t = plain.diffuse(x_0, time(0.5), Generator(0))
    (ours,), (theirs,) = (p.plan(grid(0.5, 0.48), eta) for p in (mixture, plain))
    guess = Estimate(x_0 - 1)
    still = Tempered(Generator(0), 0.0)
    a, b = mixture.step(x_t, guess, ours, still), plain.step(x_t, guess, theirs, still)
    torch.testing.assert_close(a, b)
    assert float(ours[3] * ours[4].sqrt()) == pytest.approx(float(theirs.noise), abs=1e-12)


@cases
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ends_of_steps(process: Process, eta: float) -> None:
    """To clean data the estimate, exactly; between equal times nothing."""
    bound, x_0 = many(process, 5)
    x_t = bound.diffuse(x_0, time(0.6), Generator(0))
    (last,) = bound.plan(grid(0.6, CLEAN), eta)
    oracle = bound.oracle(x_0, x_t, time(0.6))
    clean = bound.step(x_t, oracle, last, Generator(1))
    torch.testing.assert_close(clean, x_0, rtol=1e-6, atol=1e-6)
    (still,) = bound.plan(grid(0.6, 0.6), eta)
    stepped = bound.step(x_t, Estimate(oracle.value + 0.1), still, Generator(1))
    torch.testing.assert_close(stepped, x_t, rtol=1e-6, atol=1e-6)
    assert bound.log_prob(x_0, x_0, time(CLEAN)).tolist() == [0.0] * 5
    assert bound.log_prob(x_0 + 1, x_0, time(CLEAN)).isneginf().all()
    assert torch.equal(bound.diffuse(x_0, time(CLEAN), Generator(0)), x_0)


def test_the_deterministic_steps_draw_nothing_and_go_both_ways() -> None:
    for process in CASES.values():
        bound, x_0 = many(process, 7)
        x_t = bound.diffuse(x_0, time(0.9), Generator(0))
        (down,), (up,) = bound.plan(grid(0.9, 0.6), 0.0), bound.plan(grid(0.6, 0.9), 0.0)
        x_s = bound.step(x_t, bound.oracle(x_0, x_t, time(0.9)), down, None)
        back = bound.step(x_s, bound.oracle(x_0, x_s, time(0.6)), up, None)
        torch.testing.assert_close(back, x_t, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("process", "factory"),
    [
        (GammaNoise(Linear(), 0.2), DDIM),
        (GammaNoise(Linear(), 0.2), DDPM),
        (CASES["gamma nearly normal"], DDPM),
        (CASES["mixture"], DDIM),
        (CASES["mixture of scales"], DDIM),
    ],
    ids=["gamma DDIM", "gamma DDPM", "nearly normal", "mixture", "scales"],
)
def test_records_return_in_proportion_beside_classes(process: Process, factory: Callable) -> None:
    product = Product({"x": process, "kind": Categorical(Flow(), uniform(3))})
    x = torch.tensor([-1.5, 0.2, 1.5]).reshape(3, *(1,) * len(process.event))
    data = Batch.of({"x": x.expand(3, *process.event), "kind": torch.tensor([1, 1, 1])})
    weights = torch.tensor([0.5, 0.2, 0.3])
    steps, rows = 40, 400
    sampler = factory(
        ExactDenoiser(product, data, weights), UniformLogSNR(process.schedule, steps)
    )
    record = sort_records(sampler.sample(Batch.of(product.empty(rows)), Generator(0)), data)
    assert float((record < 0).double().mean()) < 2 / steps
    for k, weight in enumerate(weights.tolist()):
        share = float((record == k).double().mean())
        assert abs(share - weight) < 4 * math.sqrt(weight * (1 - weight) / rows) + 3 / steps


@pytest.mark.parametrize("factory", [DDIM, DDPM])
@pytest.mark.parametrize(("scale", "end"), [(0.2, 0.06), (0.7, 0.2)])
def test_gamma_walks_of_shapes_above_one_keep_proportions(
    factory: Callable, scale: float, end: float
) -> None:
    """In float64, where no rounding hides a state outside the support."""
    process, steps, rows = GammaNoise(Linear(), scale), 50, 300
    assert k_of(process, end) == pytest.approx(1.0, abs=0.1)
    data = Batch.of(torch.tensor([-1.0, 0.2, 1.3]).double())
    weights = torch.tensor([0.5, 0.2, 0.3])
    denoiser = ExactDenoiser(Product({"x": process}), data, weights)
    sampler = factory(denoiser, UniformLogSNR(Linear(), steps, end=end))
    start = Batch.of(torch.zeros(rows, dtype=torch.float64))
    found = (sampler.sample(start, Generator(0))["x"][:, None] - data["x"]).abs().argmin(1)
    for k, weight in enumerate(weights.tolist()):
        share = float((found == k).double().mean())
        assert abs(share - weight) < 4 * math.sqrt(weight * (1 - weight) / rows) + 3 / steps


@cases
@pytest.mark.parametrize("factory", [DDIM, DDPM])
def test_a_known_record_returns_by_ancestral_sampling(process: Process, factory: Callable) -> None:
    x = torch.full((1, *process.event), 0.8)
    denoiser = ExactDenoiser(Product({"x": process}), Batch.of(x))
    sampler = factory(denoiser, UniformLogSNR(process.schedule, 6))
    drawn = sampler.sample(Batch.of(x.expand(40, *process.event).clone()), Generator(0))["x"]
    torch.testing.assert_close(drawn, x.expand_as(drawn), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "process", [GammaNoise(Linear(), 0.3), CASES["mixture"]], ids=["gamma", "mixture"]
)
def test_the_flow_carries_the_density(process: Process) -> None:
    """From t = 0.3 to 1 along the flow of one record: q(x | x_0) less q of where it ends."""
    denoiser = ExactDenoiser(Product({"x": process}), Batch.of(torch.tensor([0.4]).double()))
    bound, x_0 = many(process, 6)
    x = bound.diffuse(x_0, time(0.3), Generator(0))
    found = flow_log_prob(denoiser, Batch.of(x), start=0.3, end=1.0, tolerance=1e-7)
    (up,) = bound.plan(grid(0.3, 1.0), 0.0)
    end = bound.step(x, bound.oracle(x_0, x, time(0.3)), up, None)
    assert torch.allclose(found.prior["x"], bound.prior_log_prob(end), rtol=0, atol=1e-4)
    change = bound.log_prob(x, x_0, time(0.3)) - bound.log_prob(end, x_0, time(1.0))
    torch.testing.assert_close(found.draws["x"].mean(0), change, rtol=0, atol=1e-4)


@cases
def test_standard_units(process: Process) -> None:
    bound, x_0 = many(process, 4)
    standard = process.standard().bind(Batch.of(x_0))
    x_t = standard.diffuse(x_0, time(0.6), Generator(3))
    level = standard.schedule(time(0.6))
    assert float(level.alpha**2 + level.sigma**2) == pytest.approx(1.0)
    own = bound.diffuse(x_0, time(0.6), Generator(3))
    torch.testing.assert_close(bound.from_standard(x_t, time(0.6)), own)


def test_ragged_rows_and_times_of_their_own() -> None:
    x = torch.tensor([0.1, 0.5, -0.3]).double()
    for process in (CASES["gamma"], CASES["mixture"]):
        bound = process.bind(Batch({"x": x}, {"x": Layout.ragged([2, 1])}))
        t = torch.tensor([0.5, CLEAN, 0.9]).double()
        x_t = bound.diffuse(x, t, Generator(0))
        for i in (0, 2):
            own = bound.diffuse(x, t[i], Generator(0))
            assert torch.equal(x_t[i], own[i])
        assert x_t[1] == x[1]
        mixed, late = torch.stack([t, t - 0.2]), torch.stack([t[:1], t[:1] - 0.2])[:, 0]
        oracle = bound.oracle(x, x_t, t)
        a = bound.step(x_t, oracle, bound.plan(mixed, 1.0)[0], Generator(1))
        b = bound.step(x_t, oracle, bound.plan(late, 1.0)[0], Generator(1))
        assert torch.equal(a[0], b[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GammaNoise(Linear(), 0.0), "scale must be positive and finite, got 0"),
        (lambda: GammaNoise(Cosine(), 1.0), "alpha of schedule Cosine must stay above 1e-6"),
        (lambda: MixtureNoise(Linear(), torch.zeros(2), torch.ones(3)), "must be .components,."),
        (lambda: MixtureNoise(Linear(), torch.zeros(2), torch.zeros(2)), "must be positive, got"),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
