r"""Noisy states that agree with what was measured: projection in the state.

After each step the seen part of x_s is mixed with that of a draw of q(x_s | measured),

    x_s' = x_s + mix H^+ H (v - x_s),    v = alpha_s H^+ y + sigma_s z,

where H^+ H projects to what a linear H sees. With mix 1 the last step returns H x_0 = y. The
measured part has noise of its own at every step, and does not look ahead: for a mask this is
`RePaint` with one repeat. Low frequencies that are replaced (`low_pass`) carry the coarse shape of
a picture over to another one, in what the model takes for detail.

References:
    Solving Inverse Problems in Medical Imaging with Score-Based Generative Models (Song, Shen,
    Xing and Ermon, 2022), algorithm 2; `mix` is its lambda. https://arxiv.org/abs/2111.08005
    ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models (Choi et al., 2021),
    eq. 9. https://arxiv.org/abs/2108.02938
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.guidance.inverse.consistent import check_mix
from structdiff.guidance.inverse.observation import Observation, check_factored, row_times
from structdiff.samplers.base import Carry, Record, Sampler
from structdiff.samplers.wrapped import Wrapped

__all__ = ["Projection"]


class Projection(Wrapped):
    """A sampler whose states are drawn to a linear measurement.

    Arguments:
        sampler: Any sampler.
        seen: What was measured; its noise is not looked at.
        mix: How much of it is believed, in [0, 1].

    Raises:
        ValueError: If the leaf is not on R^n, the singular values of the operator are not known,
            or mix is out of range; on a call, if y has other rows than the leaf.

    Example:
        >>> from structdiff import Batch, DDPM, Cosine, Gaussian, Generator, UniformTime
        >>> from structdiff.operators import Downsample
        >>> from structdiff.testing import NormalDenoiser
        >>> process = Gaussian(Cosine(), event=(4,))
        >>> denoiser = NormalDenoiser(process, torch.zeros(1, 4), torch.ones(1))
        >>> seen = Observation(Downsample((4,), 2), torch.tensor([3.0, 5.0]))
        >>> sampler = Projection(DDPM(denoiser, UniformTime(8)), seen)
        >>> seen.operator(sampler.sample(Batch.of(torch.zeros(1, 4)), Generator(0))["x"])
        tensor([[3.0000, 5.0000]])
    """

    known: Tensor
    noisy: tuple[Tensor, ...]
    leaf: Any

    def __init__(self, sampler: Sampler, seen: Observation, *, mix: float = 1.0) -> None:
        super().__init__(sampler)
        check_mix(mix)
        self.operator = check_factored(seen, sampler.denoiser.process)
        self.seen, self.mix = seen, mix

    def prepare(self) -> None:
        """H^+ y, for each row."""
        process: Any = self.sampler.process
        x = self.sampler.batch[self.seen.leaf]
        self.seen.check_rows(x)
        self.leaf = process[self.seen.leaf]
        self.known = self.operator.pinv(self.seen.y.to(x)).expand_as(x)
        self.noisy = row_times(self.sampler, self.seen.leaf).unbind()

    def start(self) -> Carry:
        """A draw from the prior, mixed."""
        carry = self.sampler.start()
        return replace(carry, x=self.mixed(carry.x, 0))

    def step(self, carry: Carry, i: int) -> Carry:
        """The carry after step i, mixed."""
        carry = self.sampler.step(carry, i)
        return replace(carry, x=self.mixed(carry.x, i + 1))

    def mixed(self, record: Record, i: int) -> Record:
        """Leaves at the i-th time with the measured part; given entries stay."""
        batch, name = self.sampler.batch, self.seen.leaf
        random = self.beside(i).scoped(leaf=name, ids=batch.ids, layout=batch.layouts[name])
        noisy = self.leaf.diffuse(self.known, self.noisy[i], random)
        c = self.operator.analysis(noisy - record[name])
        seen = torch.where(self.operator.values(c) > 0, c, 0.0)
        x = record[name] + self.mix * self.operator.synthesis(seen)
        return {**record, name: self.leaf.hold(x)}
