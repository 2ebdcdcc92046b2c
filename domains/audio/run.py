"""A trained model of sounds: training it, keeping it in a folder, drawing from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from structdiff.artifacts import RunFolder
from structdiff.domains.audio.clips import Data
from structdiff.domains.audio.codec import AudioCodec
from structdiff.domains.audio.data import read
from structdiff.domains.audio.enhancing import NOISY
from structdiff.domains.audio.fieldset import ClipFields
from structdiff.domains.audio.forms import Form
from structdiff.domains.audio.recipe import AudioConfig, fields_of, form_of, spectra_of
from structdiff.domains.audio.request import Known, held, labels_of, measured
from structdiff.domains.audio.sounds import Sound
from structdiff.runs import load_together, stored_config
from structdiff.runs.fields import FieldRun, Fields, Request

__all__ = ["Run", "load_data", "train"]

_CHUNK = 64  # fields that become waves together


def load_data(
    config: AudioConfig, path: Path | str | None = None, codec: AudioCodec | None = None
) -> Data:
    """The sounds of a config.

    Arguments:
        config: Settings.
        path: Where they lie, if not where the config says.
        codec: That of a trained model, if there is one: its rate, length and classes.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If nothing can be used.
    """
    asked: dict[str, Any] = config.data.model_dump()
    if path is not None:
        asked["path"] = path
    if codec is None:
        return read(**asked)
    known = {"rate": codec.rate, "seconds": codec.length / codec.rate, "known": codec.classes}
    return read(**asked | known)


def train(
    config: AudioConfig | None = None,
    out: Path | str = "runs/audio",
    *,
    say: Callable[[str], None] = print,
) -> Run:
    """Train on sounds, or go on with a run that was stopped.

    Arguments:
        config: Settings; the defaults train on spectrograms of synthesised tones.
        out: Folder of the run.
        say: Where to report.

    Raises:
        ValueError: If the sounds cannot be used, or the folder has another config.
        FileNotFoundError: If they are missing.
    """
    config = config or AudioConfig()
    data = load_together(lambda: load_data(config), config.training)
    codec = AudioCodec.of(data.train)
    form = form_of(config, codec)
    parts = [data.train, data.validation]
    if config.shown:
        parts = [part.unlabelled() for part in parts]
    waves = NOISY if config.shown == "enhance" else ""
    fields = [ClipFields(part, form, waves) for part in parts]
    check = fields[1] if len(fields[1]) else None
    return Run.trained(config, out, codec, fields[0], check, words=[data.report], say=say)


class Run(FieldRun[AudioConfig, AudioCodec]):
    """A model of sounds in a folder."""

    domain, unit, kind = "audio", "clip", AudioConfig

    @staticmethod
    def codec_from(state: dict[str, Any]) -> AudioCodec:
        """The codec with that state."""
        return AudioCodec.from_state(state)

    @staticmethod
    def fields_of(config: AudioConfig, codec: AudioCodec) -> Fields:
        """What the fields are."""
        return fields_of(config, codec)

    @cached_property
    def form(self) -> Form:
        """What a field is."""
        return form_of(self.config, self.codec)

    @cached_property
    def vocoder(self) -> Run | None:
        """The run that makes waves of spectrograms, if there is one.

        Raises:
            FileNotFoundError: If its folder is missing.
            ValueError: If it is no vocoder, or of other spectrograms.
        """
        path = self.config.sound.vocoder
        return None if path is None else vocoder_of(path, self.config, self.codec)

    def asked(
        self,
        clips: int,
        *,
        label: str | Sequence[str] | None = None,
        known: Known | None = None,
        seed: int = 0,
    ) -> Request:
        """What to draw.

        Arguments:
            clips: How many.
            label: The class of all, or of each; by default every class in turn; "" for any.
            known: What is known of each.
            seed: Start of the random numbers.

        Raises:
            ValueError: If something does not fit the model.
        """
        known = Known() if known is None else known
        shown = self.config.shown
        known.check(shown)
        seen = measured(self.codec, known)
        if seen is not None and self.form.leaf != "wave":
            msg = "a sound under noise is a wave, and this is a model of spectrograms: train one "
            raise ValueError(f"{msg}with sound.model wave")
        sounds = [known.sound] if shown and known.sound is not None else []
        return self.request(
            clips,
            label=None if shown else labels_of(self.codec, clips, label),
            fields=self._shown(sounds) if sounds else {},
            given=held(self.codec, self.form, known),
            seen=seen,
            seed=seed,
        )

    def sounds(self, fields: Tensor, asked: Request, low: int = 0) -> list[Sound]:
        """The sounds of fields that were drawn.

        Arguments:
            fields: `(samples, *event)`.
            asked: The request that they are a part of.
            low: Number of the first.
        """
        label = asked.condition.get("label")
        chosen = None if label is None else asked.part(label, low, low + len(fields)).tolist()
        names = [""] * len(fields) if chosen is None else [self.codec.classes[k] for k in chosen]
        waves = self.waves(fields, asked.seed).squeeze(1).numpy()
        return [
            Sound(wave, self.codec.rate, name, f"clip {number}")
            for number, (wave, name) in enumerate(zip(waves, names, strict=True), low)
        ]

    @torch.no_grad()
    def waves(self, fields: Tensor, seed: int = 0) -> Tensor:
        """Waves of fields, `(samples, 1, length)`; spectrograms go through the vocoder, if any.

        Arguments:
            fields: `(samples, *event)`.
            seed: Start of the vocoder's random numbers.
        """
        if self.vocoder is None:
            return torch.cat([self.form.waves(part) for part in torch.split(fields, _CHUNK)])
        bands, frames = spectra_of(self.config.sound, self.codec).event[1:]
        mel = {"mel": fields[:, 0, :bands, :frames].clamp(-1, 1)}
        asked = self.vocoder.request(len(fields), fields=mel, seed=seed)
        return self.vocoder.fields(asked, progress=False)

    def sample(
        self,
        clips: int,
        *,
        label: str | Sequence[str] | None = None,
        known: Known | None = None,
        seed: int = 0,
        progress: bool = True,
        **settings: float | str | None,
    ) -> list[Sound]:
        """Draw sounds; nothing is rejected or corrected.

        Arguments:
            clips: How many.
            label: The class of all, or of each; by default every class in turn; "" for any.
            known: What is known of each: a sound with a gap, or under noise, or when it ends; for
                a model that is shown a sound, that.
            seed: Start of the random numbers.
            progress: Whether to show a bar.
            settings: Fields of `SamplerConfig`: kind, steps, guidance, ...

        Raises:
            ValueError: If a number is out of range, or something does not fit the model.
        """
        run = self.drawing(**settings)
        asked = run.asked(clips, label=label, known=known, seed=seed)
        return run.sounds(run.fields(asked, progress=progress), asked)

    def vocoded(
        self, sounds: Sequence[Sound], *, seed: int = 0, progress: bool = True
    ) -> list[Sound]:
        """Sounds made again of their spectrograms by a vocoder, one of each.

        Arguments:
            sounds: The sounds.
            seed: Start of the random numbers.
            progress: Whether to show a bar.

        Raises:
            ValueError: If the run is no vocoder, or there is no sound.
        """
        if self.config.sound.model != "vocoder" or not sounds:
            has = f"a model of {self.config.sound.model} and {len(sounds)} sounds"
            msg = f"sounds are made again of their spectrograms by a vocoder, got {has}"
            raise ValueError(msg)
        return self._made_of(sounds, seed, progress=progress)

    def enhanced(
        self, sounds: Sequence[Sound], *, seed: int = 0, progress: bool = True
    ) -> list[Sound]:
        """Sounds with their noise taken off, one of each, by a model that was trained for it.

        Arguments:
            sounds: Noisy sounds, about as loud as those in training.
            seed: Start of the random numbers.
            progress: Whether to show a bar.

        Raises:
            ValueError: If the model was not trained for it, or there is no sound.
        """
        if self.config.task.kind != "enhance" or not sounds:
            has = f"task.kind {self.config.task.kind} and {len(sounds)} sounds"
            msg = f"noise is taken off sounds by a model of task.kind enhance, got {has}"
            raise ValueError(msg)
        return self._made_of(sounds, seed, progress=progress)

    def _made_of(self, sounds: Sequence[Sound], seed: int, *, progress: bool) -> list[Sound]:
        """A sound of each that the model is shown."""
        asked = self.request(len(sounds), fields=self._shown(sounds), seed=seed)
        return self.sounds(self.fields(asked, progress=progress), asked)

    def _shown(self, sounds: Sequence[Sound]) -> dict[str, Tensor]:
        """What the model is shown of sounds, by name."""
        plain = [Sound(sound.wave, sound.rate) for sound in sounds]
        waves = self.codec.encode(plain)["wave"]
        if self.config.shown == "enhance":
            return {NOISY: self.form.fields(waves)}
        return {"mel": spectra_of(self.config.sound, self.codec).fields(waves).squeeze(1)}


def vocoder_of(path: Path | str, config: AudioConfig, codec: AudioCodec) -> Run:
    """The run of a vocoder for these spectrograms.

    Arguments:
        path: Its folder.
        config: Settings of the run that makes the spectrograms.
        codec: Rate and length.

    Raises:
        FileNotFoundError: If the folder is missing.
        ValueError: If it is no vocoder, or of other spectrograms.
    """
    own = stored_config(RunFolder(path), "audio", AudioConfig)
    if own.sound.model != "vocoder":
        msg = f"{path} is a model of {own.sound.model}, no vocoder: train one with "
        raise ValueError(f"{msg}sound.model vocoder")
    run = Run.load(path)
    names = ("bands", "window", "hop", "floor")
    ours = [*(getattr(config.sound, name) for name in names), codec.rate, codec.length]
    theirs = [*(getattr(own.sound, name) for name in names), run.codec.rate, run.codec.length]
    if ours != theirs:
        msg = (
            f"the vocoder {path} is of other spectrograms: {', '.join(names)}, rate and length "
            f"are {theirs}, here {ours}; train one with the same settings"
        )
        raise ValueError(msg)
    return run
