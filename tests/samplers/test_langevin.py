"""Langevin dynamics: what a step does to normal data, weights of modes, and correction."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDIM,
    Batch,
    Brownian,
    Categorical,
    Counter,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Multistep,
    Product,
    UniformLogSNR,
    UniformTime,
    uniform,
)
from structdiff.objectives import SNR
from structdiff.parameterisations import Score
from structdiff.processes import Estimate
from structdiff.processes.affine import Affine
from structdiff.processes.covariance import Scaling
from structdiff.processes.phase import PhaseSpace
from structdiff.processes.phase_motion import critically_damped
from structdiff.samplers import Carry
from structdiff.samplers.langevin import AnnealedLangevin, LangevinCorrector
from structdiff.schedules import Cosine
from structdiff.schedules.by_entry import Speeds
from structdiff.spaces import SO3, Torus, ZeroCentre
from structdiff.testing import Addressed, ExactDenoiser, Impulses, NormalDenoiser, walk


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normal(schedule, mean=1.5, std=0.7):
    return NormalDenoiser(Gaussian(schedule), torch.tensor([mean]), torch.tensor([std]))


class Single(UniformTime):
    """One level, then clean."""

    def __init__(self, t: float) -> None:
        self.t = t

    def times(self):
        return torch.tensor([self.t, -1.0], dtype=torch.float64)


def after(denoiser, t, x, rounds, snr, random):
    """Langevin dynamics at one level."""
    sampler = AnnealedLangevin(denoiser, Single(t), rounds=rounds, snr=snr)
    bound = sampler.bind(Batch.of(x), random)
    return bound.effective(Carry({"x": x}), 0)[1].x["x"]


@pytest.mark.parametrize("schedule", [Linear(), Geometric(0.05, 20.0)], ids=["vp", "ve"])
@pytest.mark.parametrize("std", [0.0, 0.7])
def test_the_stationary_variance_is_that_of_the_unadjusted_chain(std, schedule):
    """v / (1 - r^2 sigma^2 / v), for the score of N(0, 1) alone 1 / (1 - r^2), by recursion."""
    snr, t, rounds = 0.5, 0.3, 220
    level = schedule(torch.tensor(t))
    v = (level.alpha * std) ** 2 + level.sigma**2
    x = torch.zeros(rounds + 2)
    y = after(normal(schedule, 0.0, std), t, x, rounds, snr, Impulses())
    variance = float((y[1:] - y[0]).square().sum())
    assert variance == pytest.approx(float(v / (1 - snr**2 * level.sigma**2 / v)), rel=1e-9)


def test_a_step_is_that_of_song_and_ermon():
    """x + e / 2 score + sqrt(e) z, e = 4 r^2 sigma^2, for the score of the law at its level."""
    schedule, snr, x = Geometric(0.05, 20.0), 0.3, torch.linspace(-2, 2, 5)
    denoiser = normal(schedule)
    t = torch.tensor(0.5)
    sigma = schedule.sigma(t)
    variance = sigma**2 + 0.49
    e = 4 * snr**2 * sigma**2
    bound = AnnealedLangevin(denoiser, Single(0.5), rounds=1, snr=snr).bind(
        Batch.of(x), Addressed(0)
    )
    z = Addressed(0).scoped(step=3, leaf="x", ids=bound.batch.ids, layout=bound.batch.layouts["x"])
    want = x - e / 2 * (x - 1.5) / variance + e.sqrt() * z.normal((5,), x.dtype, "cpu")
    found = bound.effective(Carry({"x": x}), 0)[1].x["x"]
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)


CENTRES = torch.tensor([[-4.0, -4.0], [4.0, 4.0]])
SHARES = torch.tensor([0.2, 0.8])


def share_of_first(sampler, samples=2000):
    x = sampler.sample(Batch.of(torch.zeros(samples, 2)), Generator(1))["x"]
    return float((x.sum(1) < 0).double().mean())


def test_levels_give_modes_their_weights_and_one_level_does_not():
    """From the same start, with the same number of Langevin steps."""
    schedule = Geometric(0.3, 12.0)
    denoiser = NormalDenoiser(
        Gaussian(schedule, event=(2,)), CENTRES, torch.tensor([0.5, 0.5]), SHARES
    )
    ladder = UniformLogSNR(schedule, 15, end=0.0)
    annealed = share_of_first(AnnealedLangevin(denoiser, ladder, rounds=60, snr=0.3))
    plain = share_of_first(AnnealedLangevin(denoiser, Single(0.0), rounds=15 * 60, snr=0.3))
    assert annealed == pytest.approx(0.2, abs=0.03)
    assert abs(plain - 0.2) > 0.1


def test_weighed_by_the_noise_levels_losses_are_of_one_size():
    """Of the score 0, weighed by sigma^2: the mean of |z|^2 at every level."""
    schedule, samples = Geometric(0.01, 50.0), 8000
    process = Product({"x": Gaussian(schedule, Score(), event=(2,))})
    x = torch.randn(samples, 2, generator=torch.Generator().manual_seed(0))
    batch, sizes = Batch.of(x), []
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        time = {"x": torch.full((samples,), t)}
        bound = process.bind(batch)
        noisy = bound.diffuse(batch.leaves, time, Generator(1))
        estimate = bound.decode({"x": torch.zeros(samples, 2)}, noisy, time)
        error = bound.loss(estimate, batch.leaves, noisy, time)["x"]
        sizes.append(float((SNR()(bound.clock(time)["x"]) * error).mean()))
    assert max(sizes) / min(sizes) < 1.001
    assert sizes[0] == pytest.approx(2, abs=4 * 2 / math.sqrt(samples))


def corrected(schedule, end, steps, rounds, snr=0.2, mean=1.5, std=0.7):
    """Errors of mean and deviation before clean data, exactly, by impulses."""
    grid = UniformLogSNR(schedule, steps + 1, end=end)
    sampler = LangevinCorrector(DDIM(normal(schedule, mean, std), grid), rounds, snr=snr)
    times = grid.times()
    ends = schedule(times[[0, -2]])
    means, stds = ends.alpha * mean, ((ends.alpha * std) ** 2 + ends.sigma**2).sqrt()
    x = means[0].repeat((rounds + 1) * steps + 4)
    x[-1] += stds[0]
    y = walk(sampler, {"x": x}, Impulses())["x"]
    deviation = (y[1:] - y[0]).square().sum().sqrt()
    return float((y[0] - means[1]).abs() + (deviation - stds[1]).abs())


@pytest.mark.parametrize("schedule", [Linear(), Geometric(0.05, 50.0)], ids=["vp", "ve"])
def test_corrections_lower_the_error_of_a_coarse_predictor(schedule):
    """Ten of them; their own error, of second order in snr, is what is left."""
    errors = [corrected(schedule, 0.3, 3, rounds) for rounds in (0, 1, 10)]
    assert errors[0] > 1.05 * errors[1]
    assert errors[1] > 1.5 * errors[2]


def test_ten_corrections_lower_the_distance_from_a_mixture():
    """Wasserstein's, of sorted samples from quantiles, from the same start."""
    schedule, n = Geometric(0.1, 20.0), 4000
    mean, std, share = (
        torch.tensor([-2.0, 2.0]),
        torch.tensor([0.5, 0.5]),
        torch.tensor([0.3, 0.7]),
    )
    denoiser = NormalDenoiser(Gaussian(schedule), mean, std, share)
    grid = UniformLogSNR(schedule, 6, end=0.2)
    level = schedule(grid.times()[-2])
    x = torch.linspace(-8, 8, 20_001)
    spread = (std**2 + level.sigma**2).sqrt()
    cdf = torch.special.ndtr((x[:, None] - mean) / spread) @ share
    places = (torch.arange(n) + 0.5) / n
    truth = x[torch.searchsorted(cdf, places)]
    start = {"x": 20 * torch.randn(n, generator=torch.Generator().manual_seed(0))}
    errors = []
    for rounds in (0, 10):
        sampler = LangevinCorrector(DDIM(denoiser, grid), rounds, snr=0.3)
        end = walk(sampler, start, Generator(2))["x"].sort().values
        errors.append(float((end - truth).square().mean().sqrt()))
    assert errors[1] < 0.7 * errors[0]


def test_without_corrections_it_is_the_sampler():
    """Bit for bit, and under noise by address the predictor draws what it draws alone."""
    denoiser, batch = normal(Cosine()), Batch.of(torch.zeros(6))
    sampler = DDIM(denoiser, UniformTime(7), eta=0.5)
    corrector = LangevinCorrector(sampler, 0)
    ends = [each.sample(batch, Generator(3))["x"] for each in (sampler, corrector)]
    assert torch.equal(*ends)
    assert corrector.order("euclidean") == 1
    single = DDIM(denoiser, UniformTime(1), eta=0.5)
    ends = [w.sample(batch, Counter(3))["x"] for w in (single, LangevinCorrector(single, 4))]
    assert torch.equal(*ends)


def mixed():
    """A vector, a centred ragged cloud and a rotation."""
    process = Product(
        {
            "place": Gaussian(Linear(), event=(2,)),
            "atoms": Gaussian(Linear(), event=(3,), space=ZeroCentre()),
            "turn": Brownian(Geometric(0.02, 2.0), SO3()),
        }
    )
    counts = {"place": [1, 1, 1], "atoms": [2, 3, 2], "turn": [1, 1, 1]}
    layouts = {name: Layout.ragged(count) for name, count in counts.items()}
    atoms = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    leaves = {
        "place": torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.5]]),
        "atoms": atoms - layouts["atoms"].spread(layouts["atoms"].mean(atoms)),
        "turn": SO3().uniform(3, Generator(2), torch.float64, "cpu"),
    }
    return process, Batch(leaves, layouts)


WALKS = {
    "annealed": lambda d: AnnealedLangevin(d, UniformTime(3), rounds=2, snr=0.2),
    "corrector": lambda d: LangevinCorrector(DDIM(d, UniformTime(3), eta=1.0), 2),
}


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("source", [Addressed, Counter])
def test_given_rows_stay_and_a_sample_does_not_depend_on_its_mates(name, source):
    process, data = mixed()
    given = data.with_given(
        {
            "turn": torch.tensor([True, False, True]),
            "place": torch.tensor([[True, False], [False, False], [False, True]]),
        }
    )
    sampler = WALKS[name](ExactDenoiser(process, data))
    whole = sampler.sample(given, source(0))
    assert torch.equal(whole["turn"][[0, 2]], data["turn"][[0, 2]])
    assert whole["place"][0, 0] == data["place"][0, 0]
    assert whole["place"][2, 1] == data["place"][2, 1]
    centre = data.layouts["atoms"].mean(whole["atoms"])
    torch.testing.assert_close(centre, torch.zeros_like(centre), rtol=0, atol=1e-12)
    for i in range(3):
        alone = sampler.sample(given.select([i]), source(0))
        for leaf, x in alone.leaves.items():
            rows = data.layouts[leaf].rows_of(torch.tensor([i]))
            torch.testing.assert_close(whole[leaf][rows], x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", WALKS)
def test_alone_and_in_a_batch_the_same_bit_for_bit_and_goes_on(name):
    sampler, batch = WALKS[name](normal(Linear())), Batch.of(torch.zeros(4))
    whole = sampler.sample(batch, Counter(1))["x"]
    for i in range(4):
        assert torch.equal(sampler.sample(batch.select([i]), Counter(1))["x"], whole[[i]])
    bound, other = (sampler.bind(batch, Counter(1)) for _ in range(2))
    saved = Carry.from_tensors(bound.step(bound.start(), 0).tensors())
    for i in (1, 2):
        saved = other.step(saved, i)
    assert torch.equal(saved.x["x"], whole)
    assert saved.calls == 7


def test_joint_points_of_a_circle_and_a_plane_return_in_proportion():
    """Whole too: a wrong level of one leaf would tear the records."""
    process = Product(
        {
            "x": Gaussian(Geometric(0.05, 10.0), event=(2,)),
            "a": Brownian(Geometric(0.05, 4.0), Torus(1)),
        }
    )
    data = Batch.of(
        {"x": torch.tensor([[1.0, 0], [-1, 1], [0, -1.5]]), "a": torch.tensor([[0.0], [1.5], [3]])}
    )
    weights, samples = torch.tensor([0.2, 0.5, 0.3]), 700
    denoiser = ExactDenoiser(process, data, weights)
    ladder = UniformLogSNR(Geometric(0.05, 10.0), 12, end=0.0)
    sampler = AnnealedLangevin(denoiser, ladder, rounds=15, snr=0.35)
    drawn = sampler.sample(Batch.of(process.empty(samples)), Generator(0))
    near = (drawn["x"][:, None] - data["x"]).norm(dim=2)
    found = near.argmin(1)
    turn = Torus(1).log(data["a"][found], drawn["a"]).abs().flatten()
    torn = (near.amin(1) > 0.2) | (turn > 0.2)
    assert float(torn.double().mean()) < 0.02
    for k, weight in enumerate(weights.tolist()):
        share = float((found == k).double().mean())
        assert share == pytest.approx(weight, abs=4 * math.sqrt(0.25 / samples))


def test_the_score_of_a_network_that_is_off_shifts_the_mean():
    """The dynamics go by the score that they are told, not by the process alone."""

    class Off(NormalDenoiser):
        def forward(self, batch, t, previous=None):
            right = super().forward(batch, t, previous)
            return {"x": Estimate(right["x"].value + 0.3)}

    schedule = Geometric(0.05, 20.0)
    right, off = (
        kind(Gaussian(schedule), torch.zeros(1), torch.zeros(1)) for kind in (NormalDenoiser, Off)
    )
    means = [float(after(d, 0.3, torch.zeros(90), 80, 0.4, Impulses())[0]) for d in (right, off)]
    assert means[0] == 0
    assert means[1] == pytest.approx(0.3, rel=1e-6)


def test_each_round_has_noise_of_its_own():
    """By address, of levels and rounds."""
    denoiser, batch = normal(Linear()), Batch.of(torch.zeros(3))
    zero = Carry({"x": torch.zeros(3)})
    corrector = LangevinCorrector(DDIM(denoiser, UniformTime(4)), 3).bind(batch, Addressed(0))
    moved = [corrector.correct(zero, i, turn).x["x"] for i in range(3) for turn in range(3)]
    noises = [(x - x.mean()) / x.std() for x in moved]
    asked = []

    class Noted(Addressed):
        def scoped(self, **address):
            if address.get("step") is not None:
                asked.append(address["step"])
            return super().scoped(**address)

    walk = AnnealedLangevin(denoiser, UniformTime(4), rounds=3)
    walk.sample(batch, Noted(0))
    assert len(set(asked)) == len(asked) == 1 + 4 * 3 + 4
    assert float(torch.pdist(torch.stack(noises)).min()) > 1e-3


@pytest.mark.parametrize("make", [AnnealedLangevin, LangevinCorrector])
def test_noise_of_another_covariance_is_refused(make):
    """Steps of sigma are too long where the noise is smaller: of N(0, 0.01) they blow up."""
    plain = Gaussian(Linear(), event=(2,))
    narrow, wide, moved = (
        Affine(plain, Scaling(torch.tensor(scale)), mean)
        for scale, mean in (([0.1, 1.0], None), ([1.0, 3.0], None), ([1.0, 1.0], torch.ones(2)))
    )
    fast = Gaussian(Speeds(Linear(), torch.tensor([1.0, 4.0])), event=(2,))
    pairs = PhaseSpace(critically_damped(Linear()), event=(1,))
    for leaf, refused in ((narrow, 1), (wide, 1), (pairs, 1), (moved, 0), (fast, 0)):
        process = Product({"x": leaf})
        batch = Batch.of(process.empty(3))
        denoiser = ExactDenoiser(process, batch)
        grid = UniformTime(3)
        walk = make(denoiser, grid) if make is AnnealedLangevin else make(DDIM(denoiser, grid))
        if refused:
            with pytest.raises(ValueError, match="leaf 'x' has another covariance"):
                walk.bind(batch, Generator(0))
        else:
            walk.bind(batch, Generator(0))


def test_a_predictor_with_a_memory_is_refused():
    denoiser, batch = normal(Linear()), Batch.of(torch.zeros(3))
    past = Multistep(denoiser, UniformTime(4), order=2)
    with pytest.raises(ValueError, match="Multistep keeps a history"):
        LangevinCorrector(past).sample(batch, Generator(0))
    LangevinCorrector(past, 0).sample(batch, Generator(0))
    LangevinCorrector(Multistep(denoiser, UniformTime(4), order=1)).sample(batch, Generator(0))


def test_refusals():
    denoiser = normal(Linear())
    for snr in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"snr must be in \(0, 1\)"):
            AnnealedLangevin(denoiser, UniformTime(3), snr=snr)
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        AnnealedLangevin(denoiser, UniformTime(3), rounds=0)
    with pytest.raises(ValueError, match="rounds must be at least 0, got -1"):
        LangevinCorrector(DDIM(denoiser, UniformTime(3)), -1)
    words = ExactDenoiser(
        Product({"x": Categorical(Flow(), uniform(3))}), Batch.of(torch.tensor([1]))
    )
    with pytest.raises(ValueError, match="Langevin dynamics needs the score of every leaf"):
        LangevinCorrector(DDIM(words, UniformTime(3)))
