"""Wavelet bands and components of blocks as channels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff import Batch, Cosine, Gaussian, Generator, Product
from structdiff.codecs.blocks import Blocks, from_channels, to_channels
from structdiff.codecs.wavelet import Wavelet
from structdiff.samplers import DDIM, DDPM
from structdiff.schedules import UniformTime
from structdiff.testing import ExactDenoiser


def images(samples: int = 6, channels: int = 2, side: int = 8) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randn(samples, channels, side, side, generator=source, dtype=torch.float64)


def haar_by_matrix(side: int) -> Tensor:
    """One level of Haar's transform of a line: sums, then differences."""
    matrix = torch.zeros(side, side, dtype=torch.float64)
    for k in range(side // 2):
        matrix[k, 2 * k] = matrix[k, 2 * k + 1] = 1 / math.sqrt(2)
        matrix[side // 2 + k, 2 * k] = 1 / math.sqrt(2)
        matrix[side // 2 + k, 2 * k + 1] = -1 / math.sqrt(2)
    return matrix


def test_one_level_is_haars_matrix_on_both_sides() -> None:
    """Four bands: means, then what differs along one axis, the other, both."""
    x, matrix = images(), haar_by_matrix(8)
    pyramid = matrix @ x @ matrix.mT
    quarters = [pyramid[..., :4, :4], pyramid[..., 4:, :4], pyramid[..., :4, 4:]]
    quarters.append(pyramid[..., 4:, 4:])
    z = Wavelet((2, 8, 8)).encode(x).unflatten(1, (4, 2))
    torch.testing.assert_close(z[:, 0], quarters[0])
    found = {
        next(k for k in range(1, 4) if torch.allclose(z[:, band], quarters[k]))
        for band in range(1, 4)
    }
    assert found == {1, 2, 3}


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_first_channels_are_means_over_blocks(levels) -> None:
    x = images()
    z = Wavelet((2, 8, 8), levels=levels).encode(x)
    torch.testing.assert_close(z[:, :2], F.avg_pool2d(x, 2**levels) * 2**levels)


def test_fine_channels_are_zero_for_what_is_smooth_at_their_level() -> None:
    """An image of blocks of 4 has no details below the third level, and has some at it."""
    codec = Wavelet((1, 16, 16), levels=3)
    coarse = images(3, 1, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    z, depth = codec.encode(coarse), codec.depth()
    assert depth.tolist() == [3, *[2] * 3, *[1] * 12, *[0] * 48]
    assert float(z[:, depth < 2].abs().max()) < 1e-12
    assert bool((z[:, depth == 2].abs().amax((0, 2, 3)) > 0.1).all())


def test_a_film_of_three_axes_is_halved_along_each() -> None:
    x = torch.randn(2, 1, 4, 4, 4, dtype=torch.float64)
    z = Wavelet((1, 4, 4, 4)).encode(x)
    assert z.shape == (2, 8, 2, 2, 2)
    torch.testing.assert_close(z[:, :1], F.avg_pool3d(x, 2) * math.sqrt(8))


@pytest.mark.parametrize(
    "make", [lambda: Wavelet((2, 8, 8), levels=2), lambda: Blocks((2, 8, 8), size=4)]
)
@pytest.mark.parametrize("sampler", [DDIM, DDPM])
def test_a_walk_over_bands_is_the_walk_over_pixels(make, sampler) -> None:
    """With the exact denoisers of the same data and the same noise, turned: step by step alike.

    A unitary map leaves the law of Gaussian noise, so diffusion in bands is diffusion in pixels.
    """
    codec, data = make(), images(5)

    class Turned(Generator):
        """Noise of the pixels, as the codec makes it."""

        def normal(self, shape, dtype, device) -> Tensor:  # noqa: ANN001
            return codec.encode(super().normal((shape[0], *codec.event), dtype, device))

    grid = UniformTime(12)
    ends = []
    for x, source in ((data, Generator(3)), (codec.encode(data), Turned(3))):
        process = Product({"x": Gaussian(Cosine(), event=tuple(x.shape[1:]))})
        walk = sampler(ExactDenoiser(process, Batch.of(x)), grid)
        ends.append(walk.sample(Batch.of(torch.zeros_like(x)), source)["x"])
    torch.testing.assert_close(codec.decode(ends[1]), ends[0], rtol=0, atol=1e-8)


def test_blocks_come_apart_and_together() -> None:
    x = images()
    z = to_channels(x, 4)
    assert z.shape == (6, 32, 2, 2)
    assert torch.equal(z[:, 2 * (1 * 4 + 3) + 1], x[:, 1, 1::4, 3::4])
    assert torch.equal(from_channels(z, 4), x)


def test_the_first_cosine_is_the_mean_and_the_others_leave_it() -> None:
    x = images()
    z = Blocks((2, 8, 8), size=4).encode(x)
    torch.testing.assert_close(z[:, :2], F.avg_pool2d(x, 4) * 4)
    flat = Blocks((2, 8, 8), size=4).encode(torch.ones_like(x))
    assert float(flat[:, 2:].abs().max()) < 1e-12


def test_cosines_are_those_of_the_discrete_transform() -> None:
    """The second component of a line: cos(pi (n + 1/2) / N) sqrt(2 / N)."""
    line = torch.cos(math.pi * (torch.arange(4).double() + 0.5) / 4)[None, None]
    z = Blocks((1, 4), size=4).encode(line).flatten()
    expected = torch.tensor([0, math.sqrt(2), 0, 0], dtype=torch.float64)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-12)


def test_principal_components_are_uncorrelated_and_their_variance_falls() -> None:
    """And the first ones hold at least as much of the variance as as many cosines do."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(400, 1, 8, 8, generator=source, dtype=torch.float64).cumsum(2).cumsum(3) / 8
    codec = Blocks((1, 8, 8), size=4, basis="principal")
    codec.fit(x)
    blocks = codec.encode(x).movedim(1, -1).flatten(0, 2)
    covariance = blocks.mT.cov()
    spectrum = covariance.diagonal()
    assert bool((spectrum.diff() <= 1e-9).all())
    assert float((covariance - spectrum.diag()).abs().max()) < 1e-9
    by_cosines = Blocks((1, 8, 8), size=4).encode(x).movedim(1, -1).flatten(0, 2).var(0)
    share = spectrum.cumsum(0) - by_cosines.sort(descending=True).values.cumsum(0)
    assert bool((share > -1e-9).all())
    assert float(share[0]) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Wavelet((1, 8, 8), levels=0), "levels must be at least 1, got 0"),
        (lambda: Wavelet((1, 8, 6), levels=2), r"has 6 entries, which must be a multiple of 2\^l"),
        (lambda: Wavelet((8,)), "sizes of event must be positive and be at least 2"),
        (lambda: Blocks((1, 8, 6), size=4), r"size must divide the places .* \(1, 8, 6\), got 4"),
        (lambda: Blocks((1, 8), basis="sines"), "basis must be 'entries', 'cosines' or"),
        (lambda: Wavelet((1, 8)).encode(torch.zeros(2, 8)), r"must have shape \(samples, 1, 8\)"),
        (lambda: Blocks((1, 8)).decode(torch.zeros(2, 1, 8)), "z must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("basis", ["cosines", "principal"])
def test_blocks_come_back_under_autocast(basis) -> None:
    codec = Blocks((1, 8, 8), size=4, basis=basis)
    x = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    codec.fit(x)
    with torch.autocast("cpu", torch.bfloat16):
        z = codec.encode(x)
        torch.testing.assert_close(codec.decode(z), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(z, codec.encode(x), rtol=0, atol=0)
