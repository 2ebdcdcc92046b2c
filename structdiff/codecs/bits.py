r"""Analog bits: a class as the bits of its index, +scale or -scale each, highest bit first.

Reals are read by their signs. Where that is the index of no class (K is not a power of two), the
class is the nearest valid codeword, the one of the largest <bits(k), x>. All k <= K - 1 are
reached from m = K - 1 by keeping its bits down to some 1 of it, turning that into 0, and then
choosing freely, that is by sign. So d + 1 candidates are enough, whatever K.

References:
    Analog Bits: Generating Discrete Data using Diffusion Models with Self-Conditioning (Chen,
    Zhang and Hinton, 2022). https://arxiv.org/abs/2208.04202
    The paper reads codes of no class as any class; the nearest one is our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structdiff.parameterisations.embedded import Code, check_classes

__all__ = ["Bits"]


class Bits(Code):
    """The binary code of a class.

    Arguments:
        classes: Number K of classes, at least 1.
        scale: Size of a bit, positive. A smaller one is noisier at the same time, as a
            `Shifted` schedule is.

    Raises:
        ValueError: If classes is below 1 or scale is not positive.

    Example:
        >>> code = Bits(6)
        >>> code.encode(torch.tensor([5]))
        tensor([[ 1., -1.,  1.]])
        >>> code.decode(torch.tensor([[0.9, 0.1, 0.8]]))  # the signs say 7, which is no class
        tensor([5])
    """

    def __init__(self, classes: int, *, scale: float = 1.0) -> None:
        check_classes(classes)
        if scale <= 0:
            msg = f"scale must be positive, got {scale}"
            raise ValueError(msg)
        self.classes, self.scale = classes, scale
        self.width = max(1, (classes - 1).bit_length())

    def _places(self, device: torch.device) -> Tensor:
        return torch.arange(self.width - 1, -1, -1, device=device)

    def encode(self, index: Tensor) -> Tensor:
        """Bits as reals in the default dtype.

        Raises:
            ValueError: If an index is no class.
        """
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.classes:
            low, high = int(index.min()), int(index.max())
            msg = f"classes must be in [0, {self.classes}), got numbers from {low} to {high}"
            raise ValueError(msg)
        bits = (index.unsqueeze(-1) >> self._places(index.device)) & 1
        return self.scale * (2 * bits - 1).to(torch.get_default_dtype())

    def decode(self, x: Tensor) -> Tensor:
        """The signs as an index; where that is no class, the nearest codeword's."""
        places = self._places(x.device)
        number = ((x > 0).long() << places).sum(-1)
        return torch.where(number < self.classes, number, self._nearest(x, places))

    def _nearest(self, x: Tensor, places: Tensor) -> Tensor:
        """The class k of the largest <bits(k), x>."""
        last = ((self.classes - 1) >> places) & 1
        agreed = (2 * last - 1) * x
        before = agreed.cumsum(-1) - agreed
        size = x.abs()
        after = size.sum(-1, keepdim=True) - size.cumsum(-1)
        turned = torch.where(last == 1, before - x + after, -torch.inf)
        scores = torch.cat([turned, agreed.sum(-1, keepdim=True)], -1)
        turn = scores.argmax(-1, keepdim=True)
        place = torch.arange(self.width, device=x.device)
        bits = torch.where(place < turn, last, ((x > 0) & (place > turn)).long())
        return (bits << places).sum(-1)
