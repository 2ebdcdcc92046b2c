"""What convolutional codecs share: their two networks, and the error of what is decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from structdiff.codecs.checks import shape_of
from structdiff.nn.convolutional import ConvolutionalDecoder, ConvolutionalEncoder

__all__ = ["latent_places", "mean_square", "towers"]


def towers(
    event: Sequence[int],
    features: int,
    channels: int,
    widths: Sequence[int],
    factors: Sequence[int],
    blocks: int,
) -> tuple[ConvolutionalEncoder, ConvolutionalDecoder]:
    """Networks from an event to so many features, and from so many channels back."""
    axes = len(event) - 1
    return (
        ConvolutionalEncoder(
            axes, event[0], features, widths=widths, factors=factors, blocks=blocks
        ),
        ConvolutionalDecoder(
            axes, channels, event[0], widths=widths, factors=factors, blocks=blocks
        ),
    )


def latent_places(event: Sequence[int], factors: Sequence[int]) -> tuple[int, ...]:
    """Places of the latent of an event.

    Raises:
        ValueError: If the event has no places, or they do not divide evenly.
    """
    shape_of("event", event, axes=2)
    whole = math.prod(factors)
    if whole < 1 or any(place % whole for place in event[1:]):
        msg = f"places {tuple(event[1:])} must divide evenly by {whole}, the product of factors"
        raise ValueError(f"{msg} {tuple(factors)}: pad or crop x, or choose other factors")
    return tuple(place // whole for place in event[1:])


def mean_square(x: Tensor, seen: Tensor) -> Tensor:
    """Squared error of each sample, mean over its entries, `(samples,)`."""
    return (x - seen).square().flatten(1).mean(1)
