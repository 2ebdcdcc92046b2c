"""Churn: algorithm 2 of Karras et al., its order, and the laws of samplers on every space."""

from __future__ import annotations

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
    Heun,
    Karras,
    KarrasGrid,
    Layout,
    Linear,
    Product,
    UniformLogSNR,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.processes import Process
from structdiff.samplers import Carry, Churn
from structdiff.spaces import Torus, ZeroCentre
from structdiff.testing import (
    Addressed,
    ExactDenoiser,
    Impulses,
    NormalDenoiser,
    Silent,
    check_sampler,
    sort_records,
    walk,
)

MEAN, STD, SHARE = torch.tensor([-1.0, 2.0]), torch.tensor([0.3, 0.5]), torch.tensor([0.4, 0.6])


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mixture(schedule) -> NormalDenoiser:
    return NormalDenoiser(Gaussian(schedule), MEAN.double(), STD.double(), SHARE.double())


@pytest.mark.parametrize(
    ("churn", "low", "high", "noise"),
    [(40.0, 0.05, 30.0, 1.003), (5.0, 0.01, 1.0, 1.007), (0.0, 0.0, math.inf, 1.0)],
)
def test_churn_is_algorithm_2_of_karras(churn, low, high, noise):
    """S09, with the paper's own loop; N = 18 costs 35 calls."""
    schedule, n = Karras(), 18
    denoiser, grid = mixture(schedule), KarrasGrid(Karras(), 18, sigma_max=40.0)
    x = 40 * torch.linspace(-2, 2, 7)
    sampler = Churn(denoiser, grid, schedule, churn=churn, low=low, high=high, noise=noise)
    bound = sampler.bind(Batch.of(x), Generator(3))
    carry = Carry({"x": x})
    for i in range(n):
        carry = bound.step(carry, i)

    def answer(y, sigma):
        t = schedule.time(-torch.log(sigma))
        return denoiser(Batch.of(y), {"x": t})["x"].value

    rho, source, y, raised = 7, Generator(3), x, []
    i = torch.arange(n)
    sigmas = (40 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 40 ** (1 / rho))) ** rho
    for k, sigma in enumerate(sigmas):
        following = sigmas[k + 1] if k + 1 < n else torch.tensor(0.0)
        gamma = min(churn / n, math.sqrt(2) - 1) if low <= sigma <= high else 0.0
        hat = sigma * (1 + gamma)
        raised.append(gamma > 0)
        if gamma > 0:
            z = noise * source.normal(y.shape, y.dtype, "cpu")
            y = y + torch.sqrt(hat**2 - sigma**2) * z
        slope = (y - answer(y, hat)) / hat
        look = y + (following - hat) * slope
        if following > 0:
            other = (look - answer(look, following)) / following
            look = y + (following - hat) * (slope + other) / 2
        y = look
    assert bound.moves == raised
    torch.testing.assert_close(carry.x["x"], y, rtol=1e-9, atol=1e-9)
    assert carry.calls == 35


@pytest.mark.parametrize("schedule", [Linear(), Karras(), Flow()], ids=["vp", "ve", "flow"])
def test_without_churn_it_is_heun(schedule):
    """S09: bit for bit, and no random number is drawn."""
    denoiser, grid = mixture(schedule), UniformTime(11)
    x = {"x": torch.linspace(-3, 3, 9)}
    heun = walk(Heun(denoiser, grid), x, Silent())["x"]
    for sampler in (
        Churn(denoiser, grid, schedule, churn=0.0),
        Churn(denoiser, grid, schedule, churn=40.0, low=200.0, high=300.0),
    ):
        assert torch.equal(walk(sampler, x, Silent())["x"], heun)


def moment_error(churn, schedule, grid, noise=1.0, mean=1.5, std=0.7):
    """Errors of mean and deviation, exactly, by impulses."""
    denoiser = NormalDenoiser(Gaussian(schedule), torch.tensor([mean]), torch.tensor([std]))
    sampler = Churn(denoiser, grid, schedule, churn=churn, noise=noise)
    ends = schedule(sampler.times[[0, -2]])
    means, stds = ends.alpha * mean, ((ends.alpha * std) ** 2 + ends.sigma**2).sqrt()
    x = means[0].repeat(len(sampler.times) + 4)
    x[-1] += stds[0]
    y = walk(sampler, {"x": x}, Impulses())["x"]
    deviation = (y[1:] - y[0]).square().sum().sqrt()
    return float((y[0] - means[1]).abs() + (deviation - stds[1]).abs()), sampler


@pytest.mark.parametrize("schedule", [Linear(), Geometric(0.05, 1000.0)], ids=["vp", "ve"])
@pytest.mark.parametrize("churn", [0.0, 5.0, 20.0])
def test_order_in_mean_and_variance_of_normal_data(churn, schedule):
    """S09: 2 +- 0.2, with fresh noise too, since adding noise is exact."""
    end = 0.05 if isinstance(schedule, Linear) else 0.2
    errors = []
    for steps in (128, 256):
        grid = UniformLogSNR(schedule, steps + 1, end=end)
        error, sampler = moment_error(churn, schedule, grid)
        assert (churn == 0) == (not any(sampler.raised > sampler.times[:-1]))
        errors.append(error)
    assert abs(math.log2(errors[0] / errors[1]) - sampler.order("euclidean")) < 0.2


def test_a_wrong_amount_of_noise_is_found_out():
    """The measure can fail: noise 2 % too strong costs the order."""
    errors = []
    for steps in (128, 256):
        grid = UniformLogSNR(Linear(), steps + 1, end=0.05)
        errors.append(moment_error(5.0, Linear(), grid, noise=1.02)[0])
    assert math.log2(errors[0] / errors[1]) < 1


@pytest.mark.parametrize("churn", [10.0, 60.0])
def test_the_law_of_a_mixture_is_kept(churn):
    """Mean, deviation and the share of a mode, from an exact start."""
    schedule, n = Karras(0.002, 200.0), 20_000
    denoiser = mixture(schedule)
    grid = KarrasGrid(schedule, 100, sigma_max=80.0)
    source = torch.Generator().manual_seed(1)
    which = (torch.rand(n, generator=source) > SHARE[0]).long()
    x = MEAN[which] + STD[which] * torch.randn(n, generator=source)
    x = x + 80 * torch.randn(n, generator=source)
    drawn = walk(Churn(denoiser, grid, schedule, churn=churn), {"x": x}, Generator(2))["x"]
    mean = float((SHARE * MEAN).sum())
    variance = float((SHARE * (STD**2 + MEAN**2)).sum()) - mean**2
    assert float(drawn.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n))
    assert float(drawn.var()) == pytest.approx(variance, rel=0.02)
    share = float((drawn < 0.3).double().mean())
    assert share == pytest.approx(0.4, abs=4 * math.sqrt(0.24 / n))


def test_more_noise_than_fits_is_wider():
    """S_noise above 1 adds variance, to first order (S_noise^2 - 1) per added variance."""
    schedule, n = Karras(0.002, 200.0), 40_000
    denoiser = NormalDenoiser(Gaussian(schedule), torch.zeros(1), torch.ones(1))
    grid = KarrasGrid(schedule, 60, sigma_max=80.0)
    x = {"x": torch.randn(n, generator=torch.Generator().manual_seed(0)) * math.sqrt(6401)}
    widths = [
        float(
            walk(Churn(denoiser, grid, schedule, churn=10.0, noise=noise), x, Generator(1))[
                "x"
            ].std()
        )
        for noise in (0.0, 1.0, 1.1)
    ]
    assert widths[0] < 0.8 < 0.97 < widths[1] < 1.03 < widths[2]


def test_check_sampler_without_churn():
    check_sampler(lambda d, g: Churn(d, g, Linear(), churn=0.0), steps=8, samples=200)


WEIGHTS = torch.tensor([0.15, 0.35, 0.2, 0.3])


def world() -> tuple[Product, Batch]:
    """Four joint records on R^n, a centred cloud, classes and angles, of different sizes."""
    process = Product(
        {
            "place": Gaussian(Linear(), event=(2,)),
            "atoms": Gaussian(Linear(), event=(2,), space=ZeroCentre()),
            "first": Categorical(Flow(), uniform(3)),
            "second": Categorical(Flow(), absorbing(3)),
            "angle": Brownian(Geometric(0.02, 6.0), Torus(1)),
        }
    )
    layout = Layout.ragged([2, 2, 3, 2])
    atoms = torch.randn(9, 2, generator=torch.Generator().manual_seed(5)) * 1.5
    leaves = {
        "place": torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.5], [1.5, 1.5]]),
        "atoms": atoms - layout.spread(layout.mean(atoms)),
        "first": torch.tensor([0, 1, 2, 0]),
        "second": torch.tensor([2, 0, 1, 0]),
        "angle": torch.tensor([[0.0], [1.5], [3.0], [-1.5]]),
    }
    one = Layout.ragged([1, 1, 1, 1])
    return process, Batch(leaves, {n: layout if n == "atoms" else one for n in leaves})


def around(x, y):
    gap = torch.remainder(x - y + math.pi, 2 * math.pi) - math.pi
    return gap.abs().amax(1)


@pytest.mark.parametrize(("churn", "steps"), [(4.0, 12), (30.0, 24)])
def test_joint_records_return_whole_and_in_proportion(churn, steps):
    """Also determinism: one seed, one answer."""
    process, data = world()
    pairs = data.select([0, 1, 3])  # of two atoms each
    weights = WEIGHTS[[0, 1, 3]] / WEIGHTS[[0, 1, 3]].sum()
    denoiser, samples = ExactDenoiser(process, pairs, weights), 600
    rows = {name: 2 * samples if name == "atoms" else samples for name in data.leaves}
    layouts = {n: Layout.ragged([r // samples] * samples) for n, r in rows.items()}
    batch = Batch(process.empty(rows), layouts)
    sampler = Churn(denoiser, UniformTime(steps), Linear(), churn=churn)
    drawn, again = (sampler.sample(batch, Generator(0)) for _ in range(2))
    assert all(torch.equal(drawn[name], again[name]) for name in drawn.leaves)
    record = sort_records(drawn, pairs, {"angle": around})
    torn = float((record < 0).double().mean())
    assert torn < 2 / steps + 4 * math.sqrt(2 / steps / samples)
    for k, weight in enumerate(weights.tolist()):
        share = float((record == k).double().mean())
        error = math.sqrt(weight * (1 - weight) / samples)
        assert share == pytest.approx(weight, abs=4 * error + 2 / steps)


def test_fresh_noise_renews_classes():
    """On classes churn redraws rows, also those that Heun's steps would carry to the end."""
    process = Product({"k": Categorical(Flow(), absorbing(3))})
    data = Batch.of({"k": torch.tensor([0, 1, 2])})
    denoiser = ExactDenoiser(process, data, torch.tensor([0.2, 0.3, 0.5]))
    batch = Batch.of({"k": torch.zeros(4000, dtype=torch.long)})
    sampler = Churn(denoiser, UniformTime(10, end=0.05), Flow(), churn=4.0)
    bound = sampler.bind(batch, Generator(0))
    masked = []
    carry = bound.start()
    for i in range(bound.steps):
        noisier = bound.add_noise(carry.x, i)["k"]
        masked.append(float(((noisier == 3) & (carry.x["k"] != 3)).double().mean()))
        carry = bound.step(carry, i)
    assert masked[0] == 0  # nothing is noisier than t = 1
    t, raised = sampler.times[5], sampler.raised[5]
    expected = float((1 - t) * (1 - (1 - raised) / (1 - t)))
    assert masked[5] == pytest.approx(expected, abs=4 * math.sqrt(expected / 4000) + 0.01)
    shares = torch.bincount(carry.x["k"], minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.3, 0.5]), rtol=0, atol=0.035)


def test_given_rows_stay_and_batch_mates_do_not_matter():
    process, data = world()
    denoiser = ExactDenoiser(process, data, WEIGHTS)
    given = data.with_given(
        {"angle": torch.tensor([True, False, True, False]), "first": torch.ones(4).bool()}
    )
    sampler = Churn(denoiser, UniformTime(6), Linear(), churn=4.0)
    whole = sampler.sample(given, Addressed(0))
    assert torch.equal(whole["first"], data["first"])
    assert torch.equal(whole["angle"][[0, 2]], data["angle"][[0, 2]])
    for i in (0, 2):
        alone = sampler.sample(given.select([i]), Addressed(0))
        for name, x in alone.leaves.items():
            rows = data.layouts[name].rows_of(torch.tensor([i]))
            torch.testing.assert_close(whole[name][rows], x, rtol=1e-12, atol=1e-12)


def test_each_step_has_noise_of_its_own():
    """By address: not that of the prior, nor that of any other step."""
    schedule = Karras()
    sampler = Churn(mixture(schedule), KarrasGrid(schedule, 6, sigma_max=40.0), schedule)
    bound = sampler.bind(Batch.of(torch.zeros(3)), Addressed(0))
    zero = {"x": torch.zeros(3)}
    was, now = schedule.sigma(bound.times[:-1]), schedule.sigma(bound.raised)
    drawn = [bound.add_noise(zero, i)["x"] / (now[i] ** 2 - was[i] ** 2).sqrt() for i in range(6)]
    drawn.append(bound.start().x["x"] / 80)
    apart = torch.pdist(torch.stack(drawn))
    assert float(apart.min()) > 1e-3


def test_a_walk_goes_on_from_saved_tensors():
    schedule = Karras()
    sampler = Churn(mixture(schedule), KarrasGrid(schedule, 8), schedule, churn=3.0)
    batch = Batch.of(torch.zeros(5))
    bound = sampler.bind(batch, Addressed(1))
    carry = bound.start()
    for i in range(4):
        carry = bound.step(carry, i)
    other = sampler.bind(batch, Addressed(1))
    saved = Carry.from_tensors(carry.tensors())
    for i in range(4, 8):
        carry, saved = bound.step(carry, i), other.step(saved, i)
    assert torch.equal(carry.x["x"], saved.x["x"])
    assert carry.calls == 15


class Unmarkov(Product):
    """Says that it has no forward kernel."""

    def offers(self, contract: type) -> bool:
        return contract is Process


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"churn": -1.0}, "churn must be at least 0, got -1.0"),
        ({"low": 2.0, "high": 1.0}, "0 <= low <= high, got 2.0 and 1.0"),
        ({"noise": -0.1}, "noise must be at least 0, got -0.1"),
    ],
)
def test_refusals(change, match):
    with pytest.raises(ValueError, match=match):
        Churn(mixture(Linear()), UniformTime(3), Linear(), **change)


def test_a_process_without_a_forward_kernel_is_refused():
    denoiser = mixture(Linear())
    denoiser.process = Unmarkov({"x": Gaussian(Linear())})
    with pytest.raises(ValueError, match="must be Markov .* Unmarkov is not"):
        Churn(denoiser, UniformTime(3), Linear())
