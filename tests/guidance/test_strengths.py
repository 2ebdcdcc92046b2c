"""Scales that are functions of time: intervals, weights by condition, and negative conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import DDIM, Batch, Generator, Heun, UniformTime
from structdiff.guidance import ClassifierFree, RateGuided
from structdiff.guidance.strengths import Interval, moment, shares
from tests.guidance.labelled import mixed
from tests.guidance.mixtures import (
    POINTS,
    A,
    B,
    Mixture,
    gradient,
    labelled,
    matching,
    same,
    score,
    world,
)
from tests.guidance.worlds import Counted

times = pytest.mark.parametrize("t", [0.1, 0.4, 0.7, 0.95])


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def walk(denoiser: Any, batch: Batch, make: Any = DDIM, steps: int = 4) -> dict[str, Tensor]:
    return dict(make(denoiser, UniformTime(steps)).sample(batch, Generator(2)).leaves)


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.mark.parametrize(
    ("low", "high"), [(0.25, 0.65), (0.0, 0.31), (0.55, 1.0), (0.5, 0.5), (0.41, 0.42), (0.0, 1.0)]
)
@pytest.mark.parametrize("outside", [0.0, 1.0, -0.5])
def test_calls_of_a_guidance_interval(low, high, outside):
    """S18: two at times inside, one outside at 0 or 1."""
    denoiser, batch = world()
    sampler = DDIM(ClassifierFree(denoiser, Interval(3.0, low, high, outside)), UniformTime(10))
    sampler.sample(batch, Generator(2))
    inside = int(((sampler.times[:-1] >= low) & (sampler.times[:-1] <= high)).sum())
    assert denoiser.calls == 2 * inside + (1 if outside in (0, 1) else 2) * (10 - inside)


@pytest.mark.parametrize("make", [DDIM, Heun])
@pytest.mark.parametrize("rule", [ClassifierFree, RateGuided])
def test_the_full_interval_is_plain_guidance_and_an_empty_one_is_none(make, rule):
    """S18: bit for bit, in a product of three spaces."""
    denoiser, batch = world()
    plain = walk(rule(denoiser, 3.0), batch, make)
    assert equal(walk(rule(denoiser, Interval(3.0)), batch, make), plain)
    assert equal(walk(rule(denoiser, lambda t: 3.0), batch, make), plain)
    part = walk(rule(denoiser, Interval(3.0, 0.2, 0.6)), batch, make)
    assert not equal(part, plain)
    never = walk(rule(denoiser, Interval(3.0, 0.999, 0.999)), batch, make)
    assert equal(never, walk(denoiser, batch, make))
    assert not equal(plain, never)


@times
def test_weights_by_condition_in_time(t):
    """G10b: grad log of p prod_i (p(. | c_i) / p)^w_i(t), by autograd of the mixture."""
    scales = {"a": lambda t: 3 * t, "b": lambda t: 1 - 2 * t**2}
    guided = score(ClassifierFree(Mixture(), scales), labelled({"a": A, "b": B}), t)
    a, b = 3 * t, 1 - 2 * t**2
    expected = gradient({(): 1 - a - b, ("a",): a, ("b",): b}, t)
    torch.testing.assert_close(guided, expected, rtol=1e-6, atol=1e-6)


def test_each_leaf_has_the_weight_of_its_own_time():
    """And a look that only one leaf needs is asked for, once."""
    denoiser, batch = world()
    t = {"x": torch.tensor(0.3), "z": torch.tensor(0.6), "angle": torch.tensor(0.9)}
    interval = Interval(2.5, 0.5, 0.7)
    guided = ClassifierFree(denoiser, interval)(batch, t)
    assert denoiser.calls == 2
    inside, outside = (ClassifierFree(denoiser, w)(batch, t) for w in (2.5, 1.0))
    for name, expected in (("x", outside), ("z", inside), ("angle", outside)):
        assert torch.equal(guided[name].value, expected[name].value)
    assert (inside["z"].value.exp() - outside["z"].value.exp()).abs().max() > 1e-4


def test_rates_follow_the_scale_at_the_time():
    denoiser, batch = world()
    t = dict.fromkeys(batch.leaves, torch.tensor(0.5))
    found = RateGuided(denoiser, lambda t: 4 * t)(batch, t)
    expected = RateGuided(denoiser, 2.0)(batch, t)
    assert same(found, expected)
    assert torch.equal(found["z"].extras["tilt"], expected["z"].extras["tilt"])
    assert found["z"].extras["tilt"].abs().max() > 0.01


def test_given_rows_have_no_time_of_their_own():
    denoiser, batch = mixed()
    held, clean = torch.tensor([True, False, False, True, False]), denoiser.data
    x = torch.where(held[:, None], clean["x"], batch["x"])
    batch = batch.with_leaves({**batch.leaves, "x": x, "angle": clean["angle"]})
    batch = batch.with_condition({"c": denoiser.labels})
    batch = batch.with_given({"x": held, "angle": torch.ones(5, dtype=torch.bool)})
    t = denoiser.process.bind(batch).times(torch.tensor(0.4))
    assert moment("x", t["x"]) == 0.4
    assert moment("angle", t["angle"]) == 0
    found = ClassifierFree(denoiser, lambda t: 5 * t)(batch, t)
    expected = ClassifierFree(denoiser, 2.0)(batch, t)
    for name in ("x", "z", "mask"):
        assert torch.equal(found[name].value, expected[name].value)


@times
@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 1.0, 3.0])
def test_a_negative_condition_takes_the_place_of_none(w, t):
    """grad log p(x | n)^(1-w) p(x | c)^w, with n one value for all; exact at w = 0 and 1."""
    batch = labelled({"a": A, "b": B})
    negative = {"a": torch.tensor(1), "b": torch.tensor(0)}
    counted = Counted(Mixture())
    found = score(ClassifierFree(counted, w, negative=negative), batch, t)
    assert counted.calls == 1 + (w not in (0, 1))
    mixture, x = Mixture(), POINTS.clone().requires_grad_()
    away = labelled({name: value.expand(5) for name, value in negative.items()})
    at = x, torch.tensor(t)
    log_p = (1 - w) * mixture.log_density(*at, matching(away, mixture.labels))
    log_p = log_p + w * mixture.log_density(*at, matching(batch, mixture.labels))
    (expected,) = torch.autograd.grad(log_p.sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    if w in (0, 1):
        assert torch.equal(found, score(Mixture(), batch if w else away, t))


def test_a_negative_condition_may_name_some():
    """Those that it does not name are absent in the reference."""
    batch = labelled({"a": A, "b": B})
    found = score(ClassifierFree(Mixture(), 2.0, negative={"b": torch.tensor(1)}), batch, 0.5)
    away = score(Mixture(), labelled({"b": torch.ones(5, dtype=torch.long)}), 0.5)
    towards = score(Mixture(), batch, 0.5)
    torch.testing.assert_close(found, 2 * towards - away, rtol=1e-9, atol=1e-9)


def test_shares_sum_to_one():
    t = {"x": torch.tensor(0.5), "y": torch.tensor(0.1)}
    found = shares([Interval(3.0, 0.4, 0.6), -1.0], t)
    assert found == {"x": (-1.0, 3.0, -1.0), "y": (1.0, 1.0, -1.0)}


def test_what_does_not_fit_is_refused():
    batch, t = labelled({"a": A}), {"x": torch.tensor(0.5)}
    for low, high in ((0.7, 0.3), (-0.1, 0.5), (0.5, 1.1), (math.nan, 0.5)):
        with pytest.raises(ValueError, match="the interval must have 0 <= low <= high <= 1"):
            Interval(2.0, low, high)
    with pytest.raises(ValueError, match="scale must be a finite number or a function of time"):
        Interval(math.nan)
    with pytest.raises(ValueError, match=r"finite at every time, got \[nan\] at t = 0.5"):
        ClassifierFree(Mixture(), lambda t: math.nan)(batch, t)
    rows = {"x": torch.tensor([0.5, 0.5, 0.2, 0.5, 0.5])}
    with pytest.raises(ValueError, match="'x' have times from 0.2 to 0.5: use a constant scale"):
        ClassifierFree(Mixture(), Interval(2.0))(batch, rows)
    with pytest.raises(ValueError, match=r"negative names \['b'\], but the batch has .*\['a'\]"):
        ClassifierFree(Mixture(), 2.0, negative={"b": torch.tensor(0)})(batch, t)
    with pytest.raises(ValueError, match="guidance needs a condition, the batch has none"):
        ClassifierFree(Mixture(), Interval(2.0))(labelled({}), t)
