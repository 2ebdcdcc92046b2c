"""Classifier-free guidance in products and walks: leaf by leaf, calls counted, modes reached."""

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
    Flow,
    Gaussian,
    Generator,
    Heun,
    Multistep,
    Product,
    UniformTime,
    absorbing,
)
from structdiff.guidance import ClassifierFree
from structdiff.samplers.churn import Churn
from structdiff.samplers.corrector import PredictorCorrector
from structdiff.samplers.coupled import Coupled
from structdiff.samplers.langevin import AnnealedLangevin, LangevinCorrector
from structdiff.samplers.leaping import Leaping
from structdiff.samplers.picard import Picard
from structdiff.samplers.pseudo import PNDM
from structdiff.samplers.remasking import Remasking
from structdiff.samplers.restart import Restart
from structdiff.samplers.routing import Routed
from structdiff.samplers.runge_kutta import StochasticRungeKutta
from structdiff.samplers.singlestep import Singlestep
from structdiff.samplers.solvers import DEIS, DPMSolver, UniPC
from structdiff.samplers.staggered import Staggered
from structdiff.testing import ExactDenoiser
from tests.guidance.mixtures import (
    LABELS,
    WEIGHTS,
    A,
    B,
    Mixture,
    Records,
    absent,
    labelled,
    same,
    world,
)
from tests.guidance.worlds import Counted


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_product_is_guided_leaf_by_leaf():
    denoiser, batch = world()
    t = dict.fromkeys(batch.leaves, torch.tensor(0.5))
    free, told = denoiser(absent(batch), t), denoiser(batch, t)
    guided = ClassifierFree(denoiser, 2.5)(batch, t)
    for name in ("x", "angle"):
        expected = 2.5 * told[name].value - 1.5 * free[name].value
        torch.testing.assert_close(guided[name].value, expected, rtol=1e-12, atol=1e-12)
    process = denoiser.process.bind(batch)
    expected = process.tilt([free, told], [-1.5, 2.5])["z"].value
    torch.testing.assert_close(guided["z"].value, expected, rtol=1e-12, atol=1e-12)
    assert not same(free, told)


@pytest.mark.parametrize(
    ("scale", "calls"),
    [(0.0, 1), (1.0, 1), (2.0, 2), (-1.0, 2), ({"c": 0.0}, 1), ({"c": 1.0}, 1), ({"c": 3.0}, 2)],
)
def test_the_number_of_calls(scale, calls):
    """G03: bit-identical to the unconditional denoiser at 0, to the conditional one at 1."""
    denoiser, batch = world()
    t = dict.fromkeys(batch.leaves, torch.tensor(0.5))
    guided = ClassifierFree(denoiser, scale)(batch, t)
    assert denoiser.calls == calls
    w = scale if isinstance(scale, float) else scale["c"]
    assert same(guided, denoiser.denoiser(absent(batch), t)) == (w == 0)
    assert same(guided, denoiser.denoiser(batch, t)) == (w == 1)


@pytest.mark.parametrize(
    ("scale", "calls"),
    [
        ({"a": 1.5, "b": 2.0}, 3),
        ({"a": 0.3, "b": 0.7}, 2),
        ({"a": 1.0, "b": 0.0}, 1),
        ({"a": 0.0, "b": 0.0}, 1),
        ({"b": 2.0}, 2),
        (2.0, 2),
    ],
)
def test_the_number_of_calls_with_two_conditions(scale, calls):
    denoiser = Counted(Mixture())
    ClassifierFree(denoiser, scale)(labelled({"a": A, "b": B}), {"x": torch.tensor(0.5)})
    assert denoiser.calls == calls


SAMPLERS = {
    "DDIM": DDIM,
    "DDPM": DDPM,
    "Heun": Heun,
    "Multistep2": lambda d, g: Multistep(d, g, order=2),
    "Multistep3": lambda d, g: Multistep(d, g, order=3),
    "Singlestep": lambda d, g: Singlestep(d, g, order=3),
    "Churn": lambda d, g: Churn(d, g, Cosine()),
    "Leaping": Leaping,
    "DPMSolver": DPMSolver,
    "UniPC": UniPC,
    "DEIS": lambda d, g: DEIS(d, g, order=3),
    "PredictorCorrector": lambda d, g: PredictorCorrector(DDPM(d, g)),
    "Remasking": lambda d, g: Remasking(DDPM(d, g), 0.2),
    "Restart": lambda d, g: Restart(Heun, d, g, interval=(0.1, 0.9)),
    "Staggered": lambda d, g: Staggered(d, g, lag=0.5),
    "Picard": lambda d, g: Picard(DDPM(d, g)),
}
ON_REALS = {
    "PNDM": PNDM,
    "StochasticRungeKutta": StochasticRungeKutta,
    "AnnealedLangevin": AnnealedLangevin,
    "LangevinCorrector": lambda d, g: LangevinCorrector(DDPM(d, g)),
    "Coupled": Coupled,
}
ON_MASKS = {"Routed": Routed}


def with_one_leaf(name, leaf):
    """The world's records of one leaf, and noise."""
    whole, _ = world()
    process, data = Product({name: leaf}), Batch.of({name: whole.denoiser.data[name]})
    denoiser = Counted(Records(process, data, WEIGHTS, LABELS))
    noisy = Batch.of(process.bind(data).prior(Generator(3)))
    return denoiser, noisy.with_condition({"c": torch.tensor([0, 1, 1, 0, 1])})


WORLDS = (
    [pytest.param(make, world, id=name) for name, make in SAMPLERS.items()]
    + [
        pytest.param(make, lambda: with_one_leaf("x", Gaussian(Cosine(), event=(2,))), id=name)
        for name, make in ON_REALS.items()
    ]
    + [
        pytest.param(make, lambda: with_one_leaf("z", Categorical(Flow(), absorbing(3))), id=name)
        for name, make in ON_MASKS.items()
    ]
)


@pytest.mark.parametrize(("make", "of"), WORLDS)
def test_every_sampler_without_condition_is_the_unconditional_one(make, of):
    """Bit for bit; and with w = 1 it is the conditional one."""
    denoiser, batch = of()
    plain = ExactDenoiser(denoiser.process, denoiser.denoiser.data, WEIGHTS)
    bare = Batch(batch.leaves, batch.layouts)
    runs = {
        "plain": (plain, bare),
        "no condition": (denoiser, bare),
        "absent": (denoiser, absent(batch)),
        "w = 0": (ClassifierFree(denoiser, 0.0), batch),
        "w = 0, no condition": (ClassifierFree(denoiser, 0.0), bare),
        "conditional": (denoiser, batch),
        "w = 1": (ClassifierFree(denoiser, 1.0), batch),
    }
    drawn = {
        name: make(one, UniformTime(5)).sample(start, Generator(2)).leaves
        for name, (one, start) in runs.items()
    }

    def equal(one: str, other: str) -> bool:
        return all(torch.equal(x, drawn[other][leaf]) for leaf, x in drawn[one].items())

    assert equal("w = 1", "conditional")
    assert not equal("plain", "conditional")
    for name in ("no condition", "absent", "w = 0", "w = 0, no condition"):
        assert equal(name, "plain"), name


def test_conditional_walks_fall_in_their_mode():
    """G01: at w = 1 with an exact denoiser; of 300 samples 95 % have the right sign."""
    data = Batch.of(torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]))
    process = Product({"x": Gaussian(Cosine(), event=(1,))})
    labels = torch.tensor([0, 0, 1, 1])
    denoiser = Records(process, data, torch.full((4,), 0.25), labels)
    batch = Batch.of(torch.zeros(300, 1)).with_condition({"c": torch.arange(300) % 2})
    for w in (1.0, 2.0):
        drawn = DDPM(ClassifierFree(denoiser, w), UniformTime(8)).sample(batch, Generator(0))["x"]
        assert ((drawn[:, 0] > 0) == (batch.condition["c"] == 1)).double().mean() >= 0.95


def test_what_does_not_fit_is_refused():
    t = {"x": torch.tensor(0.5)}
    for scale in (math.nan, math.inf, {}, {"a": math.nan}):
        with pytest.raises(ValueError, match="scale must be a finite number, or one per cond"):
            ClassifierFree(Mixture(), scale)
    with pytest.raises(ValueError, match="guidance needs a condition, the batch has none"):
        ClassifierFree(Mixture(), 2.0)(labelled({}), t)
    with pytest.raises(ValueError, match=r"scale names \['c'\], but the batch has .*\['a'\]"):
        ClassifierFree(Mixture(), {"a": 1.0, "c": 1.0})(labelled({"a": A}), t)
