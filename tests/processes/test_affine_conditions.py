"""Noise whose mean and scale are read from the condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Cosine, Flow, Gaussian, Generator, Layout, Linear, Product
from structdiff.denoiser import Denoiser
from structdiff.parameterisations import Velocity
from structdiff.processes import Estimate
from structdiff.processes.affine import Affine
from structdiff.processes.covariance import Composed, FromCondition, Scaling
from structdiff.processes.covariance_dense import Cholesky
from structdiff.processes.covariance_rows import Shared
from structdiff.samplers import DDIM, Ancestral
from structdiff.schedules import UniformLogSNR, UniformTime
from structdiff.testing import check_process
from structdiff.testing.noise import Impulses
from tests.processes.cases import Fixed, time
from tests.processes.closeness import close


def test_a_learned_mean_has_a_gradient() -> None:
    """d x_t / d mu = 1 - rho, to the parameters of what reads the condition."""
    line = torch.nn.Linear(2, 1, bias=False)
    process = Affine(Gaussian(Linear()), mean=FromCondition("text", lambda c: line(c)[:, 0]))
    batch = Batch.of(torch.zeros(3)).with_condition({"text": torch.arange(6.0).reshape(3, 2)})
    x_t = process.bind(batch).diffuse(batch["x"], time(0.3), Generator(0))
    (slope,) = torch.autograd.grad(x_t.sum(), line.weight)
    expected = (1 - Linear().alpha(time(0.3)).float()) * batch.condition["text"].sum(0)
    torch.testing.assert_close(slope[0], expected)
    module = Affine(Gaussian(Linear()), mean=FromCondition("text", line))
    assert [p.shape for p in module.parameters()] == [line.weight.shape]


class Exact(Denoiser):
    """The denoiser of x_0 ~ N(g, S) by sample, in closed form; it tells its variance in u."""

    def __init__(self, process: Affine, mean: str, scale: str) -> None:
        super().__init__()
        self.process = Product({"x": process})
        self.mean, self.scale = mean, scale

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        del previous
        leaf = self.process.bind(batch)["x"]
        level, u = leaf.process.level(t["x"], batch["x"]), leaf.whiten(batch["x"])
        own = leaf.factor.multiply(torch.ones_like(u))
        mean = leaf.whiten(batch.condition[self.mean])
        variance = (batch.condition[self.scale] / own) ** 2
        total = level.alpha**2 * variance + level.sigma**2
        value = mean + level.alpha * variance / total * (u - level.alpha * mean)
        return {
            "x": Estimate(
                leaf.centre + leaf.factor.multiply(value),
                {"variance": variance * level.sigma**2 / total},
            )
        }


def heteroscedastic(samples: int) -> tuple[Batch, Tensor, Tensor]:
    """Mean sin(3 c) and deviation 0.1 + 0.4 |c| of a number, given c in [-1, 1]."""
    c = torch.linspace(-1, 1, samples, dtype=torch.float64)
    mean, scale = torch.sin(3 * c), 0.1 + 0.4 * c.abs()
    condition = {"mean": mean, "scale": scale, "guess": mean + 0.3 * torch.cos(5 * c)}
    return Batch({"x": mean}, {"x": Layout.regular(samples)}, condition), mean, scale


def test_a_prior_of_the_data_needs_no_transport() -> None:
    """Noise of the data's own conditional law ends as that law, and five steps keep it.

    By impulses: the mean exactly, the variance within 2 % (what the last step leaves out).
    """
    batch, mean, scale = heteroscedastic(5)
    process = Affine(Gaussian(Flow()), Scaling(FromCondition("scale")), FromCondition("mean"))
    spread = process.bind(batch).prior_divergence(mean + scale)
    assert spread.tolist() == [0.0] * 5  # alpha_1 is 0
    steps = UniformLogSNR(Flow(), 5)
    assert len(steps.times()) == 6
    sampler = Ancestral(Exact(process, "mean", "scale"), steps, eta=1.0)
    for i in range(5):
        drawn = sampler.sample(batch.select([i] * 8), Impulses())["x"]
        close(drawn[0], mean[i])
        variance = (drawn[1:] - drawn[0]).square().sum() / scale[i] ** 2
        assert abs(float(variance) - 1) < 0.02
        plain = (drawn[1:] - drawn[0]).square().sum()
        assert abs(float(plain) - 1) > 0.02  # the scale of the condition matters


def test_the_mean_is_exact_at_any_number_of_steps() -> None:
    """Started from the mean of the prior, deterministic walks end at the mean of the data."""
    batch, mean, _ = heteroscedastic(7)
    process = Affine(Gaussian(Cosine()), Scaling(FromCondition("scale")), FromCondition("mean"))
    for steps in (1, 2, 5):
        sampler = DDIM(Exact(process, "mean", "scale"), UniformTime(steps))
        drawn = sampler.sample(batch, Fixed(torch.zeros(7)))["x"]
        torch.testing.assert_close(drawn, mean, rtol=0, atol=1e-14)


def test_regression_ends_at_the_guess_and_covers() -> None:
    """Terminal mean f(c), whatever the data; 90 % intervals cover 0.90 +- 0.03 of the truth."""
    batch, mean, scale = heteroscedastic(40)
    process = Affine(Gaussian(Flow(), Velocity()), mean=FromCondition("guess"))
    leaf = process.bind(batch)
    end = leaf.diffuse(batch["x"] + 5, time(1.0), Fixed(torch.zeros(40)))
    torch.testing.assert_close(end, batch.condition["guess"], rtol=0, atol=1e-14)
    wide = batch.select(torch.arange(40).repeat_interleave(500))
    sampler = Ancestral(Exact(process, "mean", "scale"), UniformTime(20), eta=1.0)
    drawn = sampler.sample(wide, Generator(0))["x"].reshape(40, 500)
    low, high = torch.quantile(drawn, torch.tensor([0.05, 0.95]).double(), dim=1)
    truth = mean + scale * Generator(1).normal((2000, 40), torch.float64, "cpu")
    inside = ((truth > low) & (truth < high)).double().mean()
    assert abs(float(inside) - 0.9) < 0.03


def test_laws_by_sampling() -> None:
    """All laws of `check_process`, on a condition, and with rows that share noise."""
    x = torch.tensor([[-1.0, 0.0], [2.0, 1.0], [0.0, 0.5]])
    process = Affine(
        Gaussian(Cosine(), event=(2,)),
        Composed(Scaling(FromCondition("scale", torch.exp)), Cholesky(torch.eye(2) + 0.5)),
        FromCondition("mean"),
    )
    condition = {"scale": x.flip(0) / 2, "mean": 2 * x}
    batch = Batch({"x": x}, {"x": Layout.regular(3)}, condition)
    check_process(process, batch, draws=6000)
    layout = Layout.ragged([2, 3, 3])
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    shared = Affine(Gaussian(Cosine(), event=(2,)), Shared(0.5), torch.ones(2))
    check_process(shared, Batch({"x": x}, {"x": layout}), draws=6000)


def test_numbers_of_a_condition_fit_a_row() -> None:
    """A column for rows of one number would be spread over all of them."""
    batch = Batch.of(torch.zeros(3)).with_condition({"c": torch.ones(3, 1)})
    column = FromCondition("c")
    for name, process in (
        ("mean", Affine(Gaussian(Cosine()), mean=column)),
        ("scale", Affine(Gaussian(Cosine()), Scaling(column))),
    ):
        with pytest.raises(
            ValueError, match=rf"{name} must broadcast against a row \(\), got \(1,"
        ):
            process.bind(batch)
        fits = batch.with_condition({"c": torch.ones(3)})
        assert process.bind(fits).prior(Generator(0)).shape == (3,)
