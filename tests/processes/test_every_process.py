"""Laws of every process of one leaf: ends, given entries, batch mates, precision, contracts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Gaussian, Generator, Layout, Randomness
from structdiff.processes import Estimate, Markov, Process, Tractable
from structdiff.schedules import CLEAN
from tests.processes.cases import CASES, GAUSSIANS, Case, grid, said_by_a_network, time

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def reachable(case: Case, process: Tractable, x: Tensor, t: Tensor, seed: int = 1) -> Tensor:
    return process.diffuse(x, t, Generator(seed))


@cases
def test_clean_times_are_the_data(case: Case) -> None:
    process, x_0 = case.process.bind(case.batch()), case.batch()["x"]
    clean = time(CLEAN)
    drawn = process.diffuse(x_0, clean, Generator(0))
    torch.testing.assert_close(drawn, x_0, rtol=0, atol=1e-15 if case.kind == "manifold" else 0)
    assert process.log_prob(x_0, x_0, clean).tolist() == [0.0] * len(x_0)
    other = case.batch(seed=9)["x"]
    differs = (other != x_0).flatten(1).any(1) if x_0.ndim > 1 else other != x_0
    expected = torch.where(differs, -math.inf, 0.0).to(process.log_prob(other, x_0, clean))
    assert torch.equal(process.log_prob(other, x_0, clean), expected)
    assert torch.isposinf(process.clock(clean))


@cases
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_step_to_clean_is_the_oracle(case: Case, eta: float) -> None:
    """Exactly, on R^n and classes, from any time that has noise."""
    if case.kind == "manifold":
        return  # exact for tau -> 0 only: test_brownian.py
    process, x_0 = case.process.bind(case.batch()), case.batch()["x"]
    if eta not in case.etas:
        with pytest.raises(ValueError, match="eta must be 1, got"):
            process.plan(grid(0.4, CLEAN), eta)
        return
    for t in (0.4, 1.0):
        x_t = reachable(case, process, x_0, time(t))
        (plan,) = process.plan(grid(t, CLEAN), eta)
        x = process.step(x_t, process.oracle(x_0, x_t, time(t)), plan, Generator(3))
        assert torch.equal(x, x_0)


@cases
def test_a_step_between_equal_times_stays(case: Case) -> None:
    process, x_0 = case.process.bind(case.batch()), case.batch()["x"]
    x_t = reachable(case, process, x_0, time(0.5))
    estimate = process.decode(said_by_a_network(process, x_t), x_t, time(0.5))
    for eta in case.etas:
        (plan,) = process.plan(grid(0.5, 0.5), eta)
        x = process.step(x_t, estimate, plan, Generator(3))
        torch.testing.assert_close(x, x_t, rtol=0, atol=1e-14)


def held_rows(case: Case) -> Tensor:
    return torch.tensor([True, False, False, True, False, False][: len(case.batch()["x"])])


def masks(case: Case) -> list[Tensor]:
    """Held rows; and held entries where a row is not held whole."""
    x, rows = case.batch()["x"], held_rows(case)
    if case.kind == "manifold" or case.whole_rows or x.ndim == 1:
        return [rows]
    entries = rows.reshape(-1, *(1,) * (x.ndim - 1)).expand_as(x).clone()
    entries.view(len(x), -1)[1, 0] = True
    return [rows, entries]


@cases
def test_given_entries_are_held(case: Case) -> None:
    """In every draw, in the estimate, the loss and the densities; nothing is NaN beside them."""
    batch = case.batch()
    for mask in masks(case):
        process = case.process.bind(batch.with_given({"x": mask}))
        x_0, random = batch["x"], Generator(4)
        full = mask.reshape(*mask.shape, *(1,) * (x_0.ndim - mask.ndim)).expand_as(x_0)
        s, t = process.times(time(0.3)), process.times(time(0.6))
        assert torch.equal(t == CLEAN, mask)
        x_s, x_t = process.diffuse(x_0, s, random), process.diffuse(x_0, t, random)
        estimate = process.decode(said_by_a_network(process, x_t), x_t, t)
        draws = [process.prior(random), x_s, x_t, process.corrupt(x_s, s, t, random)]
        for eta in case.etas:
            draws += [
                process.step(x_t, estimate, plan, random)
                for plan in process.plan(grid(1.0, 0.6, 0.3, CLEAN), eta)
            ]
        for drawn in draws:
            exact = 1e-15 if case.kind == "manifold" else 0
            torch.testing.assert_close(drawn[full], x_0[full], rtol=0, atol=exact)
            assert not drawn.double().isnan().any()
        (plan,) = process.plan(grid(0.6, 0.3), 1.0)
        whole = full.flatten(1).all(1) if full.ndim > 1 else full
        oracle = process.oracle(x_0, x_t, t)
        for value in (
            process.loss(estimate, x_0, x_t, t),
            process.log_prob(x_t, x_0, t),
            process.prior_log_prob(process.prior(random)),
            process.divergence(oracle, estimate, x_t, plan),
            process.prior_divergence(x_0),
            process.reconstruction(estimate, x_0, x_t, t),
            process.reverse_log_prob(x_s, x_t, oracle, plan),
        ):
            assert value.shape == (len(x_0),)
            assert value[whole].tolist() == [0.0] * int(whole.sum())
            assert not value.isnan().any()
        if case.kind == "gaussian":
            assert torch.equal(estimate.value[full], x_0[full])
        if case.kind == "classes":
            assert torch.equal(estimate.value.argmax(-1)[full], x_0[full])
            assert estimate.value.amax(-1)[full].tolist() == [0.0] * int(full.sum())


class Chosen(Randomness):
    """Numbers that belong to rows, whatever the batch: row i always gets the same."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def _take(self, source: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return source.reshape(6, -1)[self.rows][:, : math.prod(shape[1:])].reshape(shape).to(dtype)

    def normal(self, shape: object, dtype: torch.dtype, device: object) -> Tensor:
        return self._take(Generator(7).normal((6, 24), torch.float64, "cpu"), tuple(shape), dtype)

    def uniform(self, shape: object, dtype: torch.dtype, device: object) -> Tensor:
        return self._take(Generator(7).uniform((6, 24), torch.float64, "cpu"), tuple(shape), dtype)

    def scoped(self, **_: object) -> Chosen:
        return self

    def state(self) -> Tensor:
        raise NotImplementedError

    def restore(self, state: Tensor) -> None:
        raise NotImplementedError


@cases
def test_a_sample_does_not_depend_on_its_batch_mates(case: Case) -> None:
    """The same noise, alone and beside others: the same result to rounding."""
    whole = case.batch()
    layout = whole.layouts["x"]
    everything = run(case, whole, torch.arange(layout.rows))
    for sample in range(3):
        rows = layout.rows_of(torch.tensor([sample]))
        alone = run(case, whole.select([sample]), rows)
        for ours, theirs in zip(alone, everything, strict=True):
            torch.testing.assert_close(ours, theirs[rows], rtol=1e-12, atol=1e-12)


def run(case: Case, batch: Batch, rows: Tensor) -> list[Tensor]:
    """Everything that a process says of a batch."""
    process, x_0, random = case.process.bind(batch), batch["x"], Chosen(rows)
    t = time(0.6)
    x_t = process.diffuse(x_0, t, random)
    said = said_by_a_network(process, case.batch()["x"])[rows]
    estimate = process.decode(said, x_t, t)
    (plan,) = process.plan(grid(0.6, 0.3), 1.0)
    oracle = process.oracle(x_0, x_t, t)
    x_s = process.step(x_t, estimate, plan, random)
    y = process.corrupt(x_t, t, time(0.8), random)
    mixed = process.combine([(x_t, estimate), (x_t, oracle)], (time(0.5), time(0.5)), x_t)
    return [
        x_t,
        x_s,
        y,
        process.prior(random),
        process.encode(x_t, t),
        estimate.value,
        mixed.value,
        process.loss(estimate, x_0, x_t, t),
        process.log_prob(x_t, x_0, t),
        process.prior_log_prob(x_t),
        process.divergence(oracle, estimate, x_t, plan),
        process.prior_divergence(x_0),
        process.reconstruction(estimate, x_0, x_t, t),
        process.reverse_log_prob(x_s, x_t, estimate, plan),
    ]


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_follows_the_input(case: Case, dtype: torch.dtype) -> None:
    """States, estimates and losses have the dtype of the leaf; float32 agrees with float64."""
    batch = case.batch(dtype)
    process, x_0 = case.process.bind(batch), batch["x"]
    exact = case.process.bind(case.batch())
    state = x_0.dtype
    t = torch.tensor(0.6, dtype=dtype)
    x_t = process.diffuse(x_0, t, Generator(1))
    (plan,) = process.plan(grid(0.6, 0.3), 1.0)
    said = said_by_a_network(process, x_t).to(dtype)
    estimate = process.decode(said, x_t, t)
    x_s = process.step(x_t, estimate, plan, Generator(1))
    drawn = (x_t, x_s, process.prior(Generator(1)), process.corrupt(x_0, t, t + 0.1, Generator(1)))
    assert all(x.dtype == state for x in drawn)
    assert estimate.value.dtype == dtype
    assert process.oracle(x_0, x_t, t).value.dtype == dtype
    assert process.clock(t).dtype == dtype
    loss = process.loss(estimate, x_0, x_t, t)
    assert loss.dtype == dtype
    high = x_t if state == torch.int64 else x_t.double()
    said_high = exact.decode(said.double(), high, time(0.6))
    reference = exact.loss(said_high, case.batch()["x"], high, time(0.6))
    torch.testing.assert_close(loss.double(), reference, rtol=2e-3, atol=2e-3)


@cases
def test_gradients_reach_the_network(case: Case) -> None:
    """The loss is differentiable in the output, against finite differences."""
    process, x_0 = case.process.bind(case.batch()), case.batch()["x"]
    x_t = reachable(case, process, x_0, time(0.6))

    def loss(said: Tensor) -> Tensor:
        return process.loss(process.decode(said, x_t, time(0.6)), x_0, x_t, time(0.6)).sum()

    said = said_by_a_network(process, x_t).requires_grad_()
    (slope,) = torch.autograd.grad(loss(said), said)
    direction = said_by_a_network(process, x_t, seed=8)
    difference = (loss(said + 1e-5 * direction) - loss(said - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close(
        (slope * direction).sum(), difference.detach(), rtol=1e-6, atol=1e-8
    )


@cases
def test_mean_pools_estimates_by_row(case: Case) -> None:
    """Two records for one row: the weighted mean, as probabilities on classes."""
    process = case.process.bind(case.batch())
    a, b, x = (case.batch(seed=i)["x"] for i in (1, 2, 3))
    x_t = reachable(case, process, x, time(0.9))
    both = torch.cat
    rows = torch.arange(len(x)).repeat(2)
    first, second = (process.oracle(y, x_t, time(0.9)).value for y in (a, b))
    weights = torch.tensor([0.25, 0.75]).double().repeat_interleave(len(x))
    mean = process.mean(Estimate(both([first, second])), weights, rows).value
    if case.kind == "classes":
        torch.testing.assert_close(mean.exp(), 0.25 * first.exp() + 0.75 * second.exp())
    else:
        torch.testing.assert_close(mean, 0.25 * first + 0.75 * second)


@cases
def test_imposed_rows_are_the_oracle(case: Case) -> None:
    """And the others stay; centred rows are moved together with their frame."""
    process, x_0 = case.process.bind(case.batch()), case.batch()["x"]
    x_t, t = reachable(case, process, x_0, time(0.7)), time(0.7)
    estimate = process.decode(said_by_a_network(process, x_t), x_t, t)
    held, oracle = held_rows(case), process.oracle(x_0, x_t, t).value
    value = process.impose(estimate, x_0, held, x_t, t).value
    if case is GAUSSIANS["gaussian centred"]:
        first = case.batch().layouts["x"].sample == 0
        torch.testing.assert_close(value[first].sum(0), torch.zeros(3).double())
        return
    torch.testing.assert_close(value[held], oracle[held])
    torch.testing.assert_close(value[~held], estimate.value[~held])


@cases
def test_combine_is_the_weighted_sum(case: Case) -> None:
    """One weight: the estimate itself; several that sum to one: their mix at x_t."""
    process, x_0 = case.process.bind(case.batch()), case.batch()["x"]
    x_t = reachable(case, process, x_0, time(0.7))
    a, b = (process.decode(said_by_a_network(process, x_t, i), x_t, time(0.7)) for i in (2, 3))
    history = [(x_t, a), (x_t, b)]
    assert process.combine(history, (time(1.0),), x_t) is a
    mixed = process.combine(history, (time(0.6), time(0.4)), x_t).value
    if case.kind == "classes":
        expected = 0.6 * a.value.exp() + 0.4 * b.value.exp()
        torch.testing.assert_close(mixed.exp(), expected)
    else:
        torch.testing.assert_close(mixed, 0.6 * a.value + 0.4 * b.value)


@cases
def test_weights_drop_trailing_zeros(case: Case) -> None:
    process = case.process.bind(case.batch())
    seen = []

    def rule(clock: Tensor) -> Tensor:
        seen.append(clock)
        return torch.tensor([[1.0, 0.0, 0.0], [1.5, -0.5, 0.0], [0.0, 0.0, 1.0]]).double()

    times = grid(0.9, 0.6, 0.3, CLEAN)
    weights = process.weights(rule, times)
    assert [[float(w) for w in row] for row in weights] == [[1.0], [1.5, -0.5], [0, 0, 1]]
    torch.testing.assert_close(seen[0], process.schedule.reference(times).clock)


@cases
def test_contracts_and_refusals(case: Case) -> None:
    process, batch = case.process, case.batch()
    assert all(process.offers(contract) for contract in (Process, Markov, Tractable))
    x, layout = batch["x"], batch.layouts["x"]
    with pytest.raises(ValueError, match=r"one leaf was given \['x', 'y'\]: use Product"):
        process.bind(Batch({"x": x, "y": x}, {"x": layout, "y": layout}))
    with pytest.raises(ValueError, match=r"leaf 'x' has rows of shape .*expects event"):
        process.bind(Batch({"x": x[..., None]}, {"x": layout}))
    wrong = torch.long if x.is_floating_point() else torch.float32
    with pytest.raises(ValueError, match=r"leaf 'x' has dtype torch.* but its process expects"):
        process.bind(Batch({"x": x.to(wrong)}, {"x": layout}))
    empty = process.empty(4)
    assert empty.dtype == process.state_dtype()
    process.bind(Batch({"x": empty}, {"x": Layout.regular(4)}))
    assert not hasattr(process, "layout")  # binding made a copy


@cases
def test_a_batch_without_rows(case: Case) -> None:
    """A sample may have no rows; nothing fails, and sums are zero."""
    x = case.batch()["x"][:0]
    process = case.process.bind(Batch({"x": x}, {"x": Layout.ragged([0, 0])}))
    t = time(0.5)
    x_t = process.diffuse(x, t, Generator(0))
    estimate = process.decode(said_by_a_network(process, x_t), x_t, t)
    (plan,) = process.plan(grid(0.5, 0.2), 1.0)
    assert process.step(x_t, estimate, plan, Generator(0)).shape == x.shape
    assert process.loss(estimate, x, x_t, t).tolist() == []
    assert process.log_prob(x_t, x, t).tolist() == []


def test_centred_noise_has_zero_mean() -> None:
    """Per sample, in prior, diffuse, corrupt, decode and every step."""
    case = GAUSSIANS["gaussian centred"]
    batch = case.batch()
    process, random = case.process.bind(batch), Generator(0)
    assert isinstance(process, Gaussian)
    x_t = process.diffuse(batch["x"], time(0.5), random)
    estimate = process.decode(said_by_a_network(process, x_t), x_t, time(0.5))
    draws = [x_t, process.prior(random), estimate.value]
    draws.append(process.corrupt(x_t, time(0.5), time(0.9), random))
    draws += [
        process.step(x_t, estimate, p, random) for p in process.plan(grid(0.5, 0.3, CLEAN), 1.0)
    ]
    for x in draws:
        means = batch.layouts["x"].mean(x)
        torch.testing.assert_close(means, torch.zeros_like(means), rtol=0, atol=1e-14)
