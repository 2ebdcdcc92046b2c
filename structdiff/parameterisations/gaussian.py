r"""Data, noise, score, velocity, straight velocity and preconditioned predictions.

With x_t = alpha x_0 + sigma eps:

- `Data`: x_0.
- `Noise`: eps; x_0 = (x_t - sigma eps) / alpha.
- `Score`: s = grad log q(x_t | x_0) = -eps / sigma; x_0 = (x_t + sigma^2 s) / alpha (Tweedie).
- `Velocity`: v = alpha eps - sigma x_0; x_0 = (alpha x_t - sigma v) / (alpha^2 + sigma^2).
- `Straight`: u = eps - x_0; x_0 = (x_t - sigma u) / (alpha + sigma).
- `Preconditioned`: F with x_0 = c_skip x_t + c_out F, whose input and target have unit variance
  for data of standard deviation sigma_data.

References:
    Denoising Diffusion Probabilistic Models (Ho et al., 2020). https://arxiv.org/abs/2006.11239
    Generative Modeling by Estimating Gradients of the Data Distribution (Song and Ermon, 2019),
    section 4.2. https://arxiv.org/abs/1907.05600
    Progressive Distillation for Fast Sampling (Salimans and Ho, 2022), appendix D.
    https://arxiv.org/abs/2202.00512
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
    section 5 and table 1. https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from structdiff.parameterisations.base import Parameterisation

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Data", "Noise", "Preconditioned", "Score", "Straight", "Velocity"]


class Data(Parameterisation):
    """The network predicts x_0."""

    def encode(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_t scaled to unit variance for unit data."""
        return x_t / torch.sqrt(alpha**2 + sigma**2)

    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The output itself."""
        del x_t, alpha, sigma
        return output

    def target(self, x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_0 itself."""
        del x_t, alpha, sigma
        return x_0


class Noise(Parameterisation):
    """The network predicts eps. Has no meaning at alpha = 0, where x_t says nothing of x_0."""

    def encode(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_t scaled to unit variance for unit data."""
        return x_t / torch.sqrt(alpha**2 + sigma**2)

    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(x_t - sigma eps) / alpha."""
        return (x_t - sigma * output) / alpha

    def target(self, x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(x_t - alpha x_0) / sigma."""
        return (x_t - alpha * x_0) / sigma


class Score(Parameterisation):
    """The network predicts the score of x_t, of size 1 / sigma. Has no meaning at alpha = 0.

    A network whose output is divided by sigma to give the score, as in NCSNv2, predicts `Noise` up
    to its sign. The error of the score weighted by sigma^2 is that of eps: the weight `SNR`.
    """

    def encode(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_t scaled to unit variance for unit data."""
        return x_t / torch.sqrt(alpha**2 + sigma**2)

    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(x_t + sigma^2 s) / alpha."""
        return (x_t + sigma**2 * output) / alpha

    def target(self, x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(alpha x_0 - x_t) / sigma^2."""
        return (alpha * x_0 - x_t) / sigma**2


class Velocity(Parameterisation):
    """The network predicts v = alpha eps - sigma x_0."""

    def encode(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_t scaled to unit variance for unit data."""
        return x_t / torch.sqrt(alpha**2 + sigma**2)

    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(alpha x_t - sigma v) / (alpha^2 + sigma^2)."""
        return (alpha * x_t - sigma * output) / (alpha**2 + sigma**2)

    def target(self, x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(alpha x_t - (alpha^2 + sigma^2) x_0) / sigma, the inverse of `decode`."""
        return (alpha * x_t - (alpha**2 + sigma**2) * x_0) / sigma


class Straight(Parameterisation):
    """The network predicts eps - x_0, the velocity of the straight path from data to noise."""

    def encode(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_t scaled to unit variance for unit data."""
        return x_t / torch.sqrt(alpha**2 + sigma**2)

    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(x_t - sigma u) / (alpha + sigma)."""
        return (x_t - sigma * output) / (alpha + sigma)

    def target(self, x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(x_t - (alpha + sigma) x_0) / sigma."""
        return (x_t - (alpha + sigma) * x_0) / sigma


class Preconditioned(Parameterisation):
    """The network predicts F of Karras et al. (EDM preconditioning), for any alpha.

    Arguments:
        sigma_data: Standard deviation of the data's entries, positive.

    Raises:
        ValueError: If `sigma_data` is not positive.
    """

    def __init__(self, sigma_data: float = 1.0) -> None:
        if sigma_data <= 0:
            msg = f"sigma_data must be positive, got {sigma_data}"
            raise ValueError(msg)
        self.sigma_data = sigma_data

    def encode(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """c_in x_t, of unit variance."""
        return x_t / torch.sqrt(alpha**2 * self.sigma_data**2 + sigma**2)

    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """c_skip x_t + c_out F."""
        variance = alpha**2 * self.sigma_data**2 + sigma**2
        skip = alpha * self.sigma_data**2 / variance
        return skip * x_t + sigma * self.sigma_data / torch.sqrt(variance) * output

    def target(self, x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(x_0 - c_skip x_t) / c_out."""
        variance = alpha**2 * self.sigma_data**2 + sigma**2
        skip = alpha * self.sigma_data**2 / variance
        return (x_0 - skip * x_t) * torch.sqrt(variance) / (sigma * self.sigma_data)
