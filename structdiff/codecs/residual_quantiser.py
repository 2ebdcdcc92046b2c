r"""Residual quantisation: a sum of codewords, each of what those before it have left.

    r_1 = z,    k_l = argmin_j |r_l - e_{l,j}|^2,    r_{l+1} = r_l - e_{l,k_l},

so L codebooks of K codewords tell K^L vectors apart, and the first levels of a code are a coarser
one. Each codebook follows its own residuals.

References:
    SoundStream: An End-to-End Neural Audio Codec (Zeghidour et al., 2021), section III-C.
    https://arxiv.org/abs/2107.03312
    Autoregressive Image Generation using Residual Quantization (Lee et al., 2022), section 3.1.
    https://arxiv.org/abs/2203.01941
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from structdiff.codecs.codebook import Codewords, Quantised
from structdiff.codecs.quantiser import Follow, QuantisedCodec, make_codebook
from structdiff.codecs.usage import Usage, usage_of
from structdiff.random import Randomness

__all__ = ["ResidualCodebook", "ResidualQuantiser"]


@final
class ResidualCodebook(nn.Module):
    """Codebooks one after the other.

    Arguments:
        books: The codebooks, coarse to fine, of one width and one number of classes.

    Raises:
        ValueError: If there is none, or they differ.

    Example:
        >>> from structdiff.codecs.codebook import Codebook
        >>> book = ResidualCodebook([Codebook(8, 2), Codebook(8, 2)])
        >>> found = book(torch.zeros(5, 2))
        >>> found.classes.shape
        torch.Size([5, 2])
        >>> torch.allclose(found.value, book.decode(found.classes))
        True
    """

    def __init__(self, books: Sequence[Codewords]) -> None:
        super().__init__()
        sizes = {(book.classes, book.width) for book in books}
        if len(sizes) != 1:
            msg = "books must be at least one codebook, all of one number of classes and width"
            raise ValueError(f"{msg}, got {sorted(sizes)}")
        self.books = nn.ModuleList(books)

    def forward(self, z: Tensor, random: Randomness | None = None) -> Quantised:
        """Codes `(..., levels)`, straight-through values and the loss of all levels.

        Arguments:
            z: Vectors, `(..., width)`.
            random: In training, where restarts draw from; the codebooks then follow.
        """
        residual, classes, loss = z, [], z.new_zeros(z.shape[:-1])
        for level, book in enumerate(self.books):
            source = None if random is None else random.scoped(leaf=f"level {level}")
            found: Quantised = book(residual, source)
            residual = residual - found.value.detach()
            classes.append(found.classes)
            loss = loss + found.loss
        value = z - residual.detach()
        return Quantised(torch.stack(classes, -1), value, loss)

    def decode(self, classes: Tensor) -> Tensor:
        """Sums of the codewords of codes `(..., levels)`; of fewer levels a coarser sum."""
        books = cast("Sequence[Codewords]", self.books)
        parts = zip(books, classes.unbind(-1), strict=False)
        return torch.stack([book.decode(level) for book, level in parts]).sum(0)


@final
class ResidualQuantiser(QuantisedCodec):
    """Fields to several classes per place: a VQ autoencoder with a residual codebook.

    Arguments:
        event: Channels and places of x: `(channels, length)` or `(channels, height, width)`.
        levels: Number of codebooks.
        classes: Number K of codewords of each.
        width: Entries of a codeword.
        widths: Channels of the networks' levels, see `ConvolutionalEncoder`.
        factors: What each level of the networks divides the places by.
        blocks: Residual blocks of each level of the networks.
        follow: What moves the codewords, see `AveragedCodebook` and `Codebook`.
        commitment: Factor on what draws vectors to their codewords.
        decay: Decay of usage and averages.
        restart: The part of 1 / K below which a codeword is restarted; 0 restarts none.
        adversarial: Weight of an `Opponent`'s term, at least 0; 0 makes none.

    Raises:
        ValueError: If a number is out of range, or places do not divide evenly; on `fit` and
            `usage`, if samples have another shape.

    Example:
        >>> codec = ResidualQuantiser((1, 64), levels=3, classes=16, widths=(8, 8), factors=(4, 2))
        >>> codec.encode(torch.zeros(2, 1, 64)).shape
        torch.Size([2, 3, 8])
    """

    def __init__(
        self,
        event: Sequence[int],
        *,
        levels: int = 2,
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
        if levels < 1:
            msg = f"levels must be at least 1, got {levels}"
            raise ValueError(msg)
        self.latent = (levels, *self.places)
        self.follow, self.commitment, self.decay = follow, commitment, decay
        self.restart = restart
        numbers = {"commitment": commitment, "decay": decay, "restart": restart}
        self.codebook = ResidualCodebook(
            [make_codebook(follow, classes, width, **numbers) for _ in range(levels)]
        )

    def quantise(self, vectors: Tensor, random: Randomness | None = None) -> Quantised:
        """Codes, values and loss of vectors `(samples, *places, width)`."""
        found: Quantised = self.codebook(vectors, random)
        return found._replace(classes=found.classes.movedim(-1, 1))

    def vectors(self, z: Tensor) -> Tensor:
        """Sums of the codewords of codes; of codes with fewer levels, coarser ones."""
        return self.codebook.decode(z.movedim(1, -1))

    def usage(self, x: Tensor) -> Usage:
        """How evenly the codes of samples use each codebook, by level."""
        levels = [usage_of(codes, self.classes) for codes in self._codes(x).unbind(1)]
        return Usage(*(torch.stack(parts) for parts in zip(*levels, strict=True)))

    def books(self) -> dict[str, Any]:
        """Settings of the codebooks."""
        return {
            "levels": self.latent[0],
            "follow": self.follow,
            "commitment": self.commitment,
            "decay": self.decay,
            "restart": self.restart,
        }
