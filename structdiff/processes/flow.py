r"""Riemannian flow matching: points carried along geodesics from noise to data.

x_1 is drawn from a base law, and

    x_t = exp_{x_0}(t log_{x_0}(x_1)),    dx_t / dt = -log_{x_t}(x_0) / t,

so that given x_0 alone the velocity is known. The estimate is the way to the data,

    E[log_{x_t}(x_0) | x_t] = -t E[dx_t / dt | x_t],

in flat space E[x_0 | x_t] - x_t: the conditional velocity in units of its own time, finite at
t = 0 too. A step from t to s is

    x_s = exp_{x_t}[(1 - s / t) estimate],

which is exact where x_0 is known. Another profile kappa(t) in place of t walks the same curves at
another speed, so it is a choice of the grid and of the law of training times, not of the process.
With v = log_{x_0}(x_t) / t and J the Jacobian of exp,

    log q(x_t | x_0) = log p_1(exp_{x_0} v) + log J(v) - log J(t v) - n log t

where v is a shortest vector, and no mass elsewhere.

References:
    Flow Matching on General Geometries (Chen and Lipman, 2024), eqs. 13 to 16.
    https://arxiv.org/abs/2302.03660
    Flow Matching for Generative Modeling (Lipman et al., 2023). https://arxiv.org/abs/2210.02747
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

import torch
from torch import Tensor

from structdiff.parameterisations.tangent import TangentParameterisation, TangentVelocity
from structdiff.processes.base import Conditional, Estimate
from structdiff.processes.coupling import Coupling
from structdiff.processes.leaf import expand
from structdiff.processes.tangent import TangentLeaf, TangentStep
from structdiff.random import Randomness
from structdiff.schedules import Flow
from structdiff.spaces import Law, Manifold
from structdiff.spaces.laws import natural_law

__all__ = ["FlowLeaf", "GeodesicFlow"]


class FlowLeaf(TangentLeaf, ABC):
    """A leaf that a flow carries from a base law to data, without fresh noise.

    Arguments:
        manifold: The space.
        base: The law of x_1.
        parameterisation: What the network predicts: `TangentVelocity()` by default.
    """

    def __init__(
        self,
        manifold: Manifold,
        base: Law | None,
        parameterisation: TangentParameterisation | None,
    ) -> None:
        super().__init__(Flow(), manifold, parameterisation or TangentVelocity())
        self.base = base or natural_law(manifold)

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """A draw of the base law."""
        del t
        known = self.known
        return self.hold(self.base.draw(len(known), random, known.dtype, known.device))

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """Log density of the base law."""
        del t
        return self.free(self.base.log_prob(x_1))

    def velocity(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """Minus the estimate over t; zero at clean rows."""
        sigma = self.sigma(t, x_t)
        return -estimate.value / expand(torch.where(sigma > 0, sigma, 1.0), estimate.value)

    def plan(self, times: Tensor, eta: float) -> Sequence[TangentStep]:
        """1 - s / t of every step.

        Raises:
            ValueError: If eta is not 0: a flow has no fresh noise.
        """
        if eta > 0:
            msg = f"eta must be 0, got {eta}: a flow has no fresh noise, use DDIM, Heun, Multistep"
            raise ValueError(msg)
        sigma = self.schedule(times).sigma
        start = torch.where(sigma[:-1] > 0, sigma[:-1], 1.0)
        drift = torch.where(sigma[:-1] > 0, 1 - sigma[1:] / start, 0.0)
        return self.steps_of(drift, torch.zeros_like(drift))

    def leap(self, times: Tensor) -> Sequence[TangentStep]:
        """Euler's steps, which are those of `plan`."""
        return self.plan(times, 0.0)


class GeodesicFlow(FlowLeaf, Conditional):
    """A flow along geodesics, on any manifold with exp and log.

    Arguments:
        manifold: The space.
        base: The law of x_1: uniform on compact spaces, else a wrapped normal of scale 1 at the
            origin, by default (in each factor of a product that is neither).
        parameterisation: What the network predicts: `TangentVelocity()` by default.
        coupling: How the drawn x_1 of a batch are given to its x_0: as drawn by default. Another
            coupling changes the curves and the estimate but neither end; `log_prob` is that of
            the default.

    Example:
        >>> from structdiff.batch import Batch
        >>> from structdiff.random import Generator
        >>> from structdiff.spaces import Torus
        >>> process = GeodesicFlow(Torus(1)).bind(Batch.of(torch.zeros(1, 1)))
        >>> half = process.log_prob(torch.tensor([[1.0]]), torch.zeros(1, 1), torch.tensor(0.5))
        >>> bool(torch.isclose(half.exp(), torch.tensor(1 / torch.pi)))
        True
    """

    def __init__(
        self,
        manifold: Manifold,
        base: Law | None = None,
        parameterisation: TangentParameterisation | None = None,
        *,
        coupling: Coupling | None = None,
    ) -> None:
        super().__init__(manifold, base, parameterisation)
        self.coupling = coupling

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """The point at t of the geodesic from x_0 to a draw of the base law."""
        x_1 = self.base.draw(len(x_0), random, x_0.dtype, x_0.device)
        if self.coupling is not None:
            x_1 = self.coupling(self.manifold, x_0, x_1)
        way, sigma = self.manifold.log(x_0, x_1), self.sigma(t, x_0)
        moved = self.manifold.exp(x_0, expand(sigma, way) * way)
        return torch.where(expand(sigma > 0, x_0), moved, x_0)

    def towards(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """log_{x_t}(x_0)."""
        del t
        return self.manifold.log(x_t, x_0)

    def log_prob(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Log q(x_t | x_0), per row; at clean rows zero where the points agree, else -inf."""
        space, sigma = self.manifold, self.sigma(t, x_t).expand(len(x_t))
        clean = sigma == 0
        safe = torch.where(clean, 1.0, sigma)
        way = space.log(x_0, x_t)
        v = way / expand(safe, way)
        end = space.exp(x_0, v)
        stretch = space.log_jacobian(x_0, v) - space.log_jacobian(x_0, way)
        density = self.base.log_prob(end) + stretch - space.dimension * safe.log()
        shortest = space.norm2(space.log(x_0, end) - v) <= 1e-6 * (1 + space.norm2(v))
        density = torch.where(shortest, density, -torch.inf)
        same = (x_t == x_0).flatten(1).all(1)
        return torch.where(clean, torch.where(same, 0.0, -torch.inf).to(density), density)
