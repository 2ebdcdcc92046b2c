"""What to draw: clips of which classes, and what of each is known beforehand.

What is known is a sound of which a *gap* is to be filled, a sound under *noise* of a known
strength, a sound whose spectrogram a vocoder makes a wave of, a noisy sound for a model that was
trained to take noise off, or how long each clip is: beyond that it is silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from structdiff.domains.audio.codec import AudioCodec
from structdiff.domains.audio.forms import Form
from structdiff.domains.audio.sounds import Sound
from structdiff.operators import Mask
from structdiff.runs.fields import Given, Seen

__all__ = ["Known", "held", "labels_of", "measured"]


class Known(NamedTuple):
    """What is known of each clip.

    Arguments:
        sound: A sound; None for none.
        gap: From when to when it is not heard, in seconds; None where all of it is.
        noise: Standard deviation of the noise on it.
        seconds: When each clip ends; None where it may be as long as any.
    """

    sound: Sound | None = None
    gap: tuple[float, float] | None = None
    noise: float | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, sound: Sound | None, words: Mapping[str, str]) -> Self:
        """What is asked for in words: `gap=0.1:0.3`, `noise=0.05`, `seconds=0.5`.

        Arguments:
            sound: What is given.
            words: Name to value.

        Raises:
            ValueError: If a name is not known, or a value is no such number.

        Example:
            >>> Known.of(None, {"seconds": "0.5"}).seconds
            0.5
        """
        unknown = sorted(words.keys() - {"gap", "noise", "seconds"})
        if unknown:
            msg = f"cannot ask for {unknown[0]}: there are label, gap, noise and seconds"
            raise ValueError(msg)
        gap = _gap(words["gap"]) if "gap" in words else None
        noise = _number("noise", words["noise"]) if "noise" in words else None
        seconds = _number("seconds", words["seconds"]) if "seconds" in words else None
        return cls(sound, gap, noise, seconds)

    def check(self, shown: Literal["", "vocoder", "enhance"] = "") -> None:
        """Refuse what does not go together.

        Arguments:
            shown: What the model does with a sound that it is shown; empty if it is shown none.

        Raises:
            ValueError: If there is such a thing.
        """
        for wrong, message in self._faults(shown):
            if wrong:
                raise ValueError(message)

    def _faults(self, shown: str) -> list[tuple[bool, str]]:
        alone = self.sound is not None and self.gap is None and self.noise is None
        return [
            (
                self.sound is None and (self.gap is not None or self.noise is not None),
                "gap and noise are of a sound: give one",
            ),
            (
                self.gap is not None and self.noise is not None,
                "a sound has a gap or noise, not both: leave one out",
            ),
            (
                shown == "vocoder" and not alone,
                "a vocoder makes a wave of the spectrogram of a sound: give one, without gap or "
                "noise",
            ),
            (
                shown == "enhance" and not alone,
                "a model that takes noise off is shown the noisy sound: give one, without gap or "
                "noise",
            ),
            (
                alone and not shown,
                "a sound was given and nothing asked of it: say gap=START:END, in seconds, or "
                "noise=DEVIATION",
            ),
            (
                self.noise is not None and not 0 < self.noise < float("inf"),
                f"noise must be the positive standard deviation of the noise, got {self.noise}",
            ),
            (
                self.seconds is not None and not 0 < self.seconds < float("inf"),
                f"seconds must be positive, got {self.seconds}",
            ),
            (
                self.seconds is not None and self.sound is not None,
                "seconds says how long a clip is that is drawn: leave it out with a sound",
            ),
        ]


def labels_of(codec: AudioCodec, clips: int, label: str | Sequence[str] | None) -> Tensor | None:
    """The number of the class of each clip, `(clips,)`; None for clips of any class.

    Arguments:
        codec: The classes.
        clips: How many clips.
        label: The class of all, or of each; by default every class in turn; "" for any.

    Raises:
        ValueError: If there is no such class, or another number of them.
    """
    if label is None:
        return torch.arange(clips) % len(codec.classes) if codec.classes else None
    if label == "":
        return None
    words = [label] * clips if isinstance(label, str) else list(label)
    if len(words) != clips:
        msg = f"label has {len(words)} classes for {clips} clips: give one, or one for each"
        raise ValueError(msg)
    return torch.tensor([codec.number(word) for word in words])


def held(codec: AudioCodec, form: Form, known: Known) -> Given | None:
    """What of the fields is held: what is heard beside a gap, or the silence after the end.

    Arguments:
        codec: Rate and length.
        form: What a field is.
        known: What is known.

    Raises:
        ValueError: If the gap is no part of the clip.
    """
    heard = torch.zeros(1, 1, codec.length, dtype=torch.bool)
    wave = torch.zeros(1, 1, codec.length)
    if known.sound is not None and known.gap is not None:
        start, stop = _places(codec, known.gap)
        wave = codec.encode([replace(known.sound, label="")])["wave"]
        heard[..., :start] = heard[..., stop:] = True
    elif known.seconds is not None:
        heard[..., round(known.seconds * codec.rate) :] = True
    else:
        return None
    return Given(form.fields(wave), form.known(heard))


def measured(codec: AudioCodec, known: Known) -> Seen | None:
    """The measurement of a wave under noise; None where there is none.

    Arguments:
        codec: Rate and length.
        known: What is known.
    """
    if known.sound is None or known.noise is None:
        return None
    wave = codec.encode([replace(known.sound, label="")])["wave"]
    everything = Mask(torch.ones(codec.event, dtype=torch.bool))
    return Seen(everything, wave.flatten(1), known.noise)


def _places(codec: AudioCodec, gap: tuple[float, float]) -> tuple[int, int]:
    """First and last (exclusive) sample of a gap.

    Raises:
        ValueError: If it is no part of the clip.
    """
    start, stop = (round(time * codec.rate) for time in gap)
    if not 0 <= start < stop <= codec.length:
        msg = (
            f"gap must be START:END within the {codec.length / codec.rate:g} s of a clip, got "
            f"{gap[0]:g}:{gap[1]:g}"
        )
        raise ValueError(msg)
    return start, stop


def _gap(word: str) -> tuple[float, float]:
    start, _, stop = word.partition(":")
    return _number("gap", start), _number("gap", stop)


def _number(name: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        must = "START:END, in seconds" if name == "gap" else "a number"
        msg = f"{name} must be {must}, got {word!r}"
        raise ValueError(msg) from None
