"""Rate and distortion against the mutual information of normal data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    Batch,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Linear,
    Product,
    UniformLogSNR,
    UniformTime,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.likelihood import bound, rate_distortion
from structdiff.processes import Estimate
from structdiff.testing import ExactDenoiser, NormalDenoiser

STD = 1.5


class Signs(Generator):
    """Noise of mean zero and variance one, uncorrelated with the data, on four records."""

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        return torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=dtype).expand(shape)


class Told(Denoiser):
    """The exact denoiser of N(0, s^2), which tells Var[x_0 | x_t]."""

    def __init__(self, process: Gaussian) -> None:
        super().__init__()
        mean, std = torch.zeros(1).double(), torch.tensor([STD]).double()
        self.inner = NormalDenoiser(process, mean, std)
        self.process, self.leaf = self.inner.process, process

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        level = self.leaf.level(t["x"], batch["x"])
        signal = (level.alpha * STD) ** 2
        variance = STD**2 * level.sigma**2 / (signal + level.sigma**2)
        said = self.inner(batch, t, previous)["x"]
        return {"x": Estimate(said.value, {"variance": variance})}


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Geometric(0.01, 50.0)])
@pytest.mark.parametrize("steps", [5, 40])
def test_the_rate_of_normal_data_is_the_mutual_information(schedule, steps: int) -> None:
    """The terms are quadratic in the data and the noise, so four records have their means."""
    data = Batch.of(STD * torch.tensor([1.0, -1.0, 1.0, -1.0]).double())
    curve = rate_distortion(Told(Gaussian(schedule)), data, UniformTime(steps), Signs(0))
    ratio = torch.exp(2 * schedule(curve.times).clock) * STD**2
    # q(x_T) is not the prior: what begins in the prior pays for it too.
    level = schedule(curve.times[:1])
    marginal = (level.alpha * STD / level.sigma) ** 2
    start = 0.5 * (marginal - torch.log1p(marginal))
    torch.testing.assert_close(curve.rate["x"], 0.5 * torch.log1p(ratio) + start)
    torch.testing.assert_close(curve.distortion["x"], STD**2 / (1 + ratio))


def test_without_the_variance_the_rate_tends_to_it_from_above() -> None:
    data = Batch.of(STD * torch.tensor([1.0, -1.0, 1.0, -1.0]).double())
    process = Gaussian(Linear())
    mean, std = torch.zeros(1).double(), torch.tensor([STD]).double()
    denoiser = NormalDenoiser(process, mean, std)
    excess = []
    for steps in (50, 100, 200):
        curve = rate_distortion(denoiser, data, UniformLogSNR(Linear(), steps), Signs(0))
        ratio = torch.exp(2 * process.schedule(curve.times).clock) * STD**2
        excess.append(float((curve.rate["x"] - 0.5 * torch.log1p(ratio))[-1]))
    assert excess[0] > excess[1] > excess[2] > 0
    assert excess[0] / excess[1] == pytest.approx(2, rel=0.15)
    assert excess[1] / excess[2] == pytest.approx(2, rel=0.15)


def test_the_last_rate_and_the_reconstruction_are_the_bound() -> None:
    process = Product({"x": Gaussian(Cosine()), "c": Categorical(Flow(), uniform(3))})
    data = Batch.of({"x": torch.tensor([-1.0, 1.0]).double(), "c": torch.tensor([0, 2])})
    denoiser, grid = ExactDenoiser(process, data), UniformTime(6)
    many = data.select([0, 1] * 2000)
    curve = rate_distortion(denoiser, many, grid, Generator(0))
    whole = bound(denoiser, many, grid, Generator(1))
    for name in ("x", "c"):
        parts = (whole.prior[name] + whole.divergence[name]).mean()
        error = whole.divergence[name].std() / 2000**0.5
        assert float(curve.rate[name][-1]) == pytest.approx(float(parts), abs=5 * float(error))
    assert "bits a sample" in str(curve)
