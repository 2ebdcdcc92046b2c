r"""Networks with several heads: numbers beside the prediction of x_0.

The output of a network with h heads is `(rows, *event, h)`, one number of each head for every
entry. Some heads say what x_0 is, others what is not known of it: they become extras of the
estimate (`Parameterisation.extras`), by which a step of the Gaussian process sets its variance.

- `Dual`: x_0, eps and how to blend what both say of x_0.
- `InterpolatedVariance`: any prediction, and u: the variance of a step lies at v = (1 + u) / 2
  between beta-tilde (0, right for data that are a point) and beta (1, right for N(0, 1)), on the
  scale of logarithms.
- `ResidualVariance`: any prediction, and h with Var[x_0 | x_t] = softplus(h + c) sigma^2 /
  (alpha^2 + sigma^2), where c makes h = 0 the variance of N(0, 1) data. A head for E[eps^2 | x_t]
  would say the same where the mean is exact: it is eps^2 of the mean + alpha^2 / sigma^2 Var.

References:
    Dynamic Dual-Output Diffusion Models (Benny and Wolf, 2022), eqs. 9-11.
    https://arxiv.org/abs/2203.04304
    Improved Denoising Diffusion Probabilistic Models (Nichol and Dhariwal, 2021), eq. 15.
    https://arxiv.org/abs/2102.09672
    Estimating the Optimal Covariance with Imperfect Mean in Diffusion Probabilistic Models (Bao et
    al., 2022), section 3: the squared residual of the noise (NPR-DDPM).
    https://arxiv.org/abs/2206.07309
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, final

import torch
from torch.nn import functional as F

from structdiff.parameterisations.base import Parameterisation

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Dual", "InterpolatedVariance", "ResidualVariance"]

UNIT = math.log(math.expm1(1))
"""Where softplus is 1."""


def split(output: Tensor, x_t: Tensor, heads: int) -> tuple[Tensor, ...]:
    """The heads of an output, each of the shape of x_t; a bare number stands for all of them.

    Raises:
        ValueError: If the output has another shape.
    """
    if output.ndim == 0:
        return (output,) * heads
    if output.shape != (*x_t.shape, heads):
        must = f"a network of {heads} heads must return (rows, *event, {heads})"
        msg = f"{must}, got {tuple(output.shape)} for x_t of shape {tuple(x_t.shape)}"
        raise ValueError(msg)
    return output.unbind(-1)


class Dual(Parameterisation):
    """The network predicts x_0, eps and the logit of a weight r: r x_0 + (1 - r) x_0(eps).

    Where alpha is 0 eps says nothing, and r is 1.

    Example:
        >>> one = torch.ones(1)
        >>> heads = torch.tensor([[2.0, 0.0, 0.0]])  # x_0 = 2, eps = 0 and r = 1 / 2
        >>> Dual().decode(heads, one, 0.5 * one, 0.5 * one)
        tensor([2.])
    """

    def encode(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_t scaled to unit variance for unit data."""
        return x_t / torch.sqrt(alpha**2 + sigma**2)

    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The blend of both."""
        data, noise, logit = split(output, x_t, 3)
        seen = alpha > 0
        implied = torch.where(seen, x_t - sigma * noise, 0.0) / torch.where(seen, alpha, 1.0)
        return torch.lerp(implied, data, torch.where(seen, torch.sigmoid(logit), 1.0))

    def mapped(self, output: Tensor, x_t: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The first two heads are vectors."""
        data, noise, logit = split(output, x_t, 3)
        return torch.stack([change(data), change(noise), logit], -1)

    def target(self, x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_0, eps and r = 1 / 2."""
        noise = (x_t - alpha * x_0) / sigma
        return torch.stack([x_0.expand_as(noise), noise, torch.zeros_like(noise)], -1)


class _WithVariance(Parameterisation):
    """A prediction by the first of two heads.

    Arguments:
        mean: What the first head predicts.
    """

    def __init__(self, mean: Parameterisation) -> None:
        self.mean = mean

    @final
    def encode(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """That of the mean."""
        return self.mean.encode(x_t, alpha, sigma)

    @final
    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the first head stands for."""
        return self.mean.decode(split(output, x_t, 2)[0], x_t, alpha, sigma)

    @final
    def mapped(self, output: Tensor, x_t: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The first head alone is a vector."""
        mean, other = split(output, x_t, 2)
        return torch.stack([self.mean.mapped(mean, x_t, change), other], -1)

    @final
    def target(self, x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """That of the mean, and 0."""
        mean = self.mean.target(x_0, x_t, alpha, sigma)
        return torch.stack([mean, torch.zeros_like(mean)], -1)


class InterpolatedVariance(_WithVariance):
    """Another prediction, and where the variance of a step lies between beta-tilde and beta.

    Only the bound of a chain says how large a variance should be; train it with `Hybrid`.

    Arguments:
        mean: What the first head predicts.

    Example:
        >>> from structdiff.parameterisations.gaussian import Noise
        >>> how, one = InterpolatedVariance(Noise()), torch.ones(1)
        >>> how.extras(torch.tensor([[0.3, -1.0]]), one, one, one)["interpolation"]
        tensor([0.])
    """

    def extras(
        self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor
    ) -> Mapping[str, Tensor]:
        """v = (1 + u) / 2, not held within [0, 1]."""
        del alpha, sigma
        return {"interpolation": (1 + split(output, x_t, 2)[1]) / 2}


class ResidualVariance(_WithVariance):
    """Another prediction, and the variance of x_0 given x_t, entry by entry.

    The variance is learned by regression on the squared residual of the mean, see
    `VarianceMatching`.

    Arguments:
        mean: What the first head predicts.

    Example:
        >>> from structdiff.parameterisations.gaussian import Noise
        >>> how, one = ResidualVariance(Noise()), torch.ones(1)
        >>> how.extras(torch.tensor([[0.3, 0.0]]), one, one, one)["variance"]
        tensor([0.5000])
    """

    def extras(
        self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor
    ) -> Mapping[str, Tensor]:
        """The variance in units of that of N(0, 1) data."""
        unit = sigma**2 / (alpha**2 + sigma**2)
        return {"variance": unit * F.softplus(split(output, x_t, 2)[1] + UNIT)}
