r"""The Jacobi diffusion on [0, 1]: transition density, score and exact draws.

    dx = 1/2 [a (1 - x) - b x] dtau + sqrt(x (1 - x)) dw

(the paper's with tau the integral of its speed s) is reversible with the law w = Beta(a, b). Its
generator has the orthonormal Jacobi polynomials phi_n of w as eigenfunctions, so that

    q_tau(x | y) / w(x) = sum_n e^{-lambda_n tau} phi_n(y) phi_n(x),
    lambda_n = n (n - 1 + a + b) / 2.

The polynomials come from their three-term recurrence in float64, which is stable on [0, 1]. Terms
of the distribution function are closed too, since the generator is in divergence form:

    int_0^x w phi_n = -x (1 - x) w(x) phi_n'(x) / (2 lambda_n),    n >= 1,

so that a draw is the inverse of a sum at a uniform number: no step leaves [0, 1], and there are
no steps. As many terms are summed as the shortest time needs, sqrt(80 / tau): what is left out is
below 1e-16 there. The sum cancels where x is far from y at a short time, to some 1e-13 of its
largest terms; it is not let fall below 1e-11 (of the density against w), which only draws of that
probability see, and there the score against w is zero.

References:
    Dirichlet Diffusion Score Model for Biological Sequence Generation (Avdeyev et al., 2023),
    section 3 and appendix. https://arxiv.org/abs/2305.10699
    A Second Course in Stochastic Processes (Karlin and Taylor, 1981), chapter 15, section 13.
    Exact Simulation of the Wright-Fisher Diffusion (Jenkins and Spano, 2017).
    https://arxiv.org/abs/1506.06998
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structdiff.random import Randomness

__all__ = ["JacobiKernel"]

_FLOOR = 1e-11
_CELLS = 2048
_COARSE = 32


class JacobiKernel:
    """Independent Jacobi diffusions, one a column.

    The tables are made once, on the CPU. Maps take float32 or float64 and compute in float64.

    Arguments:
        a: Pull towards 1, positive, `(columns,)`.
        b: Pull towards 0, positive, `(columns,)`.
        shortest: The shortest time that is asked for, positive.

    Raises:
        ValueError: If a parameter is not positive or the shapes differ.

    Example:
        >>> kernel = JacobiKernel(torch.tensor([1.0]), torch.tensor([2.0]), 0.01)
        >>> y, x = torch.tensor([[0.9]]), torch.tensor([[0.25]])
        >>> kernel.log_prob(y, x, torch.tensor(50.0)).exp()  # that of Beta(1, 2) by then
        tensor([[1.5000]])
    """

    def __init__(self, a: Tensor, b: Tensor, shortest: float) -> None:
        if a.ndim != 1 or a.shape != b.shape or not bool(((a > 0) & (b > 0)).all()):
            must = "a and b must be positive vectors of one length"
            msg = f"{must}, got {a.tolist()} and {b.tolist()}: give one of each a column"
            raise ValueError(msg)
        if not 0 < shortest < math.inf:
            msg = f"shortest must be positive and finite, got {shortest}: give the first time"
            raise ValueError(msg)
        self.a, self.b, self.shortest = a.double().cpu(), b.double().cpu(), shortest
        self.terms = 2 + math.ceil(math.sqrt(80 / shortest))
        n = torch.arange(self.terms, dtype=torch.float64)[:, None]
        self.rates = n * (n - 1 + self.a + self.b) / 2
        self.middle, self.side = _recurrence(self.a, self.b, n)
        self.nodes = torch.linspace(0, math.pi, _CELLS + 1, dtype=torch.float64)
        self.table = self._distribution(torch.sin(self.nodes / 2).square())

    def stationary_log_prob(self, x: Tensor) -> Tensor:
        """Log density of Beta(a, b), of the shape of x."""
        a, b = self.a.to(x.device), self.b.to(x.device)
        beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
        x = x.double()
        value: Tensor = torch.xlogy(a - 1, x) + torch.special.xlog1py(b - 1, -x) - beta
        return value

    def log_ratio(self, y: Tensor, x: Tensor, tau: Tensor) -> Tensor:
        """log q_tau(x | y) / w(x), float64; not below log 1e-11.

        Arguments:
            y: Where the diffusion starts, `(rows, columns)`.
            x: Where it is, likewise.
            tau: Time, `()` or `(rows,)`, at least the shortest.
        """
        weights = self._weights(y, tau)
        return (weights * self._polynomials(x)[0]).sum(0).clamp(min=_FLOOR).log()

    def log_prob(self, y: Tensor, x: Tensor, tau: Tensor) -> Tensor:
        """Log density of the diffusion's place x after tau from y, in the dtype of x."""
        return (self.log_ratio(y, x, tau) + self.stationary_log_prob(x)).to(x.dtype)

    def ratio_score(self, y: Tensor, x: Tensor, tau: Tensor) -> Tensor:
        """Derivative of `log_ratio` in x: the score less that of Beta(a, b); no autograd."""
        weights = self._weights(y, tau)
        value, slope = self._polynomials(x)
        ratio, rise = (weights * value).sum(0), (weights * slope).sum(0)
        return torch.where(ratio > _FLOOR, rise / ratio.clamp(min=_FLOOR), 0.0).to(x.dtype)

    def score(self, y: Tensor, x: Tensor, tau: Tensor) -> Tensor:
        """Derivative of `log_prob` in x."""
        a, b = self.a.to(x.device), self.b.to(x.device)
        pull = (a - 1) / x.double() - (b - 1) / (1 - x.double())
        return (self.ratio_score(y, x, tau) + pull).to(x.dtype)

    def stationary(self, rows: int, random: Randomness, like: Tensor) -> Tensor:
        """Draws of Beta(a, b), `(rows, columns)`, of the dtype and device of `like`."""
        middle = like.new_full((rows, len(self.a)), 0.5)
        return self.draw(middle, like.new_full((), torch.inf), random)

    def draw(self, y: Tensor, tau: Tensor, random: Randomness) -> Tensor:
        """Where diffusions from y are after tau: the inverse distribution function.

        Arguments:
            y: Where they start, `(rows, columns)`.
            tau: Time, `()` or `(rows,)`, at least the shortest, or 0: they stay.
            random: Where a uniform number for each comes from.
        """
        weights = self._weights(y, tau).movedim(0, -1).contiguous()
        u = random.uniform(y.shape, torch.float64, y.device)
        table = self.table.to(y.device)
        column = torch.arange(len(self.a), device=y.device).expand_as(u)

        def below(cell: Tensor) -> Tensor:
            return (weights * table[column, cell]).sum(-1)

        coarse = torch.einsum("rct,cnt->rcn", weights, table[:, _COARSE:-1:_COARSE])
        low = _COARSE * (coarse <= u[..., None]).sum(-1)
        step = _COARSE // 2
        while step:
            higher = below(low + step) <= u
            low, step = torch.where(higher, low + step, low), step // 2
        first, last = below(low), below(low + 1)
        share = ((u - first) / (last - first).clamp(min=1e-300)).clamp(0, 1)
        angle = (low + share) * (math.pi / _CELLS)
        x = torch.sin(angle / 2).square().to(y.dtype)
        moves = tau.to(y.device) > 0
        return torch.where(moves[:, None] if moves.ndim else moves, x, y)

    def _weights(self, y: Tensor, tau: Tensor) -> Tensor:
        """e^{-lambda_n tau} phi_n(y), `(terms, rows, columns)`; the rate 0 is no inf times 0."""
        time = tau.double().to(y.device)
        time = time[:, None] if time.ndim else time
        rates = self.rates[:, None].to(y.device)
        decay = torch.exp(-rates * time.clamp(max=1e6))
        return decay * self._polynomials(y)[0]

    def _polynomials(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """phi_n and their derivatives in x, each `(terms, *x)`, float64."""
        z = 2 * x.double() - 1
        middle, side = self.middle.to(x.device), self.side.to(x.device)
        value, slope = [torch.ones_like(z)], [torch.zeros_like(z)]
        before, before_slope = torch.zeros_like(z), torch.zeros_like(z)
        for n in range(self.terms - 1):
            shifted = z - middle[n]
            up = shifted * value[n] - side[n] * before
            up_slope = shifted * slope[n] + 2 * value[n] - side[n] * before_slope
            before, before_slope = value[n], slope[n]
            value.append(up / side[n + 1])
            slope.append(up_slope / side[n + 1])
        return torch.stack(value), torch.stack(slope)

    def _distribution(self, x: Tensor) -> Tensor:
        """int_0^x w phi_n at the nodes, `(columns, nodes, terms)`."""
        from scipy.special import betainc  # loads slowly

        many = x[:, None].expand(-1, len(self.a))
        # x (1 - x) w(x) as one power, finite at both ends.
        beta = torch.lgamma(self.a) + torch.lgamma(self.b) - torch.lgamma(self.a + self.b)
        bell = torch.xlogy(self.a, many) + torch.special.xlog1py(self.b, -many) - beta
        terms = (
            -bell.exp() * self._polynomials(many)[1] / (2 * self.rates.clamp(min=1e-9))[:, None]
        )
        terms[0] = torch.as_tensor(betainc(self.a.numpy(), self.b.numpy(), many.numpy()))
        table: Tensor = terms.permute(2, 1, 0).contiguous()
        return table


def _recurrence(a: Tensor, b: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """z phi_n = side_{n+1} phi_{n+1} + middle_n phi_n + side_n phi_{n-1}, z = 2 x - 1."""
    total = a + b - 2
    m = n.clamp(min=1)
    product = (2 * m + total) * (2 * m + total + 2)
    middle = torch.where(n == 0, (a - b) / (a + b), (a - b) * total / product)
    even = 4 * m * (m + b - 1) * (m + a - 1) / ((2 * m + total).square() * (2 * m + total + 1))
    # At n = 1 numerator and denominator share a factor, which may be zero.
    odds = torch.where(m == 1, 1.0, (m + total) / torch.where(m == 1, 1.0, 2 * m + total - 1))
    return middle, torch.where(n == 0, 0.0, (even * odds).sqrt())
