r"""The categorical process: chains on a finite set, any transition.

A row of class k is at time t the symbol i with probability Q_t(k, i); which matrices Q_t are
possible is the business of a `Transition`. The estimate is the vector log p(x_0 = k | x_t), per
row. A step is Bayes' rule averaged over it,

    r(j) = Q_{t|s}(j, i) sum_k p_k Q_s(k, j) / Q_t(k, i),    i = x_t,

exact for one row, right to first order in t - s for several. What cannot be has probability zero:
where x_t cannot come from noise x_0 = x_t (carry-over), and a class that does not lead to x_t is
excluded.

Weights may be put on the next symbol: an estimate's extra `tilt`, `(rows, *event, S)`, is added to
the log-probabilities of each step, which are normalised again, and multiplies the rate from x_t to
j by e^(tilt_j - tilt_{x_t}) (guidance of rates).

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021), eqs. 3-4.
    https://arxiv.org/abs/2107.03006
    Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024), section 3.2.3.
    https://arxiv.org/abs/2406.07524
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.parameterisations.classes import ClassParameterisation, Logits
from structdiff.processes.base import Estimate, Finite
from structdiff.processes.draws import draw_class, log_probabilities
from structdiff.processes.leaf import Leaf, check_falling, expand, sum_event
from structdiff.processes.transitions.base import Jump, Kernel, Leap, Reverse, Transition
from structdiff.processes.transitions.reversal import log_ratios
from structdiff.random import Randomness
from structdiff.schedules import Schedule

__all__ = ["Categorical"]


class Categorical(Leaf, Finite):
    """Noise on classes.

    States are class indices, int64; a masked row of an absorbing chain has the index K.

    Arguments:
        schedule: Its alpha is the probability that a row survives, see `Flow` and `Survival`.
        transition: Where a row goes that does not survive.
        parameterisation: What the network predicts; logits of x_0 by default.
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

    def __init__(
        self,
        schedule: Schedule,
        transition: Transition,
        parameterisation: ClassParameterisation | None = None,
        *,
        event: Sequence[int] = (),
    ) -> None:
        super().__init__(schedule, event)
        level = schedule(torch.linspace(0, 1, 11))
        if not torch.allclose(level.alpha + level.sigma, torch.ones(11).double()):
            mend = "use Flow(), or Survival(schedule) of a variance-preserving one"
            msg = f"the schedule of a chain must have alpha + sigma = 1: {mend}"
            raise ValueError(msg)
        self.transition = transition
        self.parameterisation = parameterisation or Logits()

    @property
    def classes(self) -> int:
        """Number K of data classes."""
        return self.transition.classes

    @property
    def symbols(self) -> int:
        """Number S of symbols that a noisy row can have."""
        return self.transition.symbols

    @property
    def stationary(self) -> Tensor:
        """The law that all rows end in, `(S,)`, float64."""
        return self.transition.stationary

    def draw(self, random: Randomness) -> Tensor:
        """A float64 quantile per entry, `(rows, *event)`: its tail must reach rare classes."""
        shape = (self.layout.rows, *self.event)
        return random.uniform(shape, torch.float64, self.known.device)

    def state_dtype(self) -> torch.dtype:
        """int64."""
        return torch.int64

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """The stationary law."""
        del t
        return self.hold(self.transition.redraw(self.draw(random)))

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """Log pi of each row's symbols."""
        del t
        return sum_event(self.free(self.stationary.to(x_1.device)[x_1].log().float()))

    def kernel(self, s: Tensor | None, t: Tensor, x: Tensor) -> Kernel:
        """q(x_t | x_s), for states like x; s is None for clean data."""
        return self.transition.kernel(self.schedule, s, t, x)

    def from_clean(self, t: Tensor, x: Tensor) -> Kernel:
        """q(x_t | x_0), for states like x."""
        return self.kernel(None, t, x)

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """A draw of q(x_t | x_0)."""
        return self.from_clean(t, x_0).draw(x_0, self.draw(random))

    def corrupt(self, x_s: Tensor, s: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """A draw of q(x_t | x_s)."""
        return self.kernel(s, t, x_s).draw(x_s, self.draw(random))

    def encode(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The symbols; a network embeds them."""
        del t
        return x_t

    def decode(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """Log-probabilities from the output `(rows, *event, ...)`; what cannot be has -inf."""
        level = self.schedule(t)
        dtype = torch.promote_types(output.dtype, torch.float32)
        alpha, sigma = (
            expand(value.to(x_t.device, dtype), x_t) for value in (level.alpha, level.sigma)
        )
        weights = self.parameterisation.decode(output, x_t, alpha, sigma)
        barred = self.transition.barred(self.schedule, t, x_t)
        if barred is not None:
            weights = torch.where(barred, -torch.inf, weights)
        return Estimate(self.exclude(weights, x_t))

    def exclude(self, log_weights: Tensor, x_t: Tensor) -> Tensor:
        """Log-probabilities; certain where x_t cannot come from noise, and where x_0 is given."""
        certain, value = self.transition.settled(x_t), x_t
        if self.held is not None:
            held = expand(self.held, x_t).expand_as(x_t)
            value = torch.where(held, self.known, x_t)
            certain = held if certain is None else certain | held
        if certain is None:
            wide = torch.promote_types(log_weights.dtype, torch.float32)
            return torch.log_softmax(log_weights, -1, dtype=wide)
        return log_probabilities(log_weights, certain, value.clamp(max=self.classes - 1))

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
        """The oracle at held rows, without a tilt."""
        truth = self.oracle(x_0, x_t, t).value
        extras = {
            name: torch.where(expand(held, extra), 0.0, extra) if name == "tilt" else extra
            for name, extra in estimate.extras.items()
        }
        return Estimate(torch.where(expand(held, truth), truth, estimate.value), extras)

    def shift(self, estimate: Estimate, gradient: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """The differences, within +-80 (e^-80 is never), are added to the tilt."""
        del x_t, t
        tilt = self.free(gradient).clamp(-80, 80) + estimate.extras.get("tilt", 0.0)
        return replace(estimate, extras={**estimate.extras, "tilt": tilt})

    def mean(self, estimates: Estimate, weights: Tensor, rows: Tensor) -> Estimate:
        """Weighted mean of the probabilities."""
        return Estimate(torch.log(self.pool(estimates.value.exp(), weights, rows)))

    def loss(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Cross-entropy -log p(x_0), summed over the event."""
        del x_t, t
        log_p = estimate.value.gather(-1, x_0.unsqueeze(-1)).squeeze(-1)
        return -sum_event(self.free(log_p))

    def plan(self, times: Tensor, eta: float) -> Sequence[Reverse]:
        """The reverse steps.

        Raises:
            ValueError: If times rise: classes cannot be encoded; or the transition has no such
                steps.
        """
        check_falling(times)
        return self.transition.reverse(self.schedule, times, eta, self.known)

    def leap(self, times: Tensor) -> Sequence[Reverse]:
        """Steps with the rates frozen at their start, where these are finite.

        Raises:
            ValueError: If times rise, or the transition has no rates.
        """
        exact, steps = self.plan(times, 1.0), []
        if not self.transition.continuous:
            msg = "this transition is given on a grid and has no rates: use plan"
            raise ValueError(msg)
        for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
            jump = self.jump(t.to(self.known.device), self.known[:0])
            sound = bool(s >= 0) and bool(jump.alpha > 0) and bool(jump.sigma > 0)
            steps.append(Leap(self.transition, jump, t - s) if sound else exact[i])
        return steps

    def jump(self, t: Tensor, x: Tensor) -> Jump:
        """What rates at a time need, shaped to broadcast against x."""
        level, slope = self.schedule(t), self.schedule.slope(t)
        dtype = torch.promote_types(t.dtype, torch.float32)
        shaped = (
            expand(value.to(x.device, dtype), x)
            for value in (level.alpha, level.sigma, slope * level.sigma)
        )
        return Jump(t, *shaped)

    def rates(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """Rates of the time reversal, per unit of t, `(rows, *event, S)`; zero at x_t."""
        rates = self.transition.rates(estimate.value, x_t, self.jump(t, x_t))
        if "tilt" in estimate.extras:
            rates = rates * self.tilt_from(x_t, estimate).exp()
        return rates

    def ratios(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """log sum_k p_k Q_t(k, j) / Q_t(k, x_t), `(rows, *event, S)`; with the tilt.

        Where noise cannot have made x_t (an unmasked row of an absorbing chain) what is not x_t
        has -inf: its rate is zero.
        """
        found = log_ratios(self.from_clean(t, x_t), estimate.value, x_t)
        return found + self.tilt_from(x_t, estimate) if "tilt" in estimate.extras else found

    def tilt_from(self, x_t: Tensor, estimate: Estimate) -> Tensor:
        """tilt_j - tilt_{x_t} for the symbols j, `(rows, *event, S)`."""
        tilt = estimate.extras["tilt"]
        return tilt - tilt.gather(-1, x_t.unsqueeze(-1))

    def log_kernel(self, estimate: Estimate, x_t: Tensor, coefficients: Reverse) -> Tensor:
        """Log-probabilities of x_s over the S symbols, `(rows, *event, S)`."""
        log_r = coefficients.log_kernel(estimate.value, x_t)
        if "tilt" in estimate.extras:
            log_r = torch.log_softmax(log_r + estimate.extras["tilt"], -1)
        return log_r

    def move(
        self, x_t: Tensor, estimate: Estimate, coefficients: Reverse, random: Randomness
    ) -> Tensor:
        """A draw of the kernel by inverse CDF."""
        if "tilt" in estimate.extras:
            return draw_class(self.log_kernel(estimate, x_t, coefficients), self.draw(random))
        return coefficients.draw(estimate.value, x_t, self.draw(random))

    def combine(
        self,
        history: Sequence[tuple[Tensor, Estimate]],
        weights: Sequence[Tensor],
        x_t: Tensor,
    ) -> Estimate:
        """Weighted sum of probabilities, clipped at zero and renormalised; the latest extras."""
        if len(weights) == 1:
            return history[0][1]
        pairs = zip(weights, history, strict=False)
        p = sum((w * past.value.exp() for w, (_, past) in pairs), torch.zeros(())).clamp(min=0)
        value = self.exclude(torch.log(p / p.sum(-1, keepdim=True)), x_t)
        return replace(history[0][1], value=value)

    def tilt(self, estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
        """Weighted sum of log-probabilities, normalised, and of tilts.

        What a law of positive weight excludes stays excluded; where such laws exclude all
        classes between them, the last one stands. What a law of negative weight excludes counts
        as of probability e^-80.
        """
        pairs = [(w, one.value) for w, one in zip(weights, estimates, strict=True) if w != 0]
        total = torch.stack([w * (x if w > 0 else x.clamp(min=-80)) for w, x in pairs]).sum(0)
        nothing = (total == -torch.inf).all(-1, keepdim=True)
        last = [x for w, x in pairs if w > 0][-1]
        said = zip(weights, (one.extras for one in estimates), strict=True)
        tilts = [w * extras["tilt"] for w, extras in said if "tilt" in extras]
        extras = {"tilt": torch.stack(tilts).sum(0)} if tilts else {}
        return Estimate(torch.log_softmax(torch.where(nothing, last, total), -1), extras)

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
        """log Q_t(x_0, x_t), summed over the event."""
        return sum_event(self.from_clean(t, x_t).log_prob(x_t, x_0))

    def reverse_log_prob(
        self, x_s: Tensor, x_t: Tensor, estimate: Estimate, coefficients: Reverse
    ) -> Tensor:
        """Log-probability of the drawn symbols, per row."""
        kernel = self.log_kernel(estimate, x_t, coefficients)
        return sum_event(self.free(kernel.gather(-1, x_s.unsqueeze(-1)).squeeze(-1)))

    def divergence(
        self, oracle: Estimate, estimate: Estimate, x_t: Tensor, coefficients: Reverse
    ) -> Tensor:
        """KL between the kernels, summed over the event."""
        true = self.log_kernel(oracle, x_t, coefficients)
        model = self.log_kernel(estimate, x_t, coefficients)
        terms = torch.where(true == -torch.inf, 0.0, true.exp() * (true - model))
        return sum_event(self.free(terms.sum(-1)))

    def divergence_rate(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """That of two jump processes, summed over the event."""
        jump = self.jump(t, x_t)
        return sum_event(
            self.free(self.transition.divergence_rate(estimate.value, x_0, x_t, jump))
        )

    def prior_divergence(self, x_0: Tensor, t: float = 1.0) -> Tensor:
        """KL of q(x_t | x_0) from pi; infinite if pi misses a class that survives to t."""
        log_q = self.from_clean(torch.tensor(t, dtype=torch.float64), x_0).push(
            F.pad(
                self.point(x_0, torch.float64), (0, self.symbols - self.classes), value=-torch.inf
            )
        )
        law = self.stationary.to(x_0.device).log()
        terms = torch.where(log_q == -torch.inf, 0.0, log_q.exp() * (log_q - law))
        return sum_event(self.free(terms.sum(-1)))

    def reconstruction(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """-log p(x_0), the cross-entropy of the estimate."""
        return self.loss(estimate, x_0, x_t, t)
