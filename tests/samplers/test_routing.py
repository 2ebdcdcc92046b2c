"""Routing: who is denoised first, the law in random order, routes behind a reverse step."""

from __future__ import annotations

from itertools import combinations

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
)
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate
from structdiff.samplers import Carry, Routed, confidence, even, purity
from structdiff.schedules import Grid
from structdiff.testing import Addressed, ExactDenoiser
from tests.enumerable import World, records
from tests.samplers.tables import Table, apart, drawn, noise_of, place

WORLD = World.random(3, 3)
PROCESS = WORLD.process(Categorical(Flow(), absorbing(3)))


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Times(Grid):
    """A grid by its times."""

    def __init__(self, *times: float) -> None:
        self.given = times

    def times(self):
        return torch.tensor([*self.given, -1.0], dtype=torch.float64)


class Said(Denoiser):
    """Says p_0, ..., p_{T-1} at its calls, `(rows, K)` each, of the leaf `x`."""

    def __init__(self, *laws: torch.Tensor, chain: Categorical | None = None) -> None:
        super().__init__()
        chain = chain or Categorical(Flow(), absorbing(laws[0].shape[-1]))
        self.process = Product({"x": chain})
        self.laws, self.calls = laws, 0

    def forward(self, batch, t, previous=None):
        law = self.laws[min(self.calls, len(self.laws) - 1)]
        self.calls += 1
        return {"x": Estimate(law.log())}


def blank(counts: list[int]) -> Batch:
    layout = Layout.ragged(counts)
    return Batch({"x": torch.zeros(layout.rows, dtype=torch.long)}, {"x": layout})


def some_laws(rows: int, classes: int = 4) -> torch.Tensor:
    source = torch.Generator().manual_seed(3)
    return torch.softmax(2 * torch.randn(rows, classes, generator=source), -1)


@pytest.mark.parametrize("score", [confidence, purity])
def test_the_rows_of_the_highest_scores_are_denoised(score):
    """D05, D16: round(alpha_s n) rows of each sample, by what was drawn of all rows."""
    counts, rows = [7, 1, 0, 12], 20
    said = Said(some_laws(rows))
    bound = Routed(said, Times(1.0, 0.6, 0.3), score=score).bind(blank(counts), Counter(0))
    carry = bound.start()
    for i, alpha in enumerate((0.4, 0.7, 1.0)):
        x_0 = bound.sampler.step(carry, i).x["x"]
        done = carry.x["x"] < 4
        drawn_p = said.laws[0].gather(1, x_0[:, None]).squeeze(1)
        each = (drawn_p if score is confidence else said.laws[0].amax(1)).masked_fill(done, 2.0)
        want = []
        for scores in each.split(counts):
            cut = round(alpha * len(scores))
            best = scores.sort(descending=True).values
            want += [bool(cut and value >= best[cut - 1]) for value in scores]
        before, carry = carry.x["x"], bound.step(carry, i)
        now = carry.x["x"]
        assert (now < 4).tolist() == want
        assert torch.equal(now[done], before[done])
        assert torch.equal(now[(now < 4) & ~done], x_0[(now < 4) & ~done])
    assert carry.calls == 3


def test_random_order_has_the_law_of_the_data_where_rows_go_one_by_one():
    """D05: as D01, of which rows go one by one on long grids."""
    samples, table = 60_000, Table(WORLD, PROCESS, 0.5)
    walk = Routed(table, UniformTime(6), score=even, noise=1.0)
    share = drawn(walk, WORLD, samples)
    assert apart(share, WORLD.probability) < noise_of(WORLD.probability, samples) < 0.02
    assert table.calls == 6


def test_random_order_on_a_coarse_grid():
    """Any two rows at once, then the third: against enumeration, and no worse than D01."""
    samples, table = 60_000, Table(WORLD, PROCESS, 0.5)
    mask = torch.full((1, 3), 3)
    first = WORLD.estimates(WORLD.denoiser(PROCESS), mask, 0.5)["x"].value.exp()
    law = torch.zeros_like(WORLD.law)
    for rows in combinations(range(3), 2):
        (last,) = {0, 1, 2} - set(rows)
        given = WORLD.law / WORLD.law.sum(last, keepdim=True)
        pair = torch.einsum("a,b->ab", *(first[row] for row in rows)).unsqueeze(last)
        law += given * pair / 3
    law = law.flatten()
    walk = Routed(table, Times(1.0, 0.4), score=even, noise=1.0)
    assert apart(drawn(walk, WORLD, samples), law) < noise_of(law, samples)
    denoiser = WORLD.denoiser(PROCESS)
    bound = DDPM(denoiser, Times(1.0, 0.4)).bind(WORLD.data_batch, Generator(0))
    ancestral = WORLD.prior(PROCESS)
    for t, coefficients in zip(bound.times, bound.coefficients, strict=False):
        ancestral = WORLD.step(denoiser, ancestral, t, coefficients["x"])
    assert 0.02 < apart(law, WORLD.probability) < WORLD.distance(ancestral)


def test_confident_order_does_not_keep_the_law():
    """Stated: its samples are likelier and less diverse than the data."""
    samples, table = 20_000, Table(WORLD, PROCESS, 0.5)
    share = drawn(Routed(table, UniformTime(2)), WORLD, samples)
    spread = drawn(Routed(table, UniformTime(2), score=even, noise=1.0), WORLD, samples)
    log_p = WORLD.probability.log()
    assert float(share @ log_p) > float(spread @ log_p) + 0.02
    assert apart(share, WORLD.probability) > 2 * noise_of(WORLD.probability, samples)


def test_without_scores_or_noise_the_order_is_from_left_to_right():
    bound = Routed(Said(some_laws(5)), UniformTime(5), score=even).bind(blank([5]), Counter(0))
    carry = bound.start()
    for i in range(5):
        carry = bound.step(carry, i)
        assert (carry.x["x"] < 4).tolist() == [row <= i for row in range(5)]


def test_noise_times_time_times_gumbel_orders_by_softmax():
    """argmax(log w + Gumbel) is drawn with probability w: at t = 1, of 20,000 samples."""
    purities = torch.tensor([0.9, 0.6, 0.5])
    law = torch.stack([purities, 1 - purities], 1)
    n = 20_000
    said = Said(law.repeat(n, 1))
    walk = Routed(said, Times(1.0, 2 / 3), score=purity, noise=1.0)
    bound = walk.bind(blank([3] * n), Generator(0))
    first = bound.step(bound.start(), 0).x["x"].reshape(n, 3) < 2
    assert (first.sum(1) == 1).all()
    want = purities / purities.sum()
    got = first.double().mean(0)
    assert ((got - want).abs() < 4 * (want * (1 - want) / n).sqrt()).all()


def sure(*p: float) -> torch.Tensor:
    """Rows that are class 0 with these probabilities."""
    first = torch.tensor(p)
    return torch.stack([first, 1 - first], 1)


@pytest.mark.parametrize("revisable", [False, True])
@pytest.mark.parametrize("law", [absorbing(2), marginal(torch.tensor([0.0, 1.0]))])
def test_rows_go_back_to_noise_only_if_revisable(revisable, law):
    """The second row, surer at the second look than the first was, takes its place."""
    said = Said(sure(1 - 1e-5, 1 - 1e-4), sure(0.5, 1 - 1e-9), chain=Categorical(Flow(), law))
    walk = Routed(said, Times(1.0, 2 / 3, 1 / 3), revisable=revisable)
    bound = walk.bind(blank([2]), Counter(0))
    noise = law.symbols - 1
    carry = bound.step(bound.start(), 0)
    assert carry.x["x"].tolist() == [0, noise]
    carry = bound.step(carry, 1)
    assert carry.x["x"].tolist() == ([noise, 0] if revisable else [0, noise])
    carry = bound.step(carry, 2)
    assert (carry.x["x"] < 2).all()
    assert carry.x["x"][1 if revisable else 0] == 0


def test_given_rows_are_not_counted():
    """Of 6 rows 2 are given; half of the others are denoised at alpha = 1 / 2."""
    batch = blank([6, 2])
    held = torch.tensor([True, False, False, True, False, False, True, True])
    batch = batch.with_leaves({"x": torch.full((8,), 2)}).with_given({"x": held})
    bound = Routed(Said(some_laws(8)), Times(1.0, 0.5)).bind(batch, Counter(0))
    carry = bound.step(bound.start(), 0)
    now = carry.x["x"] < 4
    assert int(now[:6].sum()) == 4
    assert bool(now[held].all())
    end = bound.step(carry, 1).x["x"]
    assert torch.equal(end[held], batch["x"][held])
    assert (end < 4).all()


def test_other_leaves_step_as_in_ddpm():
    """The first step of a place beside tokens, bit for bit; the walk ends on records."""
    process = Product(
        {"place": Gaussian(Linear(), event=(2,)), "token": Categorical(Flow(), absorbing(3))}
    )
    leaves = {"place": torch.tensor([[0.0, 1.0], [2.0, 0.0]]), "token": torch.tensor([0, 2])}
    denoiser = ExactDenoiser(process, Batch.of(leaves))
    batch = Batch.of(process.empty(60))
    ends = []
    for walk in (DDPM(denoiser, UniformTime(8)), Routed(denoiser, UniformTime(8))):
        bound = walk.bind(batch, Counter(0))
        ends.append(bound.step(bound.start(), 0).x["place"])
    assert torch.equal(*ends)
    end = Routed(denoiser, UniformTime(20)).sample(batch, Counter(1))
    near = (end["place"][:, None] - leaves["place"]).norm(dim=-1).argmin(1)
    assert float((leaves["token"][near] == end["token"]).double().mean()) > 0.9


def test_calls_do_not_grow_with_the_length():
    """D21: the cost is the number of steps."""
    for length in (2, 200):
        said = Said(some_laws(length))
        Routed(said, UniformTime(7)).sample(blank([length]), Counter(0))
        assert said.calls == 7


@pytest.mark.parametrize("revisable", [False, True])
def test_mates_do_not_matter_and_a_walk_goes_on(revisable):
    batch = WORLD.data_batch.select([3, 8, 20])
    walk = Routed(WORLD.denoiser(PROCESS), UniformTime(4), noise=1.0, revisable=revisable)
    bound = walk.bind(batch, Addressed(2))
    carry = bound.start()
    for i in range(2):
        carry = bound.step(carry, i)
    saved = Carry.from_tensors(carry.tensors())
    for i in range(2, 4):
        carry, saved = bound.step(carry, i), bound.step(saved, i)
    assert torch.equal(carry.x["x"], saved.x["x"])
    for k in range(3):
        alone = walk.sample(batch.select([k]), Addressed(2))
        assert torch.equal(alone["x"], carry.x["x"][3 * k : 3 * k + 3])


@pytest.mark.parametrize("law", [absorbing(3), marginal(torch.tensor([0.5, 0.2, 0.3]))])
def test_the_reverse_step_is_a_mixture_of_routes(law):
    """D05, Zheng et al.: to keep, denoise or add noise, with their weights; to 1e-12."""
    leaf, x_0 = Categorical(Flow(), law), 1
    alpha_t, alpha_s = 0.3, 0.55
    beta, pi = alpha_t / alpha_s, leaf.stationary
    x_t = torch.arange(leaf.symbols)
    live = (x_t == x_0) | (pi > 0)
    bound = leaf.bind(Batch.of(x_t))
    (step,) = bound.plan(torch.tensor([1 - alpha_t, 1 - alpha_s]), 1.0)
    oracle = bound.oracle(torch.full_like(x_t, x_0), x_t, torch.tensor(1 - alpha_t))
    kernel = bound.log_kernel(oracle, x_t, step).exp()
    point = torch.eye(leaf.symbols)
    keep = 1 - (1 - beta) * (1 - alpha_s) * pi[x_0] / (alpha_t + (1 - alpha_t) * pi[x_0])
    denoise = (alpha_s - alpha_t) / (1 - alpha_t)
    for i in x_t[live].tolist():
        if i == x_0:
            routes = keep * point[i] + (1 - keep) * pi
        else:
            noise = beta * point[i] + (1 - beta) * pi
            routes = denoise * point[x_0] + (1 - denoise) * noise
        torch.testing.assert_close(kernel[i], routes, rtol=0, atol=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match="noise must be at least 0, got -1"):
        Routed(Said(some_laws(1)), UniformTime(2), noise=-1.0)
    said = Said(some_laws(1))
    said.process = Product({"x": Gaussian(Linear())})
    with pytest.raises(ValueError, match="routing .* no leaf of the process is one"):
        Routed(said, UniformTime(2))


def test_the_table_is_the_exact_denoiser():
    states = records(4, 3)
    table = Table(WORLD, PROCESS, 0.5)
    batch = WORLD.batch(states)
    exact = WORLD.denoiser(PROCESS)(batch, {"x": torch.tensor(0.3)})["x"].value
    torch.testing.assert_close(table(batch, {"x": torch.tensor(0.3)})["x"].value, exact)
    assert torch.equal(place(states.flatten(), 4, 3), torch.arange(64))


def test_ranks_are_places_in_a_stable_sort_of_each_sample():
    source = torch.Generator().manual_seed(0)
    counts = [4, 0, 1, 9]
    score = torch.randint(0, 4, (14,), generator=source)
    ranks = Layout.ragged(counts).rank(score).split(counts)
    for rank, each in zip(ranks, score.split(counts), strict=True):
        order = sorted(range(len(each)), key=lambda row, each=each: int(each[row]))
        assert [order.index(row) for row in range(len(each))] == rank.tolist()
