r"""A stochastic Runge-Kutta method.

All equations of the family

    dx = [f - (1 + eta^2) / 2 g^2 score] dt + eta g dw,    eta >= 0,

run backwards have one law p_t: eta = 0 is the probability flow, eta = 1 Anderson's time reversal.
The step of `plan` solves them for a frozen estimate of x_0. Here it is taken twice with the *same*
noise,

    y   = step(x_t, D(x_t, t), z),
    x_s = step(x_t, (D(x_t, t) + D(y, s)) / 2, z),

the mean being the trapezoidal rule in e^{(1 + eta^2) lambda}, the measure of the integral. That
the noise is the same makes the method one of second weak order (the noise is additive, so this is
Platen's explicit scheme in the variables where the step is exact); with fresh noise, as in `Heun`,
the order is one. The step to clean data uses one estimate. N steps cost 2 N - 1 calls.

More noise than that of the reversal, eta > 1, is what `PredictorCorrector` adds: a step of length
h at eta = 1, then one of length d back and forth, is one of eta^2 = 1 + 2 d / h in the clock.

References:
    Numerical Solution of Stochastic Differential Equations (Kloeden and Platen, 1992), section
    15.1. https://doi.org/10.1007/978-3-662-12616-4
    Reverse-time diffusion equation models (Anderson, 1982).
    https://doi.org/10.1016/0304-4149(82)90051-5
    Exploring the Optimal Choice for Generative Processes in Diffusion Models: Ordinary vs
    Stochastic Differential Equations (Cao et al., 2023), eq. 4. https://arxiv.org/abs/2306.02063
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.layout import Layout
from structdiff.random import Around, Randomness
from structdiff.samplers.base import Carry, Estimates, Sampler, Space
from structdiff.samplers.langevin import check_scored
from structdiff.schedules import Grid

__all__ = ["Repeating", "StochasticRungeKutta"]


class Repeating(Around):
    """Another source that gives the same normal numbers whenever it is asked at one address.

    It remembers the draws of one step, by leaf.

    Arguments:
        source: Where the numbers come from.
        drawn: Numbers that it gives, by `f"{leaf} {draw}"`, draws counted from 0; others are
            drawn and written here.

    Example:
        >>> from structdiff import Generator
        >>> random = Repeating(Generator(0))
        >>> once, again = (random.scoped(step=1).normal((2,), torch.float32, "cpu") for _ in "12")
        >>> torch.equal(once, again)
        True
    """

    def __init__(
        self, source: Randomness, drawn: dict[str, Tensor] | None = None, leaf: str = ""
    ) -> None:
        super().__init__(source)
        self.drawn: dict[str, Tensor] = {} if drawn is None else drawn
        self.leaf, self.count = leaf, 0
        self.latest: dict[int, dict[str, Tensor]] = {}

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Those of the last time, or new ones."""
        key = f"{self.leaf} {self.count}"
        self.count += 1
        if key not in self.drawn:
            self.drawn[key] = self.source.normal(shape, dtype, device)
        return self.drawn[key]

    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Repeating:
        """The source at that address; another step forgets the last one."""
        source = self.source.scoped(leaf=leaf, step=step, ids=ids, layout=layout)
        drawn = self.drawn
        if step is not None:
            self.latest = {step: self.latest.get(step, {})}
            drawn = self.latest[step]
        return Repeating(source, drawn, self.leaf if leaf is None else leaf)


class StochasticRungeKutta(Sampler):
    """Second weak order with fresh noise, two calls a step.

    Arguments:
        denoiser: The denoiser; its process must be Scored.
        grid: Times of the steps.
        eta: Noise in units of that of the time reversal, in [0, 1].

    Raises:
        ValueError: If eta is not in [0, 1] or a leaf has no score.

    Example:
        >>> from structdiff import Batch, Cosine, Gaussian, Generator, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.full((1,), 0.5))
        >>> sampler = StochasticRungeKutta(denoiser, UniformTime(20))
        >>> drawn = sampler.sample(Batch.of(torch.zeros(4000)), Generator(0))
        >>> round(drawn["x"].std().item(), 1)
        0.5
    """

    def __init__(self, denoiser: Denoiser, grid: Grid, *, eta: float = 1.0) -> None:
        super().__init__(denoiser, grid, eta=eta)
        check_scored(denoiser, "a stochastic equation")

    def order(self, space: Space) -> int:
        """Two on R^n; on manifolds two without noise and one with it, where they are curved."""
        return 1 if space == "classes" or (space == "manifold" and self.eta > 0) else 2

    mixing: Any

    def prepare(self) -> None:
        """The weights, and noise that is the same for both halves of a step."""
        self.mixing = self.process.weights(trapezoid, self.times)
        self.random = Repeating(self.random)

    def effective(self, carry: Carry, i: int) -> tuple[Estimates, Carry]:
        """The mean of both ends."""
        first = self.denoise(carry.x, i, carry.previous)
        carry = replace(carry, previous=first, calls=carry.calls + 1)
        if i + 1 == self.steps:
            return first, carry
        y = self.advance(carry.x, first, i)
        second = self.denoise(y, i + 1, first)
        carry = replace(carry, previous=second, calls=carry.calls + 1)
        history = ((y, second), (carry.x, first))
        return self.process.combine(history, self.mixing[i], carry.x), carry


def trapezoid(clock: Tensor) -> Tensor:
    """One half for the estimate at the end, one for that at the start."""
    return torch.full((len(clock) - 1, 2), 0.5, dtype=torch.float64)
