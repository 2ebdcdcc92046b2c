r"""An opponent that tells what is decoded from what is real, patch by patch.

The opponent D gives each patch of a field a number. Two terms are added to a codec's,

    opponent:     relu(1 - D(x)) + relu(1 + D(sg(y))),
    adversarial:  -w sg(D)(y),

y what is decoded and sg: no gradient. The first teaches the opponent and reaches nothing else; the
second teaches the codec through an opponent whose weights it holds still. So both are made small
together by one optimiser, and the gradients are those of the two-player game, one step of each.

References:
    Image-to-Image Translation with Conditional Adversarial Networks (Isola et al., 2017), section
    3.2.2: patches. https://arxiv.org/abs/1611.07004
    Geometric GAN (Lim and Ye, 2017): the hinge. https://arxiv.org/abs/1705.02894
    Taming Transformers for High-Resolution Image Synthesis (Esser et al., 2021), eqs. 5 and 6.
    https://arxiv.org/abs/2012.09841
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.nn.convolutional import convolution
from structdiff.objectives.adversarial import held_still

__all__ = ["Opponent", "opponent_of"]


def opponent_of(event: Sequence[int], weight: float) -> Opponent | None:
    """An opponent of codecs of an event; none of weight 0."""
    return Opponent(event, weight) if weight else None


class Opponent(nn.Module):
    """A small convolutional network that judges patches, and its terms.

    Arguments:
        event: Channels and places of x.
        weight: The factor w on what the codec learns from it, positive.
        widths: Channels of its levels; each halves the places.

    Raises:
        ValueError: If the weight is not positive and finite, there is no level, or more of them
            than the places can be halved.

    Example:
        >>> import torch
        >>> opponent = Opponent((1, 16, 16), 0.1)
        >>> sorted(opponent.terms(torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)))
        ['adversarial', 'opponent']
    """

    def __init__(
        self, event: Sequence[int], weight: float, *, widths: Sequence[int] = (16, 32)
    ) -> None:
        super().__init__()
        if not 0 < weight < math.inf or not widths:
            msg = "weight must be positive and finite and widths at least one"
            raise ValueError(f"{msg}, got {weight} and {list(widths)}")
        least = 2 ** len(widths)
        if min(event[1:], default=0) < least:
            msg = f"places must be at least {least}, to be halved {len(widths)} times"
            raise ValueError(f"{msg}, got {tuple(event[1:])}: take fewer widths, or no opponent")
        self.weight = weight
        axes, layers = len(event) - 1, []
        for before, width in zip((event[0], *widths), widths, strict=False):
            layers += [convolution(axes, before, width, 4, stride=2), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, convolution(axes, widths[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        """How real each patch is, `(samples, 1, *patches)`."""
        judged: Tensor = self.layers(x).to(x.dtype)
        return judged

    def terms(self, x: Tensor, decoded: Tensor) -> Mapping[str, Tensor]:
        """What both make small, by name: each `(samples,)`.

        Arguments:
            x: Samples, `(samples, *event)`.
            decoded: What the codec makes of them, with its gradient.
        """
        fooled = held_still(self, decoded)
        real, made = F.relu(1 - self(x)), F.relu(1 + self(decoded.detach()))
        return {
            "adversarial": -self.weight * fooled.flatten(1).mean(1),
            "opponent": real.flatten(1).mean(1) + made.flatten(1).mean(1),
        }
