r"""The x_0-parameterisation of D3PM: a law of x_0 that still has to meet the noise.

D3PM and multinomial diffusion put their network's law p~ in the place of x_0 in the joint law,

    p(x_s | x_t) proportional to sum_k q(x_s, x_t | x_0 = k) p~(k),

so that what it says of x_0 is p(k) proportional to p~(k) Q_t(k, x_t): the noise's own likelihood
is taken over by the process, and a network that knows the data's frequencies and nothing else is
right at every time. For rank-one chains Q_t(k, i) = alpha [k = i] + sigma pi_i.

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021), eq. 4.
    https://arxiv.org/abs/2107.03006
    Argmax Flows and Multinomial Diffusion (Hoogeboom et al., 2021), eq. 15.
    https://arxiv.org/abs/2102.05379
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from structdiff.parameterisations.classes import ClassParameterisation

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Joint"]


class Joint(ClassParameterisation):
    """The output is logits of p~, before the likelihood of x_t.

    Arguments:
        stationary: The law pi of a rank-one chain, `(S,)`.

    Example:
        >>> half, x_t = torch.tensor(0.5), torch.tensor([0])
        >>> weights = Joint(torch.tensor([0.5, 0.5])).decode(torch.zeros(1, 2), x_t, half, half)
        >>> weights.softmax(-1)
        tensor([[0.7500, 0.2500]])
    """

    def __init__(self, stationary: Tensor) -> None:
        self.stationary = stationary

    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Logits + log Q_t(k, x_t), up to a constant a row."""
        wide = output.float() if output.dtype.itemsize < 4 else output
        at, classes = x_t.unsqueeze(-1), output.shape[-1]
        noise = sigma * self.stationary.to(wide)[x_t]
        # Where noise cannot be x_t the process knows x_0, whatever is said here.
        gain = torch.log1p(alpha / torch.where(noise > 0, noise, 1.0)).to(wide).unsqueeze(-1)
        own = torch.arange(classes, device=x_t.device) == at
        return wide + torch.where(own, gain, 0.0)
