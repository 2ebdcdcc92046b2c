r"""The time reversal of a chain with a generator, from its kernels.

At an estimate p the law of a symbol is to that of x_t = i as

    s_j = sum_k p_k Q_t(k, j) / Q_t(k, i),

and the time reversal jumps from i to j at the rate z_j = beta R(j, i) s_j. The divergence of the
reversals at x_0 and at the estimate is sum_j z_j - z*_j + z*_j log(z*_j / z_j): the denoising
score entropy of the ratios s, weighted by beta R(j, i).

References:
    A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022), eq. 6.
    https://arxiv.org/abs/2205.14987
    Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (Lou et al.,
    2024), eqs. 5 and 8. https://arxiv.org/abs/2310.16834
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.processes.transitions.base import Kernel

__all__ = ["jump_divergence", "log_ratios", "reverse_rates"]


def log_ratios(kernel: Kernel, log_p: Tensor, x_t: Tensor) -> Tensor:
    """Log s_j, `(..., S)`, in the dtype of log p.

    Arguments:
        kernel: q(x_t | x_0).
        log_p: The estimate, `(..., K)`.
        x_t: Noisy symbols, `(...)`.
    """
    column = kernel.column(x_t)
    seen = column[..., : log_p.shape[-1]]
    never = (log_p == -torch.inf) | (seen == -torch.inf)
    mass = torch.where(never, -torch.inf, log_p - seen)
    others = column.shape[-1] - log_p.shape[-1]
    return kernel.push(F.pad(mass, (0, others), value=-torch.inf)).to(log_p.dtype)


def reverse_rates(kernel: Kernel, inflow: Tensor, log_p: Tensor, x_t: Tensor) -> Tensor:
    """R(j, x_t) s_j, `(..., S)`.

    Arguments:
        kernel: q(x_t | x_0).
        inflow: R(j, x_t), and 0 at x_t, `(..., S)`.
        log_p: The estimate.
        x_t: Noisy symbols.
    """
    inflow = inflow.to(log_p.dtype)
    return torch.where(inflow > 0, inflow * log_ratios(kernel, log_p, x_t).exp(), 0.0)


def jump_divergence(
    kernel: Kernel, inflow: Tensor, log_p: Tensor, x_0: Tensor, x_t: Tensor
) -> Tensor:
    """sum_j R(j, x_t) [s_j - s*_j + s*_j log(s*_j / s_j)], of the shape of x_t.

    Arguments:
        kernel: q(x_t | x_0).
        inflow: R(j, x_t), and 0 at x_t.
        log_p: The estimate.
        x_0: The classes of the data.
        x_t: Noisy symbols that they can become.
    """
    dtype, symbols = log_p.dtype, inflow.shape[-1]
    inflow = inflow.to(dtype)
    tiny = torch.finfo(dtype).tiny
    truth = kernel.push(torch.log(F.one_hot(x_0, symbols).double()))
    own = truth.gather(-1, x_t.unsqueeze(-1))
    log_true = torch.where(own > -torch.inf, truth - own, -torch.inf).to(dtype)
    log_ours = log_ratios(kernel, log_p, x_t).clamp(min=torch.tensor(tiny, dtype=dtype).log())
    # The two meet in exp(a) (a - b - 1) + exp(b): no difference of large numbers near a = b.
    gap = log_ours - torch.where(log_true > -torch.inf, log_true, log_ours)
    close = torch.special.expm1(gap) - gap
    terms = torch.where(log_true > -torch.inf, log_true.exp() * close, log_ours.exp())
    return torch.where(inflow > 0, inflow * terms, 0.0).sum(-1)
