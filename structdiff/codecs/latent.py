r"""Codecs of tensors: from what is measured to latents that a process noises, and back.

    z = encode(x),    x ~ decode(z),

x of shape `(samples, *event)`, z of shape `(samples, *latent)`: real numbers for a Gaussian
process, or class indices for a categorical one. Such a codec is a module, so what it has learned
or measured is in its `state_dict()` and is saved as tensors; its `settings()` say how it is made.

Where the map is one-to-one and smooth, densities carry over by the change of variables,

    log p(x) = log p(z) + log |det dz/dx|,

and `log_det` gives the last term. Otherwise it is None: what is known of z says nothing of the
density of x.

References:
    High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022), section 3.
    https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

from torch import Tensor, nn

from structdiff.random import Randomness

__all__ = ["LatentCodec", "LearnedCodec", "StochasticCodec"]


class LatentCodec(nn.Module, ABC):
    """Tensors to latents and back.

    Attributes:
        event: Shape of one x.
        latent: Shape of one z.
        classes: Number of classes of each entry of z; 0 where z is real.
    """

    event: tuple[int, ...]
    latent: tuple[int, ...]
    classes: int

    @abstractmethod
    def fit(self, x: Tensor) -> None:
        """Measure what the codec needs to know of the data: shifts, scales.

        What is learned by training is not touched.

        Arguments:
            x: Samples, `(samples, *event)`.

        Raises:
            ValueError: If they have another shape, or are too few.
        """

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Latents `(samples, *latent)` of samples; nothing is drawn."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Samples `(samples, *event)` of latents."""

    @abstractmethod
    def log_det(self, x: Tensor) -> Tensor | None:
        """log |det dz/dx| at each sample, `(samples,)`; None where there is no density."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The arguments that make a codec of this shape, as JSON."""


class LearnedCodec(LatentCodec):
    """A codec that is trained before it is fitted."""

    @abstractmethod
    def terms(self, x: Tensor, random: Randomness) -> Mapping[str, Tensor]:
        """What training makes small, by name: each `(samples,)`, their sum is the loss.

        Arguments:
            x: Samples, `(samples, *event)`.
            random: Where noise comes from.
        """

    @final  # type: ignore[misc]  # nn.Module declares forward writable
    def forward(self, x: Tensor, random: Randomness) -> Mapping[str, Tensor]:
        """`terms`: what training calls, so that it can be compiled or sharded."""
        return self.terms(x, random)


class StochasticCodec(LearnedCodec):
    """A learned codec whose latents have a law: what training it with their model asks of it.

    Latents are here in the units of the encoder, before any fitted shift and scale.
    """

    @abstractmethod
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each `(samples, *latent)`, entry by entry normal."""

    @abstractmethod
    def surprise(self, x: Tensor, z: Tensor) -> Tensor:
        """-log p(x | z) in nats, `(samples,)`."""
