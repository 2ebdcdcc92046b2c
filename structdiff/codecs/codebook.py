r"""A codebook: vectors to the nearest of K codewords, and back.

    q(z) = e_k,    k = argmin_j |z - e_j|^2,

so vectors become classes that chains noise. The *straight-through* value z + sg(e_k - z) is e_k
with the gradient of z, so that what made z learns through the quantiser (sg: no gradient). The
codebook follows by |sg(z) - e_k|^2, and beta |z - sg(e_k)|^2 commits z to its codeword.

References:
    Neural Discrete Representation Learning (van den Oord, Vinyals and Kavukcuoglu, 2017), eqs. 1
    to 3. https://arxiv.org/abs/1711.00937
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Codebook", "Quantised"]


class Quantised(NamedTuple):
    """What a codebook makes of vectors.

    Arguments:
        classes: The nearest codewords, int64, `(...)`.
        value: The codewords with the gradient of the vectors, `(..., width)`.
        loss: Codebook and commitment terms, `(...)`.
    """

    classes: Tensor
    value: Tensor
    loss: Tensor


class Codebook(nn.Module):
    """K codewords that are learned.

    Arguments:
        classes: Number K of codewords, at least 1.
        width: Entries of a codeword, at least 1.
        commitment: Factor beta on the term that draws vectors to their codewords, at least 0;
            0.25 in the paper.

    Raises:
        ValueError: If a number is out of range; on a call, if vectors have another width.

    Example:
        >>> book = Codebook(3, 2)
        >>> torch.equal(book.encode(book.decode(torch.tensor([2, 0, 1]))), torch.tensor([2, 0, 1]))
        True
    """

    def __init__(self, classes: int, width: int, *, commitment: float = 0.25) -> None:
        super().__init__()
        if classes < 1 or width < 1:
            msg = f"classes and width must be at least 1, got {classes} and {width}"
            raise ValueError(msg)
        if not 0 <= commitment < float("inf"):
            msg = f"commitment must be at least 0 and finite, got {commitment}"
            raise ValueError(msg)
        self.commitment = commitment
        self.codewords = nn.Parameter(torch.randn(classes, width) / width**0.5)

    def encode(self, z: Tensor) -> Tensor:
        """The nearest codeword of each vector `(..., width)`, int64; of equal ones the first."""
        if z.shape[-1:] != self.codewords.shape[1:]:
            msg = (
                f"vectors have shape {tuple(z.shape)}, codewords {self.codewords.shape[1]} entries"
            )
            raise ValueError(f"{msg}: the last axes must agree")
        # |z - e|^2 up to |z|^2: no (..., K, width) tensor.
        squares = self.codewords.square().sum(1)
        return (squares - 2 * z @ self.codewords.t()).argmin(-1)

    def decode(self, classes: Tensor) -> Tensor:
        """The codewords of classes `(...)`."""
        found: Tensor = self.codewords[classes]
        return found

    def forward(self, z: Tensor) -> Quantised:
        """Classes, straight-through values and the loss of both sides."""
        classes = self.encode(z.detach())
        codeword = self.decode(classes)
        book = (z.detach() - codeword).square().sum(-1)
        commit = (z - codeword.detach()).square().sum(-1)
        value = z + (codeword - z).detach()
        return Quantised(classes, value, book + self.commitment * commit)
