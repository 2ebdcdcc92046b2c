"""A score that is the gradient of a scalar network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff import (
    DDIM,
    Batch,
    Denoising,
    Gaussian,
    Generator,
    Layout,
    NetworkDenoiser,
    Product,
    UniformTime,
)
from structdiff.nn import ClockEmbedding
from structdiff.nn.energy import EnergyGradient
from structdiff.objectives import SNR, UniformClock
from structdiff.parameterisations import Noise
from structdiff.schedules import Geometric
from structdiff.testing import NormalDenoiser

SCHEDULE = Geometric(0.3, 4.0)
GAUSSIAN = Gaussian(SCHEDULE, Noise(), event=(2,))
MEAN = torch.tensor([[1.0, 0.0], [-0.8, 0.9], [-0.5, -1.0]])
STD, SHARE = torch.tensor([0.3, 0.4, 0.3]), torch.tensor([0.5, 0.3, 0.2])
TRUTH = NormalDenoiser(GAUSSIAN, MEAN, STD, SHARE)


class Energy(nn.Module):
    """A number for each sample, of all of its rows."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.clock = ClockEmbedding(16, lowest=0.25, highest=2.0)
        self.layers = nn.Sequential(
            nn.Linear(18, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 1),
        )

    def forward(self, batch: Batch, clock: Any, previous: Any) -> Tensor:
        x, layout = batch["x"], batch.layouts["x"]
        level = self.clock(clock["x"].to(x).expand(len(x)))
        each = self.layers(torch.cat([x, level], 1)).squeeze(1)
        together = layout.sum(x)
        return layout.sum(each + x.square().sum(1) / 2) + 0.1 * torch.sin(together).sum(1)


def score(denoiser: Any, x: Tensor, t: float) -> Tensor:
    batch, time = Batch.of(x), {"x": torch.tensor(t)}
    process: Any = denoiser.process.bind(batch)
    value: Tensor = process.score(denoiser(batch, time), {"x": x}, time)["x"]
    return value


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_score_has_no_curl(t: float) -> None:
    """Its Jacobian in x_t is symmetric, to 1e-5 of its size, in float32."""
    denoiser = NetworkDenoiser(EnergyGradient(Energy()), Product({"x": GAUSSIAN}))
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(1))
    for x in points:
        jacobian = torch.autograd.functional.jacobian(lambda y: score(denoiser, y[None], t)[0], x)
        assert float((jacobian - jacobian.T).abs().max()) < 1e-5 * float(jacobian.abs().max())
        assert float(jacobian[0, 1].abs()) > 1e-3 * float(jacobian.abs().max())


def test_the_score_is_minus_the_gradient_of_the_energy() -> None:
    """E = sqrt(alpha^2 + sigma^2) / sigma e, by central differences."""
    energy = Energy().double()
    denoiser = NetworkDenoiser(EnergyGradient(energy), Product({"x": GAUSSIAN}))
    x, t = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double(), 0.4
    alpha, sigma, clock = SCHEDULE(torch.tensor(t))

    def total(x: Tensor) -> Tensor:
        unit = torch.sqrt(alpha**2 + sigma**2)
        return unit / sigma * energy(Batch.of(x / unit), {"x": clock}, None)

    step = 1e-5 * torch.eye(2).double()
    slope = torch.stack([(total(x + e) - total(x - e)) / 2e-5 for e in step], 1)
    torch.testing.assert_close(
        score(denoiser, x, t).detach(), -slope.detach(), rtol=1e-6, atol=1e-8
    )


def test_a_trained_energy_has_the_score_of_the_mixture() -> None:
    """By denoising over many noise levels: cosine above 0.95 at the finest and at coarser ones."""
    denoiser = NetworkDenoiser(EnergyGradient(Energy()), Product({"x": GAUSSIAN}))
    objective = Denoising(SNR(), UniformClock(SCHEDULE, 0.0, 1.0))
    optimiser, random = torch.optim.Adam(denoiser.parameters(), 1e-2), Generator(0)
    for step in range(500):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * (1 - step / 500)
        optimiser.zero_grad()
        objective(denoiser, points(256, 10 + step), random).total.backward()
        optimiser.step()
    for t in (0.0, 0.3, 0.7):
        batch = points(2000, 5)
        time = {"x": torch.tensor(t)}
        x = denoiser.process.bind(batch).diffuse(batch.leaves, time, Generator(9))["x"]
        with torch.no_grad():  # gradients of the energy need none of the caller
            ours, theirs = score(denoiser, x, t), score(TRUTH, x, t)
        cosine = F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)
        assert float(cosine) > 0.95, (t, float(cosine))
    drawn = DDIM(denoiser, UniformTime(40)).sample(points(1000, 0), Generator(0))["x"]
    assert not drawn.requires_grad
    nearest = (drawn[:, None] - MEAN).norm(dim=2).argmin(1)
    share = torch.bincount(nearest, minlength=3) / 1000
    assert float((share - SHARE).abs().max()) < 0.08


def points(rows: int, seed: int) -> Batch:
    random = Generator(seed)
    u = random.uniform((rows,), torch.float32, "cpu")
    pick = torch.bucketize(u, SHARE.cumsum(0)[:2], right=True)
    return Batch.of(MEAN[pick] + STD[pick, None] * random.normal((rows, 2), torch.float32, "cpu"))


def test_rows_of_a_sample_share_an_energy_and_samples_do_not() -> None:
    """A row's output depends on its own sample, and sums of a batch change nothing."""
    layout = Layout.ragged([2, 1])
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    network, clock = EnergyGradient(Energy()), {"x": torch.tensor(0.3)}
    said = network(Batch({"x": x}, {"x": layout}), clock, None)["x"]
    alone = network(Batch.of(x[2:]), clock, None)["x"]
    torch.testing.assert_close(said[2:], alone)
    apart = network(Batch.of(x[:2]), clock, None)["x"]
    assert float((said[:2] - apart).detach().abs().max()) > 1e-3


def test_classes_have_no_gradient() -> None:
    batch = Batch.of({"k": torch.arange(3)})
    with pytest.raises(ValueError, match=r"leaves \['k'\] are classes"):
        EnergyGradient(Energy())(batch, {}, None)
