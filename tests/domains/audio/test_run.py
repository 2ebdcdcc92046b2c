"""Models of sounds: what is asked for is drawn, what is known is kept, what is not is refused."""

import numpy as np
import pytest
import torch

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.domains.audio import AudioCodec, AudioConfig, Known, Run, Sound
from structdiff.domains.audio.run import load_data, vocoder_of
from structdiff.processes import Estimate
from structdiff.runs.fields import FieldModel
from structdiff.testing import ExactDenoiser
from tests.domains.audio.worlds import RATE, settings, sine


def waves_of(sounds):
    return np.stack([sound.wave for sound in sounds])


class OfClass(Denoiser):
    """The exact denoiser of the fields of each class."""

    def __init__(self, process, leaf, fields, label):
        super().__init__()
        self.process, self.leaf = process, leaf
        kinds = range(int(label.max()) + 1)
        self.each = [
            ExactDenoiser(process, Batch.of({leaf: fields[label == kind].float()}))
            for kind in kinds
        ]
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, batch, t, previous=None):
        said = torch.stack([one(batch, t)[self.leaf].value for one in self.each])
        near = batch.condition["label"]
        return {self.leaf: Estimate(said[near, torch.arange(len(near))])}


def exact(run):
    """The run with the exact denoiser of its training clips, the clips and their fields."""
    clips = load_data(run.config, None, run.codec).train
    fields = run.form.fields(torch.from_numpy(clips.wave).unsqueeze(1))
    process, label = run.model.denoiser.process, torch.from_numpy(clips.label)
    denoiser = OfClass(process, run.form.leaf, fields, label)
    model = FieldModel(run.config, run.model.fields, None, denoiser)
    return Run(run.folder, run.config, run.codec, model), clips, fields


def test_with_the_exact_denoiser_training_sounds_of_the_class_are_drawn(mel):
    run, clips, fields = exact(mel)
    run = run.drawing(steps=30)
    asked = run.asked(8, label=["low", "high"] * 4)
    drawn = run.fields(asked, progress=False)
    distance = torch.cdist(drawn.flatten(1), fields.flatten(1))
    assert distance.amin(1).max() < 1e-3 * distance.max()
    found = [clips.classes[clips.label[place]] for place in distance.argmin(1)]
    assert found == ["low", "high"] * 4
    sounds = run.sounds(drawn, asked)
    assert [sound.label for sound in sounds] == found
    np.testing.assert_array_equal(waves_of(sounds), run.waves(drawn)[:, 0].numpy())


def test_with_the_exact_denoiser_noise_is_taken_off(wave):
    run, clips, _ = exact(wave)
    random = np.random.default_rng(0)
    for number in (3, 20):
        own = clips.wave[number]
        noisy = own + 0.2 * random.normal(size=own.shape).astype(np.float32)
        known = Known(Sound(noisy, RATE), noise=0.2)
        label = clips.classes[clips.label[number]]
        (drawn,) = run.sample(1, known=known, label=label, steps=30, progress=False)
        distance = np.square(drawn.wave - clips.wave).sum(1)
        assert distance.argmin() == number
        assert distance.min() < 1e-3 * np.square(noisy - own).sum()


def test_every_class_in_turn_across_the_parts_of_a_request(mel):
    drawn = mel.sample(7, progress=False)
    assert [sound.label for sound in drawn] == ["high", "low"] * 3 + ["high"]
    assert [sound.name for sound in drawn] == [f"clip {k}" for k in range(7)]
    assert all(sound.rate == RATE and len(sound) == mel.codec.length for sound in drawn)
    free = mel.sample(2, label="", progress=False)
    assert [sound.label for sound in free] == ["", ""]


def test_the_same_seed_is_the_same_sounds(mel):
    first, again = (mel.sample(4, seed=3, progress=False) for _ in range(2))
    np.testing.assert_array_equal(waves_of(first), waves_of(again))
    assert not np.array_equal(waves_of(first), waves_of(mel.sample(4, seed=4, progress=False)))
    loaded = Run.load(mel.folder.path)
    np.testing.assert_array_equal(
        waves_of(loaded.sample(4, seed=3, progress=False)), waves_of(first)
    )


def test_what_is_heard_beside_a_gap_is_kept(wave):
    own = Sound(sine(0.12, frequency=300.0), RATE)
    start, stop = 60, 90
    known = Known(own, gap=(start / RATE, stop / RATE))
    drawn = waves_of(wave.sample(3, known=known, label="low", progress=False))
    heard = np.ones(wave.codec.length, bool)
    heard[start:stop] = False
    whole = np.zeros(wave.codec.length, np.float32)
    whole[: len(own)] = own.wave
    np.testing.assert_allclose(drawn[:, heard], np.tile(whole[heard], (3, 1)), atol=1e-6)
    assert np.abs(drawn[:, ~heard] - whole[~heard]).max() > 0.01
    assert np.ptp(drawn[:, ~heard], axis=0).max() > 0.01


def test_frames_beside_a_gap_are_kept(mel):
    own = Sound(sine(0.12, frequency=300.0), RATE)
    asked = mel.asked(2, label="low", known=Known(own, gap=(0.05, 0.06)))
    fields = mel.fields(asked, progress=False)
    given = asked.given
    held = given.known.expand_as(fields[:1])[0]
    assert held.any()
    assert not held.all()
    for field in fields:
        torch.testing.assert_close(field[held], given.source[0][held])


def test_clips_end_when_they_are_asked_to(wave, mel):
    drawn = waves_of(wave.sample(2, known=Known(seconds=0.05), progress=False))
    assert not drawn[:, 100:].any()
    assert np.abs(drawn[:, :100]).max() > 0
    asked = mel.asked(2, known=Known(seconds=0.05))
    fields = mel.fields(asked, progress=False)
    first = int(asked.given.known[0, 0, 0].nonzero()[0])
    torch.testing.assert_close(fields[..., first:], -torch.ones_like(fields[..., first:]))


def test_a_vocoder_makes_waves_of_the_spectrograms_of_sounds(vocoder):
    sounds = [Sound(sine(0.1, frequency=f), RATE) for f in (200.0, 450.0)]
    made = vocoder.vocoded(sounds, progress=False)
    single = vocoder.sample(2, known=Known(sounds[0]), progress=False)
    assert len(made) == len(single) == 2
    expected = vocoder.form.fields(vocoder.codec.encode(sounds)["wave"])
    fields = vocoder.model.fields.conditions["mel"](expected, None)
    asked = vocoder.request(2, fields={"mel": fields})
    again = vocoder.fields(asked, progress=False)
    np.testing.assert_array_equal(waves_of(made), again[:, 0].numpy())


def test_spectrograms_go_through_the_vocoder_of_the_settings(mel, vocoder):
    sound = {**mel.config.sound.model_dump(), "vocoder": str(vocoder.folder.path)}
    config = AudioConfig.model_validate({**mel.config.model_dump(), "sound": sound})
    run = Run(mel.folder, config, mel.codec, mel.model)
    asked = run.asked(2, seed=1)
    fields = run.fields(asked, progress=False)
    sounds = run.sounds(fields, asked)
    known = vocoder.request(2, fields={"mel": fields.clamp(-1, 1)[:, 0]}, seed=1)
    np.testing.assert_array_equal(
        waves_of(sounds), vocoder.fields(known, progress=False)[:, 0].numpy()
    )


def test_vocoders_of_other_spectrograms_are_refused(mel, vocoder, tmp_path):
    with pytest.raises(ValueError, match="is a model of mel, no vocoder"):
        vocoder_of(mel.folder.path, mel.config, mel.codec)
    other = settings(None, sound={"bands": 13})
    with pytest.raises(ValueError, match="is of other spectrograms: bands, window"):
        vocoder_of(vocoder.folder.path, other, mel.codec)
    short = AudioCodec(RATE, 100)
    with pytest.raises(ValueError, match="is of other spectrograms"):
        vocoder_of(vocoder.folder.path, mel.config, short)
    with pytest.raises(FileNotFoundError):
        vocoder_of(tmp_path / "none", mel.config, mel.codec)


def test_what_does_not_go_together_is_refused(mel, wave, vocoder):
    own = Sound(sine(), RATE)
    for run, known, why in (
        (mel, Known(gap=(0.0, 0.1)), "gap and noise are of a sound: give one"),
        (mel, Known(own), "nothing asked of it: say gap=START:END"),
        (mel, Known(own, noise=0.1), "this is a model of spectrograms: train one with"),
        (wave, Known(own, gap=(0.0, 0.1), noise=0.1), "a gap or noise, not both"),
        (wave, Known(own, gap=(0.1, 0.1)), "gap must be START:END within"),
        (wave, Known(own, gap=(0.0, 9.0)), r"within the 0\.128 s of a clip, got 0:9"),
        (wave, Known(own, noise=0.0), "noise must be the positive standard deviation"),
        (wave, Known(seconds=-1.0), "seconds must be positive"),
        (wave, Known(own, gap=(0.0, 0.1), seconds=1.0), "leave it out with a sound"),
        (vocoder, Known(), "a vocoder makes a wave of the spectrogram of a sound: give one"),
    ):
        with pytest.raises(ValueError, match=why):
            run.sample(1, known=known, progress=False)
    with pytest.raises(ValueError, match="label has 2 classes for 3 clips"):
        mel.sample(3, label=["low", "high"], progress=False)
    with pytest.raises(ValueError, match="there is no class 'mid': the classes are high, low"):
        mel.sample(3, label="mid", progress=False)
    with pytest.raises(ValueError, match="by a vocoder, got a model of mel"):
        mel.vocoded([own])


def test_settings_that_do_not_fit_are_refused(source):
    with pytest.raises(ValueError, match="sound.hop = 0.02 must be at most half"):
        settings(sound={"hop": 0.02, "window": 0.03})
    with pytest.raises(ValueError, match="sound.vocoder is for sound.model mel"):
        settings(sound={"model": "wave", "vocoder": "x"})
    codec = AudioCodec.of(load_data(settings(source)).train)
    with pytest.raises(ValueError, match="make no spectrogram: mels = 200 are too many"):
        Run.fields_of(settings(source, sound={"bands": 200}), codec)


def test_numbers_of_known_things_are_read_from_words():
    own = Sound(sine(), RATE)
    assert Known.of(own, {"gap": "0.1:0.25"}).gap == (0.1, 0.25)
    assert Known.of(own, {"noise": "0.05"}).noise == 0.05
    for words, why in (
        ({"gap": "0.1"}, "gap must be START:END, in seconds, got ''"),
        ({"noise": "much"}, "noise must be a number, got 'much'"),
        ({"pitch": "3"}, "cannot ask for pitch: there are label, gap, noise and seconds"),
    ):
        with pytest.raises(ValueError, match=why):
            Known.of(own, words)


@pytest.mark.parametrize(
    ("kind", "latent", "leaf"), [("kl", (2, 6, 9), "mel"), ("vq", (6, 9), "code")]
)
def test_latents_of_spectrograms_are_modelled_by_the_same_recipe(make, kind, latent, leaf):
    training = settings().training.model_dump()
    codec = {"kind": kind, "channels": 2, "codes": 8, "halvings": 1, "width": 8}
    network = {"width": 16, "layers": 1, "heads": 2} if kind == "vq" else {}
    sound = {"bands": 12, "hop": 0.008}
    run = make(kind, codec={**codec, "training": training}, network=network, sound=sound)
    assert run.form.event == (1, 12, 18)
    assert tuple(run.model.record.latent) == latent
    assert run.model.record.leaf == leaf
    own = Sound(sine(0.12, frequency=300.0), RATE)
    asked = run.asked(2, label="low", known=Known(own, gap=(0.05, 0.06)))
    first, again = (run.fields(asked, progress=False) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    held = asked.given.known.expand_as(first[:1])[0]
    for field in first:
        torch.testing.assert_close(field[held], asked.given.source[0][held])
    assert not torch.equal(first[0], first[1])
