"""Predictor-corrector: q_t is kept to first order, and errors of coarse predictors wash out."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Categorical,
    Cosine,
    Counter,
    Flow,
    Gaussian,
    Generator,
    Heun,
    Multistep,
    Product,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.processes import Process
from structdiff.samplers import Carry, PredictorCorrector
from structdiff.testing import Addressed, Impulses, NormalDenoiser, check_sampler
from tests.enumerable import World, records, together
from tests.samplers.tables import Table, apart, drawn, noise_of

WORLD = World.random(3, 3)
CHAINS = {
    "absorbing": Categorical(Flow(), absorbing(3)),
    "uniform": Categorical(Flow(), uniform(3)),
}
chains = pytest.mark.parametrize("chain", CHAINS)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def forth(process, s: float, t: float) -> torch.Tensor:
    """q(x_t | x_s) of whole records, `(S^D, S^D)`."""
    symbols = torch.arange(process["x"].symbols)
    kernel = process["x"].kernel(torch.tensor(s), torch.tensor(t), symbols)
    each = [kernel.log_prob(torch.full_like(symbols, j), symbols) for j in symbols.tolist()]
    return together(torch.stack(each, 1).exp()[records(len(symbols), WORLD.rows)])


def corrected(bound: PredictorCorrector, process, denoiser, law, i: int) -> torch.Tensor:
    """The law after one correction that follows step i."""
    t, s = float(bound.sampler.times[i + 1]), float(bound.earlier[i]["x"])
    return WORLD.step(denoiser, law, t, bound.back[i]["x"]) @ forth(process, s, t)


def end_law(chain: str, steps: int, rounds: int, share: float = 0.5) -> torch.Tensor:
    """The exact law of a walk's end."""
    process = WORLD.process(CHAINS[chain])
    denoiser = WORLD.denoiser(process)
    walk = PredictorCorrector(DDPM(denoiser, UniformTime(steps)), rounds, share=share)
    bound = walk.bind(WORLD.data_batch, Generator(0))
    law = WORLD.prior(process)
    for i, t in enumerate(bound.sampler.times[:-1]):
        law = WORLD.step(denoiser, law, t, bound.sampler.coefficients[i]["x"])
        for _ in range(rounds if i + 1 < steps else 0):
            law = corrected(bound, process, denoiser, law, i)
    return law


@chains
def test_corrections_lower_the_error_of_a_coarse_predictor(chain):
    """S03, E02: in total variation from the data, exactly."""
    for steps in (4, 8):
        errors = [WORLD.distance(end_law(chain, steps, rounds)) for rounds in (0, 1, 4)]
        assert errors[0] > 1.05 * errors[1] > 1.05**2 * errors[2]


@chains
def test_the_law_is_right_to_first_order(chain):
    """Below 0.03 at T = 100, and half of it at T = 200."""
    coarse, fine = (WORLD.distance(end_law(chain, steps, 1)) for steps in (100, 200))
    assert coarse < 0.03
    assert abs(math.log2(coarse / fine) - 1) < 0.1


@chains
def test_a_correction_keeps_the_law_of_its_time(chain):
    """What it leaves over of q_t is of second order in its length."""
    process = WORLD.process(CHAINS[chain])
    denoiser, errors = WORLD.denoiser(process), []
    for share in (0.2, 0.1, 0.05):
        walk = PredictorCorrector(DDPM(denoiser, UniformTime(4)), share=share)
        bound = walk.bind(WORLD.data_batch, Generator(0))
        law = WORLD.noisy(process, 0.5)
        errors.append(apart(corrected(bound, process, denoiser, law, 1), law))
    assert errors[0] < 0.01
    assert abs(math.log2(errors[1] / errors[2]) - 2) < 0.2


def test_a_correction_keeps_mean_and_deviation_of_normal_data():
    """The same on R^n, exactly, by impulses."""
    schedule, mean, std, errors = Cosine(), 1.5, 0.7, []
    denoiser = NormalDenoiser(Gaussian(schedule), torch.tensor([mean]), torch.tensor([std]))
    for share in (0.2, 0.1, 0.05):
        walk = PredictorCorrector(DDPM(denoiser, UniformTime(4)), share=share)
        level = schedule(torch.tensor(0.5))
        middle, width = level.alpha * mean, ((level.alpha * std) ** 2 + level.sigma**2).sqrt()
        x = middle.repeat(8)
        x[-1] += width
        random = Impulses()
        y = walk.bind(Batch.of(x), random).correct(Carry({"x": x}), 1, 0).x["x"]
        assert random.draws == 2, "fresh noise both ways"
        assert float((y[0] - middle).abs()) < 1e-12
        errors.append(float(((y[1:] - y[0]).square().sum().sqrt() - width).abs()))
    assert abs(math.log2(errors[1] / errors[2]) - 2) < 0.2


@chains
def test_what_is_drawn_has_that_law(chain):
    process, samples = WORLD.process(CHAINS[chain]), 20_000
    table = Table(WORLD, process, 0.5 if chain == "absorbing" else None)
    walk = PredictorCorrector(DDPM(table, UniformTime(4)), 2)
    law = WORLD.clean(end_law(chain, 4, 2))
    assert apart(drawn(walk, WORLD, samples), law) < noise_of(law, samples) < 0.03
    assert table.calls == 4 + 3 * 2


def test_the_laws_of_a_sampler():
    """Records of every space return whole and in proportion; first order on R^n."""

    def factory(denoiser, grid):
        sampler = DDPM(denoiser, grid)
        walk = PredictorCorrector(sampler)
        walk.times, walk.eta = sampler.times, sampler.eta
        return walk

    check_sampler(factory, steps=8, samples=600)


@pytest.mark.parametrize("source", [Generator, Counter])
@pytest.mark.parametrize("make", [DDPM, DDIM, Heun, Multistep])
def test_without_rounds_it_is_the_sampler(make, source):
    """S03: bit for bit."""
    process = Product({"x": Categorical(Flow(), uniform(3))})
    sampler = make(WORLD.denoiser(process), UniformTime(6))
    ends = [
        w.sample(WORLD.data_batch, source(3)) for w in (sampler, PredictorCorrector(sampler, 0))
    ]
    assert torch.equal(ends[0]["x"], ends[1]["x"])
    walk = PredictorCorrector(sampler, 0)
    assert all(walk.order(s) == sampler.order(s) for s in ("euclidean", "manifold", "classes"))


def test_the_sampler_draws_what_it_draws_alone():
    """Under noise by address, until the first correction."""
    process = WORLD.process(CHAINS["uniform"])
    sampler = DDPM(WORLD.denoiser(process), UniformTime(1))
    walk = PredictorCorrector(sampler, 3)
    ends = [each.sample(WORLD.data_batch, Counter(0))["x"] for each in (sampler, walk)]
    assert torch.equal(*ends)


def test_each_draw_has_noise_of_its_own():
    """By address: moves back and forth, turns and steps do not share numbers."""
    schedule = Cosine()
    denoiser = NormalDenoiser(Gaussian(schedule), torch.zeros(1), torch.ones(1))
    bound = PredictorCorrector(DDPM(denoiser, UniformTime(5)), 3).bind(
        Batch.of(torch.zeros(3)), Addressed(0)
    )
    drawn = [
        bound.beside(i, part, 6).scoped(leaf="x").normal((3,), torch.float64, "cpu")
        for i in range(4)
        for part in range(6)
    ]
    drawn += [
        Addressed(0).scoped(step=i, leaf="x").normal((3,), torch.float64, "cpu") for i in range(11)
    ]
    zero = Carry({"x": torch.zeros(3)})
    drawn += [bound.correct(zero, i, turn).x["x"] for i in range(3) for turn in range(3)]
    assert float(torch.pdist(torch.stack(drawn)).min()) > 1e-3


def test_given_rows_stay_mates_do_not_matter_and_a_walk_goes_on():
    process = WORLD.process(CHAINS["uniform"])
    batch = WORLD.data_batch.select([3, 8, 20])
    batch = batch.with_given({"x": torch.tensor([True, False, False] * 3)})
    walk = PredictorCorrector(DDPM(WORLD.denoiser(process), UniformTime(5)), 2)
    bound = walk.bind(batch, Addressed(2))
    carry = bound.start()
    for i in range(2):
        carry = bound.step(carry, i)
    saved = Carry.from_tensors(carry.tensors())
    for i in range(2, 5):
        carry, saved = bound.step(carry, i), bound.step(saved, i)
    assert torch.equal(carry.x["x"], saved.x["x"])
    assert torch.equal(carry.x["x"][::3], batch["x"][::3])
    assert carry.calls == 5 + 4 * 2
    for k in range(3):
        alone = walk.sample(batch.select([k]), Addressed(2))
        assert torch.equal(alone["x"], carry.x["x"][3 * k : 3 * k + 3])


class Unmarkov(Product):
    """Says that it has no forward kernel."""

    def offers(self, contract: type) -> bool:
        return contract is Process


def test_a_predictor_with_a_memory_is_refused():
    denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
    walk = PredictorCorrector(Multistep(denoiser, UniformTime(4), order=2))
    with pytest.raises(ValueError, match="Multistep keeps a history"):
        walk.sample(Batch.of(torch.zeros(3)), Generator(0))


def test_refusals():
    denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
    sampler = DDPM(denoiser, UniformTime(3))
    with pytest.raises(ValueError, match="rounds must be at least 0, got -1"):
        PredictorCorrector(sampler, -1)
    for share in (0.0, math.inf):
        with pytest.raises(ValueError, match="share must be positive and finite"):
            PredictorCorrector(sampler, share=share)
    denoiser.process = Unmarkov({"x": Gaussian(Cosine())})
    with pytest.raises(ValueError, match="must be Markov .* Unmarkov is not"):
        PredictorCorrector(DDPM(denoiser, UniformTime(3)))
