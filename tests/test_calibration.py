"""The mean score of the data is zero, and after calibration a model's is too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Categorical, Flow, Gaussian, Generator, Linear, Product, absorbing
from structdiff.calibration import Calibrated
from structdiff.clock_table import ClockTable
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate
from structdiff.schedules import Grid, UniformTime
from structdiff.testing import ExactDenoiser, NormalDenoiser

SCHEDULE = Linear()
MEAN, STD, SHARE = torch.tensor([1.2, -0.8]), torch.tensor([0.3, 0.5]), torch.tensor([0.4, 0.6])


class Off(Denoiser):
    """The mixture's exact denoiser, bent and moved by what depends on the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.exact = NormalDenoiser(Gaussian(SCHEDULE), MEAN.double(), STD.double(), SHARE)
        self.process = self.exact.process

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        said, x = self.exact(batch, t)["x"], batch["x"]
        clock = SCHEDULE(t["x"]).clock.to(x)
        return {"x": Estimate(said.value + 0.2 * torch.tanh(clock) + 0.1 * torch.cos(x))}


class Times(Grid):
    """Some times, then clean."""

    def times(self) -> Tensor:
        return torch.tensor([0.9, 0.7, 0.5, 0.35, -1.0]).double()


def data(rows: int, seed: int) -> Batch:
    random = Generator(seed)
    pick = (random.uniform((rows,), torch.float64, "cpu") > SHARE[0]).long()
    z = random.normal((rows,), torch.float64, "cpu")
    return Batch.of(MEAN.double()[pick] + STD.double()[pick] * z)


def expected_score(denoiser: Denoiser, t: float) -> float:
    """Over the law of x_t itself, by quadrature."""
    alpha, sigma, _ = SCHEDULE(torch.tensor(t).double())
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    variance = alpha**2 * STD.double() ** 2 + sigma**2
    normal = torch.distributions.Normal(alpha * MEAN.double(), variance.sqrt())
    density = (SHARE.double() * normal.log_prob(x[:, None]).exp()).sum(1)
    said = denoiser(Batch.of(x), {"x": torch.tensor(t).double()})["x"].value
    score = (alpha * said - x) / sigma**2
    return float(torch.trapezoid(density * score, x))


def test_the_mean_score_is_zero_and_the_loss_falls() -> None:
    """To 1e-3 over the law of the data, of which the fit has seen a sample."""
    wrong = Off()
    right = Calibrated.fit(wrong, data(1_000_000, 0), Times(), Generator(1))
    held_out = data(20_000, 5)
    process: Any = right.process.bind(held_out)
    for t in (0.9, 0.7, 0.5, 0.35):
        assert abs(expected_score(wrong.exact, t)) < 1e-7
        assert abs(expected_score(wrong, t)) > 2e-3
        assert abs(expected_score(right, t)) < 1e-3
    for t in (0.9, 0.8, 0.6, 0.4):  # between the times of the fit, too
        time = {"x": torch.tensor(t).double()}
        x_t = process.diffuse(held_out.leaves, time, Generator(2))
        losses = [
            float(
                process.loss(one(held_out.with_leaves(x_t), time), held_out.leaves, x_t, time)[
                    "x"
                ].mean()
            )
            for one in (wrong, right)
        ]
        assert losses[1] < losses[0]


def test_leaves_and_given_entries() -> None:
    """Classes are left alone; a row's given entry stays and its time does not count."""
    process = Product(
        {"x": Gaussian(SCHEDULE, event=(2,)), "k": Categorical(Flow(), absorbing(2))}
    )
    points = Batch.of({"x": torch.eye(2).double(), "k": torch.arange(2)})
    exact = ExactDenoiser(process, points)
    table = ClockTable(torch.tensor([0.0]), torch.tensor([[0.5, -0.25]]))
    moved = Calibrated(exact, {"x": table})
    held = torch.tensor([[True, False], [False, False]])
    batch = points.with_given({"x": held})
    t = process.bind(batch).times(torch.tensor([0.4, 0.6]).double())
    before, after = exact(batch, t), moved(batch, t)
    gap = after["x"].value - before["x"].value
    torch.testing.assert_close(gap, torch.tensor([[0.0, -0.25], [0.5, -0.25]]).double())
    assert torch.equal(before["k"].value, after["k"].value)


def test_refusals() -> None:
    denoiser = Off()
    with pytest.raises(
        ValueError, match=r"shifts must have the Gaussian leaves \['x'\], got \[\]"
    ):
        Calibrated(denoiser, {})
    held = data(4, 0).with_given({"x": torch.ones(4).bool()})
    with pytest.raises(ValueError, match=r"batch has given entries of \['x'\]"):
        Calibrated.fit(denoiser, held, UniformTime(2), Generator(0))
