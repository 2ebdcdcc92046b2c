"""Training on data that are never seen clean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    Batch,
    Categorical,
    Denoising,
    Flow,
    Gaussian,
    Generator,
    Linear,
    NetworkDenoiser,
    Product,
    UniformTime,
    absorbing,
)
from structdiff.denoiser import Denoiser
from structdiff.objectives import SNR, Uniform, UniformTimes
from structdiff.objectives.corrupted import GSURE, Ambient
from structdiff.operators import Blur, Mask, Matrix
from structdiff.processes import Estimate
from structdiff.samplers import Heun
from structdiff.testing import NormalDenoiser

ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.5, 0.6, 0.7]]).double()
COVARIANCE = ROOT @ ROOT.T
GAUSSIAN = Gaussian(Linear(), event=(3,))


def clean(rows: int, seed: int) -> Tensor:
    return Generator(seed).normal((rows, 3), torch.float64, "cpu") @ ROOT.T


def deleted(rows: int, seed: int, share: float = 0.3) -> Batch:
    """What is deleted is not a number."""
    known = Generator(seed + 1000).uniform((rows, 3), torch.float64, "cpu") >= share
    x = torch.where(known, clean(rows, seed), torch.nan)
    return Batch.of(x).with_condition({"seen": known})


class Linear3(nn.Module):
    """The best linear answer for a covariance, from the entries that are left."""

    def __init__(self, root: Tensor) -> None:
        super().__init__()
        self.root = nn.Parameter(root.clone())

    def covariance(self) -> Tensor:
        return self.root @ self.root.T

    def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
        x, left = batch["x"], batch.condition["seen"].to(batch["x"])
        snr = torch.exp(2 * clock["x"].to(x)).expand(len(x))[:, None, None]
        alpha, sigma = torch.sigmoid(snr.log()).sqrt(), torch.sigmoid(-snr.log()).sqrt()
        both = left[:, :, None] * left[:, None, :]
        total = alpha**2 * both * self.covariance()
        total = total + torch.diag_embed(sigma.flatten(1) ** 2 * left + (1 - left))
        # A VP schedule of unit data: encoding changes nothing.
        inner = torch.linalg.solve(total, (x * left).unsqueeze(-1))
        return {"x": (alpha * self.covariance() @ inner).squeeze(-1)}


def exact() -> NetworkDenoiser:
    return NetworkDenoiser(Linear3(ROOT), Product({"x": GAUSSIAN}))


@pytest.fixture(scope="module")
def learned() -> NetworkDenoiser:
    """From vectors of which 30 % are deleted, no entry twice."""
    denoiser = NetworkDenoiser(Linear3(torch.eye(3).double()), Product({"x": GAUSSIAN}))
    objective = Ambient(
        {"x": "seen"}, further=0.2, weights=Uniform(), times=UniformTimes(0.02, 1.0)
    )
    optimiser, random = torch.optim.Adam(denoiser.parameters(), 0.08), Generator(0)
    for step in range(200):
        for group in optimiser.param_groups:
            group["lr"] = 0.08 * (1 - step / 200)
        optimiser.zero_grad()
        objective(denoiser, deleted(2000, step), random).total.backward()
        optimiser.step()
    return denoiser.requires_grad_(False)


def test_the_denoiser_is_that_of_clean_data(learned: NetworkDenoiser) -> None:
    """On observed entries, from deleted vectors and from whole ones: its error within 5 %."""
    x_0, truth = clean(4000, 50_000), exact().requires_grad_(False)
    for share in (0.3, 0.0):
        known = Generator(3).uniform((4000, 3), torch.float64, "cpu") >= share
        for t in (0.1, 0.3, 0.6):
            time = {"x": torch.tensor(t).double()}
            level = Linear()(time["x"])
            z = Generator(9).normal((4000, 3), torch.float64, "cpu")
            x_t = torch.where(known, level.alpha * x_0 + level.sigma * z, 0.0)
            batch = Batch.of(x_t).with_condition({"seen": known})
            ours, best = (
                float((known * (one(batch, time)["x"].value - x_0) ** 2).sum())
                for one in (learned, truth)
            )
            assert ours < 1.05 * best


def test_samples_are_full_vectors_of_the_right_covariance(learned: NetworkDenoiser) -> None:
    """Within 10 % of it, entries never seen together included."""
    whole = Batch.of(torch.zeros(20_000, 3).double())
    whole = whole.with_condition({"seen": torch.ones(20_000, 3).bool()})
    drawn = Heun(learned, UniformTime(30)).sample(whole, Generator(0))["x"]
    found = torch.cov(drawn.T)
    scale = torch.diag(COVARIANCE).sqrt()
    gap = (found - COVARIANCE) / (scale[:, None] * scale)
    assert float(gap.abs().max()) < 0.1
    assert float(gap.norm() / (COVARIANCE / (scale[:, None] * scale)).norm()) < 0.1


def test_deleted_entries_are_never_read() -> None:
    """Their gradient is zero, whatever the network does with what it gets; they may be NaN."""

    class Greedy(nn.Module):
        def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
            total = batch["x"].sum(1, keepdim=True)
            return {"x": torch.sin(total) + batch["x"].square() * total}

    denoiser = NetworkDenoiser(Greedy(), Product({"x": GAUSSIAN}))
    batch = deleted(200, 0)
    known = batch.condition["seen"]
    x = batch["x"].clone().requires_grad_()
    terms = Ambient({"x": "seen"}, 0.2)(denoiser, batch.with_leaves({"x": x}), Generator(0))
    assert bool(terms.total.isfinite())
    (gradient,) = torch.autograd.grad(terms.total, x)
    assert not gradient[~known].any()
    assert bool((gradient[known] != 0).double().mean() > 0.9)


def test_the_loss_counts_known_entries_and_shows_fewer() -> None:
    """By hand, at the masks that the network was told."""
    shown: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
            shown.extend([batch["x"], batch.condition["seen"]])
            return {"x": torch.zeros_like(batch["x"])}

    denoiser = NetworkDenoiser(Spy(), Product({"x": GAUSSIAN}))
    batch = deleted(5000, 0)
    known = batch.condition["seen"]
    terms = Ambient({"x": "seen"}, 0.2)(denoiser, batch, Generator(0))
    x_t, left = shown
    assert not (left & ~known).any()
    share = float(left[known].double().mean())
    assert abs(share - 0.8) < 4 * math.sqrt(0.16 / float(known.sum()))
    assert not x_t[~left].any()
    assert x_t[left].all()
    error = torch.where(known, batch["x"], 0.0).square().sum(1)
    weight = SNR()(terms.clock["x"])
    torch.testing.assert_close(terms.leaves["x"], weight * error / 3)


class Bent(Denoiser):
    """A denoiser that is neither linear nor right."""

    def __init__(self, event: tuple[int, ...]) -> None:
        super().__init__()
        self.process = Product({"x": Gaussian(Linear(), event=event)})
        size = math.prod(event)
        mix = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).double()
        self.mix = nn.Parameter(mix / math.sqrt(size))

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        x = batch["x"].flatten(1)
        return {"x": Estimate((torch.tanh(x @ self.mix) + 0.3 * x).reshape(batch["x"].shape))}


OPERATORS = {
    "mask": Mask(torch.tensor([True, False, True])),
    "blur": Blur(torch.tensor([0.25, 0.5, 0.25]), (8,)),
    "matrix": Matrix(torch.tensor([[1.0, 0.5, 0.0], [0.0, -0.6, 0.9]]).double()),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_risk_is_the_error_that_nobody_can_see(name: str, noise: float) -> None:
    """Its mean is E |P (f(x_t) - x_0)|^2, of clean data, within 3 standard errors."""
    operator, rows = OPERATORS[name], 60_000
    if name == "blur":
        noise = 0.15 * noise  # so much smaller is its smallest singular value but 0
    event = operator.event
    x_0 = 0.8 * Generator(0).normal((rows, *event), torch.float64, "cpu") + 0.3
    y = operator(x_0)
    y = y + noise * Generator(1).normal(tuple(y.shape), torch.float64, "cpu")
    batch = Batch.of(operator.pinv(y))
    denoiser = Bent(event)
    objective = GSURE(operator, noise, times=UniformTimes(0.35, 0.45))
    random = Generator(2)
    terms = objective(denoiser, batch, random)
    got = terms.leaves["x"].detach()
    # The error itself, on clean data with noise of the size that the time says.
    clock = terms.clock["x"].double()
    alpha, sigma = (
        torch.sigmoid(s * 2 * clock).sqrt().reshape(-1, *(1,) * len(event)) for s in (1, -1)
    )
    seen = operator.singular.double() > 0
    z = Generator(3).normal((rows, *seen.shape), torch.float64, "cpu")
    flat = (slice(None), *(None,) * seen.ndim)
    coefficients = torch.where(seen, alpha.flatten()[flat] * operator.analysis(x_0), 0.0)
    x_t = operator.synthesis(coefficients + sigma.flatten()[flat] * z)
    said = denoiser(Batch.of(x_t), {})["x"].value.detach()
    gap = torch.where(seen, operator.analysis(said - x_0), 0.0)
    weight = SNR()(clock) / math.prod(event)
    truth = weight * gap.square().flatten(1).sum(1)
    difference = got - truth
    error = float(difference.std()) / math.sqrt(rows)
    assert abs(float(difference.mean())) < 3.5 * error
    assert error < 0.02 * float(truth.mean())
    assert math.isfinite(float(torch.autograd.grad(terms.total, denoiser.mix)[0].sum()))


def test_without_noise_and_deletion_it_is_denoising() -> None:
    denoiser = NormalDenoiser(GAUSSIAN, torch.zeros(1, 3).double(), torch.ones(1).double())
    whole = Mask(torch.tensor([True, True, True]))
    batch = Batch.of(clean(64, 0))
    law = UniformTimes(0.1, 0.9)
    got = GSURE(whole, 0.0, times=law)(denoiser, batch, Generator(0))
    expected = Denoising(times=law)(denoiser, batch, Generator(0))
    torch.testing.assert_close(got.leaves["x"].detach(), expected.leaves["x"])


CLASSES = Product({"x": Categorical(Flow(), absorbing(2))})


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Ambient({"x": "seen"}, 0.0), r"further must be in \(0, 1\), got 0.0"),
        (lambda: Ambient({}), "observed must name a leaf"),
        (
            lambda: Ambient({"x": "seen"})(exact(), Batch.of(clean(3, 0)), Generator(0)),
            r"condition 'seen' must be bool of shape \(3, 3\) like leaf 'x', got none",
        ),
        (
            lambda: Ambient({"x": "seen"})(
                NetworkDenoiser(Linear3(ROOT), CLASSES),
                Batch.of(torch.tensor([0, 1])),
                Generator(0),
            ),
            "leaf 'x' must have Gaussian noise",
        ),
        (lambda: GSURE(OPERATORS["mask"], -1.0), "noise must be at least 0 and finite, got -1.0"),
        (
            lambda: GSURE(OPERATORS["mask"], 0.5)(exact(), Batch.of(clean(3, 0)), Generator(0)),
            "sigma / alpha at the earliest time must be at least 0.5",
        ),
        (
            lambda: GSURE(OPERATORS["blur"], 0.0)(exact(), Batch.of(clean(3, 0)), Generator(0)),
            r"operator takes rows of shape \(8,\), leaf 'x' has \(3,\)",
        ),
        (
            lambda: GSURE(OPERATORS["mask"], 0.0)(
                exact(),
                replace(Batch.of(clean(3, 0)), given={"x": torch.ones(3).bool()}),
                Generator(0),
            ),
            "without given entries",
        ),
        (
            lambda: GSURE(OPERATORS["mask"], 0.0)(
                exact(), Batch.of({"x": clean(3, 0), "y": clean(3, 0)}), Generator(0)
            ),
            r"a record of one leaf, got \['x', 'y'\]",
        ),
    ],
)
def test_refusals(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
