"""Folders of recordings become clips of one rate and length, with classes and parts."""

import tarfile

import numpy as np
import pytest
from scipy.signal import find_peaks

from structdiff.domains.audio.clips import Clips
from structdiff.domains.audio.data import DataConfig, read
from structdiff.domains.audio.labels import below, classes_by, label_of, words_of
from structdiff.domains.audio.readers.recording import resampled
from structdiff.domains.audio.sounds import Sound
from structdiff.domains.audio.split import split
from structdiff.domains.audio.tones import TIMBRES, tones
from tests.domains.audio.worlds import RATE, keep, recordings, sine


def named(names, seed=0):
    """A different sound of each name."""
    random = np.random.default_rng(seed)
    return [Sound(random.normal(size=4).astype(np.float32), RATE, "", name) for name in names]


def test_a_folder_of_named_recordings_is_read_with_the_standard_split(tmp_path):
    data = read(recordings(tmp_path), validation=0.05)
    numbers = [
        sorted({int(name[:-4].split("_")[2]) for name in part.names})
        for part in (data.train, data.validation, data.test)
    ]
    assert numbers == [list(range(3, 20)), [2], [0, 1]]  # a tenth of 20, the first ones
    assert data.train.classes == ("high", "low")
    assert data.train.rate == RATE
    for name, label in zip(data.train.names, data.train.label, strict=True):
        assert name.startswith(data.train.classes[label])
    assert "34 train, 2 validation, 4 test" in data.report


def test_fifty_of_each_are_split_as_the_spoken_digits_are():
    names = [f"{d}_{who}_{n}.wav" for d in "07" for who in ("jo", "al") for n in range(50)]
    parts = split(named(names), "auto", 0.0, 0.1, 0)
    assert {int(names[i][:-4].split("_")[2]) for i in parts.test} == {0, 1, 2, 3, 4}
    assert len(parts.test) == 20
    assert len(parts.train) == 180


def test_no_speaker_and_no_equal_sound_is_in_two_parts():
    names = [f"{d}_s{who}_{n}.wav" for d in "01" for who in range(20) for n in range(3)]
    parts = split(named(names), "speaker", 0.2, 0.2, 3)
    speakers = [{names[i].split("_")[1] for i in part} for part in parts]
    assert [len(one) for one in speakers] == [12, 4, 4]
    assert len(set.union(*speakers)) == 20
    twice = named(["a"] * 30, 1) + named(["b"] * 30, 1)
    content = split(twice, "content", 0.2, 0.2, 0)
    kept = [{twice[i].wave.tobytes() for i in part} for part in content]
    assert sum(map(len, kept)) == 30
    assert min(map(len, kept)) == 6


@pytest.mark.parametrize("rate", [1_000, 3_000, 44_100])
def test_resampling_keeps_tones_and_removes_what_has_no_place(rate):
    wave = sine(1.0, 8_000, 200.0) + sine(1.0, 8_000, 3_400.0)
    found = resampled(wave, 8_000, rate)
    assert len(found) == rate
    power = np.abs(np.fft.rfft(found)) ** 2
    peaks, _ = find_peaks(power, height=power.max() / 100)
    expected = {200} if rate < 6_800 else {200, 3_400}
    assert set(peaks.tolist()) == expected  # bins of one Hz
    inner = slice(rate // 10, -rate // 10)
    own = sine(1.0, rate, 200.0)
    if rate < 6_800:
        np.testing.assert_allclose(found[inner], own[inner], atol=5e-3)


def test_rates_are_made_one_and_it_is_said(tmp_path):
    recordings(tmp_path, 4)
    keep(tmp_path, "low_ann_9.wav", sine(0.1, 8_000, 200.0), 8_000)
    data = read(tmp_path, test=0.0, validation=0.0, loudness="keep")
    assert data.train.rate == RATE  # that of most
    own = data.train.wave[data.train.names.index("low_ann_9.wav")]
    np.testing.assert_allclose(own[20:180], sine(0.1)[20:180], atol=5e-3)
    assert "1 recording of another rate: now at 2,000 Hz (low_ann_9.wav)" in data.report
    assert read(tmp_path, rate=4_000).train.rate == 4_000


def test_length_padding_cutting_and_windows(tmp_path):
    keep(tmp_path, "a.wav", sine(0.1))
    keep(tmp_path, "b.wav", sine(0.25))
    arguments = {"seconds": 0.1, "test": 0.0, "validation": 0.0, "loudness": "keep"}
    data = read(tmp_path, **arguments)
    assert data.train.wave.shape == (2, 200)
    assert "1 recording longer than a clip: cut at its end (b.wav)" in data.report
    windows = read(tmp_path, long="windows", **arguments).train
    assert sorted(windows.names) == ["a.wav", "b.wav", "b.wav[1]", "b.wav[2]"]
    assert sorted(windows.sizes.tolist()) == [100, 200, 200, 200]
    whole = np.concatenate([windows.wave[windows.names.index(f"b.wav{k}")] for k in ("", "[1]")])
    np.testing.assert_allclose(whole, sine(0.25)[:400], atol=1e-4)
    long = read(tmp_path, seconds=0.2, test=0.0, validation=0.0).train
    row = long.names.index("a.wav")
    assert long.sizes[row] == 200
    assert not long.wave[row, 200:].any()
    default = read(tmp_path, test=0.0, validation=0.0).train
    assert default.length == 512  # holds the longest, in multiples of 128


def test_loudness(tmp_path):
    keep(tmp_path, "a.wav", sine(level=0.1), subtype="FLOAT")
    keep(tmp_path, "b.wav", sine(level=2.0), subtype="FLOAT")
    peaks = {
        kind: np.abs(read(tmp_path, test=0, validation=0, loudness=kind).train.wave).max(1)
        for kind in ("peak", "keep")
    }
    np.testing.assert_allclose(peaks["peak"], 0.95, rtol=1e-6)
    np.testing.assert_allclose(sorted(peaks["keep"]), [np.sin(0.4 * np.pi) / 10, 1.0], rtol=1e-5)
    kept = read(tmp_path, test=0, validation=0, loudness="keep")
    assert "1 recording louder than the full scale: clipped (b.wav)" in kept.report


def test_an_archive_is_read_as_its_folder(tmp_path):
    folder = recordings(tmp_path / "sounds", 6)
    with tarfile.open(tmp_path / "sounds.tar.xz", "w:xz") as archive:
        archive.add(folder, "sounds")
    packed, plain = read(tmp_path / "sounds.tar.xz"), read(folder)
    assert [n.removeprefix("sounds/") for n in packed.train.names] == [*plain.train.names]
    assert packed.train.identity() == plain.train.identity()


def test_classes_stand_in_folders_or_names():
    tree = ["data/yes/1.wav", "data/no/2.wav"]
    assert classes_by(tree, "auto") == "folder"
    assert [label_of(name, "folder") for name in below(tree)] == ["yes", "no"]
    assert classes_by(["x/7_jo_1.wav", "x/8_jo_1.wav"], "auto") == "name"
    assert classes_by(["x/7_jo_1.wav", "x/other.wav"], "auto") == "none"
    assert label_of("cat-3_x.wav", "name") == "cat-3"
    assert label_of("x/cat.wav", "none") == ""
    assert words_of("7_van_der_32.wav") == ("7", "van_der", 32)
    assert words_of("7_32.wav") is None


def test_tones_are_what_their_timbre_says():
    made = tones(3, seed=5)
    assert tones(3, seed=5)[4].wave.tolist() == made[4].wave.tolist()
    assert tones(3, seed=6)[4].wave.tolist() != made[4].wave.tolist()
    assert {sound.label for sound in made} == set(TIMBRES)
    for sound in made:
        spectrum = np.abs(np.fft.rfft(sound.wave * np.hanning(len(sound.wave)), 1 << 15))
        peaks, _ = find_peaks(spectrum, height=spectrum.max() / 5, distance=80)
        ratios = peaks / peaks[0]
        allowed = np.array(TIMBRES[sound.label].ratios)
        assert np.abs(ratios[:, None] - allowed).min(1).max() < 0.06, (sound.name, ratios)


def test_defaults_need_no_file_and_hold_every_class_in_every_part():
    data = read()
    for part in (data.train, data.validation, data.test):
        assert set(part.label.tolist()) == {0, 1, 2, 3}
    assert read(classes="none").train.label is None


def test_sounds_of_another_rate_or_class_are_refused():
    with pytest.raises(ValueError, match="has 8000 Hz, not 2000: resample"):
        Clips.of([Sound(sine(), 8_000, name="a")], 200, RATE)
    with pytest.raises(ValueError, match="the class 'c' is none of the classes a, b"):
        Clips.of([Sound(sine(), RATE, "c")], 200, RATE, ("a", "b"))


def test_settings_that_leave_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="leaves nothing to train on"):
        DataConfig(validation=0.5, test=0.5)
    keep(tmp_path, "a.wav", sine())
    with pytest.raises(ValueError, match="none is left to train on"):
        read(tmp_path, test=0.5)
    with pytest.raises(ValueError, match="needs names like 7_jackson_32, got 'a.wav'"):
        read(tmp_path, split_by="speaker")
    with pytest.raises(ValueError, match="above 1080 Hz"):
        tones(1, rate=1_000)
