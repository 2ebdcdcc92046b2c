"""Walks to a law of which only an unnormalised density is known: weights, log Z, training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Counter,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Product,
    UniformLogSNR,
    UniformTime,
    uniform,
)
from structdiff.denoiser import Denoiser, NetworkDenoiser
from structdiff.parameterisations import Velocity
from structdiff.processes import Estimate
from structdiff.samplers.unnormalised import Evidence, PathDivergence, evidence, follow
from structdiff.spaces import Torus, ZeroCentre
from structdiff.testing import NormalDenoiser

MEAN, STD, SHARE = torch.tensor([-1.0, 1.0]), torch.tensor([0.3, 0.4]), torch.tensor([0.3, 0.7])
LOG_Z, END = 1.3, 0.1


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def ladder(schedule, steps, start=0.98):
    return UniformLogSNR(schedule, steps + 1, start=start, end=END)


def log_normal(x, std):
    return -0.5 * (x / std) ** 2 - torch.log(std) - 0.5 * math.log(2 * math.pi)


def two_modes(schedule):
    """e^1.3 times the law at the walk's end of a mixture of two normals."""
    level = schedule(torch.tensor(END))
    mean, std = level.alpha * MEAN.double(), ((level.alpha * STD) ** 2 + level.sigma**2).sqrt()

    def log_density(batch):
        each = log_normal(batch["x"][:, None] - mean, std) + SHARE.double().log()
        return torch.logsumexp(each, 1) + LOG_Z

    return log_density


def exact(schedule):
    return NormalDenoiser(Gaussian(schedule), MEAN.double(), STD.double(), SHARE.double())


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), Geometric(0.05, 20.0)])
def test_the_exact_denoiser_weighs_all_paths_alike_as_steps_grow(schedule):
    """log Z within its error, and the weights' variance falls as 1 / steps."""
    spread = []
    for steps in (20, 80):
        grid = ladder(schedule, steps)
        batch = Batch.of(torch.zeros(3000))
        found = evidence(exact(schedule), two_modes(schedule), grid, batch, Generator(0))
        assert float(found.log_z) == pytest.approx(LOG_Z, abs=min(0.05, 5 * float(found.error)))
        assert float(found.bound) < float(found.log_z)
        spread.append(1 / float(found.effective) - 1)
    assert spread[1] < 0.45 * spread[0]
    assert spread[1] < 0.15


def test_weights_are_those_of_their_definition():
    """Kernels written out: gamma(x_n) prod q(x_t | x_s) / (prior(x_0) prod p(x_s | x_t))."""
    schedule = Cosine()
    denoiser, log_density, grid = exact(schedule), two_modes(schedule), ladder(schedule, 3)
    states = []

    class Seen(Denoiser):
        process = denoiser.process

        def forward(self, batch, t, previous=None):
            found = denoiser(batch, t)
            states.append((batch["x"], schedule(t["x"]), found["x"].value))
            return found

    end, log_weights = follow(Seen(), grid, log_density, Batch.of(torch.zeros(5)), Generator(1))
    last = schedule(grid.times()[-2])
    total = log_density(end) - log_normal(states[0][0], states[0][1].sigma)
    following = [*states[1:], (end["x"], last, None)]
    for (x, t, estimate), (y, s, _) in zip(states, following, strict=True):
        ratio = t.alpha / s.alpha
        q = torch.sqrt(t.sigma**2 - ratio**2 * s.sigma**2)
        total = total + log_normal(x - ratio * y, q)
        small = s.sigma * q / t.sigma  # of the Bayes kernel at a known point
        mean = ratio * s.sigma**2 / t.sigma**2 * x + s.alpha * q**2 / t.sigma**2 * estimate
        wide = torch.sqrt(small**2 + (s.alpha * q**2 / t.sigma**2) ** 2 * t.sigma**2)
        total = total - log_normal(y - mean, wide)
    torch.testing.assert_close(log_weights, total, rtol=1e-9, atol=1e-9)


class Zero(nn.Module):
    """A network that says nothing."""

    def forward(self, batch, clock, previous):
        return {name: torch.zeros_like(x) for name, x in batch.leaves.items()}


def standard(**options):
    """The walk by the reversal of standard normal data."""
    process = Product({"x": Gaussian(Cosine(), Velocity(), **options)})
    return NetworkDenoiser(Zero(), process)


def test_a_velocity_of_zero_is_the_reversal_of_standard_normal_data():
    """Every weight is Z then, to rounding, whatever the steps."""
    grid = UniformTime(5, end=END)

    def log_density(batch):
        return 0.7 - batch["x"].square().sum(1) / 2

    batch = Batch.of(torch.zeros(6, 2))
    found = evidence(standard(event=(2,)), log_density, grid, batch, Generator(0))
    wanted = torch.full((6,), 0.7 + math.log(2 * math.pi))
    torch.testing.assert_close(found.log_weights, wanted, rtol=0, atol=1e-9)
    assert float(found.effective) == pytest.approx(1)
    assert float(found.error) == pytest.approx(0, abs=1e-6)


def test_given_entries_condition_the_target():
    """The evidence of a correlated normal with one entry held is its marginal there."""
    held, slope, std = 0.8, 0.5, 0.6

    def log_density(batch):
        x = batch["x"]
        other = log_normal(x[:, 1] - slope * x[:, 0], torch.tensor(std))
        return log_normal(x[:, 0], torch.tensor(1.0)) + other

    x = torch.zeros(4000, 2)
    x[:, 0] = held
    batch = Batch.of(x).with_given({"x": torch.tensor([True, False]).expand(4000, 2)})
    grid = UniformTime(8, end=END)
    found = evidence(standard(event=(2,)), log_density, grid, batch, Generator(0))
    truth = float(log_normal(torch.tensor(held), torch.tensor(1.0)))
    assert float(found.log_z) == pytest.approx(truth, abs=5 * float(found.error))
    assert float(found.error) < 0.03
    assert torch.equal(found.samples["x"][:, 0], x[:, 0])


def test_records_of_ragged_rows_and_subspaces():
    """Two centred clouds of different size: each weight is the Z of its own size."""
    process = Product(
        {
            "atoms": Gaussian(Cosine(), Velocity(), event=(2,), space=ZeroCentre()),
            "y": Gaussian(Cosine(), Velocity()),
        }
    )
    layouts = {"atoms": Layout.ragged([2, 4]), "y": Layout.regular(2)}
    batch = Batch({"atoms": torch.zeros(6, 2), "y": torch.zeros(2)}, layouts)

    def log_density(seen):
        squares = seen.layouts["atoms"].sum(seen["atoms"].square()).sum(1)
        return -(squares + seen["y"] ** 2) / 2

    denoiser = NetworkDenoiser(Zero(), process)
    found = evidence(denoiser, log_density, UniformTime(4, end=END), batch, Generator(0))
    dimensions = torch.tensor([2 * 1 + 1, 2 * 3 + 1])
    wanted = dimensions * 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found.log_weights, wanted, rtol=0, atol=1e-9)
    for i in range(2):
        random = Counter(3)
        whole = evidence(denoiser, log_density, UniformTime(4, end=END), batch, random)
        alone = evidence(
            denoiser, log_density, UniformTime(4, end=END), batch.select([i]), Counter(3)
        )
        rows = layouts["atoms"].rows_of(torch.tensor([i]))
        torch.testing.assert_close(alone.samples["atoms"], whole.samples["atoms"][rows])


def test_noise_by_address_gives_the_same_evidence():
    """Each step has noise of its own."""
    grid, batch = ladder(Cosine(), 20), Batch.of(torch.zeros(2000))
    found = evidence(exact(Cosine()), two_modes(Cosine()), grid, batch, Counter(0))
    assert float(found.log_z) == pytest.approx(LOG_Z, abs=5 * float(found.error))
    assert float(found.effective) > 0.5


def test_terms_of_several_leaves_sum_to_the_divergence():
    process = Product({"x": Gaussian(Cosine(), Velocity()), "y": Gaussian(Cosine(), Velocity())})
    denoiser, grid = NetworkDenoiser(Zero(), process), UniformTime(4, end=END)

    def log_density(batch):
        return -(batch["x"] ** 2 + batch["y"] ** 2) / 2

    batch = Batch.of({"x": torch.zeros(5), "y": torch.zeros(5)})
    terms = PathDivergence(log_density, grid)(denoiser, batch, Generator(0))
    assert float(terms.total) == pytest.approx(-math.log(2 * math.pi), abs=1e-9)


def test_the_gradient_goes_through_the_walk():
    """Against a central difference, under the same noise."""
    schedule = Cosine()

    class Shifted(Denoiser):
        process = Product({"x": Gaussian(schedule)})

        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(0.2))

        def forward(self, batch, t, previous=None):
            return {"x": Estimate(0.5 * batch["x"] + self.shift)}

    denoiser = Shifted()
    objective = PathDivergence(two_modes(schedule), ladder(schedule, 4))

    def loss(value):
        denoiser.shift.data.fill_(value)
        return objective(denoiser, Batch.of(torch.zeros(50)), Generator(0)).total

    (slope,) = torch.autograd.grad(loss(0.2), denoiser.shift)
    difference = float((loss(0.2 + 1e-5) - loss(0.2 - 1e-5)).detach()) / 2e-5
    assert float(slope) == pytest.approx(difference, rel=1e-6)


class Network(nn.Module):
    """A small network that is told the slope of the target, gated by the clock."""

    def __init__(self, size, log_density):
        super().__init__()
        self.log_density = log_density
        self.way = nn.Sequential(nn.Linear(2 * size + 1, 48), nn.SiLU(), nn.Linear(48, size))
        self.gate = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 1))
        for last in (self.way[-1], self.gate[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, batch, clock, previous):
        x = batch["x"]
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.log_density(batch.with_leaves({"x": y})).sum(), y)
        slope = (slope + x).clamp(-10, 10).reshape(len(x), -1)
        time = (clock["x"] / 3).expand(len(x), 1).to(x)
        way = self.way(torch.cat([x.reshape(len(x), -1), slope, time], 1))
        return {"x": (way + self.gate(time) * slope).reshape(x.shape)}


def trained(log_density, size, event, updates):
    """Evidence before and after training."""
    torch.manual_seed(0)
    process = Product({"x": Gaussian(Cosine(), Velocity(), event=event)})
    denoiser, grid = NetworkDenoiser(Network(size, log_density), process), ladder(Cosine(), 10)
    objective, batch = PathDivergence(log_density, grid), Batch.of(torch.zeros(128, *event))
    many = Batch.of(torch.zeros(4000, *event))
    before = evidence(denoiser, log_density, grid, many, Generator(97))
    optimiser = torch.optim.Adam(denoiser.parameters(), 1e-2)
    for k in range(updates):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 - k / updates)
        optimiser.zero_grad()
        objective(denoiser, batch, Generator(k)).total.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimiser.step()
    return before, evidence(denoiser, log_density, grid, many, Generator(98))


def test_training_finds_log_z_of_two_modes():
    before, after = trained(two_modes(Cosine()), 1, (), 50)
    assert float(after.log_z) == pytest.approx(LOG_Z, abs=0.05)
    assert float(after.bound) > float(before.bound) + 0.2
    assert float(after.effective) > max(0.6, float(before.effective))
    low = float((after.samples["x"] < 0).double().mean())
    assert 0.15 < low < 0.45  # both modes are walked to


def test_training_finds_log_z_of_a_funnel():
    def funnel(batch):
        x = batch["x"]
        width = 0.35 * torch.exp(x[:, 0])
        return log_normal(x[:, 0], torch.tensor(0.7)) + log_normal(x[:, 1], width)

    before, after = trained(funnel, 2, (2,), 70)
    assert float(after.log_z) == pytest.approx(0, abs=0.1)
    assert float(after.bound) > float(before.bound) + 1
    assert 0.1 < float(after.effective) < 1
    assert float(after.error) < 0.05


def test_effective_samples_of_weights():
    batch = Batch.of(torch.zeros(4))
    even = Evidence(batch, torch.zeros(4))
    one = Evidence(batch, torch.tensor([0.0, -torch.inf, -torch.inf, -torch.inf]))
    assert float(even.effective) == 1
    assert float(one.effective) == 0.25
    assert float(one.log_z) == pytest.approx(-math.log(4))
    assert float(one.error) == pytest.approx(math.sqrt(3 / 4))


@pytest.mark.parametrize(
    "process",
    [
        Categorical(Flow(), uniform(3)),
        Brownian(Geometric(0.02, 4.0), Torus(1)),
        Brownian(Geometric(0.02, 100.0), Torus(1)),  # all noise over most of the walk
    ],
)
def test_other_spaces_are_refused(process):
    class Nothing(Denoiser):
        def forward(self, batch, t, previous=None):
            raise AssertionError

    denoiser = Nothing()
    denoiser.process = Product({"x": process})
    batch = Batch.of(denoiser.process.empty(2)["x"])
    with pytest.raises(ValueError, match="must be Gaussian noise on R\\^n"):
        evidence(denoiser, lambda _: torch.zeros(2), UniformTime(3), batch, Generator(0))
