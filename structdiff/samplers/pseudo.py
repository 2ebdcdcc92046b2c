r"""PNDM: the linear multistep method on the noise, carried over by the step of DDIM.

In y = x / alpha and rho = sigma / alpha the probability flow is dy / d rho = eps, the noise
eps = -sigma score, and the step of DDIM ("transfer") carries x_t to any time s exactly if eps is
constant. The pseudo methods put an average noise e' into that step,

    e' = sum_j w_j eps_j            multistep, over the last four times,
    e' = (e_1 + 2 e_2 + 2 e_3 + e_4) / 6    Runge-Kutta, for the first three steps,

where e_2 and e_3 are looked up in the middle of the step, each at the state to which the one
before it leads, and e_4 at its end. The w are the averages over the step, in t, of the Lagrange
polynomials through the last four times; on a grid uniform in t (55, -59, 37, -9) / 24. Written
as one effective estimate, x_0' = x_0 + (sigma^2 / alpha) (-e' / sigma - score). The order is 2
and not 4: the average is one in t, while the flow is even in rho. N steps cost N + 9 calls.

References:
    Pseudo Numerical Methods for Diffusion Models on Manifolds (Liu et al., 2022), section 3.
    https://arxiv.org/abs/2202.09778
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate, Gaussian
from structdiff.samplers.base import Carry, Estimates, Record, Sampler, Space
from structdiff.schedules import Grid

__all__ = ["PNDM", "check_linear"]

Noises: TypeAlias = Mapping[str, Tensor]

WARM_UP = 3
"""Steps by the Runge-Kutta method, after which there is a past."""


def check_linear(denoiser: Denoiser, why: str) -> None:
    """Refuse a process with a leaf that is not Gaussian on R^n.

    Raises:
        ValueError: If there is one; it names it and says why.
    """
    process: Any = denoiser.process
    others = sorted(process.empty(1).keys() - set(process.offering(Gaussian)))
    if others:
        msg = f"{why} on R^n only, and the leaves {others} are not Gaussian: use DDIM or Multistep"
        raise ValueError(msg)


class PNDM(Sampler):
    """Adams-Bashforth of fourth degree on the noise, with the step of DDIM; on R^n.

    A first step from pure noise (alpha zero) and the step to clean data are those of DDIM.

    Arguments:
        denoiser: The denoiser; all its leaves must be Gaussian.
        grid: Times of the steps; the paper's are uniform.

    Raises:
        ValueError: If a leaf is not Gaussian.

    Example:
        >>> from structdiff import Batch, Generator, Linear, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
        >>> bound = PNDM(denoiser, UniformTime(20)).bind(Batch.of(torch.zeros(3)), Generator(0))
        >>> carry = bound.start()
        >>> for i in range(bound.steps):
        ...     carry = bound.step(carry, i)
        >>> carry.calls
        29
    """

    def __init__(self, denoiser: Denoiser, grid: Grid) -> None:
        check_linear(denoiser, "the noise of several times is averaged")
        super().__init__(denoiser, grid, eta=0.0)
        ends = self.times[1 : WARM_UP + 1]
        self.warm = int((ends >= 0).sum())
        self.clean = bool(self.times[-1] < 0)
        self.middle = (self.times[: self.warm] + ends[: self.warm]) / 2

    def order(self, space: Space) -> int:
        """Second on R^n; there are no others."""
        del space
        return 2

    halves: list[Any]
    averages: list[list[float]]
    sigma: Mapping[str, tuple[Tensor, ...]]

    def prepare(self) -> None:
        """Half steps, times and levels of the middles, and the weights of the grid in t."""
        process: Any = self.process
        pairs = zip(self.times, self.middle, strict=False)
        self.halves = [process.plan(torch.stack(pair), 0.0)[0] for pair in pairs]
        # The middles follow the times of the grid.
        self.leaf_times = [
            *self.leaf_times,
            *(process.times(t) for t in self.middle.to(self.batch.device).unbind()),
        ]
        self.averages = [adams_bashforth(self.times, i) for i in range(self.steps)]
        places = torch.cat([self.times, self.middle]).unbind()
        self.sigma = {
            name: tuple(process[name].level(t, x).sigma for t in places)
            for name, x in self.batch.leaves.items()
        }

    def noise(self, x: Record, estimate: Estimates, place: int) -> Noises:
        """-sigma score, at one of the times."""
        process: Any = self.process
        score = process.score(estimate, x, self.leaf_times[place])
        return {name: -self.sigma[name][place] * value for name, value in score.items()}

    def with_noise(self, x: Record, estimate: Estimates, place: int, noise: Noises) -> Estimates:
        """The estimate at x that stands for this noise."""
        process: Any = self.process
        score = process.score(estimate, x, self.leaf_times[place])
        gap = {}
        for name, own in score.items():
            sigma = self.sigma[name][place]
            gap[name] = -noise[name] / torch.where(sigma > 0, sigma, 1.0) - own
        shifted: Estimates = process.shift(estimate, gap, x, self.leaf_times[place])
        return shifted

    def effective(self, carry: Carry, i: int) -> tuple[Estimates, Carry]:
        """The estimate of the average noise."""
        estimate = self.denoise(carry.x, i, carry.previous)
        first = self.noise(carry.x, estimate, i)
        carry = carry.changed(previous=estimate, calls=carry.calls + 1)
        past = [{n: e.value for n, e in estimates.items()} for _, estimates in carry.history]
        if i < self.warm:
            average, carry = self.runge_kutta(carry, i, estimate, first)
        else:
            average = weighted([first, *past], self.averages[i])
        kept = {name: Estimate(value) for name, value in first.items()}
        history = ((carry.x, kept), *carry.history)[:WARM_UP]
        carry = carry.changed(history=history)
        if self.clean and i + 1 == self.steps:
            return estimate, carry
        return self.with_noise(carry.x, estimate, i, average), carry

    def runge_kutta(
        self, carry: Carry, i: int, estimate: Estimates, first: Noises
    ) -> tuple[Noises, Carry]:
        """The average of four looks along the step."""
        x, noises, previous = carry.x, [first], estimate
        middle = len(self.times) + i
        half, whole = self.halves[i], self.coefficients[i]
        for place, step in ((middle, half), (middle, half), (i + 1, whole)):
            towards = self.with_noise(x, estimate, i, noises[-1])
            look = self.process.step(x, towards, step, self.random)
            previous = self.denoise(look, place, previous)
            noises.append(self.noise(look, previous, place))
        carry = carry.changed(previous=previous, calls=carry.calls + 3)
        return weighted(noises, [1 / 6, 1 / 3, 1 / 3, 1 / 6]), carry


def adams_bashforth(times: Tensor, i: int) -> list[float]:
    """Averages over step i, in t, of the Lagrange polynomials through the last four times."""
    nodes = times[max(0, i - WARM_UP) : i + 1].flip(0)
    place = (nodes - times[i]) / (times[i + 1] - times[i])
    powers = torch.arange(len(nodes), dtype=torch.float64)
    weights: list[float] = torch.linalg.solve(place ** powers[:, None], 1 / (powers + 1)).tolist()
    return weights


def weighted(noises: Sequence[Noises], weights: Sequence[float]) -> Noises:
    """The weighted sum by leaf, over as many as there are weights."""
    pairs = list(zip(weights, noises, strict=False))
    return {
        name: sum((w * x[name] for w, x in pairs[1:]), pairs[0][0] * pairs[0][1][name])
        for name in noises[0]
    }
