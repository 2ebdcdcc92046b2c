r"""Classes in an order, which become near ones: a walk between two reflecting ends.

A class jumps by m = 1 .. B up and down at the rate r_m each; beyond an end it is reflected
(-1 is 0, -2 is 1, K is K - 1). This is the walk on a cycle of 2 K sites, folded: with g the law
of that walk started at 0,

    Q(j, i) = g(i - j) + g(i + j + 1),

symmetric, hence doubly stochastic, and uniform in the end. Its modes are cosines,

    lambda_k = 2 sum_m r_m (1 - cos(pi k m / K)),

and the rates are scaled so that the slowest mode decays as alpha. No K x K matrix is stored: a
time costs a vector of 2 K numbers. Draws take it from a Fourier transform, O(K log K) and right
to 1e-15; densities and products from the walk's own powers (see `Semigroup`), O(K^2 log(c tau))
and right to 1e-12 of each entry, however small.

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021),
    appendix A.2.3 (discretised Gaussian transitions), here in continuous time.
    https://arxiv.org/abs/2107.03006
    The Discrete Cosine Transform (Strang, 1999). https://doi.org/10.1137/S0036144598336745
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from structdiff.processes.draws import draw_class
from structdiff.processes.transitions.base import Kernel
from structdiff.processes.transitions.generated import Generated, safe_log
from structdiff.processes.transitions.table import weigh
from structdiff.processes.transitions.walk import Classes, Sites, decays

__all__ = ["Ordinal", "ordinal"]


class Ordinal(Generated):
    """A walk on 0 .. K - 1.

    Arguments:
        classes: Number K of classes, at least 2.
        weights: Relative rates of jumps by 1 .. B, `(B,)`, B < K; the first one positive.

    Raises:
        ValueError: If there are no such classes or weights.

    Example:
        >>> chain = Ordinal(2, torch.tensor([1.0]))
        >>> chain.after(torch.tensor(2.0).log()).column(torch.tensor(0)).exp()
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    def __init__(self, classes: int, weights: Tensor) -> None:
        weights = weights.detach().double().cpu()
        if classes < 2 or weights.ndim != 1 or not 1 <= len(weights) < classes:
            must = f"classes = {classes} at least 2, and weights a vector of 1 to classes - 1"
            msg = f"an ordinal chain needs {must} numbers, got shape {tuple(weights.shape)}"
            raise ValueError(msg)
        sound = weights.isfinite() & (weights >= 0)
        if not bool(sound.all()) or not float(weights[0]) > 0:
            must = "finite and not negative, and that of a jump by 1 positive"
            msg = f"weights must be {must}, got {weights[:3].tolist()} ..."
            raise ValueError(msg)
        super().__init__(classes, torch.full((classes,), 1 / classes, dtype=torch.float64), None)
        steps = torch.arange(1, len(weights) + 1)
        slowest = decays(torch.arange(1, classes)[:, None] * steps, weights, classes).min()
        self.sites = Sites(classes, weights / slowest)
        self.inner = Classes(self.sites.jumps, self.sites.walks)

    def after(self, tau: Tensor) -> Kernel:
        """From the walk on the cycle."""
        return OrdinalKernel(self, tau)

    def each(self, taus: Tensor) -> Sequence[Kernel]:
        """All walks at once."""
        walks = self.sites.walk(taus)
        return [OrdinalKernel(self, *pair) for pair in zip(taus, walks, strict=True)]

    def inflow(self, x_t: Tensor) -> Tensor:
        """The rates of jumps from x_t: they are symmetric."""
        jumps = self.sites.jumps.to(x_t.device)
        steps = torch.arange(1, len(jumps) + 1, device=x_t.device)
        ends = x_t.unsqueeze(-1) + torch.cat([steps, -steps])
        rates = torch.cat([jumps, jumps]).expand(ends.shape)
        none = torch.zeros(*x_t.shape, self.classes, dtype=torch.float64, device=x_t.device)
        into = none.scatter_add(-1, fold(ends, self.classes), rates)
        return into.scatter(-1, x_t.unsqueeze(-1), 0.0)


class OrdinalKernel(Kernel):
    """The walk after a time.

    Arguments:
        chain: The transition.
        tau: Times, `()` or shaped to broadcast against rows.
        walk: g, where it is known; made when it is asked for.
    """

    def __init__(self, chain: Ordinal, tau: Tensor, walk: Tensor | None = None) -> None:
        self.chain, self.tau = chain, tau
        if walk is not None:
            self.walk = walk

    @cached_property
    def walk(self) -> Tensor:
        """g, `(..., 2 K)`."""
        return self.chain.sites.walk(self.tau)

    def _log_row(self, walk: Tensor, x: Tensor) -> Tensor:
        """log Q(x, j) = log Q(j, x) for all j."""
        if walk.ndim == 1:
            return safe_log(self.chain.inner.matrix(walk))[x]
        others = torch.arange(self.chain.classes, device=x.device)
        at = x.unsqueeze(-1)
        return safe_log(take(walk, at - others) + take(walk, at + others + 1))

    def draw(self, x_s: Tensor, uniform: Tensor) -> Tensor:
        """By inverse CDF."""
        fresh = draw_class(self._log_row(self.chain.sites.quick(self.tau), x_s), uniform)
        return torch.where(self.tau == 0, x_s, fresh)

    def log_prob(self, x_t: Tensor, x_s: Tensor) -> Tensor:
        """Two entries of the walk."""
        away, over = (x_t - x_s).unsqueeze(-1), (x_t + x_s + 1).unsqueeze(-1)
        return safe_log(take(self.walk, away) + take(self.walk, over)).squeeze(-1)

    def column(self, x_t: Tensor) -> Tensor:
        """A row: the matrix is symmetric."""
        return self._log_row(self.walk, x_t)

    def push(self, log_law: Tensor) -> Tensor:
        """By the matrix where rows share the time, else by those of the digits of the times."""
        y, scale = weigh(log_law)
        if self.tau.ndim == 0:
            return safe_log(y @ self.chain.inner.matrix(self.walk)) + scale
        return safe_log(self.chain.inner.push(y, self.tau)) + scale


def take(walk: Tensor, sites: Tensor) -> Tensor:
    """Numbers of a walk `(2 K,)`, or of one per row, at sites `(..., n)` of the cycle."""
    sites = sites.remainder(walk.shape[-1])
    if walk.ndim == 1:
        return walk[sites]
    return walk.expand(*sites.shape[:-1], -1).gather(-1, sites)


def fold(sites: Tensor, classes: int) -> Tensor:
    """Which class a site of the cycle is."""
    sites = sites.remainder(2 * classes)
    return torch.minimum(sites, 2 * classes - 1 - sites)


def ordinal(classes: int, width: float = 1.0, band: int | None = None) -> Ordinal:
    """A walk whose jumps by m have rates in proportion to exp(-m^2 / (2 width^2)).

    Arguments:
        classes: Number K of classes, at least 2.
        width: Typical length of a jump, positive.
        band: Longest jump, in 1 to K - 1; four widths by default.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> ordinal(256, width=2.0).stationary[0].item()
        0.00390625
    """
    if not 0 < width < math.inf:
        msg = f"width must be positive and finite, got {width}"
        raise ValueError(msg)
    band = min(classes - 1, math.ceil(4 * width)) if band is None else band
    if classes < 2 or not 1 <= band < classes:
        msg = f"band must be in 1 to classes - 1, got {band} of {classes} classes"
        raise ValueError(msg)
    steps = torch.arange(1, band + 1, dtype=torch.float64)
    return Ordinal(classes, torch.exp((1 - steps**2) / (2 * width**2)))
