"""Likelihood by the probability flow, against exact densities and by its own total mass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Denoiser,
    Gaussian,
    Generator,
    Geometric,
    Linear,
    NetworkDenoiser,
    Product,
    absorbing,
)
from structdiff.likelihood import Density, flow_log_prob
from structdiff.processes import Estimate, GeodesicFlow, Process
from structdiff.schedules import Flow
from structdiff.spaces import SO3, HeatKernel, Manifold, Torus, WrappedNormal
from structdiff.spaces.hyperbolic import Hyperbolic
from structdiff.spaces.sphere import Sphere
from structdiff.testing import ExactDenoiser

SHARES = torch.tensor([0.5, 0.3, 0.2]).double()
KERNELS: dict[str, HeatKernel] = {"T2": Torus(2), "S2": Sphere(2), "SO3": SO3()}


def uniform(space: HeatKernel, rows: int, seed: int) -> Tensor:
    return space.uniform(rows, Generator(seed), torch.float64, "cpu")


@pytest.mark.parametrize("name", KERNELS)
def test_it_is_the_exact_density_of_a_mixture_of_heat_kernels(name: str) -> None:
    """At t = 0.2 the model's density is a mixture of kernels."""
    space = KERNELS[name]
    process = Brownian(Geometric(0.1, 4.0), space)
    data, x = uniform(space, 3, 0), uniform(space, 4, 1)
    denoiser = ExactDenoiser(Product({"x": process}), Batch.of(data), SHARES)
    got = flow_log_prob(denoiser, Batch.of(x), start=0.2, tolerance=1e-6)
    tau = process.schedule(torch.tensor(0.2).double()).sigma ** 2
    each = torch.stack([space.log_kernel(point.expand_as(x), x, tau) for point in data])
    truth = torch.logsumexp(each + SHARES.log()[:, None], 0)
    assert float((got.total - truth).abs().max()) < 1e-3
    assert float(got.error.max()) == 0


def test_it_is_the_exact_density_of_a_gaussian_mixture() -> None:
    data = torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.3, 1.0]]).double()
    data = data - SHARES @ data  # the prior has the mean that is left at t = 1
    process, x = Gaussian(Geometric(0.1, 1000.0), event=(2,)), data + 0.2
    denoiser = ExactDenoiser(Product({"x": process}), Batch.of(data), SHARES)
    got = flow_log_prob(denoiser, Batch.of(x), start=0.2, tolerance=1e-7)
    level = process.schedule(torch.tensor(0.2).double())
    law = torch.distributions.Normal(level.alpha * data, level.sigma)
    truth = torch.logsumexp(law.log_prob(x[:, None]).sum(-1) + SHARES.log(), 1)
    torch.testing.assert_close(got.total, truth, rtol=0, atol=1e-5)


class Smooth(nn.Module):
    """A smooth field that depends on time, drawn once; no symmetry, no potential."""

    def __init__(self, space: Manifold, size: float) -> None:
        super().__init__()
        self.space, self.size = space, size
        features = space.features(space.origin(torch.float64, "cpu")[None]).shape[1]
        generator = torch.Generator().manual_seed(4)
        self.first = torch.randn(features + 1, 24, generator=generator).double()
        self.last = torch.randn(24, math.prod(space.tangent), generator=generator).double()

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: object
    ) -> dict[str, Tensor]:
        x = batch["x"]
        time = torch.tanh(clock["x"] / 4).to(x).expand(len(x))[:, None]
        hidden = torch.tanh(torch.cat([self.space.features(x), time], 1) @ self.first)
        out = self.size * hidden @ self.last / 24**0.5
        return {"x": out.reshape(len(x), *self.space.tangent)}


def field(process: Process, space: Manifold, size: float) -> NetworkDenoiser:
    return NetworkDenoiser(Smooth(space, size), Product({"x": process}))


def sphere_grid() -> tuple[Tensor, Tensor]:
    """Gauss-Legendre in height, equal angles around: points and the area that each stands for."""
    height, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(40))
    angle = torch.arange(80).double() * (2 * math.pi / 80)
    h, a = (x.flatten() for x in torch.meshgrid(height, angle, indexing="ij"))
    ring = (1 - h**2).sqrt()
    x = torch.stack([ring * torch.cos(a), ring * torch.sin(a), h], 1)
    return x, (weight * 2 * math.pi / 80).repeat_interleave(80)


def torus_grid() -> tuple[Tensor, Tensor]:
    angle = torch.arange(48).double() * (2 * math.pi / 48) - math.pi
    x = torch.cartesian_prod(angle, angle)
    return x, torch.full((len(x),), (2 * math.pi / 48) ** 2).double()


GRIDS = {"S2": (Sphere(2), sphere_grid), "T2": (Torus(2), torus_grid)}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("route", ["diffusion", "flow"])
def test_any_field_has_a_density_of_mass_one(name: str, route: str) -> None:
    space, grid = GRIDS[name]
    x, area = grid()
    diffusion = route == "diffusion"
    process = Brownian(Geometric(0.1, 3.0), space) if diffusion else GeodesicFlow(space)
    denoiser = field(process, space, 0.2 if diffusion else 0.8)
    got = flow_log_prob(denoiser, Batch.of(x), start=0.05, tolerance=1e-4)
    assert float(got.total.std()) > 0.2
    assert float((got.total.exp() * area).sum()) == pytest.approx(1, abs=1e-3)


def test_any_field_on_the_hyperbolic_plane_has_mass_one() -> None:
    """By importance sampling from a wider law."""
    space = Hyperbolic(2)
    wide = WrappedNormal(space, 1.6)
    x = wide.draw(1500, Generator(2), torch.float64, "cpu")
    denoiser = field(GeodesicFlow(space), space, 0.5)
    got = flow_log_prob(denoiser, Batch.of(x), start=0.05, tolerance=1e-4)
    share = (got.total - wide.log_prob(x)).exp()
    assert float(share.std()) > 0.1
    error = float(share.std()) / math.sqrt(len(x))
    assert abs(float(share.mean()) - 1) < 4 * error


def test_probes_are_unbiased_and_say_their_error() -> None:
    space = Sphere(2)
    x = uniform(space, 8, 3)
    denoiser = field(GeodesicFlow(space), space, 0.8)
    exact = flow_log_prob(denoiser, Batch.of(x), start=0.05, tolerance=1e-4)
    guess = flow_log_prob(
        denoiser, Batch.of(x), start=0.05, tolerance=1e-4, probes=24, random=Generator(1)
    )
    z = (guess.total - exact.total) / guess.error
    assert float(guess.error.min()) > 1e-4
    assert float(z.abs().max()) < 4
    assert 0.4 < float(z.square().mean().sqrt()) < 1.8
    assert torch.equal(guess.prior["x"], exact.prior["x"])


def test_two_leaves_are_a_record_and_a_given_one_a_condition() -> None:
    """Leaves that do not see each other: the density of both is the sum, and of one its own."""
    first, second = Brownian(Geometric(0.1, 3.0), Torus(1)), Gaussian(Linear())
    process = Product({"a": first, "b": second})
    angles, numbers = torch.tensor([[0.5], [-2.0]]).double(), torch.tensor([0.3, -1.0]).double()
    alone = [
        ExactDenoiser(Product({n: p}), Batch({n: x[:1]}, {n: Batch.of(x[:1]).layouts["x"]}))
        for n, p, x in (("a", first, angles), ("b", second, numbers))
    ]

    class Apart(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.process: Any = process

        def forward(
            self, batch: Batch, t: Mapping[str, Tensor], previous: object = None
        ) -> Mapping[str, Estimate]:
            return {
                name: one(batch.only(name), {name: t[name]})[name]
                for name, one in zip("ab", alone, strict=True)
            }

    both = Apart()
    layout = Batch.of(numbers).layouts["x"]
    batch = Batch({"a": angles, "b": numbers}, {"a": layout, "b": layout})
    whole = flow_log_prob(both, batch, start=0.3, tolerance=1e-7)
    parts = [
        flow_log_prob(one, batch.only(name), start=0.3, tolerance=1e-7)
        for name, one in zip("ab", alone, strict=True)
    ]
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole.leaf("a"), parts[0].total, rtol=0, atol=1e-5)
    known = batch.with_leaves({"a": angles[[0, 0]], "b": numbers})
    held = known.with_given({"a": torch.tensor([True, True])})
    rest = flow_log_prob(both, held, start=0.3, tolerance=1e-7)
    torch.testing.assert_close(rest.total, parts[1].total, rtol=0, atol=1e-5)


def test_the_report_says_what_it_is() -> None:
    space = Torus(1)
    denoiser = field(GeodesicFlow(space), space, 0.3)
    x = torch.tensor([[0.1], [1.0], [2.0]]).double()
    whole = flow_log_prob(denoiser, Batch.of(x), tolerance=1e-4)
    parts = [flow_log_prob(denoiser, Batch.of(part), tolerance=1e-4) for part in (x[:1], x[1:])]
    joined = Density.concatenate(parts)
    assert torch.equal(joined.total, whole.total)
    text = str(whole)
    assert "probability flow from t = 0.001 to 1, exact divergence" in text
    assert "Riemannian volume on manifolds" in text
    assert f"{float(whole.total.mean()):.4g}" in text


def test_refusals() -> None:
    data = Batch.of(torch.zeros(1, 1).double())
    denoiser = field(GeodesicFlow(Torus(1)), Torus(1), 0.3)
    with pytest.raises(ValueError, match="0 < start < end <= 1, got 0 and 1"):
        flow_log_prob(denoiser, data, start=0)
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        flow_log_prob(denoiser, data, probes=0)
    with pytest.raises(ValueError, match="random is None"):
        flow_log_prob(denoiser, data, probes=2)
    words = ExactDenoiser(
        Product({"x": Categorical(Flow(), absorbing(3))}), Batch.of(torch.tensor([1]))
    )
    with pytest.raises(ValueError, match="has no probability flow"):
        flow_log_prob(words, Batch.of(torch.tensor([1])))
