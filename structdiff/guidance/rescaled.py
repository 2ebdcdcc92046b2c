r"""Guided estimates brought back to the spread of unguided ones.

Guidance far above w = 1 leads estimates away from the data: their entries spread more than those
of clean records do. Of each sample the guided estimate x_w is scaled to the standard deviation
that its entries have under the conditional estimate x_c, and blended with itself,

    phi std(x_c) / std(x_w) x_w + (1 - phi) x_w.

Standard deviations are over all rows and entries of a leaf of one sample, given ones too (which
stay), so this is for leaves of
many entries, fields above all. It costs no call: both estimates are at hand.

References:
    Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2024), section 3.4,
    eqs. 14 to 16. https://arxiv.org/abs/2305.08891
    There the network's output is scaled, here the estimate of the clean record.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.tilted import Mixed
from structdiff.layout import Layout
from structdiff.processes import Estimate, Flowing
from structdiff.processes.leaf import expand, sum_event

__all__ = ["RescaledGuidance"]


class RescaledGuidance(Denoiser):
    """A guided denoiser whose estimates spread as unguided ones do.

    Arguments:
        guided: `ClassifierFree` or another tilted denoiser; its last direction (of several
            conditions the last one named) has the spread that is wanted.
        phi: How far to bring it back, in [0, 1]: 0 not at all; the paper takes 0.7.
        leaves: Names of the leaves to scale; by default all that are not on classes.

    Raises:
        ValueError: If phi is out of range, or a leaf is unknown or on classes.

    Example:
        >>> from structdiff import Flow, Gaussian
        >>> from structdiff.guidance.tilted import Tilted
        >>> from structdiff.testing import NormalDenoiser
        >>> leaf = Gaussian(Flow(), event=(2,))
        >>> wide, narrow = (
        ...     NormalDenoiser(leaf, torch.zeros(1, 2), torch.tensor([std])) for std in (2.0, 1.0)
        ... )
        >>> guided = Tilted(narrow, [(3.0, wide)])
        >>> t, x = {"x": torch.tensor(0.5)}, Batch.of(torch.tensor([[-1.0, 1.0]]))
        >>> back = RescaledGuidance(guided, 1.0)
        >>> wide(x, t)["x"].value, guided(x, t)["x"].value, back(x, t)["x"].value
        (tensor([[-1.6000,  1.6000]]), tensor([[-2.8000,  2.8000]]), tensor([[-1.6000,  1.6000]]))
    """

    def __init__(
        self, guided: Mixed, phi: float, *, leaves: Collection[str] | None = None
    ) -> None:
        super().__init__()
        if not 0 <= phi <= 1:
            msg = f"phi must be in [0, 1], got {phi}"
            raise ValueError(msg)
        process: Any = guided.process
        able = process.offering(Flowing)
        self.names = tuple(able if leaves is None else leaves)
        unable = [name for name in self.names if name not in able]
        if unable:
            msg = f"leaves must be among {list(able)}, which are not on classes, got {unable}"
            raise ValueError(msg)
        self.guided, self.phi, self.process = guided, phi, guided.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The guided estimates, scaled."""
        answers = self.guided.ask(batch, t, previous)
        tilted = answers.tilted(self.process.bind(batch))
        if self.phi == 0:
            return tilted
        for name in self.names:
            used, weights = answers.of(name)
            if weights != [1]:
                scaled = self.rescale(tilted[name], used[-1], batch.layouts[name])
                tilted[name] = kept(scaled, tilted[name], batch.given.get(name))
        return tilted

    def rescale(self, guided: Estimate, wanted: Estimate, layout: Layout) -> Estimate:
        """phi std / std_w x_w + (1 - phi) x_w."""
        found = spread(guided.value, layout)
        ratio = torch.where(found > 0, spread(wanted.value, layout) / found, 1.0)
        factor = layout.spread(self.phi * ratio + (1 - self.phi))
        return replace(guided, value=expand(factor, guided.value) * guided.value)


def kept(scaled: Estimate, plain: Estimate, held: Tensor | None) -> Estimate:
    """The scaled estimate, but for given entries."""
    if held is None:
        return scaled
    mask = expand(held, plain.value)
    return replace(scaled, value=torch.where(mask, plain.value, scaled.value))


def spread(x: Tensor, layout: Layout) -> Tensor:
    """Standard deviation over rows and entries of each sample, `(samples,)`."""
    entries = max(1, x[:1].numel())
    mean = layout.spread(layout.mean(sum_event(x)) / entries)
    return (layout.mean(sum_event((x - expand(mean, x)) ** 2)) / entries).sqrt()
