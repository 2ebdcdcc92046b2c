r"""Blocks of entries as channels, in an orthogonal basis: coarse components first, nothing lost.

Places are cut in blocks of `size` along each axis, and the C size^d entries of a block become the
channels of one place,

    (channels, h, w) -> (channels size^2, h / size, w / size),    z = B^T (entries of the block),

with B orthogonal: the entries as they are, cosines (the first component is the block's mean), or
the principal components of blocks of the data, by falling variance. So log |det dz/dx| = 0 and
white noise stays white, and the first channels alone are a projection on a subspace: what a walk
needs late in time, when the signal of the others has drowned (`structdiff.schedules.Dropped`).

References:
    Subspace Diffusion Generative Models (Jing et al., 2022), section 4: subspaces by downsampling
    and by principal components. https://arxiv.org/abs/2205.01490
    Dimensionality-Varying Diffusion Process (Zhang et al., 2023). https://arxiv.org/abs/2211.16032
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from structdiff.codecs.checks import check_finite, check_shape, shape_of
from structdiff.codecs.latent import LatentCodec

__all__ = ["Blocks", "from_channels", "to_channels"]

Basis = Literal["entries", "cosines", "principal"]


def to_channels(x: Tensor, size: int) -> Tensor:
    """Blocks of `size` along all places as channels: of each entry of a block, all channels.

    Example:
        >>> to_channels(torch.arange(4).reshape(1, 1, 4), 2)
        tensor([[[0, 2],
                 [1, 3]]])
    """
    places, channels = x.shape[2:], x.shape[1]
    cut = x.reshape(len(x), channels, *(n for side in places for n in (side // size, size)))
    axes = range(len(places))
    order = (0, *(3 + 2 * axis for axis in axes), 1, *(2 + 2 * axis for axis in axes))
    count = channels * size ** len(places)
    return cut.permute(order).reshape(len(x), count, *(side // size for side in places))


def from_channels(z: Tensor, size: int) -> Tensor:
    """The inverse of `to_channels`.

    Example:
        >>> from_channels(torch.tensor([[[0, 2], [1, 3]]]), 2)
        tensor([[[0, 1, 2, 3]]])
    """
    places = z.shape[2:]
    axes = range(len(places))
    channels = z.shape[1] // size ** len(places)
    cut = z.reshape(len(z), *(size for _ in axes), channels, *places)
    first = 1 + len(places)
    order = (0, first, *(n for axis in axes for n in (first + 1 + axis, 1 + axis)))
    return cut.permute(order).reshape(len(z), channels, *(side * size for side in places))


class Blocks(LatentCodec):
    """Fields to components of their blocks.

    Arguments:
        event: Shape of one x, `(channels, *places)`.
        size: Side of a block, at least 1.
        basis: `entries`, `cosines`, or `principal`, which is measured by `fit`.

    Raises:
        ValueError: If a side is no multiple of the size, or the basis is not known.

    Example:
        >>> codec = Blocks((1, 4), size=2, basis="cosines")
        >>> codec.encode(torch.tensor([[[1.0, 1.0, 3.0, 3.0]]])).round(decimals=4)
        tensor([[[1.4142, 4.2426],
                 [0.0000, 0.0000]]])
    """

    matrix: Tensor

    def __init__(self, event: Sequence[int], *, size: int = 2, basis: Basis = "cosines") -> None:
        super().__init__()
        self.event, self.size, self.classes = shape_of("event", event, axes=2), size, 0
        if size < 1 or any(side % size for side in self.event[1:]):
            msg = f"size must divide the places of the event {self.event}, got {size}"
            raise ValueError(msg)
        if basis not in ("entries", "cosines", "principal"):
            msg = f"basis must be 'entries', 'cosines' or 'principal', got {basis!r}"
            raise ValueError(msg)
        self.basis = basis
        axes = len(self.event) - 1
        count = self.event[0] * size**axes
        self.latent = (count, *(side // size for side in self.event[1:]))
        matrix = torch.eye(count, dtype=torch.float64)
        if basis == "cosines":
            matrix = _cosines(size, axes, self.event[0])
        self.register_buffer("matrix", matrix)

    def fit(self, x: Tensor) -> None:
        """Principal components of the blocks, if these are the basis.

        Raises:
            ValueError: If there are no samples, or they have another shape or are not finite.
        """
        check_finite("x", x, self.event)
        if self.basis == "principal":
            blocks = to_channels(x.double(), self.size).movedim(1, -1).flatten(0, -2)
            blocks = blocks - blocks.mean(0)
            rising = torch.linalg.eigh(blocks.mT @ blocks).eigenvectors
            self.matrix.copy_(rising.flip(1))

    def encode(self, x: Tensor) -> Tensor:
        """The components.

        Raises:
            ValueError: If x has another shape.
        """
        check_shape("x", x, self.event)
        return self._turned(to_channels(x, self.size), self.matrix.mT)

    def decode(self, z: Tensor) -> Tensor:
        """What has these components.

        Raises:
            ValueError: If z has another shape.
        """
        check_shape("z", z, self.latent)
        return from_channels(self._turned(z, self.matrix), self.size)

    def _turned(self, z: Tensor, matrix: Tensor) -> Tensor:
        """A matrix on the channels of each place."""
        if self.basis == "entries":
            return z
        with torch.autocast(z.device.type, enabled=False):  # or it is orthogonal no more
            return (matrix.to(z) @ z.flatten(2)).reshape(z.shape)

    def log_det(self, x: Tensor) -> Tensor | None:
        """Zero."""
        return x.new_zeros(len(x))

    def settings(self) -> dict[str, Any]:
        """The arguments."""
        return {"event": list(self.event), "size": self.size, "basis": self.basis}


def _cosines(size: int, axes: int, channels: int) -> Tensor:
    """Cosines along all axes of a block, by rising frequency, for each channel alike."""
    place, wave = torch.arange(size, dtype=torch.float64), torch.arange(size)
    line = torch.cos(math.pi / size * (place[:, None] + 0.5) * wave) * math.sqrt(2 / size)
    line[:, 0] = math.sqrt(1 / size)
    matrix, frequency = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1)
    for _ in range(axes):
        matrix = torch.kron(matrix, line)
        frequency = (frequency[:, None] + wave**2).flatten()
    ordered = matrix[:, frequency.argsort(stable=True)]
    return torch.kron(ordered, torch.eye(channels, dtype=torch.float64))
