r"""Blocks of a U-Net over fields `(samples, channels, *places)`.

With n the group norm, l the layer norm of a place, and (scale, shift) affine in the condition and
zero at first,

    x <- r (R x + C_2 silu((1 + scale) n(C_1 R silu(n(x))) + shift)),
    x <- x + attention(l(x)),

C_1 and C_2 convolutions, R a change of resolution (BigGAN) or nothing, r = 1, or 1 / sqrt 2 which
keeps the variance of a sum of two independent fields (skip rescaling). With r = 1 the last layer
of each sum is zero at first, so that it is the identity; with r = 1 / sqrt 2 it has unit variance.
Attention, a mean of many values, is zero at first in both cases.

References:
    Denoising Diffusion Probabilistic Models (Ho, Jain and Abbeel, 2020), appendix B.
    https://arxiv.org/abs/2006.11239
    Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021), section 3.1:
    adaptive group norm, blocks that resample. https://arxiv.org/abs/2105.05233
    Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021),
    appendix H: skip rescaling. https://arxiv.org/abs/2011.13456 There the last layer is zero in
    both cases, and attention is rescaled too, so that they halve the variance before training.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.nn.attention import attention, grid
from structdiff.nn.group_norm import AdaptiveGroupNorm
from structdiff.nn.transformer import Transformer

__all__ = [
    "Attention",
    "CrossAttention",
    "Resample",
    "ResidualBlock",
    "Stage",
    "TransformerBlock",
    "convolution",
]

_HALF = math.sqrt(0.5)
_SILU = 1.6766
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def convolution(
    dimensions: int, inputs: int, outputs: int, *, size: int = 3, gain: float = 1.0
) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """A convolution that keeps the places and, at first, `gain` times the standard deviation."""
    made = _CONVOLUTIONS[dimensions - 1](inputs, outputs, size, padding=size // 2)
    _start(made.weight, made.bias, gain)
    return made


def _linear(inputs: int, outputs: int, *, gain: float = 1.0, bias: bool = True) -> nn.Linear:
    """A linear layer that has, at first, `gain` times the standard deviation of its input."""
    made = nn.Linear(inputs, outputs, bias=bias)
    _start(made.weight, made.bias, gain)
    return made


def _start(weight: Tensor, bias: Tensor | None, gain: float) -> None:
    """Normal weights of a variance that keeps that of independent inputs; no bias."""
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))
    if bias is not None:
        nn.init.zeros_(bias)


class ResidualBlock(nn.Module):
    """Two convolutions beside a straight way.

    Arguments:
        inputs: Channels.
        outputs: Channels of the result.
        dimensions: Axes of places.
        condition: Features of a sample; 0 for none.
        rescale: Whether sums are divided by sqrt 2.
        dropout: Share of the entries that are dropped before the last convolution.
        resample: What changes the resolution inside the block, if anything.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dimensions: int,
        condition: int,
        rescale: bool = False,
        dropout: float = 0.0,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.before = AdaptiveGroupNorm(inputs)
        self.between = AdaptiveGroupNorm(outputs, condition)
        self.first = convolution(dimensions, inputs, outputs, gain=_SILU)
        self.last = convolution(dimensions, outputs, outputs, gain=_SILU if rescale else 0.0)
        self.straight = (
            convolution(dimensions, inputs, outputs, size=1) if inputs != outputs else None
        )
        self.resample, self.rescale, self.dropout = resample, rescale, dropout

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """`(samples, inputs, *places)` to `(samples, outputs, *places)`.

        Arguments:
            x: The field.
            condition: Features `(samples, condition)`.
        """
        h = self.before(x)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.between(self.first(h), condition)
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        h = self.last(h)
        x = x if self.straight is None else self.straight(x)
        total: Tensor = x + h
        return total * _HALF if self.rescale else total


class Attention(nn.Module):
    """Places that look at all places; it is nothing at first.

    Arguments:
        width: Channels.
        heads: Heads; they divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(width), heads
        self.attend = _linear(width, 3 * width)
        self.gather = _linear(width, width, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """`(samples, width, *places)` to the same."""
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        parts = self.attend(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        seen = attention(query, key, value, None, causal=False)
        return _join(x, self.gather(seen.transpose(1, 2).flatten(2)))


class CrossAttention(nn.Module):
    """Places that look at the tokens of a condition; it is nothing at first.

    Arguments:
        width: Channels.
        context: Features of a token.
        heads: Heads; they divide the width.
    """

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(width), heads
        self.ask = _linear(width, width)
        self.tell = _linear(context, 2 * width, bias=False)
        self.gather = _linear(width, width, gain=0.0, bias=False)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """`(samples, width, *places)` to the same.

        Arguments:
            x: The field.
            context: Tokens, `(samples, tokens, context)`; zero where they do not count.
            mask: Tokens that are seen, `(samples, tokens)`, at least one a sample; None for all.
        """
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        query = self.ask(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.tell(context).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = attention(query, key, value, mask, causal=False)
        return _join(x, self.gather(seen.transpose(1, 2).flatten(2)))


class TransformerBlock(nn.Module):
    """A transformer over the places; it is nothing at first.

    Arguments:
        width: Channels.
        heads: Heads; they divide the width into even parts.
        layers: Layers of the transformer.
        dimensions: Axes of places.
        condition: Features of a sample; 0 for none.
    """

    def __init__(
        self, width: int, heads: int, *, layers: int, dimensions: int, condition: int
    ) -> None:
        super().__init__()
        self.transformer = Transformer(width, layers, heads, condition=condition, axes=dimensions)
        self.gather = _linear(width, width, gain=0.0, bias=False)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """`(samples, width, *places)` to the same.

        Arguments:
            x: The field.
            condition: Features `(samples, condition)`.
        """
        told = None if condition is None else condition.unsqueeze(1)
        tokens, places = x.flatten(2).transpose(1, 2), grid(x.shape[2:], x.device)
        seen = self.transformer.dense(tokens, told, places)
        return _join(x, self.gather(seen))


class Resample(nn.Module):
    """A change of resolution by a filter, and then a convolution or not.

    Arguments:
        resample: The filter.
        convolve: The convolution.
    """

    def __init__(self, resample: nn.Module, convolve: nn.Module | None) -> None:
        super().__init__()
        self.resample, self.convolve = resample, convolve

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """`(samples, channels, *places)` to other places.

        Arguments:
            x: The field.
            condition: Not used.
        """
        del condition
        h: Tensor = self.resample(x)
        return h if self.convolve is None else self.convolve(h)


class Stage(nn.Module):
    """A residual block and what follows it at its resolution.

    Arguments:
        block: The block.
        attend: Attention among places.
        cross: Attention to the tokens of a condition.
    """

    def __init__(
        self, block: ResidualBlock, attend: Attention | None, cross: CrossAttention | None
    ) -> None:
        super().__init__()
        self.block, self.attend, self.cross = block, attend, cross

    def forward(
        self, x: Tensor, condition: Tensor | None, context: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """`(samples, inputs, *places)` to `(samples, outputs, *places)`.

        Arguments:
            x: The field.
            condition: Features `(samples, condition)`.
            context: Tokens, `(samples, tokens, context)`.
            mask: Tokens that are seen, `(samples, tokens)`.
        """
        h: Tensor = self.block(x, condition)
        if self.attend is not None:
            h = self.attend(h)
        if self.cross is not None and context is not None:
            h = self.cross(h, context, mask)
        return h


def _join(x: Tensor, tokens: Tensor) -> Tensor:
    """A field and what its places, `(samples, places, width)`, are to change by."""
    return x + tokens.transpose(1, 2).reshape(x.shape).to(x.dtype)
