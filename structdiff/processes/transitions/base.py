r"""What a transition is: how symbols turn into symbols, as a value that a chain holds.

A chain on S symbols, of which the first K are the classes of the data, has the transition matrices
Q_{t|s}(j, i) = q(x_t = i | x_s = j). In continuous time all of them follow from one generator R
(rows sum to zero) and the chain's survival alpha,

    Q_{t|s} = exp(R log(alpha_s / alpha_t)),

so that the uniform, absorbing and marginal chains, R = 1 pi^T - I, keep a row with probability
alpha_t / alpha_s. Chains that are given by their matrices on T steps have no generator.

The reverse of a step is Bayes' rule, averaged over the estimate p:

    r(j) = Q_{t|s}(j, x_t) sum_k p_k Q_s(k, j) / Q_t(k, x_t).

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021), eq. 3.
    https://arxiv.org/abs/2107.03006
    A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022), section 3.
    https://arxiv.org/abs/2205.14987
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from structdiff.processes.draws import draw_class
from structdiff.schedules import Schedule

__all__ = [
    "Bayes",
    "Jump",
    "Kernel",
    "Leap",
    "Reverse",
    "Still",
    "Transition",
    "log_sum",
    "row_steps",
]


class Kernel(ABC):
    """q(x_t | x_s) between two times; its numbers broadcast against rows `(rows, *event)`."""

    @abstractmethod
    def draw(self, x_s: Tensor, uniform: Tensor) -> Tensor:
        """x_t at float64 quantiles of the shape of x_s."""

    @abstractmethod
    def log_prob(self, x_t: Tensor, x_s: Tensor) -> Tensor:
        """log Q(x_s, x_t), of the shape of x_t."""

    @abstractmethod
    def column(self, x_t: Tensor) -> Tensor:
        """log Q(j, x_t) for all symbols j, `(..., S)`."""

    @abstractmethod
    def push(self, log_law: Tensor) -> Tensor:
        """log sum_j law_j Q(j, i) for all i, `(..., S)` to `(..., S)`; any total mass."""


class Reverse(ABC):
    """The kernel of one reverse step; its times are shared by all rows."""

    @abstractmethod
    def log_kernel(self, log_p: Tensor, x_t: Tensor) -> Tensor:
        """Log-probabilities of x_s, `(..., S)`, at an estimate `(..., K)`."""

    @abstractmethod
    def draw(self, log_p: Tensor, x_t: Tensor, uniform: Tensor) -> Tensor:
        """x_s at float64 quantiles of the shape of x_t."""


class Jump(NamedTuple):
    """A time, where rates are asked for.

    Arguments:
        t: The time, `()` or `(rows,)`.
        alpha: Survival until then, in float32 at least, shaped to broadcast against x.
        sigma: 1 - alpha, likewise.
        beta: Rate at which survival falls, -d log alpha / dt, likewise.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    beta: Tensor


class Transition(nn.Module, ABC):
    """How symbols turn into symbols.

    Arguments:
        classes: Number K of data classes.
        stationary: The law that all rows end in, `(S,)`, float64.
    """

    stationary: Tensor

    def __init__(self, classes: int, stationary: Tensor) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("stationary", stationary, persistent=False)

    @property
    def symbols(self) -> int:
        """Number S of symbols that a noisy row can have."""
        return len(self.stationary)

    @property
    @abstractmethod
    def continuous(self) -> bool:
        """Whether there is a generator, and so a kernel between any two times."""

    @abstractmethod
    def redraw(self, uniform: Tensor) -> Tensor:
        """Symbols of the stationary law at float64 quantiles."""

    @abstractmethod
    def kernel(self, schedule: Schedule, s: Tensor | None, t: Tensor, x: Tensor) -> Kernel:
        """The kernel from s (None for clean data) to t, `()` or `(rows,)`, for states like x."""

    @abstractmethod
    def reverse(
        self, schedule: Schedule, times: Tensor, eta: float, x: Tensor
    ) -> Sequence[Reverse]:
        """The reverse steps of a grid `(steps + 1,)` or `(steps + 1, rows)`, for states like x.

        Raises:
            ValueError: If the chain has no such steps (another eta, times off its grid).
        """

    @abstractmethod
    def settled(self, x_t: Tensor) -> Tensor | None:
        """Where x_t cannot come from noise, so that x_0 = x_t; None for nowhere."""

    @abstractmethod
    def barred(self, schedule: Schedule, t: Tensor, x_t: Tensor) -> Tensor | None:
        """Classes that cannot lead to x_t, `(..., K)`, where it is not settled; None for none."""

    @abstractmethod
    def rates(self, log_p: Tensor, x_t: Tensor, jump: Jump) -> Tensor:
        """Rates of the time reversal from x_t to all other symbols, `(..., S)`, 0 at x_t.

        beta R(j, x_t) sum_k p_k Q_t(k, j) / Q_t(k, x_t), per unit of t.

        Raises:
            ValueError: If there is no generator.
        """

    @abstractmethod
    def divergence_rate(self, log_p: Tensor, x_0: Tensor, x_t: Tensor, jump: Jump) -> Tensor:
        """KL per unit of t between the reversals at x_0 and at the estimate, per entry.

        With r* and r their rates, sum_j r_j - r*_j + r*_j log(r*_j / r_j).

        Raises:
            ValueError: If there is no generator.
        """


class Bayes(Reverse):
    """Bayes' rule for any three kernels.

    Arguments:
        start: q(x_s | x_0).
        end: q(x_t | x_0).
        between: q(x_t | x_s).
    """

    def __init__(self, start: Kernel, end: Kernel, between: Kernel) -> None:
        self.start, self.end, self.between = start, end, between

    def log_kernel(self, log_p: Tensor, x_t: Tensor) -> Tensor:
        """Log r(j), normalised, in the dtype of log p."""
        column = self.end.column(x_t)
        mass = torch.full_like(column, -torch.inf)
        seen = column[..., : log_p.shape[-1]]
        never = (log_p == -torch.inf) | (seen == -torch.inf)
        mass[..., : log_p.shape[-1]] = torch.where(never, -torch.inf, log_p - seen)
        log_r = self.between.column(x_t) + self.start.push(mass)
        # A row that is held may be where noise cannot be: it stays.
        stuck = (log_r == -torch.inf).all(-1, keepdim=True)
        own = torch.full_like(log_r, -torch.inf).scatter(-1, x_t.unsqueeze(-1), 0.0)
        return torch.log_softmax(torch.where(stuck, own, log_r), -1).to(log_p.dtype)

    def draw(self, log_p: Tensor, x_t: Tensor, uniform: Tensor) -> Tensor:
        """By inverse CDF."""
        return draw_class(self.log_kernel(log_p, x_t), uniform)


class Still(Reverse):
    """Nothing changes: both ends are as noisy.

    Arguments:
        symbols: Number S of symbols.
    """

    def __init__(self, symbols: int) -> None:
        self.symbols = symbols

    def log_kernel(self, log_p: Tensor, x_t: Tensor) -> Tensor:
        """All on x_t."""
        nothing = log_p.new_full((*x_t.shape, self.symbols), -torch.inf)
        return nothing.scatter(-1, x_t.unsqueeze(-1), 0.0)

    def draw(self, log_p: Tensor, x_t: Tensor, uniform: Tensor) -> Tensor:
        """x_t."""
        del log_p, uniform
        return x_t


class Leap(Reverse):
    """A step with rates frozen at its start: tau-leaping.

    With the total rate r, a row stays with probability e^{-r length}, and otherwise makes one
    jump, to j with probability r_j / r. Right to first order in the length.

    Arguments:
        transition: A transition with a generator.
        jump: Where the rates are frozen.
        length: How long the step is, 0-dim.
    """

    def __init__(self, transition: Transition, jump: Jump, length: Tensor) -> None:
        self.transition, self.jump, self.length = transition, jump, length

    def log_kernel(self, log_p: Tensor, x_t: Tensor) -> Tensor:
        """Log-probabilities of x_s."""
        rates = self.transition.rates(log_p, x_t, self.jump)
        total = rates.sum(-1, keepdim=True)
        moves = torch.log(-torch.expm1(-total * self.length))
        away = torch.where(rates > 0, rates.log() - total.log() + moves, -torch.inf)
        return away.scatter(-1, x_t.unsqueeze(-1), -total * self.length)

    def draw(self, log_p: Tensor, x_t: Tensor, uniform: Tensor) -> Tensor:
        """By inverse CDF."""
        return draw_class(self.log_kernel(log_p, x_t), uniform)


def row_steps(
    transition: Transition, schedule: Schedule, times: Tensor, eta: float, x: Tensor
) -> list[Reverse]:
    """Bayes' rule on a grid `(steps + 1,)` or `(steps + 1, rows)`, for any transition.

    Raises:
        ValueError: If eta is not 1.
    """
    if eta != 1:
        msg = f"only eta = 1 (Bayes' rule) is known for this chain, or times of rows; got {eta}"
        raise ValueError(msg)
    times = times.to(x.device)
    whole = [transition.kernel(schedule, None, t, x) for t in times]
    pairs = zip(times[1:], times[:-1], strict=True)
    between = [transition.kernel(schedule, s, t, x) for s, t in pairs]
    return [Bayes(a, b, c) for a, b, c in zip(whole[1:], whole[:-1], between, strict=True)]


def log_sum(a: Tensor, b: Tensor) -> Tensor:
    """log(e^a + e^b), whose gradient is zero, and a number, where both are -inf."""
    nothing = (a == -torch.inf) & (b == -torch.inf)
    found = torch.logaddexp(torch.where(nothing, 0.0, a), torch.where(nothing, 0.0, b))
    return torch.where(nothing, -torch.inf, found)
