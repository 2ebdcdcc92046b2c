r"""Encoding: the probability flow from data to noise.

A deterministic sampler on a grid that rises carries data to the noise that the same sampler on the
falling grid turns into them, up to the error of its steps: for normal data N(m, s^2)

    x_1 = alpha_1 m + (v_1 / v_0) (x - alpha_0 m),    v_i^2 = alpha_i^2 s^2 + sigma_i^2.

The data are taken to be of the grid's first time, which must have a noise level somewhat below
their finest spread: at none at all the flow has no direction. Between two codes lies an arc.

References:
    Denoising Diffusion Implicit Models (Song et al., 2021), sections 4.3 and 5.3.
    https://arxiv.org/abs/2010.02502
    Score-Based Generative Modeling through SDEs (Song et al., 2021), appendix D.
    https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.processes import Flowing
from structdiff.processes.leaf import sum_event
from structdiff.samplers.base import Sampler
from structdiff.samplers.recorded import NoNoise
from structdiff.samplers.truncated import Truncated
from structdiff.samplers.wrapped import check_sampler
from structdiff.schedules import Grid

__all__ = ["Rising", "encode", "slerp"]


class Rising(Grid):
    """The times of another grid upwards, without `CLEAN`.

    Arguments:
        grid: The falling grid.

    Example:
        >>> from structdiff.schedules import UniformTime
        >>> Rising(UniformTime(4)).times().tolist()
        [0.25, 0.5, 0.75, 1.0]
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def times(self) -> Tensor:
        """The times."""
        t = self.grid.times()
        return t[t >= 0].flip(0)


class Undrawn(NoNoise):
    """A source from which a walk that is to be walked back must not draw."""

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Refused.

        Raises:
            ValueError: Always.
        """
        msg = "the sampler draws fresh noise, which has no way back: encode by DDIM, Heun or"
        raise ValueError(f"{msg} Multistep, or use record")

    uniform = normal


def encode(sampler: Sampler, batch: Batch) -> Batch:
    """The noise that the probability flow leads data to; given entries stay.

    `Truncated(sampler, noise.leaves, noisy=True)` with the sampler on the falling grid decodes.

    Arguments:
        sampler: A sampler with eta 0 on a `Rising` grid.
        batch: The data.

    Raises:
        ValueError: If the sampler draws fresh noise, its times fall or are clean, or a leaf is on
            classes, where no flow leads to noise.

    Example:
        >>> from structdiff import DDIM, Cosine, Gaussian, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
        >>> data = Batch.of(torch.tensor([-1.0, 0.0, 2.0]))
        >>> encode(DDIM(denoiser, Rising(UniformTime(50))), data)["x"].round(decimals=3)
        tensor([-1.,  0.,  2.])
    """
    check_sampler(sampler)
    times = sampler.times
    if sampler.eta > 0:
        msg = f"the sampler must have eta 0 to encode, got {sampler.eta}: fresh noise has no way"
        raise ValueError(f"{msg} back, or use record")
    if bool((times[1:] < times[:-1]).any()) or bool((times < 0).any()):
        msg = "the sampler's times must rise to encode: put its grid into Rising(...)"
        raise ValueError(msg)
    if not sampler.denoiser.process.offers(Flowing):
        name = type(sampler.denoiser.process).__name__
        msg = f"{name} has no probability flow (a leaf on classes?): nothing leads to its noise"
        raise ValueError(msg)
    return Truncated(sampler, batch.leaves, noisy=True).sample(batch, Undrawn())


def slerp(a: Tensor, b: Tensor, weight: float, layout: Layout | None = None) -> Tensor:
    """The point at a share of the arc from a to b, sample by sample.

    sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b with theta the angle between
    them: what lies between two draws of N(0, I) is as long as they are.

    Arguments:
        a: Start, `(rows, *event)`.
        b: End, the same shape.
        weight: The share of the arc, 0 at a and 1 at b.
        layout: Which rows belong together; one row a sample by default.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
        tensor([[0.7071, 0.7071]])
    """
    if a.shape != b.shape:
        msg = f"a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(msg)
    rows = layout or Layout.regular(len(a), a.device)

    def total(x: Tensor) -> Tensor:
        return rows.sum(sum_event(x))

    lengths = (total(a * a) * total(b * b)).sqrt()
    cosine = total(a * b) / torch.where(lengths > 0, lengths, 1.0)
    theta = torch.acos(cosine.clamp(-1, 1))
    # Along one direction, and at opposite ones, there is no arc: a straight line.
    bent = torch.sin(theta) > 1e-4
    sine = torch.where(bent, torch.sin(theta), 1.0)
    shares = (torch.where(bent, torch.sin(w * theta) / sine, w) for w in (1 - weight, weight))
    first, second = (rows.spread(share).reshape(-1, *(1,) * (a.ndim - 1)) for share in shares)
    return first * a + second * b
