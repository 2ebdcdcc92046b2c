"""Picard iteration: the walk of the sampler, in fewer calls one after the other."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Counter,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Heun,
    Layout,
    Linear,
    Multistep,
    Product,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.samplers.picard import Kept, Picard
from structdiff.samplers.staggered import Staggered
from structdiff.spaces import SO3, Torus, ZeroCentre
from structdiff.testing import Addressed, ExactDenoiser, NormalDenoiser


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Counted(NormalDenoiser):
    """A mixture that counts how often it is asked, and of how many samples."""

    def __init__(self):
        mean, std = torch.tensor([-1.0, 0.5, 1.5]), torch.tensor([0.6, 0.5, 0.7])
        super().__init__(Gaussian(Linear()), mean, std, torch.tensor([0.3, 0.5, 0.2]))
        self.asked = []

    def forward(self, batch, t, previous=None):
        self.asked.append(batch.samples)
        return super().forward(batch, t, previous)


def rounds(walk, batch, random):
    """The samples, and the calls one after the other."""
    calls = []
    drawn = walk.sample(batch, random, lambda i, carry: calls.append(carry.calls))
    return drawn, calls[-1]


@pytest.mark.parametrize("make", [DDIM, DDPM], ids=lambda m: m.__name__)
@pytest.mark.parametrize("window", [16, 64])
def test_the_samples_are_those_of_the_sampler_in_fewer_rounds(make, window):
    denoiser, steps = Counted(), 64
    sampler, batch = make(denoiser, UniformTime(steps)), Batch.of(torch.zeros(6))
    expected = sampler.sample(batch, Generator(3))["x"]
    denoiser.asked.clear()
    drawn, calls = rounds(Picard(sampler, window, tolerance=1e-5), batch, Generator(3))
    assert float((drawn["x"] - expected).abs().max()) < 1e-4
    assert calls < (32 if window == 64 else 48)
    assert denoiser.asked == [6 * window] * calls


def test_of_tolerance_zero_they_are_equal_to_rounding():
    sampler, batch = DDPM(Counted(), UniformTime(20)), Batch.of(torch.zeros(5))
    expected = sampler.sample(batch, Generator(3))["x"]
    drawn, calls = rounds(Picard(sampler, 10, tolerance=0.0), batch, Generator(3))
    torch.testing.assert_close(drawn["x"], expected, rtol=1e-12, atol=1e-12)
    assert calls <= 20


def test_after_k_sweeps_the_first_k_steps_are_those_of_the_walk():
    """One exact step is gained by each sweep, so a window of w takes w sweeps at most."""
    sampler, batch = DDIM(Counted(), UniformTime(6)), Batch.of(torch.linspace(-1, 1, 4))
    walk = Picard(sampler, 6, tolerance=0.0).bind(batch, Generator(1))
    carry = walk.start()
    places, kept = walk.places(0), Kept(walk.random)
    path, times = [carry.x] * 7, walk.times(walk.places(0))
    truth, state = [carry], carry
    for i in range(6):
        state = walk.sampler.step(state, i)
        truth.append(state)
    for sweep in range(1, 7):
        path = walk.follow(path, walk.ask(path[:-1], times), places, kept)
        for j in range(sweep + 1):
            torch.testing.assert_close(path[j]["x"], truth[j].x["x"], rtol=1e-12, atol=1e-12)


def world():
    """Six ragged records of atoms, classes and points of two manifolds."""
    source = torch.Generator().manual_seed(5)
    process = Product(
        {
            "atoms": Gaussian(Linear(), event=(2,), space=ZeroCentre()),
            "first": Categorical(Flow(), uniform(3)),
            "second": Categorical(Flow(), absorbing(3)),
            "angles": Brownian(Geometric(0.02, 6.0), Torus(2)),
            "turn": Brownian(Geometric(0.02, 4.0), SO3()),
        }
    )
    atoms, regular = Layout.ragged([2, 3, 2, 3]), Layout.regular(4)
    place = 1.5 * torch.randn(10, 2, generator=source)
    leaves = {
        "atoms": place - atoms.spread(atoms.mean(place)),
        "first": torch.tensor([0, 1, 2, 0]),
        "second": torch.tensor([1, 2, 0, 1]),
        "angles": 2 * math.pi * torch.rand(4, 2, generator=source) - math.pi,
        "turn": SO3().uniform(4, Generator(2), torch.float64, "cpu"),
    }
    data = Batch(leaves, {n: atoms if n == "atoms" else regular for n in leaves})
    return ExactDenoiser(process, data), data


@pytest.mark.parametrize("random", [Generator, Addressed, Counter], ids=lambda r: r.__name__)
@pytest.mark.parametrize("make", [DDIM, DDPM], ids=lambda m: m.__name__)
def test_products_ragged_rows_classes_manifolds_and_given_entries(make, random):
    denoiser, data = world()
    sampler = make(denoiser, UniformTime(24))
    blank = data.with_leaves(
        {n: torch.zeros_like(x) if n != "turn" else x for n, x in data.leaves.items()}
    ).with_given({"first": torch.tensor([True, False, False, True])})
    expected = sampler.sample(blank, random(7))
    drawn, calls = rounds(Picard(sampler, 12, tolerance=1e-9), blank, random(7))
    for name, x in expected.leaves.items():
        torch.testing.assert_close(drawn[name], x, rtol=0, atol=1e-6)
    assert calls < 24


def test_samples_do_not_depend_on_batch_mates():
    """Not even in how far they are from the sequential walk: the tolerance is coarse here."""
    denoiser, data = world()
    walk = Picard(DDPM(denoiser, UniformTime(12)), 6, tolerance=0.05)
    whole = walk.sample(data, Addressed(0))
    for i in range(4):
        alone = walk.sample(data.select([i]), Addressed(0))
        for name, x in alone.leaves.items():
            rows = data.layouts[name].rows_of(torch.tensor([i]))
            torch.testing.assert_close(whole[name][rows], x, rtol=1e-10, atol=1e-10)


def test_a_sample_that_agrees_earlier_is_left_alone():
    """Batch mates that need more sweeps do not improve it: a coarse tolerance would show."""
    walk = Picard(DDIM(Counted(), UniformTime(32)), 32, tolerance=0.1)
    batch = Batch.of(torch.zeros(8))
    whole, calls = rounds(walk, batch, Addressed(0))
    alone = [rounds(walk, batch.select([i]), Addressed(0)) for i in range(8)]
    torch.testing.assert_close(
        whole["x"], torch.cat([x["x"] for x, _ in alone]), rtol=1e-12, atol=1e-12
    )
    assert min(own for _, own in alone) < max(own for _, own in alone) == calls


def test_rows_of_different_times_are_walked_too():
    atoms = Layout.ragged([3, 2])
    process = Product({"x": Categorical(Flow(), absorbing(3))})
    data = Batch({"x": torch.tensor([0, 1, 2, 1, 1])}, {"x": atoms})
    sampler = Staggered(ExactDenoiser(process, data), UniformTime(8), lag=0.5)
    expected = sampler.sample(data, Generator(2))["x"]
    assert torch.equal(Picard(sampler, 4).sample(data, Generator(2))["x"], expected)


def test_a_window_of_one_and_a_last_one_that_is_shorter():
    sampler, batch = DDIM(Counted(), UniformTime(7)), Batch.of(torch.zeros(3))
    expected = sampler.sample(batch, Generator(0))["x"]
    assert Picard(sampler, 3).steps == 3
    for window in (1, 3, 50):
        drawn = Picard(sampler, window, tolerance=0.0).sample(batch, Generator(0))["x"]
        torch.testing.assert_close(drawn, expected, rtol=1e-12, atol=1e-12)


def test_refusals():
    denoiser, grid = Counted(), UniformTime(4)
    with pytest.raises(ValueError, match="window must be at least 1 step, got 0"):
        Picard(DDIM(denoiser, grid), 0)
    with pytest.raises(ValueError, match=r"tolerance must be in \[0, 1\), got -0.1"):
        Picard(DDIM(denoiser, grid), tolerance=-0.1)
    for sampler in (Heun(denoiser, grid), Multistep(denoiser, grid)):
        with pytest.raises(ValueError, match="must use the present estimate alone"):
            Picard(sampler)
