r"""Schedules with noise levels by entry: speeds, blurring, and entries that leave the walk.

x_t = alpha_t x_0 + sigma_t z with diagonal alpha_t and sigma_t. The entries may be coordinates in
any basis (`structdiff.processes.affine`): then the signal fades as C_t = A alpha_t A^{-1}.
Networks, weights and grids see the clock of the schedule that the levels are made from; so do
multistep walks, whose order is therefore 2 at most.

References:
    Non-Uniform Diffusion Models (Batzolis et al., 2022). https://arxiv.org/abs/2207.09786
    Blurring Diffusion Models (Hoogeboom and Salimans, 2023), eqs. 17-22.
    https://arxiv.org/abs/2209.05557
    Generative Modelling with Inverse Heat Dissipation (Rissanen, Heinonen and Solin, 2023).
    https://arxiv.org/abs/2206.13397
    Soft Diffusion: Score Matching for General Corruptions (Daras et al., 2022).
    https://arxiv.org/abs/2209.05442
    Subspace Diffusion Generative Models (Jing et al., 2022). https://arxiv.org/abs/2205.01490
    Dimensionality-Varying Diffusion Process (Zhang et al., 2023). https://arxiv.org/abs/2211.16032
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structdiff.schedules.base import Schedule
from structdiff.schedules.preserving import check_preserving, log_sigma_preserving

__all__ = ["Blurring", "Dropped", "Speeds"]


class _ByEntry(Schedule):
    """Levels of entries made from a schedule of one level.

    Arguments:
        schedule: The schedule of one level.
        entries: A number for each entry of a row.
    """

    entries: Tensor

    def __init__(self, schedule: Schedule, entries: Tensor) -> None:
        super().__init__()
        if schedule.event:
            name = type(schedule).__name__
            msg = (
                f"schedule must have one level, but {name} has levels by entry: give its inner one"
            )
            raise ValueError(msg)
        self.schedule, self.event = schedule, tuple(entries.shape)
        self.register_buffer("entries", entries.double())

    @property
    def reference(self) -> Schedule:
        """The schedule of one level."""
        return self.schedule


class Speeds(_ByEntry):
    """Each entry at its own speed: beta_i(t) = speed_i beta(t), so alpha_i = alpha^speed_i.

    Arguments:
        schedule: A schedule with alpha^2 + sigma^2 = 1.
        speeds: Positive, of the shape of a row.

    Raises:
        ValueError: If the schedule does not preserve the variance, or a speed is not positive.

    Example:
        >>> from structdiff.schedules import Cosine
        >>> schedule = Speeds(Cosine(), torch.tensor([1.0, 2.0]))
        >>> schedule.alpha(torch.tensor([2 / 3])).tolist()
        [0.5, 0.25]
    """

    def __init__(self, schedule: Schedule, speeds: Tensor) -> None:
        super().__init__(schedule, speeds)
        check_preserving(schedule, "wrap it in Standard first")
        if not bool((speeds > 0).all()):
            msg = f"speeds must be positive, got {speeds.min().item()} at least once"
            raise ValueError(msg)

    def log_alpha(self, t: Tensor) -> Tensor:
        """Speed times log alpha, which is log(1 - sigma^2) / 2 while sigma is small."""
        variance = torch.exp(2 * self.schedule.log_sigma(t))
        early = variance < 0.5
        exact = 0.5 * torch.log1p(-torch.where(early, variance, 0.0))
        return self.entries.to(t) * torch.where(early, exact, self.schedule.log_alpha(t))

    def log_sigma(self, t: Tensor) -> Tensor:
        """Variance preserving."""
        return log_sigma_preserving(self.log_alpha(t))


class Blurring(_ByEntry):
    r"""Fine entries fade first: alpha_i = alpha d_i with d_i = f + (1 - f) e^{-rate_i w^2 / 2}.

    In a basis of cosines with the rates of `CosineBasis.frequencies` this is blurring by a normal
    of deviation w(t) = width sin^2(pi t / 2) pixels; with rates of zero it is the plain schedule.

    Arguments:
        schedule: The schedule of one level.
        rates: How fast entries fade, at least 0, of the shape of a row.
        width: The deviation of the blur at t = 1, at least 0.
        floor: f, what is left of the finest entry, in [0, 1).

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from structdiff.processes.covariance_bases import CosineBasis
        >>> from structdiff.schedules import Cosine
        >>> schedule = Blurring(Cosine(), CosineBasis().frequencies((4,)), width=2.0)
        >>> schedule.alpha(torch.tensor([0.5])).round(decimals=3).tolist()
        [0.703, 0.516, 0.205, 0.044]
    """

    def __init__(
        self, schedule: Schedule, rates: Tensor, *, width: float, floor: float = 0.0
    ) -> None:
        super().__init__(schedule, rates)
        if not bool((rates >= 0).all()):
            msg = f"rates must be at least 0, got {rates.min().item()} at least once"
            raise ValueError(msg)
        if not (width >= 0 and 0 <= floor < 1):
            msg = f"width must be at least 0 and floor in [0, 1), got {width} and {floor}"
            raise ValueError(msg)
        self.width, self.floor = width, floor

    def log_fading(self, t: Tensor) -> Tensor:
        """log d_i."""
        blur = self.width * torch.sin(0.5 * math.pi * t) ** 2
        faded = math.log1p(-self.floor) - 0.5 * self.entries.to(t) * blur**2
        left = math.log(self.floor) if self.floor > 0 else -math.inf
        return torch.logaddexp(faded, torch.full_like(faded, left))

    def log_alpha(self, t: Tensor) -> Tensor:
        """That of the schedule and the fading."""
        return self.schedule.log_alpha(t) + self.log_fading(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        """That of the schedule."""
        return self.schedule.log_sigma(t) + torch.zeros_like(self.entries.to(t))


class Dropped(_ByEntry):
    """Each entry leaves the walk at its own time: after it, it is noise that knows nothing.

    Before its end an entry is noised as by the schedule; after it the network has no need to see
    it, so steps cost in proportion to `alive`. Walking back, noise of the schedule's deviation
    stands in for the entry where it enters again: right where its signal is small beside that,
    alpha^2 Var[x_0] << sigma^2. In the Haar basis the walk is over a pyramid of resolutions.

    With `fade` an entry is attenuated before it leaves, over a part of its time,
    alpha_i = alpha min(1, (end - t) / (fade end)): nothing is left to be lost when it goes.

    The levels jump without it, so the bound in discrete steps knows all of the model; what is
    continuous in time (`continuous_bound`, the probability flow) is that of the entries between
    their ends.

    Arguments:
        schedule: The schedule of one level.
        ends: Last time of each entry, positive; at least 1 for those that stay.
        fade: For which part of its time an entry that leaves is attenuated, in [0, 1].

    Raises:
        ValueError: If an end is not positive, or fade not in [0, 1].

    Example:
        >>> from structdiff.schedules import Flow
        >>> schedule = Dropped(Flow(), torch.tensor([1.0, 0.5]))
        >>> schedule.alpha(torch.tensor([[0.25], [0.75]])).tolist()
        [[0.75, 0.75], [0.25, 0.0]]
        >>> schedule.alive(torch.tensor([0.25, 0.75])).tolist()
        [2, 1]
    """

    def __init__(self, schedule: Schedule, ends: Tensor, *, fade: float = 0.0) -> None:
        super().__init__(schedule, ends)
        if not bool((ends > 0).all()):
            msg = f"ends must be positive, got {ends.min().item()} at least once"
            raise ValueError(msg)
        if not 0 <= fade <= 1:
            msg = f"fade must be in [0, 1], got {fade}"
            raise ValueError(msg)
        self.fade = fade

    def alive(self, times: Tensor) -> Tensor:
        """How many entries are in the walk at each time.

        Arguments:
            times: Times, `(n,)`.
        """
        return (self.spread(times.double()) <= self.entries.to(times.device)).flatten(1).sum(1)

    def log_alpha(self, t: Tensor) -> Tensor:
        """That of the schedule and the fading, and minus infinity after the end."""
        ends = self.entries.to(t)
        log_alpha = self.schedule.log_alpha(t)
        if not self.fade:
            return torch.where(t > ends, -torch.inf, log_alpha)
        inside = (t < ends) | (ends >= 1)
        share = torch.where(inside & (ends < 1), (1 - t / ends) / self.fade, 1.0).clamp(max=1)
        return torch.where(inside, log_alpha + share.log(), -torch.inf)

    def log_sigma(self, t: Tensor) -> Tensor:
        """That of the schedule."""
        return self.schedule.log_sigma(t) + torch.zeros_like(self.entries.to(t))
