"""`given=`: independent times make every conditional and every marginal one model.

That walks draw the conditionals of whole leaves is tested in `tests/samplers/test_records.py`;
here are the estimates that they are made of, and rows and entries of one leaf.
"""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Product,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.guidance import Replacement
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser, sort_records

LEAVES = ["x", "y", "z"]


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def coupled(names: list[str], schedule: object = None) -> tuple[Product, Batch]:
    """Six records of a place and two classes, no two leaves of which are independent."""
    schedule = schedule or Flow()
    leaves = {
        "x": Gaussian(schedule, event=(2,)),
        "y": Categorical(Flow(), absorbing(2)),
        "z": Categorical(Flow(), uniform(3)),
    }
    x = torch.tensor([[0.0, 1.0], [1.0, -1.0], [0.0, 1.0], [-1.0, 0.0], [0.5, 0.5], [1.0, -1.0]])
    data = {"x": x, "y": torch.tensor([0, 0, 1, 1, 0, 1]), "z": torch.tensor([0, 1, 2, 1, 2, 0])}
    process = Product({name: leaves[name] for name in names})
    return process, Batch.of({name: data[name] for name in names})


WEIGHTS = torch.tensor([0.1, 0.3, 0.2, 0.15, 0.05, 0.2]).double()


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("hidden", LEAVES)
def test_a_leaf_at_time_one_is_integrated_out(hidden, t):
    """N10: the estimates of the others are those of their marginal, whatever it is."""
    process, data = coupled(LEAVES)
    rest = [name for name in LEAVES if name != hidden]
    whole, marginal = ExactDenoiser(process, data, WEIGHTS), coupled(rest)
    marginal = ExactDenoiser(*marginal, WEIGHTS)
    noisy = process.bind(data).diffuse(
        data.leaves, dict.fromkeys(LEAVES, torch.tensor(t)), Generator(0)
    )
    noisy[hidden] = process.bind(data).prior(Generator(1))[hidden]
    times = dict.fromkeys(LEAVES, torch.tensor(t)) | {hidden: torch.tensor(1.0)}
    joint = dict.fromkeys(LEAVES, torch.tensor(t))
    found = whole(Batch.of(noisy), times)
    expected = marginal(Batch.of({n: noisy[n] for n in rest}), {n: times[n] for n in rest})
    for name in rest:
        torch.testing.assert_close(found[name].value, expected[name].value, rtol=0, atol=1e-12)
    if t < 0.9 and hidden == "z":
        coupled_estimate = whole(Batch.of(noisy), joint)
        assert (coupled_estimate["x"].value - expected["x"].value).abs().max() > 0.01


def test_a_leaf_that_does_not_forget_is_integrated_out_nearly():
    """N10: with alpha(1) = 0.006 the score errs by less than 0.05."""
    process, data = coupled(LEAVES, Linear())
    rest = ["y", "z"]
    whole, marginal = ExactDenoiser(process, data, WEIGHTS), ExactDenoiser(*coupled(rest), WEIGHTS)
    t = torch.tensor(0.4)
    noisy = process.bind(data).diffuse(data.leaves, dict.fromkeys(LEAVES, t), Generator(0))
    noisy["x"] = process.bind(data).prior(Generator(1))["x"]
    found = whole(Batch.of(noisy), {"x": torch.tensor(1.0), "y": t, "z": t})
    expected = marginal(Batch.of({n: noisy[n] for n in rest}), {"y": t, "z": t})
    for name in rest:
        gap = (found[name].value.exp() - expected[name].value.exp()).abs().max()
        assert gap < 0.05


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("known", LEAVES)
def test_a_given_leaf_conditions(known, t):
    """N10: the estimates of the others are those of the records that agree with it."""
    process, data = coupled(LEAVES)
    whole = ExactDenoiser(process, data, WEIGHTS)
    for record in range(data.samples):
        same = (data[known] == data[known][record]).reshape(data.samples, -1).all(1)
        chosen = same.nonzero().squeeze(1)
        rest = [name for name in LEAVES if name != known]
        part, kept = coupled(rest)
        conditional = ExactDenoiser(part, kept.select(chosen), WEIGHTS[chosen])
        batch = data.select([record] * 3)
        batch = batch.with_given({known: torch.ones(3, dtype=torch.bool)})
        bound = process.bind(batch)
        times = bound.times(torch.tensor(t))
        noisy = batch.with_leaves(bound.diffuse(batch.leaves, times, Generator(record)))
        found = whole(noisy, times)
        free = Batch.of({n: noisy[n] for n in rest})
        expected = conditional(free, dict.fromkeys(rest, torch.tensor(t)))
        for name in rest:
            torch.testing.assert_close(
                found[name].value.exp() if name != "x" else found[name].value,
                expected[name].value.exp() if name != "x" else expected[name].value,
                rtol=0,
                atol=1e-12,
            )


def in_rows() -> tuple[Product, Batch, torch.Tensor]:
    """Pairs of classes and of places in the rows of one sample, and an angle."""
    process = Product(
        {
            "kind": Categorical(Flow(), uniform(2)),
            "place": Gaussian(Linear(), event=(2,)),
            "angle": Brownian(Geometric(0.02, 4.0), Torus(1)),
        }
    )
    pairs, regular = Layout.ragged([2] * 4), Layout.regular(4)
    data = Batch(
        {
            "kind": torch.tensor([0, 0, 0, 1, 1, 0, 1, 1]),
            "place": torch.tensor(
                [[0.0, 0], [2, 1], [0, 0], [-2, 1], [1, 1], [2, 1], [0, 0], [2, -1]]
            ).double(),
            "angle": torch.tensor([[0.0], [1.5], [-1.5], [3.0]]),
        },
        {"kind": pairs, "place": pairs, "angle": regular},
    )
    return process, data, torch.tensor([0.15, 0.35, 0.3, 0.2]).double()


CASES = {
    "a class row": ("kind", torch.tensor([True, False]), [0.3, 0.7, 0, 0]),
    "a place row": ("place", torch.tensor([True, False]), [3 / 14, 0.5, 0, 4 / 14]),
    "an entry": ("place", torch.tensor([[False] * 2, [True, False]]), [3 / 13, 0, 6 / 13, 4 / 13]),
}


def distance(make: object, case: str, hold: object, samples: int = 2000) -> float:
    """Total variation of the records drawn with a part of record 0 held from Bayes' law."""
    process, data, weights = in_rows()
    name, mask, posterior = CASES[case]
    known = data.select([0] * samples)
    known = known.with_given({name: mask.repeat(samples, *(1,) * (mask.ndim - 1))})
    denoiser = ExactDenoiser(process, data, weights)
    drawn = hold(make, denoiser, known).sample(
        known.with_given({}) if hold is replaced else known, Generator(4)
    )
    held = known.given[name]
    assert torch.equal(drawn[name][held], known[name][held])
    record = sort_records(drawn, data, {"angle": lambda x, y: Torus(1).log(x, y).abs().amax(1)})
    share = torch.stack([(record == k).double().mean() for k in range(4)])
    return 0.5 * float((share - torch.tensor(posterior).double()).abs().sum())


def given(make: object, denoiser: ExactDenoiser, known: Batch) -> object:
    return make(denoiser, UniformTime(30))


def replaced(make: object, denoiser: ExactDenoiser, known: Batch) -> object:
    return make(Replacement(denoiser, known), UniformTime(30))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("make", [DDPM, DDIM], ids=["DDPM", "DDIM"])
def test_given_rows_and_entries_draw_their_conditional(make, case):
    """E09 for parts of a leaf: total variation with 2000 samples, standard error 0.011."""
    assert distance(make, case, given) < 0.03 + (make is DDIM) * 2 * math.sqrt(0.25 / 2000)


def test_replacement_does_not():
    """The same walk, with the class row in the noisy state only."""
    assert distance(DDPM, "a class row", replaced) > 0.1
