"""Recordings that are damaged, odd or no sound at all: used as they are, or left out by name."""

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from structdiff.domains.audio.data import load_sounds, read
from structdiff.domains.audio.readers.recording import read_recording
from tests.domains.audio.worlds import RATE, encoded, keep, sine

GENERATED = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def stereo(difference=0.0):
    """Two channels."""
    return np.stack([sine(), sine() + np.float32(difference)], 1)


@pytest.mark.parametrize(
    ("subtype", "error"),
    [("PCM_U8", 1e-2), ("PCM_16", 1e-4), ("PCM_24", 1e-6), ("PCM_32", 1e-6), ("FLOAT", 1e-7)],
)
def test_every_width_is_read(subtype, error):
    found = read_recording(encoded(sine(), subtype=subtype))
    np.testing.assert_allclose(found.wave, sine(), atol=error)
    assert found.rate == RATE
    assert found.channels == 1


def test_every_format_is_read():
    for kind, subtype, error in (("FLAC", "PCM_16", 1e-4), ("AIFF", "PCM_16", 1e-4)):
        found = read_recording(encoded(sine(), kind=kind, subtype=subtype))
        np.testing.assert_allclose(found.wave, sine(), atol=error)
    lossy = read_recording(encoded(sine(0.5, 8_000), 8_000, "OGG", "VORBIS"))
    assert np.corrcoef(lossy.wave, sine(0.5, 8_000))[0, 1] > 0.99


def test_channels_are_mixed_down_and_it_is_said(tmp_path):
    keep(tmp_path, "a.wav", stereo(0.2))
    keep(tmp_path, "b.wav", sine())
    loaded = load_sounds(tmp_path)
    np.testing.assert_allclose(loaded.sounds[0].wave, sine() + 0.1, atol=1e-4)
    assert "1 recording of several channels: mixed down to one (a.wav)" in loaded.notes


FAULTS = {
    "empty.wav": (b"", "is empty"),
    "none.wav": (b"no sound at all, just words " * 9, "cannot be read"),
    "head.wav": (encoded(sine())[:30], "cannot be read"),
    "bare.wav": (encoded(np.zeros(0, np.float32)), "has no samples"),
    "cut.wav": (encoded(sine())[:-50], "is cut off: 350 of 400 bytes"),
    "cut24.wav": (encoded(sine(), subtype="PCM_24")[:200], "is cut off"),
    "cut.flac": (encoded(sine(0.5), kind="FLAC")[:500], "cannot be read"),
    "cut.aiff": (encoded(sine(), kind="AIFF")[:200], "is cut off"),
    "silent.wav": (encoded(np.zeros(200, np.float32)), "is silent"),
    "flat.wav": (encoded(np.full(200, 0.5, np.float32)), "is silent"),
    "slow.wav": (encoded(sine(), 10), "has a rate of 10 Hz, not from 1,000 to 768,000"),
    "nan.wav": (
        encoded(np.where(np.arange(200) == 7, np.nan, sine()), subtype="FLOAT"),
        r"has values that are not finite \(1 of 200\)",
    ),
    "inf.wav": (
        encoded(np.where(np.arange(200) < 2, np.inf, sine()), subtype="DOUBLE"),
        r"not finite \(2 of 200\)",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_recording_that_cannot_be_used_says_why(name):
    content, why = FAULTS[name]
    with pytest.raises(ValueError, match=why):
        read_recording(content)


def test_they_are_left_out_counted_and_listed(tmp_path):
    for number in range(10):
        keep(tmp_path, f"good{number}.wav", sine(frequency=100.0 + number))
    for name, (content, _) in FAULTS.items():
        (tmp_path / name).write_bytes(content)
    for name in ("talk.mp3", "README.txt", "song.m4a", ".hidden.wav"):
        (tmp_path / name).write_bytes(b"something")
    data = read(tmp_path)
    assert sum(map(len, (data.train, data.validation, data.test))) == 10
    assert f"{len(FAULTS)} of the files left out: bare.wav has no samples; " in data.report
    assert f" and {len(FAULTS) - 3} more" in data.report
    assert "3 files of another kind (.m4a, .mp3, .txt): not read" in data.report


def test_a_stream_whose_header_has_no_size_is_read():
    content = bytearray(encoded(sine()))
    place = content.index(b"data") + 4
    content[4:8] = content[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)
    np.testing.assert_allclose(read_recording(bytes(content)).wave, sine(), atol=1e-4)


def test_too_short_ones_are_left_out(tmp_path):
    keep(tmp_path, "a.wav", sine(0.01))
    with pytest.raises(ValueError, match=r"1 recording shorter than 0.02 s: left out \(a.wav\)"):
        read(tmp_path)
    keep(tmp_path, "b.wav", sine(0.1))
    data = read(tmp_path, test=0.0, validation=0.0)
    assert data.train.names == ("b.wav",)
    assert "1 recording shorter than 0.02 s: left out (a.wav)" in data.report


def test_a_class_without_recordings_is_told(tmp_path):
    for label in ("yes", "no"):
        for number in range(6):
            keep(tmp_path, f"{label}/{number}.wav", sine(frequency=100.0 + 9 * number))
    (tmp_path / "maybe").mkdir()
    keep(tmp_path, "stray.wav", sine())
    data = read(tmp_path)
    assert data.train.classes == ("no", "yes")
    assert "1 folder without a recording: no class (maybe/)" in data.report
    assert "1 recording in no folder: left out (stray.wav)" in data.report


def test_one_class_is_none(tmp_path):
    keep(tmp_path, "yes_jo_1.wav", sine())
    keep(tmp_path, "yes_jo_2.wav", sine())
    data = read(tmp_path, test=0.0, validation=0.0)
    assert data.train.classes == ()
    assert data.train.label is None


def test_paths_that_hold_no_sound_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no recording that can be used"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"data.path is empty"):
        read("")
    (tmp_path / "song.mp3").write_bytes(b"ID3")
    with pytest.raises(ValueError, match=r"its suffix is none of \.wav, \.flac"):
        read(tmp_path / "song.mp3")
    (tmp_path / "bad.tar.xz").write_bytes(b"\xfd7zXZ\x00 and no more")
    with pytest.raises(ValueError, match=r"cannot read .*bad\.tar\.xz"):
        read(tmp_path / "bad.tar.xz")
    (tmp_path / "only.wav").write_bytes(b"")
    with pytest.raises(ValueError, match="only.wav is empty"):
        read(tmp_path / "only.wav")


@GENERATED
@given(place=st.integers(0, 443), byte=st.integers(0, 255), end=st.integers(0, 444))
def test_any_damage_is_read_or_refused_in_words(place, byte, end):
    content = bytearray(encoded(sine()))
    content[place] = byte
    try:
        found = read_recording(bytes(content[:end]))
    except ValueError as error:
        assert str(error)
        return
    assert np.isfinite(found.wave).all()
    assert 0 < len(found.wave) <= 444


def test_what_libsndfile_writes_is_what_it_reads():
    buffer = io.BytesIO(encoded(sine()))
    wave, rate = soundfile.read(buffer, dtype="float32")
    assert rate == RATE
    np.testing.assert_array_equal(read_recording(buffer.getvalue()).wave, wave)
