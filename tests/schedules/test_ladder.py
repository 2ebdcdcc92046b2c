"""Noise levels from the data."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from structdiff.schedules import noise_ladder


@pytest.mark.parametrize("dimensions", [50, 3072])
def test_neighbouring_levels_overlap_by_half(dimensions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, dimensions, generator=generator)
    ladder = noise_ladder(x, 0.01)
    ends = ladder.schedule.sigma(torch.tensor([0.0, 1.0])).tolist()
    assert ends[0] == pytest.approx(0.01)
    by_hand = max(float((a - b).norm()) for a in x.double() for b in x.double())
    assert ends[1] == pytest.approx(by_hand, rel=1e-6)
    gamma = (ends[1] / ends[0]) ** (1 / (ladder.levels - 1))
    centre = math.sqrt(2 * dimensions) * (gamma - 1)
    mass = norm.cdf(centre + 3 * gamma) - norm.cdf(centre - 3 * gamma)
    fewer = (ends[1] / ends[0]) ** (1 / (ladder.levels - 2))
    centre = math.sqrt(2 * dimensions) * (fewer - 1)
    assert mass >= 0.5 - 1e-9 > norm.cdf(centre + 3 * fewer) - norm.cdf(centre - 3 * fewer)


def test_in_few_dimensions_levels_double() -> None:
    """Half of their mass is shared whatever the ratio."""
    ladder = noise_ladder(torch.tensor([[0.0, 0.0], [0.0, 6.4]]), 0.1)
    assert ladder.levels == 7


def test_distances_are_found_in_blocks() -> None:
    x = torch.zeros(3000, 1, 2)
    x[7], x[2900] = torch.tensor([3.0, 0.0]), torch.tensor([0.0, -4.0])
    sigma = noise_ladder(x).schedule.sigma(torch.tensor(1.0))
    assert float(sigma) == pytest.approx(5)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least two finite points"):
        noise_ladder(torch.tensor([[0.0], [torch.nan]]))
    with pytest.raises(ValueError, match="at most 0 apart"):
        noise_ladder(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="overlap must be in"):
        noise_ladder(torch.zeros(4, 2), overlap=1.0)
