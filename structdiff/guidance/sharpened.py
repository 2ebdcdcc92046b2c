r"""Sharpened estimates of classes: temperature and nucleus.

Each row's law of x_0 is raised to the power 1 / temperature and normalised, and then cut to its
nucleus, the smallest set of classes that holds a share `nucleus` of it:

    p_k -> p_k^{1/T} 1[k in N] / sum_{j in N} p_j^{1/T}.

Rows are then drawn more surely and less diversely: the estimates are no longer those of a model,
and the samples of a walk follow no closed law. The purity max_k p_k, by which `Routed` can order
rows, is that of the sharpened law if the sharpened denoiser is given to it. Leaves on other spaces
are left as they are.

References:
    The Curious Case of Neural Text Degeneration (Holtzman et al., 2020), section 3.1.
    https://arxiv.org/abs/1904.09751
    Improved Vector Quantized Diffusion Models (Tang et al., 2022), for the purity.
    https://arxiv.org/abs/2205.16007
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate, Finite

__all__ = ["Sharpened"]


class Sharpened(Denoiser):
    """A denoiser that is surer of its classes.

    Arguments:
        denoiser: Any denoiser of a record with leaves on classes.
        temperature: Positive; below 1 is surer, 1 changes nothing.
        nucleus: Share of each law that is kept, in (0, 1]; 1 changes nothing.

    Raises:
        ValueError: If a number is out of range, or no leaf is on classes.

    Example:
        >>> from structdiff import Categorical, Flow, Product, absorbing
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"x": Categorical(Flow(), absorbing(3))})
        >>> data = Batch.of(torch.tensor([0, 1, 2]))
        >>> denoiser = ExactDenoiser(process, data, torch.tensor([0.5, 0.3, 0.2]))
        >>> blank, t = Batch.of(torch.tensor([3])), {"x": torch.tensor(1.0)}
        >>> Sharpened(denoiser, nucleus=0.7)(blank, t)["x"].value.exp()
        tensor([[0.6250, 0.3750, 0.0000]])
    """

    def __init__(
        self, denoiser: Denoiser, *, temperature: float = 1.0, nucleus: float = 1.0
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            msg = f"temperature must be positive and finite, got {temperature}"
            raise ValueError(msg)
        if not 0 < nucleus <= 1:
            msg = f"nucleus must be in (0, 1], got {nucleus}"
            raise ValueError(msg)
        process: Any = denoiser.process
        self.names: tuple[str, ...] = process.offering(Finite)
        if not self.names:
            msg = (
                "temperature and nucleus are of classes, but no leaf of the process is on classes"
            )
            raise ValueError(msg)
        self.denoiser, self.process = denoiser, denoiser.process
        self.temperature, self.nucleus = temperature, nucleus

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimates with sharpened classes."""
        estimates: Mapping[str, Estimate] = self.denoiser(batch, t, previous)
        sharpened = {
            n: replace(estimates[n], value=self.sharpen(estimates[n].value)) for n in self.names
        }
        return {**estimates, **sharpened}

    def sharpen(self, log_p: Tensor) -> Tensor:
        """Log-probabilities, `(..., K)`, sharpened."""
        if self.temperature != 1:
            # The largest is 0 before the division, so that no temperature is too small for it.
            surest = log_p - log_p.amax(-1, keepdim=True)
            least = torch.finfo(log_p.dtype).tiny
            log_p = torch.log_softmax(surest / max(self.temperature, least), -1)
        if self.nucleus != 1:
            log_p = torch.log_softmax(nucleus(log_p, self.nucleus), -1)
        return log_p


def nucleus(log_p: Tensor, share: float) -> Tensor:
    """Log-probabilities with -inf outside the smallest set of at least this share.

    Among equal classes the first ones are taken.

    Arguments:
        log_p: Log-probabilities, `(..., K)`.
        share: Share to keep, in (0, 1).
    """
    falling, order = torch.sort(log_p, dim=-1, descending=True, stable=True)
    p = falling.exp()
    before = p.cumsum(-1, dtype=torch.float64) - p
    kept = torch.where(before < share, falling, -torch.inf)
    return torch.empty_like(log_p).scatter_(-1, order, kept)
