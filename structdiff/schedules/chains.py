r"""Schedules of chains on classes, in which a row survives with probability alpha = 1 - sigma.

With S(t) the *total noise*, the integral of the rate at which rows are redrawn, alpha = exp(-S).
On an absorbing chain sigma is the expected share of masked rows. A paper's T one-step betas are
`Survival(Discrete(betas))`; those of D3PM's absorbing chain, beta_i = 1 / (T - i + 1), lie on
`Flow`, sigma = t.

References:
    Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (Lou, Meng and
    Ermon, 2024), the log-linear noise. https://arxiv.org/abs/2310.16834
    Simplified and Generalized Masked Diffusion for Discrete Data (Shi et al., 2024), the cosine
    and the polynomials. https://arxiv.org/abs/2406.04329
    MaskGIT (Chang et al., 2022), section 3.3. https://arxiv.org/abs/2202.04200
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021),
    section 3.1 and appendix A: mutual information. https://arxiv.org/abs/2107.03006
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structdiff.schedules.base import Schedule

__all__ = ["LogLinear", "MaskCosine", "MutualInformation", "Polynomial"]


class LogLinear(Schedule):
    """`alpha = 1 - (1 - left) t`: the total noise is -log(1 - (1 - left) t).

    `Flow` with a rest of the data at t = 1, where the total noise stays finite.

    Arguments:
        left: alpha at t = 1, in (0, 1).

    Raises:
        ValueError: If `left` is outside its range.

    Example:
        >>> LogLinear(0.001).alpha(torch.tensor([0.5, 1.0])).tolist()
        [0.5005, 0.001]
    """

    def __init__(self, left: float = 1e-3) -> None:
        super().__init__()
        if not 0 < left < 1:
            msg = f"left must be in (0, 1), got {left}; with nothing left it is Flow()"
            raise ValueError(msg)
        self.left = left

    def log_alpha(self, t: Tensor) -> Tensor:
        """Minus the total noise; 1 - t + left t has all its digits near t = 1."""
        return torch.log((1 - t) + self.left * t)

    def log_sigma(self, t: Tensor) -> Tensor:
        """log((1 - left) t)."""
        return math.log1p(-self.left) + torch.log(t)


class MaskCosine(Schedule):
    """`sigma = cos((1 - t) pi / 2)`: the share of masked rows falls like a cosine in generating.

    The cosine of MaskGIT and MD4. It is another than `Survival(Cosine(0))`, the cosine of
    multinomial diffusion, whose alpha is cos(t pi / 2)^2: here few rows are masked late.

    Example:
        >>> MaskCosine().sigma(torch.tensor([1 / 3, 1.0])).tolist()
        [0.5, 1.0]
    """

    def log_alpha(self, t: Tensor) -> Tensor:
        """1 - cos(u) = sin(u)^2 / (1 + cos(u)), free of cancellation."""
        share = torch.sin(t * (math.pi / 2))
        return 2 * torch.log(torch.sin((1 - t) * (math.pi / 2))) - torch.log1p(share)

    def log_sigma(self, t: Tensor) -> Tensor:
        """The same cosine as a sine."""
        return torch.log(torch.sin(t * (math.pi / 2)))


class Polynomial(Schedule):
    """`sigma = t^power`: at 1 it is `Flow`.

    Arguments:
        power: Positive; the larger, the later rows are redrawn.

    Raises:
        ValueError: If the power is not positive and finite.

    Example:
        >>> Polynomial(2).alpha(torch.tensor(0.5)).item()
        0.75
    """

    def __init__(self, power: float) -> None:
        super().__init__()
        if not 0 < power < math.inf:
            msg = f"power must be positive and finite, got {power}"
            raise ValueError(msg)
        self.power = power

    def log_alpha(self, t: Tensor) -> Tensor:
        """log(1 - t^power), without cancellation for t near 1."""
        return torch.log(-torch.expm1(self.log_sigma(t)))

    def log_sigma(self, t: Tensor) -> Tensor:
        """Power times log t."""
        return self.power * torch.log(t)


class MutualInformation(Schedule):
    r"""The mutual information of x_t and x_0 falls linearly, from the entropy of a row to zero.

    With h(x) = -x log x, the chain that redraws from pi has

        I(alpha) = sum_k h(alpha p_k + sigma pi_k) - p_k h(alpha + sigma pi_k)
                         - (1 - p_k) h(sigma pi_k),

    a sum over the K classes. I is convex in alpha, so along the clock I / H(p) falls by no more
    than the clock does, and a table with equal steps of the clock has no gap; between its points
    alpha is linear in t. For the absorbing chain I = alpha H(p), and this is `Flow`.

    Arguments:
        frequencies: The law p of a row in the data, `(K,)`.
        stationary: The law pi of a row that was redrawn, over S >= K symbols, `(S,)`.

    Raises:
        ValueError: If one of them is not a law, they do not fit, or a row is all but certain.

    Example:
        >>> p = torch.tensor([0.5, 0.5])
        >>> MutualInformation(p, torch.tensor([0.0, 0.0, 1.0])).alpha(torch.tensor(0.25)).item()
        0.75
        >>> round(MutualInformation(p, p).alpha(torch.tensor(0.25)).item(), 3)
        0.917
    """

    times: Tensor
    alphas: Tensor
    sigmas: Tensor

    def __init__(self, frequencies: Tensor, stationary: Tensor) -> None:
        super().__init__()
        p, pi = _law("frequencies", frequencies), _law("stationary", stationary)
        if len(pi) < len(p):
            msg = f"stationary must have at least the {len(p)} classes of the data, got {len(pi)}"
            raise ValueError(msg)
        entropy = -torch.xlogy(p, p).sum()
        if entropy < 1e-6:
            must = "frequencies must leave a row uncertain, by 1e-6 nats at least"
            msg = f"{must}, got an entropy of {abs(float(entropy)):.2g}: use Flow()"
            raise ValueError(msg)
        clock = torch.linspace(24, -12, 4095, dtype=torch.float64)
        alpha, sigma = clock.sigmoid(), torch.sigmoid(-clock)
        gone = (1 - _information(alpha, sigma, p, pi) / entropy).clamp(0, 1)
        # Where rounding hides that the information falls, a point is left out.
        rises = gone.cummax(0).values.diff(prepend=gone.new_zeros(1)) > 1e-13
        rises &= gone < 1 - 1e-13
        for name, first, values in (
            ("times", 0, gone),
            ("alphas", 1, alpha),
            ("sigmas", 0, sigma),
        ):
            ends = values.new_tensor([first, 1 - first])
            table = torch.cat([ends[:1], values[rises], ends[1:]])
            self.register_buffer(name, table, persistent=False)

    def _between(self, values: Tensor, t: Tensor) -> Tensor:
        index = torch.searchsorted(self.times, t.detach().contiguous(), right=True) - 1
        index = index.clamp(0, len(self.times) - 2)
        start, end = self.times[index], self.times[index + 1]
        return torch.lerp(values[index], values[index + 1], (t - start) / (end - start))

    def log_alpha(self, t: Tensor) -> Tensor:
        """alpha linear between the points of the table."""
        return torch.log(self._between(self.alphas, t))

    def log_sigma(self, t: Tensor) -> Tensor:
        """Likewise, not as 1 - alpha."""
        return torch.log(self._between(self.sigmas, t))


def _law(name: str, law: Tensor) -> Tensor:
    """A law in float64, its sum mended."""
    law = law.detach().double().cpu()
    if law.ndim != 1 or not len(law):
        msg = f"{name} must be a vector, not empty, got shape {tuple(law.shape)}"
        raise ValueError(msg)
    if not bool((law >= 0).all()) or abs(float(law.sum()) - 1) > 1e-6:
        must = f"{name} must be non-negative and sum to 1"
        msg = f"{must}, its sum is {float(law.sum()):.6g}: divide by the sum"
        raise ValueError(msg)
    return law / law.sum()


def _information(alpha: Tensor, sigma: Tensor, p: Tensor, pi: Tensor) -> Tensor:
    """I(x_t; x_0) in nats at each alpha; classes alike in p and pi are counted together."""
    laws = torch.stack([p, pi[: len(p)]], 1)
    alike, counts = torch.unique(laws[p > 0], dim=0, return_counts=True)
    p, pi = alike.unbind(1)
    parts = []
    levels = torch.stack([alpha, sigma], 1)
    for level in torch.split(levels, 1 + 2**20 // len(p)):
        a, s = level[:, :1], level[:, 1:]
        redrawn = s * pi
        mixed = -torch.xlogy(a * p + redrawn, a * p + redrawn)
        known = -p * torch.xlogy(a + redrawn, a + redrawn)
        other = -(1 - p) * torch.xlogy(redrawn, redrawn)
        parts.append(((mixed - known - other) * counts).sum(1))
    return torch.cat(parts)
