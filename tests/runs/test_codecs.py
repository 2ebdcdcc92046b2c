"""The codec of a run: trained in a folder of its own, fitted once, kept."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from structdiff.artifacts import RunFolder, load_tensors
from structdiff.codecs.chain import Chain
from structdiff.codecs.flows import Couplings
from structdiff.codecs.standardise import Identity, Standardise
from structdiff.codecs.stored import codec_checksum, load_codec
from structdiff.random import Generator, Randomness
from structdiff.runs.codecs import Encoded, fit_codec, train_codec
from structdiff.training import Stopped, TrainingConfig

IDENTITY = {"digest": "abc"}


def data(count: int = 200) -> Tensor:
    """A bent line: x_1 = x_0^2 and noise."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, generator=source)
    return torch.stack([3 * x[:, 0] + 5, x[:, 0] ** 2 + 0.3 * x[:, 1]], 1)


def training(**changes: object) -> TrainingConfig:
    settings = {
        "steps": 60,
        "batch_size": 50,
        "learning_rate": 1e-2,
        "warm_up": 5,
        "ema": 0.9,
        "device": "cpu",
        "bf16": False,
        "validate_every": 30,
        "log_every": 20,
    }
    return TrainingConfig(**{**settings, **changes})


def flow() -> Couplings:
    torch.manual_seed(0)
    return Couplings((2,), layers=4, width=16)


@torch.no_grad()
def surprise(codec: Couplings, x: Tensor) -> float:
    return float(codec.terms(x, Generator(0))["surprise"].mean())


def whole() -> Chain:
    return Chain([Standardise((2,), axes=(0,)), flow(), Standardise((2,))])


def learn(run: Path, codec: object = None, **changes: object) -> object:
    settings = {"identity": IDENTITY, "training": training(), "say": lambda _: None}
    return fit_codec(run, codec or whole(), data(), **{**settings, **changes})


def test_a_codec_learns_and_says_how_well_on_samples_held_out(tmp_path) -> None:
    run = RunFolder(tmp_path / "codec")
    codec, held_out = flow(), data(80)
    before = surprise(codec, held_out)
    said: list[str] = []
    train_codec(
        run,
        codec,
        data(),
        training(),
        identity=IDENTITY,
        held_out=held_out,
        say=said.append,
    )
    seen = [m for m in run.read_metrics() if "validation_surprise" in m]
    assert [m["step"] for m in seen] == [30, 60]
    after = surprise(codec, held_out)
    assert after < before - 0.2
    assert seen[-1]["validation_surprise"] == pytest.approx(after, abs=1e-5)
    assert seen[-1]["validation_squared_error"] < 1e-10
    assert "the codec Couplings (" in said[0]
    kept = Couplings((2,), layers=4, width=16)
    kept.load_state_dict(load_tensors(run.ema)[0])
    assert codec_checksum(kept) == codec_checksum(codec)


def test_training_that_was_stopped_ends_as_it_would_have(tmp_path) -> None:
    straight, stopped = flow(), flow()
    settings = {"identity": IDENTITY, "say": lambda _: None}
    train_codec(RunFolder(tmp_path / "a"), straight, data(), training(), **settings)

    class Interrupted(Couplings):
        count = 0

        def terms(self, x: Tensor, random: Randomness) -> Mapping[str, Tensor]:
            Interrupted.count += 1
            if Interrupted.count == 25:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().terms(x, random)

    torch.manual_seed(0)
    first = Interrupted((2,), layers=4, width=16)
    first.__class__.__name__ = "Couplings"
    with pytest.raises(Stopped, match="stopped at step 25 of 60"):
        train_codec(RunFolder(tmp_path / "b"), first, data(), training(), **settings)
    train_codec(RunFolder(tmp_path / "b"), stopped, data(), training(), **settings)
    assert codec_checksum(stopped) == codec_checksum(straight)


def test_parts_of_a_chain_see_what_the_ones_before_make(tmp_path) -> None:
    """The flow is trained on standardised data, and what comes after has unit variance."""
    codec = learn(tmp_path)
    first, middle, last = codec.parts
    x = data()
    torch.testing.assert_close(first.centre.float(), x.mean(0))
    seen = middle.encode(first.encode(x))
    torch.testing.assert_close(last.centre.float().squeeze(), seen.mean(), rtol=1e-4, atol=1e-5)
    z = codec.encode(x)
    torch.testing.assert_close(z.std(correction=0), torch.tensor(1.0), rtol=1e-4, atol=0)
    assert surprise(middle, first.encode(x)) < 1.2
    assert not any(weight.requires_grad for weight in codec.parameters())


def test_the_codec_that_is_kept_is_not_made_again(tmp_path) -> None:
    codec = learn(tmp_path)

    class Untouched:
        def __len__(self) -> int:
            return 200

        def __getitem__(self, index: np.ndarray) -> Tensor:
            raise AssertionError

    again = fit_codec(tmp_path, whole(), Untouched(), identity=IDENTITY)
    assert codec_checksum(again) == codec_checksum(codec)
    assert codec_checksum(load_codec(tmp_path / "codec.safetensors")) == codec_checksum(codec)


def test_another_codec_than_the_kept_one_is_refused(tmp_path) -> None:
    fit_codec(tmp_path, Standardise((2,)), data(), identity=IDENTITY)
    with pytest.raises(ValueError, match=r"another codec than the settings say: settings.axes"):
        fit_codec(tmp_path, Standardise((2,), axes=(0,)), data(), identity=IDENTITY)
    with pytest.raises(ValueError, match="kind: 'Standardise' -> 'Identity'"):
        fit_codec(tmp_path, Identity((2,)), data(), identity=IDENTITY)


def test_a_damaged_codec_is_named(tmp_path) -> None:
    fit_codec(tmp_path, Standardise((2,)), data(), identity=IDENTITY)
    path = tmp_path / "codec.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"codec\.safetensors is truncated"):
        fit_codec(tmp_path, Standardise((2,)), data(), identity=IDENTITY)


def test_training_on_other_data_or_with_other_settings_is_refused(tmp_path) -> None:
    learn(tmp_path)
    (tmp_path / "codec.safetensors").unlink()
    with pytest.raises(ValueError, match="the data have changed since"):
        learn(tmp_path, identity={"digest": "xyz"})
    with pytest.raises(ValueError, match=r"another config:\s+training\.steps: 60 -> 61"):
        learn(tmp_path, training=training(steps=61))
    found = learn(tmp_path)  # training has ended and is not done again
    steps = [m["step"] for m in RunFolder(tmp_path / "codec").read_metrics()]
    assert max(steps) == 60
    assert json.loads((tmp_path / "codec" / "config.json").read_text())["domain"] == "codec"
    assert found.parts[1].event == (2,)


def test_what_learns_needs_settings_and_may_be_one(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"\['Couplings'\] learn: .* needs settings"):
        learn(tmp_path, training=None)
    two = Chain([flow(), flow()])
    with pytest.raises(ValueError, match=r"\['Couplings', 'Couplings'\] learn: one codec"):
        learn(tmp_path, two)


def test_the_sample_of_a_fit_is_drawn_from_all_data(tmp_path) -> None:
    """Data in order of their class: the first ones alone would say something else."""
    x = torch.arange(10_000.0).reshape(-1, 1)
    codec = fit_codec(tmp_path, Standardise((1,)), x, identity=IDENTITY, samples=500)
    assert abs(float(codec.centre) - 5000) < 4 * 2887 / 500**0.5


def test_encoded_samples_are_made_when_they_are_asked_for() -> None:
    standard = Standardise((2,))
    standard.fit(data())
    seen = Encoded(data(), [standard, Identity((2,))])
    assert len(seen) == 200
    index = np.array([7, 3])
    assert torch.equal(seen[index], standard.encode(data()[[7, 3]]))
