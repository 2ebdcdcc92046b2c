r"""Sampling by the probability flow with steps of adaptive length.

The equation dx/dt = velocity of the process is solved from noise to an early time, to a tolerance
and for each sample by itself (see `structdiff.geodesic_ode`); the last step, to clean data, is
that of the process. It is what one wants where few samples must be right rather than many fast,
and on a geometry whose best grid of times is not known.

References:
    Score-Based Generative Modeling through SDEs (Song et al., 2021), section 4.3.
    https://arxiv.org/abs/2011.13456
    Riemannian Score-Based Generative Modelling (De Bortoli et al., 2022), section 3.3.
    https://arxiv.org/abs/2202.02763
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.geodesic_ode import integrate
from structdiff.processes import Flowing
from structdiff.samplers.base import Carry
from structdiff.samplers.solved import Solved

__all__ = ["Adaptive", "row_times"]


def row_times(process: Any, batch: Batch, t: Tensor) -> Mapping[str, Tensor]:
    """Times of the samples, `(samples,)`, as the leaves see them."""
    times: Mapping[str, Tensor] = process.times(
        {name: layout.spread(t) for name, layout in batch.layouts.items()}
    )
    return times


class Adaptive(Solved):
    """The probability flow, solved to a tolerance.

    Arguments:
        denoiser: The denoiser; its process must be Flowing: no leaf on classes.
        tolerance: Error of a step, see `integrate`.
        start: Where the walk begins, in (end, 1].
        end: Where the equation ends and one step to clean data is left, in (0, start): a noise
            level somewhat below the finest spread of the data.

    Raises:
        ValueError: If a number is out of range or the process does not flow.

    Example:
        >>> import torch
        >>> from structdiff import Cosine, Gaussian, Generator
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
        >>> sampler = Adaptive(denoiser, start=0.99)
        >>> sampler.sample(Batch.of(torch.zeros(3)), Generator(0))["x"].shape
        torch.Size([3])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        tolerance: float = 1e-4,
        start: float = 1.0,
        end: float = 1e-3,
    ) -> None:
        if not 0 < end < start <= 1:
            msg = f"start and end must satisfy 0 < end < start <= 1, got {start} and {end}"
            raise ValueError(msg)
        if not tolerance > 0:
            msg = f"tolerance must be positive, got {tolerance}"
            raise ValueError(msg)
        if not denoiser.process.offers(Flowing):
            name = type(denoiser.process).__name__
            msg = f"{name} has no probability flow (a leaf on classes?): use another sampler"
            raise ValueError(msg)
        super().__init__(denoiser, (start, end))
        self.tolerance = tolerance

    def solve(self, carry: Carry) -> Carry:
        """The carry after the equation."""
        path = integrate(
            self.field,
            self.process.geometry,
            self.batch.with_leaves(carry.x),
            *self.ends,
            tolerance=self.tolerance,
        )
        return replace(carry, x=path.x, calls=carry.calls + path.calls)

    def field(
        self, x: Mapping[str, Tensor], t: Tensor
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """dx/dt, and nothing beside it."""
        times = row_times(self.process, self.batch, t)
        estimate = self.denoiser(self.batch.with_leaves(x), times, None)
        return self.process.velocity(estimate, x, times), {}
