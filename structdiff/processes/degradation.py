r"""Deterministic degradation: noise without noise.

x_t = D(x_0, sigma_t) for any map D that is the identity at 0: blurring, covering, fading to
another image. The estimate is a restoration of x_t, a guess of x_0. With eta the share of what it
leaves unexplained that is dropped, a step from t to s is

    x_s = D(x_0, sigma_s) + sqrt(1 - eta^2) (x_t - D(x_0, sigma_t))

at the estimate of x_0: at eta 1 the degraded guess (algorithm 1 of the paper; what q(x_s | x_0)
is), at eta 0 what corrects itself (algorithm 2). Where D is linear in sigma,
D = x_0 + sigma e(x_0) with e the same for all guesses, eta 0 returns x_0 for any restoration;
where the restoration is perfect, both do for any D.

There are no densities: the process meets no other contract. Restorations are trained with the
same weight at all severities (`Denoising(weights=Uniform())`, say).

References:
    Cold Diffusion: Inverting Arbitrary Image Transforms Without Noise (Bansal et al., 2022),
    algorithms 1 and 2. https://arxiv.org/abs/2208.09392
    Soft Diffusion: Score Matching for General Corruptions (Daras et al., 2022).
    https://arxiv.org/abs/2209.05442
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from structdiff.processes.base import Estimate
from structdiff.processes.leaf import Leaf, expand, sum_event
from structdiff.processes.means import past_sum, tilted_sum
from structdiff.random import Randomness
from structdiff.schedules import Flow, Schedule

__all__ = ["Degradation", "DegradationStep", "Degrade", "Ending", "blurring", "covering", "fading"]


class Degrade(Protocol):
    """A degradation: the identity where the severity is 0."""

    def __call__(self, x_0: Tensor, severity: Tensor) -> Tensor:
        """x_0 `(rows, *event)` at a severity in [0, 1], `()` or `(rows, 1, ..., 1)`."""
        ...


Ending = Callable[[Tensor, Randomness], Tensor]
"""(a tensor of the leaf's shape, a source of noise) to a draw of x_1."""


class DegradationStep(NamedTuple):
    """x_s = D(x_0, later) + kept (x_t - D(x_0, earlier))."""

    earlier: Tensor
    later: Tensor
    kept: float


class Degradation(Leaf):
    """A deterministic process on R^n.

    Arguments:
        degrade: D, a map of x_0 and the severity sigma_t.
        ending: Draws x_1, the law that data are degraded to; by default a walk begins at the
            leaf of the batch as it is, which is then what is to be restored.
        schedule: Its sigma is the severity, from 0 to 1; `Flow()` by default, sigma = t.
        event: Shape of one row.

    Raises:
        ValueError: If the degradation is not the identity at severity 0, or severities are not
            in [0, 1].

    Example:
        >>> from structdiff.batch import Batch
        >>> grey = Degradation(fading(torch.tensor(0.5)), event=(2,))
        >>> x_0 = torch.tensor([[1.0, 0.0]])
        >>> grey.bind(Batch.of(x_0)).diffuse(x_0, torch.tensor(0.5), None)
        tensor([[0.7500, 0.2500]])
    """

    def __init__(
        self,
        degrade: Degrade,
        ending: Ending | None = None,
        schedule: Schedule | None = None,
        *,
        event: Sequence[int] = (),
    ) -> None:
        super().__init__(schedule or Flow(), event)
        sigma = self.schedule.sigma(torch.linspace(0, 1, 101, dtype=torch.float64))
        if not bool(((sigma >= 0) & (sigma <= 1)).all()):
            name, most = type(self.schedule).__name__, float(sigma.max())
            msg = f"severities must be in [0, 1], sigma of {name} goes to {most:.3g}: use Flow()"
            raise ValueError(msg)
        self.degrade, self.ending = degrade, ending
        count = math.prod(self.event)
        probe = torch.linspace(-1, 1, 2 * count).reshape(2, *self.event)
        found = degrade(probe, probe.new_zeros(()))
        if found.shape != probe.shape or not torch.allclose(found.to(probe), probe, atol=1e-5):
            msg = (
                "degrade must be the identity at severity 0 and keep shapes, on rows of shape "
                f"{self.event} it is not: let it return x_0 there"
            )
            raise ValueError(msg)

    def state_dtype(self) -> torch.dtype:
        """The default float."""
        return torch.get_default_dtype()

    def severity(self, t: Tensor, x: Tensor) -> Tensor:
        """sigma_t of whole rows; where entries are given, of the others."""
        whole = t.flatten(1).amax(1) if t.ndim > 1 else t
        return self.level(whole, x).sigma

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """A draw of the ending, or the leaf of the batch."""
        del t
        if self.ending is None:
            return self.known
        return self.hold(self.ending(self.known, random))

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """Refused.

        Raises:
            ValueError: Always: degraded data have no density.
        """
        msg = "a degradation has no densities: use Gaussian noise for likelihoods"
        raise ValueError(msg)

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """D(x_0, sigma_t); nothing is drawn."""
        del random
        degraded = self.degrade(x_0, self.severity(t, x_0))
        return self.hold(torch.where(expand(t < 0, x_0), x_0, degraded))

    def encode(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The state."""
        del t
        return x_t

    def decode(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """The network predicts x_0."""
        del x_t, t
        return Estimate(self.hold(output))

    def loss(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Squared error of x_0, summed over the event."""
        del x_t, t
        return sum_event(self.free((estimate.value - x_0) ** 2))

    def plan(self, times: Tensor, eta: float) -> Sequence[DegradationStep]:
        """Severities of every step."""
        axes, kept = self.known.ndim, math.sqrt(1 - eta**2)
        sigma = self.schedule(times).sigma
        rows = self.per_step(axes, sigma[:-1], sigma[1:])
        return [DegradationStep(earlier, later, kept) for earlier, later, _ in rows]

    def leap(self, times: Tensor) -> Sequence[DegradationStep]:
        """The steps of `plan` at eta 0."""
        return self.plan(times, 0.0)

    def move(
        self, x_t: Tensor, estimate: Estimate, coefficients: DegradationStep, random: Randomness
    ) -> Tensor:
        """D at the later severity, and what is kept of what D does not explain."""
        del random
        earlier, later, kept = coefficients
        x_s = self.degrade(estimate.value, later)
        if kept > 0:
            x_s = x_s + kept * (x_t - self.degrade(estimate.value, earlier))
        return x_s

    def combine(
        self,
        history: Sequence[tuple[Tensor, Estimate]],
        weights: Sequence[Tensor],
        x_t: Tensor,
    ) -> Estimate:
        """Weighted sum of the guesses."""
        del x_t
        return past_sum(history, weights)

    def tilt(self, estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
        """Weighted sum of the guesses."""
        return tilted_sum(estimates, weights)

    def standard(self) -> Degradation:
        """Itself: severities have no units."""
        return self

    def from_standard(self, x_t: Tensor, t: Tensor) -> Tensor:
        """As it is."""
        del t
        return x_t


def fading(to: Tensor | float) -> Degrade:
    """(1 - severity) x_0 + severity `to`: linear in the severity.

    Arguments:
        to: What is left at the end, `(*event)` or a number.
    """
    end = torch.as_tensor(to)

    def degrade(x_0: Tensor, severity: Tensor) -> Tensor:
        return torch.lerp(x_0, end.to(x_0).expand_as(x_0), severity.expand_as(x_0))

    return degrade


def covering(order: Tensor, softness: float = 0.0) -> Degrade:
    """Entries go to zero one after another, or softly several at a time.

    An entry of place p, from 0 to 1, keeps the share (p - severity) / softness + 1 - severity,
    between 0 and 1: hidden at once, as by a growing mask, where the softness is 0.

    Arguments:
        order: When each entry goes, in (0, 1], `(*event)`.
        softness: How much of the severity an entry takes to go, at least 0.

    Raises:
        ValueError: If an entry's place or the softness is out of range.

    Example:
        >>> hide = covering(torch.tensor([0.5, 1.0]))
        >>> hide(torch.ones(1, 2), torch.tensor(0.75)).tolist()
        [[0.0, 1.0]]
    """
    if not bool(((order > 0) & (order <= 1)).all()):
        msg = f"order must be in (0, 1], got {float(order.min()):.3g} to {float(order.max()):.3g}"
        raise ValueError(msg)
    if not 0 <= softness < math.inf:
        msg = f"softness must be at least 0 and finite, got {softness}"
        raise ValueError(msg)

    def degrade(x_0: Tensor, severity: Tensor) -> Tensor:
        place = order.to(x_0)
        if softness == 0:
            return x_0 * (severity < place)
        return x_0 * ((place - severity) / softness + 1 - severity).clamp(0, 1)

    return degrade


def blurring(width: float, axes: int = 2) -> Degrade:
    """A Gaussian blur around a periodic grid, of standard deviation `width` times the severity.

    Arguments:
        width: In entries, at severity 1, positive.
        axes: How many of the last axes are the grid.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> blurring(50.0, axes=1)(torch.tensor([[4.0, 0.0]]), torch.tensor(1.0)).tolist()
        [[2.0, 2.0]]
    """
    if not (0 < width < math.inf and axes >= 1):
        msg = f"width must be positive and axes at least 1, got {width} and {axes}"
        raise ValueError(msg)

    def degrade(x_0: Tensor, severity: Tensor) -> Tensor:
        dims = tuple(range(-axes, 0))
        square: Tensor = x_0.new_zeros(())
        for k, size in enumerate(x_0.shape[-axes:]):
            wave = 2 * math.pi * torch.fft.fftfreq(size, dtype=x_0.dtype, device=x_0.device)
            square = square + wave.square().reshape(-1, *(1,) * (axes - 1 - k))
        kept = torch.exp(-0.5 * (width * severity) ** 2 * square)
        blurred: Tensor = torch.fft.ifftn(kept * torch.fft.fftn(x_0, dim=dims), dim=dims).real
        return blurred

    return degrade
