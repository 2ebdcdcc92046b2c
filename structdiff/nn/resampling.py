r"""Fields at half and at twice the resolution, by a filter.

With a symmetric filter f of even length 2n and sum 1, along each axis of places,

    halve(x)_i  = sum_k f_k x_{2i + k - n + 1},
    double(x)_i = 2 sum_j f_{i - 2j + n - 1} x_j,         k, i - 2j + n - 1 in 0, ..., 2n - 1.

Beyond its ends a field goes on with its last value, so a constant stays one, and an odd number of
places is halved to the next whole number. The filter (1, 1) / 2 is the mean of two neighbours and
their repetition; (1, 3, 3, 1) / 8 lets less of what is too fast for the coarse places through, and
doubles by linear interpolation.

References:
    Making Convolutional Networks Shift-Invariant Again (Zhang, 2019), section 3.2.
    https://arxiv.org/abs/1904.11486
    Analyzing and Improving the Image Quality of StyleGAN (Karras et al., 2020), the filter
    (1, 3, 3, 1). https://arxiv.org/abs/1912.04958 There a field is zero beyond its ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BOX", "SMOOTH", "Double", "Halve"]

BOX = (1.0, 1.0)
"""Mean and repetition."""
SMOOTH = (1.0, 3.0, 3.0, 1.0)
"""Less aliasing; linear interpolation."""

_CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_POOL = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


class _Filter(nn.Module):
    """A filter along all axes of places."""

    kernel: Tensor

    def __init__(self, dimensions: int, taps: Sequence[float]) -> None:
        super().__init__()
        if len(taps) % 2 or not taps or list(taps) != list(taps)[::-1] or not sum(taps) > 0:
            msg = f"taps must be symmetric, even in number and of a positive sum, got {taps}"
            raise ValueError(f"{msg}: take (1, 1) or (1, 3, 3, 1)")
        self.dimensions, self.taps = dimensions, len(taps)
        self.plain = len(taps) == len(BOX)
        line = torch.tensor(list(taps)) / sum(taps)
        kernel = torch.ones(())
        for _ in range(dimensions):
            kernel = kernel.unsqueeze(-1) * line
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def _kernel(self, x: Tensor) -> Tensor:
        return self.kernel.to(x.dtype).expand(x.shape[1], *self.kernel.shape[1:])


class Halve(_Filter):
    """Half the places along each axis, rounded up.

    Arguments:
        dimensions: Axes of places: 1, 2 or 3.
        taps: The filter, up to its sum.

    Raises:
        ValueError: If the filter is not symmetric, of even length and of a positive sum.

    Example:
        >>> Halve(1)(torch.tensor([[[0.0, 2.0, 5.0]]]))
        tensor([[[1., 5.]]])
    """

    def __init__(self, dimensions: int, taps: Sequence[float] = BOX) -> None:
        super().__init__(dimensions, taps)

    def forward(self, x: Tensor) -> Tensor:
        """`(samples, channels, *places)` to half the places."""
        axis, side = self.dimensions - 1, self.taps // 2 - 1
        ends = [end for size in reversed(x.shape[2:]) for end in (side, side + size % 2)]
        if any(ends):
            x = F.pad(x, ends, mode="replicate")
        if self.plain:
            return _POOL[axis](x, 2)
        return _CONVOLVE[axis](x, self._kernel(x), stride=2, groups=x.shape[1])


class Double(_Filter):
    """Twice the places along each axis.

    Arguments:
        dimensions: Axes of places: 1, 2 or 3.
        taps: The filter, up to its sum.

    Raises:
        ValueError: If the filter is not symmetric, of even length and of a positive sum.

    Example:
        >>> Double(1, SMOOTH)(torch.tensor([[[0.0, 4.0]]]))
        tensor([[[0., 1., 3., 4.]]])
    """

    def __init__(self, dimensions: int, taps: Sequence[float] = BOX) -> None:
        super().__init__(dimensions, taps)

    def forward(self, x: Tensor) -> Tensor:
        """`(samples, channels, *places)` to twice the places."""
        if self.plain:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        side = self.taps // 2 - 1
        wide = F.pad(x, [side] * (2 * self.dimensions), mode="replicate")
        kernel = self._kernel(x) * 2**self.dimensions
        cut = 3 * side
        return _TRANSPOSE[self.dimensions - 1](
            wide, kernel, stride=2, padding=cut, groups=x.shape[1]
        )
