r"""An autoencoder and the diffusion model of its latents, trained together.

A latent z is drawn from q(z | x), and its law p(z) is a diffusion model's. Then

    -log p(x) <= E_q[-log p(x | z)] - H(q(z | x)) + E_q[-log p(z)],

H the entropy, and the last term, the cross-entropy, has the bound of the diffusion model,

    -log p(z) <= KL(q(z_1 | z), prior) + E_t rate(z_t, t) / density(t) + reconstruction,

whose gradient reaches the encoder through z. So all three are trained by one number: the encoder
is drawn towards latents that the model of them finds easy. Training leaves out the reconstruction
of z at the earliest time, as `ContinuousBound` does; `joint_bound` has all terms.

`MixedPrior` blends a network's estimate with that of the standard normal law,

    E[z | z_t] = (1 - a) alpha z_t / (alpha^2 + sigma^2) + a E_network[z | z_t],

a in (0, 1) for each channel. Where variance is kept, alpha^2 + sigma^2 = 1, this is eps =
(1 - a) sigma z_t + a eps_network: latents of an autoencoder are not far from
normal, and the network learns the difference. With a = 0 the prior is N(0, 1) exactly.

References:
    Score-based Generative Modeling in Latent Space (Vahdat, Kreis and Kautz, 2021), eqs. 2 to 9
    and section 3.2. https://arxiv.org/abs/2106.05931
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.codecs.latent import StochasticCodec
from structdiff.denoiser import Denoiser
from structdiff.likelihood.continuous import continuous_bound
from structdiff.objectives import ContinuousBound, Terms, TimeDistribution
from structdiff.processes import Estimate
from structdiff.processes.leaf import expand
from structdiff.random import Randomness

__all__ = ["JointLatent", "JointObjective", "MixedPrior", "entropy_of", "joint_bound"]


def entropy_of(log_variance: Tensor) -> Tensor:
    """Entropy of a normal law with independent entries, in nats, `(samples,)`.

    Example:
        >>> entropy_of(torch.zeros(1, 2))
        tensor([2.8379])
    """
    return 0.5 * (log_variance + math.log(2 * math.pi * math.e)).flatten(1).sum(1)


class MixedPrior(Denoiser):
    """Another denoiser, blended with the one of standard normal data.

    Arguments:
        denoiser: The other denoiser, with Gaussian noise at the leaf.
        leaf: The leaf that is blended.
        channels: Size of the leaf's first axis after the rows; each has a weight a of its own.
        start: What a is at first, in (0, 1).

    Raises:
        ValueError: If `start` is not inside (0, 1), or there is no channel.
    """

    def __init__(
        self, denoiser: Denoiser, leaf: str, channels: int, *, start: float = 0.5
    ) -> None:
        super().__init__()
        if not 0 < start < 1 or channels < 1:
            msg = f"start must be inside (0, 1) and channels positive, got {start}, {channels}"
            raise ValueError(msg)
        self.denoiser, self.process, self.leaf = denoiser, denoiser.process, leaf
        self.logit = nn.Parameter(torch.full((channels,), math.log(start / (1 - start))))

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The blend at the leaf, the other denoiser's estimates elsewhere."""
        said: Mapping[str, Estimate] = self.denoiser(batch, t, previous)
        z_t = batch[self.leaf]
        process: Any = self.process.bind(batch)
        # In standard units, where alpha^2 + sigma^2 = 1, alpha follows from the clock.
        alpha = expand(torch.sigmoid(2 * process.clock(t)[self.leaf]).sqrt().to(z_t.dtype), z_t)
        unit = process.from_standard({**batch.leaves, self.leaf: torch.ones_like(z_t)}, t)
        share = torch.sigmoid(self.logit).reshape(-1, *(1,) * (z_t.ndim - 2)).to(z_t.dtype)
        mean = torch.lerp(alpha * z_t / unit[self.leaf], said[self.leaf].value, share)
        return {**said, self.leaf: Estimate(mean, said[self.leaf].extras)}


class JointLatent(nn.Module):
    """A codec and a denoiser of its latents, as one module to train.

    Arguments:
        codec: The codec.
        denoiser: The denoiser; its process has densities.
    """

    codec: StochasticCodec
    denoiser: Denoiser

    def __init__(self, codec: StochasticCodec, denoiser: Denoiser) -> None:
        super().__init__()
        self.codec, self.denoiser = codec, denoiser

    def draw(self, leaf: str, batch: Batch, random: Randomness) -> tuple[Batch, Tensor]:
        """The batch with latents drawn for a leaf, and the entropy of their law, `(samples,)`."""
        mean, log_variance = self.codec.posterior(batch[leaf])
        scoped = random.scoped(leaf=f"latent of {leaf}", ids=batch.ids, layout=batch.layouts[leaf])
        noise = scoped.normal(mean.shape, mean.dtype, mean.device)
        z = mean + (0.5 * log_variance).exp() * noise
        return batch.with_leaves({**batch.leaves, leaf: z}), entropy_of(log_variance)


class JointObjective:
    """The bound on -log p(x) of both, in nats per entry of x, but for a constant.

    Arguments:
        leaf: The leaf that is encoded; other leaves, which the process must have too, stay.
        times: Law of the training times; it changes the variance and not the expectation.
        share: Factor on entropy and cross-entropy; below 1, as in the warm-up of autoencoders,
            latents say more of x.

    Raises:
        ValueError: If `share` is not positive; on a call, if the process has no densities.
    """

    def __init__(
        self, leaf: str, times: TimeDistribution | None = None, *, share: float = 1.0
    ) -> None:
        if not share > 0:
            msg = f"share must be positive, got {share}"
            raise ValueError(msg)
        self.leaf, self.share, self.bound = leaf, share, ContinuousBound(times)

    def __call__(self, model: JointLatent, batch: Batch, random: Randomness) -> Terms:
        """Encode, draw, decode, and the bound of the latents."""
        x = batch[self.leaf]
        latents, entropy = model.draw(self.leaf, batch, random)
        z, entries = latents[self.leaf], x[:1].numel()
        prior = self.bound(model.denoiser, latents, random)
        process: Any = model.denoiser.process.bind(latents)
        far = process.prior_divergence(latents.leaves)[self.leaf]
        own = prior.leaves[self.leaf] * z[:1].numel() + far
        terms = {
            "reconstruction": model.codec.surprise(x, z) / entries,
            "entropy": -self.share * entropy / entries,
            **prior.leaves,
            self.leaf: self.share * own / entries,
        }
        return Terms(terms, prior.clock)  # entropy and reconstruction have no clock


@torch.no_grad()
def joint_bound(
    model: JointLatent,
    leaf: str,
    batch: Batch,
    random: Randomness,
    *,
    draws: int = 1,
    times: TimeDistribution | None = None,
) -> Tensor:
    """The whole bound on -log p(x) in nats, `(draws, samples)`, each an unbiased draw of it.

    Arguments:
        model: Codec and denoiser.
        leaf: The leaf that is encoded, the only one of the record.
        batch: Clean samples.
        random: Where noise comes from.
        draws: Repetitions, at least 1.
        times: Law of the times, see `continuous_bound`.

    Raises:
        ValueError: If the record has other leaves, or the process no densities.
    """
    if list(batch.leaves) != [leaf]:
        msg = f"the record must have the leaf {leaf!r} alone, it has {sorted(batch.leaves)}"
        raise ValueError(msg)
    found = []
    for number in range(draws):
        # Beyond the addresses that the bound of the latents draws from.
        latents, entropy = model.draw(leaf, batch, random.scoped(step=1000 + number))
        scoped = random.scoped(step=4 * number)
        prior = continuous_bound(model.denoiser, latents, scoped, times=times)
        surprise = model.codec.surprise(batch[leaf], latents[leaf])
        found.append(surprise - entropy + prior.total.to(surprise))
    return torch.stack(found)
