"""Distances of sounds against closed forms and scipy's transform."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import stft

from structdiff.domains.audio.metrics import (
    log_mel_distance,
    scaled_signal_to_noise,
    signal_to_noise,
    stft_distance,
)

RATE = 8_000


def noise(samples=3, length=4_000, seed=0):
    """White noise, loud in every band."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(samples, length, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("factor", [0.5, 0.9, 2.0])
def test_a_louder_sound_is_as_far_as_its_level_says(factor):
    wave = noise()
    level = torch.full((3,), abs(20 * math.log10(factor)), dtype=torch.float64)
    torch.testing.assert_close(log_mel_distance(factor * wave, wave, RATE), level)
    expected = torch.full_like(level, abs(factor - 1) + abs(math.log(factor)))
    # At the edge of what the windows see there may be less than the floor.
    torch.testing.assert_close(
        stft_distance(factor * wave, wave, RATE), expected, atol=2e-2, rtol=0
    )


@pytest.mark.parametrize("distance", [log_mel_distance, stft_distance])
def test_phases_do_not_count_and_other_sounds_do(distance):
    wave, other = noise(), noise(seed=1)
    assert distance(-wave, wave, RATE).max() < 1e-9
    assert distance(other, wave, RATE).min() > 0.3
    near, far = (distance(wave + level * other, wave, RATE) for level in (0.03, 0.3))
    assert (near < far).all()


def test_the_distance_of_one_resolution_is_that_of_the_papers():
    wave, other = noise(1), noise(1, seed=1)
    size = 256
    spectra = [
        np.abs(stft(x[0].numpy(), window="hann", nperseg=size, noverlap=192, padded=False)[2])
        * size
        / 2
        for x in (other, wave)
    ]
    found, clean = spectra
    convergence = np.linalg.norm(found - clean) / np.linalg.norm(clean)
    magnitude = np.abs(np.log(np.maximum(found, 1e-4 * size) / np.maximum(clean, 1e-4 * size)))
    expected = convergence + magnitude.mean()
    assert float(stft_distance(other, wave, RATE, windows=[0.032])) == pytest.approx(expected)


@pytest.mark.parametrize("decibels", [-10.0, 0.0, 25.0])
def test_signal_to_noise_is_what_was_added(decibels):
    clean, other = noise(), noise(seed=1)
    other = other * (clean.norm(dim=1) / other.norm(dim=1)).unsqueeze(1)
    noisy = clean + 10 ** (-decibels / 20) * other
    torch.testing.assert_close(
        signal_to_noise(noisy, clean), torch.full((3,), decibels, dtype=torch.float64)
    )


def test_up_to_a_scale_the_ratio_follows_from_the_angle():
    clean, other = noise(), noise(seed=1)
    cosine = torch.nn.functional.cosine_similarity(clean, clean + other)
    expected = 10 * torch.log10(cosine**2 / (1 - cosine**2))
    for factor in (1.0, 0.2, -3.0):
        found = scaled_signal_to_noise(factor * (clean + other), clean)
        torch.testing.assert_close(found, expected)


def test_waves_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must be \(samples, length\) alike"):
        log_mel_distance(noise(), noise(length=3_999), RATE)
    with pytest.raises(ValueError, match=r"must be \(samples, length\) alike"):
        signal_to_noise(noise()[0], noise()[0])
