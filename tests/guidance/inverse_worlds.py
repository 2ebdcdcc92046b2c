"""Linear inverse problems with normal data, of which the posterior is known (FX7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structdiff import Batch, Gaussian, Generator, Product
from structdiff.denoiser import Denoiser
from structdiff.guidance.inverse.observation import Observation
from structdiff.operators import LinearOperator, Matrix, hartley
from structdiff.processes import Estimate


class Field(Denoiser):
    """The exact denoiser of N(mean, C) on a leaf `x`, C = V diag(std^2) V in Hartley's basis V.

    With std constant this is isotropic; with one that falls in the frequency the rows are smooth
    random fields on a circle. Estimates have their variance with them if it is `told`.
    """

    def __init__(
        self, process: Gaussian, std: Tensor, mean: float = 0.0, *, told: bool = False
    ) -> None:
        super().__init__()
        self.leaf, self.process = process, Product({"x": process})
        self.std, self.mean, self.told = std, mean, told

    @property
    def covariance(self) -> Tensor:
        basis = hartley(torch.eye(len(self.std), dtype=torch.float64), 1)
        return basis @ torch.diag(self.std**2) @ basis

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> dict[str, Estimate]:
        del previous
        x = batch["x"]
        level = self.leaf.level(t["x"], x)
        share = self.std**2 / ((level.alpha * self.std) ** 2 + level.sigma**2)
        gap = hartley(x - level.alpha * self.mean, 1)
        found = self.mean + hartley(level.alpha * share * gap, 1)
        spread = (level.sigma**2 * share).mean(-1, keepdim=True)
        return {"x": Estimate(found, {"variance": spread} if self.told else {})}

    def draw(self, rows: int, seed: int) -> Tensor:
        z = Generator(seed).normal((rows, len(self.std)), torch.float64, "cpu")
        return self.mean + hartley(self.std * z, 1)


def smooth(size: int) -> Tensor:
    """Standard deviations that fall in the frequency, so that an entry has variance 1."""
    cycles = torch.fft.fftfreq(size, dtype=torch.float64).abs() * size
    std = 1 / (1 + cycles**2)
    return std / std.square().mean().sqrt()


@dataclass
class Posterior:
    """N(mean, covariance)."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, prior: Field, operator: LinearOperator, y: Tensor, noise_std: float) -> Posterior:
        """By the formula for normal data, with a dense H."""
        h, c = Matrix.of(operator).matrix, prior.covariance
        mean = prior.mean * torch.ones(len(c))
        noise = noise_std**2 * torch.eye(len(h))
        gain = c @ h.mT @ torch.linalg.pinv(h @ c @ h.mT + noise, hermitian=True, rtol=1e-12)
        return cls(mean + gain @ (y.flatten() - h @ mean), c - gain @ h @ c)

    @property
    def std(self) -> Tensor:
        return self.covariance.diagonal().clamp(min=0).sqrt()

    def mean_gap(self, x: Tensor) -> float:
        """Error of the mean of draws in posterior standard deviations, where they are not 0."""
        gap, loose = x.flatten(1).mean(0) - self.mean, self.std > 1e-6
        return float((gap[loose] / self.std[loose]).square().mean().sqrt())

    def covariance_gap(self, x: Tensor) -> float:
        """Error of the covariance of draws over its size, both in Frobenius' norm."""
        return float(
            (torch.cov(x.flatten(1).mT) - self.covariance).norm() / self.covariance.norm()
        )


def problem(
    prior: Field, operator: LinearOperator, noise_std: float, seed: int = 0
) -> tuple[Observation, Posterior]:
    """One y, measured of a row of the prior, and the posterior."""
    truth = prior.draw(1, seed).reshape(1, *operator.event)
    noise = Generator(seed + 1).normal((1, *operator.measured), torch.float64, "cpu")
    y = operator(truth)[0] + noise_std * noise[0]
    seen = Observation(operator, y, noise_std=noise_std)
    return seen, Posterior.of(prior, operator, y, noise_std)
