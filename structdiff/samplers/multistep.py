r"""Multistep: one effective estimate from the last few.

In the clock lambda = log(alpha / sigma) the exact deterministic step is
x_s = (sigma_s / sigma_t) x_t + sigma_s int e^lambda x_0(lambda) d lambda. Replacing x_0(lambda) by
the polynomial through the last k estimates gives the step of one estimate with weights

    w_j = int e^lambda l_j(u(lambda)) d lambda / int e^lambda d lambda   (l_j: Lagrange basis),

that is k-step Adams-Bashforth on x_0. Four choices make the family:

- the order k; order 1 is DDIM;
- what is interpolated: the estimate (DPM-Solver++), or the noise, whose kernel is e^{-lambda}
  (DEIS);
- the coordinate u in which the polynomial is made (see `structdiff.samplers.warps`);
- a corrector: once the next estimate is known, the step that led there is redone through it
  before the walk goes on. It takes no call more (UniPC).

With fresh noise the kernel of the mean is e^{(1 + eta^2) lambda}.

References:
    DPM-Solver++ (Lu et al., 2022), section 4. https://arxiv.org/abs/2211.01095
    Fast Sampling of Diffusion Models with Exponential Integrator (Zhang and Chen, 2023).
    https://arxiv.org/abs/2204.13902
    UniPC (Zhao et al., 2023). https://arxiv.org/abs/2302.04867
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, final

from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.samplers.base import Carry, Estimates, Sampler, Space
from structdiff.samplers.linear import (
    Coordinate,
    adams,
    effective_weights,
    exponential_weights,
)
from structdiff.schedules import Grid

__all__ = ["Mixed", "Multistep", "Tabled", "exponential_weights"]

HIGHEST = 4


class Mixed(Sampler):
    """One call a step, and a weighted sum of past estimates."""

    @abstractmethod
    def mix(self) -> Sequence[Any]:
        """Weights of each step, latest estimate first, as `process.weights` gives them."""

    mixing: Sequence[Any]
    memory: list[int]

    @final
    def prepare(self) -> None:
        """The weights of the whole grid, and how many estimates the steps to come look back."""
        self.mixing = self.mix()
        self.memory = [0] * self.steps
        for i in range(self.steps - 1, 0, -1):
            self.memory[i - 1] = max(self.memory[i] - 1, _longest(self.mixing[i]) - 1)

    @final
    def effective(self, carry: Carry, i: int) -> tuple[Estimates, Carry]:
        """The weighted past."""
        estimate = self.denoise(carry.x, i, carry.previous)
        history = ((carry.x, estimate), *carry.history)
        mixed = self.process.combine(history, self.mixing[i], carry.x)
        kept = history[: self.memory[i]]
        return mixed, replace(carry, history=kept, previous=estimate, calls=carry.calls + 1)


def _fixed(table: Tensor, clock: Tensor) -> Tensor:
    """The table, whatever the clock."""
    del clock
    return table


def _longest(weights: Any) -> int:
    """Estimates that a step uses, the most of all leaves."""
    if isinstance(weights, Mapping):
        return max(_longest(leaf) for leaf in weights.values())
    return len(weights)


class Multistep(Mixed):
    """Exponential Adams methods in the clock of each leaf.

    Arguments:
        denoiser: The denoiser.
        grid: Times at which it is called.
        order: Number of estimates that a step extrapolates from, 1 to 4; the first steps use
            what there is.
        eta: Fresh noise, 0 by default.
        corrector: Number of estimates, the new one among them, through which the last step is
            redone: 0 for no corrector, `order`, or `order + 1`.
        interpolate: `"data"`, the estimate, or `"noise"`, for deterministic walks. On noise a
            weight falls only geometrically with the age of its estimate, so that more estimates
            are kept.
        coordinate: The variable of the polynomial as a function of the clock: a `Warp`, `arctan`,
            a schedule's `time`; the clock itself by default.

    Raises:
        ValueError: If a number is out of range, or noise is to be interpolated with fresh noise.

    Example:
        >>> import torch
        >>> from structdiff.processes import Gaussian
        >>> from structdiff.schedules import Linear, UniformLogSNR
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
        >>> grid = UniformLogSNR(Linear(), 10)
        >>> Multistep(denoiser, grid, order=3, corrector=3).order("euclidean")
        3
    """

    def __init__(
        self,
        denoiser: Denoiser,
        grid: Grid,
        *,
        order: int = 2,
        eta: float = 0.0,
        corrector: int = 0,
        interpolate: Literal["data", "noise"] = "data",
        coordinate: Coordinate | None = None,
    ) -> None:
        super().__init__(denoiser, grid, eta=eta)
        if order not in range(1, HIGHEST + 1):
            msg = f"order must be 1, 2, 3 or 4, got {order}"
            raise ValueError(msg)
        if corrector not in (0, order, order + 1):
            msg = f"corrector must be 0, {order} or {order + 1} for order {order}, got {corrector}"
            raise ValueError(msg)
        if interpolate not in ("data", "noise"):
            msg = f"interpolate must be 'data' or 'noise', got {interpolate!r}"
            raise ValueError(msg)
        if interpolate == "noise" and eta > 0:
            msg = f"interpolate = 'noise' needs eta = 0, got {eta}: interpolate 'data'"
            raise ValueError(msg)
        self.nominal, self.corrector = order, corrector
        self.interpolate, self.coordinate = interpolate, coordinate

    def order(self, space: Space) -> int:
        """Nominal for deterministic walks; with fresh noise at most 2 on R^n, 1 on manifolds.

        A corrector through one estimate more raises the nominal order by one. Orders above the
        second need a walk that begins in pure noise, where estimates hardly change: its first
        steps are of lower order. On classes the order is 1 whatever the method, for several
        estimates up to a factor log(steps).
        """
        if space == "classes" or (space == "manifold" and self.eta > 0):
            return 1
        nominal = max(self.nominal, self.corrector)
        return min(nominal, 2) if self.eta > 0 else nominal

    def rule(self, clock: Tensor) -> Tensor:
        """Weights of each step, latest estimate first."""
        noise = self.interpolate == "noise"
        rate = -1.0 if noise else 1 + self.eta**2
        stage = adams(clock, rate, self.coordinate, noise=noise)
        return effective_weights(
            clock,
            lambda i: stage(i, i, self.nominal),
            lambda i: stage(i, i - 1, self.corrector) if self.corrector else None,
            self.eta,
        )

    def mix(self) -> Sequence[Any]:
        """The rule in the clock of each leaf."""
        return self.process.weights(self.rule, self.times)


class Tabled(Mixed):
    """Weights that were found elsewhere, by leaf.

    Arguments:
        denoiser: The denoiser.
        grid: Times at which it is called.
        weights: Leaf to `(steps, columns)`, latest estimate first.
        eta: Fresh noise, 0 by default.

    Raises:
        ValueError: If a leaf's weights are not one row for each step.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        grid: Grid,
        weights: Mapping[str, Tensor],
        *,
        eta: float = 0.0,
    ) -> None:
        super().__init__(denoiser, grid, eta=eta)
        self.weights = {name: table.double() for name, table in weights.items()}
        for name, table in self.weights.items():
            if table.ndim != 2 or len(table) != self.steps or not table.isfinite().all():
                has = f"weights of leaf {name!r} have shape {tuple(table.shape)}"
                msg = f"{has}: they must be finite, one row for each of {self.steps} steps"
                raise ValueError(msg)

    def order(self, space: Space) -> int:
        """First: no more is known of weights as such."""
        del space
        return 1

    def mix(self) -> Sequence[Any]:
        """The table of each leaf."""
        leaves = {
            name: self.process.weights(functools.partial(_fixed, table), self.times)
            for name, table in self.weights.items()
        }
        return [{n: rows[i][n] for n, rows in leaves.items()} for i in range(self.steps)]
