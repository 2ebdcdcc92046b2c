"""Methods of speech and music made of the library's parts, with exact denoisers of known sounds.

The sounds are tones a cos + b sin of a known frequency, with normal a and b: on a plane of waves
every posterior is normal and every number below has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Discrete,
    Gaussian,
    Generator,
    Linear,
    Product,
    UniformTime,
)
from structdiff.codecs.mel import Mel
from structdiff.denoiser import Denoiser
from structdiff.domains.audio.metrics import signal_to_noise
from structdiff.guidance.inverse import DDRM, Observation
from structdiff.operators import Mask
from structdiff.processes import Estimate
from structdiff.processes.affine import Affine
from structdiff.processes.covariance import FromCondition
from structdiff.samplers.truncated import Truncated
from structdiff.schedules import Grid
from structdiff.testing.noise import Impulses

RATE, LENGTH = 4_000, 400
PITCHES = torch.tensor([250.0, 400.0, 650.0, 1_000.0, 1_500.0])
FAST = torch.tensor([1e-4, 1e-3, 1e-2, 5e-2, 0.2, 0.5], dtype=torch.float64)
"""The variances of the six steps of DiffWave, section 5.1."""


def plane(pitch: Tensor) -> Tensor:
    """Orthonormal waves that span the tones of each pitch, `(samples, 2, length)`."""
    angle = 2 * math.pi * pitch.double().reshape(-1, 1) / RATE * torch.arange(LENGTH)
    both = torch.stack([angle.cos(), angle.sin()], 1)
    return torch.linalg.qr(both.mT)[0].mT


def tones(pitch: Tensor, seed: int) -> Tensor:
    """Tones with normal coefficients of deviation 10, `(samples, 1, length)`."""
    random = torch.Generator().manual_seed(seed)
    part = 10 * torch.randn(len(pitch), 2, generator=random, dtype=torch.float64)
    return torch.einsum("ni,nil->nl", part, plane(pitch)).unsqueeze(1)


def noise(samples: int, seed: int) -> Tensor:
    """White noise, `(samples, 1, length)`."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 1, LENGTH, generator=random, dtype=torch.float64)


MEL = Mel((1, LENGTH), RATE, mels=16, window=128)


def pitches_of(mel: Tensor) -> Tensor:
    """The pitch of each spectrogram: that whose tone has the nearest one up to its level."""
    known = torch.stack([MEL.encode(tones(p.reshape(1), 0))[0] for p in PITCHES])

    def shape(z: Tensor) -> Tensor:
        mean = z.double().mean(-1).flatten(1)
        return mean - mean.mean(1, keepdim=True)

    return PITCHES[torch.cdist(shape(mel), shape(known)).argmin(1)]


class TonesOf(Denoiser):
    """The denoiser of tones of the pitch that the spectrogram of the condition has.

    x_0 ~ N(m, s^2 B B^T) in the plane B of the pitch; with noise around a centre c,
    E[x_0 | x_t] = m + g B B^T (x_t - (1 - alpha) c - alpha m), g = alpha s^2 / (alpha^2 s^2 +
    sigma^2).

    Arguments:
        process: Gaussian noise, or noise around the condition `noisy`.
        mean: Name of the condition that is m; none for m = 0.
        std: The deviation s.
    """

    def __init__(
        self, process: Gaussian | Affine, mean: str | None = None, std: float = 10.0
    ) -> None:
        super().__init__()
        self.process, self.mean, self.std = Product({"wave": process}), mean, std

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The posterior mean."""
        del previous
        x, leaf = batch["wave"], self.process.bind(batch)["wave"]
        level = leaf.level(t["wave"], x)
        centre = getattr(leaf, "centre", torch.zeros(()))
        mean = torch.zeros_like(x) if self.mean is None else batch.condition[self.mean]
        gain = level.alpha * self.std**2 / (level.alpha**2 * self.std**2 + level.sigma**2)
        waves = plane(pitches_of(batch.condition["mel"]))
        seen = x - (1 - level.alpha) * centre - level.alpha * mean
        inside = torch.einsum("nil,nl->ni", waves, seen.squeeze(1))
        return {"wave": Estimate(mean + gain * torch.einsum("ni,nil->nl", inside, waves)[:, None])}


def decibels(found: Tensor, clean: Tensor) -> float:
    """Ratio of all signal to all noise."""
    return float(signal_to_noise(found.reshape(1, -1), clean.reshape(1, -1)))


def test_six_steps_of_a_vocoder_take_more_than_ten_decibels_of_noise_off_a_tone() -> None:
    """From tone + noise, by six steps of the variance schedule, told the spectrogram alone.

    What stays is noise in the plane of the tone: 2 of 400 dimensions.
    """
    schedule = Discrete(FAST)
    process = Gaussian(schedule, event=(1, LENGTH))
    pitch = PITCHES.repeat(20)
    clean = tones(pitch, 1)
    condition = {"mel": MEL.encode(clean)}
    assert pitches_of(condition["mel"]).equal(pitch)
    batch = Batch.of({"wave": clean}).with_condition(condition)
    level = process.level(torch.tensor(1.0, dtype=torch.float64), clean)
    noisy = level.alpha * clean + level.sigma * noise(len(clean), 2)
    before = decibels(noisy / level.alpha, clean)
    grid = UniformTime(6)
    for make in (DDIM, DDPM):
        walk = Truncated(make(TonesOf(process), grid), {"wave": noisy}, noisy=True)
        assert walk.sampler.times.numel() == 7
        gain = decibels(walk.sample(batch, Generator(0))["wave"], clean) - before
        assert gain > 10
        assert gain < 10 * math.log10(LENGTH / 2) + 3
    wrong = Batch.of({"wave": clean}).with_condition({"mel": condition["mel"].roll(1, 0)})
    walk = Truncated(DDIM(TonesOf(process), grid), {"wave": noisy}, noisy=True)
    assert decibels(walk.sample(wrong, Generator(0))["wave"], clean) < 1


def test_six_variances_are_times_of_the_schedule_that_was_trained_with() -> None:
    """A network that knows the noise level walks the six levels on either schedule alike."""
    trained, fast = Linear(), Discrete(FAST)
    grid = UniformTime(6)
    times = trained.time(fast(grid.times()[:-1]).clock)
    pitch = PITCHES[:3]

    class Times(Grid):
        def times(self) -> Tensor:
            return torch.cat([times, grid.times()[-1:]])

    batch = Batch.of({"wave": tones(pitch, 0)}).with_condition(
        {"mel": MEL.encode(tones(pitch, 0))}
    )
    drawn = [
        DDPM(TonesOf(Gaussian(schedule, event=(1, LENGTH))), steps).sample(batch, Generator(0))
        for schedule, steps in ((fast, grid), (trained, Times()))
    ]
    torch.testing.assert_close(drawn[0]["wave"], drawn[1]["wave"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.6, 1.0])
def test_noise_around_a_noisy_recording_has_the_mean_of_the_papers(t: float) -> None:
    """The mean of x_t is rho x_0 + (1 - rho) y: the clean sound fades into the noisy one."""
    process = Affine(Gaussian(Linear(), event=(1, LENGTH)), mean=FromCondition("noisy"))
    clean, noisy = tones(PITCHES, 0), tones(PITCHES, 0) + noise(5, 1)
    batch = Batch.of({"x": clean}).with_condition({"noisy": noisy})
    rho = math.exp(-0.5 * (0.1 * t + 0.5 * 19.9 * t**2))
    bound, time = process.bind(batch), torch.tensor(t, dtype=torch.float64)
    random = Impulses()
    once = bound.diffuse(clean, bound.times(time), random)
    torch.testing.assert_close(once[0], rho * clean[0] + (1 - rho) * noisy[0])


def test_speech_enhancement_from_the_noisy_recording() -> None:
    """Walks that begin around tone + noise end in the posterior of the tone.

    Given y = x_0 + r n, the tone is N(m, v B B^T) with v = s^2 r^2 / (s^2 + r^2), m = v / r^2
    times y in the plane. Draws miss the tone by 2 v in mean square: v of the posterior mean, v of
    the draw.
    """
    std, level = 10.0, 1.0
    pitch = PITCHES.repeat(20)
    clean = tones(pitch, 3)
    noisy = clean + level * noise(len(clean), 4)
    variance = std**2 * level**2 / (std**2 + level**2)
    waves = plane(pitch)
    inside = torch.einsum("nil,nl->ni", waves, noisy.squeeze(1))
    mean = variance / level**2 * torch.einsum("ni,nil->nl", inside, waves).unsqueeze(1)
    condition = {"noisy": noisy, "mean": mean, "mel": MEL.encode(clean)}
    batch = Batch.of({"wave": clean}).with_condition(condition)
    process = Affine(Gaussian(Linear(), event=(1, LENGTH)), mean=FromCondition("noisy"))
    denoiser = TonesOf(process, "mean", math.sqrt(variance))
    before = decibels(noisy, clean)
    drawn = DDPM(denoiser, UniformTime(100)).sample(batch, Generator(0))["wave"]
    error = (drawn - clean).square().sum() / len(clean)
    assert float(error) == pytest.approx(2 * 2 * variance, rel=0.25)
    assert decibels(drawn, clean) - before > 15
    first = DDIM(denoiser, UniformTime(1)).sample(batch, Generator(0))["wave"]
    assert decibels(first, clean) - before > 15


def test_noise_of_a_known_level_is_taken_off_as_an_inverse_problem() -> None:
    """All samples measured with noise: draws of the exact posterior of the tone, 2 v of error."""
    level = 1.0
    pitch = PITCHES.repeat(20)
    clean = tones(pitch, 5)
    noisy = clean + level * noise(len(clean), 6)
    batch = Batch.of({"wave": torch.zeros_like(clean)}).with_condition({"mel": MEL.encode(clean)})
    process = Gaussian(Linear(), event=(1, LENGTH))
    everything = Mask(torch.ones(1, LENGTH, dtype=torch.bool))
    seen = Observation(everything, noisy.flatten(1), noise_std=level, leaf="wave")
    walk = DDRM(DDPM(TonesOf(process), UniformTime(50)), seen)
    drawn = walk.sample(batch, Generator(0))["wave"]
    gain = decibels(drawn, clean) - decibels(noisy, clean)
    assert gain > 10
