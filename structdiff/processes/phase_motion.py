r"""The motion of a position and its velocity under a linear drift and noise, in closed form.

For each entry the pair u = (position, velocity) follows

    du = A u dtau + dw,    dw ~ N(0, Q dtau),    u(0) ~ N((x_0, v_0), S_0),

with 2 x 2 matrices, so that u(tau) ~ N(Psi u_0, Sigma). With mu = tr A / 2, N = A - mu I and
d = mu^2 - det A,

    Psi(tau) = e^{mu tau} (C I + S N),    C, S = cosh, sinh / w; 1, tau; cos, sin / w,
    Sigma(tau) = Psi S_0 Psi^T + I_0 Q + I_1 (N Q + Q N^T) + I_2 N Q N^T

for d = w^2, 0, -w^2, where I_0, I_1, I_2 are the integrals of e^{2 mu u} times C^2, C S, S^2 from
0 to tau, by Gauss and Legendre's rule: sums of positive terms, which lose no digits where tau is
small. For a long tau, Sigma is P - Psi (P - S_0) Psi^T with P the stationary covariance.

Psi decays like e^{-rate tau}, and tau(t) = (first - log alpha_t) / rate for the alpha of a
schedule, so that the motion is as far gone as that schedule says.

What u says of x_0 is a normal of precision SNR = Psi_x^T Sigma^{-1} Psi_x with Psi_x the first
column of Psi, so log(SNR) / 2 is the clock, and alpha^2 + sigma^2 = 1.

The probability flow given x_0 carries the residual u - Psi u_0 by R_s R_t^{-1}, where
R' = (A + Q Sigma^{-1} / 2) R and R R^T = Sigma. With L the Cholesky factor of Sigma it is
R = L rot(theta), where theta' is a number: minus the upper right entry of
L^{-1} (A + Q Sigma^{-1} / 2) L.

References:
    Score-Based Generative Modeling with Critically-Damped Langevin Diffusion (Dockhorn, Vahdat
    and Kreis, 2022), appendix B. https://arxiv.org/abs/2112.07068
    gDDIM: Generalized Denoising Diffusion Implicit Models (Zhang, Tao and Chen, 2023), section 4:
    R. https://arxiv.org/abs/2206.05564
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.processes.phase_matrices import Matrix, cholesky, combination
from structdiff.schedules import Schedule

__all__ = ["PhaseMotion", "PhaseState", "critically_damped", "heavy_ball"]

_UNIT = ((1.0, 0.0), (0.0, 1.0))
_PANELS = 6
_LONGEST = 18.0
"""Longest rate tau: what is left of the data is then below 1e-7."""


@functools.cache
def _rule(device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss and Legendre's rule on [0, 1]."""
    nodes, masses = (torch.from_numpy(x).to(device) for x in np.polynomial.legendre.leggauss(16))
    return (1 + nodes) / 2, masses / 2


def _squares(c: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return c * c, c * s, s * s


class PhaseState(NamedTuple):
    """u ~ N(mean u_0, covariance): float64, `(*t, 2, 2)`."""

    mean: Tensor
    covariance: Tensor


class PhaseMotion(Schedule):
    """A linear motion of pairs, and the clock that goes with it.

    Arguments:
        schedule: How fast: its alpha falls as the slowest part of the motion does. Its sigma is
            not used.
        drift: A, 2 x 2; both of its eigenvalues must have negative real parts.
        noise: Q, 2 x 2, symmetric and not negative, with noise on the velocity.
        start: S_0, 2 x 2: what is not known of the pair at t = 0, symmetric and not negative.
        first: rate tau at t = 0, positive: at 0 itself a position has no noise at all.

    Raises:
        ValueError: If a matrix or a number is out of range, or the schedule's alpha hardly falls.
    """

    def __init__(
        self, schedule: Schedule, drift: Matrix, noise: Matrix, start: Matrix, first: float = 1e-3
    ) -> None:
        super().__init__()
        a, q, s = (
            _two_by_two(name, value)
            for name, value in (("drift", drift), ("noise", noise), ("start", start))
        )
        self.schedule, self.drift, self.noise, self.start = schedule, a, q, s
        half, det = float(a.trace()) / 2, float(torch.linalg.det(a))
        if not (half < 0 and det > 0):
            msg = f"drift must have eigenvalues with negative real parts, got {a.tolist()}"
            raise ValueError(msg)
        _check_covariance("noise", q)
        _check_covariance("start", s)
        if float(q[1, 1]) == 0:
            msg = f"noise must be positive on the velocity, got {q.tolist()}"
            raise ValueError(msg)
        if not 0 < first < 1:
            msg = f"first must be in (0, 1), got {first}"
            raise ValueError(msg)
        gap = half**2 - det
        self.mu, self.gap = half, gap if abs(gap) > 1e-12 * half**2 else 0.0
        self.rate = -half - math.sqrt(max(self.gap, 0.0))
        self.first, self.short = first, 1 / (abs(half) + math.sqrt(abs(self.gap)))
        self.stationary = _stationary(a, q)
        # A and Q by rows, as numbers: no tensor has to be moved to a device for them.
        self.pull: list[float] = a.flatten().tolist()
        self.diffusion: list[float] = q.flatten().tolist()
        unit = torch.eye(2, dtype=torch.float64)
        self._swing: Matrix = (a - half * unit).tolist()
        self._noisy, self._settled, self._started = (
            self._turned(m, a) for m in (q, self.stationary, s)
        )
        last = float(schedule.log_alpha(torch.ones((), dtype=torch.float64)))
        if last > -1:
            name = type(schedule).__name__
            must = f"the alpha of schedule {name} must fall to 0.37 at least"
            msg = f"{must}, it ends at {math.exp(last):.3g}: use Linear() or Cosine()"
            raise ValueError(msg)

    def tau(self, t: Tensor) -> Tensor:
        """The motion's own time, float64; 0 at `CLEAN`."""
        time = t.double()
        passed = (self.first - self.schedule.log_alpha(time.clamp(min=0))).clamp(max=_LONGEST)
        return torch.where(time < 0, 0.0, passed / self.rate)

    def speed(self, t: Tensor) -> Tensor:
        """d tau / dt, float64; 0 at `CLEAN` and where the motion has come to its end."""
        done = self.first - self.schedule.log_alpha(t.double().clamp(min=0)) >= _LONGEST
        return torch.where(done, 0.0, -self.schedule.decay(t) / self.rate)

    def _turns(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """e^{mu tau} C and e^{mu tau} S."""
        decay = torch.exp(self.mu * tau)
        w = math.sqrt(abs(self.gap))
        if self.gap < 0:
            return decay * torch.cos(w * tau), decay * torch.sin(w * tau) / w
        if self.gap == 0:
            return decay, decay * tau
        slow, lost = torch.exp((self.mu + w) * tau), torch.expm1(-2 * w * tau)
        return slow * (1 + 0.5 * lost), -slow * lost / (2 * w)

    def flow(self, tau: Tensor) -> Tensor:
        """Psi, `(*tau, 2, 2)`."""
        return combination(self._turns(tau), (_UNIT, self._swing))

    def scatter(self, tau: Tensor, drift: Tensor | None = None) -> Tensor:
        """The noise of a motion of this length, `(*tau, 2, 2)`.

        Arguments:
            tau: Lengths.
            drift: Another drift of the same eigenvalues and stationary law; A by default.
        """
        brief, final = self._noisy, self._settled
        if drift is not None:
            brief, final = (self._turned(m, drift) for m in (self.noise, self.stationary))
        nodes, masses = _rule(tau.device)
        short = tau.clamp(max=self.short)
        place = nodes.reshape(-1, *(1,) * tau.ndim)
        mass = masses.reshape(-1, *(1,) * tau.ndim) * short
        near = [(mass * part).sum(0) for part in _squares(*self._turns(place * short))]
        square, mixed, other = _squares(*self._turns(tau))
        long = (tau > self.short)[..., None, None]
        far = combination((1 - square, -mixed, -other), final)
        return torch.where(long, far, combination(near, brief))

    def state(self, t: Tensor) -> PhaseState:
        """What a pair is at t, given u_0; a point at `CLEAN`."""
        tau = self.tau(t)
        start = combination(_squares(*self._turns(tau)), self._started)
        covariance = torch.where((t < 0)[..., None, None], 0.0, start + self.scatter(tau))
        return PhaseState(self.flow(tau), covariance)

    def _turned(self, m: Tensor, drift: Tensor) -> list[Matrix]:
        """M, N M + M N^T and N M N^T, of which Psi M Psi^T is made."""
        n = drift - self.mu * torch.eye(2, dtype=torch.float64)
        found: list[Matrix] = torch.stack([m, n @ m + m @ n.mT, n @ m @ n.mT]).tolist()
        return found

    def turn(self, low: Tensor, high: Tensor) -> Tensor:
        """theta(high) - theta(low) for two times tau, by a rule of many nodes in log tau."""
        a, q = self.drift.tolist(), self.noise.tolist()
        nodes, masses = _rule(low.device)
        panels = torch.arange(_PANELS, dtype=torch.float64, device=low.device)[:, None]
        place = ((panels + nodes) / _PANELS).reshape(-1, *(1,) * low.ndim)
        mass = masses.repeat(_PANELS).reshape(-1, *(1,) * low.ndim) / _PANELS
        length = torch.log(high / low)
        tau = low * torch.exp(place * length)
        start = combination(_squares(*self._turns(tau)), self._started)
        factor = cholesky(start + self.scatter(tau))
        x, xv, v = factor[..., 0, 0], factor[..., 1, 0], factor[..., 1, 1]
        rate = -(a[0][1] * v + 0.5 * (q[0][1] / v - q[0][0] * xv / (x * v))) / x
        turned: Tensor = (mass * rate * tau).sum(0) * length
        return turned

    def _log_snr(self, t: Tensor) -> Tensor:
        mean, covariance = self.state(t)
        known = torch.linalg.solve_triangular(cholesky(covariance), mean[..., :1], upper=False)
        clock: Tensor = known.square().sum((-1, -2)).log()
        return clock

    def log_alpha(self, t: Tensor) -> Tensor:
        """Log of the square root of SNR / (1 + SNR)."""
        return 0.5 * F.logsigmoid(self._log_snr(t))

    def log_sigma(self, t: Tensor) -> Tensor:
        """Log of the square root of 1 / (1 + SNR)."""
        return 0.5 * F.logsigmoid(-self._log_snr(t))


def _stationary(drift: Tensor, noise: Tensor) -> Tensor:
    """The covariance P in which all pairs end: A P + P A^T + Q = 0."""
    unit = torch.eye(2, dtype=torch.float64)
    system = torch.kron(drift, unit) + torch.kron(unit, drift)
    end: Tensor = torch.linalg.solve(system, -noise.reshape(4)).reshape(2, 2)
    if float(torch.linalg.eigvalsh(end)[0]) <= 1e-12 * float(end.trace()):
        msg = f"drift must carry noise to the position, got {drift.tolist()}: couple them"
        raise ValueError(msg)
    return (end + end.mT) / 2


def critically_damped(
    schedule: Schedule,
    *,
    mass: float = 0.25,
    spread: float = 0.04,
) -> PhaseMotion:
    """Critically damped Langevin motion: dx = v / M, dv = -x - G v / M + noise, G^2 = 4 M.

    It ends in N(0, I) for positions and N(0, M I) for velocities.

    Arguments:
        schedule: How fast, see `PhaseMotion`.
        mass: M, positive.
        spread: Variance of the velocity at t = 0, as a share of M.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from structdiff.schedules import Linear
        >>> critically_damped(Linear(), mass=0.25).stationary.diag().tolist()
        [1.0, 0.25]
    """
    if not 0 < mass < math.inf:
        msg = f"mass must be positive and finite, got {mass}"
        raise ValueError(msg)
    friction = 2 * math.sqrt(mass)
    drift = [[0.0, 1 / mass], [-1.0, -friction / mass]]
    start = _on_velocity(_share(spread) * mass)
    return PhaseMotion(schedule, drift, _on_velocity(2 * friction), start)


def heavy_ball(
    schedule: Schedule,
    *,
    stiffness: float = 1.0,
    friction: float = 2.0,
    spread: float = 0.04,
) -> PhaseMotion:
    """Momentum: x'' = -k x - c x' + noise, the limit of gradient descent with a heavy ball.

    It ends in N(0, I) for positions and N(0, k I) for velocities; critical at c^2 = 4 k.

    Arguments:
        schedule: How fast, see `PhaseMotion`.
        stiffness: k, positive.
        friction: c, positive.
        spread: Variance of the velocity at t = 0, as a share of k.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from structdiff.schedules import Linear
        >>> heavy_ball(Linear(), stiffness=4.0, friction=4.0).stationary.diag().tolist()
        [1.0, 4.0]
    """
    if not (0 < stiffness < math.inf and 0 < friction < math.inf):
        msg = f"stiffness and friction must be positive, got {stiffness} and {friction}"
        raise ValueError(msg)
    drift, noise = [[0.0, 1.0], [-stiffness, -friction]], 2 * stiffness * friction
    start = _on_velocity(_share(spread) * stiffness)
    return PhaseMotion(schedule, drift, _on_velocity(noise), start)


def _two_by_two(name: str, value: Matrix) -> Tensor:
    matrix = torch.tensor(value, dtype=torch.float64)
    if matrix.shape != (2, 2) or not bool(torch.isfinite(matrix).all()):
        msg = f"{name} must be 2 x 2 and finite, got {value}: rows of (position, velocity)"
        raise ValueError(msg)
    return matrix


def _check_covariance(name: str, matrix: Tensor) -> None:
    symmetric = torch.equal(matrix, matrix.mT)
    if not symmetric or float(torch.linalg.eigvalsh(matrix)[0]) < -1e-12:
        msg = f"{name} must be symmetric and not negative, got {matrix.tolist()}"
        raise ValueError(msg)


def _on_velocity(variance: float) -> list[list[float]]:
    return [[0.0, 0.0], [0.0, variance]]


def _share(spread: float) -> float:
    if not 0 <= spread < math.inf:
        msg = f"spread must be at least 0 and finite, got {spread}"
        raise ValueError(msg)
    return spread
