r"""One-call samplers: DDIM and DDPM.

Each step uses the present estimate alone. eta = 0 is deterministic on R^n and manifolds (DDIM,
which is the Euler step of the probability-flow ODE in its own clock); eta = 1 is ancestral.

References:
    Denoising Diffusion Implicit Models (Song et al., 2021), eq. 12.
    https://arxiv.org/abs/2010.02502
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), algorithm 2.
    https://arxiv.org/abs/2006.11239
"""

from __future__ import annotations

from structdiff.denoiser import Denoiser
from structdiff.samplers.base import Carry, Estimates, Sampler, Space
from structdiff.schedules import Grid

__all__ = ["DDIM", "DDPM", "Ancestral"]


class Ancestral(Sampler):
    """x_s from x_t and the present estimate, for any eta."""

    def order(self, space: Space) -> int:
        """First order everywhere."""
        del space
        return 1

    def effective(self, carry: Carry, i: int) -> tuple[Estimates, Carry]:
        """The present estimate."""
        estimate = self.denoise(carry.x, i, carry.previous)
        return estimate, carry.changed(previous=estimate, calls=carry.calls + 1)


def DDIM(denoiser: Denoiser, grid: Grid, *, eta: float = 0.0) -> Ancestral:  # noqa: N802
    """`Ancestral` without fresh noise by default."""
    return Ancestral(denoiser, grid, eta=eta)


def DDPM(denoiser: Denoiser, grid: Grid) -> Ancestral:  # noqa: N802
    """`Ancestral` with eta = 1: x_s from the Bayes kernel at the estimate."""
    return Ancestral(denoiser, grid, eta=1.0)
