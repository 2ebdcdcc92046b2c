r"""A convolutional autoencoder whose latents are kept near a normal law.

    q(z | x) = N(mean(x), variance(x)),    p(x | z) = N(decoder(z), s^2),

entry by entry, trained on the evidence bound per entry of x, times 2 s^2 and without constants,

    |x - decoder(z)|^2 / D + 2 s^2 KL(q(z | x) || N(0, 1)) / D,    z ~ q(z | x),

D the entries of x. A small deviation s asks for exact reconstruction and leaves latents that are
harder to model; a large one smooths them. Diffusion then runs on

    encode(x) = (mean(x) - shift) scale,

whose shift and scale `fit` measures, so that latents have mean 0 and standard deviation 1.

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2013), appendix B for the divergence.
    https://arxiv.org/abs/1312.6114
    High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022), appendix
    G: the scale is one over the latents' deviation. https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from structdiff.codecs.adversarial import opponent_of
from structdiff.codecs.checks import check_finite
from structdiff.codecs.latent import StochasticCodec
from structdiff.codecs.towers import latent_places, mean_square, towers
from structdiff.random import Randomness

__all__ = ["Autoencoder"]

_PART = 512


class Autoencoder(StochasticCodec):
    """Fields `(channels, *places)` to real latents: a KL autoencoder.

    Arguments:
        event: Channels and places of x: `(channels, length)` or `(channels, height, width)`.
        channels: Channels of the latent.
        widths: Channels of the networks' levels, see `ConvolutionalEncoder`.
        factors: What each level divides the places by.
        blocks: Residual blocks of each level.
        deviation: The deviation s of x around what is decoded, positive.
        adversarial: Weight of an `Opponent`'s term, at least 0; 0 makes none.
        by_channel: Whether each latent channel has a shift and a scale of its own; otherwise one
            for all, which keeps what the channels say of each other.

    Raises:
        ValueError: If a number is out of range, or places do not divide evenly; on `fit`, if
            samples have another shape, are not finite, or have latents that do not vary.

    Example:
        >>> codec = Autoencoder((1, 28, 28), channels=4, widths=(8, 16))
        >>> codec.latent
        (4, 7, 7)
        >>> codec.decode(codec.encode(torch.zeros(2, 1, 28, 28))).shape
        torch.Size([2, 1, 28, 28])
    """

    classes = 0
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        event: Sequence[int],
        *,
        channels: int = 4,
        widths: Sequence[int] = (32, 64),
        factors: Sequence[int] = (2, 2),
        blocks: int = 1,
        deviation: float = 0.1,
        adversarial: float = 0.0,
        by_channel: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < deviation < math.inf:
            msg = f"deviation must be positive and finite, got {deviation}"
            raise ValueError(msg)
        self.event = tuple(event)
        self.latent = (channels, *latent_places(event, factors))
        self.widths, self.factors, self.blocks = tuple(widths), tuple(factors), blocks
        self.deviation, self.by_channel = deviation, by_channel
        self.encoder, self.decoder = towers(
            self.event, 2 * channels, channels, self.widths, self.factors, blocks
        )
        self.adversarial, self.opponent = adversarial, opponent_of(self.event, adversarial)
        measured = (channels, *(1 for _ in self.latent[1:])) if by_channel else ()
        self.register_buffer("shift", torch.zeros(measured))
        self.register_buffer("scale", torch.ones(measured))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), before shift and scale, `(samples, *latent)` each."""
        mean, log_variance = self.encoder(x).to(x.dtype).chunk(2, 1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def reconstruct(self, z: Tensor) -> Tensor:
        """Mean of p(x | z), of latents before shift and scale."""
        x: Tensor = self.decoder(z).to(z.dtype)
        return x

    def surprise(self, x: Tensor, z: Tensor) -> Tensor:
        """-log p(x | z) in nats, `(samples,)`, of latents before shift and scale."""
        square = mean_square(x, self.reconstruct(z)) / self.deviation**2
        constant = math.log(2 * math.pi * self.deviation**2)
        return 0.5 * (square + constant) * x[0].numel()

    def terms(self, x: Tensor, random: Randomness) -> Mapping[str, Tensor]:
        """The error of `reconstruction` and the `divergence` of the latents, per entry of x."""
        mean, log_variance = self.posterior(x)
        noise = random.normal(mean.shape, mean.dtype, mean.device)
        seen = self.reconstruct(mean + (0.5 * log_variance).exp() * noise)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        weight = 2 * self.deviation**2 / x[0].numel()
        terms = {
            "reconstruction": mean_square(x, seen),
            "divergence": weight * divergence.flatten(1).sum(1),
        }
        return terms if self.opponent is None else {**terms, **self.opponent.terms(x, seen)}

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Measure shift and scale of the latents, a part of the samples after the other."""
        check_finite("x", x, self.event)
        mean = torch.cat([self.posterior(part)[0] for part in torch.split(x, _PART)]).double()
        axes = [0, *range(2, mean.ndim)] if self.by_channel else list(range(mean.ndim))
        deviation = mean.std(axes, correction=0)
        if not bool((deviation > 0).all()):
            msg = f"latents of x have the deviation {deviation.tolist()}, which must be positive"
            raise ValueError(f"{msg}: train the codec, and fit it to samples that differ")
        self.shift.copy_(mean.mean(axes).reshape(self.shift.shape))
        self.scale.copy_((1 / deviation).reshape(self.scale.shape))

    def encode(self, x: Tensor) -> Tensor:
        """Means of the latents, shifted and scaled."""
        return (self.posterior(x)[0] - self.shift) * self.scale

    def decode(self, z: Tensor) -> Tensor:
        """Means of p(x | z)."""
        return self.reconstruct(z / self.scale + self.shift)

    def log_det(self, x: Tensor) -> None:
        """None: the latents are fewer than what they are made of."""
        del x

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "event": list(self.event),
            "channels": self.latent[0],
            "widths": list(self.widths),
            "factors": list(self.factors),
            "blocks": self.blocks,
            "deviation": self.deviation,
            "adversarial": self.adversarial,
            "by_channel": self.by_channel,
        }
