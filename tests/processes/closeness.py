"""Equality of tensors up to rounding."""

from __future__ import annotations

import torch
from torch import Tensor


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
