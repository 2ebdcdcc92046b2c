r"""Log-probabilities over classes, and draws from them, right for large vocabularies.

A draw inverts the distribution function in two levels: over blocks of about sqrt(K) classes, and
inside the block that was hit. Sums over blocks are added in float64 and the uniform number is
float64, so each class is drawn with its own probability, however far out in the tail of 50,000 it
lies, up to the rounding of float32 relative to itself and to the mass of its own block. (A Gumbel
draw, argmax of log p - log(-log u), in float32 cannot: the largest of its numbers is 16.6, and
what lies 20 nats below the top never comes, however many such classes there are.)

References:
    Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
    Categorical Sampling (Zheng et al., 2024). https://arxiv.org/abs/2409.02908
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["draw_class", "log_probabilities"]


class _LogProbabilities(torch.autograd.Function):
    """log_softmax with certainty at some rows; keeps its output alone."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, certain: Tensor, value: Tensor) -> Tensor:
        log_p = torch.log_softmax(logits, -1)
        at, certain = value.unsqueeze(-1), certain.unsqueeze(-1)
        known = log_p.gather(-1, at).masked_fill_(certain, 0.0)
        # A sum with 0 or -inf takes a fifth of the time of a mask.
        log_p.add_(torch.where(certain, -torch.inf, 0.0)).scatter_(-1, at, known)
        ctx.save_for_backward(log_p, certain)
        return log_p

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        log_p, certain = ctx.saved_tensors
        backward = torch.ops.aten._log_softmax_backward_data
        inner = backward(grads[0], log_p, -1, log_p.dtype)
        if torch.is_grad_enabled():
            return torch.where(certain, 0.0, inner), None, None
        return inner.masked_fill_(certain, 0.0), None, None


def log_probabilities(logits: Tensor, certain: Tensor, value: Tensor) -> Tensor:
    """Log-softmax of logits `(..., K)`; where `certain`, 0 at `value` and -inf elsewhere.

    In float32 at least; the gradient of certain rows is zero.

    Arguments:
        logits: Unnormalised log-probabilities.
        certain: Rows of which the class is known, `(...)`.
        value: That class, in 0 to K - 1; looked at where certain.
    """
    wide = logits.float() if logits.dtype.itemsize < 4 else logits
    log_p: Tensor = _LogProbabilities.apply(wide, certain, value)  # type: ignore[no-untyped-call]
    return log_p


def draw_class(log_p: Tensor, uniform: Tensor) -> Tensor:
    """The class at a quantile of each row's law.

    Arguments:
        log_p: Log-probabilities `(..., K)`, up to a small constant a row; not all -inf.
        uniform: Quantiles in [0, 1), `(...)`; float64 where K is large.

    Returns:
        int64, `(...)`.

    Example:
        >>> draw_class(torch.tensor([0.2, 0.5, 0.3]).log(), torch.tensor(0.6))
        tensor(1)
    """
    classes, uniform = log_p.shape[-1], uniform.unsqueeze(-1)
    if classes <= 64:
        # exp is slow where it meets -inf, exp2 is not; these powers of two are 0.
        least = -1100.0 if log_p.dtype == torch.float64 else -152.0
        p = log_p.mul(1 / math.log(2)).clamp_(min=least).exp2_()
        return _place(p.double().cumsum(-1), uniform.double()).squeeze(-1)
    p = torch.softmax(log_p, -1)
    width = 2 ** max(4, round(math.log2(classes) / 2) - 1)
    sums = _block_sums(p, width)
    edges = sums.cumsum(-1, dtype=torch.float64)
    uniform = uniform.double()
    block = _place(edges, uniform)
    target = uniform * edges[..., -1:] - (edges.gather(-1, block) - sums.gather(-1, block))
    index = block * width + torch.arange(width, device=p.device)
    inside = p.gather(-1, index.clamp_(max=classes - 1)).double()
    if classes % width:
        inside[..., 1:] *= index.diff() > 0  # past the end the last class stands again
    inside = inside.cumsum(-1)
    found: Tensor = block * width + _place(inside, target / inside[..., -1:])
    return found.squeeze(-1)


def _block_sums(p: Tensor, width: int) -> Tensor:
    """Sums over blocks of `width` classes, the last one shorter."""
    rest = p.shape[-1] % width
    blocks: Tensor = p.unfold(-1, width, width)
    if not rest:
        sums: Tensor = blocks @ p.new_ones(width)
        return sums
    return torch.cat([blocks.sum(-1), p[..., -rest:].sum(-1, keepdim=True)], -1)


def _place(edges: Tensor, uniform: Tensor) -> Tensor:
    """Which class a quantile falls into, `(..., 1)`: always one with mass."""
    target = uniform.clamp(0, 1 - torch.finfo(edges.dtype).eps) * edges[..., -1:]
    return torch.searchsorted(edges, target.contiguous(), right=True)
