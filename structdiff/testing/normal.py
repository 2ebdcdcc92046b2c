r"""The exact denoiser of a mixture of normals on R^n.

For x_0 ~ sum_k w_k N(m_k, s_k^2) and x_t = alpha x_0 + sigma z,

    E[x_0 | x_t] = sum_k r_k [m_k + alpha s_k^2 / v_k (x_t - alpha m_k)],
    v_k = alpha^2 s_k^2 + sigma^2,

with r_k proportional to w_k N(x_t; alpha m_k, v_k). One component has a closed flow map, which
makes it the yardstick of samplers and bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate, Gaussian, Product

__all__ = ["NormalDenoiser"]


class NormalDenoiser(Denoiser):
    """The denoiser of a mixture of isotropic normals, for records of one leaf `x`.

    Arguments:
        process: The process of the leaf.
        mean: Means, `(components, *event)`.
        std: Standard deviations, `(components,)`.
        weights: Probabilities, `(components,)`; equal by default.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> from structdiff.schedules import Flow
        >>> denoiser = NormalDenoiser(Gaussian(Flow()), torch.zeros(1), torch.ones(1))
        >>> batch = Batch.of(torch.ones(1))
        >>> denoiser(batch, {"x": torch.tensor(0.5)})["x"].value
        tensor([1.])
    """

    def __init__(
        self, process: Gaussian, mean: Tensor, std: Tensor, weights: Tensor | None = None
    ) -> None:
        super().__init__()
        if mean.shape[1:] != process.event or std.shape != mean.shape[:1]:
            msg = (
                f"mean must be (components, *{process.event}) and std "
                f"(components,), got {tuple(mean.shape)} and {tuple(std.shape)}"
            )
            raise ValueError(msg)
        self.leaf, self.process = process, Product({"x": process})
        self.mean, self.std = mean, std.reshape(-1, *(1,) * mean.ndim)
        even = torch.ones_like(std) if weights is None else weights
        self.log_weights = torch.log(even / even.sum())

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The posterior mean.

        Arguments:
            batch: Noisy rows.
            t: Times by leaf.
            previous: Not used.
        """
        del previous
        x = batch["x"]
        level = self.leaf.level(t["x"], x)
        mean, std = self.mean.to(x)[:, None], self.std.to(x)
        variance = (level.alpha * std) ** 2 + level.sigma**2
        gap = x - level.alpha * mean
        each = mean + level.alpha * std**2 / variance * gap
        score = (gap**2 / variance + torch.log(variance)).reshape(*gap.shape[:2], -1).sum(2)
        share = torch.softmax(self.log_weights.to(x)[:, None] - score / 2, 0)
        return {"x": Estimate((share.reshape(*share.shape, *(1,) * (x.ndim - 1)) * each).sum(0))}
