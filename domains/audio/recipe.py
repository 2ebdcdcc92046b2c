"""The audio recipe: which sounds, what the model is of, and the settings that fit.

A model is of log-mel spectrograms (or latents of them), from which waves are made by the
reconstruction of phases or by a vocoder; of waves (or latents of them); or it is such a vocoder,
of waves whose spectrogram is known. With the task `enhance` a model of waves or spectrograms takes
noise off a sound that it is shown. All else is shared with other fields, see
`structdiff.runs.fields`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from structdiff.codecs.mel import Mel
from structdiff.domains.audio.codec import AudioCodec
from structdiff.domains.audio.data import DataConfig
from structdiff.domains.audio.enhancing import NOISY, Noised
from structdiff.domains.audio.forms import Form, MelOfWave, Spectra, Waves, mel_windows
from structdiff.runs import Settings
from structdiff.runs.fields import FieldConfig, Fields, NetworkConfig, SamplerConfig
from structdiff.training import TrainingConfig

__all__ = ["AudioConfig", "SoundConfig", "TaskConfig", "fields_of", "form_of", "spectra_of"]


class SoundConfig(Settings):
    """What the model is a model of."""

    model: Literal["mel", "wave", "vocoder"] = "mel"
    """Log-mel spectrograms, waves, or waves whose spectrogram is known."""
    bands: int = Field(default=32, ge=1, le=1_000)
    """Of a spectrogram."""
    window: float = Field(default=0.032, gt=0, le=1)
    """Length of its windows, in seconds."""
    hop: float = Field(default=0.008, gt=0, le=1)
    """Time between two of them, in seconds; at most half a window."""
    floor: float = Field(default=1e-4, gt=0, lt=1)
    """Least magnitude that is told from silence."""
    iterations: int = Field(default=64, ge=1, le=10_000)
    """Of the reconstruction of phases."""
    vocoder: str | None = None
    """Folder of the run of a vocoder that makes waves of spectrograms; without one, phases are
    reconstructed."""

    @model_validator(mode="after")
    def _fits(self) -> SoundConfig:
        if 2 * self.hop > self.window:
            msg = (
                f"sound.hop = {self.hop:g} must be at most half of sound.window = "
                f"{self.window:g}: choose a smaller one"
            )
            raise ValueError(msg)
        if self.vocoder is not None and self.model != "mel":
            msg = f"sound.vocoder is for sound.model mel, got {self.model}: leave it out"
            raise ValueError(msg)
        return self


class TaskConfig(Settings):
    """What the model is trained to do with a sound that it is shown."""

    kind: Literal["none", "enhance"] = "none"
    """Nothing; to take noise off."""
    snr: float = Field(default=5.0, ge=-60, le=60)
    """Of enhance: ratio of signal to noise of what is shown in training, in dB."""


class AudioConfig(FieldConfig):
    """Everything about a run."""

    data: DataConfig = DataConfig()
    sound: SoundConfig = SoundConfig()
    task: TaskConfig = TaskConfig()
    network: NetworkConfig = NetworkConfig(
        width=16, multipliers=(1, 2, 2), blocks=1, attention=(2,), features=64
    )
    sampler: SamplerConfig = SamplerConfig(guidance=2.0)
    training: TrainingConfig = TrainingConfig(
        steps=2_000, batch_size=16, learning_rate=1e-3, warm_up=100, validate_every=500, ema=0.995
    )

    @model_validator(mode="after")
    def _has_one_task(self) -> Self:
        if self.task.kind != "none" and self.sound.model == "vocoder":
            msg = (
                f"task.kind {self.task.kind} is of sound.model mel or wave: a vocoder is shown "
                "spectrograms; leave one of them out"
            )
            raise ValueError(msg)
        return self

    @property
    def shown(self) -> Literal["", "vocoder", "enhance"]:
        """What the model does with a sound that it is shown; empty if it is shown none."""
        if self.sound.model == "vocoder":
            return "vocoder"
        return "enhance" if self.task.kind == "enhance" else ""


def spectra_of(config: SoundConfig, codec: AudioCodec, multiple: int = 1) -> Spectra:
    """The spectrograms of the settings.

    Arguments:
        config: The settings.
        codec: Rate and length of the waves.
        multiple: What divides the places of a field.

    Raises:
        ValueError: If there are too many bands for the windows, or clips are too short for one.
    """
    window, hop = mel_windows(codec.rate, config.window, config.hop)
    try:
        mel = Mel(
            codec.event,
            float(codec.rate),
            mels=config.bands,
            window=window,
            hop=hop,
            floor=config.floor,
            iterations=config.iterations,
        )
    except ValueError as error:
        msg = f"sound.bands, sound.window and sound.hop make no spectrogram: {error}"
        raise ValueError(msg) from None
    return Spectra(mel, multiple)


def form_of(config: AudioConfig, codec: AudioCodec) -> Form:
    """What a field of a run is."""
    multiple = 1 if config.codec.kind in ("none", "standardise") else 2**config.codec.halvings
    if config.sound.model != "mel":
        return Waves(codec.length, multiple)
    return spectra_of(config.sound, codec, multiple)


def fields_of(config: AudioConfig, codec: AudioCodec) -> Fields:
    """The fields of a run with what they are conditioned on.

    A vocoder knows the spectrogram alone, and what takes noise off the noisy sound, so they serve
    sounds of any class.
    """
    form = form_of(config, codec)
    if config.sound.model == "vocoder":
        mel = MelOfWave(spectra_of(config.sound, codec))
        return Fields(form.leaf, form.event, conditions={"mel": mel})
    if config.task.kind == "enhance":
        noised = Noised(form, codec.length, config.task.snr)
        return Fields(form.leaf, form.event, conditions={NOISY: noised}, near=NOISY)
    return Fields(form.leaf, form.event, codec.classes)
