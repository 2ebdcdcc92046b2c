r"""Multistep: one effective estimate from the last few.

In the clock lambda = log(alpha / sigma) the exact deterministic step is
x_s = (sigma_s / sigma_t) x_t + sigma_s int e^lambda x_0(lambda) d lambda, so replacing x_0(lambda)
by the polynomial through the last k estimates gives the step of one estimate with weights

    w_j = int e^lambda l_j(lambda) d lambda / int e^lambda d lambda   (l_j: Lagrange basis),

that is k-step Adams-Bashforth on x_0, or DPM-Solver++(kM) with exact integrals. Order 1 is DDIM.
With fresh noise the kernel of the mean is e^{(1 + eta^2) lambda}.

References:
    DPM-Solver++ (Lu et al., 2022), section 4. https://arxiv.org/abs/2211.01095
    Fast Sampling of Diffusion Models with Exponential Integrator (Zhang and Chen, 2023).
    https://arxiv.org/abs/2204.13902
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.samplers.base import Carry, Estimates, Sampler, Space
from structdiff.schedules import Grid

__all__ = ["Multistep", "exponential_weights"]


def exponential_weights(nodes: Tensor, low: Tensor, high: Tensor, rate: float) -> Tensor:
    r"""Weights of the average of the interpolating polynomial against `e^{rate lambda}`.

    Arguments:
        nodes: Clocks of the estimates, `(k,)`, distinct and finite.
        low: Clock at the start of the step.
        high: Clock at its end.
        rate: Rate of the exponential, positive.

    Returns:
        k weights that sum to one, float64.
    """
    h = high - low
    # Moments m_p = E[((lambda - low) / h)^p] of the density e^{rate lambda} on the step.
    a = float(rate * h)
    points, masses = _gauss_legendre(32)
    density = masses * torch.exp(a * (points - 1))
    density = density / density.sum()
    place = (nodes - low) / h
    k = len(nodes)
    basis = torch.ones(k, len(points), dtype=torch.float64)
    for j in range(k):
        for other in range(k):
            if other != j:
                basis[j] *= (points - place[other]) / (place[j] - place[other])
    return basis @ density


def _gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], from the eigenvalues of the Jacobi matrix."""
    i = torch.arange(1, n, dtype=torch.float64)
    off = i / torch.sqrt(4 * i**2 - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (values + 1) / 2, vectors[0] ** 2


class Multistep(Sampler):
    """Adams-Bashforth in the clock of each leaf.

    Arguments:
        denoiser: The denoiser.
        grid: Times at which it is called.
        order: Number of estimates used, 1 to 3; the first steps use what there is.
        eta: Fresh noise, 0 by default.

    Raises:
        ValueError: If the order is not 1, 2 or 3.
    """

    def __init__(
        self, denoiser: Denoiser, grid: Grid, *, order: int = 2, eta: float = 0.0
    ) -> None:
        super().__init__(denoiser, grid, eta=eta)
        if order not in (1, 2, 3):
            msg = f"order must be 1, 2 or 3, got {order}"
            raise ValueError(msg)
        self.nominal = order

    def order(self, space: Space) -> int:
        """Nominal for deterministic walks; with fresh noise at most 2 on R^n, 1 on manifolds.

        The third order needs a walk that begins in pure noise, where estimates hardly change: its
        first two steps are of lower order. On classes the order is 1 whatever the method, for
        several estimates up to a factor log(steps).
        """
        if space == "classes" or (space == "manifold" and self.eta > 0):
            return 1
        return min(self.nominal, 2) if self.eta > 0 else self.nominal

    def rule(self, clock: Tensor) -> Tensor:
        """Weights of each step, latest estimate first."""
        steps = len(clock) - 1
        weights = torch.zeros(steps, self.nominal, dtype=torch.float64)
        weights[:, 0] = 1
        for i in range(steps):
            used = clock[max(0, i - self.nominal + 1) : i + 1].flip(0)
            used = used[torch.isfinite(used)]  # an estimate at pure noise has no place
            if torch.isfinite(clock[i : i + 2]).all():
                row = exponential_weights(used, clock[i], clock[i + 1], 1 + self.eta**2)
                weights[i, : len(row)] = row
        return weights

    mixing: Any

    def prepare(self) -> None:
        """The weights of the whole grid, in the clock of each leaf."""
        self.mixing = self.process.weights(self.rule, self.times)

    def effective(self, carry: Carry, i: int) -> tuple[Estimates, Carry]:
        """The weighted past."""
        estimate = self.denoise(carry.x, i, carry.previous)
        history = ((carry.x, estimate), *carry.history)[: self.nominal]
        mixed = self.process.combine(history, self.mixing[i], carry.x)
        kept = history[: self.nominal - 1]
        return mixed, replace(carry, history=kept, previous=estimate, calls=carry.calls + 1)
