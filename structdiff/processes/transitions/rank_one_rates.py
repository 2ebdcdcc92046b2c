r"""Rates of the time reversal of a rank-one chain, and the divergence of two of them.

With i = x_t, A = alpha / sigma, D = alpha + sigma pi_i and the estimate p, the time reversal jumps
from i to j != i at the rate

    beta z_j,    z_j = A p_j + W pi_j,    W = 1 - p_i + p_i sigma pi_i / D,

where beta = -d log alpha / dt. At the oracle of x_0 = l these are z*_j = A [j = l] + W* pi_j with
W* = 1 for l != i and sigma pi_i / D for l = i. Their divergence,

    beta sum_{j != i} z_j - z*_j + z*_j log(z*_j / z_j),

needs one pass over the classes, sum_j pi_j log z_j, and none for the absorbing chain, of which it
is beta A times the cross-entropy of masked rows: -alpha' / (1 - alpha) log p_l. Integrated over t
it is the bound on -log p(x_0) for infinitely many steps, and the score entropy of the ratios.

References:
    A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022), eq. 6.
    https://arxiv.org/abs/2205.14987
    Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024), eq. 10.
    https://arxiv.org/abs/2406.07524
    Simplified and Generalized Masked Diffusion for Discrete Data (Shi et al., 2024), eq. 5.
    https://arxiv.org/abs/2406.04329
    Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (Lou et al.,
    2024), eq. 5 (score entropy).
    https://arxiv.org/abs/2310.16834
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.processes.transitions.base import Jump, log_sum

__all__ = ["divergence_rate", "reverse_rates"]


def _odds(jump: Jump, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha / sigma, finite where nothing is noisy, and beta; of the shape of `like`."""
    odds = jump.alpha / jump.sigma.clamp(min=1e-12)
    return odds.expand_as(like), jump.beta.expand_as(like)


def _own(log_p: Tensor, x: Tensor) -> Tensor:
    """log p at symbols `(..., n)`; -inf at one that is no class."""
    classes = log_p.shape[-1]
    return torch.where(x < classes, log_p.gather(-1, x.clamp(max=classes - 1)), -torch.inf)


def _weight(log_p_i: Tensor, pi_i: Tensor, jump: Jump) -> Tensor:
    """W, of the shape of x_t."""
    noise = jump.sigma * pi_i / (jump.alpha + jump.sigma * pi_i)
    return noise * log_p_i.exp() - torch.expm1(log_p_i)


def reverse_rates(law: Tensor, log_p: Tensor, x_t: Tensor, jump: Jump) -> Tensor:
    """beta z_j, `(..., S)`, zero at x_t."""
    law, at = law.to(log_p), x_t.unsqueeze(-1)
    odds, beta = _odds(jump, x_t)
    weight = _weight(_own(log_p, at).squeeze(-1), law[x_t], jump).clamp(min=0)
    p = F.pad(log_p.exp(), (0, len(law) - log_p.shape[-1]))
    away = odds.unsqueeze(-1) * p + weight.unsqueeze(-1) * law
    return (beta.unsqueeze(-1) * away).scatter(-1, at, 0.0)


class _MeanLog(torch.autograd.Function):
    """sum_j pi_j log(A p_j + W pi_j) over the classes, in few passes and with little memory.

    With z_j the argument of the logarithm, the derivative by log p_j is pi_j (1 - W pi_j / z_j).
    """

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, weight: Tensor, odds: Tensor, law: Tensor) -> Tensor:
        # softmax is exp here, and the fastest one there is.
        z = torch.softmax(log_p, -1).mul_(odds.unsqueeze(-1))
        z.addcmul_(weight.unsqueeze(-1), law.clamp(min=1e-30))
        ctx.save_for_backward(z, weight, law)
        return z.log() @ law

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        z, weight, law = ctx.saved_tensors
        grad = grads[0]
        share = z.reciprocal().mul_(law)
        to_weight = grad * (share @ law)
        share.mul_((-weight * grad).unsqueeze(-1)).add_(grad.unsqueeze(-1)).mul_(law)
        return share, to_weight, None, None


def divergence_rate(
    law: Tensor, log_p: Tensor, x_0: Tensor, x_t: Tensor, jump: Jump, *, inside: bool
) -> Tensor:
    """The divergence, of the shape of x_t; zero where x_t cannot come from noise.

    Arguments:
        law: The stationary law, `(S,)`.
        log_p: The estimate, `(..., K)`.
        x_0: The classes of the data.
        x_t: The noisy symbols.
        jump: The time.
        inside: Whether noise may be a class of the data.
    """
    law, classes = law.to(log_p), log_p.shape[-1]
    odds, beta = _odds(jump, log_p[..., 0])
    log_p_i, log_p_l = _own(log_p, torch.stack([x_t, x_0], -1)).unbind(-1)
    pi_i, pi_l, tiny = law[x_t], law[x_0], torch.finfo(log_p.dtype).tiny
    weight = _weight(log_p_i, pi_i, jump).clamp(min=tiny)
    p_i = log_p_i.exp()
    mean_log = law[classes:].sum() * weight.log() + torch.xlogy(law, law)[classes:].sum()
    if inside:
        classed: Tensor = _MeanLog.apply(log_p, weight, odds, law[:classes])  # type: ignore[no-untyped-call]
        mean_log = mean_log + classed
    z_i = (odds * p_i + weight * pi_i).clamp(min=tiny)
    # In logarithms: what the model all but excludes still costs, and is still learned from.
    noise_l = weight * pi_l
    log_noise = torch.where(noise_l > 0, noise_l.clamp(min=tiny).log(), -torch.inf)
    log_z_l = log_sum(odds.log() + log_p_l, log_noise)

    same = x_0 == x_t
    true = torch.where(same, jump.sigma * pi_i / (jump.alpha + jump.sigma * pi_i), 1.0)
    jumps = torch.where(same, 0.0, odds)
    cross = torch.where(same, 0.0, odds * log_z_l) + true * (mean_log - pi_i * z_i.log())
    rest = torch.xlogy(law, law).sum() - torch.xlogy(pi_i, pi_i)
    own = torch.where(
        same,
        torch.xlogy(true, true) * (1 - pi_i) + true * rest,
        torch.xlogy(odds + pi_l, odds + pi_l) + rest - torch.xlogy(pi_l, pi_l),
    )
    mass = -odds * torch.expm1(log_p_i) + (weight - true) * (1 - pi_i) - jumps
    return beta * torch.where(pi_i > 0, mass + own - cross, 0.0)
