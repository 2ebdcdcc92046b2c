r"""Convolutional towers: from a field to a small one of features, and back.

A field is `(samples, channels, *places)` over a line, a plane or a space. The encoder divides the
places by a factor at each level, the decoder multiplies them in the opposite order:

    encoder level: strided convolution, residual blocks
    decoder level: residual blocks, nearest neighbour up, convolution

but that the decoder's last level is a convolution which gives each place all its new ones, the
same at lower cost: there the channels are few and the places many.

A residual block is h + conv(silu(norm(conv(silu(norm(h)))))) with group norms, and is the identity
before training. Nothing in here looks at the clock: see `UNet` for a network that does.

References:
    High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022), appendix
    G. https://arxiv.org/abs/2112.10752
    Deconvolution and Checkerboard Artifacts (Odena, Dumoulin and Olah, 2016): why nearest
    neighbours and then a convolution. https://doi.org/10.23915/distill.00003
    Group Normalization (Wu and He, 2018). https://arxiv.org/abs/1803.08494
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConvolutionalDecoder", "ConvolutionalEncoder", "convolution"]

_CONVOLUTIONS: tuple[type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
)
_GROUPS = 8


def convolution(
    axes: int, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, padding: int = 1
) -> nn.Module:
    """A convolution over so many axes of places.

    Raises:
        ValueError: If there are not 1, 2 or 3 axes.
    """
    if axes not in (1, 2, 3):
        msg = f"axes must be 1 (a line), 2 (a plane) or 3 (a space), got {axes}"
        raise ValueError(msg)
    return _CONVOLUTIONS[axes - 1](inputs, outputs, kernel, stride=stride, padding=padding)


class ConvolutionalEncoder(nn.Module):
    """A field to a smaller one.

    Arguments:
        axes: Axes of places: 1, 2 or 3.
        inputs: Channels of the field.
        outputs: Channels of the output.
        widths: Channels after each level, the largest field first.
        factors: What each level divides the places by; as many as widths.
        blocks: Residual blocks of each level, at least 0.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import torch
        >>> ConvolutionalEncoder(2, 1, 8, widths=(16, 32))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 8, 7, 7])
    """

    def __init__(
        self,
        axes: int,
        inputs: int,
        outputs: int,
        *,
        widths: Sequence[int] = (32, 64),
        factors: Sequence[int] = (2, 2),
        blocks: int = 1,
    ) -> None:
        super().__init__()
        _check_tower(inputs, outputs, widths, factors, blocks)
        layers: list[nn.Module] = []
        before = inputs
        for width, factor in zip(widths, factors, strict=True):
            margin = max(1, factor // 2)
            kernel = factor + 2 * margin
            down = convolution(axes, before, width, kernel, stride=factor, padding=margin)
            layers += [down, *(_Residual(axes, width) for _ in range(blocks))]
            before = width
        self.layers = nn.Sequential(*layers)
        self.leave = _leave(axes, before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Features `(samples, outputs, *fewer places)` of a field whose places divide evenly."""
        features: Tensor = self.leave(self.layers(x))
        return features


class ConvolutionalDecoder(nn.Module):
    """A small field to a larger one: the levels of `ConvolutionalEncoder` in opposite order.

    Arguments:
        axes: Axes of places: 1, 2 or 3.
        inputs: Channels of the small field.
        outputs: Channels of the output.
        widths: Channels of each level, the largest field first, as of the encoder.
        factors: What each level multiplies the places by, as of the encoder.
        blocks: Residual blocks of each level, at least 0.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import torch
        >>> ConvolutionalDecoder(1, 4, 1, factors=(4, 2))(torch.zeros(5, 4, 10)).shape
        torch.Size([5, 1, 80])
    """

    def __init__(
        self,
        axes: int,
        inputs: int,
        outputs: int,
        *,
        widths: Sequence[int] = (32, 64),
        factors: Sequence[int] = (2, 2),
        blocks: int = 1,
    ) -> None:
        super().__init__()
        _check_tower(inputs, outputs, widths, factors, blocks)
        layers: list[nn.Module] = [convolution(axes, inputs, widths[-1])]
        after = [outputs, *widths[:-1]]
        for level in reversed(range(len(widths))):
            width, factor = widths[level], factors[level]
            layers += [_Residual(axes, width) for _ in range(blocks)]
            up = _Up if level > 0 else _Spread
            layers += [_norm(width), nn.SiLU(), up(axes, width, after[level], factor)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """A field `(samples, outputs, *more places)`."""
        field: Tensor = self.layers(z)
        return field


class _Residual(nn.Module):
    """h + conv(silu(norm(conv(silu(norm(h))))))."""

    def __init__(self, axes: int, width: int) -> None:
        super().__init__()
        last = convolution(axes, width, width)
        for x in last.parameters():
            nn.init.zeros_(x)
        first = convolution(axes, width, width)
        self.inside = nn.Sequential(_norm(width), nn.SiLU(), first, _norm(width), nn.SiLU(), last)

    def forward(self, h: Tensor) -> Tensor:
        moved: Tensor = h + self.inside(h)
        return moved


class _Up(nn.Module):
    """Each place repeated along all axes, then a convolution."""

    def __init__(self, axes: int, inputs: int, outputs: int, factor: int) -> None:
        super().__init__()
        margin = max(1, factor - 1)
        self.factor = factor
        self.smooth = convolution(axes, inputs, outputs, 1 + 2 * margin, padding=margin)

    def forward(self, h: Tensor) -> Tensor:
        larger = F.interpolate(h, scale_factor=float(self.factor)) if self.factor > 1 else h
        smoothed: Tensor = self.smooth(larger)
        return smoothed


class _Spread(nn.Module):
    """A convolution that gives each place all its new ones; at first they are alike."""

    def __init__(self, axes: int, inputs: int, outputs: int, factor: int) -> None:
        super().__init__()
        self.axes, self.factor, self.outputs = axes, factor, outputs
        self.inside = convolution(axes, inputs, outputs * factor**axes)
        for x in self.inside.parameters():
            x.data = x.data[:outputs].repeat_interleave(factor**axes, 0)

    def forward(self, h: Tensor) -> Tensor:
        parts = self.inside(h).unflatten(1, (self.outputs, *(self.factor,) * self.axes))
        order = [0, 1]
        for axis in range(self.axes):
            order += [2 + self.axes + axis, 2 + axis]
        places = [size * self.factor for size in h.shape[2:]]
        field: Tensor = parts.permute(order).reshape(len(h), self.outputs, *places)
        return field


def _leave(axes: int, inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(_norm(inputs), nn.SiLU(), convolution(axes, inputs, outputs))


def _norm(width: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(width, _GROUPS), width)


def _check_tower(
    inputs: int, outputs: int, widths: Sequence[int], factors: Sequence[int], blocks: int
) -> None:
    """Refuse numbers that make no tower."""
    if min(inputs, outputs) < 1 or blocks < 0:
        msg = "inputs and outputs must be at least 1 and blocks at least 0"
        raise ValueError(f"{msg}, got {inputs}, {outputs} and {blocks}")
    if not widths or len(widths) != len(factors) or min(*widths, *factors) < 1:
        msg = "widths and factors must be positive and as many of the one as of the other"
        raise ValueError(f"{msg}, at least one, got {list(widths)} and {list(factors)}")
