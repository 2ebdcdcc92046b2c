"""Spoken digits: log-mel spectrograms in latents, made audible by reconstruction of phases.

The jobs of `latent_results.py` that are of sounds. The data are those of the Free Spoken Digit
Dataset in its standard split (`structdiff.domains.audio`); settings were chosen on the part for
validation, and the test part is looked at once. What is judged are waves: drawn spectrograms go
through the reconstruction of phases first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from structdiff.artifacts import write_atomic
from structdiff.domains.audio.clips import Clips
from structdiff.domains.audio.judging import judge_of, judged, pictures_of
from structdiff.domains.audio.metrics import log_mel_distance, stft_distance
from structdiff.domains.audio.output import write
from structdiff.domains.audio.pictures import spectrograms
from structdiff.domains.audio.recipe import AudioConfig
from structdiff.domains.audio.run import Run, load_data, train
from structdiff.domains.audio.sounds import Sound
from structdiff.metrics.comparison import accuracy
from structdiff.metrics.judge import JUDGING, Judge
from structdiff.reports.tables import markdown_table

DRAWN = 500
CALLS = 50
CONFIG: dict[str, Any] = {
    "data": {"seconds": 0.63},
    "sound": {"bands": 32, "hop": 0.01},
    "codec": {
        "kind": "kl",
        "channels": 4,
        "width": 24,
        "training": {
            "steps": 1000,
            "batch_size": 32,
            "learning_rate": 2e-3,
            "warm_up": 50,
            "ema": 0.99,
            "validate_every": 500,
            "save_seconds": 60,
            "device": "cpu",
        },
    },
    "network": {
        "width": 32,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention": (1,),
        "features": 128,
    },
    "training": {
        "steps": 1500,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "warm_up": 100,
        "ema": 0.995,
        "validate_every": 500,
        "save_seconds": 60,
        "device": "cpu",
    },
}
WAYS: dict[str, dict[str, Any]] = {
    "guided": {"kind": "ddim", "steps": CALLS // 2, "guidance": 2.0},
    "plain": {"kind": "ddim", "steps": CALLS, "guidance": 1.0},
}
JUDGED = JUDGING.model_copy(update={"steps": 800, "device": "cpu", "save_seconds": 60.0})


def config_of(data: Path) -> AudioConfig:
    """Settings of the run."""
    own = {**CONFIG["data"], "path": str(data / "fsdd" / "recordings.tar.xz")}
    return AudioConfig.model_validate({**CONFIG, "data": own})


def work_judge(out: Path, data: Path) -> dict[str, Any]:
    """Train the judge on the part for training."""
    judge = judge_of(
        load_data(config_of(data)), folder=out / "audio-judge" / "model", config=JUDGED
    )
    return {"about": judge.about(), **judge.facts}


def work_sounds(out: Path, data: Path) -> dict[str, Any]:
    """Train, draw all classes in turn, and judge the waves."""
    config, folder = config_of(data), out / "audio"
    began = time.process_time()
    run = train(config, folder / "run")
    seconds = time.process_time() - began
    sounds = load_data(config)
    judge = judge_of(sounds, folder=out / "audio-judge" / "model", config=JUDGED)
    labels = [run.codec.classes[number % 10] for number in range(DRAWN)]
    found: dict[str, Any] = {}
    for way, settings in WAYS.items():
        began = time.process_time()
        drawn = run.sample(DRAWN, label=labels, seed=1, batch_size=100, progress=False, **settings)
        spent = time.process_time() - began
        found[way] = {**judged(drawn, sounds, judge).numbers(), "cpu": spent}
        if way == "guided":
            shown = drawn[:40]
            write_atomic(folder / "drawn.png", spectrograms(shown[:20], columns=10))
            write(folder / "drawn.wav", shown, overwrite=True)
    real = [sound for sound in sounds.test.sounds() if sound.label][
        :: max(1, len(sounds.test) // 20)
    ]
    by_class = [
        next(one for one in sounds.test.sounds() if one.label == k) for k in run.codec.classes
    ]
    write_atomic(folder / "real.png", spectrograms([*by_class, *real[:10]], columns=10))
    weights = sum(weight.numel() for weight in run.model.denoiser.parameters())
    return {
        "parameters": weights,
        "cpu": seconds,
        "steps": config.training.steps,
        "facts": run.facts(),
        "made again": made_again(run, sounds.test, judge),
        **found,
    }


def made_again(run: Run, clips: Clips, judge: Judge) -> dict[str, Any]:
    """Real sounds through spectrogram and phases, and through the codec as well."""
    waves = torch.from_numpy(clips.wave).unsqueeze(1)
    fields = run.form.fields(waves)
    again = {"spectrogram": fields, "latent": run.model.decode(run.model.encode(fields))}
    found: dict[str, Any] = {}
    labels = np.zeros(len(clips), np.int64) if clips.label is None else clips.label
    for name, x in again.items():
        made = run.waves(x.clamp(-1, 1)).squeeze(1)
        named = [
            Sound(wave, clips.rate, clips.classes[k])
            for wave, k in zip(made.numpy(), labels, strict=True)
        ]
        shown = pictures_of(Clips.of(named, clips.length, clips.rate, clips.classes))
        clean = torch.from_numpy(clips.wave)
        found[name] = {
            "log_mel": float(log_mel_distance(made, clean, clips.rate).mean()),
            "stft": float(stft_distance(made, clean, clips.rate).mean()),
            "accuracy": accuracy(judge, shown, labels).value,
        }
    return found


def work(name: str, out: Path, data: Path) -> dict[str, Any]:
    """A job by name."""
    return work_judge(out, data) if name == "audio-judge" else work_sounds(out, data)


NEEDS: dict[str, Sequence[str]] = {"audio-judge": (), "audio": ("audio-judge",)}
"""Jobs and which others they need."""


def report(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables of what is there."""
    if "audio" not in found:
        return ""
    one = found["audio"]
    rows = [["measure", *WAYS, "as many real ones"]]
    shares = [one[way]["accuracy"] for way in WAYS]
    right = [f"{x['value']:.1%} [{x['low']:.1%}, {x['high']:.1%}]" for x in shares]
    rows.append(
        ["judged the digit asked for", *right, f"{one['guided']['accuracy of the judge']:.1%}"]
    )
    for measure, line in one["guided"]["measures"].items():
        each = [one[way]["measures"][measure]["drawn"]["value"] for way in WAYS]
        real = line["real"]["value"]
        rows.append([measure, *(f"{value:.3g}" for value in each), f"{real:.3g}"])
    near = [one[way]["nearest training spectrogram"] for way in WAYS]
    drawn = [f"{x['median of drawn']:.3f}" for x in near]
    rows.append(["nearest training spectrogram", *drawn, f"{near[0]['median of held-out']:.3f}"])
    again = [["test sounds made again of", "log-mel distance, dB", "spectra", "judged right"]]
    again += [
        [name, f"{x['log_mel']:.2f}", f"{x['stft']:.2f}", f"{x['accuracy']:.1%}"]
        for name, x in one["made again"].items()
    ]
    words = (
        f"The judge is {found['audio-judge']['about']}. {one['parameters']:,} parameters, "
        f"{one['steps']:,} updates, {one['cpu'] / 60:.1f} CPU minutes with the codec's training."
    )
    return "\n\n".join([words, markdown_table(rows), markdown_table(again)])


def pictures(out: Path, folder: Path) -> None:
    """Copies of the spectrograms."""
    for name in ("drawn", "real"):
        path = out / "audio" / f"{name}.png"
        if path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / f"sounds-{name}.png", path.read_bytes())
