"""The judge: it learns, is kept, is gone on with, and is told with how good it is."""

import math

import numpy as np
import pytest
import torch

from structdiff.metrics import judge as module
from structdiff.metrics.comparison import accuracy
from structdiff.metrics.judge import JUDGING, Judge, Labelled, load_judge, shifted, train_judge
from structdiff.random import Generator
from structdiff.training import Stopped

SHORT = JUDGING.model_copy(update={"steps": 60, "batch_size": 32, "warm_up": 10})


def _bars(samples, seed, places=(9, 12)):
    """Noise with a bar that lies or stands somewhere: two classes."""
    random = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(samples, 1, *places, generator=random)
    labels = torch.randint(0, 2, (samples,), generator=random)
    at = torch.randint(2, min(places) - 2, (samples,), generator=random)
    for number, (label, place) in enumerate(zip(labels.tolist(), at.tolist(), strict=True)):
        line = x[number, 0, place] if label else x[number, 0, :, place]
        line += 1.0
    return Labelled.of(x, labels), x, labels


TRAIN, TEST = _bars(400, 0), _bars(300, 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges") / "bars"
    return train_judge(TRAIN[0], TEST[0], (1, 9, 12), 2, folder=folder, config=SHORT), folder


def test_it_learns_to_tell_what_it_has_not_seen(trained):
    judge, _ = trained
    _, x, labels = _bars(500, 2)
    found = accuracy(judge, x, labels.numpy())
    assert found.value > 0.97
    assert judge.facts["accuracy"] == pytest.approx(found.value, abs=0.03)
    untrained = accuracy(Judge((1, 9, 12), 2), x, labels.numpy())
    assert untrained.value < 0.7


def test_its_facts_are_those_of_the_test_part(trained):
    judge, _ = trained
    with torch.no_grad():
        right = (judge(TEST[1]).argmax(1) == TEST[2]).double().mean()
    assert judge.facts["accuracy"] == pytest.approx(float(right), abs=1e-12)
    error = math.sqrt(judge.facts["accuracy"] * (1 - judge.facts["accuracy"]) / 300)
    assert judge.facts["error"] == pytest.approx(error, abs=1e-12)
    assert "trained on 400 real samples" in judge.about()
    assert judge.facts["weights"][:8] in judge.about()


def test_a_folder_is_read_and_not_trained_again(trained, monkeypatch):
    judge, folder = trained
    monkeypatch.setattr(module.Trainer, "run", lambda _: pytest.fail("it was trained again"))
    again = train_judge(TRAIN[0], TEST[0], (1, 9, 12), 2, folder=folder, config=SHORT)
    with torch.no_grad():
        assert torch.equal(again(TEST[1]), judge(TEST[1]))
    assert again.facts == judge.facts == load_judge(folder).facts


def test_a_stopped_training_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch):
    judge, _ = trained
    update = module.Trainer.update

    def stopping(self):
        self._stop = self.step == 30
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(module.Trainer, "update", stopping)
        with pytest.raises(Stopped):
            train_judge(TRAIN[0], TEST[0], (1, 9, 12), 2, folder=tmp_path / "j", config=SHORT)
    again = train_judge(TRAIN[0], TEST[0], (1, 9, 12), 2, folder=tmp_path / "j", config=SHORT)
    assert again.facts["weights"] == judge.facts["weights"]


def test_its_start_follows_from_its_seed_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = SHORT.model_copy(update={"steps": 1})
    other = one.model_copy(update={"seed": 1})
    weights = [
        train_judge(TRAIN[0], TEST[0], (1, 9, 12), 2, config=config).facts["weights"]
        for config in (one, one, other)
    ]
    assert weights[0] == weights[1] != weights[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_moves_are_those_of_rolling_inside_the_rims():
    x = torch.arange(2.0 * 3 * 8 * 8).reshape(6, 1, 8, 8).expand(6, 2, 8, 8)
    moved = shifted(x, 2, Generator(0))
    found = set()
    for one, before in zip(moved, x, strict=True):
        fits = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(one[:, 2:-2, 2:-2], before.roll((-dy, -dx), (1, 2))[:, 2:-2, 2:-2])
        ]
        assert len(fits) == 1
        found.add(fits[0])
    assert len(found) > 2


def test_rims_are_repeated():
    x = torch.arange(5.0).reshape(1, 1, 1, 5).expand(1, 1, 5, 5)
    rows = {tuple(shifted(x, 2, Generator(seed))[0, 0, 0].tolist()) for seed in range(40)}
    steps = range(-2, 3)
    assert rows == {tuple(float(min(max(i + s, 0), 4)) for i in range(5)) for s in steps}


@pytest.mark.parametrize("event", [(1, 2, 2), (3, 5, 40), (1, 80, 64), (1, 130, 70)])
def test_fields_of_any_size_are_told_by_what_they_hold(event):
    judge = Judge(event, 3)
    x = torch.randn(4, *event, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = judge(x)
    logits.square().sum().backward()
    assert bool((x.grad.flatten(1) != 0).float().mean(1).min() > 0.5)  # all places are looked at
    with torch.no_grad():
        apart = torch.cat([judge(one[None]) for one in x])
    torch.testing.assert_close(apart, logits, rtol=1e-4, atol=1e-5)  # batch mates are not


@pytest.mark.parametrize(
    ("event", "classes", "match"),
    [
        ((1, 8), 2, "event must be"),
        ((1, 1, 8), 2, "event must be"),
        ((0, 8, 8), 2, "event must be"),
        ((1, 8, 8), 1, "needs 2 classes"),
    ],
)
def test_judges_that_cannot_be_are_refused(event, classes, match):
    with pytest.raises(ValueError, match=match):
        Judge(event, classes)


def test_what_cannot_be_learned_from_is_refused(trained, tmp_path):
    judge, folder = trained
    with pytest.raises(ValueError, match="fields of shape"):
        judge(torch.zeros(1, 1, 12, 9))
    with pytest.raises(ValueError, match="train must have samples"):
        train_judge(Labelled(TRAIN[0].labels + 1, TRAIN[0].fields, {}), TEST[0], (1, 9, 12), 2)
    with pytest.raises(ValueError, match="test must have samples"):
        empty = Labelled(np.zeros(0, np.int64), TEST[0].fields, {})
        train_judge(TRAIN[0], empty, (1, 9, 12), 2)
    with pytest.raises(FileNotFoundError):
        load_judge(tmp_path)
    (tmp_path / "codec.json").write_text((folder / "codec.json").read_text())
    (tmp_path / "judge.json").write_text("{}")
    (tmp_path / "ema.safetensors").write_bytes((folder / "ema.safetensors").read_bytes()[:-5])
    with pytest.raises(ValueError, match="ema.safetensors"):
        load_judge(tmp_path)


def test_a_folder_of_other_data_is_refused(trained, tmp_path):
    _, folder = trained
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "codec.json", "data.json"):
        (other / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match="data have changed"):
        train_judge(TEST[0], TEST[0], (1, 9, 12), 2, folder=other, config=SHORT)
