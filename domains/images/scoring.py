r"""How likely a model holds images to be: bits of each byte, by the probability flow.

A byte b is a bin of numbers, [b - 1/2, b + 1/2] / 127.5 - 1; with places drawn uniformly in the
bins, the model's density gives a lower bound on the probability of bytes (see
`structdiff.likelihood.dequantised`). Of latents, log p(x) = log p(z) + log |det dz/dx|; a codec
that loses something has no density, and its model no bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.counter import Counter
from structdiff.domains.images.images import LABEL, LEAF, Images
from structdiff.domains.images.run import Run
from structdiff.likelihood.dequantised import IntegerBound, UniformBins, integer_bound
from structdiff.likelihood.flow import flow_log_prob

__all__ = ["likely", "score"]

_BIN = 2 / 255
_TOGETHER = 32
START = 1e-3
TOLERANCE = 1e-3


def likely(run: Run) -> str:
    """Why a model has no density of images; empty if it has one."""
    codec, kind = run.model.codec, run.config.codec.kind
    if run.model.always:
        return "noise around what the model is shown is no density of images alone"
    if run.model.record.classes:
        return f"codes of codec.kind {kind} are no density of images"
    if codec is None:
        return ""
    with torch.no_grad():
        probe = torch.zeros(1, *run.codec.event, device=run.device)
        none = codec.log_det(probe) is None
    return f"latents of codec.kind {kind} lose something: they are no density of images" * none


def score(
    run: Run, images: Images, *, draws: int = 1, seed: int = 0, tolerance: float = TOLERANCE
) -> IntegerBound:
    """Bits of images, given their classes if the model knows some.

    Arguments:
        run: A model of fields, or of latents that lose nothing.
        images: Images of its shape.
        draws: Repetitions, each with places in the bins and a probe of the divergence of its own.
        seed: Start of the random numbers.
        tolerance: Error of a step of the solver.

    Raises:
        ValueError: If the model has no density, there are no images or they have another shape.
    """
    if why := likely(run):
        msg = f"{why}; train with codec.kind none, standardise or wavelet"
        raise ValueError(msg)
    if not len(images):
        msg = "there are no images to score"
        raise ValueError(msg)
    whole = run.codec.encode(images).to(run.device)
    parts = []
    for start in range(0, len(images), _TOGETHER):
        index = torch.arange(start, min(start + _TOGETHER, len(images)))
        batch = whole.select(index)
        lower = batch.with_leaves({LEAF: batch[LEAF] - _BIN / 2})
        if not run.model.fields.classes:
            lower = lower.with_condition({})

        def density(records: Batch, offset: int = start) -> Tensor:
            return _log_prob(run, records, Counter(seed + 1 + offset), tolerance)

        laws = {LEAF: UniformBins()}
        parts.append(integer_bound(density, lower, laws, Counter(seed), width=_BIN, draws=draws))
    return IntegerBound(
        torch.cat([part.draws.cpu() for part in parts], 1),
        torch.cat([part.entries.cpu() for part in parts]),
    )


def _log_prob(run: Run, batch: Batch, random: Counter, tolerance: float) -> Tensor:
    """Log density of images in [-1, 1], nats."""
    x, codec = batch[LEAF], run.model.codec
    known = {name: value for name, value in batch.condition.items() if name == LABEL}
    z = run.model.encode(x)
    records = run.model.record.batch(z, known, ids=batch.ids)
    found = flow_log_prob(
        run.model.denoiser, records, start=START, tolerance=tolerance, probes=1, random=random
    ).total
    if codec is None:
        return found
    with torch.no_grad():
        change = codec.log_det(x)
    return found if change is None else found + change.to(found)
