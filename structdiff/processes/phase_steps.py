r"""Steps of the time reversal in phase space, as matrices of a whole grid.

A step is u_s = keep u_t + data u_0 + noise z, where u_0 is the estimate. Matrices are float64,
`(steps, 2, 2)`, or `(steps, rows, 2, 2)` where rows have times of their own.

References:
    gDDIM: Generalized Denoising Diffusion Implicit Models (Zhang, Tao and Chen, 2023), section 4.
    https://arxiv.org/abs/2206.05564
    Score-Based Generative Modeling with Critically-Damped Langevin Diffusion (Dockhorn, Vahdat
    and Kreis, 2022), section 3.3. https://arxiv.org/abs/2112.07068
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.processes.phase_matrices import cholesky, inverse, rotation, square_root
from structdiff.processes.phase_motion import PhaseMotion

__all__ = ["Matrices", "euler_steps", "exact_steps", "halfway", "split_steps"]


class Matrices(NamedTuple):
    """keep, data and the lower triangular noise of every step."""

    keep: Tensor
    data: Tensor
    noise: Tensor

    def but(self, other: Matrices, where: Tensor) -> Matrices:
        """Those of another plan where a mask of steps, `(steps,)` or `(steps, rows)`, says so."""
        mask = where[..., None, None]
        pairs = zip(other, self, strict=True)
        return Matrices(*(torch.where(mask, a, b) for a, b in pairs))


def exact_steps(motion: PhaseMotion, times: Tensor, eta: float) -> Matrices:
    """Steps that are exact where x_0 is known: see `PhaseSpace`."""
    t, s = times[:-1], times[1:]
    (mean_t, cov_t), (mean_s, cov_s) = motion.state(t), motion.state(s)
    bayes, left = _bayes(motion, t, s)
    turn = motion.turn(*(motion.tau(time.clamp(min=0)) for time in (s, t)))
    root_t, root_s = cholesky(cov_t), cholesky(cov_s) @ rotation(-turn)
    back = inverse(root_s)
    whole = back @ bayes @ root_t
    phi = torch.atan2(whole[..., 1, 0] - whole[..., 0, 1], whole[..., 0, 0] + whole[..., 1, 1])
    unit = torch.eye(2, dtype=torch.float64, device=times.device)
    kept = square_root(unit - eta**2 * (back @ left @ back.mT)) @ rotation(eta**2 * phi)
    still = (t == s)[..., None, None]
    keep = torch.where(still, unit, root_s @ kept @ inverse(root_t))
    noise = torch.where(still, 0.0, eta * cholesky(left))
    return Matrices(keep, mean_s - keep @ mean_t, noise)


def _bayes(motion: PhaseMotion, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """J and V of q(u_s | u_t, u_0); where times rise, no noise."""
    cov_t, cov_s = motion.state(t).covariance, motion.state(s).covariance
    length = (motion.tau(t) - motion.tau(s)).clamp(min=0)
    carried = motion.flow(length)
    bayes = cov_s @ carried.mT @ inverse(cov_t)
    # Of two forms of V the one that does not cancel.
    short = inverse(carried) @ motion.scatter(length) @ inverse(cov_t) @ carried @ cov_s
    far = (length > motion.short)[..., None, None]
    left = torch.where(far, cov_s - bayes @ carried @ cov_s, short)
    return bayes, (left + left.mT) / 2


def euler_steps(motion: PhaseMotion, times: Tensor) -> Matrices:
    """Euler-Maruyama steps of du = tau' (A u - Q score) dt + noise for the time that runs back."""
    t = times[:-1]
    mean, covariance = motion.state(t)
    length = (motion.speed(t) * (t - times[1:]))[..., None, None]
    drift, noise = motion.drift.to(times.device), motion.noise.to(times.device)
    pull = length * noise @ inverse(covariance)
    keep = torch.eye(2, dtype=torch.float64, device=times.device) - length * drift - pull
    return Matrices(keep, pull @ mean, cholesky(length * noise))


def split_steps(motion: PhaseMotion, times: Tensor) -> tuple[Matrices, Matrices]:
    """Symmetric splitting of each step, with the estimate at its middle time.

    The reverse SDE is that of the stationary law, du = P A^T P^{-1} u dtau + noise for the time
    that runs back, which is exact for any length, and du = Q (score + P^{-1} u) dtau. The first
    part is the former over the first half; the second part is the latter over the whole step, by
    Euler's method, and the former over the second half.
    """
    middle, end = halfway(times), motion.stationary
    drift = end @ motion.drift.mT @ inverse(end)
    end = end.to(times.device)
    tau, tau_m = motion.tau(times), motion.tau(middle)
    halves = (tau[:-1] - tau_m, (tau_m - tau[1:]))
    carried = [end @ motion.flow(length).mT @ inverse(end) for length in halves]
    noise = [cholesky(motion.scatter(length, drift)) for length in halves]
    mean, covariance = motion.state(middle)
    pull = (tau[:-1] - tau[1:])[..., None, None] * motion.noise.to(times.device)
    kick = torch.eye(2, dtype=torch.float64, device=times.device) + pull @ (
        inverse(end) - inverse(covariance)
    )
    data = carried[1] @ pull @ inverse(covariance) @ mean
    first = Matrices(carried[0], torch.zeros_like(mean), noise[0])
    return first, Matrices(carried[1] @ kick, data, noise[1])


def halfway(times: Tensor) -> Tensor:
    """The middle time of each step of a grid; of a step to `CLEAN` its start.

    Example:
        >>> halfway(torch.tensor([1.0, 0.5, -1.0])).tolist()
        [0.75, 0.5]
    """
    return torch.where(times[1:] < 0, times[:-1], (times[:-1] + times[1:]) / 2)
