"""Twisted SMC: the tilted law as particles grow, on classes, on R^n and on a torus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Counter,
    Flow,
    Gaussian,
    Generator,
    GeodesicFlow,
    Geometric,
    Layout,
    Product,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.guidance import Guided, Rewarded
from structdiff.guidance.inverse.pigdm import PiGDM
from structdiff.guidance.twisted import TwistedSMC, particles_of, systematic
from structdiff.operators import Matrix
from structdiff.processes import Estimate
from structdiff.samplers import Carry
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser, NormalDenoiser
from tests.guidance.inverse_worlds import Field, problem
from tests.guidance.labelled import every
from tests.guidance.test_consistent import standard


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


PAIRS = torch.tensor(every(3, 2))
WEIGHTS = torch.softmax(torch.tensor([0.3, -1.0, 0.8, 0.0, 1.2, -0.5, 0.4, -0.2, 0.9]).double(), 0)
WORTH = torch.tensor([[1.5, -1.0, 0.0], [-0.5, 0.0, 2.0], [0.0, 1.0, -1.5]]).double()
"""A reward of the pair, which does not add up over its entries."""


def pairs(transition: Any) -> ExactDenoiser:
    process = Product({"x": Categorical(Flow(), transition, event=(2,))})
    return ExactDenoiser(process, Batch.of(PAIRS), WEIGHTS)


def reward(said: Mapping[str, Any], batch: Batch) -> Tensor:
    """The mean of the reward under independent entries; at clean data the reward."""
    p = said["x"].value.exp()
    return torch.einsum("ri,ij,rj->r", p[:, 0], WORTH, p[:, 1])


def twist(said: Mapping[str, Any], batch: Batch, t: Any) -> Tensor:
    return reward(said, batch)


def walked(denoiser: ExactDenoiser, steps: int) -> Tensor:
    """The law of the pairs that DDPM draws, by enumeration of all its states."""
    symbols = denoiser.process["x"].symbols
    states = torch.tensor(every(symbols, 2))
    batch, times = Batch.of(states), UniformTime(steps).times()
    leaf = denoiser.process.bind(batch)["x"]
    law = leaf.stationary[states].prod(1)
    reached = law > 0
    for t, step in zip(times[:-1], leaf.plan(times, 1.0), strict=True):
        some = Batch.of(states[reached])
        said = denoiser(some, {"x": t})["x"]
        kernel = leaf.log_kernel(said, some["x"], step).exp()
        move = torch.einsum("ri,rj->rij", kernel[:, 0], kernel[:, 1]).flatten(1)
        law = law[reached] @ move
        reached = law > 1e-300
    whole = torch.zeros(symbols**2).double()
    whole = law if law.shape == whole.shape else whole
    return whole.reshape(symbols, symbols)[:3, :3].flatten()


def total_variation(x: Tensor, law: Tensor) -> float:
    share = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9) / len(x)
    return 0.5 * float((share - law).abs().sum())


@pytest.mark.parametrize("guided", [False, True], ids=["own steps", "guided steps"])
@pytest.mark.parametrize("transition", [uniform(3), absorbing(3)], ids=["uniform", "absorbing"])
def test_classes_come_to_the_tilted_law_as_particles_grow(transition, guided):
    """FX3: total variation from (law of the walk) e^reward; chance makes 0.03 of it."""
    denoiser, steps, total = pairs(transition), 5, 2560
    base = walked(denoiser, steps)
    assert base.sum() == pytest.approx(1)
    law = base * WORTH.flatten().exp()
    law = law / law.sum()
    sampler = DDPM(Rewarded(denoiser, reward, 1.0) if guided else denoiser, UniformTime(steps))
    gaps = []
    for count in (1, 4, 64):
        empty = Batch.of(torch.zeros(total // count, 2, dtype=torch.int64))
        smc = TwistedSMC(sampler, denoiser, twist, count)
        drawn = smc.sample(particles_of(empty, count), Generator(count))["x"]
        gaps.append(total_variation(drawn, law))
    assert gaps[2] < 0.05, gaps
    assert gaps[0] > 2 * gaps[2], gaps
    if not guided:
        assert gaps[0] > 0.15
        assert gaps[1] < 0.6 * gaps[0], gaps


def test_of_many_steps_that_is_the_tilted_law_of_the_data():
    law = WEIGHTS * WORTH.flatten().exp()
    base = walked(pairs(uniform(3)), 60) * WORTH.flatten().exp()
    assert 0.5 * (law / law.sum() - base / base.sum()).abs().sum() < 0.02


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_the_average_weight_estimates_the_evidence_without_bias(threshold):
    """E[average weight] = sum p e^reward, for any number of particles and any threshold."""
    denoiser, steps, problems = pairs(uniform(3)), 5, 1500
    truth = float((walked(denoiser, steps) * WORTH.flatten().exp()).sum())
    sampler = DDPM(Rewarded(denoiser, reward, 0.5), UniformTime(steps))
    smc = TwistedSMC(sampler, denoiser, twist, 3, threshold=threshold)
    empty = Batch.of(torch.zeros(problems, 2, dtype=torch.int64))
    found = walk(smc, particles_of(empty, 3))[-1].memory["log_evidence"].exp()
    error = float(found.std()) / problems**0.5
    assert found.mean() == pytest.approx(truth, abs=3.5 * error)
    assert error < 0.03 * truth


def walk(smc: TwistedSMC, batch: Batch) -> list[Carry]:
    """The carries of all steps."""
    told: list[Carry] = []
    smc.sample(batch, Generator(0), lambda _, carry: told.append(carry))
    return told


def isotropic() -> Field:
    """With its variance told, so that a walk of any number of steps has the law of the prior."""
    return Field(Gaussian(Cosine(), event=(4,)), torch.full((4,), 0.8), mean=0.3, told=True)


def test_the_posterior_of_a_linear_problem_as_particles_grow():
    """FX7, in eight steps: mean and covariance of the posterior, and log p(y)."""
    matrix = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, -1.0, 2.0]])
    prior, operator, rows = isotropic(), Matrix(matrix), 16_000
    seen, posterior = problem(prior, operator, 0.4)
    twist = PiGDM(prior, seen, data_std=0.8).log_prob
    grid = UniformTime(8, end=1e-3)

    def gaps(guided: Denoiser, count: int) -> tuple[float, float, float]:
        smc = TwistedSMC(DDPM(guided, grid), prior, twist, count)
        last = walk(smc, particles_of(Batch.of(torch.zeros(rows // count, 4)), count))[-1]
        x, evidence = last.x["x"], last.memory["log_evidence"].exp().mean().log()
        return posterior.mean_gap(x), posterior.covariance_gap(x), float(evidence)

    alone, few, many = (gaps(prior, count) for count in (1, 8, 400))
    assert alone[0] > 1.5 and 0.05 < few[0] < 0.3 * alone[0] and many[0] < 0.3 * few[0]
    assert alone[1] > 0.5 and 0.05 < few[1] < 0.3 * alone[1] and many[1] < 0.5 * few[1]
    spread = operator.matrix @ prior.covariance @ operator.matrix.mT + 0.16 * torch.eye(2)
    law = torch.distributions.MultivariateNormal(operator.matrix @ torch.full((4,), 0.3), spread)
    assert many[2] == pytest.approx(float(law.log_prob(seen.y[0])), abs=0.15)
    wrong = Rewarded(prior, seen.log_prob, 0.2)
    assert gaps(wrong, 1)[1] > 0.15
    assert max(gaps(wrong, 400)[:2]) < 0.07


def test_the_effective_sample_size_is_that_of_the_weights():
    """Reported at every step; near all with the exact guidance, few without any."""
    prior, operator = isotropic(), Matrix(torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    seen, _ = problem(prior, operator, 0.2, seed=3)
    exact = PiGDM(prior, seen, data_std=0.8)
    least = []
    for denoiser in (exact, prior):
        ddpm = DDPM(denoiser, UniformTime(100))
        smc = TwistedSMC(ddpm, prior, exact.log_prob, 100, threshold=0.0)
        told = walk(smc, particles_of(Batch.of(torch.zeros(3, 4)), 100))
        sizes = torch.stack([carry.memory["effective"] for carry in told])
        weight = told[50].memory["log_weight"].reshape(3, 100).softmax(1)
        torch.testing.assert_close(sizes[50], 1 / weight.square().sum(1))
        least.append(float(sizes[:-1].min()))
    assert least[0] > 60
    assert least[1] < 20


def test_angles_on_a_torus_come_to_the_tilted_law():
    """Four points tilted by a cosine; of one particle, with half the guidance, the law is not."""
    points = torch.tensor([[0.0, 0.5], [2.0, -2.0], [-2.5, 1.5], [1.0, 2.5]])
    p = torch.tensor([0.4, 0.3, 0.2, 0.1])
    leaf = Brownian(Geometric(0.05, 3.0), Torus(2))
    denoiser = ExactDenoiser(Product({"x": leaf}), Batch.of(points), p)

    def worth(x: Tensor) -> Tensor:
        return 2.5 * torch.cos(x[:, 0] - 1.6)

    def hoped(said: Mapping[str, Any], batch: Batch) -> Tensor:
        return worth(leaf.manifold.exp(batch["x"], said["x"].value))

    law = p * worth(points).exp()
    law = law / law.sum()
    sampler = DDPM(Rewarded(denoiser, hoped, 0.4), UniformTime(30))
    gaps = []
    for count in (1, 20):
        smc = TwistedSMC(sampler, denoiser, lambda said, batch, t: hoped(said, batch), count)
        x = smc.sample(particles_of(Batch.of(torch.zeros(2000 // count, 2)), count), Generator(1))
        distance = torch.remainder(x["x"][:, None] - points + torch.pi, 2 * torch.pi) - torch.pi
        nearest = distance.square().sum(-1).argmin(1)
        assert distance.square().sum(-1).amin(1).max() < 0.1
        gaps.append(0.5 * float((torch.bincount(nearest, minlength=4) / 2000 - law).abs().sum()))
    assert 0.5 * (p - law).abs().sum() > 0.3
    assert gaps[1] < 0.05, gaps
    assert gaps[0] > 0.1, gaps


def test_particles_that_repel_one_another_cover_both_modes():
    """Pairs of one problem under a potential of their distance: particle guidance by `Guided`."""
    process = Gaussian(Cosine())
    modes = NormalDenoiser(process, torch.tensor([-2.0, 2.0]), torch.tensor([0.3, 0.3]))

    def apart(batch: Batch, t: Any) -> Tensor:
        first, second = batch["x"].reshape(-1, 2).unbind(1)
        crowd = torch.exp(-0.5 * (first - second) ** 2)
        return -2 * crowd.repeat_interleave(2)

    shares = []
    for denoiser in (modes, Guided(modes, apart, 1.0)):
        pairs = particles_of(Batch.of(torch.zeros(1000)), 2)
        x = DDPM(denoiser, UniformTime(40)).sample(pairs, Generator(0))["x"].reshape(-1, 2)
        shares.append(float((x[:, 0] * x[:, 1] < 0).double().mean()))
    assert shares[0] == pytest.approx(0.5, abs=0.06)
    assert shares[1] > 0.8


def test_systematic_draws_are_as_many_as_their_weights_say():
    """Rounded up or down, and in the mean over the uniform number exactly."""
    weight = torch.softmax(2 * Generator(0).normal((3, 7), torch.float64, "cpu"), 1)
    u = (torch.arange(500) + 0.5) / 500
    places = [systematic(weight.log(), v.expand(3)) for v in u]
    counts = torch.stack(
        [(place[..., None] == torch.arange(7)).double().sum(1) for place in places]
    )
    assert (counts - 7 * weight).abs().max() < 1
    torch.testing.assert_close(counts.mean(0), 7 * weight, rtol=0, atol=0.01)
    dead = torch.full((1, 4), -torch.inf)
    assert systematic(dead, torch.tensor([0.3])).tolist() == [[0, 1, 2, 3]]


def test_ragged_rows_and_their_problems_stay_apart():
    """A problem's particles do not depend on other problems, nor on where a walk was saved."""
    process = Product({"x": Gaussian(Cosine(), event=(2,)), "z": Categorical(Flow(), uniform(3))})
    sizes = Layout.ragged([2, 3, 2, 3])
    data = Batch(
        {"x": Generator(0).normal((10, 2), torch.float64, "cpu"), "z": torch.arange(4) % 3},
        {"x": sizes, "z": Layout.regular(4)},
    )
    denoiser = ExactDenoiser(process, data)

    def near(said: Mapping[str, Any], batch: Batch, t: Any) -> Tensor:
        pull = batch.layouts["x"].sum(-(said["x"].value - 1).square().sum(1))
        return pull + said["z"].value.exp() @ torch.tensor([0.0, 1.0, 2.0])

    smc = TwistedSMC(DDPM(denoiser, UniformTime(5)), denoiser, near, 4, threshold=1.0)
    both = particles_of(data.select([0, 1]), 4)
    together = smc.sample(both, Counter(3))
    alone = smc.sample(both.select([4, 5, 6, 7]), Counter(3))
    torch.testing.assert_close(alone["x"], together["x"][8:], rtol=1e-10, atol=1e-10)
    assert torch.equal(alone["z"], together["z"][4:])
    assert len(alone["x"].unique(dim=0)) < 12
    bound = smc.bind(both, Counter(3))
    carry = bound.start()
    for i in range(bound.steps):
        carry = bound.step(Carry.from_tensors(carry.tensors()), i)
    assert torch.equal(carry.x["x"], together["x"])


def test_what_does_not_fit_is_refused():
    denoiser = standard(2)
    ddpm = DDPM(denoiser, UniformTime(2))
    flow = ExactDenoiser(Product({"x": GeodesicFlow(Torus(2))}), Batch.of(torch.zeros(1, 2)))

    def nothing(said: Mapping[str, Any], batch: Batch, t: Any) -> Tensor:
        return torch.zeros(batch.samples)

    refused = [
        (lambda: particles_of(Batch.of(torch.zeros(2)), 0), "particles must be at least 1, got 0"),
        (lambda: TwistedSMC(ddpm, denoiser, nothing, 0), "particles must be at least 1 .* got 0"),
        (lambda: TwistedSMC(ddpm, denoiser, nothing, 2, threshold=math.nan), "threshold in"),
        (lambda: TwistedSMC(DDIM(denoiser, UniformTime(2)), denoiser, nothing, 2), "eta must be"),
        (lambda: TwistedSMC(DDIM(flow, UniformTime(2)), flow, nothing, 2), "is not Tractable"),
    ]
    for make, message in refused:
        with pytest.raises(ValueError, match=message):
            make()
    ragged = Batch({"x": torch.zeros(5, 2)}, {"x": Layout.ragged([2, 3])})
    for batch in (Batch.of(torch.zeros(3, 2)), ragged):
        with pytest.raises(
            ValueError, match=r"not 2 like ones for each problem: use particles_of"
        ):
            TwistedSMC(ddpm, denoiser, nothing, 2).sample(batch, Generator(0))
    with pytest.raises(ValueError, match="twist must return one number a sample"):
        TwistedSMC(ddpm, denoiser, lambda *_: torch.zeros(2, 1), 2).sample(
            Batch.of(torch.zeros(2, 2)), Generator(0)
        )


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_particles_that_a_twist_forbids_do_not_come_back(threshold):
    """Half a normal law, by a twist of 0 or -inf: nobody beyond, and log P(x > 0) = log 1/2."""
    denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))

    def above(said: Mapping[str, Any], batch: Batch, t: Any) -> Tensor:
        return torch.where(said["x"].value > (0.0 if t["x"] < 0 else -0.5), 0.0, -torch.inf)

    smc = TwistedSMC(DDPM(denoiser, UniformTime(10)), denoiser, above, 50, threshold=threshold)
    last = walk(smc, particles_of(Batch.of(torch.zeros(80)), 50))[-1]
    assert last.x["x"].min() > 0
    evidence = last.memory["log_evidence"].exp()
    assert float(evidence.mean()) == pytest.approx(0.5, abs=0.06)


class Remembering(Denoiser):
    """One that leans on its previous estimate, and is off by a shift."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.leaf, self.shift = Gaussian(Cosine()), shift
        self.process = Product({"x": self.leaf})

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> dict[str, Estimate]:
        level = self.leaf.level(t["x"], batch["x"])
        said = self.shift + 0.7 * level.alpha * batch["x"]
        return {"x": Estimate(said if previous is None else said + 0.3 * previous["x"].value)}


def test_a_denoiser_that_remembers_remembers_what_it_said_itself():
    """Not what the guided one said: without a twist the law is that of its own walk."""
    plain, grid = Remembering(0.0), UniformTime(6)
    own = DDPM(plain, grid).sample(Batch.of(torch.zeros(50_000)), Generator(0))["x"]
    smc = TwistedSMC(
        DDPM(Remembering(0.4), grid),
        plain,
        lambda said, batch, t: torch.zeros(len(batch["x"])),
        400,
    )
    x = smc.sample(particles_of(Batch.of(torch.zeros(100)), 400), Generator(1))["x"]
    assert float(x.mean()) == pytest.approx(float(own.mean()), abs=0.06)
    assert float(x.std()) == pytest.approx(float(own.std()), rel=0.06)
