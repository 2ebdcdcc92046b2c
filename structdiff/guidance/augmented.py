r"""Cascades: a leaf that is given, but noisy, at a level that the model is told.

A cascade draws a coarse leaf first and then, given it, a finer one. The second stage was trained
on coarse leaves of the data and is shown drawn ones, whose errors it takes for signal.
Conditioning augmentation noises the coarse leaf to a time s, and tells the second stage s: with
independent leaf times every leaf has a clock of its own, so s is an input as it is, and s = 0
(with a schedule whose sigma(0) is 0) leaves the leaf as it was. With exact denoisers and the
draws c ~ p(c), c_s ~ q(c_s | c), x ~ p(x | c_s) the law of x is p(x) for every s.

References:
    Cascaded Diffusion Models for High Fidelity Image Generation (Ho et al., 2022), section 4:
    truncated and non-truncated conditioning augmentation. https://arxiv.org/abs/2106.15282
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate, Process
from structdiff.random import Randomness

__all__ = ["Augmented"]


class Augmented(Denoiser):
    """A denoiser that is told that given leaves are noisy.

    Arguments:
        denoiser: A denoiser of a product, trained with independent leaf times.
        levels: Name of a leaf to the time s of its given rows, in [0, 1].

    Raises:
        ValueError: If a leaf is unknown or a time out of range; on a call, if such a leaf is not
            given.

    Example:
        >>> from structdiff import DDIM, Flow, Gaussian, Generator, Product, UniformTime
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"low": Gaussian(Flow()), "high": Gaussian(Flow())})
        >>> value = torch.tensor([-1.0, 1.0])
        >>> denoiser = ExactDenoiser(process, Batch.of({"low": value, "high": 2 * value}))
        >>> second = Augmented(denoiser, {"low": 0.2})
        >>> noisy = second.augment(Batch.of({"low": value, "high": 0 * value}), Generator(0))
        >>> DDIM(second, UniformTime(20)).sample(noisy, Generator(1))["high"]
        tensor([-2.,  2.])
    """

    def __init__(self, denoiser: Denoiser, levels: Mapping[str, float]) -> None:
        super().__init__()
        process: Any = denoiser.process
        names = process.offering(Process)
        unknown = sorted(levels.keys() - set(names))
        if unknown:
            msg = f"levels names {unknown}, but the leaves are {sorted(names)}"
            raise ValueError(msg)
        if not all(0 <= s <= 1 for s in levels.values()):
            msg = f"levels must be times in [0, 1], got {dict(levels)}"
            raise ValueError(msg)
        self.denoiser, self.levels = denoiser, dict(levels)
        self.process = denoiser.process

    def augment(self, batch: Batch, random: Randomness) -> Batch:
        """The batch with these leaves noised to their levels, and given.

        Arguments:
            batch: Clean values of the leaves, and placeholders of the others.
            random: Where the noise comes from.
        """
        process: Any = self.process
        free = batch.with_given({})  # rows that are held have no noise, or fix a frame
        noisy = {}
        for name, s in self.levels.items():
            at = torch.tensor(s, dtype=torch.float64, device=batch.device)
            scoped = random.scoped(leaf=name, ids=batch.ids, layout=batch.layouts[name])
            noisy[name] = process[name].bind(free.only(name)).diffuse(batch[name], at, scoped)
        rows = {n: torch.ones(len(x), dtype=torch.bool, device=x.device) for n, x in noisy.items()}
        return batch.with_leaves({**batch.leaves, **noisy}).with_given({**batch.given, **rows})

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimate; given rows of these leaves are at their levels."""
        missing = [name for name in self.levels if name not in batch.given]
        if missing:
            msg = f"the leaves {missing} must be given: use the batch that `augment` returns"
            raise ValueError(msg)
        told = {
            name: torch.where(time < 0, self.levels[name], time) if name in self.levels else time
            for name, time in t.items()
        }
        given = {name: mask for name, mask in batch.given.items() if name not in self.levels}
        said: Mapping[str, Estimate] = self.denoiser(batch.with_given(given), told, previous)
        return said
