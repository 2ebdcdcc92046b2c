r"""The contract of a process: what noise does to a leaf, and how to undo it.

A *process* noises x_0 to x_t. The generator of its time reversal depends on the data only
through one statistic of p(x_0 given x_t), the *estimate*: the posterior mean on R^n, the class
probabilities on a finite set, the expected score (in units of its time) on a manifold. A `Markov`
process also has the kernel q(x_t | x_s); a `Conditional` one the density of q(x_t | x_0), and a
`Tractable` one both and those of its steps. A `Flowing` process has an ordinary differential
equation with the same marginals, a `Scored` one a score. A process is bound to a batch before use,
so that no method takes a layout, a mask or a condition.

Times are a mapping from leaf to a scalar, `(rows,)` or `(rows, *event)`; for one leaf, one.
`CLEAN` (any negative time) is the data themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.random import Randomness
from structdiff.schedules import Schedule

__all__ = [
    "Coefficients",
    "Conditional",
    "Estimate",
    "Estimates",
    "Finite",
    "Flowing",
    "Markov",
    "Process",
    "Rule",
    "Scored",
    "State",
    "Tractable",
]

State: TypeAlias = Any
"""A tensor for one leaf, a mapping of states for a product."""

Coefficients: TypeAlias = Any
"""What one step of a plan needs: a named tuple for one leaf, a mapping for a product."""

Rule: TypeAlias = Callable[[Tensor], Tensor]
"""Clocks of a grid, `(steps + 1,)`, to weights of each step, `(steps, order)`, latest first."""


@dataclass(frozen=True)
class Estimate:
    """What a denoiser says of the clean record, for one leaf.

    Arguments:
        value: The statistic of p(x_0 given x_t) that the process needs, `(rows, *estimate)`.
        extras: More of it, by name: a variance, a confidence.
    """

    value: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)


Estimates: TypeAlias = Any
"""An `Estimate` for one leaf, a mapping of them for a product."""


class Process(nn.Module, ABC):
    """What every process offers."""

    @abstractmethod
    def offers(self, contract: type[Any]) -> bool:
        """Whether the process meets this contract (a product does if all its leaves do)."""

    @abstractmethod
    def bind(self, batch: Batch) -> Self:
        """The process with the batch's layout, given entries, dtype and device."""

    @abstractmethod
    def empty(self, rows: Any, device: torch.device | str = "cpu") -> State:
        """A placeholder of that many rows (per leaf), to bind a batch that is to be drawn."""

    @abstractmethod
    def prior(self, random: Randomness, t: float = 1.0) -> State:
        """A draw from the law of x_t where nothing of the data is left; given entries stay.

        A walk that begins at t below 1 begins with it too, as if nothing were left there.
        """

    @abstractmethod
    def prior_log_prob(self, x_1: State, t: float = 1.0) -> State:
        """Log density of the prior at t, per row."""

    @abstractmethod
    def times(self, t: Any) -> Any:
        """The times as the leaves see them: given entries are at `CLEAN`."""

    @abstractmethod
    def clock(self, t: Any) -> Any:
        """The time that networks and weights see, of the shape of t."""

    @abstractmethod
    def diffuse(self, x_0: State, t: Any, random: Randomness) -> State:
        """A draw of q(x_t | x_0), differentiable in x_0 and the schedule on R^n."""

    @abstractmethod
    def encode(self, x_t: State, t: Any) -> State:
        """The network's input."""

    @abstractmethod
    def decode(self, output: State, x_t: State, t: Any) -> Estimates:
        """The estimate that a network's output stands for."""

    @abstractmethod
    def loss(self, estimate: Estimates, x_0: State, x_t: State, t: Any) -> State:
        """Error of an estimate, unweighted, per row."""

    @abstractmethod
    def plan(self, times: Tensor, eta: float) -> Sequence[Coefficients]:
        """All coefficients of a grid `(steps + 1,)`, one entry per step, made before the loop."""

    @abstractmethod
    def leap(self, times: Tensor) -> Sequence[Coefficients]:
        """Coefficients like those of `plan` that freeze the time reversal's generator.

        Euler-Maruyama steps on R^n and manifolds, tau-leaping on classes, right to first order;
        a step to `CLEAN`, or from a time at which the generator is infinite, is that of `plan`.
        """

    @abstractmethod
    def step(
        self, x_t: State, estimate: Estimates, coefficients: Coefficients, random: Randomness
    ) -> State:
        """A draw of x_s given x_t and the estimate."""

    @abstractmethod
    def weights(self, rule: Rule, times: Tensor) -> Sequence[Any]:
        """The weights that a multistep rule has on a grid, in the clock of each leaf."""

    @abstractmethod
    def combine(
        self, history: Sequence[tuple[State, Estimates]], weights: Any, x_t: State
    ) -> Estimates:
        """One effective estimate at x_t from past pairs (x, estimate), latest first."""

    @abstractmethod
    def tilt(self, estimates: Sequence[Estimates], weights: Sequence[float]) -> Estimates:
        """Estimate of the product of the laws p_i^{w_i}, where the weights sum to one.

        Their scores at x_t add up with these weights, and so do estimates in the space's own
        coordinates: means on R^n, log-probabilities on classes, tangent vectors on manifolds.
        On R^n and manifolds this is the estimate of the tilted law of x_t, on classes of x_0.
        """

    @abstractmethod
    def standard(self) -> Process:
        """The same noise in standard units: on R^n alpha^2 + sigma^2 = 1 at the same clock."""

    @abstractmethod
    def from_standard(self, x_t: State, t: Any) -> State:
        """A state of `standard` in the units of this process."""


class Markov(Process, ABC):
    """A process with a forward kernel between any two times."""

    @abstractmethod
    def corrupt(self, x_s: State, s: Any, t: Any, random: Randomness) -> State:
        """A draw of q(x_t | x_s) for s <= t."""

    @abstractmethod
    def graft(self, x_t: State, known: State, held: Any) -> State:
        """x_t with known entries in their place.

        Arguments:
            x_t: Noisy leaves.
            known: Noisy leaves of the same time that have the known entries.
            held: Which entries are known, `(rows,)` or `(rows, *event)`, by leaf; leaves that
                it does not name stay.
        """


class Conditional(Process, ABC):
    """A process whose q(x_t | x_0) has a density: the exact denoiser follows from it.

    What is returned per row sums over the rows of a sample to the sample's value.
    """

    @abstractmethod
    def log_prob(self, x_t: State, x_0: State, t: Any) -> State:
        """Log q(x_t | x_0); at `CLEAN` zero where they are equal and -inf elsewhere."""

    @abstractmethod
    def oracle(self, x_0: State, x_t: State, t: Any) -> Estimates:
        """The estimate when x_0 is known."""

    @abstractmethod
    def mean(self, estimates: Estimates, weights: Any, rows: Any) -> Estimates:
        """Posterior mean of many estimates.

        Arguments:
            estimates: Estimates of any number of rows.
            weights: Posterior weight of each of those, `(n,)` per leaf; they sum to one per row.
            rows: The row of this process that each belongs to, `(n,)` per leaf.
        """


class Flowing(Process, ABC):
    """A process whose marginals an ordinary differential equation carries, dx/dt = velocity."""

    @property
    @abstractmethod
    def geometry(self) -> Any:
        """The manifold of a leaf; a mapping of them for a product."""

    @abstractmethod
    def velocity(self, estimate: Estimates, x_t: State, t: Any) -> State:
        """dx/dt of the probability flow: tangent vectors at x_t, zero at given entries."""

    @abstractmethod
    def tangent(self, x_t: State, v: State) -> State:
        """Projection of v to the directions in which x_t may move: none at given entries."""


class Scored(Flowing, ABC):
    """A diffusion: its estimate stands for the score of p_t."""

    @abstractmethod
    def score(self, estimate: Estimates, x_t: State, t: Any) -> State:
        """Gradient of log p_t at x_t: tangent vectors, zero at given entries."""

    @abstractmethod
    def diffusion(self, v: State, x_t: State, t: Any) -> State:
        """g g^T v: covariance of the noise of the forward diffusion, per unit of t, times v."""


class Tractable(Markov, Conditional, ABC):
    """A process with densities of its steps too: the bound follows from it.

    What is returned per row sums over the rows of a sample to the sample's value.
    """

    @abstractmethod
    def impose(self, estimate: Estimates, x_0: State, held: Any, x_t: State, t: Any) -> Estimates:
        """The estimate with the oracle of x_0 at held rows.

        Arguments:
            estimate: Estimates at x_t.
            x_0: Known values.
            held: Rows to hold, `(rows,)` per leaf.
            x_t: Noisy leaves.
            t: Times.
        """

    @abstractmethod
    def shift(self, estimate: Estimates, gradient: Any, x_t: State, t: Any) -> Estimates:
        """The estimate when a term is added to log p_t; given entries stay.

        Arguments:
            estimate: Estimates at x_t.
            gradient: Gradient of the term at x_t in the entries of the state, by leaf; on classes
                its differences, term(j) - term(x_t) for the symbols j, `(rows, *event, S)`, with
                which rates are multiplied as e^difference. Leaves that it does not name stay.
            x_t: Noisy leaves.
            t: Times.
        """

    @abstractmethod
    def divergence(
        self, oracle: Estimates, estimate: Estimates, x_t: State, coefficients: Coefficients
    ) -> State:
        """KL in nats between the step's kernels at the oracle and at the estimate, per row."""

    @abstractmethod
    def divergence_rate(self, estimate: Estimates, x_0: State, x_t: State, t: Any) -> State:
        """KL in nats per unit of t between the time reversals at x_0 and at the estimate, per row.

        The limit of `divergence` over the length of a short step. Its integral over t is the
        bound on -log p(x_0) for infinitely many steps.
        """

    @abstractmethod
    def prior_divergence(self, x_0: State, t: float = 1.0) -> State:
        """KL in nats of q(x_t | x_0) from the prior at t, per row."""

    @abstractmethod
    def reconstruction(self, estimate: Estimates, x_0: State, x_t: State, t: Any) -> State:
        """-log p(x_0 | x_t) of the last step at the estimate, in nats, per row."""

    @abstractmethod
    def reverse_log_prob(
        self, x_s: State, x_t: State, estimate: Estimates, coefficients: Coefficients
    ) -> State:
        """Log density of `step`'s draw, per row."""


class Finite(Tractable):
    """A process of one leaf on classes; estimates are log-probabilities `(rows, *event, K)`."""

    schedule: Schedule

    @property
    @abstractmethod
    def stationary(self) -> Tensor:
        """The law that all rows end in, `(S,)`, float64."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number K of data classes."""

    @property
    @abstractmethod
    def symbols(self) -> int:
        """Number S >= K of symbols that a noisy row can have."""

    @abstractmethod
    def log_kernel(self, estimate: Estimate, x_t: Tensor, coefficients: Coefficients) -> Tensor:
        """Log-probabilities of a step's x_s over the symbols, `(rows, *event, S)`."""

    @abstractmethod
    def rates(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """Rates of the time reversal, per unit of t, `(rows, *event, S)`; zero at x_t."""

    @abstractmethod
    def ratios(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """log p_t(j) / p_t(x_t) of a row's symbols at the estimate, `(rows, *event, S)`."""
