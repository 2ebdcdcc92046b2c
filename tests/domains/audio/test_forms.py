"""Spectrograms as fields: their range, what of them is known beside a gap, and the way back."""

import math

import pytest
import torch

from structdiff.codecs.mel import Mel, mel_filters
from structdiff.domains.audio.forms import MelOfWave, Spectra, Waves, mel_windows
from structdiff.domains.audio.metrics import log_mel_distance
from structdiff.domains.audio.tones import tones
from structdiff.random import Generator

RATE = 4_000


def spectra(length=1_000, **changes):
    """Spectrograms of 12 bands."""
    return Spectra(Mel((1, length), RATE, mels=12, window=128, hop=32, floor=1e-4, **changes))


def test_the_loudest_tone_is_one_and_silence_is_minus_one():
    form = spectra()
    # The narrowest band is the first: its triangle is the highest.
    filters = mel_filters(12, 128, RATE, low=0.0, high=RATE / 2)
    place = int(filters[0].argmax())
    wave = torch.cos(2 * math.pi * place / 128 * torch.arange(1_000, dtype=torch.float64))
    field = form.fields(wave.reshape(1, 1, -1))
    inside = field[0, 0, 0, 4:-4]
    assert (inside <= 1).all()
    assert inside.min() > 0.9
    silent = form.fields(torch.zeros(1, 1, 1_000, dtype=torch.float64))
    torch.testing.assert_close(silent, torch.full_like(silent, -1))


def test_ten_times_louder_is_the_same_step_everywhere():
    form = spectra()
    wave = 0.01 * torch.randn(
        1, 1, 1_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    step = form.fields(10 * wave) - form.fields(wave)
    span = form.high - form.low
    torch.testing.assert_close(step, torch.full_like(step, 2 * math.log(10) / span))


def test_waves_come_back_with_nearly_the_same_spectrum():
    sounds = [sound for sound in tones(2) if len(sound) >= 800]
    waves = torch.stack([torch.from_numpy(sound.wave[:800]) for sound in sounds]).unsqueeze(1)
    form = Spectra(Mel((1, 800), RATE, mels=32, window=128, hop=32, floor=1e-4, iterations=64))
    found = form.waves(form.fields(waves))
    distance = log_mel_distance(found.squeeze(1), waves.squeeze(1), RATE)
    assert distance.mean() < 3
    others = log_mel_distance(waves.roll(1, 0).squeeze(1), waves.squeeze(1), RATE)
    assert (distance < 0.3 * others).all()


def test_waves_above_the_full_scale_are_brought_to_it_and_not_cut():
    form = spectra()
    quiet = form.fields(0.3 * torch.sin(torch.arange(1_000) * 0.3).reshape(1, 1, -1))
    loud = quiet + 2 * math.log(10) / (form.high - form.low) * (quiet > -1)
    for field, peak in ((quiet, None), (loud, 1.0)):
        plain = form.mel.decode(form.low + (field.clamp(-1, 1) + 1) / 2 * (form.high - form.low))
        assert (float(plain.abs().max()) > 1) == (peak is not None)
        expected = plain if peak is None else plain / plain.abs().max()
        torch.testing.assert_close(form.waves(field), expected)


@pytest.mark.parametrize("gap", [(300, 400), (0, 10), (990, 1_000), (500, 501)])
def test_known_frames_are_those_that_the_gap_does_not_touch(gap):
    form = spectra()
    heard = torch.ones(1, 1, 1_000, dtype=torch.bool)
    heard[..., slice(*gap)] = False
    known = form.known(heard)
    assert known.shape == (1, 1, 12, form.event[2])
    random = torch.Generator().manual_seed(0)
    wave, other = torch.randn(2, 1, 1, 1_000, generator=random, dtype=torch.float64) / 9
    moved = form.fields(wave) != form.fields(torch.where(heard, wave, other))
    frames = moved.any(2, keepdim=True).expand_as(known)
    assert not (known & frames).any()
    # Hann's window is zero at its first sample.
    assert ((~known & ~frames)[:, :, 0].sum()) <= 2


def test_waves_are_their_own_fields_and_are_cut_at_the_full_scale():
    form, heard = Waves(5), torch.tensor([[[True, False, True, True, False]]])
    wave = torch.tensor([[[-2.0, 0.5, 0.0, 1.0, 3.0]]])
    assert form.fields(wave).equal(wave)
    assert form.waves(wave).tolist() == [[[-1.0, 0.5, 0.0, 1.0, 1.0]]]
    assert form.known(heard).equal(heard)


def test_places_are_made_to_divide_by_silence_that_is_known():
    wave = torch.randn(1, 1, 1_001, generator=torch.Generator().manual_seed(0)) / 9
    heard = torch.ones(1, 1, 1_001, dtype=torch.bool)
    mel = Mel((1, 1_001), RATE, mels=13, window=128, hop=32, floor=1e-4)
    for form, plain, size, silent in (
        (Waves(1_001, 8), Waves(1_001), (1, 1_008), 0.0),
        (Spectra(mel, 8), Spectra(mel), (1, 16, 32), -1.0),
    ):
        assert form.event == size
        field, inner = form.fields(wave), plain.fields(wave)
        inside = tuple(slice(n) for n in inner.shape)
        torch.testing.assert_close(field[inside], inner)
        known = torch.zeros_like(field, dtype=torch.bool)
        known[inside] = True
        assert (field[~known] == silent).all()
        torch.testing.assert_close(form.waves(field), plain.waves(inner))
        assert form.known(~heard)[~known].all()
        assert form.known(~heard)[inside].equal(plain.known(~heard))


def test_the_condition_of_a_vocoder_is_the_field_of_its_wave():
    form = spectra()
    wave = torch.randn(2, 1, 1_000, generator=torch.Generator().manual_seed(0))
    made = MelOfWave(form)(wave, Generator(0))
    torch.testing.assert_close(made, form.fields(wave)[:, 0])
    longer = Waves(1_000, 64).fields(wave)
    assert longer.shape[-1] > 1_000
    torch.testing.assert_close(MelOfWave(form)(longer, Generator(0)), made)


def test_windows_of_a_rate():
    assert mel_windows(22_050, 0.032, 0.008) == (706, 176)
    assert mel_windows(1_000, 0.004, 0.003) == (4, 2)  # at most half a window
