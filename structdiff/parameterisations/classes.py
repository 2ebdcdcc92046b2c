r"""What the network predicts on classes, as a way to decode its output into p(x_0 | x_t).

Every choice ends in unnormalised log-probabilities of the K classes. What cannot be (a class that
x_t excludes) is the process's business, and so is normalising.

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021),
    section 3.3 and appendix A.8.
    https://arxiv.org/abs/2107.03006
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ClassParameterisation", "Logits"]


class ClassParameterisation(ABC):
    """A network output and what it says of the class."""

    @abstractmethod
    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Log-weights `(rows, *event, K)`.

        Arguments:
            output: The network's output, `(rows, *event, ...)`.
            x_t: Noisy symbols, `(rows, *event)`.
            alpha: Survival, broadcast against x_t.
            sigma: 1 - alpha, likewise.
        """


class Logits(ClassParameterisation):
    """The output is logits of x_0 (D3PM's x_0-parameterisation)."""

    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The output itself."""
        del x_t, alpha, sigma
        return output
