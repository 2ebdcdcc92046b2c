r"""Dilated convolutions over a field: the stack of DiffWave and WaveGrad, for waveforms above all.

Layer k sees steps of 2^(k mod cycle) places. With c an affine function of what is known of the
sample, h the features and (a, b) the two halves of a convolution,

    a, b = convolution(h + c),    y, skip = W (tanh(a) sigmoid(b)),    h <- (h + y) / sqrt 2,

and the output is a network of each place of the sum of all skips, zero at first. An output sees
the places up to sum_k 2^(k mod cycle) away on both sides (for kernels of three), not further.

References:
    DiffWave: A Versatile Diffusion Model for Audio Synthesis (Kong et al., 2020), section 3 and
    appendix C. https://arxiv.org/abs/2009.09761
    WaveGrad: Estimating Gradients for Waveform Generation (Chen et al., 2020).
    https://arxiv.org/abs/2009.00713
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from structdiff.nn.inputs import check_inputs, check_sizes
from structdiff.nn.patches import from_patches, to_patches

__all__ = ["DilatedStack"]

_CONVOLUTION: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


class _Layer(nn.Module):
    """One layer; see the module."""

    def __init__(self, width: int, *, condition: int, dimensions: int, step: int) -> None:
        super().__init__()
        make = _CONVOLUTION[dimensions]
        self.known = nn.Linear(condition, width) if condition else None
        self.look = make(width, 2 * width, 3, padding=step, dilation=step)
        self.leave = make(width, 2 * width, 1)

    def forward(self, h: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        seen = h
        if self.known is not None and condition is not None:
            seen = h + self.known(condition).reshape(*h.shape[:2], *(1,) * (h.ndim - 2))
        a, b = self.look(seen).chunk(2, 1)
        y, skip = self.leave(a.tanh() * b.sigmoid()).chunk(2, 1)
        return (h + y) * math.sqrt(0.5), skip


class DilatedStack(nn.Module):
    """A field to a field of the same size, any size.

    Arguments:
        inputs: Channels of the field.
        outputs: Channels of the output.
        condition: Features of what is known of a sample; 0 for none.
        context: Features of a token; 0 where there are none. Their mean is seen.
        dimensions: Axes of the field, 1 to 3.
        width: Channels inside.
        layers: Number of layers.
        cycle: After how many layers the steps begin with 1 again.
        patch: Places along each axis that are taken together, as channels: patches are the places
            of the layers.
        checkpointing: Whether layers are computed again on the way back, for less memory.

    Raises:
        ValueError: If a number is not positive; on a call, if an input has another shape than the
            network was made for.

    Example:
        >>> network = DilatedStack(1, 1, condition=8, width=4, layers=6, cycle=3)
        >>> network.reach
        14
        >>> network(torch.randn(2, 1, 33), torch.randn(2, 8)).shape
        torch.Size([2, 1, 33])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        condition: int = 0,
        context: int = 0,
        dimensions: int = 1,
        width: int = 64,
        layers: int = 20,
        cycle: int = 10,
        patch: int = 1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(inputs=inputs, outputs=outputs, dimensions=dimensions, width=width)
        check_sizes(layers=layers, cycle=cycle, patch=patch)
        if dimensions not in _CONVOLUTION:
            msg = f"dimensions must be 1, 2 or 3, got {dimensions}"
            raise ValueError(msg)
        self.inputs, self.condition, self.context = inputs, condition, context
        self.dimensions, self.patch, self.checkpointing = dimensions, patch, checkpointing
        self.steps = tuple(2 ** (k % cycle) for k in range(layers))
        make, inside = _CONVOLUTION[dimensions], patch**dimensions
        self.enter = make(inputs * inside, width, 1)
        self.tokens = nn.Linear(context, width) if context else None
        known = condition + (width if context else 0)
        self.layers = nn.ModuleList(
            _Layer(width, condition=known, dimensions=dimensions, step=step) for step in self.steps
        )
        self.mix = make(width, width, 1)
        self.leave = make(width, outputs * inside, 1)
        for convolution in self.modules():
            if isinstance(convolution, make):
                nn.init.kaiming_normal_(convolution.weight)
        nn.init.zeros_(self.leave.weight)
        if self.leave.bias is not None:
            nn.init.zeros_(self.leave.bias)

    @property
    def reach(self) -> int:
        """How many places away, of patches, an output sees along each axis."""
        return sum(self.steps)

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
        h = F.relu(self.enter(to_patches(x, self.patch)))
        known = self._known(h, condition, context, mask)
        total = torch.zeros_like(h)
        for layer in self.layers:
            h, skip = self._run(layer, h, known)
            total = total + skip
        total = F.relu(self.mix(total * math.sqrt(1 / len(self.layers))))
        return from_patches(self.leave(total), self.patch, x.shape[2:])

    def _known(
        self, h: Tensor, condition: Tensor | None, context: Tensor | None, mask: Tensor | None
    ) -> Tensor | None:
        """What is known of each sample, beside the mean of the tokens that count."""
        known = [] if condition is None else [F.silu(condition)]
        if self.tokens is not None:
            mean = h.new_zeros(h.shape[:2])
            if context is not None:
                mean = _mean(F.silu(self.tokens(context)), mask)
            known.append(mean.to(h.dtype))
        return torch.cat(known, 1) if known else None

    def _run(self, layer: nn.Module, h: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """A layer, and whether its inside is kept."""
        pair: tuple[Tensor, Tensor]
        if self.checkpointing and torch.is_grad_enabled():
            pair = checkpoint(layer, h, known, use_reentrant=False, preserve_rng_state=False)
        else:
            pair = layer(h, known)
        return pair


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the second axis of what counts, zero where nothing does."""
    if mask is None:
        return x.mean(1)
    counted = torch.where(mask.unsqueeze(2), x, 0.0).sum(1)
    return counted / mask.sum(1, keepdim=True).clamp(min=1)
