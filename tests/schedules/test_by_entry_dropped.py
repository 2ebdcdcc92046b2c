"""Entries that leave the process early, alone and in a Gaussian process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from structdiff import (
    Batch,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Linear,
    absorbing,
    bound,
)
from structdiff.denoiser import Denoiser
from structdiff.processes.affine import Affine
from structdiff.processes.covariance_bases import HaarBasis
from structdiff.samplers import DDIM, Ancestral
from structdiff.schedules import CLEAN, Schedule, UniformLogSNR
from structdiff.schedules.by_entry import Dropped
from structdiff.testing.noise import Impulses
from tests.schedules.by_entry import SPECTRUM, Exact, close, ends


def leaving(share: float) -> Tensor:
    """When each entry's signal is this share of the noise's variance."""
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    level = Linear()(t)
    small = (level.alpha[:, None] * SPECTRUM) ** 2 < share * level.sigma[:, None] ** 2
    return t[small.to(torch.uint8).argmax(0)]


def test_dropped_entries_cost_nothing_and_return() -> None:
    """Normal data of decaying spectrum: variances within 3 %, with 0.6 of the work of full walks.

    Each entry leaves where its signal is a hundredth of the noise's variance; the walk back draws
    it anew. Deterministic walks are compared with the full one, stochastic ones with the truth.
    """
    dropped, zero = Dropped(Linear(), leaving(0.01)), torch.zeros(8, dtype=torch.float64)
    times = UniformLogSNR(Linear(), 200)
    assert int(dropped.alive(times.times()[:-1]).sum()) < 0.6 * 200 * 8

    def variance(schedule: Schedule, walk: Callable[[Denoiser], Any]) -> Tensor:
        process = Gaussian(schedule, event=(8,))
        return ends(walk(Exact(process, zero, SPECTRUM, tells=True)), (8,))[1]

    full, part = (variance(s, lambda d: DDIM(d, times)) for s in (Linear(), dropped))
    assert float((part / full - 1).abs().max()) < 0.03
    assert not torch.equal(part, full)
    part = variance(dropped, lambda d: Ancestral(d, times, eta=1.0))
    assert float((part / SPECTRUM**2 - 1).abs().max()) < 0.03
    early = variance(Dropped(Linear(), leaving(1.0)), lambda d: DDIM(d, times))
    assert float((early / full - 1).abs().max()) > 0.03  # leaving where data still matter


def test_what_is_attenuated_before_its_end_leaves_nothing_behind() -> None:
    """Half of its time an entry fades to zero in a line; those that stay do not."""
    ends_of = torch.tensor([1.0, 0.4], dtype=torch.float64)
    schedule = Dropped(Flow(), ends_of, fade=0.5)
    t = torch.tensor([[0.1], [0.2], [0.3], [0.399], [0.4], [0.7]], dtype=torch.float64)
    share = torch.tensor([1, 1, 0.5, 0.005, 0, 0], dtype=torch.float64)
    close(schedule.alpha(t), (1 - t) * torch.stack([torch.ones(6).double(), share], 1))
    close(schedule.sigma(t), t.expand(6, 2))
    times, h = torch.tensor([0.1, 0.25, 0.35], dtype=torch.float64)[:, None], 1e-6
    after, before = (schedule(times + d).clock for d in (h, -h))
    close(schedule.slope(schedule.spread(times[:, 0])), (before - after) / (2 * h), 1e-6)


def test_attenuated_entries_may_leave_where_their_signal_still_matters() -> None:
    """Normal data within 3 % of a full walk, with half of the work and an earlier end."""
    zero, times = torch.zeros(8, dtype=torch.float64), UniformLogSNR(Linear(), 200)

    def variance(schedule: Schedule) -> Tensor:
        process = Gaussian(schedule, event=(8,))
        return ends(DDIM(Exact(process, zero, SPECTRUM, tells=True), times), (8,))[1]

    full, faded, jumped = (
        variance(s)
        for s in (
            Linear(),
            Dropped(Linear(), leaving(0.1), fade=1.0),
            Dropped(Linear(), leaving(0.1)),
        )
    )
    assert float((faded / full - 1).abs().max()) < 0.03
    assert float((jumped / full - 1).abs().max()) > 0.06


def test_noise_after_the_end_keeps_the_schedules_deviation() -> None:
    """From a time after an entry's end to a later one; an entry that stays is as ever."""
    process = Gaussian(Dropped(Flow(), torch.tensor([1.0, 0.4])), event=(2,))
    leaf = process.bind(Batch.of(torch.zeros(2, 2).double()))
    times = torch.tensor([0.5, 0.9]).double()
    level = process.schedule(times[:, None])
    x_s = torch.tensor([0.3, -0.7]).double().expand(2, 2)
    moved = leaf.corrupt(x_s, *times, Impulses())
    kept, fresh = moved[0] / x_s[0], moved[1] - moved[0]
    close(kept**2 * level.sigma[0] ** 2 + fresh**2, level.sigma[1] ** 2)
    close(kept[0], (level.alpha[1] / level.alpha[0])[0])
    assert torch.equal(leaf.corrupt(x_s, times[0], times[0], Impulses()), x_s)


def test_a_pyramid_of_resolutions() -> None:
    """In wavelets only the means over blocks are left late."""
    basis = HaarBasis(2, (0, 1))
    ends_of = torch.tensor([0.3, 0.6, 1.0])[basis.depth((4, 4))]
    process = Affine(Gaussian(Dropped(Flow(), ends_of), event=(4, 4)), basis)
    assert process.schedule.alive(torch.tensor([0.2, 0.5, 0.9])).tolist() == [16, 4, 1]
    x_0 = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bound_process = process.bind(Batch.of(x_0))

    class Still(Generator):
        def normal(self, shape: Any, dtype: torch.dtype, device: Any) -> Tensor:
            return 0 * super().normal(shape, dtype, device)

    x_t = bound_process.diffuse(x_0, torch.tensor(0.5), Still(0))
    blocks = x_0.unflatten(1, (2, 2)).unflatten(3, (2, 2)).mean((2, 4))
    close(x_t, 0.5 * blocks.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_the_bound_knows_of_dropped_entries() -> None:
    """Told its variance it is tight, up to the entry that comes back as noise alone."""
    process = Gaussian(Dropped(Cosine(), torch.tensor([1.0, 0.4])), event=(2,))
    mean, std = torch.zeros(2).double(), torch.tensor([1.0, 0.2]).double()
    denoiser = Exact(process, mean, std, tells=True)
    x = (std * torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()).repeat(
        200, 1
    )
    terms = bound(denoiser, Batch.of(x), UniformLogSNR(Cosine(), 40, end=0.005), Generator(0))
    above = (terms.total + Normal(mean, std).log_prob(x).sum(1)).reshape(200, 5).mean(1)
    error = 4 * float(above.std()) / math.sqrt(200)
    assert error < 0.3
    assert -error < float(above.mean()) < error + 0.02


def test_frozen_steps_are_chosen_by_entry() -> None:
    """Euler-Maruyama where the generator is finite, the exact step where it is not."""
    process = Gaussian(Dropped(Linear(), torch.tensor([1.0, 0.3])), event=(2,))
    bound_process = process.bind(Batch.of(torch.zeros(1, 2, dtype=torch.float64)))
    times = torch.tensor([0.5, 0.4, CLEAN], dtype=torch.float64)
    leaps, exact = bound_process.leap(times), bound_process.plan(times, 1.0)
    beta, level = 0.1 + 19.9 * 0.5, Linear()(times[0])
    own = [
        1 + 0.05 * beta - 0.1 * beta / level.sigma**2,
        0.1 * beta * level.alpha / level.sigma**2,
        math.sqrt(0.1 * beta),
    ]
    for name, value in zip(("keep", "data", "noise"), own, strict=True):
        leap, plan = (getattr(step, name).flatten() for step in (leaps[0], exact[0]))
        close(leap[0], torch.as_tensor(value, dtype=torch.float64))
        close(leap[1], plan[1])
        close(getattr(leaps[1], name), getattr(exact[1], name))


def test_masking_entries_has_the_statistics_of_an_absorbing_chain() -> None:
    """Entries at time CLEAN or 1: kept with probability alpha_t, and once gone they stay gone."""
    samples, size = 4000, 3
    x = torch.ones(samples, size, dtype=torch.float64)
    masked = Gaussian(Flow(), event=(size,)).bind(Batch.of(x))
    chain = Categorical(Flow(), absorbing(2), event=(size,)).bind(
        Batch.of(torch.ones(samples, size, dtype=torch.long))
    )
    u = Generator(0).uniform((samples, size), torch.float64, "cpu")
    counts, symbols = [], torch.ones(samples, size, dtype=torch.long)
    last = torch.tensor(CLEAN)
    random = Generator(1)
    for t in torch.tensor([0.3, 0.6, 0.9]):
        keep = Flow().alpha(t)
        times = torch.where(u < keep, CLEAN, 1.0)  # C_t as a diagonal of zeros and ones
        level = masked.level(times, x)
        assert torch.equal(level.alpha, (u < keep).double())
        symbols = chain.corrupt(symbols, last, t, random)
        last = t
        pair = [(u < keep).sum(1), (symbols != 2).sum(1)]
        counts.append([torch.bincount(c, minlength=size + 1) / samples for c in pair])
    for ours, theirs in counts:
        assert float((ours - theirs).abs().max()) < 4 * math.sqrt(2 * 0.25 / samples)
