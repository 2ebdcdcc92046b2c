"""geomstats as an oracle: its backend is torch, and it works with float64 as the default dtype."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

os.environ["GEOMSTATS_BACKEND"] = "pytorch"


@contextmanager
def geomstats() -> Iterator[None]:
    """Where geomstats may be imported and asked; what it sets and warns of stays inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(before)
