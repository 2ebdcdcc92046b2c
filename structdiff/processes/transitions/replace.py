r"""Mask and replace, in continuous time and in O(K).

A class is masked at the rate a and redrawn uniformly at the rate b, a + b = 1; the mask stays.
With tau = -log alpha, as all this commutes,

    q(x_t | x_0 = k) = alpha delta_k + (alpha^a - alpha) 1/K + (1 - alpha^a) mask.

References:
    Vector Quantized Diffusion Model for Text-to-Image Synthesis (Gu et al., 2022), section 4.2.
    https://arxiv.org/abs/2111.14822
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.processes.transitions.base import Kernel
from structdiff.processes.transitions.generated import Generated, safe_log
from structdiff.processes.transitions.table import weigh

__all__ = ["MaskAndReplace", "mask_and_replace"]


class MaskAndReplace(Generated):
    """Fall into the mask, of index K, or be redrawn before that.

    alpha is the probability that neither happened.

    Arguments:
        classes: Number K of data classes, at least 2.
        replace: Share b of redraws among all events, in (0, 1).

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> kernel = MaskAndReplace(2, 0.5).after(torch.tensor(4.0).log())
        >>> kernel.column(torch.tensor(2)).exp().tolist()
        [0.5, 0.5, 1.0]
    """

    def __init__(self, classes: int, replace: float) -> None:
        if classes < 2:
            msg = f"classes must be at least 2, got {classes}: use absorbing"
            raise ValueError(msg)
        if not 0 < replace < 1:
            msg = f"replace must be in (0, 1), got {replace}: its ends are absorbing and uniform"
            raise ValueError(msg)
        law = F.one_hot(torch.tensor(classes), classes + 1).double()
        super().__init__(classes, law, None)
        self.replace = replace

    def after(self, tau: Tensor) -> Kernel:
        """In closed form."""
        return MaskAndReplaceKernel(tau.double(), self.classes, self.replace)

    def inflow(self, x_t: Tensor) -> Tensor:
        """a from every class to the mask; b / K from class to class."""
        masked = (x_t == self.classes).double().unsqueeze(-1)
        rate = masked * (1 - self.replace) + (1 - masked) * (self.replace / self.classes)
        into = F.pad(rate.expand(*x_t.shape, self.classes), (0, 1))
        return into.scatter(-1, x_t.unsqueeze(-1), 0.0)


class MaskAndReplaceKernel(Kernel):
    """Three numbers.

    Arguments:
        tau: Times, `()` or shaped to broadcast against rows.
        classes: Number K of classes; the mask has the index K.
        replace: Share b.
    """

    def __init__(self, tau: Tensor, classes: int, replace: float) -> None:
        self.classes = classes
        mask = 1 - replace
        self.same = torch.exp(-tau)
        self.mask = -torch.expm1(-mask * tau)
        finite = torch.where(torch.isinf(tau), 0.0, tau)
        moved = torch.exp(-mask * finite) * -torch.expm1(-replace * finite) / classes
        self.moved = torch.where(torch.isinf(tau), 0.0, moved)

    def _entry(self, x_s: Tensor, x_t: Tensor) -> Tensor:
        same, inside = x_s == x_t, x_t < self.classes
        clean = torch.where(inside, self.same * same + self.moved, self.mask)
        return torch.where(x_s < self.classes, clean, same.double())

    def draw(self, x_s: Tensor, uniform: Tensor) -> Tensor:
        """One number says what happens, and where the row goes."""
        place = uniform.double() - self.same
        fresh = (place / self.moved).long().clamp(0, self.classes - 1)
        moved = torch.where(uniform < self.same + self.classes * self.moved, fresh, self.classes)
        x_t = torch.where(place < 0, x_s, moved)
        return torch.where(x_s < self.classes, x_t, x_s)

    def log_prob(self, x_t: Tensor, x_s: Tensor) -> Tensor:
        """An entry."""
        return safe_log(self._entry(x_s, x_t))

    def column(self, x_t: Tensor) -> Tensor:
        """All classes but x_t itself have one number."""
        symbols = torch.arange(self.classes + 1, device=x_t.device)
        same, moved, mask = (v.unsqueeze(-1) for v in (self.same, self.moved, self.mask))
        at = x_t.unsqueeze(-1)
        own = at == symbols
        clean = torch.where(at < self.classes, same * own + moved, mask)
        return safe_log(torch.where(symbols < self.classes, clean, own.double()))

    def push(self, log_law: Tensor) -> Tensor:
        """In one pass."""
        y, scale = weigh(log_law)
        inner, masked = y[..., :-1], y[..., -1:]
        same, moved, mask = (v.unsqueeze(-1) for v in (self.same, self.moved, self.mask))
        total = inner.sum(-1, keepdim=True)
        classes = inner * same + total * moved
        return safe_log(torch.cat([classes, masked + total * mask], -1)) + scale


def mask_and_replace(classes: int, replace: float = 0.1) -> MaskAndReplace:
    """VQ-Diffusion's two ways to go wrong, at a fixed ratio of their rates."""
    return MaskAndReplace(classes, replace)
