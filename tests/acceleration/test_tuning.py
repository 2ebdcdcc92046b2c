"""Tuned samplers: the fine solve, the fit, the search, and what they are good for."""

from __future__ import annotations

import json
import math

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
    Linear,
    Multistep,
    Product,
    UniformLogSNR,
    marginal,
)
from structdiff.acceleration.curves import quality_curves
from structdiff.acceleration.fitting import fit_weights
from structdiff.acceleration.pilots import Counted, ListedTimes, Pilots, solve_pilots
from structdiff.acceleration.search import coordinate_search
from structdiff.acceleration.tuning import Tuned, tune_sampler
from structdiff.samplers.multistep import Tabled
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser, NormalDenoiser


@pytest.fixture(autouse=True, scope="module")
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def ring() -> NormalDenoiser:
    angle = torch.arange(5) * (2 * math.pi / 5)
    mean = torch.stack([angle.cos(), angle.sin()], 1)
    return NormalDenoiser(Gaussian(Linear(), event=(2,)), mean, torch.full((5,), 0.2))


def quick(denoiser, nfe=5, seed=0, **options) -> Tuned:
    return tune_sampler(denoiser, nfe=nfe, pilots=64, nodes=80, seed=seed, show=None, **options)


@pytest.fixture(scope="module")
def tuned():
    return quick(ring())


def test_the_fine_solve_ends_where_the_flow_of_a_normal_ends():
    """x_0 = m + s (x_1 - alpha m) / sqrt(alpha^2 s^2 + sigma^2), not the last estimate."""
    mean, std = 1.2, 0.3
    denoiser = NormalDenoiser(Gaussian(Linear()), torch.tensor([mean]), torch.tensor([std]))
    solved = solve_pilots(denoiser, Batch.of(torch.zeros(16)), nodes=200, seed=0)
    level = Linear()(solved.times[0])
    marginal_std = ((level.alpha * std) ** 2 + level.sigma**2).sqrt()
    exact = mean + std * (solved.states[0]["x"] - level.alpha * mean) / marginal_std
    torch.testing.assert_close(solved.states[-1]["x"], exact, rtol=0, atol=1e-6)
    assert solved.denoiser.calls == 200
    spread = solved.states[-1]["x"].std()
    assert solved.scale["x"] == pytest.approx(float(spread), rel=0.5)


def test_least_squares_find_the_weights_of_a_linear_sampler():
    """Where the history suffices: states that some weights made give those weights back."""
    denoiser, steps, columns = ring(), 6, 3
    grid = UniformLogSNR(Linear(), steps, end=0.05)
    times = grid.times()[:-1]
    table = 0.3 * torch.randn(steps, columns, generator=torch.Generator().manual_seed(0))
    table[0, 1:], table[1, 2:] = 0, 0
    table[:, 0] = 1 - table[:, 1:].sum(1)
    batch = Batch.of(torch.zeros(40, 2))
    made = Tabled(denoiser, grid, {"x": table}).bind(batch, Generator(3))
    carry = made.start()
    states = [carry.x]
    for i in range(steps):
        carry = made.step(carry, i)
        states.append(carry.x)
    pilots = Pilots(Counted(denoiser), batch, times, times, states, {"x": 1.0}, 3)
    method = Multistep(denoiser, ListedTimes(times), order=2)
    rows = {"x": torch.arange(40) < 20}
    fit = fit_weights(pilots, list(range(steps)), method, rows=rows, ridge=0.0, doubt=1e-9)
    torch.testing.assert_close(fit.weights["x"], table, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fit.end["x"], states[-1]["x"], rtol=1e-8, atol=1e-8)


def test_a_large_penalty_leaves_the_polynomial():
    denoiser = ring()
    solved = solve_pilots(denoiser, Batch.of(torch.zeros(16, 2)), nodes=60, seed=0)
    nodes = [0, 15, 30, 45, 59]
    method = Multistep(denoiser, ListedTimes(solved.times[nodes]), order=3, corrector=3)
    rows = {"x": torch.ones(16, dtype=torch.bool)}
    fit = fit_weights(solved, nodes, method, rows=rows, ridge=1e12)
    rule = method.rule(Linear()(method.times).clock)
    torch.testing.assert_close(fit.weights["x"][:, : rule.shape[1]], rule, atol=1e-6, rtol=0)


def ends(sampler, seed, rows=200):
    """From noise that tuning has not seen."""
    return sampler.sample(Batch.of(torch.zeros(rows, 2)), Generator(seed))["x"]


def test_tuned_is_better_than_the_uniform_grid_on_new_noise(tuned):
    """On held-out pilots it is never worse; here several times better, on fresh noise too."""
    usual = [error for name, error in tuned.errors.items() if name != "tuned"]
    assert len(usual) == 2
    assert tuned.errors["tuned"] < 0.2 * min(usual)
    denoiser, rows = ring(), 200
    solved = solve_pilots(denoiser, Batch.of(torch.zeros(rows, 2)), nodes=200, seed=11)
    truth = solved.states[-1]["x"]
    uniform = ListedTimes(solved.times[torch.linspace(0, 199, 5).round().long()])
    plain = ends(Multistep(denoiser, uniform, order=2), 11)
    ours = ends(tuned.sampler(denoiser), 11)
    assert (ours - truth).square().mean() < 0.2**2 * (plain - truth).square().mean()
    assert (ours - truth).square().mean().sqrt() < 0.05


def test_saved_and_loaded_gives_the_same_samples(tuned, tmp_path):
    tuned.save(tmp_path / "grid.json")
    loaded = Tuned.load(tmp_path / "grid.json")
    assert loaded == tuned
    assert set(json.loads((tmp_path / "grid.json").read_text())) >= {"times", "weights", "calls"}
    denoiser = ring()
    assert torch.equal(ends(tuned.sampler(denoiser), 5), ends(loaded.sampler(denoiser), 5))


def test_one_seed_one_sampler(tuned):
    assert quick(ring()) == tuned
    assert quick(ring(), seed=1) != tuned


def test_calls_are_counted_and_quality_is_shown(tuned):
    """The table has every way's error and what tuning took."""
    shown, denoiser = [], Counted(ring())
    found = tune_sampler(denoiser, nfe=5, pilots=64, nodes=80, show=shown.append)
    assert found.calls == denoiser.calls == tuned.calls
    (table,) = shown
    assert f"{found.calls} calls on 64 pilots" in table
    assert f"{found.errors['tuned']:.3g}" in table
    batch = Batch.of(torch.zeros(3, 2))
    bound = found.sampler(denoiser).bind(batch, Generator(0))
    carry = bound.start()
    for i in range(bound.steps):
        carry = bound.step(carry, i)
    assert carry.calls == 5


def test_a_product_has_one_grid_and_weights_by_leaf():
    """Two leaves on two schedules, known together: the walk ends nearer to whole records."""
    leaves = {"a": Gaussian(Linear()), "b": Gaussian(Flow(), event=(2,))}
    data = {"a": torch.tensor([-1.0, 0.3, 1.0]), "b": torch.tensor([[0.0, 1], [1, 0], [-1, -1]])}
    denoiser = ExactDenoiser(Product(leaves), Batch.of(data))
    found = quick(denoiser, nfe=4)
    assert set(found.weights) == {"a", "b"}
    assert len(found.times) == len(found.weights["a"]) == 4
    assert found.errors["tuned"] < 0.5 * found.errors["DDIM, uniform log-SNR"]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_manifold_leaf_is_never_worse_off(seed):
    """Where a usual walk is as good on the held-out pilots, it is what comes back."""
    points = torch.tensor([[0.5, 1.0], [2.0, -1.0], [-2.0, 2.5]])
    process = Product({"x": Brownian(Geometric(0.2, 4.0), Torus(2))})
    denoiser = ExactDenoiser(process, Batch.of(points))
    found = quick(denoiser, nfe=5, seed=seed)
    assert found.errors["tuned"] <= min(found.errors.values())
    torch.testing.assert_close(torch.tensor(found.weights["x"]).sum(1), torch.ones(5))
    drawn = found.sampler(denoiser).sample(Batch.of(torch.zeros(50, 2)), Generator(1))["x"]
    nearest = torch.stack([Torus(2).distance(p.expand(50, 2), drawn) for p in points]).amin(0)
    assert float((nearest < 0.3).double().mean()) > 0.9


def test_given_rows_stay():
    leaves = {"a": Gaussian(Linear()), "b": Gaussian(Linear())}
    data = {"a": torch.tensor([-1.0, 1.0]), "b": torch.tensor([0.0, 2.0])}
    denoiser = ExactDenoiser(Product(leaves), Batch.of(data))
    known = torch.tensor([0.0, 2.0]).repeat(16)
    batch = Batch.of({"a": torch.zeros(32), "b": known})
    batch = batch.with_given({"b": torch.ones(32, dtype=torch.bool)})
    found = quick(denoiser, nfe=3, batch=batch)
    drawn = found.sampler(denoiser).sample(batch, Generator(2))
    assert torch.equal(drawn["b"], known)
    torch.testing.assert_close(drawn["a"], known - 1, atol=1e-3, rtol=0)


def test_search_finds_a_valley_and_never_loses():
    asked = []

    def metric(point):
        asked.append(point)
        return (point[0] - 0.75) ** 2 + (point[1] + point[0]) ** 2

    best, value = coordinate_search(metric, (0.0, 0.0), (1.0, 1.0), rounds=8)
    assert value < 1e-2 and value == metric(best)
    assert len(set(asked[:-1])) == len(asked) - 1
    kept, value = coordinate_search(lambda x: -abs(x[0]) if x[0] > -9 else 0, (0.0,), (0.0,))
    assert kept == (0.0,) and value == 0
    barred, _ = coordinate_search(lambda x: x[0] if x[0] >= 0 else math.nan, (1.0,), (0.75,))
    assert 0 <= barred[0] < 1


def classes() -> ExactDenoiser:
    process = Product({"c": Categorical(Flow(), marginal(torch.tensor([0.4, 0.6])))})
    return ExactDenoiser(process, Batch.of({"c": torch.tensor([0, 1])}))


BAD = [
    (lambda: quick(ring(), nfe=1), "nfe must be at least 2, got 1"),
    (lambda: quick(ring(), nfe=40), "nodes must be at least 4 nfe = 160, got 80"),
    (lambda: quick(ring(), batch=Batch.of(torch.zeros(3, 2))), "pilots must be at least 8, got 3"),
    (lambda: quick(classes()), "must have a probability flow"),
    (lambda: ListedTimes(torch.tensor([0.1, 0.5])), "listed must be times that fall"),
    (lambda: coordinate_search(lambda x: math.nan, (0.0,), (1.0,)), r"start = \(0.0,\) must be"),
    (lambda: coordinate_search(lambda x: 0.0, (0.0,), ()), "one for each of 1 numbers, got 0"),
]


@pytest.mark.parametrize(("make", "match"), BAD)
def test_refusals(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_curves_of_quality_against_calls():
    """Ours below the usual ones at every number of calls, all falling with the calls."""
    curves = quality_curves(ring(), (4, 8), pilots=32, nodes=80)
    assert list(curves)[-1] == "tuned" and len(curves) == 5
    for calls in (4, 8):
        usual = [curve[calls] for name, curve in curves.items() if name != "tuned"]
        assert curves["tuned"][calls] < 0.3 * min(usual)
    assert all(curve[8] < curve[4] for curve in curves.values())
    with pytest.raises(ValueError, match="calls must be at least 3"):
        quality_curves(ring(), (2,))


def test_the_model_is_not_asked_before_the_end() -> None:
    mean, std = torch.tensor([[-1.0], [1.0]]), torch.tensor([0.3, 0.3])
    denoiser = NormalDenoiser(Gaussian(Linear(), event=(1,)), mean, std)
    early, late = (
        tune_sampler(denoiser, nfe=4, pilots=32, nodes=40, end=end, show=None).times
        for end in (0.0, 0.3)
    )
    assert min(late) >= 0.3 - 1e-9
    assert min(early) < 0.3
    with pytest.raises(ValueError, match="end must be in"):
        tune_sampler(denoiser, nfe=4, end=1.0)
