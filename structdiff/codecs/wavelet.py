r"""Wavelet bands as channels: orthogonal, so nothing is lost and white noise stays white.

Haar's transform of one level turns neighbours a, b into (a + b) / sqrt 2 and (a - b) / sqrt 2
along each axis; the next level does the same with what is left of the means. The coefficients of
all levels are laid out at the places of the coarsest one,

    (channels, h, w) -> (channels 4^levels, h / 2^levels, w / 2^levels),

the means first, then what each level adds, coarse to fine. A network of this field has a fourth
of the places for each level; the map is orthogonal, log |det dz/dx| = 0.

References:
    Wavelet Diffusion Models are Fast and Scalable Image Generators (Phung, Dao and Tran, 2023).
    https://arxiv.org/abs/2211.16152
    A Theory for Multiresolution Signal Decomposition (Mallat, 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from structdiff.codecs.blocks import to_channels
from structdiff.codecs.checks import check_finite, check_shape, shape_of
from structdiff.codecs.latent import LatentCodec
from structdiff.processes.covariance_bases import HaarBasis

__all__ = ["Wavelet"]


class Wavelet(LatentCodec):
    """Fields to Haar's coefficients, as channels at the places of the coarsest level.

    Arguments:
        event: Shape of one x, `(channels, *places)`.
        levels: How often the places are halved, at least 1.

    Raises:
        ValueError: If levels is below 1, or a side is no multiple of 2^levels.

    Example:
        >>> Wavelet((1, 4), levels=2).encode(torch.tensor([[[1.0, 1.0, 3.0, 3.0]]]))
        tensor([[[ 4.],
                 [-2.],
                 [ 0.],
                 [ 0.]]])
    """

    order: Tensor
    back: Tensor

    def __init__(self, event: Sequence[int], *, levels: int = 1) -> None:
        super().__init__()
        self.event, self.levels, self.classes = shape_of("event", event, axes=2), levels, 0
        self.axes = tuple(range(1, len(self.event)))
        self.basis = HaarBasis(levels, self.axes)
        self.basis.check(self.event)
        channels = self.event[0] * 2 ** (levels * len(self.axes))
        self.latent = (channels, *(side >> levels for side in self.event[1:]))
        order = _order(self.event, levels).flatten()
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    def depth(self) -> Tensor:
        """The level of each channel of z: `levels` for the means, 0 for the finest details."""
        depth = self.basis.depth(self.event).flatten()[self.order.cpu()]
        return depth.reshape(self.latent[0], -1)[:, 0]

    def fit(self, x: Tensor) -> None:
        """Nothing is measured.

        Raises:
            ValueError: If there are no samples, or they have another shape or are not finite.
        """
        check_finite("x", x, self.event)

    def encode(self, x: Tensor) -> Tensor:
        """The coefficients.

        Raises:
            ValueError: If x has another shape.
        """
        check_shape("x", x, self.event)
        return self.basis.analyse(x).flatten(1)[:, self.order].reshape(len(x), *self.latent)

    def decode(self, z: Tensor) -> Tensor:
        """What has these coefficients.

        Raises:
            ValueError: If z has another shape.
        """
        check_shape("z", z, self.latent)
        return self.basis.synthesise(z.flatten(1)[:, self.back].reshape(len(z), *self.event))

    def log_det(self, x: Tensor) -> Tensor | None:
        """Zero."""
        return x.new_zeros(len(x))

    def settings(self) -> dict[str, Any]:
        """The arguments."""
        return {"event": list(self.event), "levels": self.levels}


def _order(event: Sequence[int], levels: int) -> Tensor:
    """Which coefficient of the basis each entry of z is, `(1, *latent)`."""
    numbers = torch.arange(torch.Size(event).numel()).reshape(1, *event)
    bands: list[Tensor] = []
    for level in range(levels):
        *details, numbers = _halves(numbers)
        bands = [*(to_channels(part, 2 ** (levels - level - 1)) for part in details), *bands]
    return torch.cat([numbers, *bands], 1)


def _halves(x: Tensor) -> list[Tensor]:
    """The blocks of one level, the means last."""
    sides = [(slice(side // 2, None), slice(0, side // 2)) for side in x.shape[2:]]
    return [x[(slice(None), slice(None), *part)] for part in product(*sides)]
