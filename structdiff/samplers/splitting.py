r"""Symmetric splitting in phase space: half of what is known, all of what is learned, half again.

The reverse SDE of a `PhaseSpace` leaf is the sum of two: that of its stationary law, which is
solved exactly for any length and carries the stiff part of the motion, and a kick of the velocity
by the score beyond it. A step goes half its length by the first, kicks by an estimate at its
middle time, and goes the other half: one call a step. Leaves of other processes are stepped as by
`DDPM`, from their own time.

References:
    Score-Based Generative Modeling with Critically-Damped Langevin Diffusion (Dockhorn, Vahdat
    and Kreis, 2022), section 3.3: SSCS. https://arxiv.org/abs/2112.07068
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.processes import Coefficients, Estimate
from structdiff.processes.phase import PhaseSpace
from structdiff.processes.phase_steps import halfway
from structdiff.samplers.base import Carry, Estimates, Sampler, Space
from structdiff.schedules import Grid

__all__ = ["SymmetricSplitting"]


class SymmetricSplitting(Sampler):
    """The splitting integrator of critically damped Langevin diffusion.

    Arguments:
        denoiser: The denoiser; a leaf of its process must be a `PhaseSpace`.
        grid: Times of the steps.

    Raises:
        ValueError: If no leaf is one.

    Example:
        >>> import torch
        >>> from structdiff import Batch, Generator, Linear, Product, UniformTime
        >>> from structdiff.processes.phase import with_velocities
        >>> from structdiff.processes.phase_motion import critically_damped
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"x": PhaseSpace(critically_damped(Linear()))})
        >>> data = Batch.of(with_velocities(torch.tensor([-1.0, 1.0])))
        >>> sampler = SymmetricSplitting(ExactDenoiser(process, data), UniformTime(40))
        >>> sampler.sample(Batch.of(torch.zeros(8, 2)), Generator(0))["x"][:, 0].abs().round()
        tensor([1., 1., 1., 1., 1., 1., 1., 1.])
    """

    def __init__(self, denoiser: Denoiser, grid: Grid) -> None:
        super().__init__(denoiser, grid, eta=1.0)
        process: Any = denoiser.process
        self.names: tuple[str, ...] = process.offering(PhaseSpace)
        if not self.names:
            msg = "a leaf of the process must be a PhaseSpace, none is: use DDPM or Leaping"
            raise ValueError(msg)

    def order(self, space: Space) -> int:
        """First order: the kick is Euler's."""
        del space
        return 1

    def plan(self, times: Tensor) -> Sequence[Coefficients]:
        """Bayes' steps, with the second parts of the steps in phase space."""
        process: Any = self.process
        parts = {name: process[name].split(times) for name in self.names}
        self.first = [
            {name: pairs[i][0] for name, pairs in parts.items()} for i in range(self.steps)
        ]
        second = [{name: pairs[i][1] for name, pairs in parts.items()} for i in range(self.steps)]
        whole = zip(self.process.plan(times, 1.0), second, strict=True)
        return [{**others, **ours} for others, ours in whole]

    first: list[dict[str, Any]]
    middle: list[Any]

    def prepare(self) -> None:
        """The times that the denoiser sees: the middle ones in phase space."""
        middle = halfway(self.times).to(self.batch.device).unbind()
        own = [self.process.times(t) for t in middle]
        self.middle = [
            {**times, **{name: there[name] for name in self.names}}
            for times, there in zip(self.leaf_times, own, strict=False)
        ]

    def effective(self, carry: Carry, i: int) -> tuple[Estimates, Carry]:
        """The estimate after the first half."""
        x = dict(carry.x)
        process: Any = self.process
        for name in self.names:
            random = self.random.scoped(step=2 * i + 2).scoped(
                leaf=name, ids=self.batch.ids, layout=self.batch.layouts[name]
            )
            x[name] = process[name].step(x[name], Estimate(x[name]), self.first[i][name], random)
        estimate: Estimates = self.denoiser(
            self.batch.with_leaves(x), self.middle[i], carry.previous
        )
        return estimate, carry.changed(x=x, previous=estimate, calls=carry.calls + 1)
