r"""The network predicts ratios of probabilities of x_t: the concrete score.

On a chain that redraws rows from pi, Q_t(k, j) = alpha [j = k] + sigma pi_j, the ratio of symbol j
to i = x_t is, with w_k = p_k / Q_t(k, i) and W = sum_k w_k,

    s_j = p_t(j) / p_t(i) = sum_k p_k Q_t(k, j) / Q_t(k, i) = alpha w_j + sigma pi_j W.

The sum over the classes gives W, so that

    p_j ~ (s_j - sigma pi_j W) Q_t(j, i),    W = sum_{j<K} s_j / (alpha + sigma sum_{j<K} pi_j).

On the absorbing chain this is p_j ~ s_j. Where a network's ratio lies below the floor
sigma pi_j W, no class has led to it; what is left above is taken to be the rounding of s_j at
least, so that no class is excluded for good.

References:
    Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (Lou et al.,
    2024), sections 3-4. https://arxiv.org/abs/2310.16834
    Concrete Score Matching (Meng et al., 2022). https://arxiv.org/abs/2211.00802
"""

from __future__ import annotations

import torch
from torch import Tensor

from structdiff.parameterisations.classes import ClassParameterisation

__all__ = ["Ratios"]


class Ratios(ClassParameterisation):
    """The output is log p_t(j) / p_t(x_t) for all symbols j; that of x_t itself counts as 0.

    For rank-one chains: uniform, absorbing, marginal.

    Arguments:
        stationary: The law pi of the chain, `(S,)`.
        classes: Number K <= S of data classes; all symbols by default.

    Raises:
        ValueError: If the law is no vector of at least K numbers.

    Example:
        >>> log_ratios = torch.tensor([[1.0, 0.5, 0.0]])
        >>> half = torch.tensor(0.5)
        >>> mask = Ratios(torch.tensor([0.0, 0.0, 1.0]), 2)
        >>> p = mask.decode(log_ratios, torch.tensor([2]), half, half).softmax(-1)
        >>> torch.allclose(p, torch.tensor([1.0, 0.5]).softmax(-1))
        True
    """

    def __init__(self, stationary: Tensor, classes: int | None = None) -> None:
        classes = len(stationary) if classes is None else classes
        if stationary.ndim != 1 or not 1 <= classes <= len(stationary):
            must = f"a vector over at least classes = {classes} >= 1 symbols"
            msg = f"stationary must be {must}, got shape {tuple(stationary.shape)}"
            raise ValueError(msg)
        self.stationary, self.classes = stationary, classes

    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """By the inverse of the affine map.

        Raises:
            ValueError: If the output has not one number per symbol.
        """
        law, classes = self.stationary, self.classes
        if output.shape != (*x_t.shape, len(law)):
            must = f"a ratio for each of the {len(law)} symbols"
            msg = f"the network's output must have {must}, got shape {tuple(output.shape)}"
            raise ValueError(msg)
        wide = output.float() if output.dtype.itemsize < 4 else output
        at, law = x_t.unsqueeze(-1), law.to(wide)
        alpha, sigma = (v.unsqueeze(-1) if v.ndim else v for v in (alpha, sigma))
        logs = wide.scatter(-1, at, 0.0)[..., :classes]
        s = torch.exp(logs - logs.detach().amax(-1, keepdim=True))
        inner = law[:classes]
        floor = sigma * inner * s.sum(-1, keepdim=True) / (alpha + sigma * inner.sum())
        own = torch.arange(classes, device=x_t.device) == at
        reached = torch.log(alpha * own + sigma * law[at])
        return torch.log(torch.maximum(s - floor, torch.finfo(s.dtype).eps * s)) + reached
