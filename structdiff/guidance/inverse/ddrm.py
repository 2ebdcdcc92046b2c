r"""DDRM: linear inverse problems, coefficient by coefficient of the singular basis.

For H = U S V^T write c = V^T x_s, m = V^T E[x_0 | x_t], w = S^+ U^T y, and r for the noise of w at
the time s, alpha_s noise_std / S. Coefficients with S = 0 follow the sampler. The others are drawn
as

    sigma_s >= r:   c = alpha_s ((1 - eta_b) m + eta_b w)        + sqrt(sigma_s^2 - eta_b^2 r^2) z,
    sigma_s <  r:   c = alpha_s m + sqrt(1 - eta^2) sigma_s alpha_s (w - m) / r + eta sigma_s z,

and at the start as alpha w + sqrt(sigma^2 - r^2) z where sigma >= r, and by the prior elsewhere.
Without noise and at eta_b = 1 the walk ends with H x_0 = y, unless entries that H sees are given.
The two parts meet in the denoiser alone, as in replacement, so that in general the law is not the
posterior.

Where we depart: coefficients that are not seen take the sampler's own step, whatever its order and
eta; in the paper they have the share eta^2 of sigma_s^2 in fresh noise.

References:
    Denoising Diffusion Restoration Models (Kawar, Elad, Ermon and Song, 2022), eqs. 7 and 8.
    https://arxiv.org/abs/2201.11793
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.guidance.inverse.observation import Observation, check_factored, row_times
from structdiff.random import Randomness
from structdiff.samplers.base import Carry, Sampler
from structdiff.samplers.wrapped import Wrapped

__all__ = ["DDRM"]


class DDRM(Wrapped):
    """A sampler that restores what a linear operator measured.

    Arguments:
        sampler: Any sampler.
        seen: What was measured.
        eta: Share of fresh noise of a coefficient that is measured less well than x_s says, in
            [0, 1].
        eta_b: How much a coefficient that is measured better is believed, in [0, 1].

    Raises:
        ValueError: If the leaf is not on R^n, the singular values of the operator are not known,
            or a number is out of range; on a call, if y has other rows than the leaf.

    Example:
        >>> from structdiff import Batch, DDPM, Cosine, Gaussian, Generator, UniformTime
        >>> from structdiff.operators import Downsample
        >>> from structdiff.testing import NormalDenoiser
        >>> process = Gaussian(Cosine(), event=(4,))
        >>> denoiser = NormalDenoiser(process, torch.zeros(1, 4), torch.ones(1))
        >>> seen = Observation(Downsample((4,), 2), torch.tensor([3.0, 5.0]))
        >>> sampler = DDRM(DDPM(denoiser, UniformTime(8)), seen)
        >>> seen.operator(sampler.sample(Batch.of(torch.zeros(1, 4)), Generator(0))["x"])
        tensor([[3.0000, 5.0000]])
    """

    leaf: Any
    levels: list[tuple[Tensor, Tensor, bool]]
    known: Tensor
    singular: Tensor
    spread: Tensor

    def __init__(
        self, sampler: Sampler, seen: Observation, *, eta: float = 0.85, eta_b: float = 1.0
    ) -> None:
        super().__init__(sampler)
        if not (0 <= eta <= 1 and 0 <= eta_b <= 1):
            msg = f"eta and eta_b must be in [0, 1], got {eta} and {eta_b}"
            raise ValueError(msg)
        self.operator = check_factored(seen, sampler.denoiser.process)
        self.seen, self.eta, self.eta_b = seen, eta, eta_b

    def prepare(self) -> None:
        """The measured coefficients w, their noise, and the levels of the grid."""
        process: Any = self.sampler.process
        x = self.sampler.batch[self.seen.leaf]
        self.seen.check_rows(x)
        self.leaf, y = process[self.seen.leaf], self.seen.y.to(x)
        self.known, self.singular = self.operator.seen(y), self.operator.values(x)
        self.spread = self.seen.noise_std * self.operator.inverse(y)
        level = self.leaf.schedule(row_times(self.sampler, self.seen.leaf))
        noisy = (level.sigma > 0).any(1).tolist()
        axes = (1,) * self.singular.ndim
        pair = (one.to(x).reshape(*one.shape, *axes) for one in (level.alpha, level.sigma))
        self.levels = list(zip(*(one.unbind() for one in pair), noisy, strict=True))

    def start(self) -> Carry:
        """A draw from the prior, restored where less noise is measured than it has."""
        carry = self.sampler.start()
        alpha, sigma, _ = self.levels[0]
        noise = alpha * self.spread
        rest = (sigma**2 - noise**2).clamp(min=0).sqrt()
        return self.restored(carry, 0, alpha * self.known, rest, sigma >= noise)

    def step(self, carry: Carry, i: int) -> Carry:
        """The carry after step i, restored.

        Raises:
            ValueError: If the sampler does not carry its last estimate.
        """
        carry = self.sampler.step(carry, i)
        if carry.previous is None:
            msg = f"{type(self.sampler).__name__} carries no estimate, which DDRM needs: use DDPM"
            raise ValueError(msg)
        said = self.operator.analysis(carry.previous[self.seen.leaf].value)
        alpha, sigma, _ = self.levels[i + 1]
        noise, gap = alpha * self.spread, alpha * (self.known - said)
        sure = sigma >= noise
        share = (1 - self.eta**2) ** 0.5 * sigma / torch.where(noise > 0, noise, 1.0)
        mean = alpha * said + torch.where(sure, self.eta_b, share) * gap
        rest = (sigma**2 - (self.eta_b * noise) ** 2).clamp(min=0).sqrt()
        std = torch.where(sure, rest, self.eta * sigma)
        return self.restored(carry, i + 1, mean, std, torch.ones_like(sure))

    def restored(self, carry: Carry, i: int, mean: Tensor, std: Tensor, where: Tensor) -> Carry:
        """The carry with seen coefficients drawn at the i-th time; given entries stay."""
        name = self.seen.leaf
        x = carry.x[name]
        c = self.operator.analysis(x)
        drawn = mean + std * self.normal(c, self.beside(i)) if self.levels[i][2] else mean
        change = torch.where((self.singular > 0) & where, drawn - c, 0.0)
        return replace(
            carry, x={**carry.x, name: self.leaf.hold(x + self.operator.synthesis(change))}
        )

    def normal(self, c: Tensor, random: Randomness) -> Tensor:
        """Standard normal coefficients."""
        batch, name = self.sampler.batch, self.seen.leaf
        scoped = random.scoped(leaf=name, ids=batch.ids, layout=batch.layouts[name])
        return scoped.normal(c.shape, c.dtype, c.device)
