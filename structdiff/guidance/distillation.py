r"""Score distillation: the gradient that makes a record likely under a model of noisy ones.

For x_0 = g(theta), noised to x_t,

    grad = w(t) [score of q(x_t | x_0) - score of p_t(x_t)],

which on R^n is w / sigma times (predicted - drawn noise). Its mean over noise is the gradient of
KL(q(x_t | x_0) | p_t) in x_t, up to w: descending it takes theta to a mode of the model, not to a
sample. The derivative of the denoiser is left out.

References:
    DreamFusion: Text-to-3D using 2D Diffusion (Poole, Jain, Barron and Mildenhall, 2023), eq. 3.
    https://arxiv.org/abs/2209.14988
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes.base import Conditional, Scored
from structdiff.processes.leaf import expand, sum_event
from structdiff.random import Randomness

__all__ = ["score_distillation"]


def score_distillation(
    denoiser: Denoiser,
    batch: Batch,
    t: Tensor,
    random: Randomness,
    weight: Callable[[Tensor], Tensor] = lambda clock: torch.sigmoid(-2 * clock),
) -> Tensor:
    """A number for each sample whose gradient in the leaves is that of score distillation.

    The number itself says nothing.

    Arguments:
        denoiser: A denoiser of leaves on R^n and manifolds.
        batch: Clean records, with the graph that leads to theta.
        t: Time, `()` or one for each sample, above 0.
        random: Where the noise comes from.
        weight: w of a leaf's clock; by default sigma^2 in standard units.

    Raises:
        ValueError: If a leaf has no score.

    Example:
        >>> from structdiff import Cosine, Gaussian, Generator
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.ones(1), torch.full((1,), 0.1))
        >>> theta, random = torch.zeros(50, requires_grad=True), Generator(0)
        >>> descent = torch.optim.SGD([theta], lr=0.1)
        >>> for t in torch.rand(100, generator=torch.Generator().manual_seed(0)):
        ...     loss = score_distillation(denoiser, Batch.of(theta), 0.2 + 0.7 * t, random).sum()
        ...     descent.zero_grad()
        ...     loss.backward()
        ...     descent.step()
        >>> round(theta.mean().item(), 1)
        1.0
    """
    own: Any = denoiser.process
    if not (own.offers(Scored) and own.offers(Conditional)):
        msg = "score distillation needs scores: all leaves must be on R^n or on manifolds"
        raise ValueError(msg)
    process = own.bind(batch)
    times: Mapping[str, Tensor] = process.times(
        {n: t if t.ndim == 0 else layout.spread(t) for n, layout in batch.layouts.items()}
    )
    clean = {name: x.detach() for name, x in batch.leaves.items()}
    with torch.no_grad():
        x_t = process.diffuse(clean, times, random)
        said = denoiser(batch.with_leaves(x_t), times)
        drawn = process.score(process.oracle(clean, x_t, times), x_t, times)
        model, clocks = process.score(said, x_t, times), process.clock(times)
    terms = []
    for name, layout in batch.layouts.items():
        space, here = process[name].geometry, clean[name]
        pull = space.transport(x_t[name], here, drawn[name] - model[name])
        slope = expand(weight(clocks[name]).to(pull), pull) * pull
        terms.append(layout.sum(sum_event(slope * space.log(here, batch[name]))))
    return torch.stack(terms).sum(0)
