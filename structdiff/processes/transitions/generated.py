r"""Transitions with a generator of which the kernels are known: what follows from these.

Q_{t|s} = exp(R tau) with tau = log(alpha_s / alpha_t). A step is Bayes' rule. There is no carry
kernel to mix it with: c delta(x_t) + (1 - c) p keeps the marginals of rank-one chains alone, so
that eta must be 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.processes.leaf import expand
from structdiff.processes.transitions.base import (
    Bayes,
    Jump,
    Kernel,
    Reverse,
    Still,
    Transition,
    row_steps,
)
from structdiff.processes.transitions.reversal import jump_divergence, reverse_rates
from structdiff.schedules import Schedule

__all__ = ["Generated", "check_eta", "invert", "safe_log"]


class Generated(Transition):
    """A transition with a generator.

    Arguments:
        classes: Number K of data classes.
        stationary: The law that all rows end in, `(S,)`.
        links: Which symbol can become which, `(S, S)`; None if every one can become every one.

    Raises:
        ValueError: If no class can become some symbol.
    """

    edges: Tensor
    closed: Tensor | None
    alone: Tensor | None

    def __init__(self, classes: int, stationary: Tensor, links: Tensor | None) -> None:
        super().__init__(classes, stationary)
        self.register_buffer("edges", stationary.cumsum(0), persistent=False)
        closed, alone = None, None
        if links is not None and not bool(links[:classes].all()):
            closed = ~links[:classes].T
            nowhere = torch.nonzero(closed.all(1))[:, 0]
            if len(nowhere):
                mend = "leave it out, or let it be reached"
                msg = f"no class can become symbol {int(nowhere[0])}: {mend}"
                raise ValueError(msg)
            alone = F.pad(closed.sum(1)[:classes] == classes - 1, (0, len(links) - classes))
            alone = alone if bool(alone.any()) else None
        self.register_buffer("closed", closed, persistent=False)
        self.register_buffer("alone", alone, persistent=False)

    @abstractmethod
    def after(self, tau: Tensor) -> Kernel:
        """exp(R tau), for times `()` or shaped to broadcast against rows."""

    def each(self, taus: Tensor) -> Sequence[Kernel]:
        """The kernels of times `(n,)` that all rows share."""
        return [self.after(tau) for tau in taus]

    @abstractmethod
    def inflow(self, x_t: Tensor) -> Tensor:
        """R(j, x_t) for all j, and 0 at x_t, `(..., S)`."""

    @property
    def continuous(self) -> bool:
        """There is a generator."""
        return True

    def redraw(self, uniform: Tensor) -> Tensor:
        """By inverse CDF."""
        return invert(self.edges, uniform)

    def kernel(self, schedule: Schedule, s: Tensor | None, t: Tensor, x: Tensor) -> Kernel:
        """That of the time between."""
        return self.after(expand(between(schedule, s, t).to(x.device), x))

    def reverse(
        self, schedule: Schedule, times: Tensor, eta: float, x: Tensor
    ) -> Sequence[Reverse]:
        """At eta 1."""
        check_eta(self, eta)
        if times.ndim > 1:
            return row_steps(self, schedule, times, eta, x)
        marginals = self.each(between(schedule, None, times).to(x.device))
        taus = between(schedule, times[1:], times[:-1]).to(x.device)
        return [
            Still(self.symbols) if tau == 0 else Bayes(start, end, step)
            for tau, start, end, step in zip(
                taus, marginals[1:], marginals[:-1], self.each(taus), strict=True
            )
        ]

    def settled(self, x_t: Tensor) -> Tensor | None:
        """Where no other class can become x_t."""
        return None if self.alone is None else self.alone.to(x_t.device)[x_t]

    def barred(self, schedule: Schedule, t: Tensor, x_t: Tensor) -> Tensor | None:
        """Classes that can become x_t at no time."""
        del schedule, t
        return None if self.closed is None else self.closed.to(x_t.device)[x_t]

    def rates(self, log_p: Tensor, x_t: Tensor, jump: Jump) -> Tensor:
        """beta R(j, x_t) times the ratios."""
        beta = expand(jump.beta, x_t).to(log_p.dtype).unsqueeze(-1)
        return beta * reverse_rates(self._at(jump), self.inflow(x_t), log_p, x_t)

    def divergence_rate(self, log_p: Tensor, x_0: Tensor, x_t: Tensor, jump: Jump) -> Tensor:
        """The score entropy of the ratios, weighted by beta R(j, x_t)."""
        total = jump_divergence(self._at(jump), self.inflow(x_t), log_p, x_0, x_t)
        return expand(jump.beta, x_t).to(log_p.dtype) * total

    def _at(self, jump: Jump) -> Kernel:
        return self.after(age(jump.alpha.double(), jump.sigma.double()))


def age(alpha: Tensor, sigma: Tensor) -> Tensor:
    """-log alpha, with all its digits where little has happened."""
    return torch.where(sigma < 0.5, -torch.log1p(-sigma), -torch.log(alpha))


def between(schedule: Schedule, s: Tensor | None, t: Tensor) -> Tensor:
    """log(alpha_s / alpha_t), float64; s is None for clean data."""
    level = schedule(t)
    end = age(level.alpha, level.sigma)
    if s is None:
        return end
    past = schedule(s)
    start = age(past.alpha, past.sigma)
    return torch.where(start == end, 0.0, (end - start).clamp(min=0))


def check_eta(transition: Transition, eta: float) -> None:
    """Refuse other steps than Bayes' rule."""
    if eta != 1:
        why = f"a {type(transition).__name__} transition has the step of Bayes' rule alone"
        msg = f"eta must be 1, got {eta:g}: {why} (uniform, absorbing and marginal take any)"
        raise ValueError(msg)


def invert(edges: Tensor, uniform: Tensor) -> Tensor:
    """Symbols at float64 quantiles of a law with these cumulated probabilities."""
    place = uniform.double() * edges[-1].to(uniform.device)
    index = torch.searchsorted(edges.to(uniform.device), place.contiguous(), right=True)
    return index.clamp(max=len(edges) - 1)


def safe_log(y: Tensor) -> Tensor:
    """Log y with -inf, and no gradient, at zero."""
    return torch.where(y > 0, y.clamp(min=torch.finfo(y.dtype).tiny).log(), -torch.inf)
