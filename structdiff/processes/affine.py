r"""The Gaussian process with any covariance and any terminal mean, by a change of coordinates.

With an invertible A and a mean m, x = m + A u and a Gaussian process on u,

    x_t = m + alpha_t (x_0 - m) + sigma_t A z,

noise of covariance Sigma = A A^T that ends in N(m, sigma_1^2 Sigma). Where the schedule has
levels by entry of u, alpha_t and sigma_t are diagonal there, so the signal fades as
C_t = A alpha_t A^{-1}: blurring in a basis of cosines, coarse to fine in one of wavelets. Mean
and factor may be read from the condition of the batch.

Estimates are the posterior means E[x_0 | x_t] of the data themselves; what else they say (extras)
is about entries of u. A network sees and predicts vectors of x, without the mean: `encode` gives
A times the parameterisation's input, and the output is A times the parameterisation's: `Noise`
predicts A z, `Data` predicts x_0 - m. Errors are measured in u:
(a - b)^T Sigma^{-1} (a - b).

References:
    Score-based Denoising Diffusion with Non-Isotropic Gaussian Noise Models (Voleti, Pal and
    Oberman, 2022). https://arxiv.org/abs/2210.12254
    PriorGrad: Improving Conditional Denoising Diffusion Models with Data-Dependent Adaptive Prior
    (Lee et al., 2022), algorithm 1. https://arxiv.org/abs/2106.06406
    Grad-TTS (Popov et al., 2021), eqs. 1-5. https://arxiv.org/abs/2105.06337
    CARD: Classification and Regression Diffusion Models (Han, Zheng and Zhou, 2022), eq. 3.
    https://arxiv.org/abs/2206.07275
    Soft Diffusion: Score Matching for General Corruptions (Daras et al., 2022).
    https://arxiv.org/abs/2209.05442
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.parameterisations import Parameterisation
from structdiff.processes.base import Estimate, Rule, Scored, Tractable
from structdiff.processes.covariance import (
    Constant,
    Factor,
    Scaling,
    Source,
    check_broadcast,
    fitted,
    source,
)
from structdiff.processes.gaussian import Gaussian, GaussianStep
from structdiff.processes.leaf import expand, sum_event
from structdiff.random import Randomness
from structdiff.schedules import Level, Schedule
from structdiff.spaces import Euclidean, Whole

__all__ = ["Affine"]


class Affine(Tractable, Scored):
    """Gaussian noise of a covariance A A^T around a mean.

    Arguments:
        process: The process of u, on all of R^n.
        factor: A; the identity by default.
        mean: m, a tensor that broadcasts against a row, or read from the condition; 0 by default.

    Raises:
        ValueError: If the process lives in a subspace, or factor or mean do not fit a row.

    Example:
        >>> from structdiff import Cosine, Generator
        >>> from structdiff.processes.covariance import FromCondition
        >>> process = Affine(Gaussian(Cosine()), mean=FromCondition("centre"))
        >>> batch = Batch.of(torch.zeros(2)).with_condition({"centre": torch.tensor([0.0, 9.0])})
        >>> process.bind(batch).prior(Generator(0))
        tensor([1.5410, 8.7066])
    """

    centre: Tensor
    known: Tensor
    held: Tensor | None

    def __init__(
        self,
        process: Gaussian,
        factor: Factor | None = None,
        mean: Tensor | Source | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(process.space, Whole):
            name = type(process.space).__name__
            msg = f"process must live in all of R^n, got the subspace {name}"
            raise ValueError(msg)
        self.process = process
        self.factor = Scaling(torch.ones(())) if factor is None else factor
        self.mean_source = source(torch.zeros(()) if mean is None else mean)
        self.factor.check(process.event)
        if isinstance(self.mean_source, Constant):
            check_broadcast("mean", self.mean_source.value.shape, process.event)

    @property
    def schedule(self) -> Schedule:
        """Time to noise level, of u."""
        return self.process.schedule

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.process.event

    @property
    def parameterisation(self) -> Parameterisation:
        """What the network predicts, up to A."""
        return self.process.parameterisation

    def offers(self, contract: type[Any]) -> bool:
        """Whether this class meets the contract."""
        return isinstance(self, contract)

    def bind(self, batch: Batch) -> Self:
        """A shallow copy with the mean and the factor of the batch's rows.

        Raises:
            ValueError: If the leaf does not fit, a condition is missing, or the factor mixes what
                is given with what is not.
        """
        process = self.process.bind(batch)
        ((name, known),) = batch.leaves.items()
        factor = self.factor.bind(batch)
        centre = fitted("mean", self.mean_source.read(batch), known)
        if batch.given:  # otherwise nobody reads the known values
            process = self.process.bind(batch.with_leaves({name: factor.solve(known - centre)}))
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.__dict__.update(
            process=process,
            factor=factor,
            centre=centre,
            known=known,
            held=batch.given.get(name),
        )
        return bound

    def level(self, t: Tensor, x: Tensor) -> Level:
        """alpha, sigma and clock of u, shaped to broadcast against it."""
        return self.process.level(t, x)

    def whiten(self, x: Tensor) -> Tensor:
        """u = A^{-1} (x - m)."""
        return self.factor.solve(x - self.centre)

    def moved(self, x: Tensor, u: Tensor, other: Tensor) -> Tensor:
        """The x of `other`, where that of u is known: exactly x where they are equal."""
        return self.hold(x + self.factor.multiply(other - u))

    def hold(self, x: Tensor) -> Tensor:
        """x with the given entries at their known values."""
        return x if self.held is None else torch.where(expand(self.held, x), self.known, x)

    def white(self, estimate: Estimate) -> Estimate:
        """An estimate of u_0."""
        return replace(estimate, value=self.whiten(estimate.value))

    def volume(self, noisy: Tensor, x: Tensor) -> Tensor:
        """log |det A| on the noisy entries that are not given, per row."""
        share = torch.where(noisy, self.factor.log_det(x), 0.0)
        return sum_event(self.process.free(share.expand_as(x)))

    def empty(self, rows: int, device: torch.device | str = "cpu") -> Tensor:
        """Zeros of the default float."""
        return self.process.empty(rows, device)

    def state_dtype(self) -> torch.dtype:
        """The default float."""
        return self.process.state_dtype()

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """N(m, sigma_t^2 Sigma)."""
        return self.hold(self.centre + self.factor.multiply(self.process.prior(random, t)))

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """Log density of N(m, sigma_t^2 Sigma)."""
        inner = self.process.prior_log_prob(self.whiten(x_1), t)
        noisy = self.level(torch.tensor(t, dtype=torch.float64), x_1).sigma > 0
        return inner - self.volume(noisy, x_1)

    def times(self, t: Tensor) -> Tensor:
        """t, and `CLEAN` at given entries."""
        return self.process.times(t)

    def clock(self, t: Tensor) -> Tensor:
        """That of the process of u."""
        return self.process.clock(t)

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """m + alpha_t (x_0 - m) + sigma_t A z."""
        u_0 = self.whiten(x_0)
        return self.moved(x_0, u_0, self.process.diffuse(u_0, t, random))

    def corrupt(self, x_s: Tensor, s: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """That of u."""
        u_s = self.whiten(x_s)
        return self.moved(x_s, u_s, self.process.corrupt(u_s, s, t, random))

    def encode(self, x_t: Tensor, t: Tensor) -> Tensor:
        """A times the parameterisation's input."""
        return self.factor.multiply(self.process.encode(self.whiten(x_t), t))

    def decode(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """The posterior mean that A times the parameterisation's output stands for."""
        inner = self.parameterisation.mapped(output, x_t, self.factor.solve)
        white = self.process.decode(inner, self.whiten(x_t), t)
        value = self.hold(self.centre + self.factor.multiply(white.value))
        return replace(white, value=value)

    def oracle(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """x_0."""
        return self.process.oracle(x_0, x_t, t)

    def mean(self, estimates: Estimate, weights: Tensor, rows: Tensor) -> Estimate:
        """Weighted mean of the points."""
        return self.process.mean(estimates, weights, rows)

    def impose(
        self, estimate: Estimate, x_0: Tensor, held: Tensor, x_t: Tensor, t: Tensor
    ) -> Estimate:
        """The known rows."""
        return self.process.impose(estimate, x_0, held, x_t, t)

    def graft(self, x_t: Tensor, known: Tensor, held: Tensor) -> Tensor:
        """Known entries in their place."""
        return self.process.graft(x_t, known, held)

    def shift(self, estimate: Estimate, gradient: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """The mean moves by A sigma^2 / alpha A^T times the gradient."""
        white, slope = self.white(estimate), self.factor.multiply_transpose(gradient)
        shifted = self.process.shift(white, slope, self.whiten(x_t), t)
        return replace(shifted, value=self.moved(estimate.value, white.value, shifted.value))

    @property
    def geometry(self) -> Euclidean:
        """Flat space."""
        return self.process.geometry

    def velocity(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """A times that of u."""
        return self.factor.multiply(
            self.process.velocity(self.white(estimate), self.whiten(x_t), t)
        )

    def tangent(self, x_t: Tensor, v: Tensor) -> Tensor:
        """Zero at given entries."""
        return self.process.tangent(x_t, v)

    def score(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """A^{-T} times that of u."""
        return self.factor.solve_transpose(
            self.process.score(self.white(estimate), self.whiten(x_t), t)
        )

    def diffusion(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """A times that of u of A^T v."""
        inner = self.process.diffusion(self.factor.multiply_transpose(v), self.whiten(x_t), t)
        return self.factor.multiply(inner)

    def loss(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """(x_0 - estimate)^T Sigma^{-1} (x_0 - estimate), summed over the event."""
        return self.process.loss(self.white(estimate), self.whiten(x_0), x_t, t)

    def residual(self, estimate: Estimate, x_0: Tensor) -> Tensor:
        """A^{-1} (x_0 - estimate)."""
        return self.factor.solve(x_0 - estimate.value)

    def plan(self, times: Tensor, eta: float) -> Sequence[GaussianStep]:
        """Those of u."""
        return self.process.plan(times, eta)

    def leap(self, times: Tensor) -> Sequence[GaussianStep]:
        """Those of u."""
        return self.process.leap(times)

    def step(
        self, x_t: Tensor, estimate: Estimate, coefficients: GaussianStep, random: Randomness
    ) -> Tensor:
        """The step of u."""
        white = self.white(estimate)
        u_s = self.process.step(self.whiten(x_t), white, coefficients, random)
        return self.moved(estimate.value, white.value, u_s)

    def weights(self, rule: Rule, times: Tensor) -> Sequence[Any]:
        """Those of u."""
        return self.process.weights(rule, times)

    def combine(
        self, history: Sequence[tuple[Tensor, Estimate]], weights: Any, x_t: Tensor
    ) -> Estimate:
        """Weighted sum of the means of u_0."""
        mixed = self.process.combine(history, weights, x_t)
        if len(weights) == 1:
            return mixed
        # What the weights lack of one would be missing of the mean.
        return replace(mixed, value=mixed.value + (1 - sum(weights)) * self.centre)

    def tilt(self, estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
        """Weighted sum of the means."""
        return self.process.tilt(estimates, weights)

    def standard(self) -> Affine:
        """The process of u in standard units, around the same mean."""
        return Affine(self.process.standard(), self.factor, self.mean_source)

    def from_standard(self, x_t: Tensor, t: Tensor) -> Tensor:
        """That of u."""
        return self.centre + self.factor.multiply(self.process.from_standard(self.whiten(x_t), t))

    def log_prob(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Log density of N(m + A alpha_t u_0, A sigma_t^2 A^T), per row."""
        inner = self.process.log_prob(self.whiten(x_t), self.whiten(x_0), t)
        return inner - self.volume(self.level(t, x_t).sigma > 0, x_t)

    def reverse_log_prob(
        self, x_s: Tensor, x_t: Tensor, estimate: Estimate, coefficients: GaussianStep
    ) -> Tensor:
        """Log density of the step's normal, per row."""
        inner = self.process.reverse_log_prob(
            self.whiten(x_s), self.whiten(x_t), self.white(estimate), coefficients
        )
        return inner - self.volume(coefficients.noise > 0, x_s)

    def divergence(
        self, oracle: Estimate, estimate: Estimate, x_t: Tensor, coefficients: GaussianStep
    ) -> Tensor:
        """That of u: a change of coordinates leaves it."""
        white = self.white(oracle), self.white(estimate)
        return self.process.divergence(*white, x_t, coefficients)

    def divergence_rate(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """That of u."""
        return self.process.divergence_rate(self.white(estimate), self.whiten(x_0), x_t, t)

    def prior_divergence(self, x_0: Tensor, t: float = 1.0) -> Tensor:
        """That of u."""
        return self.process.prior_divergence(self.whiten(x_0), t)

    def reconstruction(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """-log density of x_0 in the normal around the estimate, per row."""
        white, u_0 = self.white(estimate), self.whiten(x_0)
        inner = self.process.reconstruction(white, u_0, x_t, t)
        return inner + self.volume(self.level(t, x_0).sigma > 0, x_0)
