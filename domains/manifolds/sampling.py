"""Drawing points: a part of a request at a time, with known leaves held.

The noise of a part follows from the seed and the part's key (one stream per batch), or from the
seed and the point's number (the same in every batch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from structdiff.acceleration import Tuned
from structdiff.artifacts import Part
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.domains.manifolds.codec import ManifoldsCodec
from structdiff.domains.manifolds.recipe import ManifoldsConfig, time_of, walk_of
from structdiff.domains.manifolds.request import Request
from structdiff.layout import Layout
from structdiff.runs import noise_of
from structdiff.samplers import Carry, Walk

__all__ = ["draw", "joined"]


@torch.no_grad()
def draw(
    denoiser: Denoiser,
    codec: ManifoldsCodec,
    config: ManifoldsConfig,
    asked: Request,
    part: Part,
    *,
    noise: float,
    tuned: Tuned | None = None,
    done: Callable[[float], None] | None = None,
) -> Batch:
    """Draw a part of a request; nothing is rejected or corrected.

    Arguments:
        denoiser: The denoiser.
        codec: The spaces.
        config: Settings; `sampler` says how.
        asked: What to draw.
        part: Which points of it.
        noise: The noise down to which the network is asked.
        tuned: The walk, where it was tuned to the model.
        done: Called after each step with the share of the steps that are done.
    """
    device = next(denoiser.parameters()).device
    batch = _blank(denoiser, asked, part, device)
    walk: Walk = (
        walk_of(config, codec, denoiser, time_of(config, codec, noise))
        if tuned is None
        else tuned.sampler(denoiser)
    )
    random = noise_of(asked.seed, part, config.sampler.randomness)
    steps = walk.bind(batch, random).steps

    def seen(step: int, carry: Carry) -> None:
        del carry
        if done is not None:
            done(step / steps)

    return walk.sample(batch, random, seen)


def _blank(denoiser: Denoiser, asked: Request, part: Part, device: torch.device) -> Batch:
    """Points that are to be drawn, with the known leaves in their place."""
    rows = part.high - part.low
    leaves = dict(denoiser.process.empty(rows, device))
    for name, point in asked.known.items():
        leaves[name] = point.to(device, leaves[name].dtype).expand(leaves[name].shape)
    held = {n: torch.ones(rows, dtype=torch.bool, device=device) for n in asked.known}
    ids = torch.arange(part.low, part.high, device=device)
    layouts = {name: Layout.regular(rows, device) for name in leaves}
    return Batch(leaves, layouts, given=held, ids=ids)


def joined(parts: Sequence[Batch]) -> Batch:
    """Batches one after the other."""
    leaves = {name: torch.cat([part[name] for part in parts]) for name in parts[0].leaves}
    return Batch.of(leaves)
