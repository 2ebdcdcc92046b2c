r"""Looking ahead: a reward of what the walk will come to.

`Rewarded` judges a noisy record by the estimate at x_t, which far from the data is a blur. Here k
steps without noise are walked first, at the times t, t k / (k + 1), ..., t / (k + 1), and the
estimate at their end is judged; the gradient goes back through them all. As a function of the
noisy record

    f(x_t, t) = r(estimate(x_s(x_t))),

it is handed to `Guided`. With k = 0 that is the shift of `Rewarded`. For a linear reward and a
denoiser that is affine with one slope in all directions (normal data of covariance s^2 I, or along
an eigenvector of any covariance) the gradient has one direction for all k. An evaluation costs
k + 1 calls and their gradient, beside the call of the denoiser that is guided.

References:
    Conditional Diffusion with Less Explicit Guidance via Model Predictive Control (Shen et al.,
    2022). https://arxiv.org/abs/2210.12192
    Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation (Song et al., 2023),
    on better estimates of the end. https://proceedings.mlr.press/v202/song23k.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.rewards import Reward
from structdiff.processes import Flowing
from structdiff.random import Generator

__all__ = ["LookAhead"]


class LookAhead:
    """The reward of the estimate after some steps, as a function of noisy records.

    Arguments:
        denoiser: A denoiser of a process that has steps without noise: leaves on R^n and
            manifolds. It is differentiated, so do not put guided ones here.
        reward: r(estimates, batch); see `Reward`. The batch is that at the end of the steps.
        steps: k, at least 0.

    Raises:
        ValueError: If there are less than 0 steps or the process has none without noise.

    Example:
        >>> from structdiff.guidance import Guided
        >>> from structdiff.processes import Gaussian
        >>> from structdiff.schedules import Flow
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Flow()), torch.zeros(1), torch.ones(1))
        >>> ahead = LookAhead(denoiser, lambda said, batch: said["x"].value, steps=3)
        >>> t, x = {"x": torch.tensor(0.5)}, Batch.of(torch.zeros(1))
        >>> bool(Guided(denoiser, ahead, 1.0)(x, t)["x"].value > denoiser(x, t)["x"].value)
        True
    """

    def __init__(self, denoiser: Denoiser, reward: Reward, steps: int) -> None:
        if steps < 0:
            msg = f"steps must be at least 0, got {steps}"
            raise ValueError(msg)
        if not denoiser.process.offers(Flowing):
            has = "a step without noise that can be differentiated"
            msg = f"looking ahead needs {has}: not all leaves of the process are Flowing"
            raise ValueError(f"{msg}, use Rewarded")
        self.denoiser, self.reward, self.steps = denoiser, reward, steps

    def __call__(self, batch: Batch, t: Mapping[str, Tensor]) -> Tensor:
        """r at the end of the steps, `(samples,)`."""
        process: Any = self.denoiser.process.bind(batch)
        shares = torch.linspace(1, 0, self.steps + 2, dtype=torch.float64)[:-1].tolist()
        times = [{n: torch.where(u < 0, u, share * u) for n, u in t.items()} for share in shares]
        grid = {n: torch.stack([at[n] for at in times]) for n in t}
        plan = process.plan(grid, 0.0) if self.steps else ()
        silent = Generator(0)  # no noise is drawn at eta = 0
        for at, coefficients in zip(times, plan, strict=False):
            said = self.denoiser(batch, at)
            batch = batch.with_leaves(process.step(batch.leaves, said, coefficients, silent))
        return self.reward(self.denoiser(batch, times[-1]), batch)
