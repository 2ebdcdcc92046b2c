"""Rows one after the other: their times, and the law of the walk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDPM,
    Batch,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Layout,
    Product,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.processes import Finite
from structdiff.samplers import Staggered
from structdiff.samplers.staggered import row_times
from structdiff.testing import ExactDenoiser
from tests.enumerable import World

TIMES = UniformTime(8).times()


def test_early_rows_are_first_and_all_end_clean() -> None:
    layout = Layout.ragged([4, 2])
    own = row_times(TIMES, layout, lag=1.0)
    assert torch.equal(own[0], torch.ones(6).double())
    assert own[-1].tolist() == [-1.0] * 6
    assert bool((own.diff(dim=0) <= 0).all())
    assert bool((own[:, :4].diff(dim=1) >= 0).all())
    # g (1 + 1) - (1 - rho) for the second of four rows, rho = 3 / 8, at g = 0.5
    assert own[4, 1].item() == pytest.approx(0.5 * 2 - (1 - 3 / 8))
    assert torch.equal(row_times(TIMES, layout, lag=0.0), TIMES[:, None].expand(-1, 6))


def test_a_first_row_is_clean_to_the_last_step_before_the_last_row_has_begun() -> None:
    own = row_times(UniformTime(100).times(), Layout.ragged([10]), lag=30.0)
    begun = (own[:, 9] < 1).nonzero()[0]
    assert own[begun, 0].item() == pytest.approx(0.01)


def drawn(world: World, transition: object, lag: float, steps: int, n: int = 8_000) -> Tensor:
    process = world.process(Categorical(Flow(), transition))
    denoiser = world.denoiser(process)
    blank = Batch(
        {"x": torch.zeros(n * world.rows, dtype=torch.long)},
        {"x": Layout.ragged([world.rows] * n)},
    )
    sampler = Staggered(denoiser, UniformTime(steps), lag=lag)
    x = sampler.sample(blank, Generator(0))["x"].reshape(n, world.rows)
    place = torch.tensor([world.classes ** (world.rows - 1 - i) for i in range(world.rows)])
    return torch.bincount((x * place).sum(1), minlength=world.classes**world.rows).double() / n


@pytest.mark.parametrize("transition", [uniform(2), absorbing(2)], ids=["uniform", "absorbing"])
@pytest.mark.parametrize("lag", [0.0, 1.0, 10.0])
def test_it_keeps_the_law(transition: object, lag: float) -> None:
    """8,000 draws of 8 records: an error of 0.012 from their number, and of the steps."""
    world = World.random(classes=2, rows=3, scale=2.0)
    law = drawn(world, transition, lag, steps=40)
    assert 0.5 * (law - world.probability).abs().sum() < 0.03


def test_rows_that_do_not_overlap_are_drawn_exactly() -> None:
    """With a long lag and absorbing rows no two are unmasked in one step: ancestral sampling."""
    world = World.random(classes=2, rows=3, scale=2.0)
    law = drawn(world, absorbing(2), lag=200.0, steps=6)
    one_by_one = 0.5 * (law - world.probability).abs().sum()
    together = 0.5 * (drawn(world, absorbing(2), 0.0, steps=2) - world.probability).abs().sum()
    assert one_by_one < 0.025
    assert together > 0.05


def test_no_lag_is_the_ordinary_walk() -> None:
    """Bit for bit on R^n; on classes the same kernels, see tests/processes/test_row_times.py."""
    data = Batch({"y": torch.randn(5, 2)}, {"y": Layout.ragged([2, 3])})
    process = Product({"y": Gaussian(Cosine(), event=(2,))})
    assert process.offering(Finite) == ()
    denoiser = ExactDenoiser(process, data)
    one, other = (
        sampler.sample(data, Generator(3))["y"]
        for sampler in (
            Staggered(denoiser, UniformTime(10), lag=0.0),
            DDPM(denoiser, UniformTime(10)),
        )
    )
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_a_negative_lag_is_refused() -> None:
    world = World.random(classes=2, rows=2)
    denoiser = world.denoiser(world.process(Categorical(Flow(), absorbing(2))))
    with pytest.raises(ValueError, match="lag must be at least 0 and finite, got -1"):
        Staggered(denoiser, UniformTime(4), lag=-1.0)
