r"""Attention of rows with positions on one axis or several.

The entries of a query or a key are turned, pair by pair, by an angle in proportion to the position
of their row, so that their products depend on differences of positions only. With A axes of
positions the pairs take turns: pair k is turned by

    angle_k = speed_k position_{k mod A},    speed_k = 10000^(-floor(k / A) / pairs),

from the fastest, one radian for a step, to slow ones. On a plane the slowest is about 1/100 and in
a space 1/20, as fields with more axes have fewer places along each.

References:
    RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021), section 3.2.
    https://arxiv.org/abs/2104.09864
    Rotary Position Embedding for Vision Transformer (Heo et al., 2024), section 3.1: axes of
    their own. https://arxiv.org/abs/2403.13298
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["angles", "attention", "grid", "rotate"]


def grid(sizes: Sequence[int], device: torch.device | str | None = None) -> Tensor:
    """Places of a line, a plane or a space, the last axis fastest, `(places, axes)`.

    Example:
        >>> grid((2, 2)).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    axes = [torch.arange(size, device=device) for size in sizes]
    return torch.stack([place.flatten() for place in torch.meshgrid(*axes, indexing="ij")], 1)


def angles(places: Tensor, entries: int, like: Tensor, slowest: float = 10000.0) -> Tensor:
    """Angle of each pair of entries at each place, `(length, entries / 2)`.

    Arguments:
        places: Positions, `(length, axes)`.
        entries: Entries of a query, even.
        like: What the queries have the dtype of.
        slowest: Over the speed of the slowest pair of a single axis.
    """
    pairs, axes = entries // 2, places.shape[1]
    pair = torch.arange(pairs, device=places.device)
    step = (pair // axes).to(torch.float64)
    speed = slowest ** (-step / max(pairs, 1))
    position = places.to(torch.float64)[:, pair % axes]
    return (position * speed).to(torch.promote_types(like.dtype, torch.float32))


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turn each pair of entries (k, k + half) of the last axis by the angles of its position."""
    a, b = x.chunk(2, -1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def attention(
    query: Tensor, key: Tensor, value: Tensor, real: Tensor | None, *, causal: bool
) -> Tensor:
    """Mean of the values of what a row sees, `(samples, heads, length, entries)`.

    The fused kernel, except in low precision on a CPU, where it takes four times as long as
    products that are written out.
    """
    # Padding comes last, where no causal row looks.
    mask = None if real is None or causal else real[:, None, None]
    if query.device.type != "cpu" or query.dtype not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
    score = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2)
    if causal:
        mask = score.new_ones(score.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        score = score.masked_fill(~mask, torch.finfo(score.dtype).min)
    return torch.softmax(score, -1, dtype=score.dtype) @ value
