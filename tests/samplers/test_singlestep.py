"""Singlestep: order, the formulas of DPM-Solver++, what a group costs, records, given entries."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDIM,
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
from structdiff.samplers.singlestep import Singlestep, groups
from structdiff.spaces import SO3, Torus
from structdiff.testing import (
    Addressed,
    ExactDenoiser,
    NormalDenoiser,
    Silent,
    check_sampler,
    flow_map,
    walk,
)

MEAN, STD = torch.tensor([-1.0, 0.5, 1.5]), torch.tensor([0.6, 0.5, 0.7])
SHARE = torch.tensor([0.3, 0.5, 0.2])


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mixture(schedule):
    return NormalDenoiser(Gaussian(schedule), MEAN.double(), STD.double(), SHARE.double())


def measured(make, denoiser, grid, start, truth, counts, gap):
    """The slope of the error between two numbers of steps."""
    errors = []
    for steps in counts:
        end = walk(make(denoiser, grid(steps)), {"x": start}, Silent())["x"]
        errors.append(float(gap(truth, end).mean()))
    return math.log2(errors[0] / errors[1]), errors


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("even", [True, False], ids=["log-SNR", "time"])
def test_order_of_the_flow_of_a_mixture(order, even):
    """Nominal, wherever the intermediate times of a group are."""
    schedule, start = Linear(), torch.linspace(-2, 2, 9)
    truth = flow_map(mixture(schedule), schedule, start, 1.0, 0.05, steps=200)
    slope, _ = measured(
        lambda d, g: Singlestep(d, g, order=order),
        mixture(schedule),
        lambda n: (
            UniformLogSNR(schedule, n + 1, end=0.05) if even else UniformTime(n + 1, end=0.05)
        ),
        start,
        truth,
        (96, 192),
        lambda a, b: (a - b).abs(),
    )
    assert abs(slope - order) < 0.2, slope


@pytest.mark.parametrize(("order", "space"), [(3, Torus(2)), (2, SO3())], ids=["Torus2", "SO3"])
def test_order_of_the_flow_on_a_manifold(order, space):
    schedule = Geometric(0.3, 6.0)
    points = space.uniform(3, Generator(3), torch.float64, "cpu")
    denoiser = ExactDenoiser(Product({"x": Brownian(schedule, space)}), Batch.of(points))
    start = space.uniform(4, Generator(4), torch.float64, "cpu")
    truth = flow_map(denoiser, schedule, start, 1.0, 0.0, space, steps=60)
    slope, _ = measured(
        lambda d, g: Singlestep(d, g, order=order),
        denoiser,
        lambda n: UniformLogSNR(schedule, n + 1, end=0.0),
        start,
        truth,
        (48, 96),
        lambda a, b: space.norm2(space.log(a, b)).sqrt(),
    )
    assert abs(slope - order) < 0.2, slope


def test_first_order_is_ddim():
    denoiser, x = mixture(Cosine()), torch.linspace(-2, 2, 7)
    a = walk(Singlestep(denoiser, UniformTime(9), order=1), {"x": x}, Silent())["x"]
    assert torch.equal(a, walk(DDIM(denoiser, UniformTime(9)), {"x": x}, Silent())["x"])


def test_second_order_is_dpm_solver_2s_with_exact_integrals():
    """Eqs. 9 of DPM-Solver++, n = 2 and r = 1/2: weights (e^-h - 1) and (e^-h - 1) / h + 1."""
    schedule, denoiser = Linear(), mixture(Linear())
    grid = UniformLogSNR(schedule, 9, start=0.6, end=0.3)
    x = y = torch.linspace(-2, 2, 7)
    t, level = grid.times(), schedule(grid.times())

    def said(z, time):
        return denoiser(Batch.of(z), {"x": time})["x"].value

    for i in range(0, 8, 2):
        h = level.clock[i + 2] - level.clock[i]
        first = said(y, t[i])
        middle = level.sigma[i + 1] / level.sigma[i] * y
        middle = middle - level.alpha[i + 1] * torch.expm1(-h / 2) * first
        second = said(middle, t[i + 1])
        y = level.sigma[i + 2] / level.sigma[i] * y - level.alpha[i + 2] * (
            torch.expm1(-h) * first - (torch.expm1(-h) / h + 1) * 2 * (second - first)
        )
    ours = walk(Singlestep(denoiser, grid), {"x": x}, Silent())["x"]
    torch.testing.assert_close(ours, y, rtol=1e-9, atol=1e-9)


def test_ten_to_twenty_calls_beat_ddim():
    schedule, start = Linear(), torch.linspace(-2, 2, 41)
    denoiser = mixture(schedule)
    truth = flow_map(denoiser, schedule, start, 1.0, 0.01, steps=200)
    for calls in (10, 20):
        grid = UniformLogSNR(schedule, calls, end=0.01)
        error = {}
        for order in (1, 2, 3):
            end = walk(Singlestep(denoiser, grid, order=order), {"x": start}, Silent())["x"]
            error[order] = float((end - truth).abs().mean())
        assert error[2] < 0.5 * error[1] and error[3] < 0.5 * error[1], error


def test_groups_are_whole_but_the_first():
    falling = UniformTime(8).times()
    assert groups(falling, 3) == (0, 1, 1, 1, 4, 4, 4, 7)
    assert groups(falling, 2) == (0, 1, 1, 3, 3, 5, 5, 7)
    assert groups(falling[:-1], 3) == (0, 1, 1, 1, 4, 4, 4)
    assert groups(UniformTime(1).times(), 3) == (0,)


def test_one_call_a_step():
    bound = Singlestep(mixture(Linear()), UniformTime(12), order=3).bind(
        Batch.of(torch.zeros(3)), Generator(0)
    )
    carry, calls = bound.start(), []
    for i in range(bound.steps):
        carry = bound.step(carry, i)
        calls.append(carry.calls)
    assert calls == list(range(1, 13))


def test_pure_noise_without_signal_is_left():
    """A schedule with alpha(1) = 0, whose clock there is infinite: finite, and the law's ends."""
    denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.full((1,), 0.5))
    for order in (1, 2, 3):
        grid = UniformTime(60)
        drawn = Singlestep(denoiser, grid, order=order).sample(
            Batch.of(torch.zeros(4000)), Generator(0)
        )["x"]
        assert abs(float(drawn.std()) - 0.5) < 0.03


def test_samples_do_not_depend_on_batch_mates_and_given_entries_stay():
    process = Product(
        {"x": Gaussian(Linear(), event=(2,)), "turn": Brownian(Geometric(0.02, 4.0), SO3())}
    )
    points = {
        "x": torch.tensor([[0.0, 1.0], [2.0, -1.0], [-1.0, 0.5]]),
        "turn": SO3().uniform(3, Generator(2), torch.float64, "cpu"),
    }
    denoiser = ExactDenoiser(process, Batch.of(points))
    held = torch.tensor([[True, False]] * 4)
    batch = Batch.of(process.empty(4)).with_given({"x": held})
    sampler = Singlestep(denoiser, UniformTime(9), order=3)
    whole = sampler.sample(batch, Addressed(0))
    assert bool((whole["x"][:, 0] == 0).all())
    for i in (1, 3):
        alone = sampler.sample(batch.select([i]), Addressed(0))
        for leaf, x in alone.leaves.items():
            torch.testing.assert_close(whole[leaf][[i]], x, rtol=1e-10, atol=1e-10)


def test_a_walk_is_resumed_inside_a_group():
    from structdiff.samplers import Carry

    bound = Singlestep(mixture(Linear()), UniformTime(9), order=3).bind(
        Batch.of(torch.zeros(4)), Generator(3)
    )
    carry = bound.start()
    for i in range(9):
        if i == 4:
            saved = carry.tensors()
        carry = bound.step(carry, i)
    again = Carry.from_tensors(saved)
    for i in range(4, 9):
        again = bound.step(again, i)
    assert torch.equal(carry.x["x"], again.x["x"])


def test_refusals():
    with pytest.raises(ValueError, match="order must be 1, 2 or 3, got 4"):
        Singlestep(mixture(Linear()), UniformTime(3), order=4)


def test_records_return_whole_and_in_proportion():
    """The public laws of samplers: determinism, records, order on R^n and manifolds."""
    torch.set_default_dtype(torch.float32)
    check_sampler(lambda d, g: Singlestep(d, g, order=2), steps=12, samples=400)


def test_order_on_classes_in_total_variation():
    """Order 1 up to a factor log(steps), for two leaves that go together, by enumeration."""
    process = Product({name: Categorical(Flow(), uniform(2)) for name in "ab"})
    law = torch.tensor([0.5, 0.1, 0.1, 0.3])
    states = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    denoiser = ExactDenoiser(process, Batch.of(dict(zip("ab", states.T, strict=True))), law)
    now, after = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
    origin, middle = ({n: states[k, j] for j, n in enumerate("ab")} for k in (now, after))
    errors = []
    for steps in (33, 65):
        bound = Singlestep(denoiser, UniformTime(steps)).bind(Batch.of(origin), Silent())

        def kernel(estimate, i, bound=bound):
            a, b = (
                bound.process[n].log_kernel(estimate[n], origin[n], bound.coefficients[i][n])
                for n in "ab"
            )
            return (a[:, :, None] + b[:, None, :]).exp().flatten(1)

        share = torch.full((4,), 0.25)
        for i in range(0, steps - 1, 2):
            first = bound.denoise(origin, i, None)
            second = bound.denoise(middle, i + 1, None)
            history = ((middle, second), (origin, first))
            mixed = bound.process.combine(history, bound.mixing[i + 1], origin)
            joint = share[now] * kernel(first, i).gather(1, after[:, None]).squeeze(1)
            share = (joint[:, None] * kernel(mixed, i + 1)).sum(0)
        last = bound.denoise(origin, steps - 1, None)
        share = (share[:, None] * kernel(last, steps - 1)[::4]).sum(0)
        errors.append(0.5 * float((share - law).abs().sum()) / math.log(steps))
    assert 0 < errors[0] < 0.01
    assert abs(math.log2(errors[0] / errors[1]) - 1) < 0.2, errors
