"""What the core is handed by mistake is refused with what it was and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    ClassifierFree,
    Cosine,
    Denoiser,
    Gaussian,
    Generator,
    Layout,
    Multistep,
    Product,
    UniformLogSNR,
    UniformTime,
    sample,
)
from structdiff.processes import Estimate
from structdiff.schedules import Schedule
from structdiff.testing import NormalDenoiser


def denoiser() -> NormalDenoiser:
    return NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))


class Made(Schedule):
    """alpha and sigma from functions."""

    def __init__(self, alpha: Any, sigma: Any) -> None:
        super().__init__()
        self.of_alpha, self.of_sigma = alpha, sigma

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log(self.of_alpha(t))

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(self.of_sigma(t))


def test_a_schedule_whose_noise_falls() -> None:
    bumpy = Made(lambda t: 1 - t / 2, lambda t: 0.5 + 0.4 * torch.sin(7 * t))
    with pytest.raises(ValueError, match="log-SNR of schedule Made must fall"):
        Gaussian(bumpy)


def test_a_schedule_that_is_zero_altogether() -> None:
    gone = Made(lambda t: (0.5 - t).clamp(min=0), lambda t: t * (1 - t))
    with pytest.raises(ValueError, match="alpha and sigma of schedule Made are both 0"):
        Gaussian(gone)


class Broken(Denoiser):
    """NaN for some samples from some time on."""

    def __init__(self, lost: Tensor) -> None:
        super().__init__()
        self.process: Any = Product({"x": Gaussian(Cosine(), event=(2,))})
        self.lost = lost

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        late = self.lost[:, None] & (t["x"] < 0.5)
        return {"x": Estimate(torch.where(late, torch.nan, 0.0).expand(batch["x"].shape))}


@pytest.mark.parametrize("make", [DDIM, DDPM, lambda d, g: Multistep(d, g, order=3)])
def test_an_estimate_that_is_not_a_number(make: Any) -> None:
    ids = torch.tensor([7, 8, 9])
    layout = {"x": Layout.regular(3)}
    batch = Batch({"x": torch.zeros(3, 2)}, layout, ids=ids)
    walk = make(Broken(torch.tensor([False, True, True])), UniformTime(5))
    with pytest.raises(ValueError, match=r"ids \[8, 9\] are not finite in leaf 'x'"):
        walk.sample(batch, Generator(0))
    assert (
        DDIM(Broken(torch.zeros(3, dtype=torch.bool)), UniformTime(5))
        .sample(batch, Generator(0))["x"]
        .isfinite()
        .all()
    )


def test_no_steps() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        UniformTime(0)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        sample(denoiser(), 2, steps=0)
    with pytest.raises(ValueError, match="steps must be at least 1, got -3"):
        UniformLogSNR(Cosine(), -3)


def test_steps_towards_noise_with_fresh_noise() -> None:
    process = Gaussian(Cosine()).bind(Batch.of(torch.zeros(2)))
    times = torch.tensor([0.2, 0.6]).double()
    with pytest.raises(ValueError, match="times must fall: only eta = 0"):
        process.plan(times, 1.0)
    assert len(process.plan(times, 0.0)) == 1


def test_a_guidance_scale_without_conditions() -> None:
    with pytest.raises(ValueError, match="guidance needs a condition, the batch has none"):
        sample(denoiser(), 2, steps=2, guidance=2.0)
    guided = ClassifierFree(denoiser(), 2.0)
    with pytest.raises(ValueError, match="guidance needs a condition"):
        DDIM(guided, UniformTime(2)).sample(Batch.of(torch.zeros(2)), Generator(0))
