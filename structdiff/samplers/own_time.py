r"""A sample's own time: the denoiser is told how noisy the sample is, not how noisy it should be.

Along a walk errors add up, and x_t comes to have another noise level than the grid's: the denoiser
was never trained on such pairs (exposure bias). A *reader* looks at x_t and says the time that it
seems to be of; the denoiser is asked at that time. The walk's times and steps stay, so that any
sampler takes such a denoiser. A reader may be a network; `MatchedVariance` needs none: among the
times near t it takes that at which the schedule's variance

    alpha^2 s^2 + sigma^2        (s^2 the variance of the data)

is nearest to the variance of the sample's own entries.

References:
    Alleviating Exposure Bias in Diffusion Models through Sampling with Shifted Time Steps (Li et
    al., 2024). https://arxiv.org/abs/2305.15583
    Noise Estimation for Generative Diffusion Models (San-Roman, Nachmani and Wolf, 2021).
    https://arxiv.org/abs/2104.02600
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.layout import Layout
from structdiff.processes import Estimate
from structdiff.processes.leaf import expand
from structdiff.schedules import Schedule

__all__ = ["MatchedVariance", "OwnTime", "Reader"]

Reader: TypeAlias = Callable[[Batch, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Noisy leaves and their times to the times that samples seem to be of, `(samples,)` by leaf."""


SAME = 1e-9
"""Share of a variance by which another time must be nearer to be taken."""


class OwnTime(Denoiser):
    """Another denoiser, asked at the time that each sample seems to be of.

    Given entries stay clean; leaves that the reader does not name keep their times. Times that it
    reads outside [0, 1] are taken at the ends.

    Arguments:
        denoiser: Any denoiser that takes times of rows.
        reader: What reads the times, see `Reader`.

    Raises:
        ValueError: On a call, if what was read is not one time a sample, by names of leaves.

    Example:
        >>> from structdiff import Flow, Gaussian
        >>> from structdiff.testing import NormalDenoiser
        >>> exact = NormalDenoiser(Gaussian(Flow()), torch.zeros(1), torch.ones(1))
        >>> always = OwnTime(exact, lambda batch, t: {"x": torch.full((batch.samples,), 0.5)})
        >>> always(Batch.of(torch.ones(1)), {"x": torch.tensor(0.9)})["x"].value
        tensor([1.])
    """

    def __init__(self, denoiser: Denoiser, reader: Reader) -> None:
        super().__init__()
        self.denoiser, self.reader = denoiser, reader
        self.process = denoiser.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimates at the times that were read."""
        moved = dict(t)
        for name, read in self.reader(batch, t).items():
            if name not in batch.leaves or read.shape != (batch.samples,):
                has = f"the reader gives leaf {name!r} times of shape {tuple(read.shape)}"
                must = f"one for each of {batch.samples} samples, of leaves {sorted(batch.leaves)}"
                raise ValueError(f"{has}: it must give {must}")
            rows = batch.layouts[name].spread(read.clamp(0, 1)).to(t[name].dtype)
            moved[name] = torch.where(t[name] < 0, t[name], expand(rows, t[name]))
        estimates: Mapping[str, Estimate] = self.denoiser(batch, moved, previous)
        return estimates


class MatchedVariance:
    """Reads the time at which the schedule has the variance of a sample's entries.

    The variance of d independent entries is known to a share of sqrt(2 / d): this is for samples
    of many entries, and for data with one variance. Where the variance does not change in t it
    says nothing, and the times stay. Given entries do not count.

    Arguments:
        name: The leaf, on R^n.
        schedule: Its schedule, with one noise level for all entries of a row.
        deviation: Standard deviation of the entries of a clean sample, at least 0.
        width: How far from t the times may be, positive.
        candidates: Times that are tried on each side, at least 1.
        until: Times up to this one stay: near the data the noise is too little to be read.

    Raises:
        ValueError: If a number is out of range, or the schedule has noise levels by entry.

    Example:
        >>> from structdiff.schedules import Geometric
        >>> read = MatchedVariance("x", Geometric(0.01, 100.0), 1.0, width=0.1, candidates=5)
        >>> noisy = Batch.of(torch.tensor([[4.0, -4.0, 4.0, -4.0]]))
        >>> read(noisy, {"x": torch.tensor(0.7, dtype=torch.float64)})["x"].item()
        0.64
    """

    def __init__(
        self,
        name: str,
        schedule: Schedule,
        deviation: float,
        *,
        width: float = 0.02,
        candidates: int = 10,
        until: float = 0.0,
    ) -> None:
        if not 0 <= deviation < float("inf"):
            msg = f"deviation must be at least 0 and finite, got {deviation}"
            raise ValueError(msg)
        if not 0 < width <= 1 or candidates < 1:
            must = "width must be in (0, 1] and candidates at least 1"
            msg = f"{must}, got {width} and {candidates}"
            raise ValueError(msg)
        if not 0 <= until <= 1:
            msg = f"until must be in [0, 1], got {until}"
            raise ValueError(msg)
        if schedule.event:
            has = f"schedule {type(schedule).__name__} has noise levels by entry {schedule.event}"
            raise ValueError(f"{has}: the variance of a sample reads one level, give a scalar one")
        self.name, self.schedule, self.deviation = name, schedule, deviation
        self.width, self.candidates, self.until = width, candidates, until

    def shifts(self, device: torch.device) -> Tensor:
        """Shifts that are tried, the nearest first: of equally good ones the least is taken."""
        steps = torch.arange(self.candidates + 1, dtype=torch.float64, device=device)
        steps = steps * (self.width / self.candidates)
        return torch.stack([steps, -steps], 1).flatten()[1:]

    def __call__(self, batch: Batch, t: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The times of the samples."""
        x, layout = batch[self.name], batch.layouts[self.name]
        now = sample_times(t[self.name], layout).double()
        near = (now[:, None] + self.shifts(x.device)).clamp(0, 1)
        level = self.schedule(near)
        expected = (level.alpha * self.deviation) ** 2 + level.sigma**2
        noisy = expand(t[self.name] >= 0, x)
        gap = (expected - sample_variance(x, layout, noisy)[:, None]).abs()
        # Rounding must not choose among times of one variance.
        gap[:, 1:] += SAME * expected[:, 1:]
        read = near.gather(1, gap.argmin(1, keepdim=True)).squeeze(1)
        return {self.name: torch.where(now > self.until, read, now)}


def sample_times(t: Tensor, layout: Layout) -> Tensor:
    """The time of each sample's noisy rows, `(samples,)`; `CLEAN` if there are none."""
    if t.ndim == 0:
        return t.expand(layout.samples).to(layout.sample.device)
    rows = t.unsqueeze(-1).flatten(1).amax(1)
    clean = rows.new_full((layout.samples,), -1.0)
    return clean.scatter_reduce(0, layout.sample, rows, "amax")


def sample_variance(x: Tensor, layout: Layout, noisy: Tensor) -> Tensor:
    """The variance of the noisy entries of each sample, `(samples,)`, float64.

    Arguments:
        x: Entries, `(rows, *event)`.
        layout: Which sample each row belongs to.
        noisy: Which of them count, broadcast against x.
    """
    entries = x.double().unsqueeze(-1).flatten(1)
    counted = noisy.expand_as(x).to(entries).reshape(entries.shape)
    count = layout.sum(counted.sum(1)).clamp(min=1)
    mean = layout.sum((counted * entries).sum(1)) / count
    squares = counted * (entries - layout.spread(mean)[:, None]).square()
    return layout.sum(squares.sum(1)) / count
