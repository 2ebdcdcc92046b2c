r"""Convolutional autoencoders whose latents are codes.

    z = encoder(x),    k = the nearest codeword of each place's vector,    x ~ decoder(e_k),

trained on the squared error of what is decoded, with gradients straight through the quantiser,
and on the terms of the codebook, mean over places and entries. The codes of a field are one class
per place, which any categorical process noises: absorbing, or mask-and-replace as VQ-Diffusion.

Fields should have about unit variance: of those that are much quieter, as waveforms are, the first
term is small beside the commitment, and all codes become one. Put a `Standardise` before the
quantiser, in a `Chain`.

References:
    Neural Discrete Representation Learning (van den Oord, Vinyals and Kavukcuoglu, 2017).
    https://arxiv.org/abs/1711.00937
    Vector Quantized Diffusion Model for Text-to-Image Synthesis (Gu et al., 2022).
    https://arxiv.org/abs/2111.14822
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor

from structdiff.codecs.adversarial import opponent_of
from structdiff.codecs.checks import check_finite
from structdiff.codecs.codebook import (
    AveragedCodebook,
    Codebook,
    Codewords,
    Quantised,
)
from structdiff.codecs.latent import LearnedCodec
from structdiff.codecs.towers import latent_places, mean_square, towers
from structdiff.codecs.usage import Usage, usage_of
from structdiff.random import Randomness

__all__ = ["Follow", "QuantisedCodec", "VectorQuantiser", "make_codebook"]

Follow = Literal["average", "gradient"]

_PART = 512


def make_codebook(
    follow: Follow, classes: int, width: int, *, commitment: float, decay: float, restart: float
) -> Codewords:
    """A codebook by how it follows.

    Raises:
        ValueError: If `follow` is neither `average` nor `gradient`.
    """
    books = {"average": AveragedCodebook, "gradient": Codebook}
    if follow not in books:
        msg = f"follow must be 'average' or 'gradient', got {follow!r}"
        raise ValueError(msg)
    return books[follow](classes, width, commitment=commitment, decay=decay, restart=restart)


class QuantisedCodec(LearnedCodec, ABC):
    """What codecs with codebooks share.

    Arguments:
        event: Channels and places of x.
        classes: Number K of codewords.
        width: Entries of a codeword.
        widths: Channels of the networks' levels, see `ConvolutionalEncoder`.
        factors: What each level divides the places by.
        blocks: Residual blocks of each level.
        adversarial: Weight of an `Opponent`'s term, at least 0; 0 makes none.

    Raises:
        ValueError: If a number is out of range, or places do not divide evenly.
    """

    def __init__(
        self,
        event: Sequence[int],
        classes: int,
        width: int,
        widths: Sequence[int],
        factors: Sequence[int],
        blocks: int,
        adversarial: float,
    ) -> None:
        super().__init__()
        self.event, self.classes, self.width = tuple(event), classes, width
        self.places = latent_places(event, factors)
        self.widths, self.factors, self.blocks = tuple(widths), tuple(factors), blocks
        self.encoder, self.decoder = towers(
            self.event, width, width, self.widths, self.factors, blocks
        )
        self.adversarial, self.opponent = adversarial, opponent_of(self.event, adversarial)

    @abstractmethod
    def quantise(self, vectors: Tensor, random: Randomness | None = None) -> Quantised:
        """Codes, values and loss of vectors `(samples, *places, width)`."""

    @abstractmethod
    def vectors(self, z: Tensor) -> Tensor:
        """Vectors `(samples, *places, width)` of codes `(samples, *latent)`."""

    @abstractmethod
    def usage(self, x: Tensor) -> Usage:
        """How evenly the codes of samples use each codebook."""

    @final
    def terms(self, x: Tensor, random: Randomness) -> Mapping[str, Tensor]:
        """The error of `reconstruction`, and of the `codes`; in training the codebook follows."""
        found = self.quantise(self._features(x), random if self.training else None)
        seen = self._reconstruct(found.value)
        terms = {
            "reconstruction": mean_square(x, seen),
            "codes": found.loss.flatten(1).mean(1) / self.width,
        }
        return terms if self.opponent is None else {**terms, **self.opponent.terms(x, seen)}

    @final
    def fit(self, x: Tensor) -> None:
        """Nothing is measured: codes have no scale.

        Raises:
            ValueError: If samples have another shape, or there are none.
        """
        check_finite("x", x, self.event)

    @final
    def encode(self, x: Tensor) -> Tensor:
        """Codes, int64, `(samples, *latent)`."""
        return self.quantise(self._features(x)).classes

    @final
    def decode(self, z: Tensor) -> Tensor:
        """Fields of codes."""
        return self._reconstruct(self.vectors(z))

    @final
    def log_det(self, x: Tensor) -> None:
        """None: codes have no density."""
        del x

    @final
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        shared = {
            "event": list(self.event),
            "classes": self.classes,
            "width": self.width,
            "widths": list(self.widths),
            "factors": list(self.factors),
            "blocks": self.blocks,
            "adversarial": self.adversarial,
        }
        return {**shared, **self.books()}

    @abstractmethod
    def books(self) -> dict[str, Any]:
        """Settings of the codebooks."""

    @final
    @torch.no_grad()
    def _codes(self, x: Tensor) -> Tensor:
        check_finite("x", x, self.event)
        return torch.cat([self.encode(part) for part in torch.split(x, _PART)])

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self.encoder(x).to(x.dtype).movedim(1, -1)
        return features

    def _reconstruct(self, vectors: Tensor) -> Tensor:
        x: Tensor = self.decoder(vectors.movedim(-1, 1)).to(vectors.dtype)
        return x


@final
class VectorQuantiser(QuantisedCodec):
    """Fields to one class per place: a VQ autoencoder.

    Arguments:
        event: Channels and places of x: `(channels, length)` or `(channels, height, width)`.
        classes: Number K of codewords.
        width: Entries of a codeword.
        widths: Channels of the networks' levels, see `ConvolutionalEncoder`.
        factors: What each level divides the places by.
        blocks: Residual blocks of each level.
        follow: What moves the codewords, see `AveragedCodebook` and `Codebook`.
        commitment: Factor on what draws vectors to their codewords.
        decay: Decay of usage and averages.
        restart: The part of 1 / K below which a codeword is restarted; 0 restarts none.
        adversarial: Weight of an `Opponent`'s term, at least 0; 0 makes none.

    Raises:
        ValueError: If a number is out of range, or places do not divide evenly; on `fit` and
            `usage`, if samples have another shape.

    Example:
        >>> codec = VectorQuantiser((1, 28, 28), classes=32, widths=(8, 16))
        >>> codes = codec.encode(torch.zeros(2, 1, 28, 28))
        >>> codes.shape, codes.dtype
        (torch.Size([2, 7, 7]), torch.int64)
    """

    def __init__(
        self,
        event: Sequence[int],
        *,
        classes: int = 256,
        width: int = 16,
        widths: Sequence[int] = (32, 64),
        factors: Sequence[int] = (2, 2),
        blocks: int = 1,
        follow: Follow = "average",
        commitment: float = 0.25,
        decay: float = 0.99,
        restart: float = 0.05,
        adversarial: float = 0.0,
    ) -> None:
        super().__init__(event, classes, width, widths, factors, blocks, adversarial)
        self.latent, self.follow = self.places, follow
        self.codebook = make_codebook(
            follow, classes, width, commitment=commitment, decay=decay, restart=restart
        )

    def quantise(self, vectors: Tensor, random: Randomness | None = None) -> Quantised:
        """Codes, values and loss of vectors `(samples, *places, width)`."""
        found: Quantised = self.codebook(vectors, random)
        return found

    def vectors(self, z: Tensor) -> Tensor:
        """The codewords of codes."""
        return self.codebook.decode(z)

    def usage(self, x: Tensor) -> Usage:
        """How evenly the codes of samples use the codebook."""
        return usage_of(self._codes(x), self.classes)

    def books(self) -> dict[str, Any]:
        """Settings of the codebook."""
        book = self.codebook
        return {
            "follow": self.follow,
            "commitment": book.commitment,
            "decay": book.decay,
            "restart": book.restart,
        }
