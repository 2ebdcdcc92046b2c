"""Blocks: left to right, in law the model's, and the walk inside where one block covers all."""

from __future__ import annotations

import pytest
import torch

from structdiff import (
    DDPM,
    Batch,
    Categorical,
    Counter,
    Flow,
    Gaussian,
    Generator,
    Heun,
    Layout,
    Linear,
    Product,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.samplers import Blocks, Carry, FirstHitting, Multistep, Routed
from structdiff.testing import Addressed, ExactDenoiser
from tests.enumerable import World
from tests.samplers.tables import Table, apart, drawn, noise_of

MAKES = {
    "DDPM": lambda d: DDPM(d, UniformTime(5)),
    "Heun": lambda d: Heun(d, UniformTime(3)),
    "Multistep": lambda d: Multistep(d, UniformTime(4)),
    "Routed": lambda d: Routed(d, UniformTime(4), noise=0.5),
}


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mixed():
    """Records of one, three and four tokens beside a place, and their exact denoiser."""
    process = Product(
        {
            "place": Gaussian(Linear(), event=(2,)),
            "token": Categorical(Flow(), uniform(3)),
            "mask": Categorical(Flow(), absorbing(3)),
        }
    )
    counts = [1, 3, 3, 4, 4]
    token = torch.tensor([0, 1, 2, 0, 2, 2, 1, 0, 1, 2, 0, 2, 1, 1, 0])
    leaves = {"place": torch.arange(10.0).reshape(5, 2) / 5, "token": token, "mask": token.flip(0)}
    ragged = Layout.ragged(counts)
    of = {"place": Layout.regular(5), "token": ragged, "mask": ragged}
    return ExactDenoiser(process, Batch(leaves, of))


def blank(denoiser: ExactDenoiser, samples: list[int]) -> Batch:
    return denoiser.data.select(samples)


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("source", [Generator, Counter], ids=["stream", "address"])
def test_one_block_is_the_walk_inside(name, source):
    """Bit for bit, and with as many calls."""
    denoiser, make = mixed(), MAKES[name]
    batch = blank(denoiser, [0, 2, 4])
    alone = make(denoiser).bind(batch, source(3))
    carry = alone.start()
    for i in range(alone.steps):
        carry = alone.step(carry, i)
    blocks = Blocks(denoiser, make, 4).bind(batch, source(3))
    assert blocks.steps == 1
    end = blocks.step(blocks.start(), 0)
    assert end.calls == carry.calls
    assert all(torch.equal(x, end.x[leaf]) for leaf, x in carry.x.items())


def test_blocks_of_one_row_of_a_masked_chain_have_the_law_of_the_data():
    """Autoregression: one call a row, and no error but that of sampling."""
    world, samples = World.random(3, 3), 40_000
    process = world.process(Categorical(Flow(), absorbing(3)))
    table = Table(world, process, 0.5)
    walk = Blocks(table, lambda d: DDPM(d, UniformTime(1)), 1)
    assert apart(drawn(walk, world, samples), world.probability) < noise_of(
        world.probability, samples
    )
    assert table.calls == 3


class Ordered(Denoiser):
    """Notes the times that it is asked at, and what is given."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.process = denoiser, denoiser.process
        self.seen: list[tuple] = []

    def forward(self, batch, t, previous=None):
        self.seen.append((batch["x"].clone(), t["x"].clone(), batch.given["x"].clone()))
        return self.denoiser(batch, t, previous)


def test_a_uniform_chain_in_blocks_has_the_law_of_the_data():
    """Later rows are noise that says nothing; K = 2 classes, blocks of two rows and one."""
    world, samples = World.random(2, 3, seed=2), 5000
    process = world.process(Categorical(Flow(), uniform(2)))
    walk = Blocks(world.denoiser(process), lambda d: DDPM(d, UniformTime(25)), 2)
    gap = apart(drawn(walk, world, samples), world.probability)
    assert gap < noise_of(world.probability, samples) + 0.012


def test_earlier_rows_are_given_and_later_ones_are_at_one():
    world = World.random(3, 3)
    process = world.process(Categorical(Flow(), absorbing(3)))
    denoiser = Ordered(world.denoiser(process))
    batch = world.batch(torch.tensor([[0, 0, 0], [0, 0, 2]]))
    batch = batch.with_given({"x": torch.tensor([False] * 5 + [True])})
    Blocks(denoiser, lambda d: DDPM(d, UniformTime(2)), 1).sample(batch, Generator(0))
    assert len(denoiser.seen) == 6
    for k, (x, t, given) in enumerate(denoiser.seen):
        block, now = k // 2, [1.0, 0.5][k % 2]
        clean = [row < block for row in range(3)]
        want = [-1.0 if done else now if row == block else 1.0 for row, done in enumerate(clean)]
        assert t.tolist() == want + want[:2] + [-1.0]
        assert given.tolist() == clean + clean[:2] + [True]
        assert (x == 3)[[block < 1, block < 2, False] * 1 + [False] * 3].all() or block == 2
        assert x[5] == 2
        later = torch.tensor([row > block for row in range(3)] + [row > block for row in range(2)])
        assert (x[:5][later] == 3).all()
        earlier = torch.tensor(clean + clean[:2])
        assert (x[:5][earlier] < 3).all()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_given_entries_stay_and_tell_the_rest(size):
    denoiser = mixed()
    batch = blank(denoiser, [2, 4, 3])
    masks = {"token": batch.layouts["token"].row < 2, "place": torch.tensor([True, False, True])}
    zeros = {
        n: torch.where(_wide(masks[n], x), x, 0) if n in masks else x * 0
        for n, x in batch.leaves.items()
    }
    asked = batch.with_leaves(zeros).with_given(masks)
    end = Blocks(denoiser, MAKES["DDPM"], size).sample(asked, Generator(0))
    for name, mask in masks.items():
        assert torch.equal(end[name][mask], batch[name][mask])
    for name in ("token", "mask"):
        assert torch.equal(end[name], batch[name])


def _wide(mask, x):
    return mask.reshape(-1, *(1,) * (x.ndim - 1))


@pytest.mark.parametrize("source", [Addressed, Counter])
def test_a_sample_does_not_depend_on_its_batch_mates(source):
    denoiser = mixed()
    walk = Blocks(denoiser, MAKES["DDPM"], 2)
    batch = blank(denoiser, [3, 0, 4])
    whole = walk.sample(batch, source(0))
    for i in range(3):
        alone = walk.sample(batch.select([i]), source(0))
        for name, x in alone.leaves.items():
            rows = batch.layouts[name].rows_of(torch.tensor([i]))
            torch.testing.assert_close(whole[name][rows], x, rtol=1e-12, atol=1e-12)


def test_a_walk_goes_on_from_saved_tensors():
    world = World.random(3, 3)
    denoiser = world.denoiser(world.process(Categorical(Flow(), uniform(3))))
    bound = Blocks(denoiser, MAKES["Heun"], 2).bind(world.data_batch, Counter(4))
    carry = bound.step(bound.start(), 0)
    again = bound.step(Carry.from_tensors(carry.tensors()), 1)
    carry = bound.step(carry, 1)
    assert again.calls == carry.calls == 10
    assert torch.equal(carry.x["x"], again.x["x"])


def test_first_hitting_inside_blocks():
    """What is drawn inside sees the other blocks as given: two rows, then one."""
    world, samples = World.random(3, 3), 40_000
    process = world.process(Categorical(Flow(), absorbing(3)))
    table = Table(world, process, 0.5)
    share = drawn(Blocks(table, FirstHitting, 2), world, samples)
    assert apart(share, world.probability) < noise_of(world.probability, samples)
    assert table.calls == 3


def test_refusal():
    with pytest.raises(ValueError, match="size must be at least 1 row, got 0"):
        Blocks(mixed(), MAKES["DDPM"], 0)
