r"""DPS: any differentiable measurement, by steps down the distance to it.

    x_s = step(x_t) - zeta grad_{x_t} |y - A(E[x_0 | x_t])|,

with the gradient through the denoiser. It is the paper's algorithm, whose step sizes are those of
the squared distance divided by twice its root: the last steps do not follow from a likelihood, and
the law is not the posterior. What does follow from one, with a noise that is known, is

    Rewarded(denoiser, observation.log_prob, 1.0),

the same gradient with the weight that Bayes' rule gives it, and, where the noise is small, a step
that is too long for anything but very many of them; `PiGDM` weighs it by what x_t leaves open. The
gradient goes through the process's `shift`, which keeps given entries and subspaces.

References:
    Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023),
    algorithm 1. https://arxiv.org/abs/2209.14687
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.guidance.inverse.observation import Observation
from structdiff.guidance.rewards import detached
from structdiff.samplers.base import Carry, Estimates, Sampler, Space
from structdiff.schedules import Grid

__all__ = ["DPS"]


class DPS(Sampler):
    """One call and one gradient a step; without the gradient it is `DDPM` or `DDIM`.

    Arguments:
        denoiser: A denoiser, differentiable in the measured leaf.
        grid: Times at which it is called.
        seen: What was measured; its noise is not looked at.
        zeta: Length of a step down, in units of x over those of y, at least 0; 0 asks nothing.
        eta: How much fresh noise a step has.

    Raises:
        ValueError: If the leaf is not on R^n or zeta is negative; on a call, if y has other rows
            than the leaf.

    Example:
        >>> from structdiff import Batch, Cosine, Gaussian, Generator, UniformTime
        >>> from structdiff.operators import Quadratic
        >>> from structdiff.testing import NormalDenoiser
        >>> process = Gaussian(Cosine(), event=(2,))
        >>> denoiser = NormalDenoiser(process, torch.zeros(1, 2), torch.ones(1))
        >>> circle = Observation(Quadratic(torch.eye(2)[None]), torch.tensor([4.0]))
        >>> sampler = DPS(denoiser, UniformTime(200), circle, zeta=0.03)
        >>> x = sampler.sample(Batch.of(torch.zeros(5, 2)), Generator(0))["x"]
        >>> bool(((x.norm(dim=1) - 2).abs() < 0.1).all())
        True
    """

    slopes: list[Tensor]

    def __init__(
        self, denoiser: Denoiser, grid: Grid, seen: Observation, *, zeta: float, eta: float = 1.0
    ) -> None:
        super().__init__(denoiser, grid, eta=eta)
        if not (math.isfinite(zeta) and zeta >= 0):
            msg = f"zeta must be finite and at least 0, got {zeta}"
            raise ValueError(msg)
        seen.check_leaf(denoiser.process)
        self.seen, self.zeta = seen, zeta

    def order(self, space: Space) -> int:
        """First order, to the law that zeta decides."""
        del space
        return 1

    def prepare(self) -> None:
        """What a term of log p_t is multiplied by on its way into x_s, inverted.

        `shift` moves the estimate by sigma^2 / alpha times its gradient, and the step takes `data`
        of that. Where x_t is clean, or a step does not move, nothing is moved.
        """
        process: Any = self.process
        self.seen.check_rows(self.batch[self.seen.leaf])
        leaf = process[self.seen.leaf]
        level = leaf.schedule(leaf.schedule.spread(self.times[:-1]))
        scales = (level.alpha / level.sigma**2).to(leaf.known).unbind()
        steps = (coefficients[self.seen.leaf].data for coefficients in self.coefficients)
        slopes = (self.zeta * scale / data for scale, data in zip(scales, steps, strict=True))
        self.slopes = [torch.where(torch.isfinite(slope), slope, 0.0) for slope in slopes]

    def effective(self, carry: Carry, i: int) -> tuple[Estimates, Carry]:
        """The estimate, moved down the distance."""
        if self.zeta == 0:
            estimate = self.denoise(carry.x, i, carry.previous)
        else:
            estimate = self.guided(carry, i)
        return estimate, replace(carry, previous=estimate, calls=carry.calls + 1)

    def guided(self, carry: Carry, i: int) -> Estimates:
        """One call with its gradient."""
        process: Any = self.process
        name = self.seen.leaf
        x = carry.x[name].detach().requires_grad_()
        with torch.enable_grad():
            said = self.denoise({**carry.x, name: x}, i, carry.previous)
            squares = self.seen.squares(said, self.batch)
            distance = torch.where(squares > 0, squares, 1.0).sqrt()
            (slope,) = torch.autograd.grad(distance.sum(), x)
        plain = {n: detached(estimate) for n, estimate in said.items()}
        down = {name: -self.slopes[i] * slope}
        moved: Estimates = process.shift(plain, down, carry.x, self.leaf_times[i])
        return moved
