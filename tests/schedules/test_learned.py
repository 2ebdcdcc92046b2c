"""A learned schedule: monotone whatever its weights, its inside learned by variance alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    Batch,
    Cosine,
    Gaussian,
    Generator,
    Linear,
    NetworkDenoiser,
    Product,
)
from structdiff.likelihood import continuous_bound
from structdiff.objectives import ContinuousBound, Objective, UniformTimes
from structdiff.objectives.learned_times import LearnedTimes
from structdiff.parameterisations import Velocity
from structdiff.schedules import Schedule, Standard
from structdiff.schedules.learned import LearnedClock
from structdiff.testing import NormalDenoiser

WHOLE = UniformTimes(0.0, 1.0)


def random_weights(seed: int, scale: float) -> LearnedClock:
    schedule = LearnedClock(6.65, -2.5, features=32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in schedule.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=generator).double())
    return schedule


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_the_clock_falls_for_any_weights(seed: int, scale: float) -> None:
    """Strictly on 10,000 points, between its ends, at which it is exact; in float32 too."""
    schedule = random_weights(seed, scale)
    t = torch.linspace(0, 1, 10_000, dtype=torch.float64)
    clock = schedule(t).clock.detach()
    assert bool((clock.diff() < 0).all())
    start, length = schedule.start.item(), schedule.length.exp().item()
    torch.testing.assert_close(clock[[0, -1]], torch.tensor([start, start - length]).double())
    assert bool((schedule.float()(t.float()).clock.diff() < 0).all())


def test_it_is_a_schedule_like_others() -> None:
    """Variance preserving, inverted by `time`; slope and gradients against finite differences."""
    schedule = random_weights(0, 0.5)
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    level = schedule(t)
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(50).double())
    torch.testing.assert_close(schedule.time(level.clock.detach()), t, rtol=0, atol=1e-12)
    after, before = schedule(t + 1e-6).clock, schedule(t - 1e-6).clock
    torch.testing.assert_close(schedule.slope(t), (before - after) / 2e-6, rtol=1e-5, atol=1e-6)
    weights = schedule.interior()[1]
    (gradient,) = torch.autograd.grad(schedule.slope(t).log().sum(), weights)
    moved = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            weights[3] += step
        moved.append(schedule.slope(t).log().sum().detach())
    assert float((moved[0] - moved[1]) / 2e-5) == pytest.approx(float(gradient[3]), rel=1e-4)


def test_ends_that_are_fixed_are_not_learned() -> None:
    names = {name for name, _ in LearnedClock(fixed_ends=True).named_parameters()}
    assert names == {"line", "slopes", "places", "heights"}
    fixed = LearnedClock(3.0, -3.0, fixed_ends=True)
    fixed.load_state_dict(LearnedClock(5.0, -2.0).state_dict())
    assert fixed(torch.tensor([0.0, 1.0])).clock.tolist() == pytest.approx([5.0, -2.0])


def normal(schedule: Schedule, std: float = 1.0) -> NormalDenoiser:
    return NormalDenoiser(
        Gaussian(schedule), torch.zeros(1).double(), torch.tensor([std]).double()
    )


def points(rows: int, seed: int, std: float = 1.0) -> Batch:
    return Batch.of(std * Generator(seed).normal((rows,), torch.float64, "cpu"))


def losses(schedule: Schedule, std: float = 1.0, rows: int = 40_000) -> Tensor:
    with torch.no_grad():
        terms = ContinuousBound(WHOLE)(normal(schedule, std), points(rows, 0, std), Generator(1))
    return terms.leaves["x"]


def train(
    schedule: LearnedClock, objective: Objective, weights: list[Any], std: float, steps: int
) -> None:
    optimiser, random = torch.optim.Adam(weights, 0.05), Generator(2)
    denoiser = normal(schedule, std)
    for step in range(steps):
        optimiser.zero_grad()
        objective(denoiser, points(256, 10 + step, std), random).total.backward()
        optimiser.step()


def test_the_inside_changes_the_variance_of_the_bound_and_not_its_mean() -> None:
    """Trained alone: the mean within its error, the variance near the least there is."""
    std = 0.5
    schedule = LearnedClock(5.0, -4.0, features=16, fixed_ends=True)
    before = losses(schedule, std)
    objective = LearnedTimes(ContinuousBound(WHOLE), schedule.interior())
    train(schedule, objective, schedule.interior(), std, 150)
    after = losses(schedule, std)
    error = math.hypot(float(before.std()), float(after.std())) / math.sqrt(len(before))
    snr = torch.exp(schedule.log_snr(torch.tensor([0.0, 1.0]))).detach()
    truth = float((torch.log1p(snr * std**2) / 2).diff().neg())
    assert abs(float(before.mean()) - truth) < 3.5 * error
    assert abs(float(after.mean()) - truth) < 3.5 * error
    assert after.var() < 0.75 * before.var()
    assert after.var() < 1.25 * 2 * truth**2


def test_gradients_of_both_kinds_come_from_one_call() -> None:
    """The inside has those of the mean square, the ends and the rest those of the mean."""
    schedule = random_weights(1, 0.3)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(0.3).double())

        def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
            return {"x": self.factor * batch["x"] + 0.1 * clock["x"].to(batch["x"])}

    denoiser = NetworkDenoiser(Network(), Product({"x": Gaussian(schedule, Velocity())}))
    inside = schedule.interior()
    rest = [schedule.start, schedule.length, denoiser.backbone.factor]

    def gradients(objective: Objective, power: int) -> list[Tensor]:
        terms = objective(denoiser, points(64, 0), Generator(1))
        value = terms.leaves["x"].pow(power).mean()
        return list(torch.autograd.grad(value, [*inside, *rest]))

    plain = ContinuousBound(WHOLE)
    got = gradients(LearnedTimes(plain, inside), 1)
    mean, square = gradients(plain, 1), gradients(plain, 2)
    for k, value in enumerate(got):
        torch.testing.assert_close(value, square[k] if k < len(inside) else mean[k])
        assert float(mean[k].abs().max()) > 1e-6
    ours = LearnedTimes(plain, inside)(denoiser, points(64, 0), Generator(1)).leaves["x"]
    theirs = plain(denoiser, points(64, 0), Generator(1)).leaves["x"]
    assert torch.equal(ours.detach(), theirs.detach())


def test_the_ends_are_learned_by_the_bound() -> None:
    """Of wide data: more noise at the end lowers the whole bound, which has the prior in it."""
    schedule = LearnedClock(3.0, -0.5, features=8)
    before = continuous_bound(
        normal(schedule, 3.0), points(4000, 0, 3.0), Generator(1), times=WHOLE
    )
    optimiser = torch.optim.Adam([schedule.length], 0.05)
    for step in range(40):
        batch = points(256, step, 3.0)
        denoiser = normal(schedule, 3.0)
        process: Any = denoiser.process.bind(batch)
        terms = LearnedTimes(ContinuousBound(WHOLE), schedule.interior())(
            denoiser, batch, Generator(step)
        )
        optimiser.zero_grad()
        (terms.total + process.prior_divergence(batch.leaves)["x"].mean()).backward()
        optimiser.step()
    after = continuous_bound(
        normal(schedule, 3.0), points(4000, 0, 3.0), Generator(1), times=WHOLE
    )
    fall = before.total - after.total
    assert float(fall.mean()) > 4 * float(fall.std()) / math.sqrt(4000)


class Wiggle(nn.Module):
    """A fixed network of what it sees and of the clock."""

    def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
        x, level = batch["x"], clock["x"].to(batch["x"])
        return {"x": torch.tanh(1.5 * x + 0.3 * level) - 0.2 * x * level / (1 + level**2)}


class Between(Schedule):
    """Another schedule's times from `low` to `high` as all there are."""

    def __init__(self, schedule: Schedule, low: float, high: float) -> None:
        super().__init__()
        self.schedule, self.low, self.high = schedule, low, high

    def log_alpha(self, t: Tensor) -> Tensor:
        return self.schedule.log_alpha(self.low + t * (self.high - self.low))

    def log_sigma(self, t: Tensor) -> Tensor:
        return self.schedule.log_sigma(self.low + t * (self.high - self.low))


def test_the_continuous_bound_knows_the_ends_of_a_schedule_alone() -> None:
    """One network, four schedules with the ends 4 and -3: one bound, within its error."""
    ends = torch.tensor([4.0, -3.0]).double()

    def cut(schedule: Schedule) -> Schedule:
        low, high = schedule.time(ends).tolist()
        return Between(schedule, low, high)

    bent = random_weights(3, 0.5)
    with torch.no_grad():
        bent.start.fill_(4.0)
        bent.length.fill_(math.log(7.0))
    schedules = [cut(Linear()), cut(Cosine()), Standard(cut(Linear())), bent]
    means, errors = [], []
    for schedule in schedules:
        torch.testing.assert_close(schedule(torch.tensor([0.0, 1.0])).clock.detach(), ends)
        denoiser = NetworkDenoiser(Wiggle(), Product({"x": Gaussian(schedule, Velocity())}))
        with torch.no_grad():
            drawn = ContinuousBound(WHOLE)(denoiser, points(60_000, 5, 0.7), Generator(4))
        means.append(float(drawn.leaves["x"].mean()))
        errors.append(float(drawn.leaves["x"].std()) / math.sqrt(60_000))
    for mean, error in zip(means[1:], errors[1:], strict=True):
        assert abs(mean - means[0]) < 3.5 * math.hypot(error, errors[0])
    # The draws of each are not the same ones, and the bound is not that of the best model.
    assert max(errors) > 1.2 * min(errors)
    assert means[0] > 1.2 * float((torch.log1p(torch.exp(2 * ends) * 0.49) / 2).diff().neg())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LearnedClock(-1.0, 1.0), "end must be below start and both finite, got 1.0"),
        (lambda: LearnedClock(math.inf, 1.0), "end must be below start and both finite"),
        (lambda: LearnedClock(features=0), "features must be at least 1, got 0"),
        (lambda: LearnedTimes(ContinuousBound(), []), "interior must have at least one parameter"),
    ],
)
def test_refusals(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
