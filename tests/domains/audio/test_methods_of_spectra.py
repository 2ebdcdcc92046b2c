"""Methods of spectrograms and sequences made of the library's parts, with exact denoisers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Discrete,
    Flow,
    Gaussian,
    Generator,
    Linear,
    Product,
    UniformTime,
)
from structdiff.codecs.chain import Chain
from structdiff.codecs.mel import Mel
from structdiff.codecs.standardise import Standardise
from structdiff.denoiser import Denoiser
from structdiff.domains.audio.data import read
from structdiff.guidance.repaint import RePaint
from structdiff.processes import Estimate
from structdiff.processes.affine import Affine
from structdiff.processes.covariance import FromCondition
from structdiff.samplers import Ancestral
from structdiff.samplers.truncated import Since, Truncated
from structdiff.testing import ExactDenoiser
from structdiff.testing.noise import Impulses


@pytest.mark.parametrize(("s", "t"), [(0.1, 0.2), (0.0, 1.0), (0.3, 0.9), (0.55, 0.56)])
def test_the_step_of_maximum_likelihood_is_bayes_for_one_sound(s: float, t: float) -> None:
    """Step h of DiffVC, eq. 9 and 10, with no variance of the data, is q(x_s | x_t, x_0).

    x_s = x_t + beta h ((1/2 + w)(x_t - m) + (1 + k) score) + sigma z.
    """
    schedule = Linear()
    alpha_s, alpha_t = (float(schedule.alpha(torch.tensor(u).double())) for u in (s, t))
    between = alpha_t / alpha_s
    mu = between * (1 - alpha_s**2) / (1 - alpha_t**2)
    nu = alpha_s * (1 - between**2) / (1 - alpha_t**2)
    sigma = math.sqrt((1 - alpha_s**2) * (1 - between**2) / (1 - alpha_t**2))
    speed = (0.1 + 19.9 * t) * (t - s)
    k = nu * (1 - alpha_t**2) / (alpha_t * speed) - 1
    w = (mu - 1) / speed + (1 + k) / (1 - alpha_t**2) - 0.5
    x_0, centre, x_t = torch.randn(3, 1, 6, generator=torch.Generator().manual_seed(0)).double()
    score = -(x_t - alpha_t * x_0 - (1 - alpha_t) * centre) / (1 - alpha_t**2)
    mean = x_t + speed * ((0.5 + w) * (x_t - centre) + (1 + k) * score)

    process = Affine(Gaussian(schedule, event=(6,)), mean=centre[0])
    process = process.bind(Batch.of(x_0.repeat(2, 1)))
    (plan,) = process.plan(torch.tensor([t, s]).double(), 1.0)
    rows = process.step(x_t.repeat(2, 1), Estimate(x_0.repeat(2, 1)), plan, Impulses())
    torch.testing.assert_close(rows[:1], mean, rtol=1e-5, atol=1e-5)
    fresh = (rows[1] - rows[0]).norm() / math.sqrt(6)
    # The impulse is 1 in all entries of one row.
    assert float(fresh) == pytest.approx(sigma, rel=1e-5, abs=1e-9)


def test_frames_follow_aligned_tokens_by_deterministic_steps_of_any_stride() -> None:
    """DDIM on spectrograms whose frames are normal around what their tokens say.

    The mean is exact at every number of steps, the deviation is what DDIM makes of it, and nothing
    is drawn on the way.
    """
    bands, frames = 8, 12
    random = torch.Generator().manual_seed(0)
    table = torch.randn(5, bands, generator=random, dtype=torch.float64)
    tokens = torch.randint(5, (3, frames), generator=random)
    process = Gaussian(Discrete(torch.linspace(1e-4, 0.24, 100)), event=(1, bands, frames))

    class Aligned(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.process = Product({"mel": process})

        def forward(
            self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
        ) -> Mapping[str, Estimate]:
            level = process.level(t["mel"], batch["mel"])
            mean = table[batch.condition["tokens"]].mT.unsqueeze(1)
            gain = level.alpha * 0.04 / (level.alpha**2 * 0.04 + level.sigma**2)
            return {"mel": Estimate(mean + gain * (batch["mel"] - level.alpha * mean))}

    said = table[tokens].mT.unsqueeze(1)
    batch = Batch.of({"mel": said}).with_condition({"tokens": tokens})
    many = batch.select(torch.arange(3).repeat_interleave(400))
    for steps in (1, 5, 20, 100):
        sampler = DDIM(Aligned(), UniformTime(steps))
        drawn = sampler.sample(many, Generator(0))["mel"].reshape(3, 400, bands, frames)
        error = (drawn.mean(1) - said.squeeze(1)).abs().max()
        assert error < 5 * 0.2 / math.sqrt(400)
        again = sampler.sample(many, Generator(0))["mel"]
        torch.testing.assert_close(again.reshape(drawn.shape), drawn, rtol=0, atol=0)
        # d -> alpha_s g d + (sigma_s / sigma_t) (1 - alpha_t g) d, from deviation sigma_1.
        times = UniformTime(steps).times()
        level, later = (process.schedule(t) for t in (times[:-1], times[1:]))
        gain = level.alpha * 0.04 / (level.alpha**2 * 0.04 + level.sigma**2)
        each = later.alpha * gain + later.sigma / level.sigma * (1 - level.alpha * gain)
        expected = level.sigma[0] * each.prod()
        assert float(drawn.std(1).mean()) == pytest.approx(float(expected), rel=0.02)


SYSTEMS: dict[str, dict[str, Any]] = {
    "plain": {"centre": None, "eta": 1.0, "start": 1.0},
    "prior of an encoder": {"centre": "coarse", "eta": 0.0, "start": 1.0},
    "deterministic": {"centre": None, "eta": 0.0, "start": 1.0},
    "shallow": {"centre": None, "eta": 0.0, "start": 0.3},
    "all": {"centre": "coarse", "eta": 0.0, "start": 0.3},
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_prior_steps_and_start_of_a_spectrogram_model_are_independent_settings(name: str) -> None:
    """An encoder's prior, DDIM and a shallow start are told by three numbers and go together.

    Spectrograms of tones are normal around what the condition says; a coarse guess of them is off
    by 3. Whatever the settings, draws have the mean of the data.
    """
    config, shape = SYSTEMS[name], (1, 6, 5)
    random = torch.Generator().manual_seed(1)
    mean = 2 * torch.randn(1, *shape, generator=random, dtype=torch.float64)
    batch = Batch.of({"mel": mean.expand(1_000, *shape)})
    batch = batch.with_condition({"coarse": batch["mel"] + 3, "mean": batch["mel"]})
    inner = Gaussian(Linear(), event=shape)
    centre = config["centre"]
    process = inner if centre is None else Affine(inner, mean=FromCondition(centre))

    class Around(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.process = Product({"mel": process})

        def forward(
            self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
        ) -> Mapping[str, Estimate]:
            leaf = self.process.bind(batch)["mel"]
            level = leaf.level(t["mel"], batch["mel"])
            m, c = batch.condition["mean"], getattr(leaf, "centre", torch.zeros(()))
            gain = level.alpha * 0.25 / (level.alpha**2 * 0.25 + level.sigma**2)
            seen = batch["mel"] - (1 - level.alpha) * c - level.alpha * m
            return {"mel": Estimate(m + gain * seen)}

    grid = Since(UniformTime(200), config["start"])
    walk: Any = Ancestral(Around(), grid, eta=config["eta"])
    if config["start"] < 1:
        walk = Truncated(walk, {"mel": batch.condition["coarse"]})
    drawn = walk.sample(batch, Generator(0))["mel"]
    # What a coarse guess got wrong is contracted by alpha s / sqrt(alpha^2 s^2 + sigma^2).
    level = inner.level(torch.tensor(config["start"], dtype=torch.float64), drawn)
    left = level.alpha * 0.5 / (level.alpha**2 * 0.25 + level.sigma**2).sqrt()
    bias = 0.0 if config["start"] == 1 else 3 * float(left)
    gap = drawn.mean(0) - mean[0]
    assert float((gap - bias).abs().max()) < 0.1
    spread = 0.5 * level.sigma / (level.alpha**2 * 0.25 + level.sigma**2).sqrt()
    assert float(drawn.std(0).mean()) == pytest.approx(float(spread), rel=0.05)


def test_latents_of_spectrograms_are_drawn_by_the_embedding_of_a_sound() -> None:
    """Waves -> log-mel -> standardised latents; the condition is a vector, here of the timbre."""
    clips = read().train
    waves = torch.from_numpy(clips.wave).unsqueeze(1)
    mel = Mel((1, clips.length), clips.rate, mels=16, window=128, hop=64)
    codec = Chain([mel, Standardise(mel.latent, axes=[0])])
    codec.fit(waves)
    z = codec.encode(waves)
    assert float(z.std()) == pytest.approx(1, abs=0.01)
    table = torch.nn.functional.one_hot(torch.from_numpy(clips.label)).double() * 3 - 1
    process = Product({"mel": Gaussian(Flow(), event=codec.latent)})
    each = [ExactDenoiser(process, Batch.of({"mel": z[table[:, k] > 0]})) for k in range(4)]

    class ByEmbedding(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.process = process

        def forward(
            self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
        ) -> Mapping[str, Estimate]:
            said = [one(batch, t)["mel"].value for one in each]
            near = batch.condition["embedding"].argmax(1)
            return {"mel": Estimate(torch.stack(said)[near, torch.arange(len(near))])}

    wanted = torch.arange(4).repeat(5)
    embedding = torch.nn.functional.one_hot(wanted).double() * 3 - 1
    blank = Batch.of({"mel": torch.zeros(20, *codec.latent)})
    sampler = DDIM(ByEmbedding(), UniformTime(30))
    drawn = sampler.sample(blank.with_condition({"embedding": embedding}), Generator(0))["mel"]
    found = torch.cdist(drawn.flatten(1), z.flatten(1))
    assert torch.from_numpy(clips.label)[found.argmin(1)].equal(wanted)
    assert found.amin(1).max() < 1e-2 * found.mean()
    back = codec.decode(drawn)
    again = codec.encode(back)
    assert (again - drawn).square().mean() < 0.1


def test_a_gap_in_a_sequence_of_latents_is_filled_by_clamping_the_rest() -> None:
    """Twelve melodies of eight notes, each note a latent of four numbers; three are missing."""
    random = torch.Generator().manual_seed(0)
    notes = torch.randn(12, 4, 8, generator=random, dtype=torch.float64)
    process = Product({"notes": Gaussian(Flow(), event=(4, 8))})
    denoiser = ExactDenoiser(process, Batch.of({"notes": notes}))
    heard = torch.ones(12, 4, 8, dtype=torch.bool)
    heard[..., 3:6] = False
    blank = Batch.of({"notes": torch.zeros_like(notes)})
    known = blank.with_leaves({"notes": torch.where(heard, notes, 0.0)}).with_given(
        {"notes": heard}
    )
    walk = DDPM(denoiser, UniformTime(20))
    drawn = walk.sample(known, Generator(0))["notes"]
    torch.testing.assert_close(drawn, notes, rtol=0, atol=1e-6)
    # A model that was not told what is clean: the same but for early mistakes.
    walk = RePaint(DDPM(denoiser, UniformTime(50)), known, jump=5, repeats=4)
    drawn = walk.sample(blank, Generator(0))["notes"]
    assert torch.where(heard, drawn, 0.0).equal(known["notes"])
    right = (drawn - notes).abs().flatten(1).amax(1) < 1e-6
    assert int(right.sum()) >= 11
