r"""Two coupled walks that can be walked back exactly.

Each of two states takes the step of DDIM with the estimate made at the other one, and then both
draw together (EDICT):

    x' = step(x, estimate(y)),      y' = step(y, estimate(x')),
    x  = p x' + (1 - p) y',         y  = p y' + (1 - p) x,

with the roles changing at every step (the paper's steps hold the noise of the other state, these
its x_0, as all steps here do). Given y', every line is affine in what it replaces, so that
both can be recovered from the last states, up to rounding that grows by 1 / p^2 a step: nothing on
the way has to be kept. So the gradient of the end in the start is found backwards, step by step,
in a memory that does not depend on how many steps there are, which makes optimising x_T for a loss
of the sample affordable (DOODL).

A step to clean data would forget the noise, so the walk ends at the grid's last time with noise.

References:
    EDICT: Exact Diffusion Inversion via Coupled Transformations (Wallace, Gokul and Naik, 2023),
    section 4. https://arxiv.org/abs/2211.12446
    End-to-End Diffusion Latent Optimization Improves Classifier Guidance (Wallace, Gokul, Ermon
    and Naik, 2023). https://arxiv.org/abs/2303.13703
"""

from __future__ import annotations

from typing import Any, Self, TypeAlias

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Gaussian
from structdiff.random import Randomness
from structdiff.samplers.ancestral import DDIM
from structdiff.samplers.base import Carry, Estimates, Record, Walk
from structdiff.samplers.pseudo import check_linear
from structdiff.schedules import Grid

__all__ = ["Coupled"]

Pair: TypeAlias = tuple[dict[str, Tensor], dict[str, Tensor]]


class Coupled(Walk):
    """An exactly invertible walk of first order on R^n; two calls a step.

    Self-conditioning denoisers see no previous estimate: it would have to be known backwards.

    Arguments:
        denoiser: The denoiser; all its leaves must be Gaussian.
        grid: Times of the steps; those without noise are left out.
        mixing: p, in (0, 1]; at 1 the two walks do not draw together and drift apart.

    Raises:
        ValueError: If the mixing is out of range, a leaf is not Gaussian, or the grid has no step
            between two times with noise.

    Example:
        >>> from structdiff import Cosine, Gaussian, Generator, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
        >>> walk = Coupled(denoiser, UniformTime(10)).bind(Batch.of(torch.zeros(2)), Generator(0))
        >>> noise = {"x": torch.tensor([1.0, 2.0], dtype=torch.float64)}
        >>> end = walk.ends(noise)
        >>> walk.inverse(*end)[0]["x"]
        tensor([1.0000, 2.0000], dtype=torch.float64)
    """

    def __init__(self, denoiser: Denoiser, grid: Grid, *, mixing: float = 0.93) -> None:
        if not 0 < mixing <= 1:
            msg = f"mixing must be in (0, 1], got {mixing}"
            raise ValueError(msg)
        check_linear(denoiser, "steps are taken back")
        self.sampler, self.mixing = DDIM(denoiser, grid), mixing
        self.times = noisy_times(denoiser, self.sampler.times)
        if len(self.times) < 2:
            msg = f"the grid must have two times with noise, got {self.times.tolist()}"
            raise ValueError(msg)

    backwards: list[Any]

    def bind(self, batch: Batch, random: Randomness) -> Self:
        """A copy bound to a batch.

        Arguments:
            batch: Gives layouts, conditions, and the values of given entries.
            random: Where the first state comes from.
        """
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.sampler = self.sampler.bind(batch, random)
        bound.backwards = list(bound.sampler.process.plan(self.times.flip(0), 0.0))[::-1]
        return bound

    @property
    def steps(self) -> int:
        """Steps between times with noise."""
        return len(self.times) - 1

    def start(self) -> Carry:
        """A draw from the prior, twice the same."""
        carry = self.sampler.start()
        return Carry(carry.x, memory=carry.x)

    def step(self, carry: Carry, i: int) -> Carry:
        """The carry after step i; the other state is its memory."""
        x, y = self.forth(dict(carry.x), dict(carry.memory), i)
        return Carry(x, calls=carry.calls + 2, memory=y)

    def moved(self, x: Record, other: Record, i: int, coefficients: Any) -> dict[str, Tensor]:
        """x after a step with the estimate at the other state."""
        estimate: Estimates = self.sampler.denoise(other, i, None)
        process: Any = self.sampler.process
        return dict(process.step(x, estimate, coefficients, self.sampler.random))

    def forth(self, x: dict[str, Tensor], y: dict[str, Tensor], i: int) -> Pair:
        """Both states after step i."""
        if i % 2:
            x, y = y, x
        step = self.sampler.coefficients[i]
        x = self.moved(x, y, i, step)
        y = self.moved(y, x, i, step)
        x = _mixed(x, y, self.mixing)
        y = _mixed(y, x, self.mixing)
        return (y, x) if i % 2 else (x, y)

    def back(self, x: dict[str, Tensor], y: dict[str, Tensor], i: int) -> Pair:
        """Both states before step i."""
        if i % 2:
            x, y = y, x
        step, share = self.backwards[i], 1 / self.mixing
        y = _mixed(y, x, share)
        x = _mixed(x, y, share)
        y = self.moved(y, x, i, step)
        x = self.moved(x, y, i, step)
        return (y, x) if i % 2 else (x, y)

    def hold(self, x: Record) -> dict[str, Tensor]:
        """x with the given entries in their place."""
        process: Any = self.sampler.process
        return {name: process[name].hold(value) for name, value in x.items()}

    @torch.no_grad()
    def ends(self, x: Record) -> Pair:
        """Both states at the end of the walk from x.

        Arguments:
            x: The state at the first time; given entries stay, whatever it says of them.
        """
        first = second = self.hold(x)
        for i in range(self.steps):
            first, second = self.forth(first, second, i)
        return first, second

    @torch.no_grad()
    def inverse(self, x: Record, y: Record | None = None) -> Pair:
        """Both states at the first time, from those at the end.

        Arguments:
            x: The one state.
            y: The other; x itself by default, as for data that no walk has led to.
        """
        first, second = self.hold(x), self.hold(x if y is None else y)
        for i in reversed(range(self.steps)):
            first, second = self.back(first, second, i)
        return first, second

    def decode(self, x: Record) -> dict[str, Tensor]:
        """The end of the walk from x, differentiable in x alone, in memory for one step.

        Arguments:
            x: The state at the first time.
        """
        ends = _Walked.apply(self, tuple(x), *x.values())  # type: ignore[no-untyped-call]
        return dict(zip(x, ends, strict=True))


def noisy_times(denoiser: Denoiser, times: Tensor) -> Tensor:
    """The first times, up to one at which some entry of some leaf has no noise."""
    process: Any = denoiser.process
    for name in process.offering(Gaussian):
        schedule = process[name].schedule
        noisy = (schedule.sigma(schedule.spread(times)) > 0).reshape(len(times), -1).all(1)
        times = times[noisy.cumprod(0).bool()]
    return times


def _mixed(x: dict[str, Tensor], y: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """share x + (1 - share) y."""
    return {name: share * value + (1 - share) * y[name] for name, value in x.items()}


class _Walked(torch.autograd.Function):
    """The walk, whose gradient walks back and keeps the last states only."""

    @staticmethod
    def forward(ctx: Any, walk: Coupled, names: tuple[str, ...], *leaves: Tensor) -> Any:
        x, y = walk.ends(dict(zip(names, leaves, strict=True)))
        ctx.walk, ctx.names = walk, names
        ctx.save_for_backward(*x.values(), *y.values())
        return tuple(x.values())

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        n = len(ctx.names)
        states = ctx.saved_tensors
        x, y = (dict(zip(ctx.names, part, strict=True)) for part in (states[:n], states[n:]))
        slopes = (*gradient, *(torch.zeros_like(g) for g in gradient))
        for i in reversed(range(ctx.walk.steps)):
            with torch.no_grad():
                x, y = ctx.walk.back(x, y, i)
            slopes = _pulled_back(ctx.walk, x, y, i, slopes)
        process: Any = ctx.walk.sampler.process
        both = zip(ctx.names, slopes[:n], slopes[n:], strict=True)
        return None, None, *(process[name].free(a + b) for name, a, b in both)


def _pulled_back(
    walk: Coupled, x: dict[str, Tensor], y: dict[str, Tensor], i: int, slopes: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Gradients in the states before step i from those after it."""
    with torch.enable_grad():
        x, y = ({n: v.detach().requires_grad_() for n, v in z.items()} for z in (x, y))
        after = walk.forth(x, y, i)
        ends = [value for z in after for value in z.values()]
        starts = [*x.values(), *y.values()]
        return torch.autograd.grad(ends, starts, slopes, allow_unused=True, materialize_grads=True)
