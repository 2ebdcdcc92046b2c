"""Laws on manifolds: draws follow the densities, densities integrate to one, scores are slopes."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import (
    SE3,
    SO3,
    Euclidean,
    HeatLaw,
    Law,
    Torus,
    UniformLaw,
    WrappedNormal,
    power,
    product,
)
from structdiff.spaces.hyperbolic import Hyperbolic
from structdiff.spaces.laws import ProductLaw, natural_law

CENTRE = torch.tensor([math.cosh(0.7), math.sinh(0.7), 0.0], dtype=torch.float64)
LAWS: dict[str, Law] = {
    "uniform torus": UniformLaw(Torus(2)),
    "uniform rotations": UniformLaw(SO3()),
    "heat": HeatLaw(Torus(2), 0.4, torch.tensor([1.0, -3.0]).double()),
    "wrapped flat": WrappedNormal(Euclidean(2), 0.5, torch.tensor([1.0, 2.0]).double()),
    "wrapped hyperbolic": WrappedNormal(Hyperbolic(2), 0.8, CENTRE),
    "wrapped hyperbolic at the origin": WrappedNormal(Hyperbolic(2)),
    "rigid motions": natural_law(SE3()),
    "two rigid motions": natural_law(power(SE3(), 2)),
}
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


def draws(law: Law, rows: int) -> Tensor:
    return law.draw(rows, Generator(3), torch.float64, "cpu")


@laws
def test_scores_are_slopes(law: Law) -> None:
    x, space = draws(law, 20), law.manifold
    v = space.noise(x, Generator(1))
    step = 1e-5
    low, high = (law.log_prob(space.exp(x, sign * step * v)) for sign in (-1, 1))
    slope = (high - low) / (2 * step)
    torch.testing.assert_close(space.dot(law.score(x), v), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_a_wrapped_normal_integrates_to_one(scale: float) -> None:
    """Over polar coordinates of the hyperbolic plane, whose volume is sinh r dr da."""
    law = WrappedNormal(Hyperbolic(2), scale, CENTRE)
    r = torch.linspace(0, 12, 2001, dtype=torch.float64)[1:]
    a = torch.arange(256, dtype=torch.float64) * (2 * math.pi / 256)
    r, a = (x.flatten() for x in torch.meshgrid(r, a, indexing="ij"))
    x = torch.stack([torch.cosh(r), torch.sinh(r) * torch.cos(a), torch.sinh(r) * torch.sin(a)], 1)
    cell = 12 / 2000 * (2 * math.pi / 256)
    total = float((law.log_prob(x).exp() * torch.sinh(r)).sum() * cell)
    assert total == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["heat", "wrapped flat", "wrapped hyperbolic"])
def test_draws_have_the_density(name: str) -> None:
    """The mean log density of draws is that of nearest neighbours (Kozachenko-Leonenko)."""
    law, rows = LAWS[name], 4000
    x = draws(law, rows)
    gaps = torch.stack([law.manifold.distance(x, x.roll(k, 0)) for k in range(1, 1500)])
    nearest = gaps.amin(0)
    # The share of the others that were looked at takes the place of all of them.
    guess = torch.log(math.pi * nearest**2 * 1499) + 0.5772156649015329
    gap = guess + law.log_prob(x)
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(rows) + 0.01


def test_a_wrapped_normal_of_flat_space_is_normal() -> None:
    x = Generator(0).normal((50, 2), torch.float64, "cpu")
    got = LAWS["wrapped flat"].log_prob(x)
    truth = stats.multivariate_normal([1.0, 2.0], 0.25).logpdf(x.numpy())
    torch.testing.assert_close(got, torch.from_numpy(truth))


def test_parts_of_a_natural_law_are_independent() -> None:
    """Rotations of the uniform law, places of the normal one; copies do not repeat draws."""
    x = draws(LAWS["two rigid motions"], 4000)
    place = x[:, :, 9:].flatten(1)
    truth = stats.norm.logpdf(place.numpy()).sum(1) - 2 * math.log(8 * math.pi**2)
    found = LAWS["two rigid motions"].log_prob(x)
    torch.testing.assert_close(found, torch.from_numpy(truth))
    gap = torch.corrcoef(torch.cat([place, x[:, :, :9].flatten(1)], 1).T)[:6]
    gap[:, :6] -= torch.eye(6)
    assert gap.abs().max() < 4.5 / math.sqrt(4000)
    trace = x[:, :, [0, 4, 8]].sum(2)
    assert trace.mean().abs() < 4 / math.sqrt(8000)  # of mean 0 and variance 1


def test_natural_laws_by_space() -> None:
    assert natural_law(product(SO3(), Torus(2))).name == "uniform"
    assert natural_law(product(Euclidean(2), Hyperbolic(2))).name == "wrapped normal of scale 1"
    mixed = natural_law(product(Torus(1), Hyperbolic(2)))
    assert mixed.name == "uniform x wrapped normal of scale 1"
    with pytest.raises(ValueError, match="laws must be 2, one for each factor, got 1"):
        ProductLaw(SE3(), [UniformLaw(SO3())])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="Euclidean has no uniform law: it is not compact"):
        UniformLaw(Euclidean(2))
    with pytest.raises(ValueError, match=r"exp of Torus covers it more than once .* 3\.14"):
        WrappedNormal(Torus(2))
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        WrappedNormal(Euclidean(2), 0.0)
    with pytest.raises(ValueError, match="tau must be positive, got -1"):
        HeatLaw(Torus(2), -1.0)
