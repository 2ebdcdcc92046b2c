"""Training a run of fields: phases, stops in each of them, what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from structdiff.artifacts import load_tensors
from structdiff.batch import Batch
from structdiff.codecs.stored import load_codec
from structdiff.runs import latents
from structdiff.runs.fields import Given
from structdiff.runs.fields.training import Collating
from structdiff.training import Trainer
from tests.runs.stripes import (
    EVENT,
    Names,
    Small,
    StripeRun,
    Stripes,
    config_of,
    nearest,
    patterns,
    train,
    training,
)

KL = {"kind": "kl", "halvings": 1, "width": 4, "channels": 2, "training": training(3)}


class Killed(BaseException):
    """The process was killed."""


def killing(monkeypatch, owner, name, calls):
    """The function dies in its so-manieth call."""
    before, left = getattr(owner, name), [calls]

    def deadly(*args, **others):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return before(*args, **others)

    monkeypatch.setattr(owner, name, deadly)


def weights(path):
    return load_tensors(path / "ema.safetensors")[0] | {
        f"codec.{name}": x for name, x in load_tensors(path / "codec.safetensors")[0].items()
    }


@pytest.fixture(scope="module")
def unstopped(tmp_path_factory):
    path = tmp_path_factory.mktemp("fields") / "run"
    config = config_of(codec=KL, training=training(4, save_seconds=1e-9))
    train(path, config, check=Stripes(4))
    return path, config


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (Trainer, "update", 2),  # in the training of the codec
        (latents, "_encoded", 1),  # while latents are kept
        (Trainer, "update", 6),  # in the training of the model
        (Trainer, "export", 2),  # at its end
    ],
)
def test_a_run_killed_in_any_phase_ends_as_one_that_was_not(
    unstopped, tmp_path, monkeypatch, owner, name, calls
):
    path, config = unstopped
    codec = {**KL, "training": training(3, save_seconds=1e-9)}
    config = config_of(codec=codec, training=config.training.model_dump())
    with monkeypatch.context() as patched:
        killing(patched, owner, name, calls)
        with pytest.raises(Killed):
            train(tmp_path / "run", config, check=Stripes(4))
    with pytest.raises(FileNotFoundError, match="the training has not ended"):
        StripeRun.load(tmp_path / "run")
    train(tmp_path / "run", config, check=Stripes(4))
    whole, again = weights(path), weights(tmp_path / "run")
    assert all(torch.equal(again[name], x) for name, x in whole.items())
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_the_folder_holds_what_each_phase_made(unstopped):
    path, _ = unstopped
    run = StripeRun.load(path)
    codec = load_codec(path / "codec.safetensors")
    kept = latents.Latents(sorted((path / "latents").glob("*.safetensors")))
    x = Stripes().fields(np.arange(16))
    assert torch.allclose(kept[np.arange(16)], codec.encode(x), atol=1e-6)
    assert abs(float(kept[np.arange(16)].std()) - 1) < 0.05  # fitted: of unit deviation
    assert torch.equal(run.model.decode(kept[[3]]), codec.decode(kept[[3]]))
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_loss" in line for line in lines)
    assert json.loads((path / "codec.json").read_text()) == Names().state()
    assert run.facts()["latents"] == "2 x 2 x 2"


def test_a_model_of_stripes_learns_their_classes(tmp_path):
    quick = training(200, learning_rate=5e-3, ema=0.97, batch_size=16, warm_up=10)
    network = {"kind": "transformer", "width": 32, "layers": 2, "heads": 2, "features": 16}
    made = {"training": quick, "network": network, "loss": {"dropout": 0.2}}
    run = train(tmp_path / "run", config_of(**made))
    x = run.drawing(steps=20, guidance=2.0).fields(
        run.request(40, label=[0] * 20 + [1] * 20), progress=False
    )
    which, far = nearest(x)
    assert float(((which >= 2) == (torch.arange(40) >= 20)).double().mean()) >= 0.95
    assert far.median() < 1.4  # of a distance of at least 3.4 between two patterns
    assert torch.bincount(which, minlength=4).min() >= 2  # both of each class


def test_codes_are_learned_by_a_chain(tmp_path):
    codec = {"kind": "vq", "halvings": 1, "width": 8, "codes": 8, "channels": 4}
    made = {**codec, "training": training(120, learning_rate=5e-3, batch_size=16)}
    quick = training(150, learning_rate=1e-2, ema=0.95, batch_size=16)
    groups = {"codec": made, "training": quick, "sampler": {"steps": 8, "kind": "ancestral"}}
    network = {"width": 8, "layers": 1, "heads": 2}
    run = train(tmp_path / "run", config_of(**groups, network=network))
    x = run.fields(run.request(24, label=[0] * 12 + [1] * 12), progress=False)
    which, far = nearest(x)
    assert float(((which >= 2) == (torch.arange(24) >= 12)).double().mean()) >= 0.8
    assert far.median() < 1.0
    known = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    known[..., 2:, :] = False
    source = patterns()[0][:1]
    filled = run.fields(run.request(8, given=Given(source, known)), progress=False)
    assert torch.equal(filled[..., :2, :], source[..., :2, :].expand(8, 1, 2, 4))
    assert (nearest(filled)[0] == 0).double().mean() >= 0.7


def test_conditions_of_a_batch_are_those_of_its_samples():
    data, fields = Stripes(), StripeRun.fields_of(config_of(), Names())
    shown = type(fields)(fields.leaf, EVENT, fields.classes, {"seen": Small()})
    index = np.array([5, 2, 9])
    batch = Collating(data, shown, None)(index)
    assert isinstance(batch, Batch)
    assert torch.equal(batch["stripe"], data.x[index])
    assert torch.equal(batch.condition["seen"], data.x[index])
    assert batch.condition["label"].tolist() == data.label[index].tolist()
    z = torch.arange(16.0).reshape(16, 1, 1, 1).expand(16, *EVENT)
    assert Collating(data, fields, None, z)(index)["stripe"][:, 0, 0, 0].tolist() == [5, 2, 9]


def test_other_data_settings_and_codecs_are_refused(unstopped, tmp_path):
    path = shutil.copytree(unstopped[0], tmp_path / "run")
    config = unstopped[1]
    with pytest.raises(ValueError, match="the data have changed"):
        train(path, config, Stripes(name="others"))
    with pytest.raises(ValueError, match=r"training.steps: 4 -> 2"):
        train(path, config_of(codec=KL))
    (path / "codec.json").write_text("{}")
    with pytest.raises(ValueError, match="names are missing"):
        StripeRun.load(path)
    (path / "codec.json").write_text(json.dumps(Names().state()))
    (path / "codec.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"codec.safetensors is truncated"):
        StripeRun.load(path)
    (path / "codec.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"codec.safetensors does not exist: restore it"):
        StripeRun.load(path)
    other = train(tmp_path / "other", config_of(codec={"kind": "standardise"}))
    shutil.copy(other.folder.path / "codec.safetensors", path / "codec.safetensors")
    with pytest.raises(ValueError, match="is another codec than"):
        StripeRun.load(path)


def test_joint_training_moves_encoder_and_model_and_both_are_kept(tmp_path):
    codec = {**KL, "joint": True, "deviation": 0.3}
    quick = training(80, learning_rate=1e-2, ema=0.9, batch_size=8)
    run = train(tmp_path / "run", config_of(codec=codec, training=quick))
    first = train(tmp_path / "first", config_of(codec=codec, training=training(1, ema=0.0)))
    assert not (tmp_path / "run" / "codec").exists()
    x = patterns()[0]
    lost, before = (
        float((one.model.decode(one.model.encode(x)) - x).square().mean()) for one in (run, first)
    )
    assert lost < 0.5 * before
    lines = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    assert {"reconstruction", "entropy", "stripe"} <= lines[-1].keys() | lines[0].keys()
    again = StripeRun.load(tmp_path / "run")
    pairs = zip(run.model.codec.parameters(), again.model.codec.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    asked = run.request(4, label=[0, 1])
    drawn = run.drawing(steps=5).fields(asked, progress=False)
    assert torch.equal(drawn, again.drawing(steps=5).fields(asked, progress=False))
