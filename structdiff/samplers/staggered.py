r"""Rows of a sample one after the other, overlapping: each has a time of its own.

Row r of n stands at rho = (r + 1/2) / n of its sample. When the grid shows g, its time is

    t_r = g (1 + lag) - lag (1 - rho),    kept between the grid's last positive time and 1,

so early rows are denoised before late ones, by up to `lag` times the length of a walk; lag = 0 is
the ordinary walk. All rows become clean at the end. The denoiser must take times `(rows,)`.

References:
    AR-Diffusion: Auto-Regressive Diffusion Model for Text Generation (Wu et al., 2023),
    section 3.2. https://arxiv.org/abs/2305.09515
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.layout import Layout
from structdiff.processes import Coefficients
from structdiff.samplers.ancestral import Ancestral
from structdiff.schedules import CLEAN, Grid

__all__ = ["Staggered"]


class Staggered(Ancestral):
    """Bayes steps, early rows of each sample before late ones.

    The law is kept as by `DDPM`: in the limit of many steps. A leaf whose rows share their time
    (of zero centre) cannot be staggered.

    Arguments:
        denoiser: The denoiser, of a process with steps for rows of different times.
        grid: The times of a walk; the rows' own times follow from them.
        lag: How much later the last row is than the first, in lengths of a walk, at least 0.

    Raises:
        ValueError: If the lag is negative.

    Example:
        >>> from structdiff.layout import Layout
        >>> from structdiff.schedules import UniformTime
        >>> times = row_times(UniformTime(4).times(), Layout.ragged([2]), lag=1.0)
        >>> times.tolist()
        [[1.0, 1.0], [0.75, 1.0], [0.25, 0.75], [0.25, 0.25], [-1.0, -1.0]]
    """

    def __init__(self, denoiser: Denoiser, grid: Grid, *, lag: float) -> None:
        super().__init__(denoiser, grid, eta=1.0)
        if not 0 <= lag < float("inf"):
            msg = f"lag must be at least 0 and finite, got {lag}"
            raise ValueError(msg)
        self.lag = lag

    def own_times(self) -> Mapping[str, Tensor]:
        """The times of each leaf's rows, `(steps + 1, rows)`."""
        layouts = self.batch.layouts.items()
        return {name: row_times(self.times, layout, self.lag) for name, layout in layouts}

    def plan(self, times: Tensor) -> Sequence[Coefficients]:
        """Steps of the rows' own times."""
        del times
        found: Sequence[Coefficients] = self.process.plan(self.own_times(), self.eta)  # type: ignore[arg-type]
        return found

    def prepare(self) -> None:
        """The times that the denoiser sees."""
        own = self.own_times()
        self.leaf_times = [
            self.process.times({name: t[i] for name, t in own.items()})
            for i in range(len(self.times))
        ]


def row_times(times: Tensor, layout: Layout, lag: float) -> Tensor:
    """The time of each row, `(steps + 1, rows)`, when the grid shows `times`."""
    place = (layout.row + 0.5) / layout.spread(layout.size)
    early = lag * (1 - place).to(torch.float64)
    last = float(times[times >= 0].min())
    walked = times.to(place.device)[:, None] * (1 + lag) - early
    clean = (times < 0).to(place.device)[:, None]
    return torch.where(clean, CLEAN, walked.clamp(last, 1.0))
