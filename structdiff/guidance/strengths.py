r"""Scales of guidance, constant or functions of time.

A scale is a number w or a function w(t) of the time of a leaf, 0 data to 1 noise. A guidance
interval is such a function: w inside, 1 (the conditional estimate alone) outside, and what has
the weight 0 is not asked for, so that it saves calls of the network. A function needs the time as
a number: one read from the device for each leaf of a call, which a constant does not make.

References:
    Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion
    Models (Kynkäänniemi et al., 2024), section 3. https://arxiv.org/abs/2404.07724
    Selective Guidance: Are All the Denoising Steps of Guided Diffusion Important? (Golnari, Yao
    and He, 2023). https://arxiv.org/abs/2305.09847
    Enhanced Controllability of Diffusion Models via Feature Disentanglement and
    Realism-Enhanced Sampling Methods (Cho et al., 2023): weights in time.
    https://arxiv.org/abs/2302.14368
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Interval", "Scale", "check_scales", "moment", "shares"]

Scale: TypeAlias = float | Callable[[float], float]
"""w, or w(t)."""


@dataclass(frozen=True)
class Interval:
    """A scale inside an interval of time, another one outside.

    Arguments:
        scale: w at low <= t <= high.
        low: First time of the interval, towards the data.
        high: Last time, towards noise.
        outside: w elsewhere: 1 the condition unguided, 0 without it; either takes one call.

    Raises:
        ValueError: If a scale is not finite or the interval is out of order or of [0, 1].

    Example:
        >>> scale = Interval(4.0, 0.2, 0.8)
        >>> scale(0.1), scale(0.8), scale(0.9)
        (1.0, 4.0, 1.0)
    """

    scale: float
    low: float = 0.0
    high: float = 1.0
    outside: float = 1.0

    def __post_init__(self) -> None:
        check_scales([self.scale, self.outside])
        if not 0 <= self.low <= self.high <= 1:
            msg = f"the interval must have 0 <= low <= high <= 1, got {self.low} and {self.high}"
            raise ValueError(msg)

    def __call__(self, t: float) -> float:
        """The scale at a time."""
        return self.scale if self.low <= t <= self.high else self.outside


def check_scales(scales: Iterable[Scale]) -> None:
    """Refuse constant scales that are no numbers.

    Raises:
        ValueError: If one is not finite.
    """
    faults = [scale for scale in scales if not callable(scale) and not math.isfinite(scale)]
    if faults:
        msg = f"scale must be a finite number or a function of time, got {faults[0]}"
        raise ValueError(msg)


def moment(name: str, t: Tensor) -> float:
    """The time of a leaf's free rows, as a number; 0 where all are given.

    Raises:
        ValueError: If they have several.
    """
    if t.ndim == 0:
        return max(float(t), 0.0)
    free = t >= 0
    ends = torch.where(free, t, torch.inf).min(), torch.where(free, t, -1.0).max()
    first, last = torch.stack(ends).tolist()
    if last < 0:
        return 0.0
    if first != last:
        has = f"the rows of the leaf {name!r} have times from {first} to {last}"
        msg = f"a scale that is a function needs one time, but {has}: use a constant scale"
        raise ValueError(msg)
    return float(first)


def shares(scales: Sequence[Scale], t: Mapping[str, Tensor]) -> dict[str, tuple[float, ...]]:
    """Weights 1 - sum_i w_i, w_1, w_2, ... by leaf, at its time.

    Raises:
        ValueError: If a function of time gives no finite number, or a leaf has several times.
    """
    if any(callable(scale) for scale in scales):
        return {name: _at(scales, moment(name, time)) for name, time in t.items()}
    return dict.fromkeys(t, _at(scales, 0.0))


def _at(scales: Sequence[Scale], t: float) -> tuple[float, ...]:
    """The weights at a time, of which the first fills up to one."""
    found = [float(scale(t) if callable(scale) else scale) for scale in scales]
    if not all(math.isfinite(w) for w in found):
        msg = f"a scale must be finite at every time, got {found} at t = {t}"
        raise ValueError(msg)
    return (1 - math.fsum(found), *found)
