"""Truncated chains: what begins early ends at the data, and what that does to errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

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
    Geometric,
    Layout,
    Linear,
    Product,
    UniformLogSNR,
    UniformTime,
    absorbing,
    sample,
)
from structdiff.guidance import RePaint
from structdiff.samplers.churn import Churn
from structdiff.samplers.encoding import Rising, encode
from structdiff.samplers.langevin import AnnealedLangevin
from structdiff.samplers.leaping import Leaping
from structdiff.samplers.multistep import Multistep
from structdiff.samplers.pseudo import PNDM
from structdiff.samplers.recorded import record
from structdiff.samplers.runge_kutta import StochasticRungeKutta
from structdiff.samplers.singlestep import Singlestep
from structdiff.samplers.solvers import DEIS, DPMSolver, UniPC
from structdiff.samplers.truncated import Since, Truncated, initial
from structdiff.spaces import SO3, ZeroCentre
from structdiff.testing import Addressed, ExactDenoiser, NormalDenoiser

MEAN, STD, SHARE = torch.tensor([-1.0, 2.0]), torch.tensor([0.3, 0.5]), torch.tensor([0.4, 0.6])


def mixture(schedule):
    return NormalDenoiser(Gaussian(schedule), MEAN, STD, SHARE)


def truth(n, source):
    """Draws of the mixture."""
    which = (torch.rand(n, generator=source) > SHARE[0]).long()
    return MEAN[which] + STD[which] * torch.randn(n, generator=source)


def apart(x, reference):
    """The distance of Wasserstein, from sorted draws."""
    return float((x.sort().values - reference).square().mean().sqrt())


@pytest.fixture(scope="module")
def yardstick():
    """Sorted true draws, and how far others are from them by chance."""
    source, n = torch.Generator().manual_seed(3), 5000
    reference = truth(n, source).sort().values
    return n, reference, max(apart(truth(n, source), reference) for _ in range(8))


@pytest.mark.parametrize("start", [0.1, 0.3, 0.6, 0.9])
def test_from_the_data_the_law_is_that_of_the_data_for_any_start(start, yardstick):
    n, reference, chance = yardstick
    source = torch.Generator().manual_seed(8)
    drawn = sample(
        mixture(Linear()),
        n,
        steps=200,
        init=lambda batch, random: {"x": truth(batch.samples, source)},
        start=start,
    )
    assert apart(drawn, reference) < 1.3 * chance


SAMPLERS = {
    "DDIM": DDIM,
    "Multistep": Multistep,
    "PNDM": PNDM,
    "Singlestep": lambda d, g: Singlestep(d, g, order=3),
    "Churn": lambda d, g: Churn(d, g, Linear()),
    "Leaping": Leaping,
    "StochasticRungeKutta": StochasticRungeKutta,
    "AnnealedLangevin": AnnealedLangevin,
    "DPMSolver": DPMSolver,
    "UniPC": UniPC,
    "DEIS": DEIS,
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("start", [0.1, 0.6])
def test_every_sampler_goes_on_from_the_data_to_the_data(name, start, yardstick):
    n, reference, chance = yardstick
    source, denoiser = torch.Generator().manual_seed(8), mixture(Linear())
    sampler = SAMPLERS[name](denoiser, Since(UniformTime(200), start))
    drawn = sample(denoiser, n, sampler=sampler, init={"x": truth(n, source)})
    assert apart(drawn, reference) < 1.3 * chance


@pytest.mark.parametrize("start", [0.2, 0.5])
def test_an_exact_sampler_of_the_law_at_the_start_does_as_well(start, yardstick):
    """A generator (any module) of x_t itself: the mixture, scaled and widened."""
    n, reference, chance = yardstick
    level = Linear()(torch.tensor(start))

    class Noisy(nn.Module):
        def forward(self, batch, random):
            clean = truth(batch.samples, torch.Generator().manual_seed(2))
            z = random.normal((batch.samples,), torch.float32, "cpu")
            return {"x": level.alpha.float() * clean + level.sigma.float() * z}

    sampler = DDPM(mixture(Linear()), Since(UniformTime(200), start))
    walk = Truncated(sampler, Noisy(), noisy=True)
    drawn = walk.sample(Batch.of(torch.zeros(n)), Generator(1))["x"]
    assert apart(drawn, reference) < 1.3 * chance
    # And a law at the start that is not the data's is seen in the end.
    wrong = Truncated(sampler, {"x": torch.full((), 3.0)}, noisy=True)
    drawn = wrong.sample(Batch.of(torch.zeros(n)), Generator(1))["x"]
    assert apart(drawn, reference) > 3 * chance


def test_a_start_of_one_is_ordinary_sampling_and_of_zero_returns_the_records():
    denoiser, far = mixture(Linear()), torch.full((5,), 40.0)
    plain = sample(denoiser, 5, steps=7, seed=4)
    assert torch.equal(sample(denoiser, 5, steps=7, seed=4, init=far, start=1), plain)
    assert torch.equal(sample(denoiser, 5, steps=7, init=far, start=0), far)
    made = sample(denoiser, 5, init=lambda b, r: {"x": torch.full((b.samples,), 3.0)}, start=0)
    assert torch.equal(made, torch.full((5,), 3.0))


@pytest.mark.parametrize("make", [DDIM, DDPM], ids=["flow", "Bayes"])
@pytest.mark.parametrize("start", [0.2, 0.5])
def test_errors_of_normal_data_contract_as_stated(make, start):
    """Two walks with one noise: alpha s / v along the flow, its square for Bayes steps, to 2 %."""
    schedule, s = Linear(), 0.6
    denoiser = NormalDenoiser(
        Gaussian(schedule), torch.tensor([0.4]), torch.tensor([s], dtype=torch.float64)
    )
    level = schedule(torch.tensor(start, dtype=torch.float64))
    expected = level.alpha * s / ((level.alpha * s) ** 2 + level.sigma**2).sqrt()
    expected = float(expected if make is DDIM else expected**2)
    sampler = make(denoiser, UniformLogSNR(schedule, 600, start=start, end=1e-4))
    batch = Batch.of(torch.zeros(50, dtype=torch.float64))
    ends = [
        Truncated(sampler, {"x": batch["x"] + shift}).sample(batch, Generator(3))["x"]
        for shift in (0.0, 0.7)
    ]
    ratio = (ends[1] - ends[0]) / 0.7
    assert expected < 1
    torch.testing.assert_close(ratio, torch.full_like(ratio, expected), rtol=0.02, atol=0)


def test_a_degraded_record_is_encoded_in_part_and_completed():
    """Shortcut sampling: y = H x shows one of two correlated entries, the other is filled in."""
    source = torch.Generator().manual_seed(1)
    first = torch.randn(60, generator=source)
    records = torch.stack([first, -first + 0.1 * torch.randn(60, generator=source)], 1)
    schedule = Linear()
    denoiser = ExactDenoiser(Product({"x": Gaussian(schedule, event=(2,))}), Batch.of(records))
    shown = torch.stack([first[:20], torch.zeros(20)], 1)
    grid = Since(UniformTime(60), 0.6)
    embryo = encode(DDIM(denoiser, Rising(grid)), Batch.of(shown))
    known = Batch.of(shown).with_given({"x": torch.tensor([True, False]).expand(20, 2)})
    start = Truncated(DDIM(denoiser, grid), embryo.leaves, noisy=True)
    completed = start.sample(known, Generator(0))["x"]
    assert float((completed[:, 0] - shown[:, 0]).abs().max()) < 1e-3
    assert float((completed[:, 1] + first[:20]).abs().mean()) < 0.4
    assert float(first[:20].abs().mean()) > 0.6  # what leaving out the other entry costs
    # RePaint holds the entry with the model as it is, from the same embryo's grid.
    painted = RePaint(DDPM(denoiser, grid), known, jump=5, repeats=4).sample(
        Batch.of(shown), Generator(0)
    )["x"]
    assert float((painted[:, 0] - shown[:, 0]).abs().max()) < 1e-3


def test_outliers_are_changed_most():
    """Anomalies by the residual of a partial chain: AUROC above 0.9."""
    source = torch.Generator().manual_seed(4)
    angle = 2 * math.pi * torch.rand(300, generator=source)
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    denoiser = ExactDenoiser(Product({"x": Gaussian(Linear(), event=(2,))}), Batch.of(ring))
    angle = 2 * math.pi * torch.rand(150, generator=source)
    inliers = torch.stack([angle.cos(), angle.sin()], 1)
    outliers = inliers * torch.where(angle < math.pi, 0.45, 1.6)[:, None]
    tested = torch.cat([inliers, outliers])
    again = sample(denoiser, 300, steps=50, init=tested, start=0.06)
    score = (again - tested).norm(dim=1)
    auroc = (score[150:, None] > score[None, :150]).double().mean()
    assert auroc > 0.9


class Halves:
    """A codec in place: data of deviation 2 are kept at deviation 1."""

    def encode(self, objects):
        return Batch.of((objects - 3) / 2)

    def decode(self, batch):
        return batch["x"] * 2 + 3


@pytest.mark.parametrize("start", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("coded", [True, False])
def test_codec_and_start_are_independent_switches(coded, start):
    """How far records are encoded and how far they are noised: the law is the same for all."""
    n, source = 4000, torch.Generator().manual_seed(6)
    data = 3 + 2 * torch.randn(n, generator=source)
    codec, mean, std = Halves(), 0.0 if coded else 3.0, 1.0 if coded else 2.0
    denoiser = NormalDenoiser(Gaussian(Cosine()), torch.tensor([mean]), torch.tensor([std]))
    init = codec.encode(data)["x"] if coded else data
    drawn = sample(denoiser, n, steps=60, init=init, start=start)
    back = codec.decode(Batch.of(drawn)) if coded else drawn
    assert abs(float(back.mean()) - 3) < 4 * 2 / math.sqrt(n) + 0.02
    assert abs(float(back.std()) - 2) < 4 * 2 / math.sqrt(2 * n) + 0.04


def world():
    """Ragged atoms of zero centre, a class and a rotation: two records of two and three atoms."""
    process = Product(
        {
            "atoms": Gaussian(Linear(), event=(2,), space=ZeroCentre()),
            "kind": Categorical(Flow(), absorbing(3)),
            "turn": Brownian(Geometric(0.02, 4.0), SO3()),
        }
    )
    atoms = torch.tensor([[1.0, 0], [-1.0, 0], [2.0, 0], [-1.0, 1.0], [-1.0, -1.0]])
    layouts = {
        "atoms": Layout.ragged([2, 3]),
        "kind": Layout.regular(2),
        "turn": Layout.regular(2),
    }
    turn = SO3().uniform(2, Generator(2), torch.float32, "cpu")
    data = Batch({"atoms": atoms, "kind": torch.tensor([0, 2]), "turn": turn}, layouts)
    return ExactDenoiser(process, data), data


@pytest.mark.parametrize("make", [DDIM, DDPM, Multistep], ids=lambda m: m.__name__)
def test_records_of_every_space_given_entries_and_batch_mates(make):
    denoiser, data = world()
    blank = data.with_leaves(
        {n: torch.zeros_like(x) if n != "turn" else x for n, x in data.leaves.items()}
    )
    blank = blank.with_given({"kind": torch.tensor([True, False])})  # held at 0, as in record 0
    walk = Truncated(make(denoiser, Since(UniformTime(12), 0.5)), data.leaves)
    ends = walk.sample(blank, Addressed(0))
    for name, x in data.leaves.items():
        torch.testing.assert_close(ends[name].float(), x.float(), rtol=0, atol=1e-3)
    one = Truncated(make(denoiser, Since(UniformTime(12), 0.5)), data.select([1]).leaves)
    alone = one.sample(blank.select([1]), Addressed(0))
    torch.testing.assert_close(ends["atoms"][2:], alone["atoms"], rtol=0, atol=1e-5)


def test_the_grid_begins_at_the_start():
    assert Since(UniformTime(4), 0.5).times().tolist() == [0.5, 0.25, -1.0]
    assert Since(UniformTime(4), 0.1).times().tolist() == [0.1, -1.0]
    assert Since(UniformTime(4), 1.0).times().tolist() == UniformTime(4).times().tolist()


def test_refusals():
    denoiser = mixture(Linear())
    sampler = DDPM(denoiser, Since(UniformTime(4), 0.5))
    blank = Batch.of(torch.zeros(3))
    with pytest.raises(ValueError, match=r"start must be in \(0, 1\], got 0"):
        Since(UniformTime(4), 0.0)
    with pytest.raises(ValueError, match=r"init has the leaves \['y'\], the process \['x'\]"):
        Truncated(sampler, {"y": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"init of the leaves \['x'\] has a NaN"):
        Truncated(sampler, {"x": torch.tensor([0.0, math.nan])})
    with pytest.raises(ValueError, match=r"init of leaf 'x' must have shape \(3,\) or \(\)"):
        Truncated(sampler, {"x": torch.zeros(4)}).sample(blank, Generator(0))
    with pytest.raises(ValueError, match=r"must be torch.float32 as in the batch, got torch.int"):
        Truncated(sampler, {"x": torch.zeros(3, dtype=torch.long)}).sample(blank, Generator(0))
    with pytest.raises(ValueError, match=r"init has the leaves \['y'\], the process \['x'\]"):
        Truncated(sampler, lambda b, r: {"y": b["x"]}).sample(blank, Generator(0))
    for init in (blank, blank["x"]):
        with pytest.raises(ValueError, match="init must be leaves by name, or what draws them"):
            Truncated(sampler, init)
    around = Truncated(sampler, {"x": torch.zeros(())})
    for refused in (
        lambda: Truncated(around, {"x": torch.zeros(())}),
        lambda: encode(around, blank),
        lambda: record(around, blank, Generator(0)),
    ):
        with pytest.raises(ValueError, match="not what walks around one, got Truncated"):
            refused()
    with pytest.raises(ValueError, match="must return leaves by name, got Tensor"):
        Truncated(sampler, lambda b, r: b["x"]).sample(blank, Generator(0))
    with pytest.raises(ValueError, match=r"init of the leaves \['x'\] has a NaN or an infinity"):
        Truncated(sampler, lambda b, r: {"x": b["x"] / 0}).sample(blank, Generator(0))
    for match, settings in {
        r"start must be in \[0, 1\], got 1.5": {"init": torch.zeros(3), "start": 1.5},
        r"start = 0.5 needs records": {"start": 0.5},
        r"init needs a start in \[0, 1\]": {"init": torch.zeros(3)},
        r"start goes with the default sampler": {"sampler": sampler, "start": 0.5},
        r"init of the leaves \['x'\] has a NaN": {"init": torch.tensor(math.nan), "start": 0.0},
        r"init would be forgotten": {
            "sampler": DDPM(denoiser, UniformTime(4)),
            "init": torch.zeros(3),
        },
        r"init goes with a Sampler": {
            "sampler": Truncated(sampler, {"x": torch.zeros(())}),
            "init": torch.zeros(3),
        },
    }.items():
        with pytest.raises(ValueError, match=match):
            sample(denoiser, 3, **settings)


def test_a_generator_and_the_noise_after_it_are_independent():
    """By address, too, where a generator draws at that of its leaf."""
    sampler = DDPM(mixture(Linear()), Since(UniformTime(4), 0.5))

    def drawn(batch, random):
        own = random.scoped(leaf="x", ids=batch.ids, layout=batch.layouts["x"])
        return {"x": own.normal((batch.samples,), torch.float32, "cpu")}

    walk = Truncated(sampler, drawn).bind(Batch.of(torch.zeros(2000)), Counter(0))
    clean = initial(drawn, walk.sampler.batch, walk.beside(0))["x"]
    level = Linear()(torch.tensor(0.5))
    noise = walk.start().x["x"] - float(level.alpha) * clean
    assert abs(float(noise.std() / level.sigma) - 1) < 0.1
    assert float(torch.corrcoef(torch.stack([clean, noise]))[0, 1].abs()) < 0.1


@pytest.mark.parametrize(
    "settings", [{"init": 3, "start": 0.5}, {"init": 3, "start": 0.0}, {"init": -1, "start": 0.5}]
)
def test_numbers_that_are_no_class_are_refused(settings):
    process = Product({"x": Categorical(Flow(), absorbing(3))})
    denoiser = ExactDenoiser(process, Batch.of(torch.arange(3)))
    with pytest.raises(ValueError, match=r"init of leaf 'x' .* they must be classes, 0 to 2"):
        sample(denoiser, 2, **settings)
    with pytest.raises(ValueError, match=r"given of leaf 'x' .* they must be classes, 0 to 2"):
        sample(denoiser, 2, given={"x": settings["init"]})
    # What is noisy may be masked.
    masked = Truncated(DDPM(denoiser, UniformTime(4)), {"x": torch.tensor(3)}, noisy=True)
    drawn = masked.sample(Batch.of(torch.zeros(2, dtype=torch.long)), Generator(0))
    assert int(drawn["x"].max()) < 3


def test_records_that_are_returned_are_not_those_that_were_given():
    init = torch.tensor([1.0, 2.0, 3.0])
    drawn = sample(mixture(Linear()), 3, init=init, start=0.0)
    drawn.add_(1)
    assert init.tolist() == [1.0, 2.0, 3.0]
