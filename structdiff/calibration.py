r"""A denoiser whose mean score is zero, as that of the data is.

E[grad log p_t(x_t)] = 0 at every time, which a trained network misses by a vector a time. Taking
it away makes the error of the score smaller by its square. In terms of estimates of x_0,

    x_0(x_t) + E[x_0 - x_0(x_t)],

since alpha E[x_0(x_t)] = E[x_t] + sigma^2 E[score]. Leaves on classes and manifolds are left as
they are.

References:
    On Calibrating Diffusion Probabilistic Models (Pang, Lu, Du, Lin, Yan and Deng, 2023), eqs. 9
    and 13. https://arxiv.org/abs/2302.10688
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.clock_table import ClockTable
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate
from structdiff.random import Randomness
from structdiff.reverse_variance import gaussian_leaves
from structdiff.schedules import Grid

__all__ = ["Calibrated"]


class Calibrated(Denoiser):
    """A denoiser moved by a vector of its clock, the same for all rows of a leaf.

    Arguments:
        denoiser: Any denoiser without conditions: with some, the mean score is zero for each.
        shifts: By Gaussian leaf, what is added to the estimate, `event` as a table of the clock;
            see `fit`.

    Raises:
        ValueError: If a Gaussian leaf has no table.

    Example:
        >>> from structdiff import Gaussian, Generator, Linear, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> wrong = NormalDenoiser(Gaussian(Linear()), torch.ones(1), torch.ones(1))
        >>> data = Batch.of(Generator(0).normal((20_000,), torch.float32, "cpu"))
        >>> right = Calibrated.fit(wrong, data, UniformTime(16), Generator(1))
        >>> round(right(Batch.of(torch.zeros(1)), {"x": torch.tensor(0.5)})["x"].value.item(), 1)
        0.0
        >>> round(wrong(Batch.of(torch.zeros(1)), {"x": torch.tensor(0.5)})["x"].value.item(), 1)
        0.9
    """

    def __init__(self, denoiser: Denoiser, shifts: Mapping[str, ClockTable]) -> None:
        super().__init__()
        self.names = gaussian_leaves(denoiser.process, type(self).__name__)
        if sorted(shifts) != sorted(self.names):
            msg = (
                f"shifts must have the Gaussian leaves {sorted(self.names)}, got {sorted(shifts)}"
            )
            raise ValueError(msg)
        self.denoiser, self.process = denoiser, denoiser.process
        # A list: a ModuleDict refuses names such as "type" or "a.b".
        self.tables = torch.nn.ModuleList([shifts[name] for name in self.names])

    @classmethod
    @torch.no_grad()
    def fit(cls, denoiser: Denoiser, batch: Batch, grid: Grid, random: Randomness) -> Self:
        """Measure what an estimate misses in the mean, by one call for each time of a grid.

        Arguments:
            denoiser: Any denoiser.
            batch: Clean samples, nothing of them given.
            grid: Times, of which those with a finite clock count.
            random: Where the noise comes from.

        Raises:
            ValueError: If entries are given, or no time of the grid has a finite clock.
        """
        names = gaussian_leaves(denoiser.process, cls.__name__)
        if batch.given:
            msg = f"batch has given entries of {sorted(batch.given)}: fit on samples without"
            raise ValueError(msg)
        process: Any = denoiser.process.bind(batch)
        times = grid.times().to(batch.device)
        times = times[times >= 0]
        missed: dict[str, list[Tensor]] = {name: [] for name in names}
        for i, time in enumerate(times.unbind()):
            t = process.times(time)
            x_t = process.diffuse(batch.leaves, t, random.scoped(step=i))
            said = denoiser(batch.with_leaves(x_t), t, None)
            for name in names:
                gap = batch[name].double() - said[name].value.double()
                missed[name].append(gap.mean(0))
        return cls(denoiser, {n: _table(process[n], times, gaps) for n, gaps in missed.items()})

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The estimates, moved; given entries stay."""
        estimates = dict(self.denoiser(batch, t, previous))
        process: Any = self.process.bind(batch)
        for name, table in zip(self.names, self.tables, strict=True):
            x, said = batch[name], estimates[name]
            clock = process[name].clock(t[name])
            # Beside given entries, which are clean, the others have the row's one time.
            shift = table(clock.flatten(1).amin(1) if clock.ndim > 1 else clock)
            moved = process[name].tangent(x, shift.to(x).expand_as(x).contiguous())
            estimates[name] = replace(said, value=said.value + moved)
        return estimates


def _table(leaf: Any, times: Tensor, gaps: list[Tensor]) -> ClockTable:
    """Shifts of falling times by their rising clocks."""
    clock = leaf.clock(times)
    seen = torch.isfinite(clock)
    return ClockTable(clock[seen], torch.stack(gaps)[seen])
