"""Waves of spoken digits, of no class: the dilated network, in six steps and in fifty.

The job of `latent_results.py` that is of DiffWave's unconditional setting (its section 5.2): the
Free Spoken Digit Dataset at 4 kHz in its standard split, nothing said of the digit. The six steps
are at the noise levels of DiffWave's fast schedule (its section 5.1); the network is told
the level, so any will do. What is judged are the waves as they are drawn.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structdiff.artifacts import partition, write_atomic
from structdiff.domains.audio.clips import Clips
from structdiff.domains.audio.judging import judge_of, judged, pictures_of
from structdiff.domains.audio.output import write
from structdiff.domains.audio.pictures import spectrograms
from structdiff.domains.audio.recipe import AudioConfig
from structdiff.domains.audio.run import Run, load_data, train
from structdiff.domains.audio.sounds import Sound
from structdiff.metrics.judge import JUDGING, Judge, logits
from structdiff.reports.tables import markdown_table
from structdiff.runs.asked import noise_of
from structdiff.samplers import DDPM
from structdiff.schedules import CLEAN, Discrete, Grid, Schedule

DRAWN = 300
FAST = (1e-4, 1e-3, 1e-2, 5e-2, 0.2, 0.5)
"""Variances of the steps of DiffWave's fast schedule."""
CONFIG: dict[str, Any] = {
    "data": {"rate": 4000, "seconds": 0.512, "classes": "none"},
    "sound": {"model": "wave"},
    "codec": {"kind": "standardise"},
    "noise": {"shift": 2.0},
    "network": {
        "kind": "dilated",
        "width": 64,
        "layers": 14,
        "cycle": 7,
        "patch": 8,
        "features": 128,
    },
    "sampler": {"kind": "ddim", "grid": "quadratic", "guidance": 1.0},
    "training": {
        "steps": 2200,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "warm_up": 100,
        "ema": 0.995,
        "validate_every": 700,
        "save_seconds": 60,
        "device": "cpu",
    },
}
JUDGED = JUDGING.model_copy(update={"steps": 800, "device": "cpu", "save_seconds": 60.0})
NEEDS: dict[str, tuple[str, ...]] = {"audio-waves": ()}
"""The job, which needs no other."""


def config_of(data: Path, **changes: Any) -> AudioConfig:
    """Settings of the run; those of the data may be others."""
    own = {**CONFIG["data"], "path": str(data / "fsdd" / "recordings.tar.xz"), **changes}
    default = AudioConfig().network.model_dump()
    network = {**default, **CONFIG["network"]}
    return AudioConfig.model_validate({**CONFIG, "data": own, "network": network})


class Levels(Grid):
    """The times at which a schedule has the levels of DiffWave's fast schedule.

    Arguments:
        schedule: The schedule of latents x / scale.
        scale: What waves are divided by: their level is that of x.
    """

    def __init__(self, schedule: Schedule, scale: Tensor) -> None:
        named = Discrete(torch.tensor(FAST, dtype=torch.float64))
        steps = torch.arange(len(FAST), 0, -1, dtype=torch.float64) / len(FAST)
        self.found = schedule.time(named(steps).clock + scale.double().log())

    def times(self) -> Tensor:
        """The times, the noisiest first."""
        return torch.cat([self.found, self.found.new_tensor([CLEAN])])


@torch.no_grad()
def fast(run: Run, clips: int, seed: int) -> list[Sound]:
    """Sounds by the six steps of the fast schedule, each with fresh noise."""
    model, made = run.model, list[Tensor]()
    record, process = model.record, model.denoiser.process
    scale = torch.ones(1) if model.codec is None else model.codec.scale.flatten()
    walk = DDPM(model.denoiser, Levels(process[record.leaf].schedule, scale[0]))
    for part in partition(clips, 100):
        batch = record.batch(torch.zeros(part.high - part.low, *record.latent))
        drawn = walk.sample(batch, noise_of(seed, part, "batch"))
        made.append(model.decode(drawn[record.leaf]))
    return run.sounds(torch.cat(made), run.asked(clips, label="", seed=seed))


def scrambled(clips: Clips, seed: int = 0) -> list[Sound]:
    """Noise of the spectrum of each clip: its phases are drawn anew."""
    spectrum = np.fft.rfft(clips.wave, axis=1)
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, spectrum.shape)
    waves = np.fft.irfft(abs(spectrum) * np.exp(1j * angle), clips.length, axis=1)
    loudest = np.abs(waves).max(1, keepdims=True).clip(min=1)
    return [Sound(wave.astype(np.float32), clips.rate) for wave in waves / loudest]


def surety(judge: Judge, pictures: Tensor) -> dict[str, float]:
    """What the judge says of each and of all: how sure, of which classes, and their product.

    The score is exp(E KL(p(class | x), p(class))), from 1 to the number of classes.
    """
    p = logits(judge, pictures).double().softmax(1).cpu()
    counts = torch.bincount(p.argmax(1), minlength=judge.classes) / len(p)
    gain = (p * (p.clamp(min=1e-30) / p.mean(0).clamp(min=1e-30)).log()).sum(1).mean()
    return {
        "confidence": float(p.amax(1).mean()),
        "score": float(gain.exp()),
        "variation": float((counts - 1 / judge.classes).abs().sum() / 2),
    }


def work(out: Path, data: Path) -> dict[str, Any]:
    """Train model and judge, draw in both ways, and judge the waves."""
    folder = out / "audio-waves"
    began, whole = time.process_time(), not (folder / "run").exists()
    run = train(config_of(data), folder / "run")
    seconds = time.process_time() - began
    sounds = load_data(config_of(data, classes="auto"))
    judge = judge_of(sounds, folder=folder / "judge", config=JUDGED)
    began = time.process_time()
    six = fast(run, DRAWN, seed=1)
    middle = time.process_time()
    fifty = run.sample(DRAWN, label="", seed=1, batch_size=100, steps=50, progress=False)
    spent = {"six": middle - began, "fifty": time.process_time() - middle}
    ways = {"fifty": fifty, "six": six, "scrambled": scrambled(sounds.test)}
    found: dict[str, Any] = {}
    for way, drawn in ways.items():
        plain = [Sound(sound.wave, sound.rate) for sound in drawn]
        shown = pictures_of(Clips.of(plain, sounds.train.length, sounds.train.rate, ()))
        judgement = judged(plain, sounds, judge).numbers()
        found[way] = {**judgement, **surety(judge, shown), "cpu": spent.get(way)}
    shown = [*fifty[:10], *six[:10]]
    write_atomic(folder / "drawn.png", spectrograms(shown, columns=10))
    write(folder / "drawn.wav", shown, overwrite=True)
    weights = sum(weight.numel() for weight in run.model.denoiser.parameters())
    return {
        "parameters": weights,
        "cpu": seconds if whole else None,  # of a training that went on, a part is not known
        "steps": CONFIG["training"]["steps"],
        "about": judge.about(),
        "real": surety(judge, pictures_of(sounds.test)),
        **found,
    }


def report(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of what is there."""
    if "audio-waves" not in found:
        return ""
    one = found["audio-waves"]
    ways = ("fifty", "six", "scrambled")
    rows = [["measure", "50 steps", "6 steps", "scrambled test clips", "real ones"]]
    words = {
        "confidence": "mean confidence of the judge",
        "score": "inception score of the judge's classes",
        "variation": "its classes: total variation to uniform",
    }
    for name, said in words.items():
        rows.append([said, *(f"{one[way][name]:.3g}" for way in (*ways, "real"))])
    for measure, line in one["fifty"]["measures"].items():
        each = [one[way]["measures"][measure]["drawn"]["value"] for way in ways]
        real = line["real"]["value"]
        rows.append([measure, *(f"{value:.3g}" for value in each), f"{real:.3g}"])
    near = [one[way]["nearest training spectrogram"] for way in ways]
    drawn = [f"{x['median of drawn']:.3f}" for x in near]
    rows.append(["nearest training spectrogram", *drawn, f"{near[0]['median of held-out']:.3f}"])
    rows.append(["CPU s of drawing", *(f"{one[way]['cpu']:.0f}" for way in ways[:2]), "", ""])
    cpu = "" if one["cpu"] is None else f", {one['cpu'] / 60:.1f} CPU minutes"
    about = (
        f"Waves without classes, {DRAWN} drawn. The judge is {one['about']}. "
        f"{one['parameters']:,} parameters, {one['steps']:,} updates{cpu}. "
        "Scrambled clips are noise of their spectra."
    )
    return f"{about}\n\n{markdown_table(rows)}"


def pictures(out: Path, folder: Path) -> None:
    """A copy of the spectrograms."""
    path = out / "audio-waves" / "drawn.png"
    if path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "waves-drawn.png", path.read_bytes())
