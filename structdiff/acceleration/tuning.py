r"""A sampler tuned to a model, for a number of calls.

`tune_sampler` looks at nothing but the model. It solves the probability flow of a few pilot
samples finely (`pilots`) and then seeks the walk of N calls that ends nearest to where they ended:

- times uniform in a coordinate of the noise level (`Warp`: two numbers) between two ends;
- weights of the corrected multistep method in that coordinate, moved by least squares towards the
  fine solve (`fitting`: one number).

The five numbers are found by search (`search`) from several starts; of two halves of the pilots
one fits the weights, the other judges. At the end the weights are fitted to all pilots. Where a
usual sampler does no worse on the judging half, it is what is returned.

Example:
    >>> from structdiff.processes import Gaussian
    >>> from structdiff.random import Generator
    >>> from structdiff.schedules import Linear
    >>> from structdiff.testing import NormalDenoiser
    >>> mean, std = torch.tensor([[-1.0], [1.0]]), torch.tensor([0.3, 0.3])
    >>> denoiser = NormalDenoiser(Gaussian(Linear(), event=(1,)), mean, std)
    >>> tuned = tune_sampler(denoiser, nfe=4, pilots=32, nodes=40, show=None)
    >>> tuned.sampler(denoiser).sample(Batch.of(torch.zeros(5, 1)), Generator(0))["x"].shape
    torch.Size([5, 1])
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from structdiff.acceleration.fitting import Fit, fit_weights
from structdiff.acceleration.pilots import ListedTimes, Pilots, solve_pilots
from structdiff.acceleration.search import coordinate_search
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.random import Generator
from structdiff.samplers.multistep import Multistep, Tabled
from structdiff.samplers.warps import Warp

__all__ = ["Tuned", "tune_pilots", "tune_sampler"]

STARTS = (
    # noise-to-signal ratio at the first call, at the last, centre, power, ridge
    (1000.0, 0.1, 1.0, -0.5, 1e-3),
    (1000.0, 0.4, 0.7, -1.0, 1e-3),
    (10.0, 0.1, 0.25, -0.5, 1e-3),
    (5.0, 0.05, 0.1, -0.25, 1e-4),
)
MOVES = (math.log(2), math.log(1.6), math.log(2), 0.4, math.log(30))
ORDER = 4


@dataclass(frozen=True)
class Tuned:
    """What tuning found: numbers and strings only.

    Arguments:
        times: Times of the calls.
        weights: Leaf to the weights of each step, latest estimate first.
        calls: How often the model was called for all pilots together.
        pilots: Number of pilots.
        errors: Error of each way by its name: root mean square distance of the held-out pilots
            from their fine solve, in deviations of the data.
        numbers: What was searched: first and last noise-to-signal ratio, centre, power, ridge.
    """

    times: list[float]
    weights: dict[str, list[list[float]]]
    calls: int
    pilots: int
    errors: dict[str, float]
    numbers: dict[str, float]

    def sampler(self, denoiser: Denoiser) -> Tabled:
        """The sampler, for the model that it was tuned to (guided as it then was)."""
        tables = {n: torch.tensor(rows, dtype=torch.float64) for n, rows in self.weights.items()}
        times = torch.tensor(self.times, dtype=torch.float64)
        return Tabled(denoiser, ListedTimes(times), tables)

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        draft = Path(path).with_name(f"{Path(path).name}.part")
        draft.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        draft.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Tuned:
        """Read what `save` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    def table(self) -> str:
        """Quality against calls, as text."""
        rows = [f"{name:32}{error:10.3g}" for name, error in self.errors.items()]
        spent = f"{self.calls} calls on {self.pilots} pilots, {self.calls / len(self.times):.0f}"
        title = f"{len(self.times)} calls: error of held-out pilots, in deviations of the data"
        return "\n".join([title, *rows, f"tuning took {spent} times what sampling them takes"])


@torch.no_grad()
def tune_sampler(
    denoiser: Denoiser,
    *,
    nfe: int,
    batch: Batch | None = None,
    pilots: int = 1024,
    nodes: int = 240,
    seed: int = 0,
    end: float = 0.0,
    show: Callable[[str], object] | None = print,
) -> Tuned:
    """Choose times and weights of a sampler of `nfe` calls from the model alone.

    Arguments:
        denoiser: The model, as it will be sampled: guided, conditioned, in the same precision.
        nfe: Number of network calls, from 2 on.
        batch: Samples to tune on, with their layouts, conditions and given entries; by default
            `pilots` unconditional ones of one row a leaf.
        pilots: Number of samples to tune on, at least 8.
        nodes: Calls of the fine solve, at least four for each of `nfe`. Its states are kept:
            so many times the pilots must fit in memory.
        seed: Start of the pilots' noise.
        end: The earliest time at which the model is asked, in [0, 1).
        show: What the table of errors is given to; None for silence.

    Raises:
        ValueError: If a number is out of range, or the process has no probability flow.
    """
    if not 0 <= end < 1:
        msg = f"end must be in [0, 1), got {end}"
        raise ValueError(msg)
    if nfe < 2:
        msg = f"nfe must be at least 2, got {nfe}: one call leaves nothing to choose"
        raise ValueError(msg)
    if batch is None:
        device = next((w.device for w in denoiser.parameters()), torch.device("cpu"))
        batch = Batch.of(denoiser.process.empty(pilots, device))
    if batch.samples < 8:
        msg = f"pilots must be at least 8, got {batch.samples}: half of them judge"
        raise ValueError(msg)
    found = tune_pilots(solve_pilots(denoiser, batch, nodes=nodes, seed=seed, end=end), nfe)
    if show is not None:
        show(found.table())
    return found


@torch.no_grad()
def tune_pilots(solved: Pilots, nfe: int) -> Tuned:
    """Choose times and weights of a sampler of `nfe` calls from pilots that are solved.

    Arguments:
        solved: The pilots.
        nfe: Number of network calls, from 2 on.

    Raises:
        ValueError: If there are less than four nodes for each call.
    """
    if len(solved.times) < 4 * nfe:
        msg = f"nodes must be at least 4 nfe = {4 * nfe}, got {len(solved.times)}"
        raise ValueError(msg)
    trial = _Trial(solved, nfe)
    numbers = trial.search()
    weights, held = trial.fit(numbers, final=True).weights, trial.error(trial.fit(numbers).end)
    times, usual = solved.times[trial.nodes(numbers)], trial.usual()
    errors = {name: trial.error(trial.walk(way)) for name, way in usual.items()}
    least = min(errors, key=errors.__getitem__)
    if errors[least] <= held:
        held, times, weights = errors[least], usual[least].times[:-1], trial.read(usual[least])
    keys = ("first", "last", "centre", "power", "ridge")
    return Tuned(
        times.tolist(),
        {n: table.tolist() for n, table in weights.items()},
        solved.denoiser.calls,
        solved.batch.samples,
        errors | {"tuned": held},
        dict(zip(keys, _read(numbers), strict=True)),
    )


def _read(numbers: tuple[float, ...]) -> tuple[float, ...]:
    """From what is searched to what is meant: all but the power are logarithms."""
    first, last, centre, power, ridge = numbers
    return math.exp(first), math.exp(last), math.exp(centre), power, math.exp(ridge)


class _Trial:
    """Walks of so many calls, tried on the pilots."""

    def __init__(self, pilots: Pilots, nfe: int) -> None:
        self.pilots, self.nfe = pilots, nfe
        layouts = pilots.batch.layouts
        half = pilots.batch.samples // 2
        self.fitted = {n: layout.sample < half for n, layout in layouts.items()}
        self.all = {n: torch.ones_like(mask) for n, mask in self.fitted.items()}
        low, high = torch.exp(-pilots.clock[[-1, 0]]).tolist()
        self.range = (low, high)

    def nodes(self, numbers: tuple[float, ...]) -> list[int]:
        """Nodes of the times that the numbers say."""
        first, last, centre, power, _ = _read(numbers)
        warp = Warp(centre, power)
        ends = warp(-torch.tensor([first, last], dtype=torch.float64).log())
        even = torch.linspace(0, 1, self.nfe, dtype=torch.float64)
        clock = warp.inverse(torch.lerp(ends[0], ends[1], even))
        nodes: list[int] = self.pilots.place(clock).tolist()
        return nodes

    def fit(self, numbers: tuple[float, ...], *, final: bool = False) -> Fit:
        """Fitted to half of the pilots, or at the end to all."""
        _, _, centre, power, ridge = _read(numbers)
        nodes = self.nodes(numbers)
        method = Multistep(
            self.pilots.denoiser,
            ListedTimes(self.pilots.times[nodes]),
            order=ORDER,
            corrector=ORDER,
            coordinate=Warp(centre, power),
        )
        rows = self.all if final else self.fitted
        return fit_weights(self.pilots, nodes, method, rows=rows, ridge=ridge)

    def apart(self, end: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Distances of the held-out rows from their ends."""
        distances = self.pilots.distances(end, len(self.pilots.times))
        return {n: d[~self.fitted[n]] for n, d in distances.items()}

    def error(self, end: Mapping[str, Tensor]) -> float:
        """Root mean square over rows, then over leaves."""
        squares = [float(d.square().mean()) for d in self.apart(end).values()]
        return math.sqrt(sum(squares) / len(squares))

    def judge(self, numbers: tuple[float, ...]) -> float:
        """The mean distance, which few strayed rows do not rule, and the root mean square."""
        first, last, _, power, ridge = _read(numbers)
        low, high = self.range
        ends = 0.999 * low <= last < first <= 1.001 * high
        if not (ends and 1e-4 <= ridge <= 1 and -3 <= power <= 1):
            return math.inf
        end = self.fit(numbers).end
        means = [float(d.mean()) for d in self.apart(end).values()]
        return sum(means) / len(means) + self.error(end)

    def search(self) -> tuple[float, ...]:
        """The best numbers, from the two best starts."""
        low, high = self.range
        starts = []
        for first, last, centre, power, ridge in STARTS:
            begin = min(first, high)
            ratios = begin, max(low, min(last, begin / 4)), centre
            starts.append((*(math.log(r) for r in ratios), power, math.log(ridge)))
        starts = sorted(starts, key=self.judge)[:2]
        found = [coordinate_search(self.judge, start, MOVES) for start in starts]
        return min(found, key=lambda each: each[1])[0]

    def usual(self) -> dict[str, Multistep]:
        """What is used without tuning: uniform in the log-SNR of the whole range."""
        pilots = self.pilots
        even = torch.linspace(0, len(pilots.times) - 1, self.nfe).round().long()
        grid = ListedTimes(pilots.times[even])
        return {
            "DDIM, uniform log-SNR": Multistep(pilots.denoiser, grid, order=1),
            "Multistep(2), uniform log-SNR": Multistep(pilots.denoiser, grid, order=2),
        }

    def read(self, sampler: Multistep) -> dict[str, Tensor]:
        """The weights that a sampler has, by leaf."""
        mixing = sampler.bind(self.pilots.batch, Generator(self.pilots.seed)).mixing
        return {
            n: torch.nn.utils.rnn.pad_sequence([torch.stack([*row[n]]) for row in mixing], True)
            for n in self.all
        }

    def walk(self, sampler: Multistep) -> Mapping[str, Tensor]:
        """Where the pilots go with a sampler."""
        return sampler.sample(self.pilots.batch, Generator(self.pilots.seed)).leaves
