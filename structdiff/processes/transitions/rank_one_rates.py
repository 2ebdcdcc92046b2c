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

from structdiff.processes.transitions.base import Jump

__all__ = ["divergence_rate", "reverse_rates"]


def _own(log_p: Tensor, x: Tensor) -> Tensor:
    """log p at a symbol; -inf for one that is no class."""
    classes = log_p.shape[-1]
    at = log_p.gather(-1, x.clamp(max=classes - 1).unsqueeze(-1)).squeeze(-1)
    return torch.where(x < classes, at, -torch.inf)


def _weight(log_p: Tensor, x_t: Tensor, law: Tensor, jump: Jump) -> Tensor:
    """W, of the shape of x_t."""
    log_p_i, pi_i = _own(log_p, x_t), law[x_t]
    noise = jump.sigma * pi_i / (jump.alpha + jump.sigma * pi_i)
    return noise * log_p_i.exp() - torch.expm1(log_p_i)


def reverse_rates(law: Tensor, log_p: Tensor, x_t: Tensor, jump: Jump) -> Tensor:
    """beta z_j, `(..., S)`, zero at x_t."""
    law = law.to(log_p)
    p = F.pad(log_p.exp(), (0, len(law) - log_p.shape[-1]))
    weight = _weight(log_p, x_t, law, jump).clamp(min=0)
    odds, beta = (
        (value + torch.zeros_like(weight)).unsqueeze(-1)
        for value in (jump.alpha / jump.sigma, jump.beta)
    )
    away = beta * (odds * p + weight.unsqueeze(-1) * law)
    return away.scatter(-1, x_t.unsqueeze(-1), 0.0)


class _MeanLog(torch.autograd.Function):
    """sum_j pi_j log(A p_j + W pi_j) over the classes; keeps log p and numbers per row."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, weight: Tensor, odds: Tensor, law: Tensor) -> Tensor:
        ctx.save_for_backward(log_p, weight, odds, law)
        z = _z(log_p, weight, odds, law)
        return z.log_() @ law

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        log_p, weight, odds, law = ctx.saved_tensors
        (grad,) = grads
        share = _z(log_p, weight, odds, law).reciprocal_().mul_(law)
        to_weight = grad * (share @ law)
        # The sum of these is sum_j pi_j A p_j / z_j, with W pi_j / z_j the rest of each pi_j.
        share.mul_(law).mul_(-weight.unsqueeze(-1)).add_(law).mul_(grad.unsqueeze(-1))
        return share, to_weight, None, None


def _z(log_p: Tensor, weight: Tensor, odds: Tensor, law: Tensor) -> Tensor:
    """A p_j + W pi_j; classes of no weight in the sum are 1."""
    z = torch.softmax(log_p, -1).mul_(odds.unsqueeze(-1))
    z.addcmul_(weight.unsqueeze(-1), law)
    return z.masked_fill_(law == 0, 1.0).clamp_(min=torch.finfo(z.dtype).tiny)


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
    law = law.to(log_p)
    classes, same = log_p.shape[-1], x_0 == x_t
    log_law = torch.where(law > 0, law.log(), 0.0)
    odds, beta = (
        value + torch.zeros_like(log_p[..., 0]) for value in (jump.alpha / jump.sigma, jump.beta)
    )
    pi_i, pi_l, tiny = law[x_t], law[x_0], torch.finfo(log_p.dtype).tiny
    weight = _weight(log_p, x_t, law, jump).clamp(min=tiny)
    log_weight = weight.log()
    true = torch.where(same, jump.sigma * pi_i / (jump.alpha + jump.sigma * pi_i), 1.0)
    jumps = torch.where(same, 0.0, odds)

    mean_log = law[classes:].sum() * log_weight + law[classes:] @ log_law[classes:]
    if inside:
        mean_log = mean_log + _MeanLog.apply(log_p, weight, odds, law[:classes])  # type: ignore
    p_i = _own(log_p, x_t).exp()
    z_i = (odds * p_i + weight * pi_i).clamp(min=tiny)
    z_l = (odds * _own(log_p, x_0).exp() + weight * pi_l).clamp(min=tiny)
    cross = jumps * z_l.log() + true * (mean_log - pi_i * z_i.log())
    own = torch.where(
        same,
        torch.xlogy(true, true) * (1 - pi_i) + true * (law @ log_law - pi_i * log_law[x_t]),
        torch.xlogy(odds + pi_l, odds + pi_l)
        + (law @ log_law - pi_l * log_law[x_0] - pi_i * log_law[x_t]),
    )
    total = odds * (1 - p_i) + weight * (1 - pi_i) - jumps - true * (1 - pi_i) + own - cross
    return beta * torch.where(pi_i > 0, total, 0.0)
