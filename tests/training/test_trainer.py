"""The training loop: its learning rate, its gradient, its saves, and how it fails."""

import functools
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from structdiff.artifacts import RunFolder, load_tensors
from structdiff.batch import Batch
from structdiff.denoiser import NetworkDenoiser
from structdiff.domains.molecules import MoleculeCodec, MoleculesConfig, embedded
from structdiff.domains.molecules.recipe import build, objective_of
from structdiff.layout import Layout
from structdiff.objectives import Denoising, Terms
from structdiff.processes import Gaussian, Product
from structdiff.random import Generator
from structdiff.schedules import Linear
from structdiff.training import (
    Failure,
    NonFiniteLoss,
    Source,
    Stopped,
    Trainer,
    TrainingConfig,
    pick_device,
)
from structdiff.training.failure import where_broken

sys.path.insert(0, str(Path(__file__).parent))

from line import DATA, make  # noqa: E402

sys.path.pop(0)


def weights(trainer):
    return [p.detach().clone() for p in trainer.denoiser.parameters()]


def test_the_line_is_found():
    """Least squares by training and by the normal equations."""
    trainer = make(steps=400, batch_size=24, learning_rate=0.05, weight_decay=0, clip=100)
    trainer.run()
    x = torch.cat([DATA[:, :3], torch.ones(24, 1)], 1)
    best = torch.linalg.lstsq(x, DATA[:, 3:]).solution[:, 0]
    found = torch.cat([trainer.denoiser.layer.weight[0], trainer.denoiser.layer.bias])
    torch.testing.assert_close(found.detach(), best, atol=1e-3, rtol=0)


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine():
    trainer = make(steps=100, warm_up=10)
    for step in (0, 4, 9, 10, 50, 99):
        rise = min(1, (step + 1) / 10)
        assert trainer.rate(step) == pytest.approx(rise * (1 + math.cos(math.pi * step / 100)) / 2)
    assert trainer.rate(50) == pytest.approx(0.5)
    assert trainer.rate(100) == 0
    assert make(warm_up=0).rate(0) == 1


def test_the_first_update_of_adam_is_the_learning_rate():
    """Bias-corrected, the first step is the learning rate times the gradient's sign."""
    trainer = make(learning_rate=0.01, warm_up=5, weight_decay=0)
    before = weights(trainer)
    trainer.update()
    for old, new in zip(before, weights(trainer), strict=True):
        torch.testing.assert_close(
            (new - old).abs(), torch.full_like(old, 0.01 / 5), rtol=1e-3, atol=0
        )


def test_gradients_are_clipped_to_the_norm_and_no_shorter():
    def norm(clip):
        trainer = make(clip=clip)
        trainer.update()
        return float(torch.stack([p.grad.norm() for p in trainer.weights]).norm())

    free = norm(1e6)
    assert free > 0.2
    assert norm(0.1) == pytest.approx(0.1, rel=1e-4)
    assert norm(2 * free) == pytest.approx(free, rel=1e-6)


def test_accumulated_batches_are_one_bigger_batch():
    """24 samples: two batches of 6 are, in the order of the permutation, one of 12."""
    small, large = make(batch_size=6, accumulate=2), make(batch_size=12)
    small.run(), large.run()
    for a, b in zip(weights(small), weights(large), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    other = make(batch_size=6)
    other.run()
    assert (weights(other)[0] - weights(large)[0]).abs().max() > 1e-5


def test_the_seed_decides_and_repeats():
    runs = [make(**{"seed": 0} | s) for s in ({}, {}, {"batch_size": 4})]
    for trainer in runs:
        trainer.run()
    assert torch.equal(weights(runs[0])[0], weights(runs[1])[0])
    assert not torch.equal(weights(runs[0])[0], weights(runs[2])[0])


def test_the_average_follows_every_update():
    trainer = make(ema=0.05)
    average = weights(trainer)
    for _ in range(6):
        trainer.update()
        average = [0.05 * a + 0.95 * w for a, w in zip(average, weights(trainer), strict=True)]
    for a, b in zip(average, trainer.average.average, strict=True):
        torch.testing.assert_close(a, b)


def test_validation_sees_averaged_weights_and_puts_the_others_back(tmp_path):
    seen = []

    def validate(denoiser):
        seen.append((denoiser.layer.weight.detach().clone(), denoiser.training))
        return {"slope": denoiser.layer.weight[0, 0].item()}

    trainer = make(RunFolder(tmp_path), validate, steps=10, validate_every=4, log_every=5)
    unwatched = make(steps=10)
    averages = []
    update = trainer.update

    def watched():
        result = update()
        averages.append(trainer.average.average[0].clone())
        return result

    trainer.update = watched
    trainer.run(), unwatched.run()
    assert [torch.equal(w, averages[k]) for (w, _), k in zip(seen, (3, 7, 9), strict=True)] == [
        True
    ] * 3
    assert [training for _, training in seen] == [False] * 3
    assert trainer.denoiser.training
    assert torch.equal(weights(trainer)[0], weights(unwatched)[0])
    lines = RunFolder(tmp_path).read_metrics()
    assert [x["step"] for x in lines if "slope" in x] == [4, 8, 10]
    assert [x["slope"] for x in lines if "slope" in x] == [float(w[0, 0]) for w, _ in seen]
    assert [x["step"] for x in lines if "x" in x] == [5, 10]


def test_a_validation_that_fails_puts_the_weights_back():
    def validate(denoiser):
        raise ZeroDivisionError

    trainer = make(validate=validate)
    for _ in range(3):
        trainer.update()
    before = weights(trainer)
    with pytest.raises(ZeroDivisionError):
        trainer.validated()
    assert torch.equal(weights(trainer)[0], before[0])


def test_exported_weights_are_the_last_and_the_averaged(tmp_path):
    trainer = make(RunFolder(tmp_path))
    trainer.run()
    model = load_tensors(tmp_path / "model.safetensors")[0]
    ema = load_tensors(tmp_path / "ema.safetensors")[0]
    assert torch.equal(model["layer.weight"], trainer.denoiser.layer.weight)
    assert torch.equal(ema["layer.weight"], trainer.average.average[0])


def test_logged_losses_are_means_since_the_last_line(tmp_path):
    losses = []
    trainer = make(RunFolder(tmp_path), log_every=8)
    update = trainer.update

    def watched():
        means = update()
        losses.append(float(means["x"]))
        return means

    trainer.update = watched
    trainer.run()
    parts = losses[:8], losses[8:16], losses[16:]
    lines = RunFolder(tmp_path).read_metrics()
    assert [x["step"] for x in lines] == [8, 16, 20]
    assert [x["x"] for x in lines] == pytest.approx([sum(p) / len(p) for p in parts], rel=1e-5)


def stopped(trainer, step):
    """Train until a step as a signal would end it."""
    update = trainer.update

    def ask():
        means = update()
        trainer._stop = trainer.step == step
        return means

    trainer.update = ask
    with pytest.raises(Stopped, match=f"stopped at step {step} of 20") as error:
        trainer.run()
    return str(error.value)


def test_stopping_and_going_on_is_as_if_nothing_was(tmp_path):
    folder, whole = RunFolder(tmp_path), make(steps=20)
    whole.run()
    assert "the state is saved" in stopped(make(folder, seed=0), 7)
    assert "nothing is kept" in stopped(make(seed=0), 7)
    later = make(folder, seed=5)  # other first weights, which the save replaces
    later.run()
    state = later.state()
    assert state.keys() == whole.state().keys()
    assert [name for name, x in whole.state().items() if not torch.equal(x, state[name])] == []
    steps = [x["step"] for x in folder.read_metrics()]
    assert steps == sorted(set(steps))


def test_a_kill_before_the_first_save_leaves_no_line_twice(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (5, 10):
        folder.log(step=step, x=1.0)
    make(folder, log_every=5).run()
    assert [x["step"] for x in folder.read_metrics()] == [5, 10, 15, 20]


def test_training_to_the_end_again_changes_nothing(tmp_path):
    make(RunFolder(tmp_path)).run()
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    before = {path.name: load_tensors(path) for path in tmp_path.glob("*.safetensors")}
    assert len(before) == 3
    again = make(RunFolder(tmp_path), seed=3)
    again.run()
    assert again.step == 20
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics
    for name, (tensors, metadata) in before.items():
        now, text = load_tensors(tmp_path / name)
        assert text == metadata
        assert [n for n, x in tensors.items() if not torch.equal(x, now[n])] == []


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, batch, clock, previous):
        del previous
        seen = torch.cat([batch["x"], clock["x"].clamp(-9, 9).unsqueeze(1).to(batch["x"])], 1)
        return {"x": self.layers(seen)}


def ragged(data, folder, seed=0, **settings):
    """A trainer on samples of 1, 2, 3, 1, 2, 3, ... rows."""
    torch.manual_seed(seed)
    counts = [1 + k % 3 for k in range(12)]
    records = Batch({"x": data}, {"x": Layout.ragged(counts)})
    denoiser = NetworkDenoiser(Perceptron(), Product({"x": Gaussian(Linear(), event=(2,))}))
    source = Source(12, lambda i: records.select(torch.from_numpy(i)), batch_size=4)
    config = TrainingConfig(**{"steps": 9, "bf16": False, "device": "cpu"} | settings)
    return Trainer(denoiser, Denoising(), source, config, folder=folder)


def test_a_loss_that_is_not_finite_is_named_kept_and_reproduced(tmp_path):
    data = torch.randn(24, 2, generator=torch.Generator().manual_seed(0))
    bad = 7  # samples 0 to 6 have 1 + 2 + 3 + 1 + 2 + 3 + 1 = 13 rows
    data[14] = torch.nan
    trainer = ragged(data, RunFolder(tmp_path))
    with pytest.raises(NonFiniteLoss) as error:
        trainer.run()
    message = str(error.value)
    assert f"not finite at step {trainer.step}: leaf 'x', clock " in message
    assert f"sample ids [{bad}]." in message
    path = tmp_path / f"failure-step-{trainer.step}.safetensors"
    assert str(path) in message

    failure = Failure.load(path)
    assert bad in failure.batch.ids.tolist()
    assert failure.step == trainer.step
    again = ragged(data, None, seed=1).reproduce(path)
    broken = failure.batch.ids[~torch.isfinite(again.leaves["x"])].tolist()
    assert broken == [bad]
    # The other samples saw the same weights and the same noise.
    random = Generator(0)
    random.restore(failure.random)
    terms = trainer.terms(trainer.source(trainer.step), random)
    torch.testing.assert_close(
        terms.leaves["x"], again.leaves["x"], equal_nan=True, rtol=0, atol=0
    )
    clock = again.clock["x"][
        failure.batch.layouts["x"].sample == failure.batch.ids.tolist().index(bad)
    ]
    assert f"clock {float(clock.min()):.3g} to {float(clock.max()):.3g}" in message


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights():
    trainer = make()
    trainer.denoiser.layer.bias.register_hook(lambda d: d * torch.inf)
    before = weights(trainer)
    with pytest.raises(NonFiniteLoss, match="step 0: in the gradient, sample ids"):
        trainer.update()
    assert all(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))


def test_a_failure_keeps_everything_of_a_batch(tmp_path):
    nodes, edges = Layout.ragged([2, 3]), Layout.ragged([1, 2])
    ends = torch.tensor([[0, 2, 2], [1, 3, 4]])
    batch = Batch(
        {"x": torch.randn(5, 2), "bond": torch.tensor([1, 0, 2])},
        {"x": nodes, "bond": Layout(edges.counts, edges.sample, ends)},
        {"size": torch.tensor([1.0, 2.0])},
        {"size": torch.tensor([True, False])},
        {"x": torch.tensor([True, False, False, True, True])},
        torch.tensor([40, 7]),
    )
    Failure(batch, {"w": torch.ones(2)}, Generator(3).state(), 11).save(tmp_path / "f")
    found = Failure.load(tmp_path / "f")
    for part in ("leaves", "condition", "present", "given"):
        for name, value in getattr(batch, part).items():
            assert torch.equal(getattr(found.batch, part)[name], value)
    assert found.batch.layouts["bond"].nodes.tolist() == ends.tolist()
    assert found.batch.layouts["x"].sample.tolist() == [0, 0, 1, 1, 1]
    assert found.batch.ids.tolist() == [40, 7]
    assert found.step == 11


@pytest.fixture(scope="module")
def molecules():
    def molecules(self_conditioning=False, **training):
        network = {"layers": 2, "width": 16, "hidden": 16, "basis": 8}
        network["self_conditioning"] = self_conditioning
        config = MoleculesConfig.model_validate({"network": network, "training": training})
        some = embedded().select(range(40))
        codec = MoleculeCodec.fit(some)
        records = codec.encode(some)
        source = Source(40, lambda i: records.select(torch.from_numpy(i)), batch_size=16)
        objective = objective_of(config, codec)
        return Trainer(build(config, codec), objective, source, config.training)

    return molecules


def test_bfloat16_changes_the_loss_by_little(molecules):
    losses = [
        {n: float(x) for n, x in molecules(bf16=low, device="cpu").update().items()}
        for low in (0, 1)
    ]
    for name, value in losses[0].items():
        assert 0 < abs(losses[1][name] - value) < 0.02 * value


def test_self_conditioning_trains_and_is_a_function_of_the_seed(molecules):
    runs = [molecules(self_conditioning=True, device="cpu", seed=s) for s in (1, 1, 2)]
    calls = {k: [] for k in range(3)}
    for k, trainer in enumerate(runs):
        trainer.denoiser.register_forward_pre_hook(
            lambda _, inputs, seen=calls[k]: seen.append(inputs[2] is not None)
        )
    values = [[list(map(float, trainer.update().values())) for _ in range(4)] for trainer in runs]
    assert values[0] == values[1]
    assert values[0] != values[2]
    assert calls[0] == calls[1]
    assert calls[0].count(False) == 4  # with an estimate: after a call without
    assert 0 < calls[0].count(True) < 4


def test_a_compiled_network_trains_the_same(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    compiled, plain = make(compile=True, steps=4), make(steps=4)
    assert compiled.called is not compiled.denoiser
    compiled.run(), plain.run()
    assert compiled.state().keys() == plain.state().keys()
    for a, b in zip(weights(compiled), weights(plain), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["tpu", "cuda:77", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(
        ValueError, match=f"device = {name!r} cannot be used .*choose auto, cpu or"
    ):
        pick_device(name)
    assert pick_device("auto").type in ("cpu", "cuda")


def test_each_process_asks_for_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "98")
    with pytest.raises(ValueError, match="device = 'cuda:98' cannot be used"):
        pick_device("cuda")
    assert pick_device("cpu") == torch.device("cpu")


def test_terms_that_are_no_leaves_are_named_where_they_break():
    batch = Batch.of({"x": torch.zeros(3, 2)})
    terms = Terms(
        {"x": torch.tensor([0.0, torch.nan, 0.0]), "codes": torch.tensor([torch.inf, 0.0, 0.0])},
        {"x": torch.tensor([1.0, 2.0, 3.0])},
    )
    assert where_broken(batch, terms) == (
        "leaf 'x', clock 2 to 2, sample ids [1]; term 'codes', sample ids [0]"
    )
