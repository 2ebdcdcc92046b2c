"""What the parts of a U-Net are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from structdiff.nn.inputs import check_sizes
from structdiff.nn.resampling import Double, Halve
from structdiff.nn.unet_blocks import (
    Attention,
    CrossAttention,
    Resample,
    ResidualBlock,
    Stage,
    convolution,
)

__all__ = ["Plan", "Resampling", "each", "levels_of"]

Resampling = Literal["filter", "convolution", "block"]


@dataclass(frozen=True)
class Plan:
    """What the parts of a network are made of, see `UNet`."""

    dimensions: int
    condition: int
    context: int
    widths: list[int]
    blocks: list[int]
    heads: list[int]
    attention: set[int]
    resampling: Resampling
    taps: Sequence[float]
    rescale: bool
    dropout: float

    def residual(
        self, inputs: int, outputs: int, resample: nn.Module | None = None
    ) -> ResidualBlock:
        """A residual block."""
        return ResidualBlock(
            inputs,
            outputs,
            dimensions=self.dimensions,
            condition=self.condition,
            rescale=self.rescale,
            dropout=self.dropout,
            resample=resample,
        )

    def stage(self, inputs: int, level: int) -> Stage:
        """A stage of a level, with attention where the level has it."""
        here = level in self.attention
        return self.stage_with(inputs, level, attend=here, cross=here)

    def stage_with(self, inputs: int, level: int, *, attend: bool, cross: bool) -> Stage:
        """A stage with attention among places, and to tokens, or without."""
        width, heads = self.widths[level], self.heads[level]
        return Stage(
            self.residual(inputs, width),
            Attention(width, heads) if attend else None,
            CrossAttention(width, self.context, heads) if cross and self.context else None,
        )

    def resample(self, width: int, way: nn.Module) -> nn.Module:
        """A change of resolution by this filter."""
        if self.resampling == "block":
            return self.residual(width, width, way)
        convolve = self.resampling == "convolution"
        return Resample(way, convolution(self.dimensions, width, width) if convolve else None)

    def coarser(self, width: int) -> nn.Module:
        """To half the places."""
        return self.resample(width, Halve(self.dimensions, self.taps))

    def finer(self, width: int) -> nn.Module:
        """To twice the places."""
        return self.resample(width, Double(self.dimensions, self.taps))

    def pyramid(self, inputs: int, width: int) -> nn.Module:
        """From the input at one level to that of the next one."""
        grow = convolution(self.dimensions, inputs, width)
        return Resample(Halve(self.dimensions, self.taps), grow)

    def check(self) -> None:
        """Refuse what does not fit together."""
        if self.dimensions not in (1, 2, 3):
            msg = f"dimensions must be 1, 2 or 3, got {self.dimensions}"
            raise ValueError(msg)
        if self.resampling not in ("filter", "convolution", "block"):
            msg = f"resampling must be filter, convolution or block, got {self.resampling!r}"
            raise ValueError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"dropout must be at least 0 and less than 1, got {self.dropout}"
            raise ValueError(msg)
        for name, values in (
            ("widths", self.widths),
            ("blocks", self.blocks),
            ("heads", self.heads),
        ):
            check_sizes(**{name: min(values)})
        for level in {*self.attention, len(self.widths) - 1}:
            width, heads = self.widths[level], self.heads[level]
            if width % heads:
                msg = f"heads must divide the {width} channels of level {level}, got {heads}"
                raise ValueError(f"{msg}: take a width that is a multiple of {heads}")


def each(name: str, value: int | Sequence[int], levels: int) -> list[int]:
    """One number for each level."""
    numbers = [value] * levels if isinstance(value, int) else list(value)
    if len(numbers) != levels:
        msg = f"{name} must be one number or {levels}, one for each multiplier, got {value}"
        raise ValueError(msg)
    return numbers


def levels_of(chosen: Sequence[int], levels: int) -> set[int]:
    """The levels, none of them negative."""
    unknown = [level for level in chosen if not -levels <= level < levels]
    if unknown:
        msg = f"attention must name levels from {-levels} to {levels - 1}, got {unknown}"
        raise ValueError(msg)
    return {level % levels for level in chosen}
