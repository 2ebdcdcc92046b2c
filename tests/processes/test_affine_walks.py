"""Walks and likelihoods with affine noise: the plain ones in other coordinates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from structdiff import Batch, Cosine, Discrete, Gaussian, Generator, Multistep, Product, bound
from structdiff.denoiser import Denoiser
from structdiff.likelihood import flow_log_prob
from structdiff.objectives import Denoising
from structdiff.processes import Estimate
from structdiff.processes.affine import Affine
from structdiff.processes.covariance_dense import Cholesky
from structdiff.samplers import DDIM, Ancestral, Churn, Heun, Leaping, PredictorCorrector
from structdiff.samplers.restart import Restart
from structdiff.samplers.singlestep import Singlestep
from structdiff.schedules import UniformTime
from structdiff.testing import ExactDenoiser, NormalDenoiser
from tests.processes.closeness import close


class Backed(Denoiser):
    """A denoiser of u as one of x = m + A u."""

    def __init__(self, inner: Denoiser, process: Affine) -> None:
        super().__init__()
        self.inner, self.process = inner, Product({"x": process})

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        leaf = self.process.bind(batch)["x"]
        white = batch.with_leaves({"x": leaf.whiten(batch["x"])})
        value = self.inner(white, t, previous)["x"].value
        return {"x": Estimate(leaf.centre + leaf.factor.multiply(value))}


MIXTURE = torch.tensor([[1.0, 0.0, 0.5], [-1.0, 0.5, 0.0]], dtype=torch.float64)
STDS, SHARES = torch.tensor([0.4, 0.7]).double(), torch.tensor([0.3, 0.7]).double()
ROOT = torch.tensor([[1.5, 0.0, 0.0], [0.7, 0.8, 0.0], [-0.2, 0.4, 2.0]], dtype=torch.float64)
CENTRE = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)


def twins(process: Gaussian | None = None) -> tuple[Denoiser, Denoiser]:
    """The exact denoiser of a mixture, and of its image under x = m + A u."""
    plain = process or Gaussian(Cosine(), event=(3,))
    inner = NormalDenoiser(plain, MIXTURE, STDS, SHARES)
    return inner, Backed(inner, Affine(plain, Cholesky(ROOT @ ROOT.T), CENTRE))


def coloured(u: Tensor) -> Tensor:
    return CENTRE + u @ ROOT.T


@pytest.mark.parametrize(
    "walk",
    [
        lambda d: Ancestral(d, UniformTime(8), eta=1.0),
        lambda d: DDIM(d, UniformTime(8)),
        lambda d: Multistep(d, UniformTime(8), order=3),
        lambda d: Multistep(d, UniformTime(8), order=2, eta=1.0),
        lambda d: Heun(d, UniformTime(8)),
        lambda d: Churn(d, UniformTime(8), Cosine()),
        lambda d: Leaping(d, UniformTime(8)),
        lambda d: PredictorCorrector(DDIM(d, UniformTime(8)), rounds=2),
        lambda d: Restart(Heun, d, UniformTime(8), interval=(0.3, 0.7), rounds=2),
        lambda d: Singlestep(d, UniformTime(8)),
    ],
    ids=[
        "ancestral",
        "ddim",
        "multistep",
        "stochastic multistep",
        "heun",
        "churn",
        "leaping",
        "corrector",
        "restart",
        "singlestep",
    ],
)
@pytest.mark.parametrize("held", [False, True])
def test_whitened_walks_are_the_same(walk: Callable[[Denoiser], Any], held: bool) -> None:
    """The Sigma-process on x is the plain one on Sigma^{-1/2} (x - m), under one noise."""
    inner, outer = twins()
    start = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = {"x": torch.tensor([held, False, False, held, False, False])}
    u = walk(inner).sample(Batch.of(start).with_given(given), Generator(1))["x"]
    batch = Batch.of(coloured(start)).with_given(given)
    x = walk(outer).sample(batch, Generator(1))["x"]
    torch.testing.assert_close(x, coloured(u), rtol=1e-5, atol=1e-5)
    if held:
        assert torch.equal(x[given["x"]], batch["x"][given["x"]])


def test_whitened_likelihoods_are_the_same_up_to_the_volume() -> None:
    """The exact density and the bound, and the density is that of the mixture itself."""
    inner, outer = twins()
    u = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    volume = float(torch.linalg.slogdet(ROOT).logabsdet)
    plain = flow_log_prob(inner, Batch.of(u), tolerance=1e-6).total
    density = flow_log_prob(outer, Batch.of(coloured(u)), tolerance=1e-6).total
    torch.testing.assert_close(density, plain - volume, rtol=1e-4, atol=1e-4)
    each = torch.stack(
        [
            MultivariateNormal(m, s**2 * torch.eye(3).double()).log_prob(u)
            for m, s in zip(MIXTURE, STDS, strict=True)
        ]
    )
    truth = torch.logsumexp(each + SHARES.log()[:, None], 0)
    torch.testing.assert_close(plain, truth, rtol=2e-3, atol=2e-3)
    steps = UniformTime(20, end=0.02)
    below = bound(inner, Batch.of(u), steps, Generator(3), draws=2)
    same = bound(outer, Batch.of(coloured(u)), steps, Generator(3), draws=2)
    close(same.total, below.total + volume, 1e-8)


def test_a_plain_prior_is_the_plain_process() -> None:
    """Sigma = I, m = 0: the same samples and losses under shared noise."""
    data = torch.tensor([-1.0, 0.5, 2.0])
    plain = Product({"x": Gaussian(Discrete.ddpm())})
    same = Product({"x": Affine(Gaussian(Discrete.ddpm()))})
    walks = [
        Ancestral(ExactDenoiser(p, Batch.of(data)), UniformTime(20), eta=1.0).sample(
            Batch.of(torch.zeros(8)), Generator(0)
        )["x"]
        for p in (plain, same)
    ]
    torch.testing.assert_close(walks[0], walks[1], rtol=1e-5, atol=1e-5)
    losses = [
        Denoising()(ExactDenoiser(p, Batch.of(data)), Batch.of(data), Generator(0)).total
        for p in (plain, same)
    ]
    torch.testing.assert_close(losses[0], losses[1])
