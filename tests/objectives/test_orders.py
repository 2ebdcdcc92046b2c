"""Training over all orders is the absorbing chain's bound with the time integrated out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    Batch,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Layout,
    Linear,
    Product,
    Randomness,
    absorbing,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.objectives import OrderAgnostic
from structdiff.processes import Estimate
from structdiff.schedules import MaskCosine
from structdiff.testing import ExactDenoiser
from tests.enumerable import World, integral

WORLD = World.random(3, 3)


class Guess(Denoiser):
    """A denoiser whose answer depends on the whole record and is nobody's conditional."""

    def __init__(self, process: Product) -> None:
        super().__init__()
        self.process = process

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> dict[str, Estimate]:
        x, layout = batch["x"], batch.layouts["x"]
        seen = layout.spread(layout.sum(torch.sin(1.0 + x.double() + 3 * layout.row)))
        output = torch.sin(seen.unsqueeze(-1) * torch.arange(1, 4) + layout.row.unsqueeze(-1))
        return self.process.bind(batch).decode({"x": 2 * output}, batch.leaves, t)


class Scripted(Randomness):
    """Gives out chosen tensors, one after the other."""

    def __init__(self, *values: Tensor) -> None:
        self.values = list(values)

    def uniform(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        return self.values.pop(0).reshape(tuple(shape)).to(device, dtype)

    normal = uniform

    def scoped(self, **_: object) -> Scripted:
        return self

    def state(self) -> Tensor:
        raise NotImplementedError

    def restore(self, state: Tensor) -> None:
        raise NotImplementedError


def every_order(denoiser: Denoiser) -> Tensor:
    """The objective, in nats a record, over all orders and all numbers of rows: `(K^D,)`."""
    # The number of masked rows goes up along the batch, as the stratified draw does.
    cases = list(product(range(3), permutations(range(3)), range(27)))
    order = torch.tensor([ranks for _, ranks, _ in cases]).double() / 3
    batch = WORLD.data_batch.select([record for _, _, record in cases])
    script = Scripted(order.flatten(), torch.tensor([0.5]), torch.zeros(len(cases) * 3))
    terms = OrderAgnostic()(denoiser, batch, script)
    assert not script.values
    return terms.leaves["x"].reshape(-1, 27).mean(0) * 3


@pytest.mark.parametrize("schedule", [Flow(), MaskCosine()], ids=["flow", "cosine"])
def test_all_orders_are_the_continuous_bound(schedule):
    """D04: for any denoiser and each record, to 1e-10, by enumeration of both."""
    process = WORLD.process(Categorical(schedule, absorbing(3)))
    for denoiser in (Guess(process), WORLD.denoiser(process)):

        def rate(leaf: Any, said: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
            return leaf.divergence_rate(said, x_0, x_t, t)

        continuous = integral(
            lambda t, d=denoiser: WORLD.expectation(d, t, rate), power=1, nodes=40
        )
        torch.testing.assert_close(every_order(denoiser), continuous, rtol=0, atol=1e-10)


def test_exact_conditionals_give_the_exact_likelihood():
    """D04: -log p of each record, by the chain rule in every order."""
    denoiser = WORLD.denoiser(WORLD.process(Categorical(Flow(), absorbing(3))))
    torch.testing.assert_close(every_order(denoiser), -WORLD.probability.log(), rtol=0, atol=1e-12)


def test_wrong_conditionals_cost_more():
    """Each record by its own cross-entropies; on average more than the entropy."""
    process = WORLD.process(Categorical(Flow(), absorbing(3)))
    assert float(every_order(Guess(process)) @ WORLD.probability) > WORLD.entropy + 0.1


class Spy(ExactDenoiser):
    """Keeps what it was shown."""

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Any:
        self.seen, self.t = batch, t
        return super().forward(batch, t, previous)


def test_rows_of_all_leaves_stand_in_one_order():
    """Two leaves of unequal lengths: as many orders as for one leaf of all rows, equally often."""
    copies = 12000
    layouts = {"a": Layout.ragged([1] * copies), "b": Layout.ragged([2] * copies)}
    batch = Batch({"a": torch.zeros(copies).long(), "b": torch.ones(2 * copies).long()}, layouts)
    process = Product(
        {"a": Categorical(Flow(), absorbing(2)), "b": Categorical(MaskCosine(), absorbing(2))}
    )
    one = Batch(
        {"a": torch.zeros(1).long(), "b": torch.ones(2).long()},
        {"a": Layout.ragged([1]), "b": Layout.ragged([2])},
    )
    spy = Spy(process, one)
    OrderAgnostic()(spy, batch, Generator(0))
    masked = torch.cat([spy.seen["a"].reshape(-1, 1), spy.seen["b"].reshape(-1, 2)], 1) == 2
    count = masked.sum(1)
    assert count.bincount().tolist() == [0, 4000, 4000, 4000]
    for rows, subsets in ((1, 3), (2, 3)):
        places = masked[count == rows].long() @ torch.tensor([1, 2, 4])
        found = places.unique(return_counts=True)[1]
        assert len(found) == subsets
        assert (found - 4000 / 3).abs().max() < 4 * (4000 * 2 / 9) ** 0.5
    # The clock of both leaves says which share is masked, each with its own schedule.
    for name, schedule in (("a", Flow()), ("b", MaskCosine())):
        sigma = schedule.sigma(spy.t[name])
        torch.testing.assert_close(sigma, layouts[name].spread(count).double() / 3)


def test_given_rows_come_first_and_count_nothing():
    """With the first row given, a record costs -log p of the others given it."""
    denoiser = WORLD.denoiser(WORLD.process(Categorical(Flow(), absorbing(3))))
    copies = 400
    batch = WORLD.data_batch.select(list(range(27)) * copies)
    held = batch.layouts["x"].row == 0
    terms = OrderAgnostic()(denoiser, batch.with_given({"x": held}), Generator(0))
    each = terms.leaves["x"].reshape(copies, 27) * 3
    truth = -(WORLD.law / WORLD.law.sum((1, 2), keepdim=True)).log().flatten()
    assert ((each.mean(0) - truth).abs() < 4.5 * each.std(0) / copies**0.5).all()
    everything = OrderAgnostic()(
        denoiser, batch.with_given({"x": torch.ones_like(held)}), Generator(0)
    )
    assert (everything.leaves["x"] == 0).all()


def test_doors():
    data = Batch.of({"x": torch.arange(2), "y": torch.zeros(2)})
    mixed = Product({"x": Categorical(Flow(), absorbing(2)), "y": Gaussian(Linear())})
    with pytest.raises(ValueError, match=r"absorbing chains, but \['y'\] are not: use Continuous"):
        OrderAgnostic()(ExactDenoiser(mixed, data), data, Generator(0))
    coins = Batch.of(torch.arange(2))
    flips = ExactDenoiser(Product({"x": Categorical(Flow(), uniform(2))}), coins)
    with pytest.raises(ValueError, match=r"absorbing chains, but \['x'\] are not"):
        OrderAgnostic()(flips, coins, Generator(0))
    pairs = Batch.of(torch.tensor([[0, 1]])).with_given({"x": torch.tensor([[True, False]])})
    process = Product({"x": Categorical(Flow(), absorbing(2), event=(2,))})
    with pytest.raises(ValueError, match="given of 'x' must hold whole rows"):
        OrderAgnostic()(ExactDenoiser(process, pairs), pairs, Generator(0))
