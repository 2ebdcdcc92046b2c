r"""The categorical process: q(x_t | x_0) = alpha_t delta(x_0) + (1 - alpha_t) pi.

The estimate is the vector log p(x_0 = k | x_t), per row. Write i = x_t, a = alpha_t / alpha_s,
p for the estimate and D = alpha_t + (1 - alpha_t) pi_i. The Bayes kernel, averaged over p, is

    r(j) = (1 - a) [alpha_s p_j / (1 - alpha_t) + (1 - alpha_s) pi_j V]           for j != i,
    r(i) = (a + (1 - a) pi_i) [alpha_s p_i / D + (1 - alpha_s) V],
    V    = (1 - p_i) / (1 - alpha_t) + p_i pi_i / D,

free of cancellation and of a division by pi (which may be zero), and O(K). The *carry* kernel,
c delta(x_t) + (1 - c) p with c = (1 - alpha_s) / (1 - alpha_t), keeps the same marginals and
draws no fresh class from pi; the step is (1 - eta^2) carry + eta^2 Bayes.

A symbol with pi = 0 cannot come from noise, so where x_t is one, x_0 = x_t: decoding says so.

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021), eqs. 3-4.
    https://arxiv.org/abs/2107.03006
    Denoising Diffusion Implicit Models (Song et al., 2021), appendix A (the carry kernel).
    https://arxiv.org/abs/2010.02502
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.processes.base import Estimate, Tractable
from structdiff.processes.leaf import Leaf, check_falling, expand, sum_event
from structdiff.processes.transitions import RankOne
from structdiff.random import Randomness
from structdiff.schedules import Schedule

__all__ = ["Categorical", "CategoricalStep"]


class CategoricalStep(NamedTuple):
    """Levels at both ends of a step, 0-dim float64, and how to mix the kernels.

    `bayes` is the share eta^2 of the Bayes kernel; `still` says that nothing changes (both ends
    clean, or both pure noise).
    """

    alpha_t: Tensor
    sigma_t: Tensor
    alpha_s: Tensor
    sigma_s: Tensor
    bayes: float
    still: bool


class Categorical(Leaf, Tractable):
    """Noise on classes.

    States are class indices, int64; a masked row of an absorbing chain has the index K.

    Arguments:
        schedule: Its alpha is the probability that a row survives, see `Flow` and `Survival`.
        transition: Where a row goes that does not survive.
        event: Shape of one row; `()` for one class per row.

    Raises:
        ValueError: If alpha + sigma of the schedule is not 1.

    Example:
        >>> from structdiff.batch import Batch
        >>> from structdiff.processes import absorbing
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Flow
        >>> x_0 = torch.tensor([0, 1, 2])
        >>> process = Categorical(Flow(), absorbing(3)).bind(Batch.of(x_0))
        >>> process.diffuse(x_0, torch.tensor(1.0), Generator(0))
        tensor([3, 3, 3])
    """

    stationary: Tensor

    def __init__(
        self, schedule: Schedule, transition: RankOne, *, event: Sequence[int] = ()
    ) -> None:
        super().__init__(schedule, event)
        level = schedule(torch.linspace(0, 1, 11))
        if not torch.allclose(level.alpha + level.sigma, torch.ones(11).double()):
            mend = "use Flow(), or Survival(schedule) of a variance-preserving one"
            msg = f"the schedule of a chain must have alpha + sigma = 1: {mend}"
            raise ValueError(msg)
        self.classes, self.symbols = transition.classes, transition.symbols
        self.register_buffer("stationary", transition.stationary.double(), persistent=False)

    def draw(self, random: Randomness) -> Tensor:
        """Two uniforms per entry, `(rows, *event, 2)`: survive or not, and where to."""
        shape = (self.layout.rows, *self.event, 2)
        return random.uniform(shape, torch.float32, self.known.device)

    def redraw(self, uniform: Tensor) -> Tensor:
        """Symbols from the stationary law by inverse CDF."""
        edges = self.stationary.cumsum(0)
        edges = (edges / edges[-1]).to(uniform.device)
        index = torch.searchsorted(edges, uniform.double(), right=True)
        return index.clamp(max=int(self.symbols) - 1)

    def state_dtype(self) -> torch.dtype:
        """int64."""
        return torch.int64

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """The stationary law."""
        del t
        return self.hold(self.redraw(self.draw(random)[..., 1]))

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """Log pi of each row's symbols."""
        del t
        return sum_event(self.free(self.stationary.to(x_1.device)[x_1].log().float()))

    def survival(self, t: Tensor, x: Tensor) -> Tensor:
        """alpha_t in float32 at least, shaped to broadcast against x."""
        dtype = torch.promote_types(t.dtype, torch.float32)
        return expand(self.schedule(t).alpha.to(x.device, dtype), x)

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """Keep each entry with probability alpha_t, else redraw it."""
        noise = self.draw(random)
        survives = noise[..., 0] < self.survival(t, x_0)
        return torch.where(survives, x_0, self.redraw(noise[..., 1]))

    def corrupt(self, x_s: Tensor, s: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """Keep each entry with probability alpha_t / alpha_s, else redraw it."""
        past, level = self.survival(s, x_s), self.survival(t, x_s)
        keep = torch.where(level == past, 1.0, level / past)
        noise = self.draw(random)
        return torch.where(noise[..., 0] < keep, x_s, self.redraw(noise[..., 1]))

    def encode(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The symbols; a network embeds them."""
        del t
        return x_t

    def decode(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """Log-probabilities from logits `(rows, *event, K)`; what cannot be has -inf."""
        del t
        log_p = torch.log_softmax(output.float() if output.dtype.itemsize < 4 else output, -1)
        return Estimate(self.exclude(log_p, x_t))

    def exclude(self, log_p: Tensor, x_t: Tensor) -> Tensor:
        """Certainty where x_t cannot come from noise, and where x_0 is given."""
        certain = self.stationary.to(x_t.device)[x_t] == 0
        value = x_t
        if self.held is not None:
            held = expand(self.held, x_t).expand_as(x_t)
            certain, value = certain | held, torch.where(held, self.known, x_t)
        point = self.point(value.clamp(max=self.classes - 1), log_p.dtype)
        return torch.where(certain.unsqueeze(-1), point, log_p)

    def point(self, x_0: Tensor, dtype: torch.dtype) -> Tensor:
        """Log-probabilities of a known class: 0 there and -inf elsewhere."""
        return torch.log(F.one_hot(x_0, self.classes).to(dtype))

    def oracle(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """All probability on x_0."""
        del x_t
        return Estimate(self.point(x_0, torch.promote_types(t.dtype, torch.float32)))

    def impose(
        self, estimate: Estimate, x_0: Tensor, held: Tensor, x_t: Tensor, t: Tensor
    ) -> Estimate:
        """The oracle at held rows."""
        truth = self.oracle(x_0, x_t, t).value
        return Estimate(torch.where(expand(held, truth), truth, estimate.value))

    def mean(self, estimates: Estimate, weights: Tensor, rows: Tensor) -> Estimate:
        """Weighted mean of the probabilities."""
        return Estimate(torch.log(self.pool(estimates.value.exp(), weights, rows)))

    def loss(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Cross-entropy -log p(x_0), summed over the event."""
        del x_t, t
        log_p = estimate.value.gather(-1, x_0.unsqueeze(-1)).squeeze(-1)
        return -sum_event(self.free(log_p))

    def plan(self, times: Tensor, eta: float) -> Sequence[CategoricalStep]:
        """Levels at both ends of every step.

        Raises:
            ValueError: If times rise: classes cannot be encoded.
        """
        check_falling(times)
        level = self.schedule(times)
        alpha, sigma = level.alpha.to(self.known.device), level.sigma.to(self.known.device)
        still = (level.alpha[:-1] == level.alpha[1:]).tolist()
        ends = zip(alpha[:-1], sigma[:-1], alpha[1:], sigma[1:], strict=True)
        return [
            CategoricalStep(*end, float(eta) ** 2, flag)
            for end, flag in zip(ends, still, strict=True)
        ]

    def log_kernel(self, estimate: Estimate, x_t: Tensor, step: CategoricalStep) -> Tensor:
        """Log-probabilities of x_s over the S symbols, `(rows, *event, S)`."""
        log_p = F.pad(estimate.value, (0, self.symbols - self.classes), value=-torch.inf)
        at = x_t.unsqueeze(-1)
        if step.still:
            return torch.full_like(log_p, -torch.inf).scatter(-1, at, 0.0)
        if step.bayes == 1:
            return self._log_bayes(log_p, at, step)
        log_carry = self._log_carry(log_p, at, step)
        if step.bayes == 0:
            return log_carry
        log_share = math.log(step.bayes)
        return torch.logaddexp(
            log_carry + math.log1p(-step.bayes), self._log_bayes(log_p, at, step) + log_share
        )

    def _log_carry(self, log_p: Tensor, at: Tensor, step: CategoricalStep) -> Tensor:
        c = step.sigma_s / step.sigma_t
        fresh = log_p + torch.log1p(-c)
        stay = torch.logaddexp(fresh.gather(-1, at), torch.log(c).to(fresh))
        return fresh.scatter(-1, at, stay)

    def _log_bayes(self, log_p: Tensor, at: Tensor, step: CategoricalStep) -> Tensor:
        log_law = self.stationary.to(log_p).log()
        log_p_i, log_pi_i = log_p.gather(-1, at).clamp(max=0), log_law[at]
        pi_i = log_pi_i.exp()
        a = step.alpha_t / step.alpha_s
        scale = torch.log(step.alpha_t + step.sigma_t * pi_i)
        others = torch.log(-torch.expm1(log_p_i)) - torch.log(step.sigma_t)
        log_v = torch.logaddexp(others, log_p_i + log_pi_i - scale)
        from_data = torch.log((1 - a) * step.alpha_s / step.sigma_t)
        from_noise = torch.log((1 - a) * step.sigma_s)
        away = torch.logaddexp(log_p + from_data, log_law + log_v + from_noise)
        stay = torch.logaddexp(
            log_p_i + torch.log(step.alpha_s) - scale, log_v + torch.log(step.sigma_s)
        )
        return away.scatter(-1, at, stay + torch.log(a + (1 - a) * pi_i))

    def move(
        self, x_t: Tensor, estimate: Estimate, coefficients: CategoricalStep, random: Randomness
    ) -> Tensor:
        """A draw of the kernel by inverse CDF."""
        if coefficients.still:
            return x_t
        edges = self.log_kernel(estimate, x_t, coefficients).exp().cumsum(-1)
        uniform = random.uniform(x_t.shape, edges.dtype, x_t.device).unsqueeze(-1)
        index = torch.searchsorted(edges, uniform * edges[..., -1:], right=True)
        return index.squeeze(-1).clamp(max=self.symbols - 1)

    def combine(
        self,
        history: Sequence[tuple[Tensor, Estimate]],
        weights: Sequence[Tensor],
        x_t: Tensor,
    ) -> Estimate:
        """Weighted sum of probabilities, clipped at zero and renormalised."""
        if len(weights) == 1:
            return history[0][1]
        pairs = zip(weights, history, strict=False)
        p = sum((w * past.value.exp() for w, (_, past) in pairs), torch.zeros(())).clamp(min=0)
        return Estimate(self.exclude(torch.log(p / p.sum(-1, keepdim=True)), x_t))

    def tilt(self, estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
        """Weighted sum of log-probabilities, normalised.

        What a law of positive weight excludes stays excluded; where such laws exclude all
        classes between them, the last one stands. What a law of negative weight excludes counts
        as of probability e^-80.
        """
        pairs = [(w, one.value) for w, one in zip(weights, estimates, strict=True) if w != 0]
        total = torch.stack([w * (x if w > 0 else x.clamp(min=-80)) for w, x in pairs]).sum(0)
        nothing = (total == -torch.inf).all(-1, keepdim=True)
        last = [x for w, x in pairs if w > 0][-1]
        return Estimate(torch.log_softmax(torch.where(nothing, last, total), -1))

    def standard(self) -> Categorical:
        """Itself: a class has no units."""
        return self

    def from_standard(self, x_t: Tensor, t: Tensor) -> Tensor:
        """As it is."""
        del t
        return x_t

    def graft(self, x_t: Tensor, known: Tensor, held: Tensor) -> Tensor:
        """Known symbols as they are."""
        return torch.where(expand(held, x_t), known, x_t)

    def log_prob(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """log(alpha_t [x_t = x_0] + (1 - alpha_t) pi(x_t)), summed over the event."""
        level = self.schedule(t)
        alpha, sigma = expand(level.alpha, x_t), expand(level.sigma, x_t)
        law = self.stationary.to(x_t.device)[x_t]
        return sum_event(torch.log(alpha * (x_t == x_0) + sigma * law))

    def reverse_log_prob(
        self, x_s: Tensor, x_t: Tensor, estimate: Estimate, coefficients: CategoricalStep
    ) -> Tensor:
        """Log-probability of the drawn symbols, per row."""
        kernel = self.log_kernel(estimate, x_t, coefficients)
        return sum_event(self.free(kernel.gather(-1, x_s.unsqueeze(-1)).squeeze(-1)))

    def divergence(
        self, oracle: Estimate, estimate: Estimate, x_t: Tensor, coefficients: CategoricalStep
    ) -> Tensor:
        """KL between the kernels, summed over the event."""
        true = self.log_kernel(oracle, x_t, coefficients)
        model = self.log_kernel(estimate, x_t, coefficients)
        terms = torch.where(true == -torch.inf, 0.0, true.exp() * (true - model))
        return sum_event(self.free(terms.sum(-1)))

    def prior_divergence(self, x_0: Tensor, t: float = 1.0) -> Tensor:
        """KL of q(x_t | x_0) from pi; infinite if pi misses a class that survives to t."""
        end = self.schedule(torch.tensor(t, dtype=torch.float64))
        law = self.stationary.to(x_0.device)
        q = end.sigma * law + end.alpha * F.one_hot(x_0, self.symbols)
        terms = torch.where(q == 0, 0.0, q * (q / law).log())
        return sum_event(self.free(terms.sum(-1)))

    def reconstruction(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """-log p(x_0), the cross-entropy of the estimate."""
        return self.loss(estimate, x_0, x_t, t)
