r"""Dynamic thresholding: estimates of bounded data are kept within the bound.

Guided estimates of data that lie in [-b, b] leave it. With q the given percentile of |x_0| over
the entries of a sample, and s = max(q, b), the estimate becomes

    clip(x_0, -s, s) b / s:

extreme entries are cut and the others drawn in by as much, where plain clipping would saturate
them. An estimate within the bound stays as it is.

References:
    Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding (Saharia et al.,
    2022), section 2.3. https://arxiv.org/abs/2205.11487
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.layout import Layout
from structdiff.processes import Estimate, Gaussian
from structdiff.spaces import Whole

__all__ = ["Thresholded"]


class Thresholded(Denoiser):
    """Another denoiser with thresholded estimates.

    Arguments:
        denoiser: Any denoiser; outside of what guides it.
        bounds: b of each leaf that is to be thresholded, positive; these must be Gaussian, on the
            whole of R^n.
        percentile: In (0, 100]; at 100 nothing is cut and an estimate that is too large is drawn
            in as a whole.

    Raises:
        ValueError: If a number is out of range, or a leaf is not Gaussian or in a subspace.

    Example:
        >>> from structdiff import Flow
        >>> from structdiff.testing import NormalDenoiser
        >>> exact = NormalDenoiser(Gaussian(Flow(), event=(2,)), torch.zeros(1, 2), torch.ones(1))
        >>> bounded = Thresholded(exact, {"x": 1.0}, percentile=100)
        >>> bounded(Batch.of(torch.tensor([[4.0, 2.0]])), {"x": torch.tensor(0.5)})["x"].value
        tensor([[1.0000, 0.5000]])
    """

    def __init__(
        self, denoiser: Denoiser, bounds: Mapping[str, float], *, percentile: float = 99.5
    ) -> None:
        super().__init__()
        if not 0 < percentile <= 100:
            msg = f"percentile must be in (0, 100], got {percentile}"
            raise ValueError(msg)
        process: Any = denoiser.process
        others = sorted(bounds.keys() - set(process.offering(Gaussian)))
        if others or not bounds:
            has = f"bounds names {sorted(bounds)}"
            msg = f"{has}, the Gaussian leaves are {sorted(process.offering(Gaussian))}"
            raise ValueError(msg)
        bent = sorted(name for name in bounds if not isinstance(process[name].space, Whole))
        if bent:
            msg = f"bounds names the leaves {bent}, which cutting takes out of their subspace"
            raise ValueError(f"{msg}: leave them out")
        if not all(0 < bound < float("inf") for bound in bounds.values()):
            msg = f"bounds must be positive and finite, got {dict(bounds)}"
            raise ValueError(msg)
        self.denoiser, self.bounds, self.percentile = denoiser, dict(bounds), percentile
        self.process = denoiser.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The estimates within their bounds."""
        said = dict(self.denoiser(batch, t, previous))
        for name, bound in self.bounds.items():
            x_0, layout = said[name].value, batch.layouts[name]
            largest = layout.spread(quantile(x_0.abs(), layout, self.percentile / 100))
            scale = largest.clamp(min=bound).reshape(-1, *(1,) * (x_0.ndim - 1))
            cut = torch.minimum(torch.maximum(x_0, -scale), scale) * (bound / scale)
            said[name] = replace(said[name], value=cut)
        return said


def quantile(x: Tensor, layout: Layout, share: float) -> Tensor:
    """The quantile of the entries of each sample, `(samples,)`; zero for one without rows.

    Arguments:
        x: Entries, `(rows, *event)`.
        layout: Which sample each row belongs to.
        share: Between 0 and 1; between two entries it is linear.
    """
    each = x.unsqueeze(-1).flatten(1)
    width = each.shape[1]
    if not each.numel():
        return x.new_zeros(layout.samples)
    sample = layout.sample.repeat_interleave(width)
    order = each.flatten().argsort()
    order = order[sample[order].argsort(stable=True)]
    place = (layout.size * width - 1).clamp(min=0) * share
    low = place.floor().long()
    start = layout.start * width
    last = each.numel() - 1
    below, above = (
        each.flatten()[order[(start + at).clamp(max=last)]] for at in (low, place.ceil().long())
    )
    found = torch.lerp(below, above, (place - low).to(x.dtype))
    return torch.where(layout.size > 0, found, 0.0)
