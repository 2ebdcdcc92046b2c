r"""Schedules made from others: another scale, a moved clock, no signal left at the end.

With c = log(alpha / sigma) the clock, every pair (alpha, sigma) is p (sqrt(s(2 c)), sqrt(s(-2 c)))
with s the sigmoid and p^2 = alpha^2 + sigma^2. The clock says how hard denoising is; p is a change
of units, x -> x / p, that leaves everything else as it is.

References:
    Score-Based Generative Modeling through SDEs (Song et al., 2021), for the change of units.
    https://arxiv.org/abs/2011.13456
    Simple Diffusion (Hoogeboom, Heek and Salimans, 2023), section 3.1: the shift with the size.
    https://arxiv.org/abs/2301.11093
    On the Importance of Noise Scheduling for Diffusion Models (Chen, 2023), section 3.2: scaled
    inputs. https://arxiv.org/abs/2301.10972
    Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2023), algorithm 1.
    https://arxiv.org/abs/2305.08891
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.schedules.base import Schedule, check_fixed, check_one_level
from structdiff.schedules.preserving import check_preserving, log_sigma_preserving

__all__ = ["Exploding", "Shifted", "Standard", "ZeroTerminal", "size_shift"]


class Standard(Schedule):
    """The same clock with alpha^2 + sigma^2 = 1.

    Arguments:
        schedule: Any schedule.

    Example:
        >>> from structdiff.schedules import Geometric
        >>> level = Standard(Geometric(0.01, 100.0))(torch.tensor(0.5))
        >>> [round(float(value), 4) for value in level]
        [0.7071, 0.7071, 0.0]
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule, self.event = schedule, schedule.event

    @property
    def reference(self) -> Schedule:
        """That of the inner schedule, in standard units."""
        return Standard(self.schedule.reference) if self.event else self

    def _log_snr(self, t: Tensor) -> Tensor:
        return 2 * (self.schedule.log_alpha(t) - self.schedule.log_sigma(t))

    def log_alpha(self, t: Tensor) -> Tensor:
        """Log sigmoid of the log-SNR, halved."""
        return 0.5 * F.logsigmoid(self._log_snr(t))

    def log_sigma(self, t: Tensor) -> Tensor:
        """Log sigmoid of minus the log-SNR, halved."""
        return 0.5 * F.logsigmoid(-self._log_snr(t))


class Exploding(Schedule):
    """The same clock with alpha = 1.

    Arguments:
        schedule: A schedule with alpha(1) > 0.

    Raises:
        ValueError: If alpha(1) is 0, where sigma would be infinite, or levels are by entry.

    Example:
        >>> from structdiff.schedules import Linear
        >>> round(Exploding(Linear()).sigma(torch.tensor(1.0)).item(), 3)
        152.167
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        check_one_level(schedule)
        if not schedule.alpha(torch.ones(())) > 0:
            name = type(schedule).__name__
            msg = f"alpha(1) of schedule {name} must be positive, got 0: sigma would be infinite"
            raise ValueError(msg)
        self.schedule = schedule

    def log_alpha(self, t: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        """Minus the clock."""
        return self.schedule.log_sigma(t) - self.schedule.log_alpha(t)


class Shifted(Schedule):
    """The clock moved by a constant; alpha^2 + sigma^2 stays that of the inner schedule.

    On data scaled by b, `Shifted(schedule, -log(b))` is `schedule` on the data themselves, up to a
    change of units; so a positive shift is the input scaling of Chen, and log-SNR moves by twice
    the shift.

    Arguments:
        schedule: Any schedule of one level; one that preserves the variance still does.
        shift: Added to log(alpha / sigma); negative is noisier, see `size_shift`.

    Raises:
        ValueError: If the schedule has levels by entry.

    Example:
        >>> from structdiff.schedules import Cosine
        >>> t = torch.tensor(0.5)
        >>> round((Shifted(Cosine(), 0.3).log_snr(t) - Cosine().log_snr(t)).item(), 6)
        0.6
    """

    def __init__(self, schedule: Schedule, shift: float) -> None:
        super().__init__()
        check_one_level(schedule)
        self.schedule, self.shift = schedule, shift

    def _scale_and_log_snr(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """log p and the moved log-SNR."""
        log_alpha, log_sigma = self.schedule.log_alpha(t), self.schedule.log_sigma(t)
        scale = 0.5 * torch.logaddexp(2 * log_alpha, 2 * log_sigma)
        return scale, 2 * (log_alpha - log_sigma + self.shift)

    def log_alpha(self, t: Tensor) -> Tensor:
        """log p and half the log sigmoid of the moved log-SNR."""
        scale, log_snr = self._scale_and_log_snr(t)
        return scale + 0.5 * F.logsigmoid(log_snr)

    def log_sigma(self, t: Tensor) -> Tensor:
        """log p and half the log sigmoid of minus the moved log-SNR."""
        scale, log_snr = self._scale_and_log_snr(t)
        return scale + 0.5 * F.logsigmoid(-log_snr)


def size_shift(side: float, base: float = 64.0) -> float:
    """The shift, log b, that makes a schedule for one size fit another: log(base / side).

    Neighbouring pixels of a large image say the same thing; averaged over patches of
    (side / base)^2 of them, noise is side / base times weaker.

    Arguments:
        side: Side length of the images, positive.
        base: Side length that the schedule was made for, positive.

    Raises:
        ValueError: If a length is not positive.

    Example:
        >>> round(size_shift(256), 6)
        -1.386294
    """
    if not (side > 0 and base > 0):
        msg = f"side and base must be positive, got {side} and {base}"
        raise ValueError(msg)
    return math.log(base / side)


def log_expm1(x: Tensor) -> Tensor:
    """log(e^x - 1) for x >= 0, also where e^x overflows."""
    return x + torch.log(-torch.expm1(-x))


class ZeroTerminal(Schedule):
    r"""alpha moved and stretched so that it is 0 at t = 1 and unchanged until `first`.

    With A = alpha(first) and E = alpha(1), alpha' = A (alpha - E) / (A - E) after `first`. What is
    drawn at t = 1 then is pure noise, as the prior is; predictions of the noise (`Noise`, `Score`)
    have no meaning there.

    Arguments:
        schedule: A schedule with alpha^2 + sigma^2 = 1 and alpha(1) > 0.
        first: Time of the first step, in [0, 1): 1 / T for a chain of T steps.

    Raises:
        ValueError: If the schedule does not preserve the variance, is learned, has levels by
            entry or alpha(1) = 0 already, or `first` is out of range.

    Example:
        >>> from structdiff.schedules import Discrete
        >>> ZeroTerminal(Discrete.ddpm(), first=1e-3).alpha(torch.tensor(1.0)).item()
        0.0
    """

    def __init__(self, schedule: Schedule, first: float = 0.0) -> None:
        super().__init__()
        check_one_level(schedule)
        check_fixed(schedule)
        check_preserving(schedule, "wrap it in Standard first")
        if not 0 <= first < 1:
            msg = f"first must be in [0, 1), got {first}"
            raise ValueError(msg)
        ends = torch.tensor([first, 1.0], dtype=torch.float64)
        self.high, self.low = schedule.log_alpha(ends).tolist()
        if self.low == -math.inf:
            name = type(schedule).__name__
            msg = f"alpha(1) of schedule {name} is 0 already: use it as it is"
            raise ValueError(msg)
        self.schedule, self.first = schedule, first

    def log_alpha(self, t: Tensor) -> Tensor:
        """log A + log(1 - r), r = (A - alpha) / (A - E), in the form exact at the nearer end."""
        inner = self.schedule.log_alpha(t)
        late = t > self.first
        moved = torch.where(late, inner, self.high)
        gone = torch.expm1(moved - self.high) / math.expm1(self.low - self.high)
        whole = torch.tensor(self.high - self.low, dtype=torch.float64)
        left = log_expm1(moved - self.low) - log_expm1(whole)
        # Of the two, the one not taken may be infinite: its gradient is kept out.
        early = torch.log1p(-torch.where(gone < 0.5, gone, 0.0))
        return torch.where(late, self.high + torch.where(gone < 0.5, early, left), inner)

    def log_sigma(self, t: Tensor) -> Tensor:
        """Variance preserving."""
        return log_sigma_preserving(self.log_alpha(t))
