"""What a model is shown of an image: a hole, fewer pixels, no colour.

Each task is an operator H on images. A model is trained for it, and sees y = H x brought to the
size of the image; or an unconditional model draws images with H x = y, see
`structdiff.guidance.inverse`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from structdiff.operators import Downsample, Factored
from structdiff.operators.entries import reflection
from structdiff.random import Randomness
from structdiff.runs.fields.conditions import Making

__all__ = ["Grey", "Holed", "Measured", "Task", "holed", "making_of", "operator_of"]

Task = Literal["none", "inpainting", "super-resolution", "colourisation"]

_LEAST, _MOST = 0.25, 0.75  # sides of a hole, over those of the image


class Grey(Factored):
    """The mean over the channels of an image.

    Arguments:
        event: Channels, height and width.

    Example:
        >>> Grey((3, 1, 1))(torch.tensor([[[[1.0]], [[2.0]], [[6.0]]]])).tolist()
        [[[[3.0]]]]
    """

    basis: Tensor

    def __init__(self, event: tuple[int, int, int]) -> None:
        super().__init__(event, (1, *event[1:]))
        self.register_buffer("basis", reflection(event[0]))

    @property
    def singular(self) -> Tensor:
        """1 / sqrt(channels) for the mean, 0 for the rest."""
        first = torch.zeros(self.event, dtype=torch.float64, device=self.basis.device)
        first[0] = self.event[0] ** -0.5
        return first

    def forward(self, x: Tensor) -> Tensor:
        """The mean."""
        return x.mean(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        """It in each channel, divided by their number."""
        return (y / self.event[0]).expand(len(y), *self.event)

    def analysis(self, x: Tensor) -> Tensor:
        """The mean, scaled, and a basis of what it does not see."""
        return torch.einsum("ij,njhw->nihw", self.basis.to(x), x)

    def synthesis(self, c: Tensor) -> Tensor:
        """The basis is its own inverse."""
        return self.analysis(c)


class Measured(Making):
    """What an operator sees of an image.

    Arguments:
        operator: The operator.
    """

    def __init__(self, operator: Factored) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, clean: Tensor, random: Randomness) -> Tensor:
        """H x; nothing is drawn."""
        del random
        seen: Tensor = self.operator.to(clean.device)(clean)
        return seen


class Holed(Making):
    """An image with a hole, a box of random sides at a random place, beside its mask."""

    def forward(self, clean: Tensor, random: Randomness) -> Tensor:
        """`(samples, channels + 1, height, width)`, see `holed`."""
        height, width = clean.shape[2:]
        drawn = random.uniform((len(clean), 4), torch.float64, clean.device)
        sides = _LEAST + (_MOST - _LEAST) * drawn[:, :2]
        low = (1 - sides) * drawn[:, 2:]
        rows, columns = (
            _within((low[:, axis], low[:, axis] + sides[:, axis]), size)
            for axis, size in enumerate((height, width))
        )
        known = ~(rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
        return holed(clean, known)


def _within(ends: tuple[Tensor, Tensor], size: int) -> Tensor:
    """Which of so many places lie between two ends in [0, 1], `(samples, size)`."""
    at = (torch.arange(size, device=ends[0].device) + 0.5) / size
    return (at >= ends[0].unsqueeze(1)) & (at <= ends[1].unsqueeze(1))


def holed(x: Tensor, known: Tensor) -> Tensor:
    """Images that are 0 where they are not known, and the mask of what is known.

    Arguments:
        x: `(samples, channels, height, width)`.
        known: Which pixels are known, `(samples, 1, height, width)`, bool.
    """
    return torch.cat([torch.where(known, x, 0.0), known.to(x.dtype).expand(len(x), -1, -1, -1)], 1)


def operator_of(kind: Task, shape: tuple[int, int, int], factor: int) -> Factored:
    """What is seen of an image by super-resolution or colourisation.

    Raises:
        ValueError: If the images do not fit the task, or it has no operator of its own.
    """
    if kind == "super-resolution":
        if shape[1] % factor or shape[2] % factor:
            msg = f"task.factor must divide the sides of the images, {shape[1]} x {shape[2]}"
            raise ValueError(f"{msg}, got {factor}")
        return Downsample(shape, factor, axes=2)
    if kind == "colourisation":
        if shape[0] != 3:
            msg = f"task.kind colourisation needs images of 3 channels, these have {shape[0]}"
            raise ValueError(f"{msg}: give data.channels 3")
        return Grey(shape)
    msg = f"the task {kind} has no operator: give what is known by given"
    raise ValueError(msg)


def making_of(kind: Task, shape: tuple[int, int, int], factor: int) -> Making | None:
    """What a model of the task is shown while it is trained.

    Raises:
        ValueError: If the images do not fit the task.
    """
    if kind == "none":
        return None
    return Holed() if kind == "inpainting" else Measured(operator_of(kind, shape, factor))
