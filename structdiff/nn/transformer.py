r"""A transformer over the rows of samples: of sequences, of sets, of the places of a field.

Each layer adds to the rows x_i of a sample, with n the layer norm and (shift, scale, gate) affine
in the condition and zero at first,

    x <- x + (open + gate) attention(mix((1 + scale) n(x) + shift)),
    x <- x + (open + gate) U max(V ((1 + scale) n(x) + shift), 0)^2,

where open is 1 or 0, and mix(h)_i = h_i + sum_k w_k h_{i+k} looks at near neighbours, entry by
entry. With open = 0 (adaLN-Zero) each layer is the identity at first. Attention knows positions on
any number of axes, see `structdiff.nn.attention`; with none, and no neighbours, the network does
not know the order of the rows: permuting them permutes what it gives.

With long skips the last layers also see what early ones gave, the last one what the first: before
a layer, h <- W (h, h_early) with W = (1, 0) at first.

Packed rows become a dense tensor `(samples, length, width)` inside: a view where all samples have
one length, otherwise with padding that no other row looks at.

References:
    Scalable Diffusion Models with Transformers (Peebles and Xie, 2022), section 3.2: conditions,
    and gates that are zero at first. https://arxiv.org/abs/2212.09748
    All are Worth Words: A ViT Backbone for Diffusion Models (Bao et al., 2022), section 3.1: long
    skips. https://arxiv.org/abs/2209.12152
    Exploring Vision Transformers as Diffusion Learners (Cao et al., 2022), section 3.2: a deep
    encoder and a light decoder. https://arxiv.org/abs/2212.13771
    Primer: Searching for Efficient Transformers for Language Modeling (So et al., 2021), section
    3: squared activations and depthwise convolutions. https://arxiv.org/abs/2109.08668
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from structdiff.layout import Layout
from structdiff.nn.attention import angles, attention, grid, rotate
from structdiff.nn.padding import Padding

__all__ = ["Layer", "Transformer"]


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


class Layer(nn.Module):
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
        zero: bool,
    ) -> None:
        super().__init__()
        self.heads, self.causal, self.open = heads, causal, 0 if zero else 1
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
        self, x: Tensor, condition: Tensor | None, angle: Tensor | None, real: Tensor | None
    ) -> Tensor:
        """`(samples, length, width)`; all but x may be None."""
        shifts: tuple[Tensor | None, ...] = (None,) * 6
        if self.modulation is not None and condition is not None:
            shifts = self.modulation(F.silu(condition)).chunk(6, -1)
        x = self._add(x, self._attention(_norm(x, *shifts[:2]), angle, real), shifts[2])
        h = self.widen(_norm(x, *shifts[3:5]))
        return self._add(x, self.narrow(F.relu(h).square()), shifts[5])

    def _add(self, x: Tensor, change: Tensor, gate: Tensor | None) -> Tensor:
        return x + change if gate is None else x + change * (self.open + gate)

    def _attention(self, h: Tensor, angle: Tensor | None, real: Tensor | None) -> Tensor:
        if self.mix is not None:
            h = self.mix(h, real)
        parts = self.attend(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = parts[:2] if angle is None else rotate(parts[:2], angle)
        seen = attention(query, key, parts[2], real, causal=self.causal)
        mixed: Tensor = self.gather(seen.transpose(1, 2).flatten(2))
        return mixed


def _norm(x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    h = F.layer_norm(x, x.shape[-1:])
    return h if shift is None or scale is None else torch.addcmul(h + shift, h, scale)


class _LongSkip(nn.Module):
    """W (h, early), where W = (1, 0) at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.join = nn.Linear(2 * width, width)
        nn.init.eye_(self.join.weight)
        nn.init.zeros_(self.join.bias)

    def forward(self, h: Tensor, early: Tensor) -> Tensor:
        joined: Tensor = self.join(torch.cat([h, early], -1))
        return joined


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
        axes: Axes of the positions of a row: 1 in a sequence, 0 in a set.
        zero: Whether gates are zero at first, so that each layer is the identity.
        skips: How many of the last layers see what early ones gave.
        checkpointing: Whether layers are computed again on the way back, for less memory.

    Raises:
        ValueError: If the heads do not divide the width into even parts, the neighbours are not
            centred, an entry is too short for the axes, gates are zero with no condition to open
            them, or the skips are not fewer than the other layers; on a call, if a condition is
            missing or of another shape.

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
        axes: int = 1,
        zero: bool = False,
        skips: int = 0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if heads < 1 or width % (2 * heads):
            msg = f"heads must divide width {width} into even parts, got {heads}"
            raise ValueError(f"{msg}: take a width that is a multiple of {2 * max(heads, 1)}")
        if neighbours < 0 or (neighbours and neighbours % 2 == 0 and not causal):
            msg = f"neighbours must be 0, or odd where both sides are seen, got {neighbours}"
            raise ValueError(f"{msg}: take 3")
        if not 0 <= axes <= width // (2 * heads):
            msg = f"axes must be between 0 and {width // (2 * heads)}, a pair of a head's entries"
            raise ValueError(f"{msg} for each, got {axes}: take a larger width or fewer heads")
        if zero and not condition:
            msg = "gates that are zero at first need a condition to open: give condition > 0"
            raise ValueError(msg)
        if not 0 <= skips <= max(0, layers - 2):
            msg = f"skips must be at most {max(0, layers - 2)} for {layers} layers, got {skips}"
            raise ValueError(f"{msg}: two layers at least come before them")
        self.width, self.heads, self.condition = width, heads, condition
        self.axes, self.checkpointing = axes, checkpointing
        self.layers = nn.ModuleList(
            Layer(
                width,
                heads,
                depth=layers,
                condition=condition,
                causal=causal,
                expand=expand,
                neighbours=neighbours,
                zero=zero,
            )
            for _ in range(layers)
        )
        self.skips = nn.ModuleList(_LongSkip(width) for _ in range(skips))

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        condition: Tensor | None = None,
        *,
        condition_of_rows: bool = False,
        places: Tensor | None = None,
    ) -> Tensor:
        """Normed features of each row.

        Arguments:
            x: Features, `(rows, width)`.
            layout: Which sample each row belongs to.
            condition: Features `(samples, condition)`, or `(rows, condition)`.
            condition_of_rows: Whether each row has its own condition.
            places: Positions of the first, second, ... row of a sample, `(length, axes)` with a
                length that no sample exceeds; by default 0, 1, ...
        """
        self._check(layout, condition, condition_of_rows, places)
        if not layout.rows:
            return x
        padding = Padding.of(layout)
        places = grid((padding.length,), x.device) if places is None else places
        if condition is not None:
            condition = padding.dense(condition) if condition_of_rows else condition.unsqueeze(1)
        places = places[: padding.length]
        return padding.packed(self.dense(padding.dense(x), condition, places, padding.real))

    def dense(
        self,
        h: Tensor,
        condition: Tensor | None,
        places: Tensor,
        real: Tensor | None = None,
        *,
        after: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Normed features of rows that are not packed, `(samples, length, width)`.

        Arguments:
            h: Features, `(samples, length, width)`.
            condition: Features, `(samples, 1 or length, condition)`, or None.
            places: Positions, `(length, axes)`; not looked at where there are no axes.
            real: Which rows are no padding, `(samples, length)`; None where all are.
            after: What is done to the rows after layer k, (k, rows) to rows.
        """
        angle = angles(places, self.width // self.heads, h) if self.axes else None
        first = len(self.layers) - len(self.skips)
        early: list[Tensor] = []
        for k, layer in enumerate(self.layers):
            if k >= first:
                h = self.skips[k - first](h, early[self._source(k - first)])
            h = self._run(layer, h, condition, angle, real)
            h = h if after is None else after(k, h)
            if self.skips:
                early.append(h)
        return F.layer_norm(h, h.shape[-1:])

    def _run(self, layer: nn.Module, *inputs: Tensor | None) -> Tensor:
        """A layer, and whether its inside is kept."""
        h: Tensor
        if self.checkpointing and torch.is_grad_enabled():
            h = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            h = layer(*inputs)
        return h

    def _source(self, skip: int) -> int:
        """The layer whose output a skip brings: spread evenly, the last skip brings the first."""
        skips = len(self.skips)
        last = len(self.layers) - skips - 2
        return 0 if skips == 1 else round(last * (skips - 1 - skip) / (skips - 1))

    def _check(
        self, layout: Layout, condition: Tensor | None, of_rows: bool, places: Tensor | None
    ) -> None:
        shape = (layout.rows if of_rows else layout.samples, self.condition)
        found = None if condition is None else tuple(condition.shape)
        if found != (shape if self.condition else None):
            want = f"shape {shape}" if self.condition else "None"
            msg = f"condition must be {want}, got {found}"
            raise ValueError(f"{msg}: give the features that the transformer was made for")
        length, axes = max(layout.counts, default=0), 1 if places is None else places.shape[1]
        if self.axes > 0 and axes != self.axes:
            msg = f"places must have {self.axes} axes, got {axes}"
            raise ValueError(f"{msg}: give the positions of rows, (length, {self.axes})")
        if places is not None and len(places) < length:
            msg = f"places must be at least {length}, the rows of the longest sample"
            raise ValueError(f"{msg}, got {len(places)}")
