"""Noise taken off sounds: prior, walk and start are settings, and nothing else says them.

Exact denoisers are of normal laws on a plane of waves or of spectrograms, so that every number
below has a closed form.
"""

import math
import tomllib

import numpy as np
import pytest
import torch

from structdiff.artifacts import RunFolder
from structdiff.cli.main import main
from structdiff.counter import Counter
from structdiff.denoiser import Denoiser
from structdiff.domains.audio import AudioCodec, AudioConfig, Known, Run, Sound, train
from structdiff.domains.audio.clips import Clips
from structdiff.domains.audio.enhancing import NOISY, Noised, gains, noised, under_noise
from structdiff.domains.audio.fieldset import ClipFields
from structdiff.domains.audio.forms import Waves
from structdiff.domains.audio.recipe import fields_of, form_of
from structdiff.domains.audio.reports.evaluation import evaluate_run
from structdiff.runs.fields import FieldModel
from structdiff.runs.fields.build import build
from structdiff.runs.fields.conditions import Made
from structdiff.runs.fields.training import Collating
from structdiff.testing.noise import Impulses
from tests.domains.audio.worlds import RATE, keep, recordings, settings, sine

LENGTH = 200
ENHANCE = {"kind": "enhance", "snr": 5.0}


class Normal(Denoiser):
    """The denoiser of x_0 ~ N(m, s^2 B B^T), around whatever the noise of the process lies.

    E[x_0 | x_t] = m + g B B^T (x_t - (1 - alpha) c - alpha m), g = alpha s^2 / (alpha^2 s^2 +
    sigma^2), with c the prior's mean.

    Arguments:
        process: The process that the settings made.
        mean: m, of each sample.
        std: s.
        basis: B, `(samples, k, entries)`, orthonormal; all of the space by default.
    """

    def __init__(self, process, mean, std, basis=None):
        super().__init__()
        self.process, self.mean, self.std, self.basis = process, mean, std, basis

    def forward(self, batch, t, previous=None):
        del previous
        ((name, x),) = batch.leaves.items()
        bound = self.process.bind(batch)
        level = bound[name].level(t[name], x)
        index = batch.ids
        centre, mean = getattr(bound[name], "centre", 0.0), self.mean[index].to(x)
        gain = level.alpha * self.std**2 / (level.alpha**2 * self.std**2 + level.sigma**2)
        seen = x - (1 - level.alpha) * centre - level.alpha * mean
        if self.basis is not None:
            basis = self.basis[index].to(x)
            inside = torch.einsum("nke,ne->nk", basis, seen.flatten(1))
            seen = torch.einsum("nk,nke->ne", inside, basis).reshape(x.shape)
        return bound.oracle({name: mean + gain * seen}, batch.leaves, t)


def exact(folder, mean, std, basis=None, **groups):
    """A run of the settings, with the exact denoiser on the process that they make."""
    groups = {"task": ENHANCE, "sampler": {"threshold": "none"}, **groups}
    config, codec = settings(None, **groups), AudioCodec(RATE, LENGTH)
    fields = fields_of(config, codec)
    empty = FieldModel(config, fields, None, Normal(None, mean, std))
    process = build(config, fields, empty.record).process
    model = FieldModel(config, fields, None, Normal(process, mean, std, basis))
    return Run(RunFolder(folder), config, codec, model)


SYSTEMS = {
    "plain": (False, {"kind": "ancestral", "steps": 500}),
    "prior of an encoder": (True, {"kind": "ddim"}),
    "deterministic": (False, {"kind": "ddim"}),
    "shallow": (False, {"kind": "ddim", "start": 0.3}),
    "all": (True, {"kind": "ddim", "start": 0.3}),
    "all, by Heun": (True, {"kind": "heun", "start": 0.3}),
    "hardly any walk": (True, {"kind": "ddim", "start": 0.001}),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_spectrogram_model_composes_prior_walk_and_start_by_settings(tmp_path, name):
    """Draws have the law of the data: mean, and deviation where the walk was long enough.

    What the shown guess, off by 0.3, gets wrong is contracted by alpha s / sqrt(alpha^2 s^2 +
    sigma^2) at the start, and the deviation by sigma over the same root.
    """
    centre, sampler = SYSTEMS[name]
    start, std, samples = sampler.get("start", 1.0), 0.1, 600
    event = form_of(settings(None), AudioCodec(RATE, LENGTH)).event
    mean = torch.rand(event, generator=torch.Generator().manual_seed(0)) * 0.8 - 0.4
    run = exact(
        tmp_path,
        mean.expand(samples, *event),
        std,
        noise={"centre": centre},
        sampler={"threshold": "none", "steps": 200, "batch_size": samples, **sampler},
    )
    asked = run.request(samples, fields={NOISY: (mean + 0.3).unsqueeze(0)})
    drawn = run.fields(asked, progress=False)
    schedule = run.model.denoiser.process["mel"].schedule
    alpha, sigma = (float(f(torch.tensor(start))) for f in (schedule.alpha, schedule.sigma))
    root = math.sqrt(alpha**2 * std**2 + sigma**2)
    bias = 0.0 if start == 1 else 0.3 * alpha * std / root
    gap = drawn.mean(0) - mean
    assert float((gap - bias).abs().max()) < 5 * std / math.sqrt(samples)
    assert float(drawn.std(0).mean()) == pytest.approx(std * sigma / root, rel=0.05)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.6, 1.0])
def test_the_mean_fades_from_the_clean_sound_into_the_noisy_one(tmp_path, t):
    """rho x_0 + (1 - rho) y with rho = exp(-1/2 int beta) of the linear schedule, by settings."""
    noise = {"schedule": "linear", "centre": True}
    run = exact(tmp_path, torch.zeros(3), 1.0, noise=noise, sound={"model": "wave"})
    clean = torch.from_numpy(sine(LENGTH / RATE)).double().expand(3, 1, -1)
    noisy = noised(clean[:1], 5.0, Counter(0)).expand(3, 1, -1)
    batch = run.model.record.batch(clean, {NOISY: noisy})
    bound = run.model.denoiser.process.bind(batch)
    times = bound.times(torch.tensor(t, dtype=torch.float64))
    found = bound.diffuse(batch.leaves, times, Impulses())["wave"]
    rho = math.exp(-0.5 * (0.1 * t + 0.5 * 19.9 * t**2))
    torch.testing.assert_close(found[0], rho * clean[0] + (1 - rho) * noisy[0])
    spread = torch.full_like(clean[0], math.sqrt(1 - rho**2))
    torch.testing.assert_close(found[1] - found[0], spread)


@pytest.mark.parametrize("start", [1.0, 0.5])
def test_the_gain_on_tones_under_noise_is_that_of_the_exact_posterior(tmp_path, start):
    """Tones a cos + b sin of known pitch, N(0, s^2) in their plane, under noise of deviation r.

    Given y the tone is N(m, v B B^T), v = s^2 r^2 / (s^2 + r^2), m = v / r^2 B B^T y. A draw
    misses the tone by 2 v in each of the two dimensions, noise by r^2 in each of 200.
    """
    samples, std, level = 150, 2.0, 0.2
    random = torch.Generator().manual_seed(0)
    pitch = 100 + 800 * torch.rand(samples, 1, generator=random, dtype=torch.float64)
    angle = 2 * math.pi * pitch / RATE * torch.arange(LENGTH)
    basis = torch.linalg.qr(torch.stack([angle.cos(), angle.sin()], 1).mT)[0].mT
    part = std * torch.randn(samples, 2, generator=random, dtype=torch.float64)
    clean = torch.einsum("nk,nke->ne", part, basis).unsqueeze(1)
    noisy = clean + level * torch.randn(clean.shape, generator=random, dtype=torch.float64)
    v = std**2 * level**2 / (std**2 + level**2)
    inside = torch.einsum("nke,ne->nk", basis, noisy.squeeze(1))
    mean = v / level**2 * torch.einsum("nk,nke->ne", inside, basis).unsqueeze(1)
    run = exact(
        tmp_path,
        mean,
        math.sqrt(v),
        basis,
        sound={"model": "wave"},
        noise={"centre": True},
        sampler={"kind": "ancestral", "steps": 40, "start": start, "threshold": "none"},
    )
    drawn = run.fields(run.request(samples, fields={NOISY: noisy.float()}), progress=False)
    error = (drawn - clean).square().sum((1, 2))
    assert float(error.mean()) == pytest.approx(4 * v, rel=0.2)
    made, dirty = (
        [Sound(one.float().numpy(), RATE) for one in x.squeeze(1)] for x in (drawn, noisy)
    )
    whole = Clips.of([Sound(x.float().numpy(), RATE) for x in clean.squeeze(1)], LENGTH, RATE)
    told = gains(dirty, made, whole, phases=True)
    expected = 10 * math.log10(LENGTH * level**2 / (4 * v))
    # The mean of the logarithm of a sum of two squares is below the logarithm of their mean.
    assert expected - 1 < told["gain in signal to noise (dB)"] < expected + 4


def test_the_noise_has_the_asked_ratio_is_drawn_anew_and_alike_in_any_batch(source):
    waves = torch.from_numpy(np.stack([sine(0.1), sine(0.1, level=0.05)])).unsqueeze(1)
    added = noised(waves, 7.0, Counter(0)) - waves
    ratio = 10 * torch.log10(waves.square().mean(2) / added.square().mean(2))
    # A variance of 200 normal numbers is known to 10 %, 0.43 dB.
    assert (ratio - 7).abs().max() < 4 * 0.43
    config, codec = settings(None, task=ENHANCE), AudioCodec(RATE, LENGTH)
    fields, form = fields_of(config, codec), form_of(config, codec)
    clips = Clips.of([Sound(wave, RATE) for wave in waves.squeeze(1).numpy()], LENGTH, RATE)
    batch = Collating(ClipFields(clips, form, NOISY), fields, None)(np.arange(2))
    made = Made(None, fields.conditions, form.event[1:])
    shown = made.made(batch, Counter(3)).condition[NOISY]
    assert shown.shape == batch["mel"].shape
    alone = made.made(batch.select([1]), Counter(3)).condition[NOISY]
    assert torch.equal(alone[0], shown[1])
    assert not torch.equal(made.made(batch, Counter(4)).condition[NOISY], shown)
    # What is shown is the spectrogram of the noisy wave, not a noisy spectrogram.
    assert torch.equal(
        Noised(form, LENGTH, 7.0)(waves, Counter(0)), form.fields(noised(waves, 7.0, Counter(0)))
    )
    assert Noised(Waves(LENGTH), LENGTH, 7.0)(waves, Counter(0)).equal(
        noised(waves, 7.0, Counter(0))
    )


SMALL = {
    "task": ENHANCE,
    "sound": {"model": "wave", "bands": 12},
    "noise": {"centre": True},
    "network": {"kind": "dilated", "width": 32, "layers": 6, "cycle": 6, "patch": 4},
    "training": {"steps": 150, "batch_size": 16, "learning_rate": 4e-3, "ema": 0.9},
    "sampler": {"steps": 2, "start": 0.5, "batch_size": 16},
}


@pytest.fixture(scope="module")
def enhancing(tmp_path_factory):
    """A model of sines of two pitches, trained for seconds."""
    folder = tmp_path_factory.mktemp("enhancing")
    path = str(recordings(folder / "sines"))
    config = settings(None, data={"path": path, "classes": "none"}, **SMALL)
    return train(config, folder / "run", say=lambda _: None)


def test_a_trained_model_takes_noise_off_sines(enhancing, tmp_path):
    found = evaluate_run(enhancing, 4, out=tmp_path / "page", say=lambda _: None, progress=False)
    assert abs(found.gains["signal to noise of noisy sounds (dB)"] - 5) < 1
    assert found.gains["gain in signal to noise (dB)"] > 3
    (row,) = [row for row in found.rows() if "gain in signal to noise" in row[0]]
    assert row[1] == f"{found.gains['gain in signal to noise (dB)']:.3g}"


def test_recordings_are_enhanced_from_python_and_at_the_command_line(enhancing, tmp_path):
    noisy = under_noise(Clips.of([Sound(sine(0.12), RATE)], 240, RATE), 5.0)[0]
    (one,) = enhancing.enhanced([noisy], seed=3, progress=False)
    (same,) = enhancing.sample(1, known=Known(noisy), seed=3, progress=False)
    np.testing.assert_array_equal(one.wave, same.wave)
    path, out = keep(tmp_path, "noisy.wav", noisy.wave, subtype="FLOAT"), tmp_path / "clean.npz"
    words = ["sample", enhancing.folder.path, "-n", 1, "-o", out, "--given", path, "--seed", 3]
    main([str(word) for word in words])
    np.testing.assert_allclose(np.load(out)["wave"][0], one.wave, atol=1e-4)


def test_settings_are_the_same_from_python_toml_and_the_command_line(source, tmp_path):
    text = """
        [task]
        kind = "enhance"
        snr = 3.0
        [noise]
        centre = true
        [sampler]
        start = 0.3
    """
    config = AudioConfig.model_validate(tomllib.loads(text))
    assert config == AudioConfig(
        task={"kind": "enhance", "snr": 3.0}, noise={"centre": True}, sampler=config.sampler
    )
    words = ["--task.kind", "enhance", "--task.snr", "3", "--noise.centre"]
    words += ["--sampler.start", "0.3", "--sound.bands", "12", "--training.steps", "1"]
    words += ["--network.width", "8", "--network.multipliers", "1", "--network.attention"]
    out = tmp_path / "run"
    main(["train", "audio", "--data", str(source), "--out", str(out), *words])
    kept = Run.load(out).config
    assert (kept.task, kept.noise) == (config.task, config.noise)
    assert kept.sampler.start == config.sampler.start == 0.3
    assert "--given own.wav" in (out / "README.md").read_text()
    assert "takes white noise off, trained at 3 dB" in (out / "README.md").read_text()


def test_what_does_not_go_together_is_refused(enhancing, mel):
    own = Sound(sine(), RATE)
    for known in (Known(), Known(own, gap=(0.0, 0.01)), Known(own, noise=0.1)):
        with pytest.raises(ValueError, match="is shown the noisy sound: give one, without gap"):
            enhancing.sample(1, known=known, progress=False)
    with pytest.raises(ValueError, match="by a model of task.kind enhance, got task.kind none"):
        mel.enhanced([own])
    with pytest.raises(ValueError, match="got task.kind enhance and 0 sounds"):
        enhancing.enhanced([])
    with pytest.raises(ValueError, match=r"sampler.start = 0.5 needs .* it is shown none"):
        mel.sample(1, start=0.5, progress=False)
    with pytest.raises(ValueError, match="task.kind enhance is of sound.model mel or wave"):
        settings(None, task=ENHANCE, sound={"model": "vocoder"})
    with pytest.raises(ValueError, match="less than or equal to 60"):
        settings(None, task={"kind": "enhance", "snr": 100.0})
    codec = AudioCodec(RATE, LENGTH)
    around = settings(None, noise={"centre": True})
    fields = fields_of(around, codec)
    model = FieldModel(around, fields, None, Normal(None, None, 1.0))
    with pytest.raises(ValueError, match="noise.centre = true needs a model that is shown"):
        build(around, fields, model.record)
