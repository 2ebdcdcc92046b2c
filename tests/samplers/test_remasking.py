"""Remasking: the kernel of Wang et al., marginals kept, and the law of records."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Categorical,
    Counter,
    Flow,
    Gaussian,
    Generator,
    Heun,
    Linear,
    Product,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.samplers import Carry, Remasking
from structdiff.testing import Addressed, ExactDenoiser, NormalDenoiser
from tests.enumerable import World, records
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


def oracle(chain: str, x_0: int = 1) -> ExactDenoiser:
    """The denoiser that knows the one record there is."""
    return ExactDenoiser(Product({"x": CHAINS[chain]}), Batch.of(torch.tensor([x_0])))


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize("start", [1, 3])
def test_on_an_absorbing_chain_it_is_the_kernel_of_the_paper(start, share):
    """Wang et al. with sigma_t = share (1 - alpha_s), from clean and from masked rows."""
    samples, grid = 40_000, UniformTime(5)
    t, s = 0.6, 0.4
    alpha_t, alpha_s = 1 - t, 1 - s
    sigma = share * (1 - alpha_s)
    clean = 1 - sigma if start == 1 else (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    masked = sigma if start == 1 else (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
    assert clean + masked == pytest.approx(1)
    walk = Remasking(DDPM(oracle("absorbing"), grid), share)
    x = {"x": torch.full((samples,), start)}
    bound = walk.bind(Batch.of(x), Generator(0))
    assert bound.sampler.times[2] == pytest.approx(t)
    end = bound.step(Carry(x), 2).x["x"]
    assert set(end.unique().tolist()) <= {1, 3}
    assert abs(float((end == 3).double().mean()) - masked) < 4 * (clean * masked / samples) ** 0.5


@chains
@pytest.mark.parametrize("share", [0.4, 1.0])
@pytest.mark.parametrize("make", [DDIM, DDPM])
def test_the_oracle_keeps_the_marginals(make, share, chain):
    """At every time of the walk, q(x_t | x_0) whatever the share and the sampler."""
    samples, process = 40_000, Product({"x": CHAINS[chain]})
    walk = Remasking(make(oracle(chain), UniformTime(6)), share)
    leaf, times = process["x"], walk.sampler.times
    symbols = torch.arange(leaf.symbols)

    def look(done: int, carry: Carry) -> None:
        kernel = leaf.from_clean(times[done], symbols)
        law = kernel.log_prob(symbols, torch.ones_like(symbols)).exp()
        got = torch.bincount(carry.x["x"], minlength=leaf.symbols) / samples
        assert apart(got, law) < noise_of(law, samples)

    walk.sample(Batch.of(torch.zeros(samples, dtype=torch.long)), Generator(1), look)


def end_law(chain: str, steps: int, share: float) -> torch.Tensor:
    """The exact law of a walk's end: each row has a mixture of two laws."""
    process = WORLD.process(CHAINS[chain])
    denoiser, leaf = WORLD.denoiser(process), process["x"]
    bound = DDPM(denoiser, UniformTime(steps)).bind(WORLD.data_batch, Generator(0))
    law, symbols = WORLD.prior(process), torch.arange(leaf.symbols)
    for i, t in enumerate(bound.times[:-1]):
        kernels = WORLD.kernels(denoiser, law, t, bound.coefficients[i]["x"])
        if i + 1 < steps:
            live = law > 0
            states = records(leaf.symbols, WORLD.rows)[live]
            p = WORLD.estimates(denoiser, states, t)["x"].value.exp()
            q = leaf.from_clean(bound.times[i + 1], symbols)
            classes = symbols[: WORLD.classes]
            q = torch.stack([q.log_prob(torch.full_like(classes, j), classes) for j in symbols], 1)
            fresh = (p @ q.exp()).reshape(len(states), WORLD.rows, -1)
            kernels[live] = (1 - share) * kernels[live] + share * fresh
        law = WORLD.propagate(law, kernels)
    return law


@chains
def test_the_law_is_right_to_first_order_where_the_share_falls_with_the_step(chain):
    """Below 0.03 at T = 100 and half of it at T = 200; a constant share leaves more."""
    coarse, fine = (WORLD.distance(end_law(chain, steps, 2 / steps)) for steps in (100, 200))
    assert coarse < 0.03
    assert abs(math.log2(coarse / fine) - 1) < 0.1
    constant = [WORLD.distance(end_law(chain, steps, 0.3)) for steps in (50, 100)]
    assert constant[1] > 1.3 * coarse
    assert constant[1] > 0.6 * constant[0]


@chains
def test_what_is_drawn_has_that_law(chain):
    process, samples = WORLD.process(CHAINS[chain]), 20_000
    table = Table(WORLD, process, 0.5 if chain == "absorbing" else None)
    walk = Remasking(DDPM(table, UniformTime(5)), 0.5)
    law = WORLD.clean(end_law(chain, 5, 0.5))
    assert apart(drawn(walk, WORLD, samples), law) < noise_of(law, samples) < 0.03
    assert table.calls == 5


@pytest.mark.parametrize("source", [Generator, Counter])
@pytest.mark.parametrize("make", [DDPM, Heun])
def test_without_a_share_it_is_the_sampler(make, source):
    """Bit for bit."""
    sampler = make(WORLD.denoiser(WORLD.process(CHAINS["uniform"])), UniformTime(6))
    ends = [w.sample(WORLD.data_batch, source(3)) for w in (sampler, Remasking(sampler, 0.0))]
    assert torch.equal(ends[0]["x"], ends[1]["x"])


def test_a_share_of_time_is_that_of_each_step():
    """From t = 0.5 on nothing is noised anew, so what is unmasked then stays."""
    process = WORLD.process(CHAINS["absorbing"])
    sampler = DDPM(WORLD.denoiser(process), UniformTime(8))
    states, back = [], []
    walk = Remasking(sampler, lambda t: (t > 0.5).double())
    walk.sample(WORLD.data_batch, Generator(0), lambda k, carry: states.append(carry.x["x"]))
    for before, after in zip(states, states[1:], strict=False):
        back.append(bool(((before < 3) & (after == 3)).any()))
    # Steps 1 to 7: those from t = 7/8 to 5/8 remask.
    assert back == [True] * 3 + [False] * 4


def mixed() -> ExactDenoiser:
    process = Product(
        {"place": Gaussian(Linear(), event=(2,)), "token": Categorical(Flow(), uniform(3))}
    )
    leaves = {"place": torch.tensor([[0.0, 1.0], [2.0, 0.0]]), "token": torch.tensor([0, 2])}
    return ExactDenoiser(process, Batch.of(leaves))


def test_only_leaves_on_classes_are_noised_anew():
    """The first step of the others is the sampler's own, bit for bit."""
    denoiser = mixed()
    sampler = DDPM(denoiser, UniformTime(4))
    batch = Batch.of(denoiser.process.empty(200))
    firsts = []
    for walk in (sampler, Remasking(sampler, 0.5)):
        bound = walk.bind(batch, Counter(0))
        firsts.append(bound.step(bound.start(), 0).x)
    assert torch.equal(firsts[0]["place"], firsts[1]["place"])
    assert 0.1 < float((firsts[0]["token"] != firsts[1]["token"]).double().mean()) < 0.5


def test_given_rows_stay_mates_do_not_matter_and_a_walk_goes_on():
    process = WORLD.process(CHAINS["absorbing"])
    batch = WORLD.data_batch.select([3, 8, 20])
    batch = batch.with_given({"x": torch.tensor([True, False, False] * 3)})
    walk = Remasking(DDPM(WORLD.denoiser(process), UniformTime(6)), 0.6)
    bound = walk.bind(batch, Addressed(2))
    carry = bound.start()
    for i in range(3):
        carry = bound.step(carry, i)
        assert torch.equal(carry.x["x"][::3], batch["x"][::3])
    saved = Carry.from_tensors(carry.tensors())
    for i in range(3, 6):
        carry, saved = bound.step(carry, i), bound.step(saved, i)
    assert torch.equal(carry.x["x"], saved.x["x"])
    assert carry.calls == 6
    for k in range(3):
        alone = walk.sample(batch.select([k]), Addressed(2))
        assert torch.equal(alone["x"], carry.x["x"][3 * k : 3 * k + 3])


@pytest.mark.parametrize("share", [-0.1, 1.5, lambda t: 2 * t, float("nan")])
def test_a_share_that_is_no_probability_is_refused(share):
    sampler = DDPM(mixed(), UniformTime(3))
    with pytest.raises(ValueError, match=r"share must be a probability, in \[0, 1\], got"):
        Remasking(sampler, share)


def test_a_record_without_classes_is_refused():
    denoiser = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match="remasking .* no leaf of the process is one"):
        Remasking(DDPM(denoiser, UniformTime(3)), 0.1)
