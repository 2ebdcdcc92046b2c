r"""Schedules of other libraries, taken over by the values of alpha and sigma.

What is called sigma elsewhere may be sigma or sigma / alpha, a state may be x_t or x_t / alpha,
and one name stands for a schedule, a grid or both. So no names are trusted: `translate` reads the
numbers that the other object holds, and `differences` compares numbers with numbers.

References:
    Diffusers (von Platen et al.). https://github.com/huggingface/diffusers
    k-diffusion (Crowson). https://github.com/crowsonkb/k-diffusion
    Azula (Rozet and others). https://github.com/probabilists/azula
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from structdiff.schedules.base import Schedule
from structdiff.schedules.derived import Exploding
from structdiff.schedules.discrete import Discrete
from structdiff.schedules.flow import Flow

__all__ = ["Differences", "agree", "differences", "translate"]


class _Called(Schedule):
    """Another's function t -> (alpha, sigma)."""

    def __init__(self, call: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.call = call

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log(self.call(t)[0])

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(self.call(t)[1])


class _Listed(Schedule):
    """alpha = 1 and a list of sigmas, evenly placed from t = 0 to 1; log sigma linear between."""

    log_sigmas: Tensor

    def __init__(self, sigmas: Tensor) -> None:
        super().__init__()
        self.register_buffer("log_sigmas", torch.log(_rising(sigmas)), persistent=False)

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        place = t * (len(self.log_sigmas) - 1)
        index = place.floor().long().clamp(max=len(self.log_sigmas) - 2)
        return torch.lerp(self.log_sigmas[index], self.log_sigmas[index + 1], place - index)


def _rising(sigmas: Tensor) -> Tensor:
    """The positive levels from the smallest to the largest, float64."""
    levels = torch.as_tensor(sigmas).detach().double().cpu()
    if levels.ndim != 1:
        msg = f"sigmas must be a vector, got shape {tuple(levels.shape)}"
        raise ValueError(msg)
    levels = levels[levels > 0]
    levels = levels.flip(0) if len(levels) > 1 and levels[0] > levels[-1] else levels
    if len(levels) < 2 or not bool((levels.diff() > 0).all() and levels[-1] < math.inf):
        msg = f"sigmas must hold at least 2 finite levels that fall or rise, got {sigmas}"
        raise ValueError(msg)
    return levels


def translate(other: Any) -> Schedule:
    """A schedule of another library as one of ours, by its values.

    Looked for in this order; nothing is imported:

    - a `Schedule`: returned as it is;
    - a vector of sigmas: alpha = 1, evenly placed in time, the smallest at 0 (a zero is dropped);
    - `scale_noise`, or a config with `use_flow_sigmas` (diffusers' flow matching): `Flow`, its
      sigmas are our times;
    - `alphas_cumprod` (diffusers): a chain of T steps, see `Discrete`; with alpha = 1 where its
      walks start at an `init_noise_sigma` other than 1 (Euler, Heun, LMS), since their state is
      x_0 + sigma z. A last product above the one before it stands for zero (diffusers puts 2^-24
      there under `rescale_betas_zero_snr`);
    - `sigmas` (diffusers' EDM, k-diffusion's wrappers): as a vector of them;
    - `t_to_sigma` (k-diffusion's continuous wrapper): alpha = 1 and that sigma;
    - a function t -> (alpha, sigma) with t in [0, 1] (azula).

    Arguments:
        other: The other library's object.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> schedule = translate(torch.tensor([80.0, 1.0, 0.0125, 0.0]))
        >>> [round(s, 6) for s in schedule.sigma(torch.tensor([0.0, 0.5, 1.0])).tolist()]
        [0.0125, 1.0, 80.0]
    """
    if isinstance(other, Schedule):
        return other
    if isinstance(other, Tensor):
        return _Listed(other)
    if hasattr(other, "scale_noise") or getattr(
        getattr(other, "config", None), "use_flow_sigmas", False
    ):
        return Flow()
    if hasattr(other, "alphas_cumprod"):
        return _chain(other)
    if hasattr(other, "sigmas"):
        return _Listed(other.sigmas)
    if hasattr(other, "t_to_sigma"):
        return _Called(lambda t: (torch.ones_like(t), other.t_to_sigma(t)))
    if callable(other):
        return _Called(other)
    must = "a schedule needs alphas_cumprod, sigmas, or to be a function t -> (alpha, sigma)"
    msg = f"{must}, got {type(other).__name__}: write a subclass of Schedule for it"
    raise ValueError(msg)


def _chain(other: Any) -> Schedule:
    """Betas from products; the state is x_t, or x_t / alpha where walks do not start at 1."""
    survival = torch.as_tensor(other.alphas_cumprod).detach().double().cpu()
    if len(survival) > 1 and survival[-1] > survival[-2]:
        survival = torch.cat([survival[:-1], survival.new_zeros(1)])
    before = torch.cat([survival.new_ones(1), survival[:-1]])
    schedule = Discrete(1 - survival / before)
    start = float(getattr(other, "init_noise_sigma", 1.0))
    return schedule if start == 1 else Exploding(schedule)


class Differences(NamedTuple):
    """How far two schedules are apart, at each time.

    Arguments:
        time: The times.
        alpha: Of alpha, in units of sqrt(alpha^2 + sigma^2).
        sigma: Of sigma, likewise.
    """

    time: Tensor
    alpha: Tensor
    sigma: Tensor

    def __str__(self) -> str:
        """The largest ones and where they are."""
        parts = [
            f"{name} by {float(gap.max()):.3g} at t = {float(self.time[gap.argmax()]):.6g}"
            for name, gap in (("alpha", self.alpha), ("sigma", self.sigma))
        ]
        return "the schedules differ in " + ", in ".join(parts)


def differences(ours: Any, theirs: Any, times: Tensor) -> Differences:
    """Compare two schedules by their values.

    Arguments:
        ours: A schedule, or what `translate` takes.
        theirs: Another one.
        times: Where to compare, `(n,)` in [0, 1].

    Example:
        >>> straight = lambda t: (1 - t, t)
        >>> from structdiff.schedules import SimpleLinear
        >>> print(differences(SimpleLinear(), straight, torch.tensor([0.25, 0.5, 0.75])))
        the schedules differ in alpha by 0.25 at t = 0.75, in sigma by 0.25 at t = 0.25
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    first, second = translate(ours)(times), translate(theirs)(times)
    unit = torch.hypot(first.alpha, first.sigma)
    alpha, sigma = (first.alpha - second.alpha).abs(), (first.sigma - second.sigma).abs()
    return Differences(times, alpha / unit, sigma / unit)


def agree(ours: Any, theirs: Any, times: Tensor, tolerance: float = 1e-6) -> bool:
    """Whether alpha and sigma are the same at these times.

    Arguments:
        ours: A schedule, or what `translate` takes.
        theirs: Another one.
        times: Where to compare, `(n,)` in [0, 1].
        tolerance: Largest gap that passes, in units of sqrt(alpha^2 + sigma^2).

    Example:
        >>> from structdiff.schedules import Geometric
        >>> twice = lambda t: (torch.ones_like(t), 2 * Geometric().sigma(t))
        >>> agree(Geometric(), twice, torch.linspace(0, 1, 5))
        False
    """
    apart = differences(ours, theirs, times)
    return bool(torch.cat([apart.alpha, apart.sigma]).max() <= tolerance)
