"""The adaptive reverse equation: its tolerance, its noise after rejections, and its laws."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Counter,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Product,
    uniform,
)
from structdiff.processes import Estimate
from structdiff.samplers import Carry
from structdiff.samplers.gotta_go_fast import GottaGoFast
from structdiff.samplers.runge_kutta import Repeating
from structdiff.schedules.by_entry import Speeds
from structdiff.spaces import SO3, Torus, ZeroCentre
from structdiff.testing import Addressed, ExactDenoiser, NormalDenoiser, Silent

MEAN, STD = torch.tensor([-1.0, 1.5]), torch.tensor([0.3, 0.5])
SHARE, SAMPLES = torch.tensor([0.4, 0.6]), 4000


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mixture(schedule):
    return NormalDenoiser(Gaussian(schedule), MEAN.double(), STD.double(), SHARE.double())


def solved(sampler, samples=SAMPLES, seed=0):
    """The carry at the end of the equation."""
    bound = sampler.bind(Batch.of(torch.zeros(samples)), Generator(seed))
    return bound.step(bound.start(), 0)


@cache
def by_tolerance(tolerance):
    """Wasserstein's distance of 4000 sorted samples from quantiles, and the mean step numbers."""
    schedule = Linear()
    carry = solved(GottaGoFast(mixture(schedule), tolerance=tolerance, end=0.02))
    level = schedule(torch.tensor(0.02).double())
    x = torch.linspace(-4, 4, 20_001, dtype=torch.float64)
    spread = ((level.alpha * STD) ** 2 + level.sigma**2).sqrt()
    cdf = torch.special.ndtr((x[:, None] - level.alpha * MEAN) / spread) @ SHARE.double()
    truth = x[torch.searchsorted(cdf, (torch.arange(SAMPLES) + 0.5) / SAMPLES)]
    gap = (carry.x["x"].sort().values - truth).square().mean().sqrt()
    numbers = {name: float(carry.memory[name].double().mean()) for name in carry.memory}
    return float(gap), numbers


def test_the_tolerance_controls_the_error_and_the_number_of_steps():
    results = [by_tolerance(tolerance) for tolerance in (0.3, 0.06, 0.012)]
    errors = [error for error, _ in results]
    accepted = [numbers["accepted"] for _, numbers in results]
    assert errors[0] > 1.5 * errors[1] > 1.5 * 1.5 * errors[2], errors
    assert errors[2] < 0.06  # the samples' own distance is about 0.03
    assert accepted[0] < accepted[1] / 1.5 < accepted[2] / 1.5**2, accepted
    assert all(0 < numbers["rejected"] < numbers["accepted"] for _, numbers in results)


class Watched(GottaGoFast):
    """Keeps where steps began and ended."""

    def attempt(self, x, t, s, z):
        new, error = super().attempt(x, t, s, z)
        self.log.append((t, s, error))
        return new, error


def test_steps_are_not_uniform_and_join():
    sampler = Watched(mixture(Linear()), tolerance=0.1)
    sampler.log = []
    carry = solved(sampler, 5)
    starts, ends, errors = (torch.stack(each) for each in zip(*sampler.log, strict=True))
    for j in range(5):
        kept = (errors[:, j] <= 1) & (starts[:, j] > ends[:, j])
        t, s = starts[kept, j], ends[kept, j]
        assert torch.equal(t[1:], s[:-1])
        assert t[0] == 1 and s[-1] == 1e-3
        assert (t - s).max() > 5 * (t - s).min()
        assert int(kept.sum()) == carry.memory["accepted"][j]


class Forgetful(GottaGoFast):
    """Draws anew after a rejection, as in the paper."""

    def bridge(self, z, w, t, m, s):
        self.turn += 1
        return dict(w), dict(self.draw(z, 100_000 + self.turn))


def test_noise_must_not_be_thrown_away():
    """Deviation of normal data: right as it is, far off where rejected noise is drawn anew."""
    denoiser = NormalDenoiser(Gaussian(Linear()), torch.ones(1), torch.full((1,), 0.7))
    forgetful = Forgetful(denoiser, tolerance=0.02)
    forgetful.turn = 0
    right, wrong = (
        float(solved(s).x["x"].std()) for s in (GottaGoFast(denoiser, tolerance=0.02), forgetful)
    )
    assert right == pytest.approx(0.7, abs=0.05)
    assert wrong > 0.8


PROCESSES = {
    "vp": Gaussian(Linear()),
    "flow": Gaussian(Flow()),
    "ve": Gaussian(Geometric(0.05, 20.0)),
    "speeds": Gaussian(Speeds(Linear(), torch.tensor([1.0, 5.0])), event=(2,)),
    "circle": Brownian(Geometric(0.05, 4.0), Torus(1)),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_two_halves_are_the_rejected_step(name):
    """At one estimate and to rounding: the noise of the halves sums to that of the whole."""
    leaf = PROCESSES[name]
    process = Product({"x": leaf})
    x = 0.1 * torch.ones(4, *leaf.event)
    data = Batch.of(x)
    denoiser = ExactDenoiser(process, data.select([0]))
    bound = GottaGoFast(denoiser).bind(data, Counter(0))
    t, m, s = (
        torch.tensor([0.9, 0.8, 0.4, 0.2]),
        torch.tensor([0.7, 0.5, 0.3, 0.15]),
        torch.full((4,), 0.1),
    )
    z, w = (bound.draw(data.leaves, k) for k in (1, 2))
    first, second = bound.bridge(z, w, t, m, s)

    def move(x, a, b, numbers):
        (step,) = bound.process.plan({"x": torch.stack([a, b])}, 1.0)
        if isinstance(leaf, Gaussian):
            estimate = {"x": Estimate(torch.full_like(x, 0.3))}
        else:  # the score of flat space, which a short way round a circle is
            estimate = {"x": Estimate(0.3 - x)}
        return bound.process.step(
            {"x": x}, estimate, step, Repeating(Silent(), {"x 0": numbers["x"]})
        )["x"]

    scale = 1e-3 if name == "circle" else 1.0
    z, first, second = ({"x": scale * each["x"]} for each in (z, first, second))
    whole = move(x, t, s, z)
    halves = move(move(x, t, m, first), m, s, second)
    torch.testing.assert_close(whole, halves, rtol=1e-9, atol=1e-9)


def test_the_noise_of_halves_is_normal_and_independent():
    denoiser = mixture(Cosine())
    n = 20_000
    bound = GottaGoFast(denoiser).bind(Batch.of(torch.zeros(n)), Generator(0))
    z, w = (bound.draw({"x": torch.zeros(n)}, k) for k in (1, 2))
    times = (torch.full((n,), t) for t in (0.9, 0.5, 0.4))
    first, second = bound.bridge(z, w, *times)
    both = torch.cov(torch.stack([first["x"], second["x"]]))
    torch.testing.assert_close(both, torch.eye(2), rtol=0, atol=5 * math.sqrt(2 / n))


def test_each_turn_has_noise_of_its_own():
    bound = GottaGoFast(mixture(Linear())).bind(Batch.of(torch.zeros(3)), Addressed(0))
    drawn = [bound.draw({"x": torch.zeros(3)}, turn)["x"] for turn in range(6)]
    assert float(torch.pdist(torch.stack(drawn)).min()) > 1e-3


def mixed():
    """A vector, a centred ragged cloud and a rotation."""
    process = Product(
        {
            "place": Gaussian(Linear(), event=(2,)),
            "atoms": Gaussian(Linear(), event=(3,), space=ZeroCentre()),
            "turn": Brownian(Geometric(0.05, 3.0), SO3()),
        }
    )
    counts = {"place": [1, 1, 1], "atoms": [2, 3, 2], "turn": [1, 1, 1]}
    layouts = {name: Layout.ragged(count) for name, count in counts.items()}
    atoms = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    leaves = {
        "place": torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.5]]),
        "atoms": atoms - layouts["atoms"].spread(layouts["atoms"].mean(atoms)),
        "turn": SO3().uniform(3, Generator(2), torch.float64, "cpu"),
    }
    return process, Batch(leaves, layouts)


@pytest.mark.parametrize("source", [Addressed, Counter])
def test_given_rows_stay_and_a_sample_does_not_depend_on_its_mates(source):
    """Its steps are its own: the same numbers of them too."""
    process, data = mixed()
    given = data.with_given({"turn": torch.tensor([True, False, True])})
    sampler = GottaGoFast(ExactDenoiser(process, data), tolerance=0.3, end=0.1)
    bound = sampler.bind(given, source(0))
    carry = bound.step(bound.start(), 0)
    whole = bound.step(carry, 1).x
    assert torch.equal(whole["turn"][[0, 2]], data["turn"][[0, 2]])
    for i in range(3):
        one = sampler.bind(given.select([i]), source(0))
        alone = one.step(one.start(), 0)
        for name in ("accepted", "rejected"):
            assert int(alone.memory[name]) == int(carry.memory[name][i])
        for name, x in one.step(alone, 1).x.items():
            rows = data.layouts[name].rows_of(torch.tensor([i]))
            torch.testing.assert_close(whole[name][rows], x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("entries", [False, True])
def test_a_sample_takes_the_same_steps_beside_what_is_given(entries):
    """A hundred given rows or entries do not dilute its error."""
    found = []
    for size in (1, 101):
        event, x = ((size,), torch.zeros(1, size)) if entries else ((), torch.zeros(size))
        process = Gaussian(Linear(), event=event)
        denoiser = NormalDenoiser(process, torch.zeros(1, *event), torch.ones(1))
        layout = Layout.ragged([1 if entries else size])
        mask = (torch.arange(size) > 0).expand(x.shape)
        batch = Batch({"x": x}, {"x": layout}).with_given({"x": mask})
        bound = GottaGoFast(denoiser, tolerance=0.05).bind(batch, Counter(0))
        carry = bound.step(bound.start(), 0)
        found.append((int(carry.memory["accepted"]), float(carry.x["x"].flatten()[0])))
    # The size of an entry is a mean over its row, where those given here are 0.
    assert found[1][0] >= found[0][0] if entries else found[1] == found[0]


def test_alone_and_in_a_batch_the_same_bit_for_bit_and_goes_on():
    sampler, batch = GottaGoFast(mixture(Linear()), tolerance=0.2), Batch.of(torch.zeros(4))
    whole = sampler.sample(batch, Counter(1))["x"]
    for i in range(4):
        assert torch.equal(sampler.sample(batch.select([i]), Counter(1))["x"], whole[[i]])
    bound = sampler.bind(batch, Counter(1))
    saved = Carry.from_tensors(bound.step(bound.start(), 0).tensors())
    assert torch.equal(bound.step(saved, 1).x["x"], whole)


def test_joint_points_of_a_circle_and_a_plane_return_in_proportion():
    process = Product(
        {
            "x": Gaussian(Linear(), event=(2,)),
            "a": Brownian(Geometric(0.02, 4.0), Torus(1)),
        }
    )
    data = Batch.of(
        {"x": torch.tensor([[1.0, 0], [-1, 1], [0, -1.5]]), "a": torch.tensor([[0.0], [1.5], [3]])}
    )
    weights, samples = torch.tensor([0.2, 0.5, 0.3]), 800
    denoiser = ExactDenoiser(process, data, weights)
    sampler = GottaGoFast(denoiser, tolerance=0.15, end=0.03)
    drawn = sampler.sample(Batch.of(process.empty(samples)), Generator(0))
    near = (drawn["x"][:, None] - data["x"]).norm(dim=2)
    found = near.argmin(1)
    turn = Torus(1).log(data["a"][found], drawn["a"]).abs().flatten()
    torn = (near.amin(1) > 0.2) | (turn > 0.2)
    assert float(torn.double().mean()) < 0.03
    for k, weight in enumerate(weights.tolist()):
        share = float((found == k).double().mean())
        assert share == pytest.approx(weight, abs=4 * math.sqrt(0.25 / samples))


def test_estimates_that_are_not_finite_are_reported():
    class Broken(NormalDenoiser):
        def forward(self, batch, t, previous=None):
            right = super().forward(batch, t, previous)
            bad = batch.ids == 7
            return {"x": Estimate(torch.where(bad, torch.nan, right["x"].value))}

    denoiser = Broken(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
    batch = Batch({"x": torch.zeros(2)}, {"x": Layout.regular(2)}, ids=torch.tensor([3, 7]))
    with pytest.raises(
        ArithmeticError, match=r"did not reach t = 0.001 for 1 samples \(ids \[7\]\)"
    ):
        GottaGoFast(denoiser, tolerance=0.3).sample(batch, Generator(0))
    short = GottaGoFast(mixture(Linear()), limit=3)
    with pytest.raises(ArithmeticError, match="for 2 samples .* or the limit, 3"):
        short.sample(batch, Generator(0))


def test_refusals():
    denoiser = mixture(Linear())
    with pytest.raises(ValueError, match=r"0 < end < start <= 1, got 0\.5 and 0\.5"):
        GottaGoFast(denoiser, start=0.5, end=0.5)
    for tolerance in (0.0, math.nan):
        with pytest.raises(ValueError, match="tolerance must be positive"):
            GottaGoFast(denoiser, tolerance=tolerance)
    words = ExactDenoiser(
        Product({"x": Categorical(Flow(), uniform(3))}), Batch.of(torch.tensor([1]))
    )
    with pytest.raises(ValueError, match="a stochastic equation needs the score of every leaf"):
        GottaGoFast(words)
