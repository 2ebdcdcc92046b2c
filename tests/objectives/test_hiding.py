"""Dropped conditions and given rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Product,
    UniformTime,
    uniform,
)
from structdiff.denoiser import NetworkDenoiser
from structdiff.guidance import Replacement
from structdiff.objectives import (
    ConditionDropout,
    Denoising,
    GivenRows,
    MinSNR,
    random_leaves,
    random_rows,
)
from structdiff.random import Randomness
from structdiff.spaces import Torus
from structdiff.testing import Addressed

SIZES = [3, 1, 4, 2]


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Bias(nn.Module):
    """A number for each output: a wrong answer with a gradient of its own."""

    def __init__(self, rows: int = sum(SIZES)) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.full((rows, 2), 3.0))
        self.kind = nn.Parameter(torch.linspace(-1, 1, 3 * rows).reshape(rows, 3))
        self.angle = nn.Parameter(torch.full((rows, 1), 2.0))
        self.seen: list[Batch] = []

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        self.seen.append(batch)
        return {"place": self.place, "kind": self.kind, "angle": self.angle}


def denoiser(rows: int = sum(SIZES)) -> NetworkDenoiser:
    process = {
        "place": Gaussian(Cosine(), event=(2,)),
        "kind": Categorical(Flow(), uniform(3)),
        "angle": Brownian(Geometric(0.05, 4.0), Torus(1)),
    }
    return NetworkDenoiser(Bias(rows), Product(process))


def records(sizes: list[int] = SIZES) -> Batch:
    layout = Layout.ragged(sizes)
    rows = layout.rows
    leaves = {
        "place": torch.sin(torch.arange(2.0 * rows)).reshape(rows, 2),
        "kind": torch.arange(rows) % 3,
        "angle": torch.cos(torch.arange(1.0 * rows)).reshape(rows, 1),
    }
    labels = {"a": torch.arange(len(sizes)), "b": torch.ones(len(sizes), 2)}
    return Batch(leaves, dict.fromkeys(leaves, layout)).with_condition(labels)


def many(samples: int) -> Batch:
    conditions = {name: torch.zeros(samples) for name in "ab"}
    return Batch.of(torch.zeros(samples)).with_condition(conditions)


def near(share: Tensor, p: float, samples: int) -> bool:
    """Whether a frequency is within three standard errors of p."""
    return abs(float(share.double().mean()) - p) <= 3 * math.sqrt(p * (1 - p) / samples)


@pytest.mark.parametrize("together", [0.0, 0.3])
@pytest.mark.parametrize("rate", [0.1, {"a": 0.2, "b": 0.5}, {"a": 0.0, "b": 1.0}], ids=str)
def test_conditions_are_dropped_at_their_rates(rate, together):
    """G03, G14: each key, and both at once as independent keys under a common drop are."""
    n = 20000
    objective = ConditionDropout(Denoising(), rate, together=together)
    present = objective.dropped(many(n), Generator(0)).present
    a, b = (rate, rate) if isinstance(rate, float) else (rate["a"], rate["b"])
    kept = 1 - together
    assert near(~present["a"], 1 - kept * (1 - a), n)
    assert near(~present["b"], 1 - kept * (1 - b), n)
    assert near(~present["a"] & ~present["b"], together + kept * a * b, n)
    assert near(present["a"] & present["b"], kept * (1 - a) * (1 - b), n)


def test_samples_are_dropped_independently_of_each_other():
    present = ConditionDropout(Denoising(), 0.3).dropped(many(20000), Generator(1)).present["a"]
    pairs = present.reshape(-1, 2)
    assert near(pairs.all(1), 0.49, 10000)


def test_keys_are_independent_where_the_source_follows_addresses():
    """Each key has an address of its own, and so has the common drop."""
    n = 800
    present = ConditionDropout(Denoising(), 0.5).dropped(many(n), Addressed(0)).present
    assert near(present["a"] & present["b"], 0.25, n)
    assert near(present["a"] ^ present["b"], 0.5, n)
    both = ConditionDropout(Denoising(), {"a": 0.5, "b": 0.0}, together=0.5)
    present = both.dropped(many(n), Addressed(0)).present
    assert near(present["a"], 0.25, n)
    assert near(present["b"], 0.5, n)


def test_what_is_absent_stays_absent():
    batch, mask = many(1000), torch.arange(1000) % 2 == 0
    batch = batch.with_present({"a": mask})
    kept = ConditionDropout(Denoising(), 0.0).dropped(batch, Generator(0)).present
    assert torch.equal(kept["a"], mask)
    assert kept["b"].all()
    dropped = ConditionDropout(Denoising(), 0.4).dropped(batch, Generator(0)).present["a"]
    assert not dropped[~mask].any()
    assert near(dropped[mask], 0.6, 500)
    assert torch.equal(batch.present["a"], mask)


class Witness(Denoising):
    """Keeps the batch that it is called with."""

    batch: Batch

    def __call__(self, denoiser, batch: Batch, random: Randomness):
        self.batch = batch
        return super().__call__(denoiser, batch, random)


def test_dropping_does_not_disturb_the_noise():
    """Under a source that follows addresses the network sees the same noise at any rate."""
    batch, plain = records(), denoiser()
    expected = Denoising()(plain, batch, Addressed(5))
    for rate in (0.0, 0.7):
        aware, inner = denoiser(), Witness()
        terms = ConditionDropout(inner, rate, together=rate)(aware, batch, Addressed(5))
        for name, term in terms.leaves.items():
            assert torch.equal(term, expected.leaves[name])
            assert torch.equal(aware.backbone.seen[0][name], plain.backbone.seen[0][name])
        present = aware.backbone.seen[0].present
        assert all(bool(mask.all()) == (rate == 0) for mask in present.values())
        assert inner.batch.condition is not None


def test_choices_are_a_samples_own():
    """Alone and in a batch, of conditions and of rows."""
    batch = records([3, 1, 4, 2] * 5)
    drop, chosen = ConditionDropout(Denoising(), 0.5, together=0.2), torch.ones(20).bool()
    whole = drop.dropped(batch, Addressed(1)).present
    rows = random_rows(batch, Addressed(1), chosen).given
    assert 0 < int(whole["a"].sum()) < 20
    assert 0 < int(rows["kind"].sum()) < 50
    for i in range(20):
        one = batch.select([i])
        alone = drop.dropped(one, Addressed(1)).present
        assert all(alone[name] == mask[i] for name, mask in whole.items())
        held = random_rows(one, Addressed(1), chosen[:1]).given
        place = batch.layouts["kind"].rows_of(torch.tensor([i]))
        assert all(torch.equal(held[name], mask[place]) for name, mask in rows.items())
    assert not torch.equal(rows["kind"], rows["place"])


def test_the_share_of_given_rows_is_uniform():
    """From none to all but one, each row as often; a chi-square of 3 degrees, p > 1e-4."""
    n = 6000
    layout = Layout.ragged([4, 1] * n)
    batch = Batch({"x": torch.zeros(layout.rows)}, {"x": layout})
    held = random_rows(batch, Generator(0), torch.ones(2 * n, dtype=torch.bool)).given["x"]
    count = layout.sum(held.double())
    assert not count[1::2].any()
    counts = torch.bincount(count[::2].long(), minlength=5)
    assert counts[4] == 0
    assert ((counts[:4] - n / 4) ** 2 / (n / 4)).sum() < 21
    for row in range(4):
        first = layout.start[::2] + row
        assert near(held[first], 3 / 8, n)


def test_unchosen_samples_have_no_given_rows_and_given_ones_stay():
    batch = records()
    entries = torch.zeros_like(batch["place"], dtype=torch.bool)
    entries[5, 1] = True
    batch = batch.with_given({"kind": torch.arange(10) == 3, "place": entries})
    none = random_rows(batch, Generator(0), torch.zeros(4, dtype=torch.bool)).given
    assert torch.equal(none["kind"], batch.given["kind"])
    assert torch.equal(none["place"], entries)
    assert not none["angle"].any()
    some = random_rows(batch, Generator(0), torch.tensor([False, False, True, False])).given
    third = batch.layouts["kind"].sample == 2
    assert some["kind"][3]
    assert some["place"][5, 1]
    assert not some["kind"][~third & (torch.arange(10) != 3)].any()
    assert not some["angle"][~third].any()
    assert some["angle"].any()


def test_the_rate_of_samples_with_given_rows():
    """The rate times the share of samples of four rows that have any, 3/4."""
    n = 6000
    batch = Batch({"x": torch.zeros(4 * n)}, {"x": Layout.ragged([4] * n)})
    world = NetworkDenoiser(Same(), Product({"x": Gaussian(Cosine())}))
    for rate in (0.0, 0.4, 1.0):
        inner = Witness()
        GivenRows(inner, random_rows, rate=rate)(world, batch, Generator(0))
        some = batch.layouts["x"].sum(inner.batch.given["x"].double()) > 0
        assert near(some, 0.75 * rate, n)


class Same(nn.Module):
    """Says what it sees."""

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        return dict(batch.leaves)


def test_given_rows_are_clean_and_teach_nothing():
    """The network is wrong everywhere; given rows count in neither the loss nor its gradient."""
    world, batch, inner = denoiser(), records(), Witness(MinSNR())
    objective = GivenRows(inner, random_rows, rate=1.0)
    terms = objective(world, batch, Addressed(2))
    terms.total.backward()
    given, seen = inner.batch.given, world.backbone.seen[0]
    for name, mask in given.items():
        assert 0 < int(mask.sum()) < 10
        assert torch.equal(seen[name][mask], batch[name][mask])
        assert torch.isposinf(terms.clock[name][mask]).all()
        gradient = getattr(world.backbone, name).grad.abs().sum(1)
        assert gradient[mask].tolist() == [0.0] * int(mask.sum())
        assert (gradient[~mask] > 0).all()
        worse = denoiser()
        with torch.no_grad():
            getattr(worse.backbone, name)[mask] -= 50
        again = objective(worse, batch, Addressed(2)).leaves
        assert torch.equal(again[name], terms.leaves[name])
        free = batch.layouts[name].sum((~mask).double()) > 0
        assert (terms.leaves[name][free] > 0).all()
    moved = (seen["place"] != batch["place"]).any(1)
    assert torch.equal(moved, ~given["place"])


def test_where_no_sample_is_chosen_nothing_changes():
    batch = records()
    plain = Denoising()(denoiser(), batch, Addressed(3)).leaves
    none = GivenRows(Denoising(), random_rows, rate=0.0)(denoiser(), batch, Addressed(3)).leaves
    for name, term in plain.items():
        torch.testing.assert_close(none[name], term, rtol=0, atol=0)


def test_what_does_not_fit_is_refused():
    for wrong in (-0.1, 1.5, math.nan, {"a": 0.5, "b": 2.0}):
        with pytest.raises(ValueError, match=r"rate and together must be in \[0, 1\], got"):
            ConditionDropout(Denoising(), wrong)
    with pytest.raises(ValueError, match=r"rate and together must be in \[0, 1\], got 0.1 and -1"):
        ConditionDropout(Denoising(), 0.1, together=-1)
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 1.2"):
        GivenRows(Denoising(), random_rows, rate=1.2)
    for rate in ({"a": 0.1}, {"a": 0.1, "b": 0.1, "c": 0.1}, {"a": 0.1, "B": 0.1}):
        objective = ConditionDropout(Denoising(), rate)
        with pytest.raises(ValueError, match=r"the batch has \['a', 'b'\]: give a rate for each"):
            objective(denoiser(), records(), Generator(0))


RHO, VALUE = 0.9, 2.0


class Pairs(nn.Module):
    """x_0 of a row as gains times its own noisy value and its partner's; gains see both clocks."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Sequential(
            nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 2)
        )

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        x = batch["x"]
        partner = torch.arange(len(x)) ^ 1
        own = clock["x"].to(x).expand(x.shape)
        seen = [
            f(c)
            for c in (own, own[partner])
            for f in (lambda c: torch.sigmoid(2 * c), lambda c: torch.tanh(c / 2))
        ]
        first, second = self.gains(torch.stack(seen, -1)).unbind(-1)
        return {"x": first * x + second * x[partner]}


def pairs(samples: int, seed: int) -> Batch:
    """Standard normal pairs with correlation RHO, a row each."""
    first, noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))
    second = RHO * first + math.sqrt(1 - RHO**2) * noise
    x = torch.stack([first, second], 1).flatten()
    return Batch({"x": x}, {"x": Layout.ragged([2] * samples)})


def trained(steps: int = 400) -> NetworkDenoiser:
    torch.manual_seed(0)
    learner = NetworkDenoiser(Pairs(), Product({"x": Gaussian(Cosine())}))
    objective = GivenRows(Denoising(MinSNR()), random_rows, rate=0.8)
    optimiser = torch.optim.Adam(learner.parameters(), lr=0.02)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    random = Generator(0)
    for i in range(steps):
        optimiser.zero_grad()
        objective(learner, pairs(1024, i), random).total.backward()
        optimiser.step()
        falling.step()
    return learner


def test_a_model_trained_with_given_rows_draws_conditionals():
    """Of N(0, [[1, 0.9], [0.9, 1]]) given the first row: mean 1.8, variance 0.19.

    4000 samples err by 0.007, the grid of 50 steps takes 0.02 from the variance even with the
    exact denoiser. Replacement, with the same network, misses the mean by a quarter of it.
    """
    torch.set_default_dtype(torch.float32)
    learner, n = trained(), 4000
    known = Batch({"x": torch.tensor([VALUE, 0.0]).repeat(n)}, {"x": Layout.ragged([2] * n)})
    known = known.with_given({"x": torch.tensor([True, False]).repeat(n)})

    def second(denoiser, batch: Batch) -> Tensor:
        return DDPM(denoiser, UniformTime(50)).sample(batch, Generator(1))["x"][1::2]

    given = second(learner, known)
    replaced = second(Replacement(learner, known), known.with_given({}))
    assert abs(float(given.mean()) - RHO * VALUE) < 0.1
    assert abs(float(given.var()) - (1 - RHO**2)) < 0.07
    assert float(replaced.mean()) < RHO * VALUE - 0.4


def test_whole_leaves_are_given_at_random():
    """One to all but one leaf, each subset of a size as often as another."""
    n = 30_000
    batch = Batch.of({name: torch.zeros(n, 2) for name in "abc"})
    chosen = torch.arange(n) < 24_000
    made = random_leaves(batch, Addressed(0), chosen)
    table = torch.stack([made.given[name] for name in "abc"], 1)
    assert not table[24_000:].any()
    codes = (table[:24_000].long() * torch.tensor([1, 2, 4])).sum(1)
    counts = torch.bincount(codes, minlength=8)
    assert counts[0] == counts[7] == 0
    expected = torch.tensor([0, 1, 1, 1, 1, 1, 1, 0]) * 4000.0
    assert (counts - expected).abs().max() < 4 * 4000**0.5


def test_given_leaves_stay_and_one_leaf_is_never_given():
    held = torch.tensor([True, False, False])
    batch = Batch.of({"a": torch.zeros(3), "b": torch.zeros(3)}).with_given({"a": held})
    made = random_leaves(batch, Addressed(0), torch.tensor([False, False, False]))
    assert torch.equal(made.given["a"], held)
    alone = random_leaves(Batch.of(torch.zeros(5)), Addressed(0), torch.ones(5, dtype=torch.bool))
    assert not alone.given["x"].any()
