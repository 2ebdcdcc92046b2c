r"""A U-Net over lines, planes or spaces.

A field goes down through levels of half the places each, rounded up, and up again; on the way up
every stage sees, beside what comes from below, what a stage of the same level gave on the way
down. Any number of places will do. The last layer is zero at first.

References:
    U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger, Fischer and Brox,
    2015). https://arxiv.org/abs/1505.04597
    Denoising Diffusion Probabilistic Models (Ho, Jain and Abbeel, 2020), appendix B.
    https://arxiv.org/abs/2006.11239
    Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021),
    appendix H: the input at every level. https://arxiv.org/abs/2011.13456
    U-DiT TTS (Jing et al., 2023), section 2.2: a transformer at the coarsest level.
    https://arxiv.org/abs/2305.13195
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from structdiff.nn.group_norm import AdaptiveGroupNorm
from structdiff.nn.inputs import check_inputs, check_sizes
from structdiff.nn.resampling import BOX
from structdiff.nn.unet_blocks import TransformerBlock, convolution
from structdiff.nn.unet_plan import Plan, Resampling, each, levels_of

__all__ = ["UNet"]

_HALF = 0.5**0.5
_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


class UNet(nn.Module):
    """A U-Net.

    Arguments:
        inputs: Channels of x.
        outputs: Channels of the output.
        condition: Features of a sample; 0 for none.
        context: Features of a token; 0 where there are no tokens.
        dimensions: Axes of places: 1, 2 or 3.
        width: Channels at level 0, which has the places of x.
        multipliers: Channels of each level, over `width`.
        blocks: Stages of a level on the way down, one number or one for each level; there is one
            more on the way up.
        attention: Levels with attention among places, and to tokens if there are some; -1 is the
            last one. The middle has both.
        heads: Heads of attention, one number or one for each level; they divide its channels.
        layers: Layers of a transformer in the middle, in the place of its attention; 0 for none.
        resampling: How the resolution changes: by the filter alone, by the filter and a
            convolution, or inside a residual block of its own (BigGAN).
        taps: The filter, see `structdiff.nn.resampling`.
        rescale: Whether sums are divided by sqrt 2.
        progressive: Whether every level sees the input at its own resolution.
        dropout: Share of the entries that residual blocks drop.
        checkpointing: Whether stages are computed again on the way back, for less memory.

    Raises:
        ValueError: If a number is not positive, a level is unknown or the heads do not divide the
            channels; on a call, if an input is missing or of another shape.

    Example:
        >>> network = UNet(3, 3, condition=16, width=8)
        >>> network(torch.randn(2, 3, 7, 9), torch.randn(2, 16)).abs().sum().item()
        0.0
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        condition: int = 0,
        context: int = 0,
        dimensions: int = 2,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int | Sequence[int] = 2,
        attention: Sequence[int] = (-1,),
        heads: int | Sequence[int] = 4,
        layers: int = 0,
        resampling: Resampling = "filter",
        taps: Sequence[float] = BOX,
        rescale: bool = False,
        progressive: bool = False,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        levels = len(multipliers)
        check_sizes(inputs=inputs, outputs=outputs, width=width, multipliers=levels)
        if layers < 0:
            msg = f"layers must be at least 0, got {layers}"
            raise ValueError(msg)
        plan = Plan(
            dimensions=dimensions,
            condition=condition,
            context=context,
            widths=[width * multiplier for multiplier in multipliers],
            blocks=each("blocks", blocks, levels),
            heads=each("heads", heads, levels),
            attention=levels_of(attention, levels),
            resampling=resampling,
            taps=taps,
            rescale=rescale,
            dropout=dropout,
        )
        plan.check()
        self.inputs, self.condition, self.context = inputs, condition, context
        self.dimensions, self.rescale, self.checkpointing = dimensions, rescale, checkpointing
        self.enter = convolution(dimensions, inputs, plan.widths[0])
        passed = self._make_down(plan)
        self._make_middle(plan, layers)
        self._make_up(plan, passed)
        self.pyramid = nn.ModuleList()
        if progressive:
            coarse = plan.widths[:-1]
            self.pyramid.extend(map(plan.pyramid, [inputs, *coarse[:-1]], coarse))
        self.norm = AdaptiveGroupNorm(plan.widths[0])
        self.leave = convolution(dimensions, plan.widths[0], outputs, gain=0.0)

    def _make_down(self, plan: Plan) -> list[int]:
        """Levels from fine to coarse; gives the channels of all that is passed across."""
        self.down, self.coarser = nn.ModuleList(), nn.ModuleList()
        now, passed = plan.widths[0], [plan.widths[0]]
        for level, width in enumerate(plan.widths):
            stages = nn.ModuleList()
            for _ in range(plan.blocks[level]):
                stages.append(plan.stage(now, level))
                now = width
            self.down.append(stages)
            passed += [width] * plan.blocks[level]
            if level < len(plan.widths) - 1:
                self.coarser.append(plan.coarser(width))
                passed.append(width)
        return passed

    def _make_middle(self, plan: Plan, layers: int) -> None:
        width, heads, last = plan.widths[-1], plan.heads[-1], len(plan.widths) - 1
        self.before = plan.stage_with(width, last, attend=not layers, cross=True)
        self.transformer = (
            TransformerBlock(
                width,
                heads,
                layers=layers,
                dimensions=plan.dimensions,
                condition=plan.condition,
            )
            if layers
            else None
        )
        self.after = plan.residual(width, width)

    def _make_up(self, plan: Plan, passed: list[int]) -> None:
        """Levels from coarse to fine; each stage sees one more field that was passed across."""
        self.up, self.finer = nn.ModuleList(), nn.ModuleList()
        now = plan.widths[-1]
        for level in reversed(range(len(plan.widths))):
            stages = nn.ModuleList()
            for _ in range(plan.blocks[level] + 1):
                stages.append(plan.stage(now + passed.pop(), level))
                now = plan.widths[level]
            self.up.append(stages)
            if level:
                self.finer.append(plan.finer(now))

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """`(samples, inputs, *places)` to `(samples, outputs, *places)`.

        Arguments:
            x: The field.
            condition: Features `(samples, condition)`.
            context: Tokens, `(samples, tokens, context)`.
            mask: Tokens that count, `(samples, tokens)`; None for all.
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
        if condition is not None:
            condition = F.silu(condition)
        told = (condition, *_seen(context, mask))
        passed = self._go_down(x, *told)
        h = self._run(self.before, passed[-1], *told)
        if self.transformer is not None:
            h = self._run(self.transformer, h, condition)
        h = self._run(self.after, h, condition)
        for level, stages in enumerate(self.up):
            for stage in cast(nn.ModuleList, stages):
                h = self._run(stage, torch.cat([h, passed.pop()], 1), *told)
            if level < len(self.finer):
                h = _cut(self._run(self.finer[level], h, condition), passed[-1])
        output: Tensor = self.leave(self.norm(h))
        return output.contiguous()

    def _go_down(self, x: Tensor, *told: Tensor | None) -> list[Tensor]:
        """All that is passed across."""
        h, pyramid = self.enter(x), x
        if self.dimensions in _FORMATS:
            # Not x: with one channel the two orders are the same.
            h = h.contiguous(memory_format=_FORMATS[self.dimensions])
        passed = [h]
        for level, stages in enumerate(self.down):
            for stage in cast(nn.ModuleList, stages):
                passed.append(h := self._run(stage, h, *told))
            if level < len(self.coarser):
                h = self._run(self.coarser[level], h, told[0])
                if self.pyramid:
                    h = h + self.pyramid[level](pyramid)
                    h = pyramid = h * _HALF if self.rescale else h
                passed.append(h)
        return passed

    def _run(self, module: nn.Module, *inputs: Tensor | None) -> Tensor:
        """A module, with or without what it computes inside being kept for the way back."""
        if self.checkpointing and torch.is_grad_enabled():
            again: Tensor = checkpoint(module, *inputs, use_reentrant=False)
            return again
        output: Tensor = module(*inputs)
        return output


def _seen(context: Tensor | None, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Normed tokens, zero where they do not count, and a mask that is never empty."""
    if context is None:
        return None, None
    context = F.layer_norm(context, context.shape[-1:])
    if mask is None:
        return context, None
    return context.masked_fill(~mask.unsqueeze(2), 0.0), mask | ~mask.any(1, keepdim=True)


def _cut(h: Tensor, like: Tensor) -> Tensor:
    """The first places, as many as another field has."""
    for axis in range(2, h.ndim):
        h = h.narrow(axis, 0, like.shape[axis])
    return h
