"""Log-mel spectrograms and the waves that they stand for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff.codecs.chain import Chain
from structdiff.codecs.mel import Mel, griffin_lim, hertz, mel, mel_filters
from structdiff.codecs.standardise import Standardise
from structdiff.codecs.stored import load_codec, save_codec

RATE, LENGTH = 8000.0, 6000


def voices() -> Tensor:
    """Harmonics of gliding pitch under moving formants, and a tone: `(3, 1, LENGTH)`."""
    t = torch.arange(LENGTH, dtype=torch.float64) / RATE
    waves = []
    for pitch, formant in ((110.0, 600.0), (210.0, 1500.0)):
        phase = 2 * math.pi * pitch * (t + 0.1 * t**2)
        order = torch.arange(1, 15, dtype=torch.float64)[:, None]
        weight = torch.exp(-(((order * pitch - formant * (1 + t)) / 500) ** 2)) + 0.02
        waves.append((weight * torch.sin(order * phase)).sum(0))
    waves.append(torch.sin(2 * math.pi * 440 * t))
    wave = torch.stack(waves) * torch.sin(math.pi * t * RATE / LENGTH) ** 2
    return (wave / wave.abs().amax(1, keepdim=True)).unsqueeze(1)


def log_spectral_distance(x: Tensor, y: Tensor, floor: float = 1e-2) -> Tensor:
    """Root mean square over frequencies, in decibels, mean over frames, `(samples,)`."""
    window = torch.hann_window(256, dtype=x.dtype)

    def decibels(wave: Tensor) -> Tensor:
        spectrum = torch.stft(wave[:, 0], 256, 64, window=window, return_complex=True)
        return 20 * spectrum.abs().clamp(min=floor).log10()

    return (decibels(x) - decibels(y)).square().mean(1).sqrt().mean(1)


def test_slaneys_scale_has_its_published_values() -> None:
    """40 frequencies from 0 to 11025 Hz, as librosa's documentation prints them."""
    printed = [0.0, 85.317, 170.635, 255.952, 341.269, 426.586, 511.904, 597.221, 682.538]
    printed += [767.855, 853.173, 938.49, 1024.856, 1119.114, 1222.042, 1334.436, 1457.167]
    printed += [1591.187, 1737.532, 1897.337, 2071.84, 2262.393, 2470.47, 2697.686, 2945.799]
    printed += [3216.731, 3512.582, 3835.643, 4188.417, 4573.636, 4994.285, 5453.621, 5955.205]
    printed += [6502.92, 7101.009, 7754.107, 8467.272, 9246.028, 10096.408, 11025.0]
    last = float(mel(torch.tensor(11025.0, dtype=torch.float64)))
    places = torch.linspace(0, last, 40, dtype=torch.float64)
    expected = torch.tensor(printed, dtype=torch.float64)
    torch.testing.assert_close(hertz(places), expected, rtol=0, atol=6e-4)
    torch.testing.assert_close(mel(expected), places, rtol=1e-6, atol=1e-5)


def test_the_htk_scale_has_a_thousand_mels_at_a_thousand_hertz() -> None:
    frequency = torch.tensor([0.0, 1000.0, 4000.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 999.9855, 2146.0645], dtype=torch.float64)
    torch.testing.assert_close(mel(frequency, "htk"), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(hertz(mel(frequency, "htk"), "htk"), frequency)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_filters_are_triangles_of_area_one_that_share_each_frequency(scale) -> None:
    """Area in Hz; and, at their heights, the triangles over a frequency add to one."""
    filters = mel_filters(40, 4096, 22050.0, low=0.0, high=11025.0, scale=scale)
    spacing = 22050 / 4096
    area = filters.sum(1) * spacing
    torch.testing.assert_close(area, torch.ones_like(area), rtol=0.02, atol=0)
    edges = hertz(torch.linspace(0, float(mel(torch.tensor(11025.0), scale)), 42), scale).double()
    height = (edges[2:] - edges[:-2]) / 2
    frequency = torch.arange(2049) * spacing
    inside = (frequency > edges[1]) & (frequency < edges[-2])
    shares = (filters * height[:, None]).sum(0)[inside]
    torch.testing.assert_close(shares, torch.ones_like(shares), rtol=0, atol=1e-4)
    peaks = filters.argmax(1) * spacing
    assert float((peaks - edges[1:-1]).abs().max()) <= spacing


def test_a_filter_has_the_value_that_librosa_prints() -> None:
    """librosa.filters.mel(sr=22050, n_fft=2048): 0, 0.016, ... in the first of 128 bands."""
    filters = mel_filters(128, 2048, 22050.0, low=0.0, high=11025.0)
    assert float(filters[0, 0]) == 0
    assert float(filters[0, 1]) == pytest.approx(0.016, abs=5e-4)


def test_a_tone_is_loudest_in_the_band_of_its_pitch() -> None:
    """And with the energy of a tone: half the sum of the window, through its filters."""
    codec = Mel((1, LENGTH), RATE, mels=40, window=512)
    t = torch.arange(LENGTH, dtype=torch.float64) / RATE
    place = 64
    tone = torch.sin(2 * math.pi * place * RATE / 512 * t)[None, None]
    z = codec.encode(tone)[0, 0, :, 12]
    bins = torch.tensor([place - 1, place, place + 1])
    # A Hann window of a tone on a frequency: N / 4, and half of it beside.
    spectrum = torch.tensor([64.0, 128.0, 64.0], dtype=torch.float64)
    expected = (codec.filters[:, bins] @ spectrum).clamp(min=codec.floor).log()
    loud = expected > math.log(1e-3)
    torch.testing.assert_close(z[loud], expected[loud], rtol=0, atol=1e-4)
    assert int(z.argmax()) == int(codec.filters[:, place].argmax())


def test_each_iteration_without_momentum_comes_nearer() -> None:
    """Griffin and Lim's theorem: the error of the magnitudes never rises."""
    codec = Mel((1, LENGTH), RATE, mels=40, window=512)
    magnitude = codec.unmixed(codec.encode(voices()).squeeze(1).exp())
    errors = []
    for iterations in range(1, 9):
        wave = griffin_lim(
            magnitude,
            LENGTH,
            window=codec.shape,
            hop=codec.hop,
            iterations=iterations,
            momentum=0.0,
        )
        gap = codec.magnitude(wave.unsqueeze(1)) - magnitude
        errors.append(gap.square().sum((1, 2)))
    falls = torch.stack(errors).diff(dim=0)
    assert bool((falls < 0).all())


def test_momentum_ends_nearer() -> None:
    x = voices()
    far, near = (Mel((1, LENGTH), RATE, mels=40, window=512, momentum=m) for m in (0.0, 0.99))
    aim = near.unmixed(near.encode(x).squeeze(1).exp())
    errors = [(c.magnitude(c.decode(c.encode(x))) - aim).norm() for c in (far, near)]
    assert float(errors[1]) < 0.95 * float(errors[0])


def test_bands_come_back_through_magnitudes_at_least_zero() -> None:
    codec = Mel((1, LENGTH), RATE, mels=40, window=512)
    bands = codec.encode(voices()).squeeze(1).exp()
    magnitude = codec.unmixed(bands)
    assert float(magnitude.min()) >= 0
    gap = (codec.filters @ magnitude - bands).norm() / bands.norm()
    assert float(gap) < 1e-3


def test_waves_come_back_to_a_few_decibels() -> None:
    """And much nearer than with the same magnitudes and phases that fit nothing."""
    x = voices()
    codec = Mel((1, LENGTH), RATE, mels=80, window=512, hop=64)
    y = codec.decode(codec.encode(x))
    assert y.shape == x.shape
    distance = log_spectral_distance(x, y)
    assert float(distance.max()) < 4.0
    source = torch.Generator().manual_seed(0)
    magnitude = codec.magnitude(x)
    angle = 2 * math.pi * torch.rand(magnitude.shape, generator=source, dtype=x.dtype)
    spectrum = torch.polar(magnitude, angle)
    wrong = torch.istft(spectrum, 512, 64, window=codec.shape, length=LENGTH).unsqueeze(1)
    assert bool((distance < 0.6 * log_spectral_distance(x, wrong)).all())


def test_silence_stays_silent() -> None:
    codec = Mel((1, 3000), RATE, mels=40, window=512)
    silence = torch.zeros(2, 1, 3000)
    z = codec.encode(silence)
    assert torch.equal(z, torch.full_like(z, math.log(1e-5)))
    assert float(codec.decode(z).abs().max()) < 1e-3


def test_nothing_is_drawn_and_samples_do_not_meet() -> None:
    x = voices().float()
    codec = Mel((1, LENGTH), RATE, mels=40, window=512, iterations=4)
    z = codec.encode(x)
    assert torch.equal(codec.decode(z), codec.decode(z))
    torch.testing.assert_close(codec.decode(z[1:2]), codec.decode(z)[1:2], rtol=0, atol=1e-4)


def test_frames_are_counted_for_any_length() -> None:
    for length in (1, 37, 256, 999):
        codec = Mel((1, length), RATE, mels=10, window=256, hop=100, iterations=2)
        z = codec.encode(torch.randn(2, 1, length))
        assert z.shape[1:] == codec.latent == (1, 10, 1 + length // 100)
        assert codec.decode(z).shape == (2, 1, length)


def test_there_is_no_density_and_bands_are_standardised(tmp_path) -> None:
    x = voices()
    mel_of = Mel((1, LENGTH), RATE, mels=40, window=512)
    assert mel_of.log_det(x) is None
    codec = Chain([mel_of, Standardise(mel_of.latent, axes=(0, 1))])
    codec.fit(x)
    z = codec.encode(x)
    torch.testing.assert_close(z.mean((0, 3)), torch.zeros(1, 40).double(), rtol=0, atol=1e-9)
    save_codec(tmp_path / "c.safetensors", codec)
    assert torch.equal(load_codec(tmp_path / "c.safetensors").encode(x), z)


def test_it_is_the_algorithm_written_with_torchs_inverse() -> None:
    """Where every sample is well seen, as with a quarter of a window between frames."""
    codec, x = Mel((1, LENGTH), RATE, mels=40, window=512), voices()
    magnitude, settings = codec.magnitude(x), {"window": codec.shape, "hop": 128}
    phase = torch.arange(257).double()[:, None] * torch.arange(magnitude.shape[2]) / 4
    spectrum, before = torch.polar(magnitude, (2 * math.pi * phase).expand_as(magnitude)), 0
    for _ in range(3):
        wave = torch.istft(spectrum, 512, 128, window=codec.shape, length=LENGTH)
        after = torch.stft(
            wave, 512, 128, window=codec.shape, pad_mode="constant", return_complex=True
        )
        ahead = after + 0.5 * (after - before)
        spectrum, before = magnitude * torch.sgn(ahead), after
    expected = torch.istft(spectrum, 512, 128, window=codec.shape, length=LENGTH)
    found = griffin_lim(magnitude, LENGTH, iterations=3, momentum=0.5, **settings)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("window", "hop", "rest"), [(512, 256, 255), (512, 200, 199)])
def test_a_wave_does_not_burst_where_the_edge_of_one_window_sees_it(window, hop, rest) -> None:
    length = 5 * hop + rest
    codec = Mel((1, length), RATE, mels=40, window=window, hop=hop, iterations=4)
    x = torch.randn(4, 1, length, generator=torch.Generator().manual_seed(0))
    y = codec.decode(codec.encode(x))
    assert float(y[..., -64:].abs().max()) < 2 * float(y[..., :-64].abs().max())


def test_filters_and_frames_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="low and high must satisfy .* got 100 and 100"):
        mel_filters(4, 64, RATE, low=100.0, high=100.0)
    with pytest.raises(ValueError, match="must have 8 frames for 1000 samples and hop = 128, got"):
        griffin_lim(torch.ones(1, 257, 9), 1000, window=torch.hann_window(512), hop=128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event": (2, 100)}, r"event must be \(1, length\), got \(2, 100\)"),
        ({"mels": 0}, "mels and iterations must be at least 1"),
        ({"hop": 300}, "hop must be from 1 to half of window = 512, got 300"),
        ({"high": 5000.0}, "low and high must satisfy 0 <= low < high <= rate / 2 = 4000"),
        ({"floor": 0.0}, r"floor must be positive and momentum in \[0, 1\]"),
        ({"scale": "bark"}, "scale must be 'slaney' or 'htk', got 'bark'"),
        ({"mels": 300}, "mels = 300 are too many for a window of 512 at 8000 Hz"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        Mel(**{"event": (1, 1000), "rate": RATE, "mels": 40, "window": 512, **arguments})


def test_waves_of_another_length_are_refused() -> None:
    codec = Mel((1, 1000), RATE, mels=40, window=512)
    with pytest.raises(ValueError, match=r"x must have shape \(samples, 1, 1000\)"):
        codec.encode(torch.zeros(2, 1, 999))
    with pytest.raises(ValueError, match=r"z must have shape \(samples, 1, 40, 8\)"):
        codec.decode(torch.zeros(2, 1, 40, 7))
