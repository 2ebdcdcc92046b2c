"""Drawing texts: a part of a request at a time, with known tokens held.

The noise of a part follows from the seed and the part's key (one stream per batch), or from the
seed and the text's number (the same in every batch).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from structdiff.artifacts import Part
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.domains.text.codec import TextCodec
from structdiff.domains.text.pattern import Pattern
from structdiff.domains.text.recipe import TextConfig, walk_of
from structdiff.domains.text.request import Request
from structdiff.guidance import Replacement
from structdiff.layout import Layout
from structdiff.runs import noise_of
from structdiff.samplers import Carry

__all__ = ["Watch", "draw"]

Watch = Callable[[int, list[str]], None]


@torch.no_grad()
def draw(
    denoiser: Denoiser,
    codec: TextCodec,
    config: TextConfig,
    asked: Request,
    part: Part,
    *,
    done: Callable[[float], None] | None = None,
    watch: Watch | None = None,
) -> list[str]:
    """Draw a part of a request; nothing is rejected or corrected.

    Arguments:
        denoiser: The denoiser.
        codec: Vocabulary.
        config: Settings; `sampler` says how.
        asked: What to draw.
        part: Which texts of it.
        done: Called after each step with the share of the steps that are done.
        watch: Called with the steps done and the noisy texts.
    """
    device = next(denoiser.parameters()).device
    counts = asked.counts[part.low : part.high]
    batch = _blank(denoiser, counts, part, device)
    if asked.given is not None:
        batch = _with_known(batch, asked.given)
        # Only where training had given tokens, or they look as in training, may they be held.
        if config.noise.process != "absorbing" and not config.loss.given:
            denoiser, batch = Replacement(denoiser, batch), batch.with_given({})
    walk = walk_of(config.sampler, denoiser)
    random = noise_of(asked.seed, part, config.sampler.randomness)
    steps = walk.bind(batch, random).steps

    def seen(step: int, carry: Carry) -> None:
        if done is not None:
            done(step / steps)
        if watch is not None:
            watch(step, codec.texts(carry.x["token"], counts))

    drawn = walk.sample(batch, random, seen)["token"].cpu().numpy()
    texts = np.split(drawn, np.cumsum(counts)[:-1])
    return [codec.vocabulary.decode(one[: asked.kept]) for one in texts]


def _blank(denoiser: Denoiser, counts: tuple[int, ...], part: Part, device: torch.device) -> Batch:
    """Texts that are to be drawn: their lengths and numbers."""
    layout = Layout.ragged(counts, device)
    leaves = denoiser.process.empty(layout.rows, device)
    ids = torch.arange(part.low, part.high, device=device)
    return Batch(leaves, {name: layout for name in leaves}, ids=ids)


def _with_known(batch: Batch, given: Pattern) -> Batch:
    """The batch with what is known of each of its texts."""
    known = torch.from_numpy(given.known).to(batch.device).repeat(batch.samples)
    # What is not known is drawn; any token may stand there meanwhile.
    ids = torch.from_numpy(given.ids * given.known).to(batch.device).repeat(batch.samples)
    return batch.with_leaves({"token": ids}).with_given({"token": known})
