"""First hitting: the exact law in one call a row, and that of DDPM on a grid in fewer calls."""

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
    Layout,
    Linear,
    Product,
    UniformTime,
    absorbing,
    marginal,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate
from structdiff.samplers import Carry, FirstHitting
from structdiff.schedules import Survival
from structdiff.testing import Addressed, ExactDenoiser
from tests.enumerable import World
from tests.samplers.tables import Table, apart, drawn, noise_of

WORLD = World.random(3, 3)
PROCESS = WORLD.process(Categorical(Flow(), absorbing(3)))


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Spy(Denoiser):
    """Says that all classes are alike, and notes what it sees."""

    def __init__(self, process: Product) -> None:
        super().__init__()
        self.process = process
        self.seen: list[tuple[dict, dict]] = []

    def forward(self, batch, t, previous=None):
        self.seen.append((dict(batch.leaves), dict(t)))
        return {
            n: Estimate(torch.zeros(len(x), self.process[n].classes) - 1.0986)
            for n, x in batch.leaves.items()
        }


def test_one_row_at_a_time_has_the_law_of_the_data():
    """D01, E01: no error but that of sampling, in as many calls as rows."""
    samples, table = 60_000, Table(WORLD, PROCESS, 0.5)
    share = drawn(FirstHitting(table), WORLD, samples)
    assert apart(share, WORLD.probability) < noise_of(WORLD.probability, samples) < 0.02
    assert table.calls == 3


@pytest.mark.parametrize("steps", [2, 5])
def test_on_a_grid_it_has_the_law_of_ddpm(steps):
    """Exact propagation of DDPM's steps; the law is far from that of the data."""
    samples, table = 40_000, Table(WORLD, PROCESS, 0.5)
    denoiser, grid = WORLD.denoiser(PROCESS), UniformTime(steps)
    bound = DDPM(denoiser, grid).bind(WORLD.data_batch, Generator(0))
    law = WORLD.prior(PROCESS)
    for t, coefficients in zip(bound.times, bound.coefficients, strict=False):
        law = WORLD.step(denoiser, law, t, coefficients["x"])
    clean = WORLD.clean(law)
    assert apart(clean, WORLD.probability) > 0.09
    assert apart(drawn(FirstHitting(table, grid), WORLD, samples), clean) < noise_of(
        clean, samples
    )


@pytest.mark.parametrize("steps", [3, 400])
def test_calls_on_a_grid_are_at_most_steps_and_rows(steps):
    """E01: no call where no row changes."""
    counts = [3, 0, 5, 2]
    batch = Batch({"x": torch.zeros(10, dtype=torch.long)}, {"x": Layout.ragged(counts)})
    spy = Spy(Product({"x": Categorical(Flow(), absorbing(3))}))
    bound = FirstHitting(spy, UniformTime(steps)).bind(batch, Counter(1))
    carry = bound.start()
    for k in range(bound.steps):
        before, calls = carry.x["x"], carry.calls
        carry = bound.step(carry, k)
        changed = bool((before != carry.x["x"]).any())
        assert carry.calls - calls == int(changed)
    assert carry.calls == len(spy.seen) <= min(steps, 10)
    assert steps == 3 or carry.calls > 7
    assert (carry.x["x"] < 3).all()


def test_the_calls_are_at_the_times_of_the_rows():
    """At the k-th, each sample is at its k-th latest hitting time, with k rows unmasked."""
    counts = [3, 0, 5, 2]
    batch = Batch({"x": torch.zeros(10, dtype=torch.long)}, {"x": Layout.ragged(counts)})
    spy = Spy(Product({"x": Categorical(Survival(Linear()), absorbing(3))}))
    bound = FirstHitting(spy).bind(batch, Counter(1))
    assert bound.steps == 5
    carry = bound.start()
    when = carry.memory["when.x"].split(counts)
    for k in range(5):
        carry = bound.step(carry, k)
    assert carry.calls == 5
    for k, (x, t) in enumerate(spy.seen):
        for n, taus, rows, times in zip(
            counts, when, x["x"].split(counts), t["x"].split(counts), strict=True
        ):
            assert int((rows == 3).sum()) == max(n - k, 0)
            late = taus.sort(descending=True).values
            assert (rows == 3).tolist() == [
                bool(tau <= late[k]) if k < n else False for tau in taus
            ]
            want = float(late[k]) if k < n else 0.0
            assert (times == want).all()


@pytest.mark.parametrize("schedule", [Flow(), Survival(Linear())], ids=["flow", "linear"])
def test_alpha_of_the_hitting_times_is_uniform(schedule):
    """Kolmogorov-Smirnov with 20,000 rows: 1.95 / sqrt(n) is passed with probability 0.1 %."""
    n = 20_000
    spy = Spy(Product({"x": Categorical(schedule, absorbing(3))}))
    batch = Batch({"x": torch.zeros(n, dtype=torch.long)}, {"x": Layout.ragged([n // 2, n // 2])})
    tau = FirstHitting(spy).bind(batch, Generator(0)).start().memory["when.x"]
    alpha = schedule.alpha(tau).sort().values
    assert float((alpha - torch.arange(n) / n).abs().max()) < 1.95 / n**0.5


def test_two_leaves_share_their_turns():
    """One row of a sample and call, over both leaves; the joint law is exact."""
    process = Product(
        {
            "a": Categorical(Flow(), absorbing(2)),
            "b": Categorical(Survival(Linear()), absorbing(2)),
        }
    )
    data = Batch.of({"a": torch.tensor([0, 0, 1, 1]), "b": torch.tensor([0, 1, 0, 1])})
    law, samples = torch.tensor([0.4, 0.05, 0.15, 0.4]), 20_000
    walk = FirstHitting(ExactDenoiser(process, data, law))
    blank = Batch.of(process.empty(samples))
    bound = walk.bind(blank, Generator(0))
    carry = bound.start()
    assert bound.steps == 2
    carry = bound.step(carry, 0)
    assert ((carry.x["a"] == 2) ^ (carry.x["b"] == 2)).all()
    share = 0.1 < float((carry.x["a"] == 2).double().mean()) < 0.9
    assert share
    end = bound.step(carry, 1).x
    got = torch.bincount(2 * end["a"] + end["b"], minlength=4) / samples
    assert apart(got, law) < noise_of(law, samples)


@pytest.mark.parametrize("grid", [None, UniformTime(4)], ids=["rows", "grid"])
def test_given_rows_stay_mates_do_not_matter_and_a_walk_goes_on(grid):
    batch = WORLD.data_batch.select([3, 8, 20])
    held = torch.tensor([True, False, False, False, False, False, True, True, True])
    batch = batch.with_given({"x": held})
    walk = FirstHitting(WORLD.denoiser(PROCESS), grid)
    bound = walk.bind(batch, Addressed(2))
    assert bound.steps == (3 if grid is None else 4)
    carry = bound.step(bound.start(), 0)
    saved = Carry.from_tensors(carry.tensors())
    for k in range(1, bound.steps):
        carry, saved = bound.step(carry, k), bound.step(saved, k)
    assert torch.equal(carry.x["x"], saved.x["x"])
    assert torch.equal(carry.x["x"][held], batch["x"][held])
    for k in range(3):
        alone = walk.sample(batch.select([k]), Addressed(2))
        assert torch.equal(alone["x"], carry.x["x"][3 * k : 3 * k + 3])


def test_the_conditional_law_given_a_row():
    """E09: p(x | first row = 1), one row at a time."""
    samples, table = 40_000, Table(WORLD, PROCESS, 0.5)
    x = torch.zeros(samples, 3, dtype=torch.long)
    x[:, 0] = 1
    given = {"x": torch.tensor([True, False, False]).repeat(samples)}
    end = FirstHitting(table).sample(WORLD.batch(x).with_given(given), Generator(0))["x"]
    pairs = end.reshape(-1, 3)[:, 1:] @ torch.tensor([3, 1])
    law = (WORLD.law[1] / WORLD.law[1].sum()).flatten()
    got = torch.bincount(pairs, minlength=9) / samples
    assert apart(got, law) < noise_of(law, samples)
    assert table.calls == 2


@pytest.mark.parametrize(
    ("leaf", "match"),
    [
        (Categorical(Flow(), uniform(3)), "'x' has 3 symbols for 3 classes"),
        (Categorical(Flow(), marginal(torch.tensor([0.5, 0.5]))), "'x' has 2 symbols"),
        (Categorical(Flow(), absorbing(3), event=(2,)), "'x' has rows of several entries"),
        (Gaussian(Linear()), "'x' is not on classes"),
    ],
)
def test_other_processes_are_refused(leaf, match):
    process = Product({"mask": Categorical(Flow(), absorbing(3)), "x": leaf})
    with pytest.raises(ValueError, match=f"needs absorbing chains .* leaf {match}.*: use DDPM"):
        FirstHitting(Spy(process))


def test_a_mask_among_other_noise_is_refused():
    from structdiff.processes.transitions import RankOne

    law = torch.tensor([0.05, 0.05, 0.9])
    process = Product({"x": Categorical(Flow(), RankOne(2, law))})
    with pytest.raises(ValueError, match="'x' has a transition to other symbols than the mask"):
        FirstHitting(Spy(process))


def test_a_record_without_classes_is_refused():
    with pytest.raises(ValueError, match="first hitting .* no leaf of the process is one"):
        FirstHitting(Spy(Product({"x": Gaussian(Linear())})))


def test_a_large_vocabulary_with_rows_that_are_known():
    """Above 64 classes draws take blocks; held rows and rows that came out stay as they are."""
    classes, layout = 200, Layout.ragged([3, 2])
    process = Product({"x": Categorical(Flow(), absorbing(classes))})
    data = Batch({"x": torch.tensor([150, 7, 199, 3, 80])}, {"x": layout})
    held = torch.tensor([True, False, False, False, True])
    sampler = FirstHitting(ExactDenoiser(process, data))
    drawn = sampler.sample(data.with_given({"x": held}), Generator(0))["x"]
    assert torch.equal(drawn, data["x"])
