"""Linear layers whose weights stay in float32 while they act on another dtype."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["linear"]


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in the dtype of `x`, outside autocast."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)
