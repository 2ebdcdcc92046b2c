r"""Predictor-corrector: steps back and forth at one time, between the steps of a sampler.

After each step of the sampler from t_{i-1} to t = t_i the walk goes back to an earlier time

    s = t - share (t_{i-1} - t)

with an estimate at t and fresh noise (eta = 1), and forth again by a draw of q(x_t | x_s). The
second move is exact and the first right to first order, so that both together have the law of
x_t as their stationary one, to first order: they wash out errors of the steps before. What one
round leaves over is of second order in t - s: a small share corrects more rightly, a large one
faster. On classes the limit of small shares is the corrector with the rates of the reversal and
of the noise together.

The correction of a step costs `rounds` calls; there is none after the last step, to clean data.

References:
    Score-Based Generative Modeling through SDEs (Song et al., 2021), section 4.2 and appendix G.
    https://arxiv.org/abs/2011.13456 There the corrector is a Langevin step.
    A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022), section 4.4.
    https://arxiv.org/abs/2205.14987
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from structdiff.processes import Markov
from structdiff.samplers.base import Carry, Sampler, Space
from structdiff.samplers.wrapped import Wrapped, check_present

__all__ = ["PredictorCorrector"]


class PredictorCorrector(Wrapped):
    """A sampler with corrections after its steps.

    Arguments:
        sampler: The predictor. With corrections its steps must use present estimates alone: past
            ones were made for a state that the corrections have left.
        rounds: Number of corrections after a step, at least 0; with 0 this is the sampler.
        share: Length of a correction in lengths of the step before it, positive; the error that
            it brings grows with the square, and from about 1 on may be more than it removes.

    Raises:
        ValueError: If a number is out of range or the process is not Markov; on a call, if a
            sampler that is corrected uses estimates of earlier steps.

    Example:
        >>> from structdiff import DDPM, Batch, Cosine, Gaussian, Generator, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
        >>> sampler = PredictorCorrector(DDPM(denoiser, UniformTime(10)), rounds=2)
        >>> sampler.bind(Batch.of(torch.zeros(3)), Generator(0)).steps
        10
    """

    def __init__(self, sampler: Sampler, rounds: int = 1, *, share: float = 0.5) -> None:
        super().__init__(sampler)
        if rounds < 0:
            msg = f"rounds must be at least 0, got {rounds}"
            raise ValueError(msg)
        if not 0 < share < float("inf"):
            msg = f"share must be positive and finite, got {share}"
            raise ValueError(msg)
        if not sampler.denoiser.process.offers(Markov):
            name = type(sampler.denoiser.process).__name__
            msg = (
                f"the process must be Markov to go back to noise between two times, {name} is not"
            )
            raise ValueError(msg)
        self.rounds, self.share = rounds, share

    earlier: list[Any]
    back: list[Any]

    def prepare(self) -> None:
        """Coefficients of the moves back, and the times that they lead to."""
        process, times = self.sampler.process, self.sampler.times
        t = times[1:-1]
        s = (t - self.share * (times[:-2] - t)).clamp(min=0)
        pairs = torch.stack([t, s], 1) if self.rounds else t.new_empty(0, 2)
        self.back = [process.plan(pair, 1.0)[0] for pair in pairs]
        device = self.sampler.batch.device
        self.earlier = [process.times(time) for time in s.to(device).unbind()]

    def order(self, space: Space) -> int:
        """First with corrections, that of the sampler without."""
        return 1 if self.rounds else self.sampler.order(space)

    def start(self) -> Carry:
        """That of the sampler."""
        return self.sampler.start()

    def step(self, carry: Carry, i: int) -> Carry:
        """The carry after step i and its corrections."""
        carry = self.sampler.step(carry, i)
        if i + 1 < self.steps:
            for turn in range(self.rounds):
                carry = self.correct(carry, i, turn)
        return carry

    def correct(self, carry: Carry, i: int, turn: int) -> Carry:
        """Back to the earlier time and forth again."""
        sampler = self.sampler
        check_present(carry, sampler)
        process: Any = sampler.process
        estimate = sampler.denoise(carry.x, i + 1, carry.previous)
        back, forth = (self.beside(i, 2 * turn + move, 2 * self.rounds) for move in (0, 1))
        x_s = process.step(carry.x, estimate, self.back[i], back)
        x_t = process.corrupt(x_s, self.earlier[i], sampler.leaf_times[i + 1], forth)
        return replace(carry, x=x_t, previous=estimate, calls=carry.calls + 1)
