"""Implicit score matching is denoising score matching up to a constant, in every space."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Denoising,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    NetworkDenoiser,
    Product,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.divergence import (
    ExactDivergence,
    Hutchinson,
    draw_probes,
    exact_divergence,
    hutchinson_divergence,
)
from structdiff.objectives import SNR, Uniform, UniformTimes
from structdiff.objectives.implicit import ImplicitScore
from structdiff.processes import Estimate
from structdiff.processes.langevin import Langevin
from structdiff.spaces import SO3, Manifold, Torus, UniformLaw, ZeroCentre
from structdiff.spaces.sphere import Sphere
from structdiff.testing import ExactDenoiser

ROWS = 2000
WALK = Geometric(0.2, 2.0)
Bend = Callable[[Tensor], Tensor]


class Bent(Denoiser):
    """Another denoiser with a known field added to its estimates."""

    def __init__(self, denoiser: Denoiser, bend: Bend) -> None:
        super().__init__()
        self.denoiser, self.bend, self.process = denoiser, bend, denoiser.process

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        said, x = self.denoiser(batch, t)["x"], batch["x"]
        moved = self.process.bind(batch).tangent({"x": x}, {"x": self.bend(x)})["x"]
        return {"x": Estimate(said.value + 1.5 * moved)}


def plane() -> tuple[Product, Tensor, Bend]:
    mix = torch.tensor([[0.7, -0.4], [1.1, 0.9]]).double()
    data = torch.tensor([[1.0, 0.0], [-0.5, 0.8]]).double()
    return Product({"x": Gaussian(Linear(), event=(2,))}), data, lambda x: torch.tanh(x @ mix)


def torus() -> tuple[Product, Tensor, Bend]:
    data = torch.tensor([[0.3, -1.0], [2.5, 2.0]]).double()
    bend = lambda x: torch.sin(x + x.flip(1))  # noqa: E731
    return Product({"x": Brownian(WALK, Torus(2))}), data, bend


def sphere() -> tuple[Product, Tensor, Bend]:
    data = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.8, 0.0]]).double()
    pole = torch.tensor([0.5, -1.0, 2.0]).double()
    return Product({"x": Brownian(WALK, Sphere(2))}), data, lambda x: pole * x[:, :1] + pole


def rotations() -> tuple[Product, Tensor, Bend]:
    data = SO3().uniform(2, Generator(3), torch.float64, "cpu")
    bend = lambda x: x[:, 0] * x[:, 1, :1]  # noqa: E731
    return Product({"x": Brownian(WALK, SO3())}), data, bend


WORLDS = {"plane": plane, "torus": torus, "sphere": sphere, "SO3": rotations}
worlds = pytest.mark.parametrize("name", WORLDS)


def terms(objective: Any, denoiser: Denoiser, batch: Batch, seed: int = 5) -> Tensor:
    """The objective's loss of each sample; noise and times follow from the seed."""
    value: Tensor = objective(denoiser, batch, Generator(seed)).leaves["x"].detach()
    return value


def is_zero(gap: Tensor, limit: float = 4.5) -> None:
    assert abs(float(gap.mean())) < limit * float(gap.std()) / math.sqrt(len(gap))


@worlds
def test_differs_from_denoising_by_what_no_denoiser_changes(name: str) -> None:
    """W02: for two denoisers the objectives differ by the same, at the same weights."""
    process, data, bend = WORLDS[name]()
    exact = ExactDenoiser(process, Batch.of(data))
    bent = Bent(exact, bend)
    batch = Batch.of(data.repeat(ROWS // 2, *(1,) * (data.ndim - 1)))
    times = UniformTimes(0.1, 0.6)
    weight = Uniform(2.0) if name in ("plane", "torus") else SNR()
    ours, theirs = ImplicitScore(weight, times), Denoising(weight, times)
    grown, expected = (
        terms(objective, bent, batch) - terms(objective, exact, batch)
        for objective in (ours, theirs)
    )
    is_zero(grown - expected)
    assert float(expected.mean()) > 5 * float((grown - expected).std()) / math.sqrt(ROWS)


@worlds
def test_value_at_the_true_score(name: str) -> None:
    """E div s = -E |s|^2, so that the loss is minus the weighted square of the score."""
    process, data, _ = WORLDS[name]()
    exact = ExactDenoiser(process, Batch.of(data))
    batch = Batch.of(data.repeat(ROWS // 2, *(1,) * (data.ndim - 1)))
    times = UniformTimes(0.1, 1.0)
    got = terms(ImplicitScore(times=times), exact, batch)

    random = Generator(5)
    t = {"x": times.draw(ROWS, random)}
    bound: Any = process.bind(batch)
    x_t = bound.diffuse(batch.leaves, t, random)
    score = bound.score(exact(batch.with_leaves(x_t), t), x_t, t)["x"]
    alpha, sigma, _ = bound["x"].schedule(t["x"])
    square = score.square().flatten(1).sum(1) * (sigma / alpha * sigma).square()
    expected = -square * (alpha / sigma).square() / data[0].numel()
    is_zero(got - expected)


@pytest.mark.parametrize("name", ["plane", "sphere"])
def test_sliced_is_unbiased_and_takes_one_backward_pass_a_probe(name, monkeypatch) -> None:
    """W03: at the same noise the mean over probes is the exact trace."""
    process, data, bend = WORLDS[name]()
    denoiser = Bent(ExactDenoiser(process, Batch.of(data)), bend)
    batch = Batch.of(data.repeat(100, 1))
    bound = process.bind(batch)
    t = bound.times(torch.tensor(0.5).double())
    x_t = batch.with_leaves(bound.diffuse(batch.leaves, t, Generator(0)))
    field = lambda x: bound.score(denoiser(x_t.with_leaves(x), t), x, t)  # noqa: E731
    exact = exact_divergence(field, bound, x_t).divergence["x"]

    passes, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(1) or grad(*a, **k))
    draws = torch.stack(
        [
            hutchinson_divergence(
                field, bound, x_t, draw_probes(bound, x_t, Generator(k))
            ).divergence["x"]
            for k in range(24)
        ]
    )
    assert len(passes) == 24
    is_zero((draws.mean(0) - exact) / (draws.std(0) / math.sqrt(24)))
    assert float(((draws.mean(0) - exact).abs() / draws.std(0)).median()) < 2 / math.sqrt(24)
    one, many = (
        terms(ImplicitScore(divergence=d), denoiser, batch)
        for d in (Hutchinson(1), Hutchinson(20))
    )
    whole = terms(ImplicitScore(divergence=ExactDivergence()), denoiser, batch)
    assert float((many - whole).std()) < 0.3 * float((one - whole).std())


class Whitened(Generator):
    """Noise whose sample moments with itself and with the data are exact."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__(0)
        self.noise = noise

    def normal(self, shape: object, dtype: torch.dtype, device: object) -> Tensor:
        return self.noise


def test_the_minimiser_of_a_linear_model_is_the_score_of_normal_data() -> None:
    """Half the Fisher divergence up to a constant: least squares with no target at all."""
    rows, t = 500, torch.tensor(0.35).double()
    root = torch.tensor([[1.2, 0.0], [-0.7, 0.4]]).double()
    white = Generator(0).normal((rows, 4), torch.float64, "cpu")
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T @ white / rows)).T
    batch = Batch.of(white[:, :2] @ root.T)

    class Matrix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.zeros(2, 2).double())

        def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
            return {"x": batch["x"] @ self.matrix.T}

    denoiser = NetworkDenoiser(Matrix(), Product({"x": Gaussian(Linear(), event=(2,))}))
    matrix = denoiser.backbone.matrix
    low = float(t) - 1e-9
    objective = ImplicitScore(times=UniformTimes(low, low + 2e-9))
    loss = objective(denoiser, batch, Whitened(white[:, 2:])).total
    (gradient,) = torch.autograd.grad(loss, matrix, create_graph=True)
    hessian = torch.stack(
        [
            torch.autograd.grad(g, matrix, retain_graph=True)[0].flatten()
            for g in gradient.flatten()
        ]
    )
    # The loss is quadratic: one Newton step from zero is its minimiser.
    best = -torch.linalg.solve(hessian, gradient.detach().flatten()).reshape(2, 2)
    alpha, sigma, _ = Linear()(t)
    total = alpha**2 * root @ root.T + sigma**2 * torch.eye(2).double()
    score = (alpha * best - torch.eye(2).double()) / sigma**2
    torch.testing.assert_close(score, -torch.linalg.inv(total), rtol=0, atol=1e-6)


class TestDivergence:
    """Against closed forms."""

    layout = Layout.ragged([2, 3, 0, 1])

    def record(self) -> tuple[Any, Batch]:
        """Points on spheres and rotations, ragged; some given."""
        x = Sphere(2).uniform(6, Generator(0), torch.float64, "cpu")
        y = SO3().uniform(6, Generator(1), torch.float64, "cpu")
        batch = Batch({"x": x, "y": y}, {"x": self.layout, "y": self.layout})
        process = Product({"x": Brownian(WALK, Sphere(2)), "y": Brownian(WALK, SO3())})
        return process, batch

    def field(self, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Couples rows of a sample, and the leaves."""
        x, y, pole = leaves["x"], leaves["y"], torch.tensor([0.3, -1.0, 2.0]).double()
        total = self.layout.spread(self.layout.sum(x))
        return {"x": Sphere(2).to_tangent(x, pole + total), "y": y[:, 0] * y[:, 0, :1] + x}

    def expected(self, free: Tensor) -> dict[str, Tensor]:
        """-2 <pole, x> for a constant vector, 2 - 2 <x, total> for the sum of a sample's rows."""
        _, batch = self.record()
        x, y = batch["x"], batch["y"]
        total = self.layout.spread(self.layout.sum(x))
        first = -2 * x @ torch.tensor([0.3, -1.0, 2.0]).double() + 2 - 2 * (x * total).sum(1)
        # The body frame turns row 0 of y: its derivative along direction k is row 0 times e_k^.
        turns = torch.stack([-y[:, 0, 2] * 0, y[:, 0, 2], -y[:, 0, 1]], 1)
        second = (y[:, 0] * turns).sum(1)
        return {"x": self.layout.sum(free * first), "y": self.layout.sum(free * second)}

    @pytest.mark.parametrize("given", [False, True])
    def test_exact(self, given: bool) -> None:
        process, batch = self.record()
        held = torch.tensor([True, False, False, False, True, False]) & given
        batch = batch.with_given({"x": held, "y": held})
        got = exact_divergence(self.field, process.bind(batch), batch)
        expected = self.expected((~held).double())
        for name in ("x", "y"):
            torch.testing.assert_close(got.divergence[name], expected[name])
            torch.testing.assert_close(got.value[name], self.field(batch.leaves)[name])

    def test_probes(self) -> None:
        process, batch = self.record()
        bound = process.bind(batch)
        probes = draw_probes(bound, batch, Generator(0), 250)
        got = hutchinson_divergence(self.field, bound, batch, probes).divergence
        for name, expected in self.expected(torch.ones(6).double()).items():
            torch.testing.assert_close(got[name], expected, atol=0.85, rtol=0)

    def test_subspace_counts_its_own_dimensions(self) -> None:
        """The divergence of x itself is the dimension of centred positions, (atoms - 1) 3."""
        process = Product({"x": Gaussian(Linear(), event=(3,), space=ZeroCentre())})
        batch = Batch({"x": torch.randn(6, 3).double()}, {"x": self.layout})
        got = exact_divergence(lambda x: dict(x), process.bind(batch), batch).divergence["x"]
        assert got.tolist() == pytest.approx([3.0, 6.0, 0.0, 0.0])


def test_ragged_record_with_given_rows() -> None:
    """The same statement for a record of two leaves whose samples have several rows."""
    layout = Layout.ragged([2, 1] * 600)
    x = torch.tensor([[0.5], [-1.0], [2.0]]).double().repeat(600, 1)
    held = torch.tensor([False, True, False]).repeat(600)
    process = Product({"x": Brownian(WALK, Torus(1))})
    batch = Batch({"x": x}, {"x": layout}, given={"x": held})
    data = Batch({"x": x[:3]}, {"x": Layout.ragged([2, 1])})
    exact = ExactDenoiser(process, data)
    bent = Bent(exact, torch.cos)
    times = UniformTimes(0.1, 1.0)
    grown, expected = (
        terms(objective, bent, batch) - terms(objective, exact, batch)
        for objective in (ImplicitScore(times=times), Denoising(times=times))
    )
    is_zero((grown - expected)[::2])
    is_zero((grown - expected)[1::2])


class Angle(nn.Module):
    """A small network on the circle."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)
        )

    def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
        x, level = batch["x"], clock["x"].to(batch["x"]).expand(len(batch["x"]))[:, None]
        wave = torch.cat([torch.cos(x), torch.sin(x)], 1)
        seen = torch.cat([wave, wave * level, level, level.square()], 1)
        return {"x": self.layers(seen)}


@pytest.mark.parametrize("walk", [False, True], ids=["Brownian", "walk"])
def test_training_recovers_the_score(walk: bool) -> None:
    """On the circle, with a closed kernel and with none."""
    space: Manifold = Torus(1)
    schedule = Geometric(0.3, 2.5)
    closed = Product({"x": Brownian(schedule, Torus(1))})
    leaf = Langevin(schedule, space, UniformLaw(space), steps=2) if walk else closed["x"]
    process = Product({"x": leaf})
    data = torch.tensor([[0.5], [2.8]])
    batch = Batch.of(data.repeat(128, 1))
    network = NetworkDenoiser(Angle(), process)
    objective = ImplicitScore(times=UniformTimes(0.0, 1.0))
    optimiser = torch.optim.Adam(network.parameters(), 6e-3)
    random = Generator(0)
    for step in range(300):
        for group in optimiser.param_groups:
            group["lr"] = 6e-3 * (1 - step / 300)
        optimiser.zero_grad()
        objective(network, batch, random).total.backward()
        optimiser.step()

    exact = ExactDenoiser(closed, Batch.of(data))
    many = Batch.of(data.repeat(2000, 1))
    bound = closed.bind(many)
    t = bound.times(torch.tensor(0.3))
    x_t = many.with_leaves(bound.diffuse(many.leaves, t, Generator(1)))
    with torch.no_grad():
        guess, truth = (one(x_t, t)["x"].value for one in (network, exact))
    error = float((guess - truth).square().mean() / truth.square().mean())
    assert error < 0.15


def test_refuses_what_has_no_score_and_no_weight() -> None:
    coins = Product({"x": Categorical(Flow(), uniform(2))})
    denoiser = ExactDenoiser(coins, Batch.of(torch.tensor([0, 1])))
    with pytest.raises(ValueError, match=r"needs a score: .* is not Scored; Denoising"):
        ImplicitScore()(denoiser, Batch.of(torch.tensor([0])), Generator(0))
    process, data, _ = torus()
    with pytest.raises(ValueError, match="no weight for the leaf 'x'"):
        ImplicitScore({"y": SNR()})(
            ExactDenoiser(process, Batch.of(data)), Batch.of(data), Generator(0)
        )
    with pytest.raises(ValueError, match="probes must be at least 1, got 0: ExactDivergence"):
        Hutchinson(0)
