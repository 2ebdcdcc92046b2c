r"""Classes in an order, predicted as a mean and a scale.

Class k is the number 2 k / (K - 1) - 1 in [-1, 1], and owns the interval of half a distance to
either side. With F the distribution function of a logistic law of mean m and scale s it gets
F(upper end) - F(lower end), of which the logarithm is

    log sigmoid(b) + log sigmoid(-a) + log(1 - e^{a - b}),    a, b = (end - m) / s,

without cancellation. The output is two numbers per entry, m = tanh(x_t + output_0), with the
symbol x_t as such a number (0 for one that is no class), and s = exp(output_1 - 2).

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021),
    appendix A.8. https://arxiv.org/abs/2107.03006
    PixelCNN++ (Salimans et al., 2017), section 2.1. https://arxiv.org/abs/1701.05517
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.parameterisations.classes import ClassParameterisation

__all__ = ["Logistic", "TruncatedLogistic"]


class TruncatedLogistic(ClassParameterisation):
    """The logistic law, given that it falls into one of the intervals (D3PM).

    Arguments:
        classes: Number K of classes, at least 2.

    Raises:
        ValueError: If there are fewer.

    Example:
        >>> output, alpha = torch.zeros(1, 2), torch.tensor(0.5)
        >>> log_p = TruncatedLogistic(3).decode(output, torch.tensor([1]), alpha, 1 - alpha)
        >>> [round(p, 3) for p in log_p.softmax(-1)[0].tolist()]
        [0.024, 0.952, 0.024]
    """

    def __init__(self, classes: int) -> None:
        self.classes = check_classes(classes)

    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Logarithms of the intervals, that the softmax normalises."""
        del alpha, sigma
        below, above, width = intervals(output, x_t, self.classes)
        return F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(-width))


class Logistic(ClassParameterisation):
    """The logistic law; the first and the last class have its tails (PixelCNN++).

    Arguments:
        classes: Number K of classes, at least 2.

    Raises:
        ValueError: If there are fewer.

    Example:
        >>> output, alpha = torch.zeros(1, 2), torch.tensor(0.5)
        >>> log_p = Logistic(3).decode(output, torch.tensor([1]), alpha, 1 - alpha)
        >>> log_p.exp().sum().item()
        1.0
    """

    def __init__(self, classes: int) -> None:
        self.classes = check_classes(classes)

    def decode(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Normalised log-probabilities."""
        del alpha, sigma
        below, above, width = intervals(output, x_t, self.classes)
        inner = F.logsigmoid(-below) + torch.log(-torch.expm1(-width))
        inner = inner + F.logsigmoid(above)
        first, last = F.logsigmoid(above[..., :1]), F.logsigmoid(-below[..., -1:])
        return torch.cat([first, inner[..., 1:-1], last], -1)


def check_classes(classes: int) -> int:
    """At least two.

    Raises:
        ValueError: If there are fewer.
    """
    if classes < 2:
        msg = f"classes must be at least 2 to be in an order, got {classes}"
        raise ValueError(msg)
    return classes


def intervals(output: Tensor, x_t: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both ends of each class in units of the scale, `(..., K)`, and their distance, `(..., 1)`.

    Arguments:
        output: The network's output, `(rows, *event, 2)`.
        x_t: Noisy symbols.
        classes: K.

    Raises:
        ValueError: If the output has not two numbers per entry.
    """
    if output.shape != (*x_t.shape, 2):
        must = "two numbers per entry, its mean and log-scale"
        msg = f"the network's output must have {must}, got shape {tuple(output.shape)}"
        raise ValueError(msg)
    wide = output.float() if output.dtype.itemsize < 4 else output
    gap = 2 / (classes - 1)
    here = torch.where(x_t < classes, x_t.to(wide.dtype) * gap - 1, 0.0)
    mean = torch.tanh(here + wide[..., 0]).unsqueeze(-1)
    rate = torch.exp(2 - wide[..., 1]).unsqueeze(-1)
    place = torch.arange(classes, dtype=wide.dtype, device=wide.device) * gap - 1 - mean
    return (place - gap / 2) * rate, (place + gap / 2) * rate, gap * rate
