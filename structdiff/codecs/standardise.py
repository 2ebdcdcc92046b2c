r"""Latents that are the data themselves: as they are, or shifted and scaled to unit variance.

    z = (x - m) / s,    log |det dz/dx| = -sum log s,

with the mean m and the deviation s of the data: of all entries together, of each channel (each
mel band), or of each entry. Processes and their schedules are made for data of unit variance, so
this is also what comes after a learned encoder.

References:
    High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022), appendix
    G: latents scaled by one over their deviation. https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from structdiff.codecs.checks import check_finite, shape_of
from structdiff.codecs.latent import LatentCodec

__all__ = ["Identity", "Standardise"]


class Identity(LatentCodec):
    """z = x.

    Arguments:
        event: Shape of one x.
        classes: Number of classes where x is class indices; 0 where it is real.

    Raises:
        ValueError: If a size is not positive, or classes negative.

    Example:
        >>> Identity((2,)).encode(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.]])
    """

    def __init__(self, event: Sequence[int], *, classes: int = 0) -> None:
        super().__init__()
        if classes < 0:
            msg = f"classes must be at least 0, got {classes}"
            raise ValueError(msg)
        self.event = self.latent = shape_of("event", event)
        self.classes = classes

    def fit(self, x: Tensor) -> None:
        """Nothing is measured.

        Raises:
            ValueError: If there are no samples, or they have another shape or are not finite.
        """
        check_finite("x", x, self.event)

    def encode(self, x: Tensor) -> Tensor:
        """x."""
        return x

    def decode(self, z: Tensor) -> Tensor:
        """z."""
        return z

    def log_det(self, x: Tensor) -> Tensor | None:
        """Zero; None for classes."""
        return None if self.classes else x.new_zeros(len(x))

    def settings(self) -> dict[str, Any]:
        """The event and the classes."""
        return {"event": list(self.event), "classes": self.classes}


class Standardise(LatentCodec):
    """z = (x - mean) / deviation; where nothing varies the deviation is taken as one.

    Arguments:
        event: Shape of one x.
        axes: Axes of an x whose places each have a mean and a deviation of their own: none of
            them for one of all entries, (0,) for one of each channel, all for one of each entry.

    Raises:
        ValueError: If a size is not positive, or an axis does not exist.

    Example:
        >>> codec = Standardise((2,), axes=(0,))
        >>> codec.fit(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
        >>> codec.encode(torch.tensor([[1.0, 40.0]]))
        tensor([[-1.,  2.]])
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, event: Sequence[int], *, axes: Sequence[int] = ()) -> None:
        super().__init__()
        self.event = self.latent = shape_of("event", event)
        self.classes = 0
        ndim = len(self.event)
        if any(not -ndim <= axis < ndim for axis in axes):
            msg = f"axes must be of an event of {ndim} axes, got {tuple(axes)}"
            raise ValueError(msg)
        self.axes = tuple(sorted({axis % ndim for axis in axes}))
        shape = [size if axis in self.axes else 1 for axis, size in enumerate(self.event)]
        self.register_buffer("centre", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(shape, dtype=torch.float64))

    def fit(self, x: Tensor) -> None:
        """Measure means and deviations.

        Raises:
            ValueError: If there are no samples, or they have another shape or are not finite.
        """
        check_finite("x", x, self.event)
        over = [0, *(axis + 1 for axis in range(len(self.event)) if axis not in self.axes)]
        variance, mean = torch.var_mean(x.double(), dim=over, correction=0, keepdim=True)
        self.centre.copy_(mean.squeeze(0))
        # The rounding of a constant is no variance.
        floor = (mean * torch.finfo(x.dtype).eps) ** 2
        self.scale.copy_(torch.where(variance > floor, variance.sqrt(), 1.0).squeeze(0))

    def encode(self, x: Tensor) -> Tensor:
        """Subtract the mean, divide by the deviation."""
        return (x - self.centre.to(x)) / self.scale.to(x)

    def decode(self, z: Tensor) -> Tensor:
        """Multiply by the deviation, add the mean."""
        return z * self.scale.to(z) + self.centre.to(z)

    def log_det(self, x: Tensor) -> Tensor | None:
        """Minus the sum of the log deviations, the same for all samples."""
        total = self.scale.expand(self.event).log().sum()
        return -total.to(x).expand(len(x))

    def settings(self) -> dict[str, Any]:
        """The event and the axes."""
        return {"event": list(self.event), "axes": list(self.axes)}
