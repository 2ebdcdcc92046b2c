"""How good a model of sounds is: a page with pictures and sounds, beside real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from structdiff.artifacts import write_atomic
from structdiff.domains.audio.clips import Clips, Data
from structdiff.domains.audio.codec import AudioCodec
from structdiff.domains.audio.enhancing import gains, under_noise
from structdiff.domains.audio.generation import asked_of
from structdiff.domains.audio.judging import held_of, judge_of, judged
from structdiff.domains.audio.metrics import log_mel_distance, stft_distance
from structdiff.domains.audio.output import encode
from structdiff.domains.audio.pictures import spectrograms
from structdiff.domains.audio.run import Run, load_data
from structdiff.domains.audio.sounds import Sound
from structdiff.metrics.judge import JUDGING
from structdiff.metrics.judgement import Judgement
from structdiff.reports.page import Picture
from structdiff.runs.fields.evaluation import settings_of, table, write_evaluation
from structdiff.training import TrainingConfig

__all__ = ["Evaluation", "evaluate_run"]

_SHOWN = 32
_COPIED = 16  # held-out sounds that are made again of their spectrograms


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    Arguments:
        drawn: The sounds; of a vocoder, held-out sounds made again; of a model that takes noise
            off, held-out sounds that were under noise.
        judgement: Distances, accuracy, neighbours.
        again: How far held-out sounds are from themselves made again of their fields: name to
            mean; empty where fields are waves.
        gains: How near held-out sounds under noise were and are: name to mean; empty where no
            noise was taken off.
        files: What was written.
    """

    drawn: list[Sound]
    judgement: Judgement
    again: dict[str, float]
    gains: dict[str, float] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def rows(self) -> list[list[str]]:
        """The table, the head first."""
        more = [[f"real sounds made again: {n}", f"{x:.3g}", "0"] for n, x in self.again.items()]
        told = [[f"held-out sounds: {n}", f"{x:.3g}", ""] for n, x in self.gains.items()]
        return [*self.judgement.rows(), *told, *more]

    def table(self) -> str:
        """All of it with the protocol, Markdown."""
        return table(self)

    def numbers(self) -> dict[str, Any]:
        """All of it, for JSON."""
        told = {"real sounds made again": self.again, "held-out sounds under noise": self.gains}
        return {**self.judgement.numbers(), **told}


def evaluate_run(
    run: Run,
    clips: int = 200,
    *,
    condition: Mapping[str, str] | None = None,
    seed: int = 0,
    out: Path | None = None,
    source: Path | None = None,
    judging: TrainingConfig = JUDGING,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Evaluation:
    """Draw sounds, measure them beside real ones, and write a page, sounds and pictures.

    A model of classes draws every class in turn, unless the condition says which. A vocoder makes
    held-out sounds again of their spectrograms; a model that takes noise off gets held-out sounds
    under noise as in training, which follows from the seed.

    Arguments:
        run: The model.
        clips: How many to draw.
        condition: `label`: classes with commas between them; `seconds`.
        seed: Start of the random numbers.
        out: Folder for what is written, `samples/` of the run by default.
        source: Where the run's sounds lie, if not where its config says.
        judging: Settings of the judge's training.
        say: Where to report.
        progress: Whether to show bars.

    Raises:
        ValueError: If there are fewer than three sounds of either kind.
    """
    if clips < 3:
        msg = f"at least 3 clips are needed to measure anything, got {clips}"
        raise ValueError(msg)
    folder = out or run.folder.samples
    data = load_data(run.config, source, run.codec)
    held = held_of(data)
    if len(held) < 3:
        msg = f"{data.name} has no sounds that are not trained on: give more recordings"
        raise ValueError(msg)
    say(f"drawing {clips} clips, {run.config.sampler.kind}")
    drawn, told = _drawn(run, clips, held, condition or {}, seed, progress=progress)
    if data.train.classes:
        say("the judge: a classifier of the real sounds, trained once for each data set")
    judge = judge_of(data, config=judging) if data.train.classes else None
    say("measuring what was drawn beside real sounds")
    judgement = judged(drawn, data, judge, seed=seed)
    evaluation = Evaluation(drawn, judgement, _again(run, held), told)
    folder.mkdir(parents=True, exist_ok=True)
    _keep(folder, run, data, evaluation, seed)
    return evaluation


def _drawn(
    run: Run, clips: int, held: Clips, condition: Mapping[str, str], seed: int, *, progress: bool
) -> tuple[list[Sound], dict[str, float]]:
    """What is measured, and what was won; of what a model is shown, held-out sounds, spread."""
    if not run.config.shown:
        asked = asked_of(run, clips, condition, None, seed)
        return run.sounds(run.fields(asked, progress=progress), asked), {}
    some, told = held.subset(np.linspace(0, len(held) - 1, clips).astype(int)), dict[str, float]()
    if run.config.shown == "vocoder":
        made = run.vocoded(some.sounds(), seed=seed, progress=progress)
    else:
        noisy = under_noise(some, run.config.task.snr, seed)
        made = run.enhanced(noisy, seed=seed, progress=progress)
        told = gains(noisy, made, some, phases=run.config.sound.model == "wave")
    pairs = zip(made, some.sounds(), strict=True)
    return [Sound(one.wave, one.rate, own.label, own.name) for one, own in pairs], told


def _again(run: Run, held: Clips) -> dict[str, float]:
    """Distances of held-out sounds from what their fields become: what the way back costs."""
    if run.config.sound.model == "wave":
        return {}
    some = held.subset(np.arange(min(_COPIED, len(held))))
    clean = torch.from_numpy(some.wave)
    if run.config.sound.model == "vocoder":
        made = AudioCodec.of(some).encode(run.vocoded(some.sounds(), progress=False))["wave"]
    else:
        made = run.waves(run.form.fields(clean.unsqueeze(1)))
    found = made.squeeze(1)
    return {
        "log-mel distance (dB)": float(log_mel_distance(found, clean, some.rate).mean()),
        "multi-resolution distance": float(stft_distance(found, clean, some.rate).mean()),
    }


def _keep(folder: Path, run: Run, data: Data, evaluation: Evaluation, seed: int) -> None:
    """Write sounds, pictures, page and numbers."""
    files, shown = evaluation.files, evaluation.drawn[:_SHOWN]
    near = evaluation.judgement.copying.drawn
    order = near.distance.argsort()[:8].tolist()
    train = data.train.subset([int(near.place[i]) for i in order]).sounds()
    pairs = [*(evaluation.drawn[i] for i in order), *train]
    names = [*("drawn" for _ in order), *("nearest" for _ in order)]
    content = {
        "sounds.wav": encode(".wav", shown),
        "sounds.zip": encode(".zip", evaluation.drawn),
        "spectrograms.png": spectrograms(shown),
        "real.png": spectrograms(held_of(data).sounds()[:_SHOWN]),
        "nearest.png": spectrograms(pairs, names, columns=len(order)),
    }
    for name, value in content.items():
        write_atomic(folder / name, value)
        files.append(folder / name)
    pictures = [
        Picture(folder / "spectrograms.png", "Drawn sounds, the first ones, none rejected."),
        Picture(folder / "real.png", "Held-out sounds."),
        Picture(
            folder / "nearest.png",
            "The drawn sounds that are nearest to training sounds, and below each the one that it "
            "is nearest to.",
        ),
    ]
    settings = settings_of(run, len(evaluation.drawn), data.report, seed)
    files += write_evaluation(
        run, folder, evaluation, pictures, settings, unit="a clip", entries="log-mel spectrograms"
    )
