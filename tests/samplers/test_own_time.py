"""The time that a sample seems to be of: nothing changes without errors, less bias with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Cosine,
    Gaussian,
    Generator,
    Geometric,
    Heun,
    Layout,
    Linear,
    Multistep,
    Product,
    UniformLogSNR,
    UniformTime,
)
from structdiff.samplers.own_time import MatchedVariance, OwnTime, sample_variance
from structdiff.schedules.by_entry import Speeds
from structdiff.testing import ExactDenoiser, NormalDenoiser

SCHEDULE = Geometric(0.01, 100.0)
ENTRIES, SPREAD = 4000, 0.5


def exact(schedule=SCHEDULE, entries=ENTRIES):
    process = Gaussian(schedule, event=(entries,))
    return NormalDenoiser(process, torch.zeros(1, entries), torch.tensor([SPREAD]))


class Noted:
    """Another reader; notes how far it moves the times."""

    def __init__(self, reader):
        self.reader, self.moves = reader, []

    def __call__(self, batch, t):
        read = self.reader(batch, t)
        self.moves.append(float((read["x"] - t["x"]).abs().max()))
        return read


def reader(until=0.55):
    return MatchedVariance("x", SCHEDULE, SPREAD, width=0.1, candidates=10, until=until)


@pytest.mark.parametrize("make", [DDIM, DDPM, Heun, Multistep], ids=lambda m: m.__name__)
def test_with_the_exact_score_no_time_is_shifted(make):
    noted, batch = Noted(reader()), Batch.of(torch.zeros(6, ENTRIES))
    grid = UniformLogSNR(SCHEDULE, 120, end=0.0)
    drawn = make(OwnTime(exact(), noted), grid).sample(batch, Generator(0))["x"]
    assert noted.moves and max(noted.moves) < 1e-6
    torch.testing.assert_close(drawn, make(exact(), grid).sample(batch, Generator(0))["x"])


def biased(denoiser, schedule, steps=100, entries=ENTRIES):
    """The deviation of the samples when a step in the middle makes its state too wide by 15 %."""
    grid = UniformTime(steps)
    bound = DDIM(denoiser, grid).bind(Batch.of(torch.zeros(6, entries)), Generator(0))
    carry = bound.start()
    for i in range(steps):
        carry = bound.step(carry, i)
        if i == steps // 4:
            carry.x["x"].mul_(1.15)
    return float(carry.x["x"].std())


def test_a_variance_that_is_wrong_on_the_way_is_made_good():
    plain = biased(exact(), SCHEDULE) - SPREAD
    shifted = biased(OwnTime(exact(), reader(0.3)), SCHEDULE) - SPREAD
    assert plain > 0.06
    assert abs(shifted) < 0.2 * plain


class Learned(nn.Module):
    """A network that reads alpha from statistics of x_t."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1)
        )

    def forward(self, x):
        seen = torch.stack([x.mean(1).abs(), x.var(1)], 1)
        return self.layers(seen).squeeze(1).sigmoid()


def test_a_learned_estimate_of_the_level_can_adjust_any_sampler():
    """The network reads sqrt(alpha-bar) to 0.05 and is a reader like any other."""
    torch.manual_seed(0)
    schedule, n = Cosine(), 256
    source = torch.Generator().manual_seed(0)

    def noisy(samples):
        """Flat pictures, black or white, at random times."""
        level = schedule(torch.rand(samples, generator=source))
        sign = torch.randint(0, 2, (samples, 1), generator=source) * 2 - 1
        z = torch.randn(samples, n, generator=source)
        alpha, sigma = level.alpha.float()[:, None], level.sigma.float()[:, None]
        return alpha * sign + sigma * z, alpha.squeeze(1)

    network = Learned()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(250):
        x, alpha = noisy(256)
        loss = (network(x) - alpha).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.requires_grad_(False)
    held_out, alpha = noisy(2000)
    assert float((network(held_out) - alpha).abs().mean()) < 0.05

    def read(batch, t):
        alpha = network(batch["x"]).double().clamp(1e-3, 1 - 1e-5)
        clock = alpha.log() - 0.5 * torch.log1p(-(alpha**2))
        return {"x": schedule.time(clock)}

    flat = torch.ones(2, n) * torch.tensor([[1.0], [-1.0]])
    pictures = ExactDenoiser(Product({"x": Gaussian(schedule, event=(n,))}), Batch.of(flat))
    for make in (DDIM, DDPM, Heun, Multistep):
        sampler = make(OwnTime(pictures, read), UniformTime(12))
        drawn = sampler.sample(Batch.of(torch.zeros(20, n)), Generator(0))["x"]
        assert float((drawn.abs() - 1).abs().max()) < 1e-3


def test_given_entries_ragged_rows_and_other_leaves():
    """Clean entries stay clean; each sample has one time; leaves that are not read keep theirs."""
    seen = {}

    class Looking(ExactDenoiser):
        def forward(self, batch, t, previous=None):
            seen.update(t)
            return super().forward(batch, t, previous)

    schedule = Geometric(0.01, 100.0)
    process = Product({"x": Gaussian(schedule, event=(2,)), "y": Gaussian(schedule)})
    layouts = {"x": Layout.ragged([1, 3]), "y": Layout.regular(2)}
    x = torch.tensor([[1.0, -1.0], [8.0, -8.0], [8.0, -8.0], [30.0, 50.0]])
    data = Batch({"x": x, "y": torch.zeros(2)}, layouts)
    held = torch.tensor([False, False, False, True])
    batch = data.with_given({"x": held})
    times = process.bind(batch).times(torch.tensor(0.6, dtype=torch.float64))
    own = OwnTime(
        Looking(process, data), MatchedVariance("x", schedule, 1.0, width=0.2, candidates=100)
    )
    own(batch, times)
    # sigma^2 of the first is nearest at the lower end; 1 + sigma^2 = 64 for the second.
    expected = float(schedule.time(-torch.tensor(63.0).sqrt().log()))
    assert seen["x"].tolist() == pytest.approx([0.4, expected, expected, -1.0], abs=2e-3)
    assert seen["y"] is times["y"]
    torch.testing.assert_close(
        sample_variance(x, layouts["x"], ~held[:, None]),
        torch.stack([x[:1].double().var(correction=0), x[1:3].double().var(correction=0)]),
    )


@pytest.mark.parametrize("schedule", [Cosine(), Linear()], ids=lambda s: type(s).__name__)
def test_a_variance_that_does_not_change_moves_no_time(schedule):
    """Data of variance one under alpha^2 + sigma^2 = 1, to rounding."""
    read = MatchedVariance("x", schedule, 1.0, width=0.1)
    noisy = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(0.5, dtype=torch.float64)
    assert read(Batch.of(noisy), {"x": t})["x"].tolist() == [0.5] * 6


def test_times_outside_the_range_are_taken_at_its_ends():
    denoiser, batch = exact(Cosine(), 2), Batch.of(torch.ones(2, 2))
    t = {"x": torch.tensor(0.5)}
    read = torch.tensor([-0.3, 1.4])
    found = OwnTime(denoiser, lambda b, t: {"x": read})(batch, t)["x"].value
    ends = denoiser(batch, {"x": torch.tensor([0.0, 1.0])})["x"].value
    assert torch.equal(found, ends)
    for said in ({"x": torch.zeros(3)}, {"y": torch.zeros(2)}):
        with pytest.raises(ValueError, match=r"it must give one for each of 2 samples.*\['x'\]"):
            OwnTime(denoiser, lambda b, t, said=said: said)(batch, t)


def test_refusals():
    with pytest.raises(ValueError, match="deviation must be at least 0 and finite, got -1"):
        MatchedVariance("x", SCHEDULE, -1.0)
    with pytest.raises(ValueError, match=r"width must be in \(0, 1\] and candidates at least 1"):
        MatchedVariance("x", SCHEDULE, 1.0, width=0.0)
    with pytest.raises(ValueError, match=r"until must be in \[0, 1\], got 2"):
        MatchedVariance("x", SCHEDULE, 1.0, until=2.0)
    with pytest.raises(ValueError, match=r"Speeds has noise levels by entry \(2,\)"):
        MatchedVariance("x", Speeds(Linear(), torch.tensor([1.0, 2.0])), 1.0)
