"""PNDM: the paper's loop, its calls, exactness for exact noise, order."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Linear,
    Product,
    UniformLogSNR,
    UniformTime,
    uniform,
)
from structdiff.samplers import Carry
from structdiff.samplers.pseudo import PNDM, adams_bashforth
from structdiff.schedules.by_entry import Speeds
from structdiff.spaces import Torus, ZeroCentre
from structdiff.testing import ExactDenoiser, NormalDenoiser, Silent, flow_map, walk


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mixture(schedule):
    mean, std = torch.tensor([-1.0, 0.5, 1.5]), torch.tensor([0.6, 0.5, 0.7])
    return NormalDenoiser(Gaussian(schedule), mean, std, torch.tensor([0.3, 0.5, 0.2]))


def test_it_is_the_loop_of_the_paper():
    """Sections 3.2 and 3.3 in the letters of the paper, on a uniform grid."""
    schedule, denoiser = Linear(), mixture(Linear())
    t = UniformTime(8, end=0.05).times()
    x = y = torch.linspace(-2, 2, 7)

    def noise(z, time):
        level = schedule(time)
        return (z - level.alpha * denoiser(Batch.of(z), {"x": time})["x"].value) / level.sigma

    def transfer(z, e, time, later):
        now, then = schedule(time), schedule(later)
        return then.alpha / now.alpha * (z - now.sigma * e) + then.sigma * e

    past = []
    for i in range(7):
        first = noise(y, t[i])
        past = [first, *past][:4]
        if i < 3:
            middle = (t[i] + t[i + 1]) / 2
            second = noise(transfer(y, first, t[i], middle), middle)
            third = noise(transfer(y, second, t[i], middle), middle)
            fourth = noise(transfer(y, third, t[i], t[i + 1]), t[i + 1])
            e = (first + 2 * second + 2 * third + fourth) / 6
        else:
            e = (55 * past[0] - 59 * past[1] + 37 * past[2] - 9 * past[3]) / 24
        y = transfer(y, e, t[i], t[i + 1])
    ours = walk(PNDM(denoiser, UniformTime(8, end=0.05)), {"x": x}, Silent())["x"]
    torch.testing.assert_close(ours, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 25])
def test_it_costs_nine_calls_more_than_steps(steps):
    bound = PNDM(mixture(Linear()), UniformTime(steps)).bind(
        Batch.of(torch.zeros(2)), Generator(0)
    )
    carry = bound.start()
    for i in range(bound.steps):
        carry = bound.step(carry, i)
    warm = min(3, steps - 1)
    assert carry.calls == steps + 3 * warm
    assert steps < 4 or carry.calls == steps + 9


def test_exact_noise_is_carried_over_exactly():
    """One data point has one noise e on the whole way: x_s = alpha_s x_0 + sigma_s e."""
    schedule, point = Linear(), torch.tensor([[1.5, -0.7]])
    denoiser = ExactDenoiser(Product({"x": Gaussian(schedule, event=(2,))}), Batch.of(point))
    grid, e = UniformTime(6), torch.tensor([[0.3, -1.2], [2.0, 0.1]])
    level = schedule(grid.times())
    bound = PNDM(denoiser, grid).bind(Batch.of(e), Silent())
    carry = Carry({"x": level.alpha[0] * point + level.sigma[0] * e})
    for i in range(6):
        carry = bound.step(carry, i)
        expected = level.alpha[i + 1] * point + level.sigma[i + 1] * e
        torch.testing.assert_close(carry.x["x"], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("even", [True, False], ids=["log-SNR", "time"])
def test_order_is_two(even):
    schedule, start, errors = Linear(), torch.linspace(-2, 2, 9), []
    denoiser = mixture(schedule)
    truth = flow_map(denoiser, schedule, start, 1.0, 0.05, steps=200)
    for n in (48, 96):
        grid = UniformLogSNR(schedule, n + 1, end=0.05) if even else UniformTime(n + 1, end=0.05)
        end = walk(PNDM(denoiser, grid), {"x": start}, Silent())["x"]
        errors.append(float((end - truth).abs().mean()))
    assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.2


def test_weights_are_those_of_adams_and_bashforth():
    t = UniformTime(8).times()
    torch.testing.assert_close(
        torch.tensor(adams_bashforth(t, 5)) * 24, torch.tensor([55.0, -59.0, 37.0, -9.0])
    )
    torch.testing.assert_close(torch.tensor(adams_bashforth(t, 1)) * 2, torch.tensor([3.0, -1.0]))


def test_a_step_from_pure_noise_is_that_of_ddim_and_given_rows_stay():
    """alpha(1) = 0; a ragged leaf of zero centre with a given row beside a plain one."""
    process = Product(
        {
            "atoms": Gaussian(Cosine(), event=(2,), space=ZeroCentre()),
            "x": Gaussian(Linear()),
        }
    )
    from structdiff import Layout

    layouts = {"atoms": Layout.ragged([3, 3]), "x": Layout.regular(2)}
    place = torch.tensor([[1.0, 0], [-1.0, 0], [0, 0], [0, 2.0], [0, -1.0], [0, -1.0]])
    data = Batch({"atoms": place, "x": torch.tensor([1.0, -1.0])}, layouts)
    given = {"atoms": layouts["atoms"].row == 0}
    drawn = PNDM(ExactDenoiser(process, data), UniformTime(25)).sample(
        data.with_given(given), Generator(0)
    )
    # The row that is given says which record it is.
    torch.testing.assert_close(drawn["atoms"], place, rtol=0, atol=1e-6)
    torch.testing.assert_close(drawn["x"], data["x"], rtol=0, atol=1e-6)


def test_entries_with_levels_of_their_own_walk_as_if_alone():
    """Speeds 1 and 0.4 of one schedule, entries independent: two walks of one entry each."""

    def end(speeds, x):
        process = Gaussian(Speeds(Linear(), torch.tensor(speeds)), event=(len(speeds),))
        denoiser = NormalDenoiser(process, torch.full((1, len(speeds)), 0.8), torch.tensor([0.5]))
        return walk(PNDM(denoiser, UniformTime(7)), {"x": x}, Silent())["x"]

    x = torch.tensor([[1.0, -0.5], [0.3, 2.0]])
    both = end([1.0, 0.4], x)
    torch.testing.assert_close(both[:, :1], end([1.0], x[:, :1]))
    torch.testing.assert_close(both[:, 1:], end([0.4], x[:, 1:]))
    assert float((end([1.0], x[:, 1:]) - both[:, 1:]).abs().max()) > 0.05


@pytest.mark.parametrize(
    "leaf", [Categorical(Flow(), uniform(3)), Brownian(Geometric(0.1, 3.0), Torus(2))]
)
def test_leaves_that_are_not_gaussian_are_refused(leaf):
    process = Product({"x": Gaussian(Linear()), "other": leaf})
    data = Batch.of(process.empty(2))
    with pytest.raises(ValueError, match=r"on R\^n only, and the leaves \['other'\]"):
        PNDM(ExactDenoiser(process, data), UniformTime(4))
