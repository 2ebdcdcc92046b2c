"""What codecs ask of the tensors and shapes that they are handed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["check_finite", "check_shape", "shape_of"]


def shape_of(name: str, event: Sequence[int], *, axes: int = 0) -> tuple[int, ...]:
    """A shape as a tuple.

    Arguments:
        name: What it is called, for the error.
        event: Sizes.
        axes: Least number of them.

    Raises:
        ValueError: If a size is not positive, or there are too few.

    Example:
        >>> shape_of("event", [3, 8, 8])
        (3, 8, 8)
    """
    shape = tuple(int(size) for size in event)
    if len(shape) < axes or any(size < 1 for size in shape):
        few = f" and be at least {axes}" if axes else ""
        msg = f"sizes of {name} must be positive{few}, got {shape}"
        raise ValueError(msg)
    return shape


def check_shape(name: str, x: Tensor, event: Sequence[int]) -> None:
    """Refuse a tensor that is not `(samples, *event)`.

    Raises:
        ValueError: If it has another shape.
    """
    if x.shape[1:] != tuple(event) or not x.ndim:
        must = ", ".join(["samples", *map(str, event)])
        msg = f"{name} must have shape ({must}), got {tuple(x.shape)}"
        raise ValueError(msg)


def check_finite(name: str, x: Tensor, event: Sequence[int]) -> None:
    """Refuse what a codec cannot be fitted to: another shape, no samples, no numbers.

    Raises:
        ValueError: If it is one of these; of what is not finite it names the first samples.
    """
    check_shape(name, x, event)
    if not len(x):
        msg = f"{name} has no samples: a codec is fitted to one at least"
        raise ValueError(msg)
    broken = (~torch.isfinite(x)).reshape(len(x), -1).any(1)
    if bool(broken.any()):
        first = broken.nonzero().flatten()[:10].tolist()
        msg = f"{name} is not finite in the samples {first}: leave them out, or mend them"
        raise ValueError(msg)
