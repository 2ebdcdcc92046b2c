r"""Leaping: steps with the generator of the time reversal frozen at their start.

On classes this is tau-leaping: each row jumps at most once in a step, at the rates

    r_j = beta R(j, x_t) p_t(j) / p_t(x_t)

that its estimate gives at t. On R^n it is the Euler-Maruyama method for the reverse SDE in t, on
manifolds a geodesic random walk. All are right to first order in the step, and so is `DDPM`,
which integrates over the step at the same estimate: on classes that is the analytic (Tweedie)
step of score entropy models, exact for one row, of which leaping is an approximation.

References:
    A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022), section 4.3.
    https://arxiv.org/abs/2205.14987
    Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (Lou et al.,
    2024), eq. 19. https://arxiv.org/abs/2310.16834
    Score-Based Generative Modeling through SDEs (Song et al., 2021), appendix E.
    https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.processes import Coefficients
from structdiff.samplers.ancestral import Ancestral
from structdiff.schedules import Grid

__all__ = ["Leaping"]


class Leaping(Ancestral):
    """Euler's method for the time reversal, on every space.

    A step to clean data, and one from pure noise where rates are infinite, is that of `DDPM`.

    Arguments:
        denoiser: The denoiser.
        grid: Times of the steps.

    Raises:
        ValueError: When bound to a batch, if a transition has no rates.

    Example:
        >>> import torch
        >>> from structdiff import Batch, Categorical, Flow, Generator
        >>> from structdiff import Product, UniformTime, uniform
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"x": Categorical(Flow(), uniform(3))})
        >>> denoiser = ExactDenoiser(process, Batch.of(torch.tensor([0, 2])))
        >>> sampler = Leaping(denoiser, UniformTime(16))
        >>> sampler.sample(Batch.of(torch.zeros(8, dtype=torch.long)), Generator(0))["x"].unique()
        tensor([0, 2])
    """

    def __init__(self, denoiser: Denoiser, grid: Grid) -> None:
        super().__init__(denoiser, grid, eta=1.0)

    def plan(self, times: Tensor) -> Sequence[Coefficients]:
        """Steps with frozen rates."""
        return self.process.leap(times)
