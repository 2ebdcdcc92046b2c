"""Experts: routing by the clock, and two of them as a chain and an autoencoder."""

import pytest
import torch
from torch import nn

from structdiff import Cosine, Denoising, Gaussian, NetworkDenoiser, Product
from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.nn.experts import Experts
from structdiff.nn.field import FieldNetwork
from structdiff.nn.patches import PatchTransformer
from structdiff.random import Generator
from tests.nn.networks import awake, random

COUNTS = [3, 1, 0, 4, 2]


class Says(nn.Module):
    """An affine function of x, the clock, the previous estimate and the condition."""

    def __init__(self, seed=0, leaf="x"):
        super().__init__()
        self.weight, self.leaf = nn.Parameter(random(4, seed=seed)), leaf
        self.calls = []

    def forward(self, batch, clock, previous):
        self.calls.append(batch.samples)
        x, layout = batch[self.leaf], batch.layouts[self.leaf]
        time = clock[self.leaf]
        time = time.expand(len(x)) if time.ndim == 0 else time
        before = torch.zeros_like(x) if previous is None else previous[self.leaf]
        known = layout.spread(batch.condition["c"])
        a, b, c, d = self.weight
        return {self.leaf: a * x + b * time + c * before + d * known}


def world(counts=COUNTS):
    layout = Layout.ragged(counts)
    batch = Batch({"x": random(layout.rows)}, {"x": layout})
    batch = batch.with_condition({"c": random(len(counts), seed=1)})
    return batch, {"x": random(layout.rows, seed=2)}


def clocks(batch, per_sample):
    return {"x": batch.layouts["x"].spread(torch.tensor(per_sample).double())}


def test_each_sample_has_the_answer_of_its_expert():
    """A clock at a border is above it; each expert is asked about its own samples alone."""
    batch, previous = world()
    clock = clocks(batch, [-3.0, 0.5, 9.0, 0.0, 7.0])
    experts = [Says(seed) for seed in range(3)]
    found = Experts(experts, [0.0, 5.0])(batch, clock, previous)["x"]
    assert [expert.calls for expert in experts] == [[1], [2], [2]]
    for sample, k in enumerate([0, 1, 2, 1, 2]):
        rows = batch.layouts["x"].sample == sample
        assert found[rows].equal(experts[k](batch, clock, previous)["x"][rows])


@pytest.mark.parametrize(("time", "expert"), [(-1.0, 0), (0.0, 1), (3.0, 1)])
def test_one_clock_asks_one_expert(time, expert):
    batch, previous = world()
    experts = [Says(seed) for seed in range(2)]
    clock = {"x": torch.tensor(time).double()}
    found = Experts(experts, [0.0])(batch, clock, previous)["x"]
    assert [len(one.calls) for one in experts] == [expert == 0, expert == 1]
    assert found.equal(experts[expert](batch, clock, previous)["x"])


@pytest.mark.parametrize("overlap", [0.0, 2.0])
def test_identical_experts_are_a_single_model(overlap):
    batch, previous = world()
    one, clock = Says(), clocks(batch, [-3.0, 0.5, 9.0, 0.0, 4.5])
    many = Experts([one, Says(), Says()], [0.0, 5.0], overlap=overlap)
    for shown in (previous, None):
        found, expected = (m(batch, clock, shown)["x"] for m in (many, one))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_the_least_clock_of_its_rows_is_a_samples():
    """One noisy row makes a sample the first expert's."""
    batch, previous = world([3, 2])
    experts = [Says(seed) for seed in range(2)]
    clock = {"x": torch.tensor([4.0, -1.0, 20.0, 1.0, 20.0]).double()}
    found = Experts(experts, [0.0])(batch, clock, previous)["x"]
    expected = [expert(batch, clock, previous)["x"] for expert in experts]
    assert found.equal(torch.cat([expected[0][:3], expected[1][3:]]))


def test_around_a_border_two_answers_are_mixed():
    batch, previous = world([1, 1, 1])
    experts = [Says(seed) for seed in range(2)]
    clock = clocks(batch, [-0.5, 0.25, 0.5])
    found = Experts(experts, [0.0], overlap=1.0)(batch, clock, previous)["x"]
    first, second = (expert(batch, clock, previous)["x"] for expert in experts)
    share = torch.tensor([0.0, 0.75, 1.0]).double()
    torch.testing.assert_close(found, (1 - share) * first + share * second, rtol=0, atol=1e-14)


def denoiser(*experts, borders):
    process = Product({"x": Gaussian(Cosine())})
    network = Experts(experts, borders) if len(experts) > 1 else experts[0]
    return NetworkDenoiser(network, process)


def loss(model, batch):
    """The loss of each sample."""
    return Denoising()(model, batch, Generator(0)).leaves["x"]


def test_the_loss_of_two_parts_is_the_sum_of_theirs():
    """A chain above t* and an autoencoder below it: each learns from its own times alone."""
    batch, border = world([1] * 64)[0], float(Cosine()(torch.tensor(0.3)).clock)
    chain, last = Says(1), Says(2)
    both = denoiser(chain, last, borders=[border])
    terms = Denoising()(both, batch, Generator(0))
    above = terms.clock["x"] < border
    assert 0.5 < above.double().mean() < 0.9
    parts = [loss(denoiser(part, borders=[]), batch) for part in (chain, last)]
    expected = torch.where(above, *parts)
    torch.testing.assert_close(terms.leaves["x"], expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(terms.total, [chain.weight, last.weight])
    shares = [(parts[0] * above).mean(), (parts[1] * ~above).mean()]
    wanted = torch.autograd.grad(sum(shares), [chain.weight, last.weight])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_with_the_border_at_no_noise_it_is_the_plain_model():
    batch, one = world([1] * 64)[0], Says(1)
    both = denoiser(one, Says(2), borders=[torch.inf])
    assert loss(both, batch).equal(loss(denoiser(one, borders=[]), batch))


def test_experts_have_architectures_of_their_own():
    """Of one field with a class: a wide network for the noise, a narrow one near the data."""

    def inside(width):
        def make(inputs, outputs, *, condition=0, context=0):
            sizes = {"width": width, "layers": 2, "heads": 2}
            return PatchTransformer(inputs, outputs, condition=condition, context=context, **sizes)

        return awake(FieldNetwork(make, 1, kinds={"label": 2}, features=8))

    wide, narrow = inside(16), inside(8)
    batch = Batch.of(random(4, 1, 5, 5)).with_condition({"label": torch.tensor([0, 1, 1, 0])})
    clock = {"x": torch.tensor([2.0, -2.0, 1.0, -1.0]).double()}
    found = Experts([wide, narrow], [0.0])(batch, clock, None)["x"]
    first, second = (one(batch, clock, None)["x"] for one in (wide, narrow))
    expected = torch.stack([second[0], first[1], second[2], first[3]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("borders", "overlap", "match"),
    [
        ([0.0], 0.0, "borders must be one fewer than the 3 experts, got 1"),
        ([1.0, 0.0], 0.0, r"borders must rise .* got \[1.0, 0.0\]: give clocks, the noisiest"),
        ([0.0, 0.0], 0.0, "borders must rise by more than 0"),
        ([0.0, 1.0], 2.0, "by the overlap 2.0 at least"),
        ([0.0, 1.0], -1.0, "by the overlap -1.0 at least"),
        ([0.0, float("nan")], 0.0, r"must be numbers .*nan\] and 0.0"),
        ([0.0, 1.0], float("nan"), "overlap finite, .* and nan"),
    ],
)
def test_borders_that_cannot_be_are_refused(borders, overlap, match):
    with pytest.raises(ValueError, match=match):
        Experts([Says(), Says(), Says()], borders, overlap=overlap)
