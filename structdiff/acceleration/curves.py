"""Quality against calls, of one model by several samplers: what a picture of them is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from structdiff.acceleration.pilots import ListedTimes, Pilots, solve_pilots
from structdiff.acceleration.tuning import tune_pilots
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.random import Generator
from structdiff.samplers.ancestral import DDIM
from structdiff.samplers.base import Sampler
from structdiff.samplers.heun import Heun
from structdiff.samplers.multistep import Multistep
from structdiff.schedules import Grid

__all__ = ["USUAL", "quality_curves"]

Make = Callable[[Denoiser, Grid], Sampler]

USUAL: Mapping[str, tuple[int, Make]] = {
    "DDIM": (1, DDIM),
    "Heun": (2, Heun),
    "Multistep(2)": (1, lambda d, g: Multistep(d, g, order=2)),
    "Multistep(3), corrected": (1, lambda d, g: Multistep(d, g, order=3, corrector=3)),
}
"""Calls per step and how it is made, by name."""


@torch.no_grad()
def quality_curves(
    denoiser: Denoiser,
    calls: Sequence[int] = (5, 10, 20),
    *,
    samplers: Mapping[str, tuple[int, Make]] = USUAL,
    pilots: int = 256,
    nodes: int = 160,
    seed: int = 0,
) -> dict[str, dict[int, float]]:
    """Error at the end of the probability flow, by sampler and number of calls.

    The usual samplers walk a grid uniform in the log-SNR. All are judged by a fine solve from
    noise that tuning has not seen.

    Arguments:
        denoiser: The model.
        calls: Numbers of calls, each at least 3.
        samplers: The samplers beside the tuned one.
        pilots: Samples to tune on, and as many to judge by.
        nodes: Calls of each fine solve, at least four for each of `calls`.
        seed: Start of the noise.

    Returns:
        Name to number of calls to the root mean square distance from the fine solve, in
        deviations of the data. The last name is `tuned`.

    Raises:
        ValueError: If a number is out of range, or the process has no probability flow.

    Example:
        >>> from structdiff.processes import Gaussian
        >>> from structdiff.schedules import Linear
        >>> from structdiff.testing import NormalDenoiser
        >>> mean, std = torch.tensor([[-1.0], [1.0]]), torch.tensor([0.3, 0.3])
        >>> denoiser = NormalDenoiser(Gaussian(Linear(), event=(1,)), mean, std)
        >>> curves = quality_curves(denoiser, (5,), pilots=32, nodes=60)
        >>> curves["tuned"][5] < min(curves["Multistep(2)"][5], curves["DDIM"][5])
        True
    """
    if min(calls, default=0) < 3:
        msg = f"calls must be at least 3 each, got {list(calls)}"
        raise ValueError(msg)
    batch = Batch.of(denoiser.process.empty(pilots))
    taught, judge = (solve_pilots(denoiser, batch, nodes=nodes, seed=seed + k) for k in (0, 1))
    curves: dict[str, dict[int, float]] = {name: {} for name in samplers}
    for name, (each, make) in samplers.items():
        for n in calls:
            steps = (n + each - 1) // each  # the last step of a method of two calls takes one
            nodes_of = torch.linspace(0, len(judge.times) - 1, steps).round().long()
            curves[name][n] = _error(judge, make(denoiser, ListedTimes(judge.times[nodes_of])))
    tuned = {n: _error(judge, tune_pilots(taught, n).sampler(denoiser)) for n in calls}
    return curves | {"tuned": tuned}


def _error(judge: Pilots, sampler: Sampler) -> float:
    """Root mean square distance over rows, then over leaves."""
    end: Mapping[str, Tensor] = sampler.sample(judge.batch, Generator(judge.seed)).leaves
    squares = [float(d.square().mean()) for d in judge.distances(end, len(judge.times)).values()]
    return math.sqrt(sum(squares) / len(squares))
