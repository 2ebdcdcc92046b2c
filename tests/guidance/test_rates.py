"""Guided rates are products of powers of rates, by enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff import DDPM, Batch, Categorical, Flow, Generator, Product, UniformTime, absorbing
from structdiff.guidance import ClassifierFree, Guided, RateGuided
from structdiff.processes import Estimate
from structdiff.schedules import CLEAN
from tests.guidance.labelled import Labelled, grammar, mixed, states, transitions
from tests.guidance.worlds import Counted

scales = pytest.mark.parametrize("w", [-1.0, 0.5, 1.0, 3.0])
times = pytest.mark.parametrize("t", [0.1, 0.5, 0.9])


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def absent(batch: Batch) -> Batch:
    return batch.with_present({"c": torch.zeros(batch.samples, dtype=torch.bool)})


def powers(world: Labelled, batch: Batch, t: Tensor, w: float) -> Tensor:
    """R(j)^(1-w) R(j | c)^w; what a condition excludes has e^-80 of the rest where w < 0."""
    leaf = world.process.bind(batch)["token"]
    free, told = (
        leaf.rates(world(b, {"token": t})["token"], b["token"], t) for b in (absent(batch), batch)
    )
    return torch.where(free > 0, free ** (1 - w) * told**w, 0.0)


@transitions
@scales
@times
def test_rates_are_products_of_powers(transition, w, t):
    """Of all rows of a state of several, exact."""
    world = grammar(transition)
    batch, at = states(world), {"token": torch.tensor(t)}
    x, leaf = batch["token"], world.process.bind(batch)["token"]
    guided = RateGuided(world, w)(batch, at)["token"]
    expected = powers(world, batch, at["token"], w)
    sound = torch.isfinite(expected)
    found = leaf.rates(guided, x, at["token"])
    torch.testing.assert_close(found[sound], expected[sound], rtol=1e-6, atol=1e-6)
    assert sound.double().mean() > 0.7 and expected[sound].max() > 0.1


@transitions
@pytest.mark.parametrize("w", [0.5, 2.0])
def test_the_kernel_of_a_short_step_has_them(transition, w):
    """By chance over length, of Bayes' step and of a leap: the error falls with the length."""
    world, t = grammar(transition), torch.tensor(0.6)
    batch = states(world)
    x, leaf = batch["token"], world.process.bind(batch)["token"]
    guided = RateGuided(world, w)(batch, {"token": t})["token"]
    rates = powers(world, batch, t, w)
    for plan in (lambda times: leaf.plan(times, 1.0), leaf.leap):
        errors = []
        for length in (1e-3, 1e-7):
            (step,) = plan(torch.stack([t, t - length]))
            away = leaf.log_kernel(guided, x, step).exp().scatter(-1, x[:, None], 0.0)
            errors.append(float((away / length - rates).abs().max()))
        assert errors[1] < 1e-5 * float(rates.max())
        assert errors[1] < 1e-3 * errors[0]


@pytest.mark.parametrize("w", [0.5, 3.0])
def test_masked_rows_are_tilted_alike_but_unmasked_at_other_times(w):
    """Against classifier-free guidance of probabilities: one relative law, another total."""
    world, t = grammar(absorbing(3)), torch.tensor(0.6)
    batch = states(world)
    x, leaf = batch["token"], world.process.bind(batch)["token"]
    rates, classes = (
        leaf.rates(make(world, w)(batch, {"token": t})["token"], x, t)[x == 3]
        for make in (RateGuided, ClassifierFree)
    )
    total, other = rates.sum(-1, keepdim=True), classes.sum(-1, keepdim=True)
    torch.testing.assert_close(rates / total, classes / other, rtol=1e-8, atol=1e-8)
    beta = 1 / t  # -d log alpha / dt = 1 / (1 - t), times alpha / sigma
    torch.testing.assert_close(other, beta.expand_as(other), rtol=1e-8, atol=1e-8)
    sooner = total - beta
    assert bool((sooner * (1 if w > 1 else -1) > -1e-9).all())
    assert sooner.abs().max() > 0.1


def test_the_limits_of_the_scale():
    """w = 0 unconditional, w = 1 conditional, bit for bit and in one call."""
    world, batch = mixed()
    counted = Counted(world)
    t = world.process.bind(batch).times(torch.tensor(0.6))
    for w, plain in ((0.0, absent(batch)), (1.0, batch)):
        found, expected = RateGuided(counted, w)(batch, t), world(plain, t)
        assert all(torch.equal(found[n].value, e.value) for n, e in expected.items())
        assert not any(e.extras for e in found.values())
    assert counted.calls == 2
    RateGuided(counted, {"c": 2.0})(batch, t)
    assert counted.calls == 4


def test_other_leaves_are_guided_as_ever():
    world, batch = mixed()
    t = world.process.bind(batch).times(torch.tensor(0.6))
    rates, classes = (make(world, 2.5)(batch, t) for make in (RateGuided, ClassifierFree))
    for name in ("x", "angle"):
        assert torch.equal(rates[name].value, classes[name].value)
    assert set(rates["z"].extras) == set(rates["mask"].extras) == {"tilt"}


def test_it_composes_with_a_classifier():
    """Functions inside and outside, which the weights leave as they are: they sum to one."""
    world, batch = mixed()
    t = world.process.bind(batch).times(torch.tensor(0.6))
    bound = world.process.bind(batch)

    def reward(batch: Batch, t: object) -> Tensor:
        return torch.sin(batch["z"] + batch["mask"]) * (1 + batch["x"].sum(-1))

    inside = RateGuided(Guided(world, reward, 1.5), 2.0)(batch, t)
    outside = Guided(RateGuided(world, 2.0), reward, 1.5)(batch, t)
    for name in ("z", "mask"):
        one, other = (bound[name].rates(e[name], batch[name], t[name]) for e in (inside, outside))
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(inside["x"].value, outside["x"].value, rtol=1e-8, atol=1e-8)


def test_given_rows_are_not_tilted_and_one_step_from_noise_is_guided():
    """At t = 1, where alpha is 0, a masked row draws p^(1-w) p(. | c)^w in one step."""
    world, w = grammar(absorbing(3)), 2.0
    batch = states(world)
    batch = batch.select((batch["token"].reshape(-1, 2)[:, 1] == 3).nonzero().squeeze(1))
    known = torch.tensor([True, False]).repeat(batch.samples) & (batch["token"] < 3)
    batch = batch.with_given({"token": known})
    bound = world.process.bind(batch)
    t = bound.times(torch.tensor(1.0))
    guided = RateGuided(world, w)(batch, t)["token"]
    assert guided.extras["tilt"][known].abs().max() == 0
    (step,) = bound["token"].plan(torch.tensor([1.0, CLEAN]), 1.0)
    found = bound["token"].log_kernel(guided, batch["token"], step).exp()[~known]
    free, told = (world(b, t)["token"].value.exp()[~known] for b in (absent(batch), batch))
    law = free ** (1 - w) * told**w
    law = torch.nn.functional.pad(law / law.sum(-1, keepdim=True), (0, 1))
    torch.testing.assert_close(found, law, rtol=0, atol=1e-5)
    drawn = DDPM(RateGuided(world, w), UniformTime(4)).sample(batch, Generator(0))
    assert torch.equal(drawn["token"][known], batch["token"][known])


def test_refusals():
    world, batch = mixed()
    t = world.process.bind(batch).times(torch.tensor(0.6))
    with pytest.raises(ValueError, match="scale must be a finite number, or one per condition"):
        RateGuided(world, math.nan)
    with pytest.raises(ValueError, match="guidance needs a condition, the batch has none"):
        RateGuided(world, 2.0)(batch.with_condition({}), t)


def test_a_tilt_can_be_read_off_in_every_way_of_using_an_estimate():
    """`impose` frees held rows of it, `combine` keeps the latest, `tilt` weights."""
    process = Categorical(Flow(), absorbing(2)).bind(Batch.of(torch.zeros(2, dtype=torch.long)))
    x, t = torch.tensor([2, 2]), torch.tensor(0.5)
    value = torch.tensor([[0.3, 0.7], [0.6, 0.4]]).log()
    one = Estimate(value, {"tilt": torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.0, 0.0]])})
    held = torch.tensor([True, False])
    imposed = process.impose(one, torch.tensor([0, 0]), held, x, t).extras["tilt"]
    assert imposed.tolist() == [[0, 0, 0], [0.5, 0, 0]]
    weights = torch.tensor(1.5), torch.tensor(-0.5)
    both = process.combine([(x, one), (x, Estimate(value))], weights, x)
    assert torch.equal(both.extras["tilt"], one.extras["tilt"])
    tilted = process.tilt([one, Estimate(value), one], [1.5, -1.0, 0.5])
    torch.testing.assert_close(tilted.extras["tilt"], 2 * one.extras["tilt"])
    product = Product({"x": Categorical(Flow(), absorbing(2))})
    assert not product.bind(Batch.of(x.clamp(max=1)))["x"].tilt([Estimate(value)], [1.0]).extras
