r"""Steps that an opponent cannot tell from those of the data: diffusion in a few large steps.

Over a large step the law of x_s given x_t is not normal, so that a posterior mean says too little.
A *generator* draws an x_0 = G(x_t, z, t) with noise z of its own instead, and the process steps to
x_s given x_t and that x_0: so it can have many modes. An opponent D tells pairs (x_s, x_t) of the
data, x_s ~ q(x_s), x_t ~ q(x_t | x_s), from those of the generator at the same x_t. Both make
their own term small, f(a) = log(1 + e^-a) and sg: no gradient,

    opponent:     f(D(x_s)) + f(-D(sg(x_s'))) + (w / 2) |grad D(x_s)|^2,
    adversarial:  f(sg(D)(x_s')).

Without the penalty the best opponent is log p / p', p the law of x_s given x_t in the data and p'
the generator's. Against it the gradient of the generator's term is that of 2 KL((p + p') / 2 | p),
which is convex in p' and least at p' = p alone.

References:
    Tackling the Generative Learning Trilemma with Denoising Diffusion GANs (Xiao, Kreis and
    Vahdat, 2021), eqs. 4 to 6. https://arxiv.org/abs/2112.07804
    Generative Adversarial Networks (Goodfellow et al., 2014): the generator's term that does not
    saturate. https://arxiv.org/abs/1406.2661
    Which Training Methods for GANs do actually Converge? (Mescheder, Geiger and Nowozin, 2018),
    eq. 9: the penalty. https://arxiv.org/abs/1801.04406
    Analyzing and Improving the Image Quality of StyleGAN (Karras et al., 2020), section 3.1: the
    penalty in some updates. https://arxiv.org/abs/1912.04958
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.denoiser import LIMIT, Denoiser
from structdiff.objectives.denoising import Terms
from structdiff.objectives.implicit import squares
from structdiff.objectives.times import UniformTimes
from structdiff.processes import Estimate, Flowing, Markov, Process
from structdiff.random import Randomness
from structdiff.schedules import Grid

__all__ = ["AdversarialSteps", "ConditionalGenerator", "Duel", "Pair", "held_still"]


def held_still(module: nn.Module, *inputs: Any) -> Tensor:
    """What a module says, with gradients of its inputs and none of its weights."""
    still = {name: value.detach() for name, value in module.named_parameters()}
    said: Tensor = functional_call(module, still, inputs)
    return said


class ConditionalGenerator(Denoiser):
    """A denoiser whose network sees fresh normal noise as a condition: it draws an x_0.

    The noise is torch's own, as that of dropout: `torch.manual_seed` sets it.

    Arguments:
        denoiser: The denoiser whose network knows the condition.
        size: Entries of the noise z of a sample, at least 1.
        name: Name of the condition.

    Raises:
        ValueError: If there are no entries; on a call, if the batch has a condition of this name.

    Example:
        >>> from structdiff.denoiser import NetworkDenoiser
        >>> from structdiff.processes import Gaussian, Product
        >>> from structdiff.schedules import Cosine
        >>> class Noise(nn.Module):
        ...     def forward(self, batch, clock, previous):
        ...         return {"x": batch.condition["latent"][:, 0]}
        >>> denoiser = NetworkDenoiser(Noise(), Product({"x": Gaussian(Cosine())}))
        >>> batch, t = Batch.of(torch.zeros(2)), {"x": torch.tensor(0.5)}
        >>> first, second = ConditionalGenerator(denoiser, 1)(batch, t)["x"].value
        >>> bool(first == second)
        False
    """

    def __init__(self, denoiser: Denoiser, size: int, *, name: str = "latent") -> None:
        super().__init__()
        if size < 1:
            msg = f"size must be at least 1, got {size}: without noise nothing is drawn"
            raise ValueError(msg)
        self.denoiser, self.process = denoiser, denoiser.process
        self.size, self.name = size, name

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The estimate at noise of this call."""
        if self.name in batch.condition:
            msg = f"the batch already has a condition {self.name!r}"
            raise ValueError(f"{msg}: give the noise another name")
        like = next(iter(batch.leaves.values()))
        z = torch.randn(batch.samples, self.size, dtype=like.dtype, device=like.device)
        seen = replace(batch, condition={**batch.condition, self.name: z})
        said: Mapping[str, Estimate] = self.denoiser(seen, t, previous)
        return said


class Duel(nn.Module):
    """A denoiser and its opponent, as one module to train.

    Arguments:
        denoiser: The denoiser, a `ConditionalGenerator` where steps have several modes.
        opponent: Called with the batch at s, the batch at t and the clock of t by leaf, within
            +-LIMIT; says how real each sample is, `(samples,)`.
    """

    denoiser: Denoiser

    def __init__(self, denoiser: Denoiser, opponent: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.opponent = denoiser, opponent


class Pair(NamedTuple):
    """Samples at two neighbouring times of a grid.

    Arguments:
        later: The samples at t.
        earlier: The same at s, before t on the way of noise.
        t: Times of rows by leaf.
        coefficients: Of the process's step from t to s.
    """

    later: Batch
    earlier: Batch
    t: Mapping[str, Tensor]
    coefficients: Any


class AdversarialSteps:
    """The terms of a denoiser and of its opponent, on the steps of a sampler's grid.

    Each player makes its own term small, so the `Trainer` of a `Duel` takes one step of both at
    each update. The denoiser is for `DDPM` on the same grid. Each sample looks at one step; they
    are spread over the samples in their order, which must be a random one, as `Source` has.

    With the parameterisation `Preconditioned` the denoiser begins near the mean of x_0 of normal
    data, from which no mode is missing; one that begins elsewhere may find but a few of them.

    Arguments:
        grid: The sampler's grid, of few steps.
        penalty: The factor w on the squared gradient of the opponent at the data, at least 0. The
            gradient of a good opponent is as large as one over the finest detail of the data.
        every: In one of how many updates, by chance, the penalty is made, then so many times as
            large.

    Raises:
        ValueError: If a number is out of range; on a call, if a step of the process cannot be
            differentiated, or the opponent's answer has another shape.
    """

    def __init__(self, grid: Grid, *, penalty: float = 0.0, every: int = 1) -> None:
        if not 0 <= penalty < math.inf:
            msg = f"penalty must be at least 0 and finite, got {penalty}"
            raise ValueError(msg)
        if every < 1:
            msg = f"every must be at least 1, got {every}"
            raise ValueError(msg)
        self.times, self.penalty, self.every = grid.times(), penalty, every

    def __call__(self, duel: Duel, batch: Batch, random: Randomness) -> Terms:
        """Both terms of a clean batch."""
        pair = self.pair(duel.denoiser.process, batch, random)
        made = self.made(duel.denoiser, pair, random.scoped(leaf="made"))
        terms = {
            "adversarial": self.adversarial(duel, pair, made),
            "opponent": self.told(duel, pair, made, random.scoped(leaf="penalty")),
        }
        return Terms(terms, duel.denoiser.process.bind(batch).clock(pair.t))

    def pair(self, process: Process, batch: Batch, random: Randomness) -> Pair:
        """Samples of the data at a step of each."""
        check_differentiable(process)
        bound: Any = process.bind(batch)
        share = UniformTimes(0.0, 1.0).draw(batch.samples, random, part=batch.part)
        last = len(self.times) - 2
        step = (share * (last + 1)).long().clamp(max=last)
        t, s = (self.of_rows(bound, batch, self.times[step + k]) for k in (0, 1))
        x_s = bound.diffuse(batch.leaves, s, random.scoped(leaf="earlier"))
        x_t = bound.corrupt(x_s, s, t, random)
        grid = {name: torch.stack([t[name], s[name]]) for name in t}
        (coefficients,) = bound.plan(grid, 1.0)
        return Pair(batch.with_leaves(x_t), batch.with_leaves(x_s), t, coefficients)

    def of_rows(self, process: Any, batch: Batch, times: Tensor) -> Mapping[str, Tensor]:
        """Times of samples as the leaves see them."""
        there = times.to(batch.device)
        spread = {name: layout.spread(there) for name, layout in batch.layouts.items()}
        seen: Mapping[str, Tensor] = process.times(spread)
        return seen

    def made(self, denoiser: Denoiser, pair: Pair, random: Randomness) -> Batch:
        """The samples at s that the denoiser makes of those at t."""
        process, later = denoiser.process.bind(pair.later), pair.later
        estimate = denoiser(later, pair.t, None)
        return later.with_leaves(process.step(later.leaves, estimate, pair.coefficients, random))

    def adversarial(self, duel: Duel, pair: Pair, made: Batch) -> Tensor:
        """What the denoiser makes small, `(samples,)`; the opponent's weights stay."""
        clock = seen_clock(duel, pair)
        return F.softplus(-checked(held_still(duel.opponent, made, pair.later, clock), made))

    def told(self, duel: Duel, pair: Pair, made: Batch, random: Randomness) -> Tensor:
        """What the opponent makes small, `(samples,)`; the denoiser's weights stay."""
        chance = self.penalty > 0 and self.every > 1
        due = not chance or float(random.uniform((1,), torch.float64, "cpu")) < 1 / self.every
        factor = 0.5 * self.penalty * self.every if due else 0.0
        clock, still = seen_clock(duel, pair), {n: x.detach() for n, x in made.leaves.items()}
        real = {n: x.detach().requires_grad_(factor > 0) for n, x in pair.earlier.leaves.items()}
        data = pair.earlier.with_leaves(real)
        judged = checked(duel.opponent(data, pair.later, clock), data)
        fooled = checked(duel.opponent(made.with_leaves(still), pair.later, clock), made)
        loss = F.softplus(-judged) + F.softplus(fooled)
        return loss + factor * steepness(duel, judged, data) if factor else loss


def steepness(duel: Duel, judged: Tensor, data: Batch) -> Tensor:
    """Squared gradient of what was judged where the data may move, `(samples,)`."""
    slopes = torch.autograd.grad(judged.sum(), list(data.leaves.values()), create_graph=True)
    process: Any = duel.denoiser.process.bind(data)
    free = process.tangent(data.leaves, dict(zip(data.leaves, slopes, strict=True)))
    return torch.stack([squares(data, name, v) for name, v in free.items()]).sum(0)


def seen_clock(duel: Duel, pair: Pair) -> dict[str, Tensor]:
    """The clock of t by leaf, within +-LIMIT."""
    clock = duel.denoiser.process.bind(pair.later).clock(pair.t)
    return {name: value.clamp(-LIMIT, LIMIT) for name, value in clock.items()}


def checked(judged: Tensor, batch: Batch) -> Tensor:
    """The opponent's answer, one number for each sample."""
    if judged.shape != (batch.samples,):
        must = f"of shape {(batch.samples,)}, one for each sample"
        msg = f"the opponent must return numbers {must}, got {tuple(judged.shape)}"
        raise ValueError(msg)
    return judged


def check_differentiable(process: Process) -> None:
    """Refuse a process whose steps cannot be differentiated, or cannot be drawn from data."""
    if not (process.offers(Markov) and process.offers(Flowing)):
        need = "a kernel between any two times and steps that can be differentiated"
        msg = f"an opponent needs {need}: not all leaves of the process are Markov and Flowing"
        raise ValueError(f"{msg}, as those on R^n and Brownian ones are; classes are not")
