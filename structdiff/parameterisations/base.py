r"""What the network predicts on R^n, as a way to decode its output into x_0.

Every choice is a linear change of variables at the level (alpha, sigma) of the time, so the
estimate, the loss and its weight do not depend on it. Parameterisations know nothing of a process:
a process holds one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

__all__ = ["Parameterisation"]


class Parameterisation(ABC):
    """A network output and what it says of x_0; `alpha` and `sigma` broadcast against `x_t`."""

    @abstractmethod
    def encode(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The network's input."""

    @abstractmethod
    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The x_0 that an output stands for."""

    def extras(
        self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor
    ) -> Mapping[str, Tensor]:
        """What else an output says of x_0, by name; nothing unless the network has more heads."""
        del output, x_t, alpha, sigma
        return {}

    def mapped(self, output: Tensor, x_t: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """An output whose vectors of x went through a linear map; by default all of it."""
        del x_t
        return change(output)

    @abstractmethod
    def target(self, x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The output that stands for x_0: the inverse of `decode`."""
