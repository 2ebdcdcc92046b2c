r"""Group norm, scale, shift and silu.

With m and s^2 the mean and the variance over the places and the channels of a group, and w and b
that may differ from sample to sample,

    y = silu(w (x - m) / s + b) = silu(a x + c),    a = w / s, c = b - a m.

For a field in channels-last order on a CPU, where the group norm of torch takes several times as
long as in the other order, this is how it is found: m and s^2 = mean(x^2) - m^2 by sums over
places, then a x + c in one go.

References:
    Group Normalization (Wu and He, 2018), eqs. 1 to 6. https://arxiv.org/abs/1803.08494
    Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021), section 3.1.
    https://arxiv.org/abs/2105.05233
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AdaptiveGroupNorm", "groups_of"]

_SMALL = 1e-5
_MOST = 32
_LEAST = 4


def groups_of(width: int) -> int:
    """A number of groups of at least four channels each, where the width allows it.

    Example:
        >>> [groups_of(width) for width in (3, 32, 48, 128, 192)]
        [1, 8, 12, 32, 32]
    """
    most = max(1, min(_MOST, width // _LEAST))
    return next(groups for groups in range(most, 0, -1) if width % groups == 0)


class AdaptiveGroupNorm(nn.Module):
    """silu(scale norm(x) + shift), where scale and shift follow a condition.

    Arguments:
        width: Channels.
        condition: Features of a sample; 0 for none. What they do to scale and shift is zero at
            first.

    Example:
        >>> layer = AdaptiveGroupNorm(8, condition=2)
        >>> x = torch.randn(3, 8, 5)
        >>> torch.allclose(layer(x, torch.randn(3, 2)), F.silu(F.group_norm(x, 2)), atol=1e-5)
        True
    """

    def __init__(self, width: int, condition: int = 0) -> None:
        super().__init__()
        self.groups = groups_of(width)
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.modulation = nn.Linear(condition, 2 * width) if condition else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """`(samples, width, *places)` to the same.

        Arguments:
            x: The field.
            condition: Features `(samples, condition)`.
        """
        weight, bias = self.weight.expand(len(x), -1), self.bias.expand(len(x), -1)
        if self.modulation is not None and condition is not None:
            scale, shift = self.modulation(condition).to(weight.dtype).chunk(2, 1)
            weight, bias = torch.addcmul(weight, weight, scale), bias + shift
        if torch.compiler.is_compiling() or x.device.type != "cpu" or x.is_contiguous():
            x = F.group_norm(x, self.groups, eps=_SMALL)
        else:
            weight, bias = self._of_sums(x, weight, bias)
        shape = (*weight.shape, *(1,) * (x.ndim - 2))
        weight, bias = weight.to(x.dtype).reshape(shape), bias.to(x.dtype).reshape(shape)
        return F.silu(torch.addcmul(bias, x, weight))

    def _of_sums(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """a and c, `(samples, width)`."""
        sums: Tensor = _Sums.apply(x)  # type: ignore[no-untyped-call]
        parts = sums.reshape(2, len(x), self.groups, -1)
        mean, square = (parts.sum(3, keepdim=True) / x[0, 0].numel() / parts.shape[3]).unbind(0)
        slope = torch.rsqrt((square - mean * mean).clamp(min=0) + _SMALL)
        a = weight.reshape(len(x), self.groups, -1) * slope
        return a.flatten(1), bias - (a * mean).flatten(1)


class _Sums(torch.autograd.Function):
    """Sums over places of x and of x^2, `(2, samples, width)`, with one pass on the way back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _both(x, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        shape = (*x.shape[:2], *(1,) * (x.ndim - 2))
        first, second = (part.reshape(shape).to(x.dtype) for part in gradient.unbind(0))
        return torch.addcmul(first, x, second, value=2)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _both(tangent, 2 * x)


def _both(x: Tensor, y: Tensor) -> Tensor:
    """Sums over places of x and of x y."""
    places, dtype = list(range(2, x.ndim)), torch.promote_types(x.dtype, torch.float32)
    return torch.stack([x.sum(places, dtype=dtype), (x * y).sum(places, dtype=dtype)])
