r"""From what is known of latents to what is known of the data: the change of variables, reported.

    log p(x) = log p(z) + log |det dz/dx|,    z = encode(x).

It holds for each value, for a bound, and for what training makes small: a codec that is learned
together with a diffusion of its latents is trained by the bound on -log p(x),

    -log p(x) <= bound(z) - log |det dz/dx|,

which is an implicit nonlinear diffusion of x; with coupling layers for the codec it is the
parametrised diffusion model, `pdm`. Where a codec has no determinant (latents of fewer
entries, classes, lost phases) the density of z says nothing of that of x, and no number is given.

References:
    Maximum Likelihood Training of Implicit Nonlinear Diffusion Models (Kim et al., 2022),
    theorem 1. https://arxiv.org/abs/2205.13699
    Maximum Likelihood Training of Parametrized Diffusion Model (Kim et al., 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.codecs.checks import check_shape
from structdiff.codecs.flows import Couplings
from structdiff.codecs.latent import LatentCodec
from structdiff.denoiser import Denoiser
from structdiff.objectives import ContinuousBound, Terms, TimeDistribution
from structdiff.random import Randomness

__all__ = ["DataBound", "DataDensity", "ThroughCodec", "data_density", "pdm"]


@dataclass(frozen=True)
class DataDensity:
    """What a log density of latents says of the data, in nats per sample.

    Arguments:
        latent: Log density of the latents, `(samples,)`.
        log_det: log |det dz/dx|, `(samples,)`; None where the codec has none.
        entries: Entries of one x.
        kind: What the number is.
        codec: Name of the codec.
    """

    latent: Tensor
    log_det: Tensor | None
    entries: int
    kind: str
    codec: str

    @property
    def total(self) -> Tensor:
        """Log density of each x, `(samples,)`.

        Raises:
            ValueError: If there is none.
        """
        if self.log_det is None:
            raise ValueError(self._none())
        return self.latent + self.log_det

    @property
    def bits_per_entry(self) -> Tensor:
        """-log2 p(x) per entry of x, `(samples,)`.

        Raises:
            ValueError: If there is no density.
        """
        return -self.total / (math.log(2) * self.entries)

    def _none(self) -> str:
        what = f"{self.codec} has no log-determinant"
        return f"not a density of the data: {what}, so p(z) says nothing of p(x)"

    def __str__(self) -> str:
        """Means over samples, or that there is no density."""
        count, latent = len(self.latent), float(self.latent.mean())
        rows = [f"{self.kind}; nats, mean over {count} samples", f"  latents: {latent:.4g}"]
        if self.log_det is None:
            return "\n".join([*rows, f"  {self._none()}"])
        total, bits = float(self.total.mean()), float(self.bits_per_entry.mean())
        rows.append(f"  + log-determinant of {self.codec}: {float(self.log_det.mean()):.4g}")
        rows.append(f"  data: {total:.4g}, {bits:.4g} bits per entry, against Lebesgue on R^n")
        return "\n".join(rows)


@torch.no_grad()
def data_density(codec: LatentCodec, x: Tensor, log_prob: Tensor, kind: str) -> DataDensity:
    """The report of some samples.

    Arguments:
        codec: The codec.
        x: The samples, `(samples, *event)`.
        log_prob: Log density of `codec.encode(x)`, `(samples,)`: the total of a `Density`, or
            minus that of a `Bound`.
        kind: What it is, such as the kind of either.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> from structdiff.codecs.standardise import Standardise
        >>> codec = Standardise((1,))
        >>> codec.fit(torch.tensor([[-2.0], [2.0]]))
        >>> data_density(codec, torch.zeros(1, 1), torch.tensor([-0.5]), "exact").total
        tensor([-1.1931])
    """
    check_shape("x", x, codec.event)
    if log_prob.shape != x.shape[:1]:
        msg = f"log_prob must have shape {tuple(x.shape[:1])}, got {tuple(log_prob.shape)}"
        raise ValueError(msg)
    entries = torch.Size(codec.event).numel()
    return DataDensity(log_prob, codec.log_det(x), entries, kind, type(codec).__name__)


class ThroughCodec(nn.Module):
    """An invertible codec and a denoiser of its latents, as one module to train.

    Arguments:
        codec: The codec; it has a log-determinant.
        denoiser: The denoiser; its process has densities.
    """

    codec: LatentCodec
    denoiser: Denoiser

    def __init__(self, codec: LatentCodec, denoiser: Denoiser) -> None:
        super().__init__()
        self.codec, self.denoiser = codec, denoiser


class DataBound:
    """The bound on -log p(x) of both, in nats per entry, but for a constant.

    Arguments:
        leaf: The leaf that is encoded; other leaves stay.
        times: Law of the training times; it changes the variance and not the expectation.

    Raises:
        ValueError: On a call, if the codec has no log-determinant or the process no densities.
    """

    def __init__(self, leaf: str = "x", times: TimeDistribution | None = None) -> None:
        self.leaf, self.bound = leaf, ContinuousBound(times)

    def __call__(self, model: ThroughCodec, batch: Batch, random: Randomness) -> Terms:
        """Encode, and the bound of the latents less the log-determinant."""
        x, codec = batch[self.leaf], model.codec
        log_det = codec.log_det(x)
        if log_det is None:
            name = type(codec).__name__
            msg = f"{name} has no log-determinant: train it with JointObjective, or before"
            raise ValueError(msg)
        latents = batch.with_leaves({**batch.leaves, self.leaf: codec.encode(x)})
        within = self.bound(model.denoiser, latents, random)
        process: Any = model.denoiser.process.bind(latents)
        far = process.prior_divergence(latents.leaves)[self.leaf]
        entries = x[0].numel()
        terms = {
            **within.leaves,
            self.leaf: within.leaves[self.leaf] + far / entries,
            "volume": -log_det / entries,
        }
        return Terms(terms, within.clock)


def pdm(
    event: Sequence[int],
    denoiser: Denoiser,
    *,
    leaf: str = "x",
    layers: int = 6,
    width: int = 64,
    times: TimeDistribution | None = None,
) -> tuple[ThroughCodec, DataBound]:
    """A parametrised diffusion model, and the variational bound that trains it.

    Coupling layers, then the linear diffusion of the denoiser: at first the layers are the
    identity, and model and bound are those of the denoiser. Samples are
    `model.codec.decode(z)` of what the denoiser draws.

    Arguments:
        event: Shape of one row of the leaf, of two entries at least.
        denoiser: The denoiser; its process has densities.
        leaf: The leaf that is encoded; other leaves stay.
        layers: Number of coupling layers, at least 0; without any, the denoiser's own model.
        width: Width of their networks.
        times: Law of the training times; it changes the variance and not the expectation.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from structdiff import Batch, Gaussian, Generator, Linear
        >>> from structdiff.testing import NormalDenoiser
        >>> process = Gaussian(Linear(), event=(2,))
        >>> model, bound = pdm((2,), NormalDenoiser(process, torch.zeros(1, 2), torch.ones(1)))
        >>> sorted(bound(model, Batch.of(torch.ones(3, 2)), Generator(0)).leaves)
        ['volume', 'x']
    """
    codec = Couplings(event, layers=layers, width=width)
    return ThroughCodec(codec, denoiser), DataBound(leaf, times)
