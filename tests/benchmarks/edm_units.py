r"""That EDM's bound and ours are numbers of one kind: both told the truth about one molecule.

A network that knows the molecule (the noise, in EDM) makes every divergence zero. What is left of
the bound is the law of the last step, for n atoms whose positions are known to a deviation sigma:

    -log N(0; 0, sigma^2) in 3 (n - 1) dimensions = 3 (n - 1) (log sigma + log(2 pi) / 2),

with no term for elements. So positions are densities per Angstrom on the centred subspace in both,
elements probabilities, and nothing is left over from EDM's scaling by 1, 4 and 10. What q(x_1 | x)
still knows of x is apart: EDM's last noise has next to nothing of it, ours about a nat.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from edm_peer import EDMCode, Padded
from edm_training import bounds
from torch import Tensor

from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.data import embedded
from structdiff.domains.molecules.recipe import MoleculesConfig, build, grid_of
from structdiff.likelihood import bound
from structdiff.random import Generator
from structdiff.testing import ExactDenoiser

__all__ = ["units"]

LIMIT = 0.01


def units(code: EDMCode) -> tuple[str, list[str]]:
    """A table of both bounds beside the formula, and those that are off."""
    twice = embedded().select(np.zeros(2, np.int64))  # EDM fails on a batch of one molecule
    dimensions = 3 * (int(twice.count[0]) - 1)
    model, _ = code.model(layers=1, width=4)
    batch = Padded.of(twice, np.arange(2))
    clean = torch.cat([batch.position, batch.element / model.norm_values[1]], 2)

    def noise(time: Tensor, noisy: Tensor, *_: object) -> Tensor:
        gamma = model.gamma(time)
        return (noisy - model.alpha(gamma, noisy) * clean) / model.sigma(gamma, noisy)

    model.dynamics._forward = noise
    rows = {"EDM": (float(bounds(model, twice, 2).mean()), math.exp(model.gamma.gamma[0] / 2))}
    config, codec = MoleculesConfig(), MoleculeCodec.fit(embedded())
    records = codec.encode(twice)
    exact = ExactDenoiser(build(config, codec).process, records)
    ours = bound(exact, records, grid_of(config), Generator(0))
    prior = sum(value.mean() for value in ours.prior.values())
    rows["ours, less the prior"] = (
        float(ours.total.mean() - prior),
        config.sampler.sigma_last,
    )
    lines, missed = ["| bound of a known molecule | nats | formula |", "|---|---|---|"], []
    for name, (value, sigma) in rows.items():
        want = dimensions * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
        lines.append(f"| {name} | {value:.3f} | {want:.3f} |")
        if not abs(value - want) < LIMIT:
            missed.append(f"{name}: {value:.3f} nats, not {want:.3f}")
    return "\n".join(lines), missed
