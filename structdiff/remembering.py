r"""Denoisers that remember: what a layer said in one call is what another begins with in the next.

A network that has two layers for this, `before` that passes zeros on and `after` that passes on
what is to be kept (both may be `nn.Identity`), is given in each call what it kept in the last one.
The memory goes with the estimate, as `extras["memory"]`: samplers carry, save and resume it with
the previous estimate, and objectives that show a first estimate train it.

References:
    Scalable Adaptive Computation for Iterative Generation (Jabri, Fleet and Chen, 2022), section
    2.2: latent self-conditioning. https://arxiv.org/abs/2212.11972
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.nn.hooks import check_layers, editing, reading
from structdiff.processes.base import Estimate

__all__ = ["MEMORY", "Remembering"]

MEMORY = "memory"
"""The name that memories have among what an estimate says."""


class Remembering(Denoiser):
    """A denoiser with a memory, zero at first.

    Arguments:
        denoiser: A denoiser of a network.
        leaf: The leaf that the memory goes with; with one row per sample.
        before: Name of the layer that gives what was kept, of `denoiser.named_modules()`.
        after: Name of the layer whose output is kept, `(samples, ...)`, without its gradient.

    Raises:
        ValueError: If a layer is unknown; on a call, if a memory is of another shape.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from structdiff import DDIM, Cosine, Gaussian, NetworkDenoiser, Product, UniformTime
        >>> from structdiff import Generator
        >>> from structdiff.nn.field import FieldNetwork
        >>> from structdiff.nn.interface import InterfaceNetwork
        >>> network = FieldNetwork(partial(InterfaceNetwork, width=8, latents=2), 1)
        >>> process = Product({"x": Gaussian(Cosine(), event=(1, 4, 4))})
        >>> denoiser = Remembering(NetworkDenoiser(network, process))
        >>> walk = DDIM(denoiser, UniformTime(3))
        >>> walk.sample(Batch.of(torch.zeros(2, 1, 4, 4)), Generator(0))["x"].shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        leaf: str = "x",
        before: str = "backbone.network.before",
        after: str = "backbone.network.after",
    ) -> None:
        super().__init__()
        check_layers(denoiser, [before, after])
        self.denoiser, self.process, self.leaf = denoiser, denoiser.process, leaf
        self.before, self.after = before, after

    @final  # type: ignore[misc]  # nn.Module declares forward writable
    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimates, with the new memory."""
        kept = None if previous is None else previous[self.leaf].extras.get(MEMORY)

        def bring(zeros: Tensor) -> Tensor:
            if kept is None:
                return zeros
            if kept.shape != zeros.shape:
                shapes = f"{tuple(zeros.shape)}, got {tuple(kept.shape)}"
                msg = f"the memory must be {shapes}: what wraps this denoiser changed it"
                raise ValueError(msg)
            return kept.to(zeros)

        with (
            editing(self.denoiser, {self.before: bring}),
            reading(self.denoiser, [self.after]) as seen,
        ):
            said = dict(self.denoiser(batch, t, previous))
        memory = {MEMORY: seen[self.after].detach()}
        said[self.leaf] = replace(said[self.leaf], extras={**said[self.leaf].extras, **memory})
        return said
