"""Where the weights of a network in training are: whole in every process, or a part in each.

`Replicated` keeps a copy in every process and averages gradients; `Sharded` cuts everything in as
many parts as there are processes. Both update the same numbers, and both are saved as whole
tensors under the same names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from structdiff.training.distributed import average_gradients, shard

__all__ = ["Replicated", "Sharding", "norm_of", "place"]


def place(denoiser: nn.Module, sharding: str, device: torch.device) -> Sharding:
    """Place the weights as the config says; one process alone has them whole."""
    if sharding == "shard" and shard()[1] > 1:
        from structdiff.training.sharded import Sharded  # loads FSDP

        return Sharded(denoiser, device)
    return Replicated(denoiser)


class Sharding(ABC):
    """Where the weights are. Every method is called by all processes together.

    Arguments:
        denoiser: What is trained.
    """

    weights: list[nn.Parameter]
    """What this process updates: its part of each weight."""

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser = denoiser

    @abstractmethod
    def reduce(self) -> None:
        """After the backward pass: the gradient's mean over the processes, in `weights`."""

    @abstractmethod
    def norm(self) -> Tensor:
        """Norm of the whole gradient."""

    @abstractmethod
    def whole(self, index: int, part: Tensor) -> Tensor:
        """The whole of something that goes with weight `index`, such as its average."""

    @abstractmethod
    def part(self, index: int, whole: Tensor) -> Tensor:
        """This process's part of it."""

    @abstractmethod
    def model(self) -> dict[str, Tensor]:
        """The denoiser's state, whole."""

    @abstractmethod
    def load(self, model: Mapping[str, Tensor]) -> None:
        """Set the denoiser's state from what `model` gave."""


class Replicated(Sharding):
    """Every process has all weights."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__(denoiser)
        self.weights = [p for p in denoiser.parameters() if p.requires_grad]

    def reduce(self) -> None:
        """One message for all weights."""
        average_gradients(self.weights)

    def norm(self) -> Tensor:
        """Norm of the gradients here, which are those everywhere."""
        return norm_of(self.weights)

    def whole(self, index: int, part: Tensor) -> Tensor:
        """The same."""
        del index
        return part

    def part(self, index: int, whole: Tensor) -> Tensor:
        """The same."""
        del index
        return whole

    def model(self) -> dict[str, Tensor]:
        """The denoiser's state."""
        return dict(self.denoiser.state_dict())

    def load(self, model: Mapping[str, Tensor]) -> None:
        """Set the denoiser's state."""
        self.denoiser.load_state_dict(model)


def norm_of(weights: Sequence[Tensor]) -> Tensor:
    """Norm of the gradients that there are."""
    return torch.nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
