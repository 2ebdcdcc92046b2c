r"""Guidance by the mean and covariance of x_0 given x_t: exact for any normal data.

On R^n the denoiser tells both moments, since with its Jacobian J at x_t

    Cov[x_0 | x_t] = sigma_t^2 / alpha_t J,

so p(y | x_t) of a linear y = H x_0 + n is taken for N(H estimate, sigma^2 / alpha H J H^T +
noise_std^2), of which the gradient, with that covariance held, is

    J^T H^T (sigma^2 / alpha H J H^T + noise_std^2)^-1 (y - H estimate).

Where `PiGDM` guesses the covariance, this measures it; for normal data of any covariance the
conditional score is exact. It costs one backward pass for each number of y, and suits measurements
of a few.

References:
    Tweedie Moment Projected Diffusions for Inverse Problems (Boys, Girolami, Pidstrigach, Reich,
    Mosca and Akyildiz, 2024), section 3. https://arxiv.org/abs/2310.06721
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.classifier import check_guide
from structdiff.guidance.inverse.observation import Observation, check_noise
from structdiff.guidance.rewards import detached
from structdiff.guidance.slopes import others
from structdiff.operators.base import LinearOperator
from structdiff.processes.base import Estimate, Finite
from structdiff.processes.leaf import expand

__all__ = ["MomentGuided"]


class MomentGuided(Denoiser):
    """A denoiser of the law given a linear measurement, by the moments that the denoiser tells.

    A denoiser inside that is itself guided by a gradient has its shift taken for a constant.

    Arguments:
        denoiser: A denoiser of a Tractable process, differentiable in x_t.
        seen: What was measured of a leaf of one row a sample, and the noise.

    Raises:
        ValueError: If the leaf is not on R^n or the operator not linear; on a call, if y has other
            rows than the leaf, or a sample several.

    Example:
        >>> from structdiff import Flow, Gaussian
        >>> from structdiff.operators import Mask
        >>> from structdiff.testing import NormalDenoiser
        >>> process = Gaussian(Flow(), event=(2,))
        >>> denoiser = NormalDenoiser(process, torch.zeros(1, 2), torch.ones(1))
        >>> first = Mask(torch.tensor([True, False]))
        >>> seen = Observation(first, torch.tensor([3.0]), noise_std=1.0)
        >>> batch, t = Batch.of(torch.zeros(1, 2)), {"x": torch.tensor(0.5)}
        >>> MomentGuided(denoiser, seen)(batch, t)["x"].value
        tensor([[1., 0.]])
    """

    def __init__(self, denoiser: Denoiser, seen: Observation) -> None:
        super().__init__()
        check_guide(denoiser, 1.0)
        check_noise(seen, denoiser.process)
        if not isinstance(seen.operator, LinearOperator):
            msg = f"{type(seen.operator).__name__} is not a LinearOperator: use DPS"
            raise ValueError(msg)
        self.denoiser, self.seen, self.operator = denoiser, seen, seen.operator
        self.process = denoiser.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimates, tilted.

        Raises:
            ValueError: If y has other rows than the leaf, or a sample several.
        """
        name = self.seen.leaf
        if max(batch.layouts[name].counts, default=1) > 1:
            msg = f"samples have several rows of the leaf {name!r}: use PiGDM"
            raise ValueError(msg)
        process: Any = self.process.bind(batch)
        leaves = others(batch, process.offering(Finite))
        opened = {n: x.detach().requires_grad_() for n, x in leaves.items()}
        with torch.enable_grad():
            said = self.denoiser(batch.with_leaves({**batch.leaves, **opened}), t, previous)
            pulled = self.pulled(said[name].value, opened)
        loose = [process[name].free(pull) for pull in pulled[name]]
        share = self.share(said[name].value.detach(), loose, t[name])
        slopes = {
            n: torch.stack(
                [
                    expand(batch.layouts[n].spread(share[:, j]), pull) * pull
                    for j, pull in enumerate(pulls)
                ]
            ).sum(0)
            for n, pulls in pulled.items()
        }
        plain = {n: detached(estimate) for n, estimate in said.items()}
        moved: Mapping[str, Estimate] = process.shift(plain, slopes, batch.leaves, t)
        return moved

    def pulled(self, value: Tensor, opened: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """J^T H^T e_j for each number j of y, by leaf."""
        measured, leaves = self.operator.measured, list(opened.values())
        basis = torch.eye(math.prod(measured), dtype=value.dtype, device=value.device)
        found: dict[str, list[Tensor]] = {n: [] for n in opened}
        for one in basis:
            ways = self.operator.adjoint(one.reshape(1, *measured)).expand_as(value)
            slopes = torch.autograd.grad(
                value, leaves, ways, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for n, slope in zip(opened, slopes, strict=True):
                found[n].append(slope)
        return found

    def share(self, value: Tensor, pulls: list[Tensor], time: Tensor) -> Tensor:
        """The precision of y at x_t times what is missing of it, `(rows, numbers of y)`."""
        process: Any = self.process
        level = process[self.seen.leaf].schedule(
            time if time.ndim < 2 else time.flatten(1).amax(1)
        )
        known = level.alpha > torch.finfo(value.dtype).eps ** 0.5 * level.sigma
        scale = torch.where(known, level.sigma**2 / torch.where(known, level.alpha, 1.0), 0.0)
        rows = [self.operator(pull).flatten(1) for pull in pulls]
        spread = expand(scale.to(value), rows[0].unsqueeze(1)) * torch.stack(rows, 1)
        spread = 0.5 * (spread + spread.mT)
        size = spread.diagonal(dim1=1, dim2=2).mean(1) + self.seen.noise_std**2
        least = torch.finfo(value.dtype).eps * size + torch.finfo(value.dtype).tiny
        noise = expand(least + self.seen.noise_std**2, spread)
        spread = spread + noise * torch.eye(len(pulls), dtype=value.dtype, device=value.device)
        gap = self.seen.residual(value).flatten(1)
        solved: Tensor = torch.linalg.solve_ex(spread, gap.unsqueeze(2))[0].squeeze(2)
        return solved
