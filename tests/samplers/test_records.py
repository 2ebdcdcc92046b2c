"""Samplers with the exact denoiser of a few ragged joint points: whole, in proportion, held."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Heun,
    Layout,
    Linear,
    Multistep,
    Product,
    UniformTime,
    absorbing,
    marginal,
    uniform,
)
from structdiff.samplers import Carry, Sampler, Singlestep
from structdiff.spaces import SO3, Torus, ZeroCentre
from structdiff.testing import Addressed, ExactDenoiser, Silent, sort_records

SAMPLERS = {
    "DDIM": DDIM,
    "DDIM0.5": lambda d, g: DDIM(d, g, eta=0.5),
    "DDPM": DDPM,
    "Heun": Heun,
    "Multistep1": lambda d, g: Multistep(d, g, order=1),
    "Multistep2": lambda d, g: Multistep(d, g, order=2),
    "Multistep3": lambda d, g: Multistep(d, g, order=3),
    "Singlestep2": lambda d, g: Singlestep(d, g, order=2),
}
samplers = pytest.mark.parametrize("name", SAMPLERS)
WEIGHTS = torch.tensor([0.15, 0.35, 0.2, 0.3, 0.6, 0.4])
SIZES = [2, 2, 2, 2, 3, 3]


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def process():
    return Product(
        {
            "field": Gaussian(Linear(), event=(3,)),
            "atoms": Gaussian(Linear(), event=(2,), space=ZeroCentre()),
            "first": Categorical(Flow(), uniform(3)),
            "second": Categorical(Flow(), absorbing(3)),
            "third": Categorical(Flow(), marginal(torch.tensor([0.5, 0.2, 0.3]))),
            "angles": Brownian(Geometric(0.02, 6.0), Torus(2)),
            "turn": Brownian(Geometric(0.02, 4.0), SO3()),
        }
    )


def data() -> Batch:
    """Six records: four of two atoms, two of three; 2 and 3 differ in two class leaves only."""
    source = torch.Generator().manual_seed(5)
    atoms = Layout.ragged(SIZES)
    regular = Layout.regular(6)
    place = 1.5 * torch.randn(14, 2, generator=source)
    place[6:8] = place[4:6]
    leaves = {
        "field": torch.randn(6, 3, generator=source),
        "atoms": place - atoms.spread(atoms.mean(place)),
        "first": torch.tensor([0, 1, 2, 0, 1, 0]),
        "second": torch.tensor([1, 2, 0, 1, 2, 0]),
        "third": torch.tensor([0, 1, 2, 2, 2, 1]),
        "angles": 2 * math.pi * torch.rand(6, 2, generator=source) - math.pi,
        "turn": SO3().uniform(6, Generator(2), torch.float64, "cpu"),
    }
    for name in ("field", "angles", "turn"):
        leaves[name][3] = leaves[name][2]
    return Batch(leaves, {n: atoms if n == "atoms" else regular for n in leaves})


def empty(samples: int) -> Batch:
    """Placeholders, samples of two and of three atoms in turn."""
    record = data().select([0, 4] * (samples // 2))
    zeros = {n: torch.zeros_like(x) for n, x in record.leaves.items()}
    return Batch(zeros, record.layouts)


def around(x, y):
    return Torus(2).log(x, y).abs().amax(1)


def draw(sampler: Sampler, samples: int, seed: int = 0):
    drawn = sampler.sample(empty(samples), Generator(seed))
    return sort_records(drawn, data(), {"angles": around})


@samplers
def test_records_return_whole_and_in_proportion(name):
    """DESIGN 7: points in proportion, torn at most 2 / steps and halving."""
    denoiser, samples, torn = ExactDenoiser(process(), data(), WEIGHTS), 700, []
    for steps in (8, 16):
        record = draw(SAMPLERS[name](denoiser, UniformTime(steps)), samples)
        torn.append(float((record < 0).double().mean()))
        slack = 4 * math.sqrt(2 / steps / samples)
        assert torn[-1] <= 2 / steps + slack
        for k, weight in enumerate(WEIGHTS.tolist()):
            share = float((record == k).double().mean()) * 2
            error = math.sqrt(weight * (1 - weight) / (samples / 2))
            assert abs(share - weight) < 4 * error + 2 / steps, (steps, k, share, weight)
    assert torn[1] <= torn[0] / 2 + 4 * math.sqrt(max(torn[0], 1 / samples) / samples)


def test_proportions_converge():
    """With many steps the proportions pass a chi-square test: 4 degrees of freedom, p > 1e-4."""
    denoiser, samples = ExactDenoiser(process(), data(), WEIGHTS), 800
    record = draw(DDPM(denoiser, UniformTime(70)), samples)
    whole = record[record >= 0]
    assert len(whole) > 0.985 * samples
    counts = torch.bincount(whole, minlength=6)
    sizes = torch.tensor([counts[:4].sum()] * 4 + [counts[4:].sum()] * 2)
    expected = WEIGHTS * sizes
    assert ((counts - expected) ** 2 / expected).sum() < 23.5


@samplers
def test_a_sample_does_not_depend_on_its_batch_mates(name):
    denoiser = ExactDenoiser(process(), data(), WEIGHTS)
    sampler = SAMPLERS[name](denoiser, UniformTime(4))
    batch = empty(4)
    whole = sampler.sample(batch, Addressed(0))
    for i in (1, 2):
        alone = sampler.sample(batch.select([i]), Addressed(0))
        for leaf, x in alone.leaves.items():
            rows = batch.layouts[leaf].rows_of(torch.tensor([i]))
            torch.testing.assert_close(whole[leaf][rows], x, rtol=1e-10, atol=1e-10)


@samplers
def test_a_walk_is_saved_and_resumed_bit_for_bit(name, tmp_path):
    from safetensors.torch import load_file, save_file

    denoiser = ExactDenoiser(process(), data(), WEIGHTS)
    bound = SAMPLERS[name](denoiser, UniformTime(6)).bind(empty(6), Generator(3))
    carry = bound.start()
    for i in range(6):
        if i == 4:
            state = carry.tensors() | {"random": bound.random.state()}
            save_file(state, tmp_path / "carry.safetensors")
        carry = bound.step(carry, i)
    saved = load_file(tmp_path / "carry.safetensors")
    random = Generator(99)
    random.restore(saved.pop("random"))
    resumed = SAMPLERS[name](denoiser, UniformTime(6)).bind(empty(6), random)
    again = Carry.from_tensors(saved)
    for i in (4, 5):
        again = resumed.step(again, i)
    assert again.calls == carry.calls
    assert all(torch.equal(x, again.x[leaf]) for leaf, x in carry.x.items())
    assert torch.equal(random.state(), bound.random.state())


@samplers
def test_no_condition_is_bit_identical(name):
    """A23: an absent condition changes nothing."""
    denoiser = ExactDenoiser(process(), data(), WEIGHTS)
    sampler, batch = SAMPLERS[name](denoiser, UniformTime(4)), empty(4)
    mask = {"label": torch.zeros(4, dtype=torch.bool)}
    with_mask = Batch(batch.leaves, batch.layouts, {"label": torch.ones(4)}, mask)
    a = sampler.sample(batch, Generator(1))
    b = sampler.sample(with_mask, Generator(1))
    assert all(torch.equal(x, b[leaf]) for leaf, x in a.leaves.items())


@samplers
def test_determinism(name):
    """A12: one seed, one result; without fresh noise no number is drawn after the start."""
    continuous = Product(
        {"field": Gaussian(Linear(), event=(3,)), "turn": Brownian(Geometric(0.02, 4.0), SO3())}
    )
    points = {n: data()[n] for n in ("field", "turn")}
    denoiser = ExactDenoiser(continuous, Batch.of(points), WEIGHTS)
    sampler = SAMPLERS[name](denoiser, UniformTime(8))
    batch = Batch.of(continuous.empty(5))
    ends = [sampler.sample(batch, Generator(7)) for _ in range(2)]
    assert all(torch.equal(x, ends[1][leaf]) for leaf, x in ends[0].leaves.items())
    silent, carry = sampler.bind(batch, Silent()), sampler.bind(batch, Generator(7)).start()
    if sampler.eta > 0:
        with pytest.raises(AssertionError, match="drawn where none"):
            silent.step(carry, 0)
        return
    for i in range(8):
        carry = silent.step(carry, i)
    assert all(torch.equal(x, carry.x[leaf]) for leaf, x in ends[0].leaves.items())


def coupled():
    """Four records of a place and two classes, with their weights."""
    world = Product(
        {
            "x": Gaussian(Linear(), event=(2,)),
            "y": Categorical(Flow(), absorbing(2)),
            "z": Categorical(Flow(), uniform(3)),
        }
    )
    x = torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.0, 1.0], [-2.0, 0.0]])
    records = Batch.of({"x": x, "y": torch.tensor([0, 0, 1, 1]), "z": torch.tensor([0, 1, 2, 1])})
    return ExactDenoiser(world, records, torch.tensor([0.1, 0.4, 0.3, 0.2]))


CONDITIONALS = [
    ("y", torch.tensor(1), [0, 0, 0.6, 0.4]),
    ("x", torch.tensor([0.0, 1.0]), [0.25, 0, 0.75, 0]),
    ("z", torch.tensor(1), [0, 2 / 3, 0, 1 / 3]),
]


def distance(make, steps, n, leaf, known, posterior):
    """Total variation between the records drawn with a leaf given and Bayes' law."""
    denoiser = coupled()
    leaves = denoiser.process.empty(n)
    leaves[leaf] = known.to(leaves[leaf].dtype).expand(n, *known.shape).clone()
    batch = Batch.of(leaves).with_given({leaf: torch.ones(n, dtype=torch.bool)})
    drawn = make(denoiser, UniformTime(steps)).sample(batch, Generator(4))
    assert torch.equal(drawn[leaf], leaves[leaf])
    record = sort_records(drawn, denoiser.data)
    share = torch.stack([(record == k).double().mean() for k in range(4)])
    return 0.5 * float((share - torch.tensor(posterior)).abs().sum())


@samplers
def test_given_leaves_are_held_and_conditionals_are_right(name):
    """E09: a coupled finite set, each leaf given in turn; Bayes' law within the noise."""
    for case in CONDITIONALS:
        assert distance(SAMPLERS[name], 16, 400, *case) < 0.03 + 2 * math.sqrt(0.25 / 400), case


@pytest.mark.parametrize("name", ["DDPM", "Multistep2"])
def test_conditionals_are_within_three_hundredths(name):
    """E09, K02: in total variation, with 2000 samples, whose standard error is 0.011."""
    for case in CONDITIONALS:
        assert distance(SAMPLERS[name], 30, 2000, *case) < 0.03, case


@samplers
def test_given_rows_and_entries_are_held(name):
    denoiser = ExactDenoiser(process(), data(), WEIGHTS)
    batch = data().select([2, 4, 1])
    entries = torch.zeros(3, 3, dtype=torch.bool)
    entries[:, 0] = True
    masks = {
        "atoms": batch.layouts["atoms"].row == 0,
        "field": entries,
        "second": torch.tensor([True, False, True]),
        "turn": torch.tensor([False, True, False]),
    }
    drawn = SAMPLERS[name](denoiser, UniformTime(20)).sample(batch.with_given(masks), Generator(0))
    for leaf, mask in masks.items():
        assert torch.equal(drawn[leaf][mask], batch[leaf][mask])
    # What is held says which record it is.
    assert sort_records(drawn, data(), {"angles": around}).tolist() == [2, 4, 1]
