r"""What a walk did on its way: its states, its estimates and the lengths of its steps.

The estimates of a walk make a path of their own, which bends less than the states do and is near
its end early; how long the steps are says where a grid should be dense.

References:
    A Geometric Perspective on Diffusion Models (Chen et al., 2023), section 4.
    https://arxiv.org/abs/2305.19947
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.processes.leaf import sum_event
from structdiff.samplers.base import Carry, Record

__all__ = ["Trajectory"]


class Trajectory:
    """Watches a walk: `sampler.sample(batch, random, Trajectory(batch))`.

    Arguments:
        batch: The batch that is drawn.

    Example:
        >>> from structdiff import DDIM, Flow, Gaussian, Generator, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Flow()), torch.zeros(1), torch.ones(1))
        >>> blank = Batch.of(torch.zeros(3))
        >>> path = Trajectory(blank)
        >>> drawn = DDIM(denoiser, UniformTime(5)).sample(blank, Generator(0), path)
        >>> len(path.states), path.estimates[0]["x"].shape, path.lengths()["x"].shape
        (5, torch.Size([3]), torch.Size([4, 3]))
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.states: list[Record] = []
        self.estimates: list[dict[str, Tensor]] = []

    def __call__(self, done: int, carry: Carry) -> None:
        """Keep the state after a step, and the estimate that was made last.

        Arguments:
            done: Number of steps done.
            carry: Where the walk stands.
        """
        del done
        self.states.append(carry.x)
        said = carry.previous or {}
        self.estimates.append({name: estimate.value for name, estimate in said.items()})

    def lengths(self) -> Mapping[str, Tensor]:
        """How far each sample went in each step but the first, `(steps - 1, samples)` by leaf.

        On R^n the length of x_s - x_t over all rows, on manifolds that of the chord, on classes
        the root of the number of entries that changed.
        """
        layouts = self.batch.layouts
        pairs = list(zip(self.states, self.states[1:], strict=False))
        found = {}
        for name, layout in layouts.items():
            squares = [layout.sum(_square(old[name], new[name])).sqrt() for old, new in pairs]
            empty = torch.zeros(0, layout.samples)
            found[name] = torch.stack(squares) if squares else empty
        return found


def _square(old: Tensor, new: Tensor) -> Tensor:
    """Squared distance of the entries of each row, `(rows,)`."""
    if new.is_floating_point():
        return sum_event((new - old).square())
    return sum_event((new != old).to(torch.get_default_dtype()))
