"""Steps that an opponent cannot tell: pairs, the game's gradients, the penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.counter import Counter
from structdiff.denoiser import Denoiser
from structdiff.layout import Layout
from structdiff.objectives.adversarial import AdversarialSteps, ConditionalGenerator, Duel
from structdiff.processes import (
    Brownian,
    Categorical,
    Estimate,
    Gaussian,
    Product,
    absorbing,
)
from structdiff.random import Generator, Randomness
from structdiff.schedules import Cosine, Flow, Geometric, UniformTime
from structdiff.spaces import Sphere

GRID = UniformTime(2)
LINE = Product({"x": Gaussian(Cosine())})
ALPHA = math.cos(math.pi / 4)  # of the cosine schedule at t = 1/2, as sigma


class Shifted(Denoiser):
    """Draws x_0 of standard normal data given x_t, but shifted."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.process = LINE
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        level = Cosine()(t["x"])
        noise = torch.randn(len(batch["x"]), dtype=torch.float64)
        return {"x": Estimate(level.alpha * batch["x"] + level.sigma * noise + self.shift)}


class Best(nn.Module):
    """log p / p' against `Shifted`, and a function of the pair beside it."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift
        self.beside = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, earlier: Batch, later: Batch, clock: Mapping[str, Tensor]) -> Tensor:
        x_s, x_t = earlier["x"], later["x"]
        # t = 1 to 1/2, where nothing is known of x_s, or 1/2 to the data.
        first = clock["x"] < -1
        slope = torch.where(first, 0.0, ALPHA)
        moved = self.shift * torch.where(first, ALPHA, 1.0)
        variance = 1 - slope**2
        residual = x_s - slope * x_t
        ratio = ((residual - moved) ** 2 - residual**2) / (2 * variance)
        beside = torch.stack([torch.ones_like(x_s), x_s, x_s * x_t], 1)
        return ratio + beside @ self.beside


def standard(count: int, seed: int = 0) -> Batch:
    return Batch.of(Generator(1000 + seed).normal((count,), torch.float64, "cpu"))


def softened(shift: float, variance: float) -> float:
    """2 KL((p + p') / 2 | p) of N(0, variance) and the same shifted."""

    def density(x: float) -> float:
        return math.exp(-(x**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    def term(x: float) -> float:
        p, mixed = density(x), 0.5 * (density(x) + density(x - shift))
        return 2 * mixed * math.log(mixed / p)

    return float(quad(term, -9, 9, epsabs=1e-12)[0])


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_against_the_best_opponent_the_gradient_is_that_of_a_softened_divergence(
    shift: float,
) -> None:
    torch.manual_seed(0)
    duel, objective = Duel(Shifted(shift), Best(shift)), AdversarialSteps(GRID)
    slopes = []
    for k in range(10):
        fooling = objective(duel, standard(4000, k), Generator(k)).leaves["adversarial"].mean()
        slopes.append(torch.autograd.grad(fooling, duel.denoiser.shift)[0])
    found = torch.stack(slopes)

    def divergence(shift: float) -> float:
        return 0.5 * (softened(shift * ALPHA, 1.0) + softened(shift, 1 - ALPHA**2))

    truth = (divergence(shift + 1e-3) - divergence(shift - 1e-3)) / 2e-3
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - truth) <= 4 * error  # at rest there is no noise either
    assert error < 0.01
    assert truth > 0.1 or shift == 0.0


def test_the_best_opponent_has_nothing_to_learn() -> None:
    """Its term is at rest there, in the constant, in x_s and in the pair."""
    torch.manual_seed(0)
    duel, objective = Duel(Shifted(0.7), Best(0.7)), AdversarialSteps(GRID)
    slopes = []
    for k in range(10):
        told = objective(duel, standard(4000, k), Generator(k)).leaves["opponent"].mean()
        slopes.append(torch.autograd.grad(told, duel.opponent.beside)[0])
    found = torch.stack(slopes)
    error = found.std(0) / math.sqrt(len(found))
    assert (found.mean(0).abs() < 4 * error).all()
    assert (error < 0.01).all()


@pytest.mark.parametrize("random", [Generator(0), Counter(0)], ids=["stream", "by address"])
def test_real_pairs_have_the_joint_law_of_neighbouring_times(random: Randomness) -> None:
    """Data of deviation 2 around 1: means, variances and the covariance of both steps."""
    count = 40_000
    batch = Batch.of(1 + 2 * standard(count)["x"])
    pair = AdversarialSteps(GRID).pair(LINE, batch, random)
    first = pair.t["x"] == 1
    assert abs(first.double().mean() - 0.5) < 1e-4  # stratified
    for some, late, early in (
        (first, (0.0, 1.0), (ALPHA, ALPHA)),
        (~first, (ALPHA, ALPHA), (1, 0)),
    ):
        found = torch.stack([pair.later["x"][some], pair.earlier["x"][some]])
        mean = torch.tensor([late[0], early[0]], dtype=torch.float64)
        cross = 4 * late[0] * early[0] + (late[0] / early[0]) * early[1] ** 2
        ends = [4 * a**2 + s**2 for a, s in (late, early)]
        law = torch.tensor([[ends[0], cross], [cross, ends[1]]], dtype=torch.float64)
        near = 5 * 4 * math.sqrt(2 / (count / 2))  # variances are at most 4
        assert torch.allclose(found.mean(1), mean, atol=near)
        assert torch.allclose(found.cov(), law, atol=near)


def test_each_term_reaches_its_own_player() -> None:
    duel = Duel(Shifted(0.3), Best(0.7))
    leaves = AdversarialSteps(GRID, penalty=0.1)(duel, standard(8), Generator(0)).leaves
    leaves["adversarial"].sum().backward()
    assert duel.opponent.beside.grad is None
    assert duel.denoiser.shift.grad != 0
    duel.zero_grad()
    leaves["opponent"].sum().backward()
    assert duel.denoiser.shift.grad is None
    assert (duel.opponent.beside.grad != 0).all()


class Still(Denoiser):
    """Estimates nothing."""

    def __init__(self, process: Product) -> None:
        super().__init__()
        self.process = process

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        return {name: Estimate(torch.zeros_like(x)) for name, x in batch.leaves.items()}


class Linear(nn.Module):
    """The sum over rows and leaves of w . x_s."""

    def __init__(self, **directions: list[float]) -> None:
        super().__init__()
        self.directions = {n: torch.tensor(w).double() for n, w in directions.items()}

    def forward(self, earlier: Batch, later: Batch, clock: Mapping[str, Tensor]) -> Tensor:
        del later, clock
        parts = [
            earlier.layouts[name].sum(earlier[name] @ w) for name, w in self.directions.items()
        ]
        return torch.stack(parts).sum(0)


def penalty_of(duel: Duel, batch: Batch, penalty: float) -> Tensor:
    """What the penalty adds to the opponent's term of each sample."""
    terms = [
        AdversarialSteps(GRID, penalty=w)(duel, batch, Generator(0)).leaves["opponent"]
        for w in (penalty, 0.0)
    ]
    return terms[0] - terms[1]


def test_the_penalty_of_a_linear_opponent_is_its_squared_slope() -> None:
    """Of all rows of a sample that are not given."""
    process = Product({"x": Gaussian(Cosine(), event=(2,))})
    x = Generator(0).normal((6, 2), torch.float64, "cpu")
    given = torch.tensor([False, False, True, False, False, False])
    batch = Batch({"x": x}, {"x": Layout.ragged([1, 2, 3])}, given={"x": given})
    added = penalty_of(Duel(Still(process), Linear(x=[1.0, 2.0])), batch, 0.3)
    expected = 0.15 * 5 * torch.tensor([1.0, 1.0, 3.0]).double()
    assert torch.allclose(added, expected, atol=1e-12)


def test_on_a_sphere_the_penalty_looks_along_the_sphere() -> None:
    sphere = Brownian(Geometric(0.1, 3.0), Sphere(2))
    process = Product({"x": Gaussian(Cosine(), event=(2,)), "u": sphere})
    u = torch.nn.functional.normalize(Generator(0).normal((4, 3), torch.float64, "cpu"), dim=1)
    batch = Batch.of({"x": torch.zeros(4, 2).double(), "u": u})
    w = torch.tensor([0.5, -1.0, 2.0]).double()
    duel = Duel(Still(process), Linear(x=[1.0, 2.0], u=w.tolist()))
    at = AdversarialSteps(GRID).pair(process, batch, Generator(0)).earlier["u"]
    expected = 0.5 * (5 + w.square().sum() - (at @ w) ** 2)
    assert torch.allclose(penalty_of(duel, batch, 1.0), expected, atol=1e-10)


def test_the_penalty_in_some_updates_is_as_large_on_average() -> None:
    process = Product({"x": Gaussian(Cosine(), event=(2,))})
    duel = Duel(Still(process), Linear(x=[1.0, 2.0]))
    batch = Batch.of(torch.zeros(1, 2).double())
    random, updates = Generator(0), 400
    lazy, never = AdversarialSteps(GRID, penalty=2.0, every=4), AdversarialSteps(GRID)
    pair = never.pair(process, batch, random)
    bare = never.told(duel, pair, pair.earlier, random)
    added = torch.cat([lazy.told(duel, pair, pair.earlier, random) - bare for _ in range(updates)])
    assert {round(x, 9) for x in added.tolist()} == {0.0, 20.0}
    deviation = 20 * math.sqrt(0.25 * 0.75 / updates)
    assert abs(added.mean() - 5.0) < 4 * deviation


class Remembering(Denoiser):
    """Says the noise that it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.process = LINE

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        assert batch.condition["z"].shape == (batch.samples, 2)
        return {"x": Estimate(batch.condition["z"].sum(1) + batch.condition["height"])}


def test_a_generator_sees_fresh_normal_noise_beside_the_conditions() -> None:
    torch.manual_seed(0)
    count = 50_000
    generator = ConditionalGenerator(Remembering(), 2, name="z")
    batch = standard(count).with_condition({"height": torch.full((count,), 3.0).double()})
    first, second = (generator(batch, {"x": torch.tensor(0.5)})["x"].value for _ in range(2))
    law = torch.stack([first, second])
    assert torch.allclose(law.mean(1), torch.full((2,), 3.0).double(), atol=5 * (2 / count) ** 0.5)
    assert torch.allclose(law.cov(), 2 * torch.eye(2).double(), atol=5 * 2 * (2 / count) ** 0.5)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="penalty must be at least 0 and finite, got -1"):
        AdversarialSteps(GRID, penalty=-1.0)
    with pytest.raises(ValueError, match="penalty must be at least 0 and finite, got nan"):
        AdversarialSteps(GRID, penalty=math.nan)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        AdversarialSteps(GRID, every=0)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        ConditionalGenerator(Shifted(0.0), 0)
    taken = standard(2).with_condition({"latent": torch.zeros(2)})
    with pytest.raises(ValueError, match="already has a condition 'latent'"):
        ConditionalGenerator(Shifted(0.0), 1)(taken, {"x": torch.tensor(0.5)})
    classes = Product({"x": Categorical(Flow(), absorbing(3))})
    tokens = Batch.of(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="not all leaves of the process are Markov and Flowing"):
        AdversarialSteps(GRID).pair(classes, tokens, Generator(0))


def test_an_opponent_says_one_number_for_each_sample() -> None:
    class Column(Best):
        def forward(self, earlier: Batch, later: Batch, clock: Mapping[str, Tensor]) -> Tensor:
            return super().forward(earlier, later, clock)[:, None]

    duel = Duel(Shifted(0.0), Column(0.0))
    with pytest.raises(ValueError, match=r"numbers of shape \(4,\).* got \(4, 1\)"):
        AdversarialSteps(GRID)(duel, standard(4), Generator(0))
