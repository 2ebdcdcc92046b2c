r"""A transformer over the patches of a field: DiT, U-ViT and the plain vision transformer.

A field `(samples, channels, *places)` is cut into patches of `patch` places along each axis, each
becomes a row of `structdiff.nn.transformer.Transformer`, with the angles of its place on the grid
and features of them, and the rows become a field again by a layer that is zero at first.

What is known of a sample either modulates each layer by gates that are zero at first (DiT), or is
one more row (U-ViT; without long skips the plain transformer). The tokens of a context are rows,
too: the patches attend to them, to those alone that count.

References:
    Scalable Diffusion Models with Transformers (Peebles and Xie, 2022). https://arxiv.org/abs/2212.09748
    All are Worth Words: A ViT Backbone for Diffusion Models (Bao et al., 2022): everything is a
    row. https://arxiv.org/abs/2209.12152
    An Image is Worth 16x16 Words (Dosovitskiy et al., 2020), section 3.1: patches.
    https://arxiv.org/abs/2010.11929
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.nn.attention import grid
from structdiff.nn.embedding import ClockEmbedding
from structdiff.nn.inputs import check_inputs, check_sizes
from structdiff.nn.transformer import Transformer

__all__ = ["PatchTransformer", "Places", "from_patches", "to_patches"]

_PLACE = 32


def to_patches(x: Tensor, patch: int) -> Tensor:
    """The entries of each patch as channels, `(samples, channels * patch^axes, *grid)`.

    Arguments:
        x: A field, `(samples, channels, *places)`; zeros fill the last patch of an axis.
        patch: Places of a patch along each axis.

    Example:
        >>> to_patches(torch.arange(5.0).view(1, 1, 5), 2).tolist()
        [[[0.0, 2.0, 4.0], [1.0, 3.0, 0.0]]]
    """
    if patch == 1:
        return x
    axes = x.ndim - 2
    missing = [size for place in reversed(x.shape[2:]) for size in (0, -place % patch)]
    x = F.pad(x, missing) if any(missing) else x
    sizes = [size for place in x.shape[2:] for size in (place // patch, patch)]
    outside, inside = (range(first, 2 + 2 * axes, 2) for first in (2, 3))
    x = x.reshape(*x.shape[:2], *sizes).permute(0, 1, *inside, *outside)
    return x.flatten(1, 1 + axes)


def from_patches(h: Tensor, patch: int, places: torch.Size) -> Tensor:
    """The field of these patches, `(samples, channels, *places)`.

    Arguments:
        h: Patches, `(samples, channels * patch^axes, *grid)`.
        patch: Places of a patch along each axis.
        places: Size of the field; what is beyond it is left out.

    Example:
        >>> x = torch.randn(2, 3, 5, 4)
        >>> bool((from_patches(to_patches(x, 2), 2, x.shape[2:]) == x).all())
        True
    """
    if patch == 1:
        return h
    axes = len(places)
    channels, grid_sizes = h.shape[1] // patch**axes, h.shape[2:]
    h = h.reshape(len(h), channels, *(patch,) * axes, *grid_sizes)
    h = h.permute(0, 1, *(axis for k in range(axes) for axis in (2 + axes + k, 2 + k)))
    h = h.reshape(len(h), channels, *(size * patch for size in grid_sizes))
    for axis, size in enumerate(places):
        h = h.narrow(2 + axis, 0, size)
    return h


class PatchTransformer(nn.Module):
    """A field to a field of the same size, any size.

    Arguments:
        inputs: Channels of the field.
        outputs: Channels of the output.
        condition: Features of what is known of a sample; 0 for none.
        context: Features of a token; 0 where there are none.
        dimensions: Axes of the field.
        patch: Places of a patch along each axis.
        width: Features of a patch.
        layers: Number of layers.
        heads: Heads of attention.
        adaptive: Whether the condition modulates each layer, which is the identity at first;
            otherwise the condition is a row.
        long_skips: Whether layers of a decoder see what those of an encoder gave.
        decoder: How many of the layers are the decoder; by default as many as leave one between
            encoder and decoder.
        positions: Whether patches know where they are.
        expand: Width inside the row-wise network, over `width`.
        checkpointing: Whether layers are computed again on the way back, for less memory.

    Raises:
        ValueError: If a number is not positive, the heads do not divide the width into even
            parts, or there is a decoder with no long skips; on a call, if an input has another
            shape than the network was made for.

    Example:
        >>> network = PatchTransformer(3, 3, condition=8, width=16, layers=2, heads=2)
        >>> network(torch.randn(2, 3, 9, 6), torch.randn(2, 8)).shape
        torch.Size([2, 3, 9, 6])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        condition: int = 0,
        context: int = 0,
        dimensions: int = 2,
        patch: int = 2,
        width: int = 256,
        layers: int = 8,
        heads: int = 4,
        adaptive: bool = True,
        long_skips: bool = False,
        decoder: int | None = None,
        positions: bool = True,
        expand: int = 4,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(inputs=inputs, outputs=outputs, dimensions=dimensions, patch=patch)
        check_sizes(width=width, layers=layers, expand=expand)
        if decoder is not None and not long_skips:
            msg = f"decoder must be None without long skips, got {decoder}: set long_skips=True"
            raise ValueError(msg)
        skips = (max(0, layers - 1) // 2 if decoder is None else decoder) if long_skips else 0
        self.inputs, self.condition, self.context = inputs, condition, context
        self.dimensions, self.patch = dimensions, patch
        self.enter = nn.Linear(inputs * patch**dimensions, width)
        self.where = Places(dimensions, width) if positions else None
        row = condition > 0 and not adaptive
        self.known = nn.Linear(condition, width) if row else None
        self.tokens = nn.Linear(context, width) if context else None
        modulated = condition if adaptive else 0
        self.transformer = Transformer(
            width,
            layers,
            heads,
            condition=modulated,
            expand=expand,
            neighbours=0,
            axes=dimensions if positions else 0,
            zero=modulated > 0,
            skips=skips,
            checkpointing=checkpointing,
        )
        self.modulation = nn.Linear(modulated, 2 * width) if modulated else None
        self.leave = nn.Linear(width, outputs * patch**dimensions)
        for linear in (self.modulation, self.leave):
            if linear is not None:
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        after: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """`(samples, outputs, *places)`.

        Arguments:
            x: A field, `(samples, inputs, *places)`.
            condition: What is known of each sample, `(samples, condition)`, or None.
            context: Tokens, `(samples, tokens, context)`, or None.
            mask: Which tokens count, `(samples, tokens)`; None where all do.
            after: What is done to the rows after layer k, (k, rows) to rows: those of patches,
                then those of the condition and the tokens.
        """
        self._check(x, condition, context, mask)
        patches = to_patches(x, self.patch)
        h = self.enter(patches.flatten(2).transpose(1, 2))
        length, places = h.shape[1], grid(patches.shape[2:], x.device)
        if self.where is not None:
            h = h + self.where(places).to(h.dtype)
        rows = [h, *self._rows(condition, context, mask)]
        h = torch.cat(rows, 1) if len(rows) > 1 else h
        # Rows that are no patches have the place of the first one.
        places = F.pad(places, (0, 0, 0, h.shape[1] - length))
        real = None
        if context is not None and mask is not None:
            real = F.pad(mask, (h.shape[1] - mask.shape[1], 0), value=True)
        known = None if self.modulation is None or condition is None else condition.unsqueeze(1)
        h = self.transformer.dense(h, known, places, real, after=after)[:, :length]
        if self.modulation is not None and known is not None:
            shift, scale = self.modulation(F.silu(known)).chunk(2, -1)
            h = torch.addcmul(h + shift, h, scale)
        out = self.leave(h).transpose(1, 2).unflatten(2, patches.shape[2:])
        return from_patches(out, self.patch, x.shape[2:])

    def _rows(
        self, condition: Tensor | None, context: Tensor | None, mask: Tensor | None
    ) -> list[Tensor]:
        """Rows that are no patches: the condition where it modulates nothing, and the tokens."""
        rows = []
        if self.known is not None and condition is not None:
            rows.append(self.known(condition).unsqueeze(1))
        if self.tokens is not None and context is not None:
            counted = context if mask is None else torch.where(mask.unsqueeze(2), context, 0.0)
            rows.append(self.tokens(counted))
        return rows

    def _check(
        self, x: Tensor, condition: Tensor | None, context: Tensor | None, mask: Tensor | None
    ) -> None:
        check_inputs(
            x,
            condition,
            context,
            mask,
            inputs=self.inputs,
            features=self.condition,
            tokens=self.context,
            dimensions=self.dimensions,
        )


class Places(nn.Module):
    """Features of places: sines and cosines along each axis, mixed."""

    def __init__(self, dimensions: int, width: int) -> None:
        super().__init__()
        self.waves = ClockEmbedding(_PLACE, lowest=0.01, highest=1.5)
        self.mix = nn.Linear(dimensions * _PLACE, width, bias=False)

    def forward(self, places: Tensor) -> Tensor:
        """`(length, axes)` to `(length, width)`."""
        mixed: Tensor = self.mix(self.waves(places.to(self.mix.weight.dtype)).flatten(1))
        return mixed
