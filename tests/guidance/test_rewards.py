"""Tilts of the clean record: exact where a single row or normal data leave nothing to assume."""

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
    Product,
    uniform,
)
from structdiff.guidance import Guided, Rewarded
from structdiff.schedules import CLEAN
from structdiff.spaces import SO3
from structdiff.testing import ExactDenoiser
from tests.guidance.labelled import every, tokens, transitions
from tests.guidance.mixtures import Mixture
from tests.guidance.worlds import Correlated

scales = pytest.mark.parametrize("w", [-1.0, 0.5, 1.0, 3.0])
WORTH = torch.tensor([0.7, -1.0, 0.4], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@transitions
@scales
@pytest.mark.parametrize("s", [0.4, CLEAN])
def test_a_step_of_one_row_is_that_of_the_tilted_data(transition, w, s):
    """p(x_0) e^(w r) in place of p(x_0), for a step of any length."""
    process = Product({"x": Categorical(Flow(), transition)})
    data, p = Batch.of(torch.arange(3)), torch.tensor([0.5, 0.2, 0.3])
    batch, t = Batch.of(torch.arange(transition.symbols)), {"x": torch.tensor(0.8)}
    rewarded = Rewarded(
        ExactDenoiser(process, data, p), lambda said, _: said["x"].value.exp() @ WORTH, w
    )
    other = ExactDenoiser(process, data, p * torch.exp(w * WORTH))
    leaf = process.bind(batch)["x"]
    (step,) = leaf.plan(torch.tensor([0.8, s]), 1.0)
    found, expected = (
        leaf.log_kernel(one(batch, t)["x"], batch["x"], step).exp() for one in (rewarded, other)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@transitions
def test_several_independent_rows_with_a_reward_that_adds_up(transition):
    """The tilted law has independent rows too."""
    process = Product({"token": Categorical(Flow(), transition)})
    p = torch.tensor([0.5, 0.2, 0.3])
    all_of_them = torch.tensor(every(3, 2))
    data = tokens(all_of_them.tolist())
    batch = tokens(every(transition.symbols, 2))
    t = {"token": torch.tensor(0.6)}

    def reward(said, batch):
        return batch.layouts["token"].sum(said["token"].value.exp() @ WORTH)

    found = Rewarded(ExactDenoiser(process, data, p[all_of_them].prod(1)), reward, 2.0)(batch, t)
    q = p * torch.exp(2 * WORTH)
    expected = ExactDenoiser(process, data, q[all_of_them].prod(1))(batch, t)
    torch.testing.assert_close(
        found["token"].value.exp(), expected["token"].value.exp(), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_normal_data_with_a_linear_reward(t):
    """N(0, C) e^(w a.x) is N(w C a, C), and the posterior mean moves by w V a, V its variance."""
    leaf = Gaussian(Cosine(), event=(2,))
    covariance, a = torch.tensor([[1.0, 0.6], [0.6, 0.8]]), torch.tensor([0.5, -2.0])
    denoiser = Correlated(leaf, covariance)
    batch, at = Batch.of(Generator(0).normal((4, 2), torch.float64, "cpu")), torch.tensor(t)
    times = {"x": at.expand(4, 1)}
    found = Rewarded(denoiser, lambda said, _: said["x"].value @ a, 1.7)(batch, times)["x"].value
    level = leaf.level(at, batch["x"])
    precision = torch.linalg.inv(covariance) + level.alpha**2 / level.sigma**2 * torch.eye(2)
    expected = denoiser(batch, times)["x"].value + 1.7 * torch.linalg.solve(precision, a)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_on_r_n_it_is_a_function_of_the_noisy_record_through_the_denoiser():
    """The same shift as `Guided` by r(E[x_0 | x_t])."""
    batch, t = Batch.of(Generator(0).normal((5, 2), torch.float64, "cpu")), torch.tensor(0.4)

    def worth(x):
        return torch.sin(x).prod(-1)

    found = Rewarded(Mixture(), lambda said, _: worth(said["x"].value), 2.0)(batch, {"x": t})
    guided = Guided(Mixture(), lambda b, at: worth(Mixture()(b, at)["x"].value), 2.0)
    expected = guided(batch, {"x": t})["x"].value
    torch.testing.assert_close(found["x"].value, expected, rtol=1e-10, atol=1e-10)
    assert (expected - Mixture()(batch, {"x": t})["x"].value).abs().max() > 1e-3


def test_on_rotations_it_raises_the_reward_and_mixed_records_keep_both_tilts():
    """The clean point is exp_{x_t}(v); central differences along the tangent space."""
    space = SO3()
    leaves = {"turn": Brownian(Geometric(0.1, 3.0), space), "z": Categorical(Flow(), uniform(3))}
    process = Product(leaves)
    turns = space.uniform(3, Generator(1), torch.float64, "cpu")
    data = Batch.of({"turn": turns, "z": torch.tensor([0, 1, 2])})
    denoiser = ExactDenoiser(process, data)
    x = space.uniform(1, Generator(2), torch.float64, "cpu")
    batch, at = Batch.of({"turn": x, "z": torch.tensor([1])}), torch.tensor(0.7)
    t = {"turn": at, "z": at}

    def reward(said, batch):
        clean = space.exp(batch["turn"], said["turn"].value)
        return (clean * turns[0]).sum((1, 2)) * (1 + said["z"].value.exp() @ WORTH)

    def at_point(point):
        moved = batch.with_leaves({**batch.leaves, "turn": point})
        return reward(denoiser(moved, t), moved)

    h, v = 1e-5, torch.eye(3)
    slope = torch.cat(
        [
            (at_point(space.exp(x, h * e)) - at_point(space.exp(x, -h * e))) / (2 * h)
            for e in v[:, None]
        ]
    )
    plain, found = denoiser(batch, t), Rewarded(denoiser, reward, 1.3)(batch, t)
    moved = found["turn"].value - plain["turn"].value
    tau = leaves["turn"].tau(at, x)
    torch.testing.assert_close(moved[0], 1.3 * tau * slope, rtol=1e-6, atol=1e-7)
    clean = space.exp(x, plain["turn"].value)
    tilt = 1.3 * (clean * turns[0]).sum() * WORTH
    expected = torch.softmax(plain["z"].value + tilt, -1)
    torch.testing.assert_close(found["z"].value.exp(), expected, rtol=1e-9, atol=1e-9)


def test_given_rows_stay_and_scale_zero_asks_nothing():
    process = Product({"token": Categorical(Flow(), uniform(3))})
    data = tokens(every(3, 2))
    denoiser = ExactDenoiser(process, data)
    held = torch.tensor([True, False]).repeat(9)
    batch = data.with_given({"token": held})
    t = process.bind(batch).times(torch.tensor(0.5))

    def reward(said, batch):
        return batch.layouts["token"].sum(said["token"].value.exp() @ WORTH)

    plain, found = denoiser(batch, t), Rewarded(denoiser, reward, 2.0)(batch, t)
    assert torch.equal(found["token"].value[held], plain["token"].value[held])
    assert (found["token"].value - plain["token"].value)[~held].abs().max() > 0.1
    same = Rewarded(denoiser, lambda said, batch: 1 / 0, 0.0)(batch, t)
    assert torch.equal(same["token"].value, plain["token"].value)


def test_refusals():
    with pytest.raises(ValueError, match="scale must be a finite number, got inf"):
        Rewarded(Mixture(), lambda said, batch: said["x"].value, math.inf)
    batch, t = Batch.of(torch.zeros(3, 2)), {"x": torch.tensor(0.5)}
    with pytest.raises(ValueError, match=r"reward must return one number a sample, \(3,\), got"):
        Rewarded(Mixture(), lambda said, batch: said["x"].value, 1.0)(batch, t)
    with pytest.raises(ValueError, match="reward has no gradient in the record: it is"):
        Rewarded(Mixture(), lambda said, batch: said["x"].value.detach().sum(1), 1.0)(batch, t)
