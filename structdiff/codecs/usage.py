r"""How evenly codes use a codebook.

With p_k the share of class k among all codes, the *perplexity* exp(-sum_k p_k log p_k) is the
number of classes that, used alike, would be as uncertain: K at best, 1 where all codes are one.

References:
    Neural Discrete Representation Learning (van den Oord, Vinyals and Kavukcuoglu, 2017).
    https://arxiv.org/abs/1711.00937
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Usage", "usage_of"]


class Usage(NamedTuple):
    """How evenly codes use a codebook.

    Arguments:
        share: Share of each class, `(..., K)`.
        used: Number of classes that occur, `(...)`.
        perplexity: exp of the shares' entropy, between 1 and K, `(...)`.
    """

    share: Tensor
    used: Tensor
    perplexity: Tensor


def usage_of(classes: Tensor, count: int) -> Usage:
    """The usage of codes.

    Arguments:
        classes: Codes, int64, in any shape.
        count: Number K of classes.

    Example:
        >>> usage_of(torch.tensor([0, 1, 1, 0]), 3).perplexity
        tensor(2.)
    """
    share = torch.bincount(classes.flatten(), minlength=count) / max(1, classes.numel())
    entropy = -torch.xlogy(share, share).sum()
    return Usage(share, (share > 0).sum(), entropy.exp())
