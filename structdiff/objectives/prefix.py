r"""The first rows of each record as what is given: from a source to a target.

Partial noising: a source and its target are one sequence, the source is given at every time and
only the target is noised and counts in the loss. That is what `given` does; this file says which
rows.

References:
    DiffuSeq: Sequence to Sequence Text Generation with Diffusion Models (Gong et al., 2022),
    section 3. https://arxiv.org/abs/2210.08933
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.objectives.hiding import per_sample
from structdiff.processes.leaf import expand
from structdiff.random import Randomness

__all__ = ["hold_prefix", "prefix_rows"]


def first_rows(layout: Layout, count: Tensor) -> Tensor:
    """The first rows of each sample, `(rows,)`."""
    return layout.row < layout.spread(count)


def also_given(batch: Batch, name: str, held: Tensor) -> Tensor:
    """These rows and what is given already."""
    known = batch.given.get(name)
    return held if known is None else expand(held, known) | known


def hold_prefix(batch: Batch, name: str, counts: Sequence[int] | Tensor) -> Batch:
    """The batch with the first rows of a leaf given: the source of each record.

    Arguments:
        batch: Clean samples to train on, or source rows followed by placeholders to be drawn.
        name: The leaf.
        counts: Number of source rows of each sample, `(samples,)`.

    Raises:
        ValueError: If there is not one number for each sample, or a sample has fewer rows.

    Example:
        >>> text = Batch({"token": torch.arange(5)}, {"token": Layout.ragged([2, 3])})
        >>> hold_prefix(text, "token", [1, 2]).given["token"]
        tensor([ True, False,  True,  True, False])
    """
    layout = batch.layouts[name]
    count = torch.as_tensor(counts, device=batch.device)
    if count.shape != (batch.samples,) or bool(((count < 0) | (count > layout.size)).any()):
        must = f"counts must have a number of rows for each of {batch.samples} samples"
        msg = f"{must}, at most {list(layout.counts)}, got {count.tolist()}"
        raise ValueError(msg)
    held = also_given(batch, name, first_rows(layout, count))
    return batch.with_given({**batch.given, name: held})


def prefix_rows(batch: Batch, random: Randomness, chosen: Tensor) -> Batch:
    """Prefixes of random length given, from none to all but one row, in each leaf on its own.

    For `GivenRows`: a model trained so continues any beginning.

    Arguments:
        batch: Clean samples.
        random: Where the choice comes from.
        chosen: Samples that have a given prefix, `(samples,)`.
    """
    given = {}
    for name, layout in batch.layouts.items():
        share = per_sample(batch, random, f"prefix of {name}")
        count = torch.floor(share * layout.size) * chosen
        given[name] = also_given(batch, name, first_rows(layout, count))
    return batch.with_given(given)
