"""Was it copied? The nearest training sample of each drawn one, beside those of real ones.

A model that repeats its training data draws samples that are nearer to them than other real
samples are. So distances of drawn samples are told beside those of held-out ones; the share of
drawn samples that are nearer than all but one in a hundred held-out ones is 1 % for a perfect
model, and 100 % for one that copies.

References:
    A Non-Parametric Test to Detect Data-Copying in Generative Models (Meehan, Chaudhuri and
    Dasgupta, 2020). https://arxiv.org/abs/2004.05675
    Extracting Training Data from Diffusion Models (Carlini et al., 2023), section 4.
    https://arxiv.org/abs/2301.13188
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.likelihood.intervals import Interval, ratio

__all__ = ["Copying", "Neighbours", "copying", "nearest"]

_TOGETHER = 1 << 23  # pairs


class Neighbours(NamedTuple):
    """The nearest training samples.

    Arguments:
        distance: Root of the mean squared difference of an entry, `(samples,)`.
        place: Number of the training sample, `(samples,)`.
    """

    distance: Tensor
    place: Tensor


def nearest(x: Tensor, blocks: Iterable[Tensor]) -> Neighbours:
    """The nearest training sample of each sample.

    Arguments:
        x: Samples, `(samples, *event)`.
        blocks: The training samples, `(some, *event)` each, in order, so that they need not be in
            memory together.

    Raises:
        ValueError: If there are none, or they have another shape.

    Example:
        >>> found = nearest(torch.tensor([[1.0], [9.0]]), [torch.arange(6.0)[:, None]])
        >>> found.distance.tolist(), found.place.tolist()
        ([0.0, 4.0], [1, 5])
    """
    flat = x.flatten(1).float()
    best = flat.new_full((len(x),), torch.inf)
    index = torch.full((len(x),), -1, dtype=torch.long, device=x.device)
    chosen, first = torch.zeros_like(flat), 0
    for block in blocks:
        if block.shape[1:] != x.shape[1:]:
            msg = f"training samples have shape {tuple(block.shape[1:])}, got {tuple(x.shape[1:])}"
            raise ValueError(msg)
        there = block.to(x.device).flatten(1).float()
        for start, far, place in _closest(flat, there):
            rows = slice(start, start + len(far))
            nearer = far < best[rows]
            best[rows] = torch.where(nearer, far, best[rows])
            index[rows] = torch.where(nearer, place + first, index[rows])
            chosen[rows] = torch.where(nearer.unsqueeze(1), there[place], chosen[rows])
        first += len(block)
    if not first:
        msg = "there are no training samples to look among"
        raise ValueError(msg)
    # The expanded squares lose the digits of small differences; those of the winners are anew.
    return Neighbours((flat - chosen).square().mean(1).sqrt(), index)


def _closest(flat: Tensor, there: Tensor) -> Iterable[tuple[int, Tensor, Tensor]]:
    """Squared distances to the nearest of a block, by rows, and which it is."""
    step = max(1, _TOGETHER // max(1, len(there)))
    squares = there.square().sum(1)
    for start in range(0, len(flat), step):
        part = flat[start : start + step]
        far = torch.addmm(squares, part, there.mT, alpha=-2)
        least, place = far.min(1)
        yield start, least + part.square().sum(1), place


class Copying(NamedTuple):
    """How near drawn and held-out samples are to training samples.

    Arguments:
        drawn: Nearest training samples of the drawn ones.
        held: Of the held-out ones.
        threshold: Distance that one in a hundred held-out samples is nearer than.
        nearer: Share of drawn samples that are nearer than that, with its interval, which takes
            the threshold as given.
    """

    drawn: Neighbours
    held: Neighbours
    threshold: float
    nearer: Interval


def copying(
    drawn: Tensor, held: Tensor, train: Callable[[], Iterable[Tensor]], *, share: float = 0.01
) -> Copying:
    """Distances to the training samples, of drawn and of held-out samples.

    Arguments:
        drawn: Drawn samples, `(samples, *event)`.
        held: Real samples that were not trained on.
        train: Gives the training samples in blocks, from the first one, each time.
        share: Of held-out samples that are nearer than the threshold.

    Raises:
        ValueError: If there are no samples, or shapes differ.
    """
    if not len(drawn) or not len(held) or not 0 < share < 1:
        has = f"{len(drawn)} drawn, {len(held)} held-out samples, share {share}"
        msg = f"drawn and held-out samples are needed, and a share between 0 and 1, got {has}"
        raise ValueError(msg)
    made, real = nearest(drawn, train()), nearest(held, train())
    threshold = float(real.distance.quantile(share))
    below = (made.distance < threshold).double().cpu().numpy()
    return Copying(made, real, threshold, ratio(below))
