r"""Flow matching on general geometries, by any premetric.

A premetric d(x_0, x) is zero at x = x_0 alone, positive elsewhere, and its gradient in x vanishes
nowhere else. Where geodesics are not known in closed form, or not what is wanted (a spectral
distance of a mesh, a chord), curves follow its gradient and its value falls in proportion to t,

    dx_t / dt = (d / t) grad d / |grad d|^2,        d(x_0, x_t) = t d(x_0, x_1),

so the estimate, minus t times the velocity, is E[-d grad d / |grad d|^2 | x_t]. With the geodesic
distance that is log_{x_t}(x_0): then this is `GeodesicFlow`. The curve is walked from x_1 by steps
even in log t, x <- exp_x((1 - ratio of times) estimate), which are exact for the geodesic distance
and right to first order for others; it needs exp and no log.

References:
    Flow Matching on General Geometries (Chen and Lipman, 2024), section 3.2, eqs. 12 and 13.
    https://arxiv.org/abs/2302.03660
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from structdiff.parameterisations.tangent import TangentParameterisation
from structdiff.processes.flow import FlowLeaf
from structdiff.processes.leaf import expand
from structdiff.random import Randomness
from structdiff.spaces import Law, Manifold

__all__ = ["Premetric", "PremetricFlow"]

Premetric: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(x_0, x), both `(rows, *point)`, to d, `(rows,)`; differentiable in x."""


class PremetricFlow(FlowLeaf):
    """A flow along the gradient of a premetric, on any manifold with exp.

    It has no density of x_t given x_0; the likelihood of a model is that of its flow.

    Arguments:
        manifold: The space.
        premetric: The premetric d.
        base: The law of x_1, see `GeodesicFlow`.
        parameterisation: What the network predicts: `TangentVelocity()` by default.
        steps: Steps of a curve, at least 1.

    Raises:
        ValueError: If there are no steps.

    Example:
        >>> from structdiff.batch import Batch
        >>> from structdiff.random import Generator
        >>> from structdiff.spaces import Sphere
        >>> chord = lambda x_0, x: (x - x_0).norm(dim=-1)
        >>> north = torch.tensor([[0.0, 0.0, 1.0]])
        >>> process = PremetricFlow(Sphere(2), chord).bind(Batch.of(north))
        >>> x = process.diffuse(north, torch.tensor(0.25), Generator(0))
        >>> bool(chord(north, x) <= 0.5)
        True
    """

    def __init__(
        self,
        manifold: Manifold,
        premetric: Premetric,
        base: Law | None = None,
        parameterisation: TangentParameterisation | None = None,
        *,
        steps: int = 32,
    ) -> None:
        if steps < 1:
            msg = f"steps must be at least 1, got {steps}"
            raise ValueError(msg)
        super().__init__(manifold, base, parameterisation)
        self.premetric, self.steps = premetric, steps

    @torch.no_grad()
    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """The point at t of the curve that begins at a draw of the base law."""
        x = self.base.draw(len(x_0), random, x_0.dtype, x_0.device)
        sigma = self.sigma(t, x_0)
        share = 1 - torch.where(sigma > 0, sigma, 1.0) ** (1 / self.steps)
        for _ in range(self.steps):
            way = self.towards(x_0, x, t)
            x = self.manifold.project(self.manifold.exp(x, expand(share, way) * way))
        return torch.where(expand(sigma > 0, x_0), x, x_0)

    def towards(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """-d grad d / |grad d|^2; zero where the gradient is."""
        del t
        with torch.enable_grad():
            v = x_t.new_zeros(len(x_t), *self.manifold.tangent).requires_grad_()
            value = self.premetric(x_0, self.manifold.exp(x_t.detach(), v))
            (slope,) = torch.autograd.grad(value.sum(), v)
        slope = self.manifold.to_tangent(x_t, slope)
        square = self.manifold.norm2(slope)
        scale = torch.where(square > 0, value.detach() / torch.where(square > 0, square, 1.0), 0.0)
        return -expand(scale, slope) * slope
