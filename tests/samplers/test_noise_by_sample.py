"""Walks with noise by sample: the same noise on any partition, and after a resume."""

from __future__ import annotations

import pytest
import torch

from structdiff import (
    DDPM,
    Batch,
    Categorical,
    Flow,
    Gaussian,
    Layout,
    Linear,
    Product,
    UniformTime,
    uniform,
)
from structdiff.counter import Counter
from structdiff.random import Randomness
from structdiff.samplers import Carry
from structdiff.spaces import ZeroCentre
from structdiff.testing import ExactDenoiser


class Recorded(Randomness):
    """A source that keeps what it drew: numbers by leaf, step and draw, for each sample's id."""

    def __init__(self, source, kept=None):
        self.source, self.kept = source, {} if kept is None else kept

    def _keep(self, x):
        source = self.source
        for i, rows in zip(source.ids.tolist(), x.split(source.layout.counts), strict=True):
            self.kept[i, source.leaves, source.steps, source.draws] = rows
        return x

    def normal(self, shape, dtype, device):
        return self._keep(self.source.normal(shape, dtype, device))

    def uniform(self, shape, dtype, device):
        return self._keep(self.source.uniform(shape, dtype, device))

    def scoped(self, **address):
        return Recorded(self.source.scoped(**address), self.kept)

    def state(self):
        return self.source.state()

    def restore(self, state):
        self.source.restore(state)


@pytest.fixture
def ancestral():
    """DDPM with the exact denoiser of molecules of two and of three atoms."""
    torch.set_default_dtype(torch.float64)
    layout = Layout.ragged([2, 2, 3, 3])
    place = torch.randn(10, 3, generator=torch.Generator().manual_seed(5))
    leaves = {
        "place": place - layout.spread(layout.mean(place)),
        "element": torch.tensor([0, 1, 2, 0, 1, 1, 2, 0, 2, 1]),
    }
    process = Product(
        {
            "place": Gaussian(Linear(), event=(3,), space=ZeroCentre()),
            "element": Categorical(Flow(), uniform(3)),
        }
    )
    data = Batch(leaves, {name: layout for name in leaves})
    yield DDPM(ExactDenoiser(process, data), UniformTime(12))
    torch.set_default_dtype(torch.float32)


def blank(counts):
    layout = Layout.ragged(counts)
    leaves = {
        "place": torch.zeros(layout.rows, 3),
        "element": torch.zeros(layout.rows, dtype=torch.long),
    }
    ids = torch.arange(100, 100 + len(counts))
    return Batch(leaves, {name: layout for name in leaves}, ids=ids)


def test_noise_of_a_walk_does_not_depend_on_the_partition(ancestral):
    """Noise is the same bit for bit; samples are on the same partition, else to rounding."""
    batch, kept = blank([2, 3, 3, 2, 3, 2, 2]), {}
    whole = ancestral.sample(batch, Recorded(Counter(11), kept))
    assert len(kept) == 7 * (12 + 13)  # the prior and steps; the last is noiseless on R^n
    again = ancestral.sample(batch, Counter(11))
    assert all(torch.equal(whole[name], again[name]) for name in whole.leaves)
    for part in ([0], [4], [6, 2, 0, 5, 1, 4, 3], [5, 6], [0, 1, 2, 3, 4]):
        samples, seen = torch.tensor(part), {}
        drawn = ancestral.sample(batch.select(samples), Recorded(Counter(11), seen))
        assert {key[0] - 100 for key in seen} == set(part)
        assert all(torch.equal(noise, kept[key]) for key, noise in seen.items())
        rows = batch.layouts["place"].rows_of(samples)
        torch.testing.assert_close(drawn["place"], whole["place"][rows], rtol=1e-10, atol=1e-10)
        assert torch.equal(drawn["element"], whole["element"][rows])


def test_a_walk_resumes_bit_for_bit(ancestral):
    """From the saved carry and the seed alone: no state of the source is needed."""
    batch = blank([3, 2, 2, 3])
    bound, saved = ancestral.bind(batch, Counter(5)), {}
    carry = bound.start()
    for i in range(bound.steps):
        if i == 7:
            saved = carry.tensors()
        carry = bound.step(carry, i)
    resumed, bound = Carry.from_tensors(saved), ancestral.bind(batch, Counter(5))
    for i in range(7, bound.steps):
        resumed = bound.step(resumed, i)
    assert all(torch.equal(carry.x[name], resumed.x[name]) for name in carry.x)
    other = ancestral.sample(batch, Counter(6))
    assert not torch.equal(other["place"], carry.x["place"])
