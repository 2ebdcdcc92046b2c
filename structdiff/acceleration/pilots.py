r"""What a model's own probability flow does with a few samples, solved finely.

The clock of the pilots is the mean of the leaves' clocks. Its range is that of the schedules, cut
to noise-to-signal ratios between `FINEST` and `COARSEST`: outside nothing is left to see. The flow
is solved by the fourth-order corrected multistep method on a uniform grid of that range, and its
states are kept at every node. Its end is not the last estimate, which is the mean of the data
given a little noise, but the limit of estimates as the noise vanishes: they differ from it by a
multiple of rho^2, which two of them remove.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes.base import Estimate, Flowing, Process
from structdiff.random import Generator
from structdiff.samplers.linear import Stage, adams, effective_weights
from structdiff.samplers.solvers import Ruled
from structdiff.schedules import CLEAN, Grid

__all__ = ["Counted", "ListedTimes", "Pilots", "solve_pilots"]

COARSEST, FINEST = 1000.0, 0.0025


class ListedTimes(Grid):
    """Times that were found elsewhere, then clean.

    Arguments:
        listed: Falling times in [0, 1].

    Raises:
        ValueError: If they do not fall in [0, 1].
    """

    def __init__(self, listed: Tensor) -> None:
        falling = bool((listed[1:] < listed[:-1]).all())
        if (
            listed.ndim != 1
            or not len(listed)
            or not falling
            or not 0 <= listed[-1] <= listed[0] <= 1
        ):
            msg = f"listed must be times that fall in [0, 1], got {listed.tolist()}"
            raise ValueError(msg)
        self.listed = listed.double().cpu()

    def times(self) -> Tensor:
        """The times."""
        return torch.nn.functional.pad(self.listed, (0, 1), value=CLEAN)


class Counted(Denoiser):
    """A denoiser that counts its calls.

    Arguments:
        denoiser: The denoiser.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.process, self.calls = denoiser, denoiser.process, 0

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's answer."""
        self.calls += 1
        answer: Mapping[str, Estimate] = self.denoiser(batch, t, previous)
        return answer


@dataclass(frozen=True, eq=False)
class Pilots:
    """A few samples on their way, finely solved.

    Arguments:
        denoiser: The denoiser, counted.
        batch: Layouts, conditions and given entries of the samples.
        times: Nodes, `(nodes,)`, falling.
        clock: Mean clock at the nodes, `(nodes,)`.
        states: Leaves at each node, and where they end: one more.
        scale: By leaf, the root mean square distance of a row's end from that of another row,
            divided by sqrt(2): the deviation of the data.
        seed: Start of the samples' noise.
    """

    denoiser: Counted
    batch: Batch
    times: Tensor
    clock: Tensor
    states: list[Mapping[str, Tensor]]
    scale: Mapping[str, float]
    seed: int

    def place(self, clock: Tensor) -> Tensor:
        """Nodes nearest to rising clocks, each taken once."""
        steps = len(clock)
        spacing = (self.clock[-1] - self.clock[0]) / (len(self.clock) - 1)
        nodes = ((clock - self.clock[0]) / spacing).round().long()
        count = torch.arange(steps)
        nodes = torch.cummax(nodes.clamp(min=0) - count, 0).values
        return torch.minimum(nodes, torch.tensor(len(self.clock) - steps)) + count

    def distances(self, x: Mapping[str, Tensor], node: int) -> dict[str, Tensor]:
        """Distance of each row from the pilots at a node, in deviations of the data, by leaf."""
        process: Any = self.denoiser.process
        geometry = process.bind(self.batch).geometry
        truth = self.states[node]
        return {n: geometry[n].distance(truth[n], x[n]).double() / self.scale[n] for n in x}


def mean_clock(process: Process, batch: Batch) -> Callable[[Tensor], Tensor]:
    """The mean of the leaves' clocks, within +-20, as a function of one time for all."""
    bound = process.bind(batch.with_given({}))

    def clock(t: Tensor) -> Tensor:
        leaves = bound.clock(dict.fromkeys(batch.leaves, t)).values()
        return torch.stack([leaf.double().clamp(-20, 20) for leaf in leaves]).mean(0)

    return clock


def time_of(clock: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """Times at which a falling clock shows values, by bisection."""
    low, high = torch.zeros_like(value), torch.ones_like(value)
    for _ in range(60):
        middle = (low + high) / 2
        later = clock(middle) > value
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
    return high


def fine_rule(clock: Tensor) -> Tensor:
    """Fourth order, corrected; the end from two estimates of at least twofold noise."""
    stage = adams(clock, 1.0, None)
    last = len(clock) - 2
    earlier = int((clock[: last + 1] <= clock[last] - math.log(2)).sum()) - 1

    def predict(i: int) -> Stage:
        if i < last or earlier < 0:
            return stage(i, i, 4)
        q = torch.exp(2 * (clock[last] - clock[earlier]))
        return Stage([last, earlier], torch.stack([q, -torch.ones_like(q)]) / (q - 1))

    return effective_weights(clock, predict, lambda i: stage(i, i - 1, 4))


@torch.no_grad()
def solve_pilots(
    denoiser: Denoiser, batch: Batch, *, nodes: int, seed: int, end: float = 0.0
) -> Pilots:
    """Solve the probability flow of a few samples.

    Arguments:
        denoiser: The denoiser.
        batch: The samples to be.
        nodes: Calls of the solve.
        seed: Start of their noise.
        end: The earliest time at which the model is asked.

    Raises:
        ValueError: If the process has no probability flow.
    """
    process: Any = denoiser.process
    if not process.offers(Flowing):
        msg = (
            "denoiser's process must have a probability flow (real numbers and manifolds): the "
            "steps of a chain on classes are chosen by its bound, see acceleration.best_path"
        )
        raise ValueError(msg)
    clock = mean_clock(process, batch)
    ends = clock(torch.tensor([1.0, end], dtype=torch.float64))
    first = ends[0].clamp(min=-math.log(COARSEST))
    last = ends[1].clamp(max=-math.log(FINEST))
    even = torch.lerp(first, last, torch.linspace(0, 1, nodes, dtype=torch.float64))
    times = time_of(clock, even)
    counted = Counted(denoiser)
    sampler = Ruled(counted, ListedTimes(times), fine_rule, 4).bind(batch, Generator(seed))
    carry = sampler.start()
    states = [carry.x]
    for i in range(sampler.steps):
        carry = sampler.step(carry, i)
        states.append(carry.x)
    geometry = process.bind(batch).geometry
    scale = {n: _deviation(geometry[n].distance(x, x.roll(1, 0))) for n, x in carry.x.items()}
    return Pilots(counted, batch, times, even, states, scale, seed)


def _deviation(distance: Tensor) -> float:
    """Root mean square over sqrt(2), or 1 where all are one point."""
    return float(distance.double().square().mean().div(2).sqrt()) or 1.0
