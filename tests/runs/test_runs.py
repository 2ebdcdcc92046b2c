"""What the domains share around training and drawing."""

import json
import os
import signal

import pytest
import torch
from pydantic import Field

from structdiff.artifacts import Part, RunFolder
from structdiff.runs import (
    Settings,
    averaged,
    checksum,
    noise_of,
    stoppable,
    stored_codec,
    stored_config,
    whole,
    with_sampler,
)
from structdiff.training import Stopped


class Sampler(Settings):
    steps: int = Field(default=3, ge=1)
    eta: float = 1.0


class Config(Settings):
    sampler: Sampler = Sampler()


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "run")
    made.open("odd", Config().model_dump(mode="json"))
    return made


def test_settings_of_the_sampler_change_alone_and_are_checked():
    config = with_sampler(Config(), {"steps": 7, "eta": None})
    assert (config.sampler.steps, config.sampler.eta) == (7, 1.0)
    with pytest.raises(ValueError, match="steps"):
        with_sampler(Config(), {"steps": 0})
    with pytest.raises(ValueError, match="speed"):
        with_sampler(Config(), {"speed": 2})


def test_stored_settings_name_the_file_and_the_field(folder):
    assert stored_config(folder, "odd", Config) == Config()
    content = json.loads(folder.config.read_text())
    content["config"]["sampler"]["steps"] = 0
    folder.config.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config.json: sampler.steps = 0: .*Mend it"):
        stored_config(folder, "odd", Config)
    with pytest.raises(ValueError, match="a run of the domain 'odd', not 'even'"):
        stored_config(folder, "even", Config)


def test_a_codec_that_cannot_be_made_names_the_file(folder):
    def refuse(state):
        msg = f"no {state['kind']}"
        raise ValueError(msg)

    folder.codec.write_text('{"kind": "letters"}')
    with pytest.raises(ValueError, match="codec.json is damaged: no letters"):
        stored_codec(folder, refuse)


def test_an_unfinished_training_is_said(folder):
    with pytest.raises(FileNotFoundError, match="the training has not ended"):
        averaged(folder, lambda: None, "cpu")


@pytest.mark.parametrize(
    ("value", "message"),
    [(1.5, "n must be a whole number, got 1.5"), ("2", "whole"), (0, "n must be at least 1")],
)
def test_numbers_that_are_not_whole_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        whole("n", value, 1)


def test_noise_by_batch_follows_from_the_key_and_by_sample_does_not():
    def numbers(part, keyed):
        source = noise_of(3, part, keyed).scoped(leaf="x", step=0, ids=torch.arange(2))
        return source.uniform((2,), torch.float64, "cpu")

    first, other = Part(0, 2, (0,)), Part(0, 2, (1,))
    assert torch.equal(numbers(first, "batch"), numbers(first, "batch"))
    assert not torch.equal(numbers(first, "batch"), numbers(other, "batch"))
    assert torch.equal(numbers(first, "sample"), numbers(other, "sample"))


def test_a_checksum_knows_where_parts_end():
    assert checksum(b"ab", b"c") != checksum(b"a", b"bc")
    assert checksum(b"ab", b"c") == checksum(b"ab", b"c")


def test_a_signal_ends_the_work_with_a_word():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped after 4"), stoppable(lambda: "stopped after 4"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
