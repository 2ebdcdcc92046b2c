"""The gap of bounds and that of the prior."""

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
    Layout,
    Linear,
    Product,
    UniformLogSNR,
    bound,
    continuous_bound,
    flow_log_prob,
    uniform,
)
from structdiff.likelihood import implicit_bound, terminal_divergence, variational_gap
from structdiff.objectives import UniformClock
from structdiff.schedules import ZeroTerminal
from structdiff.spaces import Torus
from structdiff.testing import NormalDenoiser

MEAN = torch.tensor([[-1.0], [1.5]]).double()
STD = torch.tensor([0.4, 0.6]).double()


def mixture(schedule) -> NormalDenoiser:
    return NormalDenoiser(Gaussian(schedule, event=(1,)), MEAN, STD, torch.tensor([0.3, 0.7]))


def drawn(n: int, seed: int = 0) -> Batch:
    random = Generator(seed)
    which = (random.uniform((n,), torch.float64, "cpu") < 0.7).long()
    z = random.normal((n, 1), torch.float64, "cpu")
    return Batch.of(MEAN[which] + STD[which, None] * z)


def test_an_exact_denoiser_has_no_gap_but_that_of_the_steps() -> None:
    schedule, data = Linear(), drawn(1500)
    denoiser = mixture(schedule)
    density = flow_log_prob(denoiser, data.select(range(300)), start=1e-4, tolerance=1e-5)
    few = data.select(range(300))
    coarse, fine = (
        variational_gap(
            density, bound(denoiser, few, UniformLogSNR(schedule, n), Generator(1), draws=6)
        )
        for n in (12, 120)
    )
    assert coarse.mean > 5 * coarse.error > 0
    assert -3 * fine.error < fine.mean < 0.3 * coarse.mean
    times = UniformClock(schedule, 1e-4, 1.0)
    limit = variational_gap(
        density, continuous_bound(denoiser, few, Generator(2), draws=200, times=times)
    )
    assert abs(limit.mean) < 4 * limit.error + 2e-3
    assert limit.error < 0.05


def test_both_forms_of_the_bound_agree_and_the_exact_score_reaches_the_density() -> None:
    schedule, few = Linear(), drawn(200)
    denoiser, times = mixture(schedule), UniformClock(Linear(), 1e-3, 1.0)
    density = flow_log_prob(denoiser, few, start=1e-3, tolerance=1e-5)
    implicit = implicit_bound(denoiser, few, Generator(2), draws=80, times=times)
    gap = variational_gap(density, implicit)
    assert abs(gap.mean) < 4 * gap.error
    assert gap.error < 0.08


def test_reports_of_other_batches_are_refused() -> None:
    denoiser = mixture(Linear())
    density = flow_log_prob(denoiser, drawn(3), start=1e-2, tolerance=1e-3)
    other = continuous_bound(denoiser, drawn(4), Generator(0))
    with pytest.raises(ValueError, match="density is of 3 samples, bound of 4"):
        variational_gap(density, other)


@pytest.mark.parametrize("schedule", [Linear(0.1, 4.0), Geometric(0.01, 3.0)])
def test_the_terminal_divergence_of_normal_data_is_the_closed_form(schedule) -> None:
    random = Generator(4)
    mean, std, n = 1.0, 0.7, 600
    z = random.normal((n,), torch.float64, "cpu")
    x = mean + std * (z - z.mean()) / z.std(correction=0)
    process = Product({"x": Gaussian(schedule)})
    found = terminal_divergence(process, Batch.of(x), Generator(5), draws=3)
    level = schedule(torch.ones(()).double())
    variance = (level.alpha * std) ** 2 + level.sigma**2
    ratio = float(variance / level.sigma**2)
    shift = float((level.alpha * mean / level.sigma) ** 2)
    exact = 0.5 * (ratio - 1 - math.log(ratio) + shift)
    assert found.total == pytest.approx(exact, abs=5 * found.error + 0.01 * exact)
    expected = 0.5 * float((level.alpha / level.sigma) ** 2) * (mean**2 + std**2)
    assert found.leaves["x"] == pytest.approx(expected)
    assert found.total < found.leaves["x"]
    assert "nats a sample at t = 1" in str(found)


def test_it_falls_to_zero_where_no_signal_is_left_and_warns_where_much_is() -> None:
    data = Batch.of(torch.tensor([-1.0, 1.0]).double())
    process = Product({"x": Gaussian(ZeroTerminal(Linear()))})
    assert terminal_divergence(process, data, Generator(0)).total == pytest.approx(0, abs=1e-12)
    early = Product({"x": Gaussian(Linear())})
    with pytest.warns(UserWarning, match="use a noisier schedule"):
        terminal_divergence(early, data, Generator(0), t=0.3, warn_above=0.01)


def test_it_is_that_of_the_whole_record_in_every_space() -> None:
    process = Product(
        {"c": Categorical(Flow(), uniform(3)), "a": Brownian(Geometric(0.1, 1.0), Torus(1))}
    )
    layouts = {"c": Layout.ragged([1, 2, 2]), "a": Layout.regular(3)}
    leaves = {"c": torch.tensor([0, 1, 2, 2, 1]), "a": torch.tensor([[0.1], [2.0], [-2.0]])}
    data = Batch({**leaves, "a": leaves["a"].double()}, layouts)
    found = terminal_divergence(process, data, Generator(0), t=0.6, draws=1500)
    assert found.total <= sum(found.leaves.values()) + 4 * found.error
    assert found.total > 10 * found.error
    # By enumeration for the leaf of classes alone: a mixture of two records of two rows.
    alone = Product({"c": Categorical(Flow(), uniform(3))})
    pair = Batch({"c": leaves["c"][1:]}, {"c": Layout.ragged([2, 2])})
    q = torch.tensor([[0.4 if k == x else 0.0 for k in range(3)] for x in (1, 2, 2, 1)]) + 0.2
    joint = 0.5 * (q[0][:, None] * q[1] + q[2][:, None] * q[3])
    exact = float((joint * torch.log(joint * 9)).sum())
    found = terminal_divergence(alone, pair, Generator(0), t=0.6, draws=1500)
    assert found.total == pytest.approx(exact, abs=5 * found.error)
    # Beside a record of one row, of which there is no other: each size has a law of its own.
    trio = Batch({"c": leaves["c"]}, {"c": layouts["c"]})
    point = torch.tensor([0.6, 0.2, 0.2])
    exact = (2 * exact + float((point * torch.log(point * 3)).sum())) / 3
    found = terminal_divergence(alone, trio, Generator(0), t=0.6, draws=500)
    assert found.total == pytest.approx(exact, abs=5 * found.error)


def test_refusals() -> None:
    from structdiff import GeodesicFlow

    data = Batch.of(torch.zeros(2, 1))
    with pytest.raises(ValueError, match="is not Tractable"):
        terminal_divergence(Product({"x": GeodesicFlow(Torus(1))}), data, Generator(0))
    process = Product({"x": Gaussian(Linear(), event=(1,))})
    with pytest.raises(ValueError, match="draws must be at least 1"):
        terminal_divergence(process, data, Generator(0), draws=0)
    with pytest.raises(ValueError, match=r"given entries in \['x'\]"):
        held = data.with_given({"x": torch.tensor([True, False])})
        terminal_divergence(process, held, Generator(0))
