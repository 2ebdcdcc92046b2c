"""Sounds to batches and back, and what is refused."""

import numpy as np
import pytest
import torch

from structdiff.batch import Batch
from structdiff.domains.audio.codec import AudioCodec
from structdiff.domains.audio.data import read
from structdiff.domains.audio.sounds import Sound
from tests.domains.audio.worlds import RATE, recordings, sine


def test_round_trip_of_what_was_read(tmp_path):
    clips = read(recordings(tmp_path, 5)).train
    codec = AudioCodec.of(clips)
    assert codec.counts == tuple(np.bincount(clips.label).tolist())
    again = AudioCodec.from_state(codec.state())
    batch = again.encode(clips.sounds())
    np.testing.assert_array_equal(batch["wave"][:, 0].numpy(), clips.wave)
    assert batch.condition["label"].tolist() == clips.label.tolist()
    back = again.decode(batch)
    for sound, row, label in zip(back, clips.wave, clips.label, strict=True):
        np.testing.assert_array_equal(sound.wave, row)
        assert sound.label == clips.classes[label]
        assert sound.rate == RATE


def test_sounds_are_brought_to_rate_and_length():
    codec = AudioCodec(RATE, 150)
    batch = codec.encode([Sound(sine(0.1, 8_000), 8_000), Sound(sine(0.05), RATE)])
    assert batch["wave"].shape == (2, 1, 150)
    np.testing.assert_allclose(batch["wave"][0, 0, 20:130], sine()[20:130], atol=5e-3)
    assert not batch["wave"][1, 0, 100:].any()
    assert batch.condition == {}


def test_what_is_beyond_the_scale_is_cut_and_unknown_labels_are_empty():
    codec = AudioCodec(RATE, 2, ("a", "b"), (1, 1))
    batch = Batch.of({"wave": torch.tensor([[[3.0, -0.5]], [[0.0, -9.0]]])})
    batch = batch.with_condition({"label": torch.tensor([1, 0])})
    sounds = codec.decode(batch.with_present({"label": torch.tensor([True, False])}))
    assert [sound.wave.tolist() for sound in sounds] == [[1.0, -0.5], [0.0, -1.0]]
    assert [sound.label for sound in sounds] == ["b", ""]


def test_what_was_not_fitted_is_refused():
    codec = AudioCodec(RATE, 2, ("a", "b"), (1, 1))
    with pytest.raises(ValueError, match="the class 'c' is none of the classes a, b"):
        codec.encode([Sound(sine(), RATE, "c")])
    with pytest.raises(ValueError, match="there is no class 'c': the classes are a, b"):
        codec.number("c")
    with pytest.raises(ValueError, match="there is no class 'c': it has none"):
        AudioCodec(RATE, 2).number("c")
    with pytest.raises(ValueError, match="there is no sound to fit to"):
        AudioCodec.fit([])


GOOD = {"rate": 8_000, "length": 10, "classes": ["a", "b"], "counts": [1, 2]}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rate": 0}, "rate must be a whole number"),
        ({"rate": True}, "rate must be a whole number"),
        ({"length": "10"}, "length must be a whole number"),
        ({"classes": ["a"], "counts": [1]}, "be none or several"),
        ({"classes": ["a", "a"]}, "classes must differ"),
        ({"classes": "ab"}, "classes must be a list of words"),
        ({"counts": [1]}, "counts must have a number for each"),
        ({"counts": [1, -1]}, "counts must be whole numbers"),
        ({"more": 1}, "it must have classes, counts, length, rate"),
    ],
)
def test_states_that_are_wrong_are_refused(changes, why):
    with pytest.raises(ValueError, match=why):
        AudioCodec.from_state({**GOOD, **changes})
    assert AudioCodec.from_state(GOOD).state() == GOOD
