r"""A transformer over the packed rows of sequences.

Each layer adds to the rows x_i of a sample, with n the layer norm and (shift, scale, gate) affine
in the condition and zero at first,

    x <- x + (1 + gate) attention(mix((1 + scale) n(x) + shift)),
    x <- x + (1 + gate) U max(V ((1 + scale) n(x) + shift), 0)^2,

where mix(h)_i = h_i + sum_k w_k h_{i+k} looks at near neighbours, entry by entry. Queries and keys
are turned by an angle in proportion to the position of their row in its sample, so their products
depend on differences of positions only.

Rows become a dense tensor `(samples, length, width)` inside: a view where all samples have one
length, otherwise with padding that no other row looks at.

References:
    Scalable Diffusion Models with Transformers (Peebles and Xie, 2022), section 3.2: conditions.
    https://arxiv.org/abs/2212.09748
    RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021), section 3.2.
    https://arxiv.org/abs/2104.09864
    Primer: Searching for Efficient Transformers for Language Modeling (So et al., 2021), section
    3: squared activations and depthwise convolutions. https://arxiv.org/abs/2109.08668
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.layout import Layout

__all__ = ["Transformer"]


@dataclass(frozen=True)
class _Padding:
    """Packed rows as a dense tensor, and back.

    Arguments:
        samples: Number of samples.
        length: Rows of the longest sample.
        place: Row in the dense tensor of each packed one, `(rows,)`; None where it is a view.
        real: Which dense rows are no padding, `(samples, length)`; None where all are.
    """

    samples: int
    length: int
    place: Tensor | None
    real: Tensor | None

    @classmethod
    def of(cls, layout: Layout) -> _Padding:
        """From the counts of a layout, which are Python ints: no device is read."""
        samples, length = layout.samples, max(layout.counts, default=0)
        if samples * length == layout.rows:
            return cls(samples, length, None, None)
        device = layout.sample.device
        size = torch.tensor(layout.counts, device=device)
        row = torch.arange(layout.rows, device=device) - (size.cumsum(0) - size)[layout.sample]
        real = torch.arange(length, device=device) < size.unsqueeze(1)
        return cls(samples, length, layout.sample * length + row, real)

    def dense(self, x: Tensor) -> Tensor:
        """`(rows, width)` to `(samples, length, width)`, zero where it is padding."""
        shape = (self.samples, self.length, x.shape[1])
        if self.place is None:
            return x.view(shape)
        zeros = x.new_zeros(self.samples * self.length, x.shape[1])
        return zeros.index_copy(0, self.place, x).view(shape)

    def packed(self, x: Tensor) -> Tensor:
        """`(samples, length, width)` to `(rows, width)`."""
        flat = x.reshape(-1, x.shape[2])
        return flat if self.place is None else flat.index_select(0, self.place)


def _angles(length: int, entries: int, like: Tensor, slowest: float = 10000.0) -> Tensor:
    """Angle of each pair of entries at each position, `(length, entries / 2)`."""
    steps = torch.arange(entries // 2, device=like.device, dtype=torch.float64)
    speed = slowest ** (-steps / max(entries // 2, 1))
    position = torch.arange(length, device=like.device, dtype=torch.float64)
    return (position.unsqueeze(1) * speed).to(torch.promote_types(like.dtype, torch.float32))


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turn each pair of entries (k, k + half) of the last axis by the angles of its position."""
    a, b = x.chunk(2, -1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class _Neighbours(nn.Module):
    """h_i + sum_k w_k h_{i+k}, entry by entry, over k <= 0 (causal) or k around 0."""

    def __init__(self, width: int, taps: int, *, causal: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(taps, width))
        self.before = taps - 1 if causal else taps // 2

    def forward(self, h: Tensor, real: Tensor | None) -> Tensor:
        if real is not None:
            h = h * real.unsqueeze(2)
        taps, length = self.weight.shape[0], h.shape[1]
        wide = F.pad(h, (0, 0, self.before, taps - 1 - self.before))
        weight = self.weight.to(h.dtype)
        for k in range(taps):
            h = torch.addcmul(h, wide[:, k : k + length], weight[k])
        return h


class _Layer(nn.Module):
    """Attention, then a row-wise network; see the module."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        depth: int,
        condition: int,
        causal: bool,
        expand: int,
        neighbours: int,
    ) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.modulation = nn.Linear(condition, 6 * width) if condition else None
        self.mix = _Neighbours(width, neighbours, causal=causal) if neighbours else None
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.gather = nn.Linear(width, width, bias=False)
        self.widen = nn.Linear(width, expand * width, bias=False)
        self.narrow = nn.Linear(expand * width, width, bias=False)
        for linear in (self.attend, self.gather, self.widen, self.narrow):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
        for linear in (self.gather, self.narrow):
            linear.weight.data.mul_(1 / math.sqrt(2 * depth))
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(
        self, x: Tensor, condition: Tensor | None, angle: Tensor, real: Tensor | None
    ) -> Tensor:
        shifts: tuple[Tensor | None, ...] = (None,) * 6
        if self.modulation is not None and condition is not None:
            shifts = self.modulation(F.silu(condition)).chunk(6, -1)
        x = _add(x, self._attention(_norm(x, *shifts[:2]), angle, real), shifts[2])
        h = self.widen(_norm(x, *shifts[3:5]))
        return _add(x, self.narrow(F.relu(h).square()), shifts[5])

    def _attention(self, h: Tensor, angle: Tensor, real: Tensor | None) -> Tensor:
        if self.mix is not None:
            h = self.mix(h, real)
        parts = self.attend(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = rotate(parts[:2], angle)
        seen = attention(query, key, parts[2], real, causal=self.causal)
        mixed: Tensor = self.gather(seen.transpose(1, 2).flatten(2))
        return mixed


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


def _norm(x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    h = F.layer_norm(x, x.shape[-1:])
    return h if shift is None or scale is None else torch.addcmul(h + shift, h, scale)


def _add(x: Tensor, change: Tensor, gate: Tensor | None) -> Tensor:
    return x + change if gate is None else x + change * (1 + gate)


class Transformer(nn.Module):
    """Features of rows that have seen the other rows of their sample.

    Arguments:
        width: Features of a row.
        layers: Number of layers.
        heads: Heads of attention; `width / heads` is whole and even.
        condition: Features of the condition; 0 for none.
        causal: Whether a row sees only rows before it, and itself.
        expand: Width inside the row-wise network, over `width`.
        neighbours: How many near rows are mixed before attention; 0 for none, odd unless causal.

    Raises:
        ValueError: If the heads do not divide the width into even parts, or the neighbours are
            not centred; on a call, if a condition is missing or of another shape.

    Example:
        >>> network = Transformer(8, 2, 2)
        >>> network(torch.randn(5, 8), Layout.ragged([3, 2])).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        *,
        condition: int = 0,
        causal: bool = False,
        expand: int = 4,
        neighbours: int = 3,
    ) -> None:
        super().__init__()
        if heads < 1 or width % (2 * heads):
            msg = f"heads must divide width {width} into even parts, got {heads}"
            raise ValueError(f"{msg}: take a width that is a multiple of {2 * max(heads, 1)}")
        if neighbours < 0 or (neighbours and neighbours % 2 == 0 and not causal):
            msg = f"neighbours must be 0, or odd where both sides are seen, got {neighbours}"
            raise ValueError(f"{msg}: take 3")
        self.width, self.heads, self.condition = width, heads, condition
        self.layers = nn.ModuleList(
            _Layer(
                width,
                heads,
                depth=layers,
                condition=condition,
                causal=causal,
                expand=expand,
                neighbours=neighbours,
            )
            for _ in range(layers)
        )

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        condition: Tensor | None = None,
        *,
        condition_of_rows: bool = False,
    ) -> Tensor:
        """Normed features of each row.

        Arguments:
            x: Features, `(rows, width)`.
            layout: Which sample each row belongs to.
            condition: Features `(samples, condition)`, or `(rows, condition)`.
            condition_of_rows: Whether each row has its own condition.
        """
        self._check(layout, condition, condition_of_rows)
        if not layout.rows:
            return x
        padding = _Padding.of(layout)
        angle = _angles(padding.length, self.width // self.heads, x)
        if condition is not None:
            condition = padding.dense(condition) if condition_of_rows else condition.unsqueeze(1)
        h = padding.dense(x)
        for layer in self.layers:
            h = layer(h, condition, angle, padding.real)
        return padding.packed(F.layer_norm(h, h.shape[-1:]))

    def _check(self, layout: Layout, condition: Tensor | None, of_rows: bool) -> None:
        shape = (layout.rows if of_rows else layout.samples, self.condition)
        found = None if condition is None else tuple(condition.shape)
        if found != (shape if self.condition else None):
            want = f"shape {shape}" if self.condition else "None"
            msg = f"condition must be {want}, got {found}"
            raise ValueError(f"{msg}: give the features that the transformer was made for")
