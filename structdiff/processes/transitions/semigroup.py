r"""exp(R tau) of a generator, with small numbers as accurate as large ones.

With c the largest exit rate and P = I + R / c, a matrix of probabilities,

    exp(R tau) = sum_n e^{-c tau} (c tau)^n / n!  P^n,

which adds no numbers of different sign, so that every entry has its own relative accuracy
(eigenvectors know entries to the rounding of the largest one). The time is split into
tau = (whole + rest) / (16 c): the rest by 20 terms of the sum, the whole number by its binary
digits, from the matrices exp(R 2^n / (16 c)), each the square of the one before. So products
with any number of different times cost about 20 + log2(16 c tau) products with a matrix.

Entries of more than 1e-30 are right to about 1e-12 of themselves. What can be reached at all is
given 1e-290 at least, so that dividing by it is safe.

References:
    Markoff chains as an aid in the study of Markoff processes (Jensen, 1953): uniformisation.
    Methods of computing stationary distributions (Grassmann, Taksar and Heyman, 1985).
    https://doi.org/10.1287/opre.33.5.1107
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["FLOOR", "Dense", "Semigroup", "reachable", "stationary_law"]

FLOOR = 1e-290
"""Probability of what can be, but is too rare for float64."""

PARTS = 16
TERMS = 20
LONGEST = 746.0
"""Longer times than the clock of a float64 survival above zero."""


class Semigroup(nn.Module, ABC):
    """Products with exp(R tau), times by row.

    Arguments:
        speed: The largest exit rate c.
        stationary: The law of long times, `(S,)`.
        links: Which symbol can become which, `(S, S)`; None if every one can become every one.
    """

    stationary: Tensor
    links: Tensor | None

    def __init__(self, speed: float, stationary: Tensor, links: Tensor | None) -> None:
        super().__init__()
        self.speed = speed
        self.register_buffer("stationary", stationary, persistent=False)
        self.register_buffer("links", None if links is None else links.double(), persistent=False)

    @property
    @abstractmethod
    def levels(self) -> int:
        """Number of binary digits; times of more are as good as infinite."""

    @abstractmethod
    def hop(self, y: Tensor, *, back: bool) -> Tensor:
        """y P; P y if back."""

    @abstractmethod
    def power(self, level: int) -> Tensor:
        """exp(R 2^level / (16 c)), `(S, S)`."""

    def push(self, y: Tensor, tau: Tensor, *, back: bool = False) -> Tensor:
        """y exp(R tau), or exp(R tau) y if back.

        Arguments:
            y: Not negative, float64, `(..., S)`.
            tau: Times, broadcast against `(...)`; infinity is one of them.
            back: From the other side.
        """
        tau = tau.double().unsqueeze(-1)
        whole, rest = self.split(tau)
        later = self._short(y, rest, back)
        for level in range(self.levels):
            power = self.power(level)
            digit = (whole >> level).remainder(2) == 1
            later = torch.where(digit, later @ (power.T if back else power).to(y.device), later)
        return self.settle(y, later, tau, back=back)

    def split(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """The time as a whole number of 1 / (16 c), int64, and the expected hops of the rest."""
        units = tau.clamp(max=LONGEST) * (PARTS * self.speed)
        whole = units.detach().floor()
        return whole.clamp(max=2.0**52).long(), (units - whole).clamp(0, 1) / PARTS

    def settle(self, y: Tensor, later: Tensor, tau: Tensor, *, back: bool) -> Tensor:
        """What `later` is with the floor, and where the time is as good as infinite."""
        law, links = self.stationary.to(y.device), self.links
        limit = (y * law).sum(-1, keepdim=True) if back else y.sum(-1, keepdim=True) * law
        linked = y.sum(-1, keepdim=True)
        if links is not None:
            linked = y @ (links.T if back else links).to(y.device)
        later = torch.where((tau > 0) & ~torch.isinf(tau), later + FLOOR * linked, later)
        whole, _ = self.split(tau)
        return torch.where(torch.isinf(tau) | (whole >= 2**self.levels), limit, later)

    def _short(self, y: Tensor, hops: Tensor, back: bool) -> Tensor:
        """A time of `hops` expected hops, at most 1 / 16."""
        total, term = y, y
        for n in range(1, TERMS + 1):
            term = self.hop(term, back=back) * (hops / n)
            total = total + term
        return total * torch.exp(-hops)


class Dense(Semigroup):
    """Of any generator, with its powers and those of P stored: about 35 matrices.

    Arguments:
        generator: R, `(S, S)`, float64, rows that sum to zero.
        stationary: Its stationary law.
        links: As in `Semigroup`.
    """

    hops: Tensor
    powers: Tensor

    def __init__(self, generator: Tensor, stationary: Tensor, links: Tensor | None) -> None:
        super().__init__(float(-generator.diagonal().min()), stationary, links)
        eye = torch.eye(len(generator), dtype=torch.float64)
        off = (generator / self.speed).fill_diagonal_(0)
        stay = 1 - off.sum(1)
        step = off + torch.diag(stay.clamp(min=0))
        hops = [eye]
        for _ in range(TERMS):
            hops.append(hops[-1] @ step)
        self.register_buffer("hops", torch.stack(hops), persistent=False)
        first = self._start(torch.full((1,), 1 / PARTS, dtype=torch.float64))[0]
        powers = doublings(first, lambda x: x @ x, stationary, self.speed)
        self.register_buffer("powers", powers, persistent=False)

    @property
    def levels(self) -> int:
        """As many as the chain takes to forget."""
        return len(self.powers)

    def hop(self, y: Tensor, *, back: bool) -> Tensor:
        """A product with the matrix."""
        step = self.hops[1].to(y.device)
        return y @ (step.T if back else step)

    def power(self, level: int) -> Tensor:
        """As stored."""
        return self.powers[level]

    def matrices(self, taus: Tensor) -> Tensor:
        """exp(R tau) at times `(n,)`, `(n, S, S)`; reads the times on the host."""
        whole, rest = self.split(taus.double())
        later = self._start(rest)
        for level in range(self.levels):
            (digit,) = torch.nonzero((whole >> level).remainder(2) == 1, as_tuple=True)
            if len(digit):
                product = later[digit] @ self.power(level).to(taus.device)
                later = later.index_put((digit,), product)
        eye = self.hops[0].to(taus.device)
        return self.settle(eye, later, taus.double()[:, None, None], back=False)

    def _start(self, hops: Tensor) -> Tensor:
        """Matrices of times `(n,)` of at most 1 / 16 expected hops."""
        n = torch.arange(TERMS + 1, dtype=torch.float64, device=hops.device)
        log_weights = torch.xlogy(n, hops[:, None]) - torch.lgamma(n + 1) - hops[:, None]
        terms = self.hops.to(hops.device)
        return (log_weights.exp() @ terms.flatten(1)).reshape(-1, *terms.shape[1:])


def doublings(
    first: Tensor, double: Callable[[Tensor], Tensor], limit: Tensor, speed: float
) -> Tensor:
    """Laws at 2^n / (16 c) until they are the limit, or later than any survival."""
    powers = [first / first.sum(-1, keepdim=True)]
    most = math.ceil(math.log2(LONGEST * PARTS * speed))
    while len(powers) <= most:
        twice = double(powers[-1])
        powers.append(twice / twice.sum(-1, keepdim=True))
        if bool(((powers[-1] - limit).abs() <= 1e-14 * limit).all()):
            break
    return torch.stack(powers)


def reachable(generator: Tensor) -> Tensor:
    """Which symbol can become which in the end, `(S, S)`, itself included."""
    links = (generator > 0) | torch.eye(len(generator), dtype=torch.bool)
    for _ in range(math.ceil(math.log2(max(2, len(generator))))):
        links = (links.float() @ links.float()) > 0
    return links


def stationary_law(name: str, generator: Tensor, links: Tensor) -> Tensor:
    """The law that a generator (or one-step matrix) leaves as it is, without subtraction.

    Arguments:
        name: What to call the matrix in an error.
        generator: Off the diagonal not negative; the diagonal is not looked at.
        links: Which symbol can become which.

    Raises:
        ValueError: If there are several such laws.
    """
    closed = (links <= links.T).all(1)
    symbols = torch.nonzero(closed)[:, 0]
    apart = symbols[~links[symbols[0], symbols]]
    if len(apart):
        which = f"symbols {int(symbols[0])} and {int(apart[0])} end in places of their own"
        msg = f"{name} must have one stationary law, but {which}: join them by a small rate"
        raise ValueError(msg)
    a = generator.double()[symbols][:, symbols].clone()
    for n in range(len(a) - 1, 0, -1):
        a[:n, n] /= a[n, :n].sum()
        a[:n, :n] += torch.outer(a[:n, n], a[n, :n])
    inner = a.new_ones(len(a))
    for n in range(1, len(a)):
        inner[n] = inner[:n] @ a[:n, n]
    law = a.new_zeros(len(generator))
    law[symbols] = inner / inner.sum()
    return law
