"""Clock features: their frequencies and their values."""

import math

import pytest
import torch
from scipy.spatial import KDTree

from structdiff.layout import Layout
from structdiff.nn import ClockEmbedding, per_row


def test_features_are_sines_then_cosines_at_geometric_frequencies():
    embed = ClockEmbedding(6, lowest=0.5, highest=8.0)
    clock = torch.tensor([0.0, 1.5, -20.0], dtype=torch.float64)
    frequencies = [0.5, 2.0, 8.0]
    expected = [
        [math.sin(c * f) for f in frequencies] + [math.cos(c * f) for f in frequencies]
        for c in clock.tolist()
    ]
    found = embed.double()(clock)
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0
    )


def test_the_dtype_is_the_clocks():
    assert ClockEmbedding(4)(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64


def test_clocks_within_the_limit_are_told_apart():
    features = ClockEmbedding(32)(torch.linspace(-20, 20, 401))
    gaps = torch.cdist(features, features) + 10 * torch.eye(401)
    assert gaps.min() > 0.1


@pytest.mark.parametrize("clock", ["grid", "continuous"])
def test_ten_thousand_clocks_are_told_apart(clock):
    """No two come nearer than half of what the closest two are by the speeds of the waves."""
    embed, count = ClockEmbedding(32), 10000
    grid = torch.linspace(-20, 20, count, dtype=torch.float64)
    if clock == "continuous":
        noise = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        grid = grid + (noise - 0.5) * (grid[1] - grid[0])
    features = embed(grid).float()
    gap = KDTree(features.double().numpy()).query(features.double().numpy(), k=2)[0][:, 1]
    speed = embed.frequency.double().square().sum().sqrt()
    nearest = float(grid.diff().min() * speed)
    assert gap.min() > 0.5 * nearest
    assert gap.min() < 1.01 * nearest


@pytest.mark.parametrize("features", [5, 0])
def test_a_number_of_features_that_cannot_be_is_refused(features):
    with pytest.raises(ValueError, match=f"features must be even and at least 2, got {features}"):
        ClockEmbedding(features)


def test_a_scalar_clock_is_that_of_each_row():
    layout = Layout.ragged([2, 1])
    assert per_row(torch.tensor(3.0), layout).tolist() == [3.0, 3.0, 3.0]
    assert per_row(torch.tensor([1.0, 2.0, 3.0]), layout).tolist() == [1.0, 2.0, 3.0]
