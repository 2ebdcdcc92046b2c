r"""Remasking: now and then a row is noised anew from what it is estimated to be.

In a step from t to s each row on classes is, with probability `share`, a fresh draw of

    q(x_s | x_0),    x_0 drawn from the estimate at t,

and otherwise the step of a sampler. Given x_0 both have the law q(x_s | x_0), so the mixture
keeps the marginals of the process whatever the share; and what a network drew wrongly, before
the neighbours were there, is drawn again. (With the exact denoiser there is nothing to mend.)
On an absorbing chain a share S gives the remasking kernel of Wang et al. with their
sigma_t = S (1 - alpha_s), where at most min(1, (1 - alpha_s) / alpha_t) is possible.

Rows that are noised anew in one step are drawn independently of each other: like that of a
sampler's step this error vanishes as steps get short if the share falls with their length
(`share=lambda t: c / steps`), while a constant share leaves one of second order in it.
Leaves on other spaces take the sampler's step: there the estimate is a mean and no draw, and
noising it anew would lose spread.

References:
    Remasking Discrete Diffusion Models with Inference-Time Scaling (Wang et al., 2025).
    https://arxiv.org/abs/2503.00307
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.samplers.base import Carry, Sampler
from structdiff.samplers.wrapped import Wrapped, class_leaves

__all__ = ["Remasking"]


class Remasking(Wrapped):
    """A sampler some of whose rows on classes are noised anew.

    It costs what the sampler costs.

    Arguments:
        sampler: Any sampler of a record with leaves on classes, all of its leaves Markov.
        share: Probability that a row is noised anew in a step, in [0, 1]; or a function from the
            times at which steps start, `(steps,)`, to it. The last step, to clean data, is the
            sampler's.

    Raises:
        ValueError: If a share is no probability, or no leaf is on classes.

    Example:
        >>> from structdiff import DDPM, Batch, Categorical, Flow, Generator
        >>> from structdiff import Product, UniformTime, absorbing
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"x": Categorical(Flow(), absorbing(3))})
        >>> denoiser = ExactDenoiser(process, Batch.of(torch.tensor([0, 2])))
        >>> sampler = Remasking(DDPM(denoiser, UniformTime(16)), 0.1)
        >>> sampler.sample(Batch.of(torch.zeros(8, dtype=torch.long)), Generator(0))["x"].unique()
        tensor([0, 2])
    """

    def __init__(self, sampler: Sampler, share: float | Callable[[Tensor], Tensor]) -> None:
        super().__init__(sampler)
        starts = sampler.times[:-1]
        shares = share(starts) if callable(share) else torch.as_tensor(share)
        if not bool(((shares >= 0) & (shares <= 1)).all()):
            worst = float(shares.min()), float(shares.max())
            msg = f"share must be a probability, in [0, 1], got {worst[0]:g} to {worst[1]:g}"
            raise ValueError(msg)
        self.names = class_leaves(sampler.denoiser, "remasking")
        self.share = shares.double().expand(starts.shape).tolist()

    clean: list[Any]

    def prepare(self) -> None:
        """Coefficients of steps to clean data."""
        process, times = self.sampler.process, self.sampler.times
        ends = (torch.stack([t, times[-1]]) for t in times[:-1])
        self.clean = [process.plan(pair, 1.0)[0] for pair in ends]

    def start(self) -> Carry:
        """That of the sampler."""
        return self.sampler.start()

    def step(self, carry: Carry, i: int) -> Carry:
        """The carry after step i, with some rows noised anew."""
        sampler = self.sampler
        estimate, carry = sampler.effective(carry, i)
        x_s = sampler.advance(carry.x, estimate, i)
        if self.share[i] == 0 or i + 1 == self.steps:
            return replace(carry, x=x_s)
        process: Any = sampler.process
        draw, noise, choice = (self.beside(i, part, 3) for part in range(3))
        x_0 = process.step(carry.x, estimate, self.clean[i], draw)
        fresh = process.diffuse(x_0, sampler.leaf_times[i + 1], noise)
        again = {n: self.uniform(choice, n, "choice") < self.share[i] for n in self.names}
        return replace(carry, x=process.graft(x_s, fresh, again))
