r"""Routing: which rows are denoised in a step, and which stay noise, is decided by their scores.

In a step from t to s all rows on classes are drawn from their estimates. Of the n rows of a
sample those round(alpha_s n) of the highest score are denoised, all others are noise; which ones
these are is remembered. The score of a row is

- its `confidence`, log p(x_0) at the class that was drawn (Zheng et al., Chang et al.),
- its `purity`, max_k log p_k, whatever was drawn (Tang et al.), or
- nothing (`even`): with noise the order is random, without it is from left to right,

plus `noise` times the time t times a Gumbel number. A row keeps the score at which it was
denoised. It stays denoised for good, or if `revisable` goes back to noise when others score
higher.

Confident orders give samples of higher likelihood and lower diversity: the law is not that of the
model. In random order it is, on an absorbing chain: the rows that are denoised in a step are any
of that number alike. Ancestral sampling draws their number, here it is as expected, rounded; where
no step denoises two rows of a sample the law is exact for both.

References:
    A Reparameterized Discrete Diffusion Model for Text Generation (Zheng et al., 2023).
    https://arxiv.org/abs/2302.05737
    MaskGIT: Masked Generative Image Transformer (Chang et al., 2022), section 3.2.
    https://arxiv.org/abs/2202.04200
    Improved Vector Quantized Diffusion Models (Tang et al., 2022), for the purity.
    https://arxiv.org/abs/2205.16007
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.processes import Coefficients, Estimate
from structdiff.processes.leaf import expand, sum_event
from structdiff.samplers.ancestral import Ancestral
from structdiff.samplers.base import Carry
from structdiff.samplers.wrapped import Wrapped, class_leaves, free_rows
from structdiff.schedules import Grid

__all__ = ["Routed", "Score", "confidence", "even", "purity"]

Score: TypeAlias = Callable[[Any, Estimate, Tensor, Tensor, Any], Tensor]
"""(process of the leaf, estimate, drawn x_0, x_t, its times) to a score per row, `(rows,)`."""


def confidence(process: Any, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Any) -> Tensor:
    """log p(x_0), the log-probability of what was drawn."""
    loss: Tensor = process.loss(estimate, x_0, x_t, t)
    return -loss


def purity(process: Any, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Any) -> Tensor:
    """max_k log p_k."""
    del process, x_0, x_t, t
    return sum_event(estimate.value.amax(-1))


def even(process: Any, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Any) -> Tensor:
    """Zero for all: noise alone tells rows apart, or their order where there is none."""
    del process, estimate, t, x_t
    return sum_event(torch.zeros(x_0.shape, dtype=torch.float64, device=x_0.device))


class Parted(Ancestral):
    """Leaves on classes are drawn clean at every step, all others take a step at eta = 1.

    Arguments:
        denoiser: The denoiser.
        grid: Times of the steps.
    """

    def __init__(self, denoiser: Denoiser, grid: Grid) -> None:
        super().__init__(denoiser, grid, eta=1.0)
        self.names = class_leaves(denoiser, "routing")

    def plan(self, times: Tensor) -> Sequence[Coefficients]:
        """Coefficients by leaf."""
        steps = self.process.plan(times, 1.0)
        clean = [self.process.plan(torch.stack([t, times[-1]]), 1.0)[0] for t in times[:-1]]
        return [
            {**step, **{name: whole[name] for name in self.names}}
            for step, whole in zip(steps, clean, strict=True)
        ]


class Routed(Wrapped):
    """Denoise the rows of the highest scores first.

    Leaves on other spaces than classes take the steps of `DDPM`. Given rows are denoised from the
    start and are not counted. One call a step.

    Arguments:
        denoiser: The denoiser; its process has a leaf on classes.
        grid: Times of the steps.
        score: `confidence`, `purity`, `even` or a function of one's own, see `Score`.
        noise: Factor on time times a Gumbel number, which is added to the score; at least 0.
        revisable: Whether denoised rows may go back to noise.

    Raises:
        ValueError: If the noise is negative or no leaf is on classes.

    Example:
        >>> from structdiff import Batch, Categorical, Flow, Generator, Layout
        >>> from structdiff import Product, UniformTime, absorbing
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"x": Categorical(Flow(), absorbing(3))})
        >>> layout = {"x": Layout.ragged([2, 2])}
        >>> data = Batch({"x": torch.tensor([0, 2, 1, 1])}, layout)
        >>> sampler = Routed(ExactDenoiser(process, data), UniformTime(2))
        >>> blank = Batch({"x": torch.zeros(4, dtype=torch.long)}, layout)
        >>> sampler.sample(blank, Generator(1))["x"]
        tensor([1, 1, 0, 2])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        grid: Grid,
        *,
        score: Score = confidence,
        noise: float = 0.0,
        revisable: bool = False,
    ) -> None:
        super().__init__(Parted(denoiser, grid))
        if noise < 0:
            msg = f"noise must be at least 0, got {noise}"
            raise ValueError(msg)
        self.score, self.noise, self.revisable = score, noise, revisable
        self.names = class_leaves(denoiser, "routing")

    alpha: dict[str, Tensor]
    free: dict[str, Tensor]

    def prepare(self) -> None:
        """alpha at the times, and which rows are not given, by leaf."""
        batch, times = self.sampler.batch, self.sampler.times.to(self.sampler.batch.device)
        self.alpha = {n: torch.sigmoid(self.leaf(n).clock(times)) for n in self.names}
        self.free = {n: free_rows(batch, n) for n in self.names}

    def leaf(self, name: str) -> Any:
        """The process of a leaf."""
        process: Any = self.sampler.process
        return process[name]

    def start(self) -> Carry:
        """Noise. No row has been denoised (-inf) but the given ones (inf)."""
        scores = {
            n: torch.where(free, -torch.inf, torch.inf).double() for n, free in self.free.items()
        }
        return replace(self.sampler.start(), memory=scores)

    def step(self, carry: Carry, i: int) -> Carry:
        """Draw all rows and keep those of the highest scores."""
        drawn = self.sampler.step(carry, i)
        estimates = drawn.previous or {}
        noise = self.sampler.process.prior(self.beside(i, 0, 2)) if self.revisable else carry.x
        x, memory = dict(drawn.x), {}
        for name in self.names:
            x_t, x_0, before = carry.x[name], drawn.x[name], carry.memory[name]
            done = before > -torch.inf
            score = torch.where(done, before, self.fresh(name, estimates[name], x_0, x_t, i))
            chosen = self.highest(name, score, i)
            clean, noisy = (
                torch.where(expand(done, x_t), *pair) for pair in ((x_t, x_0), (noise[name], x_t))
            )
            x[name] = torch.where(expand(chosen, x_t), clean, noisy)
            kept = score if self.revisable else torch.inf
            memory[name] = torch.where(chosen, kept, -torch.inf)
        return replace(drawn, x=x, memory=memory)

    def fresh(self, name: str, estimate: Estimate, x_0: Tensor, x_t: Tensor, i: int) -> Tensor:
        """Scores of rows that were drawn in step i."""
        sampler = self.sampler
        score = self.score(self.leaf(name), estimate, x_0, x_t, sampler.leaf_times[i][name])
        if self.noise > 0:
            u = self.uniform(self.beside(i, 1, 2), name, "order")
            score = score - self.noise * float(sampler.times[i]) * torch.log(-torch.log(u))
        # Not -inf, which says that a row is noise.
        return score.double().clamp(min=torch.finfo(torch.float64).min)

    def highest(self, name: str, score: Tensor, i: int) -> Tensor:
        """The rows to be clean after step i, `(rows,)`: the given ones, and the best others."""
        layout, free = self.sampler.batch.layouts[name], self.free[name]
        count = torch.round(self.alpha[name][i + 1] * layout.sum(free.double()))
        held = layout.sum((~free).double())
        return layout.rank(-score) < layout.spread(count + held)
