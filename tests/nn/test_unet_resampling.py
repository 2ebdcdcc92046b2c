"""Half and twice the places, against sums written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.nn.resampling import BOX, SMOOTH, Double, Halve

WIDE = (1.0, 2.0, 5.0, 5.0, 2.0, 1.0)
TAPS = [BOX, SMOOTH, WIDE]


def line(taps: tuple[float, ...]) -> Tensor:
    return torch.tensor(taps, dtype=torch.float64) / sum(taps)


def halved(x: Tensor, taps: tuple[float, ...]) -> Tensor:
    """The formula, along the last axis, a field going on with its last value."""
    f, n, size = line(taps), len(taps) // 2, x.shape[-1]
    cells = []
    for i in range((size + 1) // 2):
        place = torch.tensor([2 * i + k - n + 1 for k in range(2 * n)]).clamp(0, size - 1)
        cells.append((x[..., place] * f).sum(-1))
    return torch.stack(cells, -1)


def doubled(x: Tensor, taps: tuple[float, ...]) -> Tensor:
    f, n, size = line(taps), len(taps) // 2, x.shape[-1]
    cells = []
    for i in range(2 * size):
        cell = torch.zeros_like(x[..., 0])
        for j in range(-n, size + n):
            if 0 <= i - 2 * j + n - 1 < 2 * n:
                cell = cell + 2 * f[i - 2 * j + n - 1] * x[..., min(max(j, 0), size - 1)]
        cells.append(cell)
    return torch.stack(cells, -1)


def along_all(x: Tensor, taps: tuple[float, ...], one) -> Tensor:
    for axis in range(2, x.ndim):
        x = one(x.movedim(axis, -1), taps).movedim(-1, axis)
    return x


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("places", [(6,), (7,), (1,), (4, 5), (3, 2, 5)])
def test_fields_are_filtered_as_the_formula_says(taps, places):
    """With a width of one place too."""
    x = torch.randn(2, 3, *places, generator=torch.Generator().manual_seed(0)).double()
    found = Halve(len(places), taps).double()(x)
    torch.testing.assert_close(found, along_all(x, taps, halved), rtol=0, atol=1e-12)
    found = Double(len(places), taps).double()(x)
    torch.testing.assert_close(found, along_all(x, taps, doubled), rtol=0, atol=1e-12)


@pytest.mark.parametrize("taps", TAPS)
def test_a_constant_stays_one_up_to_the_ends(taps):
    x = torch.full((1, 2, 5, 4), 3.0)
    for way in (Halve(2, taps), Double(2, taps)):
        torch.testing.assert_close(way(x), torch.full_like(way(x), 3.0))


def test_the_smooth_filter_doubles_by_linear_interpolation():
    """Against torch's, whose fields go on with their last value too."""
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(Double(2, SMOOTH)(x), expected)


def test_the_smooth_filter_lets_less_alias_through():
    """A wave too fast for the coarse places, of 0.4 turns a place.

    The box leaves cos(0.4 pi) = 0.309 of it, (1, 3, 3, 1) / 8 its third power.
    """
    wave = torch.cos(2 * torch.pi * 0.4 * torch.arange(400, dtype=torch.float64)).view(1, 1, -1)
    size = [
        Halve(1, taps).double()(wave)[..., 2:-2].square().mean().mul(2).sqrt().item()
        for taps in (BOX, SMOOTH)
    ]
    left = torch.cos(torch.tensor(0.4 * torch.pi)).item()
    assert size == pytest.approx([left, left**3], rel=0.02)


def test_filters_that_are_none_are_refused():
    for taps in ((1.0,), (1.0, 2.0), (), (1.0, -1.0, -1.0, 1.0)):
        with pytest.raises(ValueError, match="taps must be symmetric, even in number"):
            Halve(1, taps)
