r"""Recorded noise: a stochastic walk through given data, and the noise that it would have needed.

From x_0 a walk x_1, ..., x_0 is drawn of q(x_s | x_t, x_0), as the sampler with the true x_0 for
its estimate; with the model's estimate each step has a mean mu(x_t), and

    r = log_{x_t}(x_s) - log_{x_t}(mu(x_t)),    x_s = exp_{x_t}(log_{x_t}(mu(x_t)) + r)

says what is missing: on R^n r = x_s - mu(x_t), the step's sigma times its noise. (x_1, r, r, ...)
is a code of the data. The same sampler decodes it exactly; with another model of the same process
the code becomes what that model would have drawn from this noise: data of another kind that share
what the noise says. The memory grows with the steps.

References:
    A Latent Space of Stochastic Diffusion Models for Zero-Shot Image Editing and Guidance (Wu and
    De la Torre, 2023), section 3.
    https://arxiv.org/abs/2210.05559
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.processes import Conditional, Flowing
from structdiff.random import Randomness
from structdiff.samplers.base import Carry, Record, Sampler, Walk
from structdiff.samplers.wrapped import check_sampler

__all__ = ["NoNoise", "Recording", "Replayed", "record"]


class NoNoise(Randomness):
    """Normal numbers that are all zero, which leave the mean of a step.

    Example:
        >>> NoNoise().normal((2,), torch.float32, "cpu")
        tensor([0., 0.])
    """

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Zeros."""
        return torch.zeros(*shape, dtype=dtype, device=device)

    def uniform(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Refused: a law of uniform numbers need not have a mean.

        Raises:
            ValueError: Always.
        """
        msg = "a draw of uniform numbers has no noise to be left out: use R^n or a manifold"
        raise ValueError(msg)

    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> NoNoise:
        """The same source."""
        del leaf, step, ids, layout
        return self

    def state(self) -> Tensor:
        """Nothing."""
        return torch.zeros(0, dtype=torch.uint8)

    def restore(self, state: Tensor) -> None:
        """Nothing."""


@dataclass(frozen=True, eq=False)
class Recording:
    """The code of data under a stochastic walk.

    Arguments:
        times: The grid, `(steps + 1,)`.
        x: The state at the first time.
        missing: What each step lacks, a tangent vector at its start, by leaf.
    """

    times: Tensor
    x: Record
    missing: tuple[Mapping[str, Tensor], ...]


def check_recordable(sampler: Sampler) -> None:
    """Refuse a process whose steps are not a mean and noise."""
    check_sampler(sampler)
    process = sampler.denoiser.process
    if not (process.offers(Flowing) and process.offers(Conditional)):
        name = type(process).__name__
        msg = f"noise is solved for on R^n and manifolds only, {name} has another leaf (classes?)"
        raise ValueError(msg)


@torch.no_grad()
def record(sampler: Sampler, batch: Batch, random: Randomness) -> Recording:
    """Data to the state at the first time and the noise of every step.

    Arguments:
        sampler: Any sampler; with eta 0 the code is that of a drawn x_1 alone.
        batch: The data; given entries stay.
        random: Where the noise comes from.

    Raises:
        ValueError: If a leaf is on classes or has no density.

    Example:
        >>> from structdiff import DDPM, Cosine, Gaussian, Generator, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
        >>> sampler, data = DDPM(denoiser, UniformTime(9)), Batch.of(torch.tensor([-1.0, 2.0]))
        >>> recording = record(sampler, data, Generator(0))
        >>> Replayed(sampler, recording).sample(data, Generator(1))["x"].round(decimals=4)
        tensor([-1.,  2.])
    """
    check_recordable(sampler)
    bound = sampler.bind(batch, NoNoise())
    process: Any = bound.process
    carry = Carry(process.diffuse(batch.leaves, bound.leaf_times[0], random.scoped(step=0)))
    first, missing = carry.x, []
    for i in range(bound.steps):
        estimate, carry = bound.effective(carry, i)
        oracle = process.oracle(batch.leaves, carry.x, bound.leaf_times[i])
        drawn = random.scoped(step=2 * i + 1)
        x_s = process.step(carry.x, oracle, bound.coefficients[i], drawn)
        if i + 1 == bound.steps and sampler.times[-1] < 0:
            x_s = batch.leaves
        mean = bound.advance(carry.x, estimate, i)
        missing.append(_gap(process.geometry, carry.x, mean, x_s))
        carry = carry.changed(x=x_s)
    return Recording(sampler.times, first, tuple(missing))


def _gap(geometry: Any, x: Record, mean: Record, x_s: Record) -> dict[str, Tensor]:
    """What is missing from one step's mean, as a tangent vector at its start."""
    return {
        name: geometry[name].log(x[name], x_s[name]) - geometry[name].log(x[name], mean[name])
        for name in x
    }


class Replayed(Walk):
    """A stochastic sampler with recorded noise.

    Arguments:
        sampler: The sampler of the recording, or one on the same grid with another model of the
            same process.
        recording: What `record` returned for as many samples.

    Raises:
        ValueError: If the recording is of another grid, or a leaf is on classes.
    """

    sampler: Sampler

    def __init__(self, sampler: Sampler, recording: Recording) -> None:
        check_recordable(sampler)
        if not torch.equal(recording.times, sampler.times):
            has = f"the recording has a grid of {len(recording.missing)} steps"
            msg = f"{has}, the sampler another of {sampler.steps}: take that of the recording"
            raise ValueError(msg)
        self.sampler, self.recording = sampler, recording

    def bind(self, batch: Batch, random: Randomness) -> Self:
        """A copy bound to a batch; nothing is drawn.

        Arguments:
            batch: Gives layouts, conditions, and the values of given entries.
            random: Not used.

        Raises:
            ValueError: If the batch has other leaves or rows than the recording.
        """
        del random
        has = {name: tuple(x.shape) for name, x in self.recording.x.items()}
        asked = {name: tuple(x.shape) for name, x in batch.leaves.items()}
        if has != asked:
            msg = f"the recording has leaves of the shapes {has}, the batch {asked}"
            raise ValueError(f"{msg}: take a batch like that of the recording")
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.sampler = self.sampler.bind(batch, NoNoise())
        return bound

    @property
    def steps(self) -> int:
        """Number of steps of the sampler."""
        return self.sampler.steps

    def start(self) -> Carry:
        """The recorded state, with the given entries of the batch."""
        process: Any = self.sampler.process
        return Carry({name: process[name].hold(x) for name, x in self.recording.x.items()})

    def step(self, carry: Carry, i: int) -> Carry:
        """The mean of step i, and what was missing."""
        process: Any = self.sampler.process
        estimate, carry = self.sampler.effective(carry, i)
        mean = self.sampler.advance(carry.x, estimate, i)
        missing = process.tangent(carry.x, self.recording.missing[i])
        x_s = {}
        for name, x in carry.x.items():
            space = process.geometry[name]
            way = space.log(x, mean[name]) + missing[name]
            x_s[name] = space.project(space.exp(x, way))
        return carry.changed(x=x_s)
