"""Judging drawn sounds: real ones pass, others do not, and copies are told."""

import json
from dataclasses import replace

import numpy as np
import pytest

from structdiff.domains.audio.clips import Clips
from structdiff.domains.audio.data import read
from structdiff.domains.audio.judging import judge_of, judged, pictures_of
from structdiff.domains.audio.reports.evaluation import evaluate_run
from structdiff.domains.audio.run import load_data
from structdiff.domains.audio.sounds import Sound
from structdiff.metrics.judge import JUDGING
from tests.domains.audio.worlds import RATE, keep

QUICK = JUDGING.model_copy(update={"steps": 60, "batch_size": 16, "warm_up": 5, "ema": 0.9})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tones of two ranges of pitch, with random pitches, lengths and phases."""
    folder, random = tmp_path_factory.mktemp("pitches"), np.random.default_rng(0)
    for label, (low, high) in {"high": (400, 800), "low": (80, 200)}.items():
        for number in range(60):
            time = np.arange(random.integers(150, 250)) / RATE
            angle = 2 * np.pi * (random.uniform(low, high) * time + random.uniform())
            keep(folder, f"{label}_ann_{number}.wav", 0.5 * np.sin(angle))
    return read(folder, validation=0.25, test=0.25)


@pytest.fixture(scope="module")
def judge(data, tmp_path_factory):
    return judge_of(data, folder=tmp_path_factory.mktemp("judges") / "one", config=QUICK)


def test_real_sounds_pass_and_others_do_not(data, judge):
    assert judge.facts["accuracy"] > 0.95
    real = data.validation.sounds()
    good = judged(real, data, judge)
    assert good.right.value > 0.9
    assert good.copying.nearer.value < 0.2
    random = np.random.default_rng(0)
    noisy = [replace(one, wave=random.normal(size=250).astype("f4") / 4) for one in real]
    bad = judged(noisy, data, judge)
    (own, other) = (one.comparison.lines[0] for one in (good, bad))
    assert own.name == "Frechet distance"
    assert other.drawn.value > 10 * own.drawn.value
    # The same real sounds stand beside both.
    assert other.real.value == own.real.value


def test_sounds_of_the_other_class_are_wrong_and_copies_are_told(data, judge):
    others = {"high": "low", "low": "high"}
    turned = [replace(one, label=others[one.label]) for one in data.validation.sounds()]
    assert judged(turned, data, judge).right.value < 0.1
    copied = judged(data.train.sounds()[:20], data, judge)
    assert copied.copying.nearer.value == 1
    assert float(copied.copying.drawn.distance.max()) < 1e-3


def test_without_classes_asked_for_their_shares_are_compared(data, judge):
    plain = [replace(one, label="") for one in data.validation.sounds()]
    assert judged(plain, data, judge).classes < 0.1
    high = [one for one in plain if one.name.startswith("high")]
    found = judged(high, data, judge)
    assert found.classes == pytest.approx(0.5, abs=0.1)
    assert found.right is None
    assert "judge" in found.comparison.protocol


def test_without_classes_loudness_of_cells_serves(data):
    bare = replace(
        data,
        train=data.train.unlabelled(),
        validation=data.validation,
        test=data.test.unlabelled(),
    )
    found = judged(data.validation.sounds(), bare, None)
    assert found.right is None
    assert "no classifier" in found.comparison.protocol["features"]
    with pytest.raises(ValueError, match="the sounds have no classes"):
        judge_of(bare, config=QUICK)


def test_pictures_are_of_the_waves(data):
    pictures = pictures_of(data.test)
    assert pictures.shape[0] == len(data.test)
    assert float(pictures.abs().max()) <= 1
    silent = Clips.of([Sound(np.zeros(9, np.float32), RATE)], data.train.length, RATE)
    assert (pictures_of(silent) == -1).all()


def test_a_page_is_written_with_all_that_was_measured(mel, tmp_path):
    found = evaluate_run(mel, 5, out=tmp_path, judging=QUICK, say=lambda _: None, progress=False)
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    assert numbers["accuracy"]["value"] == found.judgement.right.value
    assert numbers["real sounds made again"]["log-mel distance (dB)"] > 0
    names = {path.name for path in found.files}
    assert {"sounds.wav", "sounds.zip", "spectrograms.png", "nearest.png", "real.png"} <= names
    assert all(path.exists() for path in found.files)
    assert "5, none rejected or corrected" in (tmp_path / "evaluation.md").read_text()
    with pytest.raises(ValueError, match="at least 3 clips are needed"):
        evaluate_run(mel, 2, out=tmp_path)


def test_a_vocoder_is_judged_by_held_out_sounds_made_again(vocoder, tmp_path):
    found = evaluate_run(
        vocoder, 4, out=tmp_path, judging=QUICK, say=lambda _: None, progress=False
    )
    held = load_data(vocoder.config, None, vocoder.codec).test
    assert tuple(sound.name for sound in found.drawn) == held.names
    assert [sound.label for sound in found.drawn] == ["high", "high", "low", "low"]
    assert found.again["multi-resolution distance"] > 0
