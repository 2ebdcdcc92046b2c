r"""A recurrent interface network: most of the work is done on few latent rows.

The patches of a field are the interface, x, and a fixed number of learned rows the latents, z. A
block reads, computes and writes,

    z <- z + attention(z to x),    z <- layers(z),    x <- x + attention(x to z),

each attention followed by a row-wise network, so that the cost of layers does not grow with the
field. The features of the condition and the tokens of a context are rows beside the latents.

The latents of one call can be those that the next begins with, see `structdiff.remembering`: to
the learned rows comes the norm of what was carried, with a gain that is zero at first.

References:
    Scalable Adaptive Computation for Iterative Generation (Jabri, Fleet and Chen, 2022), section
    2 and figure 2. https://arxiv.org/abs/2212.11972
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.nn.attention import attention, grid
from structdiff.nn.inputs import check_inputs, check_sizes
from structdiff.nn.patches import Places, from_patches, to_patches
from structdiff.nn.transformer import Layer

__all__ = ["InterfaceNetwork"]


class _Look(nn.Module):
    """Rows that look at other rows, then a row-wise network of each."""

    def __init__(self, width: int, other: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ask = nn.Linear(width, width, bias=False)
        self.show = nn.Linear(other, 2 * width, bias=False)
        self.gather = nn.Linear(width, width, bias=False)
        self.widen = nn.Linear(width, 4 * width, bias=False)
        self.narrow = nn.Linear(4 * width, width, bias=False)
        for linear in (self.ask, self.show, self.gather, self.widen, self.narrow):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))

    def forward(self, rows: Tensor, others: Tensor, real: Tensor | None) -> Tensor:
        query = self.ask(F.layer_norm(rows, rows.shape[-1:]))
        key, value = self.show(F.layer_norm(others, others.shape[-1:])).chunk(2, -1)
        query, key, value = (self._heads(part) for part in (query, key, value))
        seen = attention(query, key, value, real, causal=False).transpose(1, 2).flatten(2)
        rows = rows + self.gather(seen)
        h = self.widen(F.layer_norm(rows, rows.shape[-1:]))
        changed: Tensor = rows + self.narrow(F.relu(h).square())
        return changed

    def _heads(self, x: Tensor) -> Tensor:
        """`(samples, length, width)` to `(samples, heads, length, entries)`."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class _Block(nn.Module):
    """Read, compute, write; see the module."""

    def __init__(self, width: int, latent: int, *, heads: int, depth: int) -> None:
        super().__init__()
        self.read = _Look(latent, width, heads)
        self.layers = nn.ModuleList(
            Layer(
                latent,
                heads,
                depth=depth,
                condition=0,
                causal=False,
                expand=4,
                neighbours=0,
                zero=False,
            )
            for _ in range(depth)
        )
        self.write = _Look(width, latent, heads)

    def forward(self, x: Tensor, z: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        z = self.read(z, x, None)
        for layer in self.layers:
            z = layer(z, None, None, real)
        return self.write(x, z, real), z


class InterfaceNetwork(nn.Module):
    """A field to a field of the same size, any size.

    Arguments:
        inputs: Channels of the field.
        outputs: Channels of the output.
        condition: Features of what is known of a sample; 0 for none.
        context: Features of a token; 0 where there are none.
        dimensions: Axes of the field.
        patch: Places of a patch along each axis.
        width: Features of a patch.
        latents: Number of latent rows.
        latent_width: Features of a latent row.
        blocks: Number of blocks.
        depth: Layers of a block.
        heads: Heads of attention.

    Raises:
        ValueError: If a number is not positive, or the heads do not divide a width; on a call,
            if an input has another shape than the network was made for.

    Example:
        >>> network = InterfaceNetwork(3, 3, condition=8, width=16, latents=4, latent_width=16)
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
        width: int = 128,
        latents: int = 32,
        latent_width: int = 256,
        blocks: int = 3,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        check_sizes(inputs=inputs, outputs=outputs, dimensions=dimensions, patch=patch)
        check_sizes(width=width, latents=latents, latent_width=latent_width)
        check_sizes(blocks=blocks, depth=depth, heads=heads)
        if width % heads or latent_width % heads:
            msg = f"heads must divide width {width} and latent_width {latent_width}, got {heads}"
            raise ValueError(msg)
        self.inputs, self.condition, self.context = inputs, condition, context
        self.dimensions, self.patch = dimensions, patch
        self.enter = nn.Linear(inputs * patch**dimensions, width)
        self.where = Places(dimensions, width)
        self.known = nn.Linear(condition, latent_width) if condition else None
        self.tokens = nn.Linear(context, latent_width) if context else None
        self.latents = nn.Parameter(torch.randn(latents, latent_width))
        self.before, self.after = nn.Identity(), nn.Identity()
        self.mix = nn.Linear(latent_width, latent_width, bias=False)
        self.gain = nn.Parameter(torch.zeros(latent_width))
        self.blocks = nn.ModuleList(
            _Block(width, latent_width, heads=heads, depth=depth) for _ in range(blocks)
        )
        self.leave = nn.Linear(width, outputs * patch**dimensions)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """`(samples, outputs, *places)`.

        Arguments:
            x: A field, `(samples, inputs, *places)`.
            condition: What is known of each sample, `(samples, condition)`, or None.
            context: Tokens, `(samples, tokens, context)`, or None.
            mask: Which tokens count, `(samples, tokens)`; None where all do.
        """
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
        patches = to_patches(x, self.patch)
        h = self.enter(patches.flatten(2).transpose(1, 2))
        h = h + self.where(grid(patches.shape[2:], x.device)).to(h.dtype)
        rows = [self._first(h)]
        if self.known is not None and condition is not None:
            rows.append(self.known(condition).unsqueeze(1))
        if self.tokens is not None and context is not None:
            counted = context if mask is None else torch.where(mask.unsqueeze(2), context, 0.0)
            rows.append(self.tokens(counted))
        z, real = torch.cat(rows, 1), None
        if mask is not None:
            real = F.pad(mask, (z.shape[1] - mask.shape[1], 0), value=True)
        for block in self.blocks:
            h, z = block(h, z, real)
        self.after(z[:, : len(self.latents)])
        out = self.leave(F.layer_norm(h, h.shape[-1:])).transpose(1, 2)
        return from_patches(out.unflatten(2, patches.shape[2:]), self.patch, x.shape[2:])

    def _first(self, like: Tensor) -> Tensor:
        """The learned rows, and what was carried, `(samples, latents, latent_width)`."""
        start = self.latents.expand(len(like), -1, -1)
        carried = self.before(torch.zeros_like(start)).to(start.dtype)
        carried = carried + self.mix(F.relu(carried))
        return start + self.gain * F.layer_norm(carried, carried.shape[-1:])
