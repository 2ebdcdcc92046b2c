"""Schedules with noise levels by entry, alone and in a Gaussian process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.distributions import Normal

from structdiff import (
    Batch,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Multistep,
    absorbing,
    bound,
)
from structdiff.denoiser import Denoiser
from structdiff.likelihood import flow_log_prob
from structdiff.processes import Estimate
from structdiff.processes.affine import Affine
from structdiff.processes.covariance_bases import CosineBasis, HaarBasis
from structdiff.samplers import DDIM, Ancestral, Heun
from structdiff.schedules import CLEAN, Schedule, Standard, UniformLogSNR, UniformTime
from structdiff.schedules.by_entry import Blurring, Dropped, Speeds
from structdiff.testing import check_process
from tests.schedules.by_entry import SPECTRUM, Exact, close, ends

TIMES = torch.linspace(0, 1, 21, dtype=torch.float64)
SPEEDS = torch.tensor([0.25, 1.0, 3.0], dtype=torch.float64)


def test_each_entry_has_the_marginal_of_its_own_diffusion() -> None:
    """alpha_i and sigma_i of dx = -speed_i beta x / 2 dt + sqrt(speed_i beta) dw, closed form."""
    schedule = Speeds(Linear(), SPEEDS)
    level = schedule(schedule.spread(TIMES))
    total = (0.1 * TIMES + 0.5 * 19.9 * TIMES**2)[:, None] * SPEEDS
    close(level.alpha, torch.exp(-0.5 * total))
    close(level.sigma**2, -torch.expm1(-total))
    close(level.clock, torch.log(level.alpha / level.sigma))
    process = Gaussian(schedule, event=(3,)).bind(Batch.of(torch.zeros(2, 3).double()))
    x_0, x_t = torch.tensor([[1.0, -1.0, 2.0]] * 2).double(), torch.full((2, 3), 0.5).double()
    by_row = torch.tensor([0.3, 0.8], dtype=torch.float64)
    by_entry = torch.tensor([[0.3, 0.1, 0.5], [0.2, 0.9, 0.4]], dtype=torch.float64)
    for t, wide in (
        (by_row[0], by_row[0].expand(2, 3)),
        (by_row, by_row[:, None].expand(2, 3)),
        (by_entry, by_entry),
    ):
        total = (0.1 * wide + 0.5 * 19.9 * wide**2) * SPEEDS
        law = Normal(torch.exp(-0.5 * total) * x_0, (-torch.expm1(-total)).sqrt())
        close(process.log_prob(x_t, x_0, t), law.log_prob(x_t).sum(1))


@pytest.mark.parametrize(
    "schedule",
    [
        Speeds(Linear(), SPEEDS),
        Blurring(Cosine(), torch.tensor([0.0, 1.0, 4.0]), width=2.0, floor=0.1),
        Blurring(Geometric(), torch.tensor([0.0, 1.0, 4.0]), width=2.0),
        Standard(Blurring(Geometric(), torch.tensor([0.0, 1.0, 4.0]), width=2.0)),
        Dropped(Flow(), torch.tensor([1.0, 0.3, 0.75])),
    ],
    ids=["speeds", "blurring", "heat", "standard heat", "dropped"],
)
def test_slopes_are_those_of_each_entry(schedule: Schedule) -> None:
    """-d clock / dt and d log alpha / dt against differences, and the clock falls."""
    times, h = torch.tensor([0.1, 0.25, 0.6, 0.9], dtype=torch.float64), 1e-6
    level = schedule(schedule.spread(TIMES))
    assert bool((level.clock[1:] <= level.clock[:-1]).all())
    after, before = (schedule(schedule.spread(times + d)) for d in (h, -h))
    slope = (before.clock - after.clock) / (2 * h)
    decay = (after.alpha.log() - before.alpha.log()) / (2 * h)
    gone = ~torch.isfinite(level.clock[[2, 5, 12, 18]])
    close(schedule.slope(schedule.spread(times)), torch.where(gone, 0.0, slope), 1e-6)
    alive = torch.isfinite(decay)
    close(schedule.decay(schedule.spread(times))[alive], decay[alive], 1e-6)
    clean = schedule(schedule.spread(torch.tensor(CLEAN)))
    assert clean.alpha.tolist() == [1.0] * 3
    assert clean.sigma.tolist() == [0.0] * 3


@pytest.mark.parametrize(
    "even",
    [
        lambda s: Speeds(s, torch.ones(2, 2)),
        lambda s: Blurring(s, torch.zeros(2, 2), width=5.0),
        lambda s: Blurring(s, torch.ones(2, 2), width=0.0),
        lambda s: Dropped(s, torch.ones(2, 2)),
    ],
)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_equal_entries_are_the_plain_process(
    even: Callable[[Schedule], Schedule], eta: float
) -> None:
    """C_t = alpha_t I: the same steps, losses and samples, under one noise."""
    process = Gaussian(even(Cosine()), event=(2, 2))
    mean, std = torch.full((2, 2), 0.3).double(), torch.full((2, 2), 0.5).double()
    walks = [
        Multistep(Exact(p, mean, std, tells=False), UniformTime(6), order=2, eta=eta)
        for p in (process, Gaussian(Cosine(), event=(2, 2)))
    ]
    batch = Batch.of(torch.zeros(3, 2, 2, dtype=torch.float64))
    a, b = (walk.sample(batch, Generator(0))["x"] for walk in walks)
    close(a, b, 1e-12)


def test_blurring_leaves_its_floor() -> None:
    """d = f + (1 - f) e^{-rate w^2 / 2}, w = width sin^2(pi t / 2), beside the plain sigma."""
    rates, t = torch.tensor([0.0, 0.5, 900.0]).double(), torch.tensor([0.5], dtype=torch.float64)
    level = Blurring(Cosine(), rates, width=2.0, floor=0.1)(t)
    fading = 0.1 + 0.9 * torch.exp(-0.5 * rates * 1.0**2)
    close(level.alpha, Cosine().alpha(t) * fading)
    close(level.sigma, Cosine().sigma(t).expand(3))


def test_the_soft_loss_of_even_entries_is_the_plain_one() -> None:
    """|C_t (h - x_0)|^2 with C_t = alpha_t I is alpha_t^2 times the loss; else it is not."""
    x_0, h = (Generator(i).normal((1, 4), torch.float64, "cpu") for i in range(2))
    t = torch.tensor(0.4, dtype=torch.float64)
    for rates, same in ((torch.zeros(4), True), (torch.arange(4.0), False)):
        process = Affine(
            Gaussian(Blurring(Cosine(), rates, width=2.0), event=(4,)), CosineBasis()
        ).bind(Batch.of(x_0))
        fade = jacobian(lambda y, p=process: p.diffuse(y, t, Generator(0)), x_0).reshape(4, 4)
        soft = (fade @ (h - x_0)[0]).square().sum()
        plain = Cosine().alpha(t) ** 2 * process.loss(Estimate(h), x_0, x_0, t)[0]
        assert torch.allclose(soft, plain, rtol=1e-9) is same


def test_blurring_is_the_heat_equation_and_noise() -> None:
    """C_t = alpha_t V e^{-lambda tau} V^T of the insulated rod, by its dense eigenvectors."""
    size, width, t = 6, 1.5, 0.4
    basis = CosineBasis()
    schedule = Blurring(Cosine(), basis.frequencies((size,)), width=width)
    x = torch.zeros(1, size, dtype=torch.float64)
    process = Affine(Gaussian(schedule, event=(size,)), basis).bind(Batch.of(x))

    class Still(Generator):
        def normal(self, shape: Any, dtype: torch.dtype, device: Any) -> Tensor:
            return 0 * super().normal(shape, dtype, device)

    fade = jacobian(lambda y: process.diffuse(y, torch.tensor(t), Still(0)), x).reshape(size, size)
    place, k = torch.arange(size).double(), torch.arange(size).double()[:, None]
    modes = torch.cos(math.pi * k * (place + 0.5) / size)
    modes = modes / modes.norm(dim=1, keepdim=True)
    tau = 0.5 * (width * math.sin(0.5 * math.pi * t) ** 2) ** 2
    decay = torch.exp(-((math.pi * k[:, 0] / size) ** 2) * tau)
    alpha = Cosine().alpha(torch.tensor(t))
    close(fade, alpha * modes.mT @ torch.diag(decay) @ modes, 1e-6)
    rows = fade.sum(1)
    close(rows, alpha.expand(size), 1e-6)  # blurring keeps the mean


@pytest.mark.parametrize(
    "walk",
    [
        lambda d: DDIM(d, UniformLogSNR(Cosine(), 400)),
        lambda d: Heun(d, UniformLogSNR(Cosine(), 80)),
        lambda d: Ancestral(d, UniformLogSNR(Cosine(), 50), eta=1.0),
    ],
    ids=["deterministic", "second order", "told its variance"],
)
def test_soft_corruption_of_normal_data_returns_their_covariance(
    walk: Callable[[Denoiser], Any],
) -> None:
    """With the exact denoiser, within 3 % in every frequency."""
    rates = CosineBasis().frequencies((8,))
    process = Gaussian(Blurring(Cosine(), rates, width=1.0, floor=0.05), event=(8,))
    mean = torch.linspace(-1, 1, 8, dtype=torch.float64)
    found, variance = ends(walk(Exact(process, mean, SPECTRUM, tells=True)), (8,))
    assert float((variance / SPECTRUM**2 - 1).abs().max()) < 0.03
    close(found, mean, 1e-6)


def test_orders_hold_on_levels_by_entry() -> None:
    """The second order of the multistep walk, whose weights are of the clock of reference."""
    process = Gaussian(Blurring(Linear(), torch.tensor([0.0, 0.5, 2.0]), width=1.0), event=(3,))
    mean, std = torch.zeros(3).double(), torch.tensor([1.5, 0.7, 0.3]).double()
    start = torch.ones(1, 3, dtype=torch.float64)
    end = 0.05

    def error(steps: int, order: int) -> float:
        denoiser = Exact(process, mean, std, tells=False)
        walk = Multistep(denoiser, UniformLogSNR(Linear(), steps + 1, end=end), order=order)
        bound_walk = walk.bind(Batch.of(start), Generator(0))
        carry = bound_walk.start()
        x = {"x": start}
        carry = type(carry)(x)
        for i in range(steps):
            carry = bound_walk.step(carry, i)
        first, last = (process.schedule(process.schedule.spread(walk.times[[i]])) for i in (0, -2))
        scale = torch.sqrt(
            (last.alpha**2 * std**2 + last.sigma**2) / (first.alpha**2 * std**2 + first.sigma**2)
        )
        return float((carry.x["x"] - scale * start).abs().max())

    for order in (1, 2):
        measured = math.log2(error(64, order) / error(128, order))
        assert measured > order - 0.2


def test_likelihoods_on_levels_by_entry() -> None:
    """The flow gives the density of normal data; a bound told its variance is tight."""
    process = Gaussian(Blurring(Cosine(), torch.tensor([0.0, 1.0, 3.0]), width=1.0), event=(3,))
    mean, std = torch.tensor([0.5, 0.0, -0.5]).double(), torch.tensor([1.2, 0.6, 0.8]).double()
    denoiser = Exact(process, mean, std, tells=True)
    x = mean + std * torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    truth = Normal(mean, std).log_prob(x).sum(1)
    exact = flow_log_prob(denoiser, Batch.of(x), tolerance=1e-6).total
    torch.testing.assert_close(exact, truth, rtol=1e-3, atol=5e-3)
    many = x.repeat(400, 1)
    terms = bound(denoiser, Batch.of(many), UniformLogSNR(Cosine(), 50, end=0.01), Generator(0))
    above = (terms.total.reshape(400, 6) + truth).mean()
    error = 4 * float(terms.total.reshape(400, 6).mean(1).std()) / 20
    assert error < 0.2
    assert -error < float(above) < error + 0.02


def test_laws_by_sampling() -> None:
    """All laws of `check_process`, in wavelets, each with its own speed."""
    basis = HaarBasis(1)
    process = Affine(Gaussian(Speeds(Cosine(), SPEEDS[[0, 2]]), event=(2,)), basis)
    x = torch.tensor([[-1.0, 0.0], [2.0, 1.0], [0.0, 0.5]])
    check_process(process, Batch({"x": x}, {"x": Layout.regular(3)}), draws=6000)


def test_bad_arguments_are_refused() -> None:
    speeds = torch.ones(2)
    with pytest.raises(ValueError, match="speeds must be positive, got 0.0"):
        Speeds(Cosine(), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="wrap it in Standard first"):
        Speeds(Flow(), speeds)
    with pytest.raises(ValueError, match="rates must be at least 0, got -1.0"):
        Blurring(Cosine(), torch.tensor([1.0, -1.0]), width=1.0)
    with pytest.raises(ValueError, match=r"width must be at least 0 and floor in \[0, 1\)"):
        Blurring(Cosine(), speeds, width=1.0, floor=1.0)
    with pytest.raises(ValueError, match="ends must be positive, got 0.0"):
        Dropped(Cosine(), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="must have one level, but Speeds has levels by entry"):
        Dropped(Speeds(Cosine(), speeds), speeds)
    with pytest.raises(ValueError, match=r"levels by entry \(2,\), but Gaussian takes \(3,\)"):
        Gaussian(Speeds(Cosine(), speeds), event=(3,))
    with pytest.raises(ValueError, match=r"levels by entry \(2,\), but Categorical takes \(\)"):
        Categorical(Dropped(Flow(), speeds), absorbing(3), event=(2,))
