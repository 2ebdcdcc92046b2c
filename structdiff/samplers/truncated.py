r"""Truncated chains: a walk that begins at an early time, from what a generator says.

In place of pure noise at t = 1 the walk begins at t* < 1, either

- at q(x_t* | x_0), with x_0 any records: those of a cheap decoder, of another model, of a search,
  or the user's own, which are so brought nearer to the data; or
- at x_t* itself, drawn by a generator of the law at t*, or encoded from data.

The steps are those of any sampler on a grid that begins at t*. If the generator draws from the
data, so does the walk, for every t*. Otherwise what it got wrong is contracted: for normal data of
deviation s, by alpha s / sqrt(alpha^2 s^2 + sigma^2) at t* along the probability flow, and by its
square on average along Bayes steps.

References:
    DiffSinger (Liu et al., 2022), section 3.2. https://arxiv.org/abs/2105.02446
    Truncated Diffusion Probabilistic Models (Zheng et al., 2023), section 3.
    https://arxiv.org/abs/2202.09671
    Accelerating Diffusion Models via Early Stop of the Diffusion Process (Lyu et al., 2022).
    https://arxiv.org/abs/2205.12524
    Come-Closer-Diffuse-Faster (Chung, Sim and Ye, 2022), theorem 1.
    https://arxiv.org/abs/2112.05146
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.processes import Finite
from structdiff.processes.leaf import expand
from structdiff.random import Randomness
from structdiff.samplers.base import Carry, Sampler
from structdiff.samplers.wrapped import Wrapped
from structdiff.schedules import Grid

__all__ = [
    "Init",
    "Since",
    "Truncated",
    "check_classes",
    "check_leaves",
    "initial",
]

Leaves: TypeAlias = Mapping[str, Tensor]

Init: TypeAlias = Leaves | Callable[[Batch, Randomness], Leaves]
"""Leaves, for all samples or for each; or what draws them for a batch, such as an `nn.Module`."""


class Since(Grid):
    """The times of another grid from a start on.

    Arguments:
        grid: The whole grid.
        start: The first time, in (0, 1]; the times of the grid below it follow.

    Raises:
        ValueError: If start is out of range.

    Example:
        >>> from structdiff.schedules import UniformTime
        >>> Since(UniformTime(4), 0.6).times().tolist()
        [0.6, 0.5, 0.25, -1.0]
    """

    def __init__(self, grid: Grid, start: float) -> None:
        if not 0 < start <= 1:
            msg = f"start must be in (0, 1], got {start}"
            raise ValueError(msg)
        self.grid, self.start = grid, start

    def times(self) -> Tensor:
        """The times."""
        t = self.grid.times()
        first = torch.tensor([self.start], dtype=torch.float64)
        return torch.cat([first, t[t < self.start * (1 - 1e-9)]])


class Truncated(Wrapped):
    """A sampler that begins at its first time with given or generated records.

    Given entries stay. With clean records, a sampler whose grid begins at t = 1 draws from the
    prior as it would alone: there the records are forgotten.

    Arguments:
        sampler: Any sampler, on a grid that begins where the walk shall, see `Since`.
        init: The records, see `Init`; they must lie where the process's data lie (at a zero
            centre, on the manifold).
        noisy: Whether they are of the sampler's first time already, and not clean.

    Raises:
        ValueError: If the sampler is what walks around one, init is neither leaves nor what draws
            them, or the records have other leaves than the process or are not finite; on a call,
            if a generator's are so, their shapes are not the batch's, or a number is no class.

    Example:
        >>> from structdiff import DDIM, Cosine, Gaussian, Generator, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
        >>> sampler = DDIM(denoiser, Since(UniformTime(20), 0.1))
        >>> walk = Truncated(sampler, {"x": torch.tensor([-1.0, 0.0, 1.0])})
        >>> drawn = walk.sample(Batch.of(torch.zeros(3)), Generator(0))["x"]
        >>> bool((drawn - torch.tensor([-1.0, 0.0, 1.0])).abs().max() < 0.5)
        True
    """

    def __init__(self, sampler: Sampler, init: Init, *, noisy: bool = False) -> None:
        super().__init__(sampler)
        if not isinstance(init, Mapping) and not callable(init):
            has = f"init must be leaves by name, or what draws them, got {type(init).__name__}"
            raise ValueError(f"{has}: give {{'x': ...}}, or the leaves of a batch")
        if isinstance(init, Mapping):
            check_leaves(init, sampler.denoiser.process.empty(1))
        self.init, self.noisy = init, noisy
        self.first = float(sampler.times[0])

    def start(self) -> Carry:
        """The records at the first time."""
        sampler = self.sampler
        if self.first == 1 and not self.noisy:
            return sampler.start()
        x = initial(self.init, sampler.batch, self.beside(0))
        check_classes("init", x, sampler.process, noisy=self.noisy)
        if not self.noisy:
            x = sampler.process.diffuse(x, sampler.leaf_times[0], self.beside(1))
        return Carry(x)

    def step(self, carry: Carry, i: int) -> Carry:
        """That of the sampler."""
        return self.sampler.step(carry, i)


def check_leaves(init: Leaves, like: Leaves) -> None:
    """Refuse leaves of other names than the process has, and such that are not finite."""
    if init.keys() != like.keys():
        msg = f"init has the leaves {sorted(init)}, the process {sorted(like)}: give them all"
        raise ValueError(msg)
    broken = sorted(name for name, x in init.items() if not x.isfinite().all())
    if broken:
        msg = f"init of the leaves {broken} has a NaN or an infinity: give finite numbers"
        raise ValueError(msg)


def check_classes(title: str, leaves: Leaves, process: Any, *, noisy: bool = False) -> None:
    """Refuse numbers of leaves on classes that are no class (or symbol, where they are noisy)."""
    for name in process.offering(Finite):
        x, leaf = leaves.get(name), process[name]
        count = leaf.symbols if noisy else leaf.classes
        if x is not None and bool(((x < 0) | (x >= count)).any()):
            has = f"{title} of leaf {name!r} has numbers from {int(x.min())} to {int(x.max())}"
            raise ValueError(f"{has}: they must be classes, 0 to {count - 1}")


def initial(init: Init, batch: Batch, random: Randomness) -> dict[str, Tensor]:
    """The records for a batch, with its given entries in their place.

    Arguments:
        init: Leaves, or what draws them.
        batch: Gives shapes, dtypes, devices and given entries.
        random: Where a generator's noise comes from.

    Raises:
        ValueError: If names or shapes differ, or a number is not finite.
    """
    leaves = init if isinstance(init, Mapping) else init(batch, random)
    if not isinstance(leaves, Mapping):
        msg = f"init(batch, random) must return leaves by name, got {type(leaves).__name__}"
        raise ValueError(f"{msg}: return {{'x': ...}}")
    check_leaves(leaves, batch.leaves)
    return {name: _placed(name, x, batch) for name, x in leaves.items()}


def _placed(name: str, x: Tensor, batch: Batch) -> Tensor:
    like, held = batch[name], batch.given.get(name)
    if x.shape not in (like.shape, like.shape[1:]):
        must = f"{tuple(like.shape)} or {tuple(like.shape[1:])}"
        msg = f"init of leaf {name!r} must have shape {must}, got {tuple(x.shape)}"
        raise ValueError(msg)
    if x.is_floating_point() != like.is_floating_point():
        msg = f"init of leaf {name!r} must be {like.dtype} as in the batch, got {x.dtype}"
        raise ValueError(msg)
    x = x.to(like.device, like.dtype).expand_as(like)
    return x if held is None else torch.where(expand(held, like), like, x)
