r"""A schedule that is learned: the clock as a monotone network of time.

    clock(t) = start - (start - end) (m(t) - m(0)) / (m(1) - m(0)),
    m(t) = a t + sum_k c_k s(b_k t + d_k),    a, b_k, c_k > 0,

with s the sigmoid, variance preserving at any clock. The continuous bound knows of a schedule its
two ends alone, so that the ends are learned by the bound, and m, which changes how much its draws
vary, by their variance (`LearnedTimes` of the objectives). The ends need the whole bound: the
objective leaves out the prior's divergence and the reconstruction, without which ends that meet
are the best. Who does not add these fixes the ends.

References:
    Variational Diffusion Models (Kingma et al., 2021), section 5 and appendix H: their gamma is
    -2 clock. https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.schedules.base import Schedule

__all__ = ["LearnedClock"]


class LearnedClock(Schedule):
    """A clock that falls from a start to an end, both learned or fixed, as a network says.

    A new one falls nearly in a straight line.

    Arguments:
        start: Clock at t = 0; half of VDM's 13.3 by default.
        end: Clock at t = 1, below the start; half of VDM's -5 by default.
        features: Number of sigmoids, at least 1.
        fixed_ends: Whether the ends are not learned; `ContinuousBound` alone would make them meet.

    Raises:
        ValueError: If `end` is not below `start`, both finite, or there are no features.

    Example:
        >>> schedule = LearnedClock(4.0, -4.0)
        >>> schedule(torch.tensor([0.0, 1.0])).clock.tolist()
        [4.0, -4.0]
        >>> len([*schedule.parameters()]), len(schedule.interior())
        (6, 4)
    """

    def __init__(
        self,
        start: float = 6.65,
        end: float = -2.5,
        features: int = 64,
        *,
        fixed_ends: bool = False,
    ) -> None:
        super().__init__()
        if not -math.inf < end < start < math.inf:
            msg = f"end must be below start and both finite, got {end} and {start}"
            raise ValueError(msg)
        if features < 1:
            msg = f"features must be at least 1, got {features}"
            raise ValueError(msg)
        middles = (torch.arange(features, dtype=torch.float64) + 0.5) / features
        self.line = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.slopes = nn.Parameter(torch.full_like(middles, math.log(8.0)))
        self.places = nn.Parameter(middles)
        self.heights = nn.Parameter(torch.full_like(middles, -math.log(8.0 * features)))
        ends = [torch.tensor(start, dtype=torch.float64), torch.tensor(end - start).double()]
        # The distance is learned by its logarithm, so that the ends never cross.
        ends[1] = torch.log(-ends[1])
        for name, value in zip(("start", "length"), ends, strict=True):
            if fixed_ends:
                self.register_buffer(name, value)
            else:
                setattr(self, name, nn.Parameter(value))

    start: Tensor
    length: Tensor

    def interior(self) -> list[nn.Parameter]:
        """What shapes the clock between its ends."""
        return [self.line, self.slopes, self.places, self.heights]

    def _rise(self, t: Tensor) -> Tensor:
        """m(t)."""
        slopes, heights = self.slopes.double().exp(), self.heights.double().exp()
        phase = slopes * (t.unsqueeze(-1) - self.places.double())
        return self.line.double().exp() * t + (heights * torch.sigmoid(phase)).sum(-1)

    def clock(self, t: Tensor) -> Tensor:
        """The clock at float64 times in [0, 1]."""
        first, last = self._rise(t.new_tensor([0.0, 1.0])).unbind()
        done = (self._rise(t) - first) / (last - first)
        return self.start.double() - self.length.double().exp() * done

    def log_alpha(self, t: Tensor) -> Tensor:
        """Half the log sigmoid of the log-SNR."""
        return 0.5 * F.logsigmoid(2 * self.clock(t))

    def log_sigma(self, t: Tensor) -> Tensor:
        """Half the log sigmoid of minus the log-SNR."""
        return 0.5 * F.logsigmoid(-2 * self.clock(t))
