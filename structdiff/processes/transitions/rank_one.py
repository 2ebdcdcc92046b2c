r"""Transitions of the form alpha I + (1 - alpha) 1 pi^T, as values.

A row keeps its class with probability alpha and is otherwise redrawn from the stationary law pi.
Uniform, absorbing and marginal chains are three vectors pi; there is no matrix and no table.

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021),
    appendix A.
    https://arxiv.org/abs/2107.03006
    Argmax Flows and Multinomial Diffusion (Hoogeboom et al., 2021). https://arxiv.org/abs/2102.05379
    DiGress (Vignac et al., 2023), section 4.1 (marginal). https://arxiv.org/abs/2209.14734
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from structdiff.processes.leaf import expand
from structdiff.processes.transitions.base import (
    Jump,
    Kernel,
    Reverse,
    Still,
    Transition,
    log_sum,
    row_steps,
)
from structdiff.processes.transitions.rank_one_rates import divergence_rate, reverse_rates
from structdiff.processes.transitions.rank_one_step import RankOneStep
from structdiff.schedules import Schedule

__all__ = ["RankOne", "absorbing", "marginal", "uniform"]


class RankOne(Transition):
    """A rank-one transition.

    Arguments:
        classes: Number K of data classes, at least 1.
        stationary: The law pi over the symbols, `(S,)`, with S = K, or more if some symbols
            (a mask) never occur in data. Sums to one (rounding is mended).

    Raises:
        ValueError: If `stationary` is not a law over at least K symbols.
    """

    edges: Tensor

    def __init__(self, classes: int, stationary: Tensor) -> None:
        law = check_law(classes, stationary)
        super().__init__(classes, law)
        self.register_buffer("edges", law.cumsum(0) / law.sum(), persistent=False)
        self.even = bool((law == law[0]).all())
        self.only = int(law.argmax()) if bool((law == 1).any()) else None
        self.everywhere = bool((law > 0).all())
        self.inside = bool((law[:classes] > 0).any())

    @property
    def continuous(self) -> bool:
        """The generator is 1 pi^T - I."""
        return True

    def redraw(self, uniform: Tensor) -> Tensor:
        """Symbols from the stationary law by inverse CDF."""
        if self.only is not None:
            return torch.full_like(uniform, self.only, dtype=torch.long)
        if self.even:
            return (uniform * self.symbols).long().clamp_(0, self.symbols - 1)
        index = torch.searchsorted(
            self.edges.to(uniform.device), uniform.double().contiguous(), right=True
        )
        return index.clamp_(max=self.symbols - 1)

    def kernel(self, schedule: Schedule, s: Tensor | None, t: Tensor, x: Tensor) -> Kernel:
        """Keep with probability alpha_t / alpha_s, else redraw."""
        dtype = torch.promote_types(t.dtype, torch.float32)
        keep = schedule.alpha(t)
        if s is not None:
            past = schedule.alpha(s)
            keep = torch.where(keep == past, 1.0, keep / past)
        return RankOneKernel(expand(keep.to(x.device), x), dtype, self)

    def reverse(
        self, schedule: Schedule, times: Tensor, eta: float, x: Tensor
    ) -> Sequence[Reverse]:
        """Any eta; rows with times of their own take Bayes' rule only.

        Raises:
            ValueError: If the times are of rows and eta is not 1.
        """
        if times.ndim > 1:
            return row_steps(self, schedule, times, eta, x)
        level = schedule(times)
        levels = list(zip(level.alpha.tolist(), level.sigma.tolist(), strict=True))
        law, share = self.stationary.to(x.device), float(eta) ** 2
        return [
            Still(self.symbols)
            if start == end
            else RankOneStep(*start, *end, share, law, self.redraw)
            for start, end in itertools.pairwise(levels)
        ]

    def settled(self, x_t: Tensor) -> Tensor | None:
        """Where pi(x_t) is zero."""
        return None if self.everywhere else self.stationary.to(x_t.device)[x_t] == 0

    def barred(self, schedule: Schedule, t: Tensor, x_t: Tensor) -> Tensor | None:
        """Nothing: a symbol that noise can be may come from every class."""
        del schedule, t, x_t
        return None  # noqa: RET501

    def rates(self, log_p: Tensor, x_t: Tensor, jump: Jump) -> Tensor:
        """beta [(alpha / sigma) p_j + W pi_j]."""
        return reverse_rates(self.stationary.to(x_t.device), log_p, x_t, jump)

    def divergence_rate(self, log_p: Tensor, x_0: Tensor, x_t: Tensor, jump: Jump) -> Tensor:
        """In O(K); in O(1) beyond log p where noise is never a class of the data."""
        law = self.stationary.to(x_t.device)
        return divergence_rate(law, log_p, x_0, x_t, jump, inside=self.inside)


class RankOneKernel(Kernel):
    """Keep a row or redraw it.

    Arguments:
        keep: Probability to keep, float64.
        dtype: Precision of log-probabilities.
        transition: Where to redraw from.
    """

    def __init__(self, keep: Tensor, dtype: torch.dtype, transition: RankOne) -> None:
        self.keep, self.dtype, self.transition = keep, dtype, transition

    def draw(self, x_s: Tensor, uniform: Tensor) -> Tensor:
        """One number says whether the row stays, and where it goes if not."""
        beyond = uniform - self.keep
        return torch.where(beyond < 0, x_s, self.transition.redraw(beyond.div_(1 - self.keep)))

    def _law(self, x_t: Tensor) -> Tensor:
        return self.transition.stationary.to(x_t.device)

    def log_prob(self, x_t: Tensor, x_s: Tensor) -> Tensor:
        """log(keep [x_t = x_s] + move pi(x_t))."""
        law = self._law(x_t)[x_t]
        return torch.log(self.keep * (x_t == x_s) + (1 - self.keep) * law).to(self.dtype)

    def column(self, x_t: Tensor) -> Tensor:
        """log(keep [j = x_t] + move pi(x_t))."""
        mass = (1 - self.keep) * self._law(x_t)[x_t]
        stay = torch.log(self.keep + mass).to(self.dtype).unsqueeze(-1)
        away = mass.log().to(self.dtype).unsqueeze(-1)
        return away.repeat_interleave(self.transition.symbols, -1).scatter(
            -1, x_t.unsqueeze(-1), stay
        )

    def push(self, log_law: Tensor) -> Tensor:
        """log(keep law_i + move pi_i sum law)."""
        total = torch.logsumexp(log_law, -1, keepdim=True)
        law = self._law(log_law).log().to(log_law)
        keep, move = (
            value.log().to(log_law).unsqueeze(-1) for value in (self.keep, 1 - self.keep)
        )
        return log_sum(log_law + keep, law + total + move)


def check_law(classes: int, law: Tensor) -> Tensor:
    """A law over at least K symbols, in float64, summing to one.

    Raises:
        ValueError: If it is none.
    """
    if classes < 1 or law.ndim != 1 or len(law) < classes:
        must = f"a vector over at least classes = {classes} >= 1 symbols"
        msg = f"stationary must be {must}, got shape {tuple(law.shape)}"
        raise ValueError(msg)
    if not bool((law >= 0).all()) or not abs(float(law.double().sum()) - 1) <= 1e-6:
        must = "stationary must be non-negative and sum to 1"
        msg = f"{must}, its sum is {float(law.sum()):.6g}: divide by the sum"
        raise ValueError(msg)
    return law.double() / law.double().sum()


def uniform(classes: int) -> RankOne:
    """Redraw uniformly: multinomial diffusion, D3PM-uniform."""
    return RankOne(classes, torch.full((classes,), 1 / classes, dtype=torch.float64))


def absorbing(classes: int) -> RankOne:
    """Fall into an extra symbol, the mask, of index `classes`."""
    law = torch.zeros(classes + 1, dtype=torch.float64)
    law[classes] = 1
    return RankOne(classes, law)


def marginal(probabilities: Tensor) -> RankOne:
    """Redraw from a given law over the classes, `(K,)`, e.g. their frequencies in the data."""
    return RankOne(len(probabilities), probabilities)
