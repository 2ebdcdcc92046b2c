"""Files of sounds: what they hold can be read back, and nothing is replaced unasked."""

import io
import zipfile

import numpy as np
import pytest
import soundfile
from PIL import Image

from structdiff.domains.audio.output import GAP, check_free, encode, joined, write
from structdiff.domains.audio.pictures import decibels, spectrograms
from structdiff.domains.audio.sounds import Sound
from tests.domains.audio.worlds import RATE, sine

SOUNDS = [Sound(sine(0.1), RATE, "yes"), Sound(sine(0.05, frequency=400.0), RATE, "n/o?")]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_one_recording_holds_all_with_gaps(suffix):
    wave, rate = soundfile.read(io.BytesIO(encode(suffix, SOUNDS)), dtype="float32")
    gap = round(GAP * RATE)
    assert rate == RATE
    assert len(wave) == 200 + gap + 100
    np.testing.assert_allclose(wave[:200], SOUNDS[0].wave, atol=1e-4)
    assert not wave[200 : 200 + gap].any()
    np.testing.assert_allclose(wave[200 + gap :], SOUNDS[1].wave, atol=1e-4)


def test_an_archive_holds_one_file_for_each():
    with zipfile.ZipFile(io.BytesIO(encode(".zip", SOUNDS))) as archive:
        assert archive.namelist() == ["00000_yes.wav", "00001_n-o-.wav"]
        for name, sound in zip(archive.namelist(), SOUNDS, strict=True):
            wave, _ = soundfile.read(io.BytesIO(archive.read(name)), dtype="float32")
            np.testing.assert_allclose(wave, sound.wave, atol=1e-4)


def test_arrays():
    held = np.load(io.BytesIO(encode(".npz", SOUNDS)))
    np.testing.assert_array_equal(held["wave"][0], SOUNDS[0].wave)
    np.testing.assert_array_equal(held["wave"][1, :100], SOUNDS[1].wave)
    assert not held["wave"][1, 100:].any()
    assert held["rate"].tolist() == [RATE, RATE]
    assert held["label"].tolist() == ["yes", "n/o?"]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".zip", ".npz", ".png"])
def test_the_same_sounds_are_the_same_bytes(suffix):
    assert encode(suffix, SOUNDS) == encode(suffix, SOUNDS)
    assert encode(suffix, SOUNDS) != encode(suffix, SOUNDS[::-1])


def test_the_loudest_frequency_of_a_picture_is_that_of_the_tone():
    for frequency in (200.0, 440.0, 800.0):
        power = decibels(Sound(sine(0.5, frequency=frequency), RATE), 0.05)
        assert power.max() == pytest.approx(0)
        assert np.all(power[:, 5:-5].argmax(0) * 20 == frequency)  # bins of 20 Hz


def test_a_picture_has_a_panel_for_each_sound():
    sizes = [
        Image.open(io.BytesIO(spectrograms(SOUNDS * count, columns=2))).size for count in (1, 3)
    ]
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > 2.5 * sizes[0][1]


def test_a_silent_sound_can_be_drawn_and_written():
    silent = [Sound(np.zeros(100, np.float32), RATE)]
    assert np.isfinite(decibels(silent[0])).all()
    for suffix in (".wav", ".png"):
        assert encode(suffix, silent)


def test_files_are_written_whole_and_not_replaced_unasked(tmp_path):
    path = tmp_path / "out.wav"
    assert write(path, SOUNDS) == f"2 clips written to {path}"
    before = path.read_bytes()
    with pytest.raises(ValueError, match="exists; choose another name, or allow --overwrite"):
        write(path, SOUNDS[:1])
    assert path.read_bytes() == before
    write(path, SOUNDS[:1], overwrite=True)
    assert path.read_bytes() == encode(".wav", SOUNDS[:1])
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the suffix '\.mp3' is not known; allowed are \.wav"):
        check_free(tmp_path / "a.mp3", overwrite=False)
    with pytest.raises(FileNotFoundError, match="create it first"):
        check_free(tmp_path / "no" / "a.wav", overwrite=False)
    with pytest.raises(ValueError, match="there is no sound to write"):
        encode(".wav", [])
    with pytest.raises(ValueError, match="must have one rate"):
        joined([SOUNDS[0], Sound(sine(), 8_000)])
    with pytest.raises(ValueError, match="cannot draw 2 sounds with 1 captions"):
        spectrograms(SOUNDS, ["one"])
