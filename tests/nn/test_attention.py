"""Angles of positions, and the mean of what a row sees."""

import pytest
import torch
from torch.nn import functional as F

from structdiff.nn.attention import angles, attention, grid, rotate
from tests.nn.networks import random


@pytest.mark.parametrize("sizes", [(7,), (3, 4), (2, 3, 2)])
def test_pairs_take_turns_at_the_axes_from_fast_to_slow(sizes):
    """Pair k by 10000^(-floor(k / A) / pairs) times the position on axis k mod A."""
    places, axes = grid(sizes), len(sizes)
    found = angles(places, 24, torch.zeros(1).double())
    assert found.dtype == torch.float64
    for k in range(12):
        expected = places[:, k % axes].double() * 10000.0 ** (-(k // axes) / 12)
        torch.testing.assert_close(found[:, k], expected, rtol=1e-12, atol=0)


def test_products_depend_on_differences_of_positions_alone():
    places = grid((3, 4))
    query, key = random(24), random(24, seed=1)
    near, far = (angles(places + shift, 24, query) for shift in (0, torch.tensor([5, 9])))
    here, there = (rotate(query, a) @ rotate(key, a).mT for a in (near, far))
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)
    assert (here - (query @ key)).abs().max() > 0.1


@pytest.mark.parametrize(("causal", "padded"), [(False, False), (True, False), (False, True)])
def test_products_that_are_written_out_are_the_fused_kernel(causal, padded):
    """In low precision on a CPU, to its rounding."""
    query, key, value = (2 * random(2, 3, 6, 8, seed=seed) for seed in range(3))
    real = torch.arange(6) < torch.tensor([[6], [4]]) if padded else None
    low = attention(*(x.bfloat16() for x in (query, key, value)), real, causal=causal)
    mask = None if real is None else real[:, None, None]
    exact = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
    assert low.dtype == torch.bfloat16
    assert (low.double() - exact).norm() < 0.02 * exact.norm()
