r"""One-step matrices of published chains, as `Grid`s.

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021),
    appendix A.2.3, eq. 8. https://arxiv.org/abs/2107.03006
    Vector Quantized Diffusion Model for Text-to-Image Synthesis (Gu et al., 2022), eqs. 7-8.
    https://arxiv.org/abs/2111.14822
"""

from __future__ import annotations

import torch
from torch import Tensor

from structdiff.processes.transitions.grid import Grid

__all__ = ["discretised_gaussian", "vq_diffusion"]


def discretised_gaussian(classes: int, betas: Tensor) -> Grid:
    r"""D3PM's Gaussian matrices on ordered classes.

    For a != b, Q_ab = exp(-4 (a - b)^2 / ((K - 1)^2 beta)) / sum_{n = -(K-1)}^{K-1}
    exp(-4 n^2 / ((K - 1)^2 beta)), and Q_aa is what is left: symmetric, doubly stochastic.

    Arguments:
        classes: Number K of classes, at least 2.
        betas: One per step, positive, `(T,)`; the paper's rise linearly.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> chain = discretised_gaussian(5, torch.linspace(0.02, 1, 10))
        >>> [round(p, 3) for p in chain.stationary.tolist()]
        [0.2, 0.2, 0.2, 0.2, 0.2]
    """
    betas = betas.double()
    if classes < 2:
        msg = f"classes must be at least 2, got {classes}"
        raise ValueError(msg)
    if betas.ndim != 1 or not len(betas) or not bool(((betas > 0) & betas.isfinite()).all()):
        msg = f"betas must be a vector of positive numbers, got shape {tuple(betas.shape)}"
        raise ValueError(msg)
    place = torch.arange(classes, dtype=torch.float64)
    wide = torch.arange(1 - classes, classes, dtype=torch.float64)
    scale = 4 / ((classes - 1) ** 2 * betas)
    total = torch.exp(-scale[:, None] * wide**2).sum(1)
    gap = (place - place[:, None]) ** 2
    away = torch.exp(-scale[:, None, None] * gap) / total[:, None, None]
    away = away * (1 - torch.eye(classes, dtype=torch.float64))
    return Grid(
        away + torch.diag_embed(1 - away.sum(-1)),
        stationary=torch.full((classes,), 1 / classes, dtype=torch.float64),
    )


def vq_diffusion(
    classes: int, steps: int = 100, *, left: float = 9e-6, masked: float = 0.99999
) -> Grid:
    r"""VQ-Diffusion's mask and replace, its cumulated probabilities linear in the step.

    A class stays with alpha_i, is redrawn as each of the K classes with beta_i, and is masked
    with gamma_i, alpha + K beta + gamma = 1. Their products run linearly from step 1 to T,

        alphabar: masked .. left,    gammabar: left .. masked,
        betabar = (1 - alphabar - gammabar) / K,

    and a class v is at step i v with alphabar, and every class with betabar more, and the mask
    with gammabar: Qbar_i v = alphabar v + (gammabar - betabar) m + betabar. The prior is that of
    a uniform class at step T.

    Arguments:
        classes: Number K of classes; the mask has the index K.
        steps: T, at least 2.
        left: alphabar at the end.
        masked: gammabar at the end.

    Raises:
        ValueError: If the numbers are no probabilities.

    Example:
        >>> chain = vq_diffusion(5, 20)
        >>> [round(p, 5) for p in chain.products[20, 0, [0, 1, 5]].tolist()]
        [1e-05, 0.0, 0.99999]
    """
    if classes < 1 or steps < 2:
        msg = f"classes must be at least 1 and steps at least 2, got {classes} and {steps}"
        raise ValueError(msg)
    if not 0 < left < masked or not left + masked < 1:
        must = "0 < left < masked, and their sum below 1"
        msg = f"left and masked must satisfy {must}, got {left} and {masked}"
        raise ValueError(msg)
    one = torch.ones(1, dtype=torch.float64)
    kept = torch.cat([one, torch.linspace(masked, left, steps, dtype=torch.float64)])
    hidden = torch.cat([0 * one, torch.linspace(left, masked, steps, dtype=torch.float64)])
    alpha = kept[1:] / kept[:-1]
    gamma = 1 - (1 - hidden[1:]) / (1 - hidden[:-1])
    beta = ((1 - alpha - gamma) / classes).clamp(min=0)
    matrices = torch.zeros(steps, classes + 1, classes + 1, dtype=torch.float64)
    stay = torch.diag_embed(alpha[:, None].expand(-1, classes))
    matrices[:, :classes, :classes] = beta[:, None, None] + stay
    matrices[:, :classes, classes] = gamma[:, None]
    matrices[:, classes, classes] = 1
    end = torch.full((classes + 1,), (1 - float(hidden[-1])) / classes, dtype=torch.float64)
    end[classes] = hidden[-1]
    return Grid(matrices, classes, end)
