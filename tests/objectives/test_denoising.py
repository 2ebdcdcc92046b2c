"""What training makes small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    Batch,
    Categorical,
    Cosine,
    Denoising,
    Discrete,
    Flow,
    Gaussian,
    Generator,
    Layout,
    Linear,
    NetworkDenoiser,
    Product,
    absorbing,
)
from structdiff.objectives import SNR, MinSNR, TimeDistribution, Uniform, UniformTimes
from structdiff.parameterisations import (
    Data,
    Noise,
    Parameterisation,
    Preconditioned,
    Score,
    Straight,
    Velocity,
)
from structdiff.processes import Estimate
from structdiff.schedules import UniformTime


class Counting(nn.Module):
    """A small random network on leaves `x` `(rows, 2)` and `k`, that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(2, 2, generator=generator, dtype=torch.float64))
        self.calls: list[bool] = []
        self.clocks: list[Mapping[str, Tensor]] = []

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        self.calls.append(previous is not None)
        self.clocks.append(clock)
        said = {"x": torch.tanh(batch["x"] @ self.matrix)} if "x" in batch.leaves else {}
        if "k" in batch.leaves:
            said["k"] = torch.zeros(*batch["k"].shape, 3, dtype=torch.float64)
        return said


def normal(rows: int, seed: int = 0) -> Tensor:
    return Generator(seed).normal((rows, 2), torch.float64, "cpu")


def gaussian(how: Parameterisation | None = None, schedule: Any = None) -> Product:
    return Product({"x": Gaussian(schedule or Linear(), how, event=(2,))})


class Only(TimeDistribution):
    """Always the same time."""

    def __init__(self, t: float) -> None:
        self.t = t

    def quantile(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.t)

    def density(self, t: Tensor) -> Tensor:
        return torch.where(t == self.t, torch.inf, 0.0).double()


@pytest.mark.parametrize("i", [2, 50, 400, 1000])
def test_simple_loss_is_the_reweighted_bound(i: int) -> None:
    """A16: for a random network, L_simple at t = i / T is the KL term over its documented weight.

    KL_i = |x_0 - E|^2 (SNR_s - SNR_t) / 2 and L_simple = SNR_t |x_0 - E|^2.
    """
    schedule, batch = Discrete.ddpm(), Batch.of(normal(64))
    denoiser = NetworkDenoiser(Counting(), gaussian(Noise(), schedule))
    times = torch.tensor([i, i - 1], dtype=torch.float64) / 1000
    terms = Denoising(SNR(), Only(i / 1000))(denoiser, batch, Generator(1))
    process: Any = denoiser.process.bind(batch)
    t = process.times(times[0])
    Generator(1).uniform((1,), torch.float64, "cpu")
    random = Generator(1)
    random.uniform((1,), torch.float64, "cpu")
    x_t = process.diffuse(batch.leaves, t, random)
    estimate = denoiser(batch.with_leaves(x_t), t, None)
    (plan,) = process.plan(times, 1.0)
    oracle = process.oracle(batch.leaves, x_t, t)
    kl = process.divergence(oracle, estimate, x_t, plan)["x"]
    now, before = torch.exp(schedule.log_snr(times))
    weight = 0.5 * (before - now) / now
    torch.testing.assert_close(terms.leaves["x"] * 2, kl / weight, rtol=1e-6, atol=0)
    # And it is the error of eps itself.
    noise = Noise().target(
        batch["x"], x_t["x"], schedule.alpha(times[0]), schedule.sigma(times[0])
    )
    said = torch.tanh(x_t["x"] @ denoiser.backbone.matrix)
    torch.testing.assert_close(terms.leaves["x"], (noise - said).square().mean(1))


def test_the_loss_of_an_estimate_does_not_depend_on_the_parameterisation() -> None:
    """P01, P09: networks converted into each other have the same loss, for any weight."""

    class Converted(nn.Module):
        """Says what stands for one fixed estimate, tanh of x_t, in another parameterisation."""

        def __init__(self, how: Parameterisation) -> None:
            super().__init__()
            self.how = how

        def forward(self, batch: Batch, clock: Mapping[str, Tensor], previous: object) -> Any:
            alpha = torch.sigmoid(2 * clock["x"]).sqrt()[:, None]
            sigma = torch.sigmoid(-2 * clock["x"]).sqrt()[:, None]
            x_t = batch["x"]  # unit variance data on a VP schedule: encoding changes nothing
            return {"x": self.how.target(torch.tanh(x_t), x_t, alpha, sigma)}

    batch = Batch.of(normal(32))
    losses = []
    for how in (Data(), Noise(), Score(), Velocity(), Straight(), Preconditioned(1.0)):
        denoiser = NetworkDenoiser(Converted(how), gaussian(how))
        for weight in (SNR(), MinSNR(), Uniform()):
            objective = Denoising(weight, UniformTimes(0.05, 0.95))
            losses.append(objective(denoiser, batch, Generator(3)).leaves["x"])
    for first, other in zip(losses[:3] * 5, losses[3:], strict=True):
        torch.testing.assert_close(other, first, rtol=1e-6, atol=1e-8)


class Whitened(Generator):
    """Noise whose sample moments with itself and with the data are exact."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__(0)
        self.noise = noise

    def normal(self, shape: object, dtype: torch.dtype, device: object) -> Tensor:
        return self.noise


def test_the_minimiser_of_a_linear_model_is_the_posterior_mean() -> None:
    """W01, K03: least squares over the very pairs that the objective sees, on Gaussian data."""
    rows, t = 1000, 0.35
    root = torch.tensor([[1.2, 0.0], [-0.7, 0.4]], dtype=torch.float64)
    covariance = root @ root.T
    white = torch.cat([normal(rows, 0), normal(rows, 1)], 1)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T @ white / rows)).T
    data, noise = white[:, :2] @ root.T, white[:, 2:]
    batch = Batch.of(data)

    class Linear2(nn.Module):
        """x_t through a matrix."""

        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))

        def forward(self, batch: Batch, clock: object, previous: object) -> dict[str, Tensor]:
            return {"x": batch["x"] @ self.matrix.T}

    network = Linear2()
    denoiser = NetworkDenoiser(network, gaussian())
    objective = Denoising(SNR(), Only(t))
    matrix = network.matrix
    # The loss is quadratic: one Newton step from zero is its minimiser.
    loss = objective(denoiser, batch, Whitened(noise)).total
    (gradient,) = torch.autograd.grad(loss, matrix, create_graph=True)
    hessian = torch.stack(
        [
            torch.autograd.grad(g, matrix, retain_graph=True)[0].flatten()
            for g in gradient.flatten()
        ]
    )
    best = -torch.linalg.solve(hessian, gradient.detach().flatten()).reshape(2, 2)
    level = Linear()(torch.tensor(t, dtype=torch.float64))
    noisy = level.alpha**2 * covariance + level.sigma**2 * torch.eye(2)
    truth = level.alpha * covariance @ torch.linalg.inv(noisy)
    torch.testing.assert_close(best, truth, rtol=0, atol=1e-6)
    # Its score is the exact one, -C_t^{-1} x.
    score = (level.alpha * best - torch.eye(2)) / level.sigma**2
    torch.testing.assert_close(score, -torch.linalg.inv(noisy), rtol=0, atol=1e-6)


def test_its_gradient_is_that_of_explicit_score_matching() -> None:
    """W01: of sigma^2 / 2 |score - grad log p_t|^2 over a mixture, which is known, by autograd."""
    mean = torch.tensor([[1.5, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    std = torch.tensor([0.3, 0.5], dtype=torch.float64)
    share = torch.tensor([0.4, 0.6], dtype=torch.float64)
    denoiser, t = NetworkDenoiser(Counting(), gaussian()), 0.4
    level = Linear()(torch.tensor(t, dtype=torch.float64))
    variance = (level.alpha * std) ** 2 + level.sigma**2

    def draw(rows: int, random: Generator) -> Batch:
        which = (random.uniform((rows,), torch.float64, "cpu") > share[0]).long()
        noise = random.normal((rows, 2), torch.float64, "cpu")
        return Batch.of(mean[which] + std[which, None] * noise)

    def explicit(batch: Batch, random: Generator) -> Tensor:
        process: Any = denoiser.process.bind(batch)
        times = process.times(torch.tensor(t, dtype=torch.float64))
        x_t = process.diffuse(batch.leaves, times, random)
        x = x_t["x"].clone().requires_grad_()
        gap = (x[:, None] - level.alpha * mean).square().sum(2)
        density = (share.log() - variance.log() - 0.5 * gap / variance).logsumexp(1)
        (slope,) = torch.autograd.grad(density.sum(), x)
        score = process.score(denoiser(batch.with_leaves(x_t), times, None), x_t, times)["x"]
        return level.sigma**2 / 2 * (score - slope).square().sum(1).mean()

    objective, found = Denoising(SNR(), Only(t)), []
    for seed in range(40):
        random = Generator(seed)
        losses = (
            objective(denoiser, draw(2000, random), random).total,
            explicit(draw(2000, random), random),
        )
        weights = [denoiser.backbone.matrix]
        found.append(torch.stack([torch.autograd.grad(loss, weights)[0] for loss in losses]))
    gradients = torch.stack(found)
    gap = gradients[:, 0] - gradients[:, 1]
    error = gap.std(0) / len(gap) ** 0.5
    assert bool((gap.mean(0).abs() < 4 * error).all())
    assert bool((gradients.mean(0).abs().amax(0) > 20 * error).any())


def mixed() -> tuple[Product, Batch]:
    process = Product(
        {"x": Gaussian(Cosine(), event=(2,)), "k": Categorical(Flow(), absorbing(3))}
    )
    layout = Layout.ragged([2, 1, 3])
    k = torch.tensor([0, 1, 2, 2, 1, 0])
    return process, Batch({"x": normal(6), "k": k}, {"x": layout, "k": layout})


def test_leaves_share_times_unless_independent() -> None:
    _, batch = mixed()
    shared = Denoising().draw_times(batch, Generator(0))
    assert torch.equal(shared["x"], shared["k"])
    sample = batch.layouts["x"].sample
    for name, t in Denoising(independent=True).draw_times(batch, Generator(0)).items():
        assert len(t.unique()) == 3, name
        assert torch.equal(t, t[[0, 0, 2, 3, 3, 3]])
    assert sample.tolist() == [0, 0, 1, 2, 2, 2]


def test_independent_times_are_uncorrelated_and_still_low_discrepancy() -> None:
    samples = 4096
    batch = Batch.of({"x": torch.zeros(samples), "y": torch.zeros(samples)})
    t = Denoising(independent=True).draw_times(batch, Generator(0))
    correlation = torch.corrcoef(torch.stack([t["x"], t["y"]]))[0, 1]
    assert abs(float(correlation)) < 4 / samples**0.5
    for value in t.values():
        gaps = value.sort().values.diff()
        torch.testing.assert_close(gaps, gaps.mean().expand_as(gaps), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("probability", "calls"), [(0.0, 1), (1.0, 2)])
def test_self_conditioning_calls_the_network_twice(probability: float, calls: int) -> None:
    process, batch = mixed()
    network = Counting()
    denoiser = NetworkDenoiser(network, process, self_conditioning=True)
    Denoising(self_conditioning=probability)(denoiser, batch, Generator(0)).total.backward()
    assert network.calls == [False, True][:calls]
    assert network.matrix.grad is not None


def test_self_conditioning_happens_with_its_probability() -> None:
    process, batch = mixed()
    network, random = Counting(), Generator(0)
    denoiser = NetworkDenoiser(network, process, self_conditioning=True)
    objective = Denoising(self_conditioning=0.3)
    for _ in range(150):
        objective(denoiser, batch, random)
    shown = sum(network.calls)
    assert len(network.calls) == 150 + shown
    assert abs(shown - 45) < 4 * (150 * 0.3 * 0.7) ** 0.5


def test_terms_are_means_over_rows_and_entries() -> None:
    """Of weight times error, by hand; the total is the mean over samples, summed over leaves."""
    _, batch = mixed()
    error, clock = torch.arange(6.0).double(), torch.linspace(-1, 1, 6).double()
    objective = Denoising({"x": SNR(), "k": Uniform(2.0)})
    x = objective.reduce("x", error, clock, batch)
    weighted = torch.exp(2 * clock) * error
    expected = torch.stack([part.mean() for part in weighted.split([2, 1, 3])]) / 2
    torch.testing.assert_close(x, expected)
    k = objective.reduce("k", error, clock, batch)
    torch.testing.assert_close(k, 2 * torch.stack([p.mean() for p in error.split([2, 1, 3])]))
    process, batch = mixed()
    terms = objective(NetworkDenoiser(Counting(), process), batch, Generator(0))
    total = terms.leaves["x"].mean() + terms.leaves["k"].mean()
    torch.testing.assert_close(terms.total, total)


def test_a_samples_term_does_not_depend_on_its_batch_mates() -> None:
    _, batch = mixed()
    error, clock = torch.arange(6.0).double(), torch.linspace(-1, 1, 6).double()
    whole = Denoising().reduce("x", error, clock, batch)
    alone = Denoising().reduce("x", error[3:], clock[3:], batch.select([2]))
    torch.testing.assert_close(alone[0], whole[2])


def test_given_entries_cost_nothing() -> None:
    """And do not carry their huge weight to the free entries of their row."""
    process, batch = mixed()
    held = torch.zeros(6, 2).bool()
    held[0, 0] = held[3] = True
    given = batch.with_given({"x": held, "k": torch.tensor([True] + [False] * 5)})
    denoiser = NetworkDenoiser(Counting(), process)
    objective = Denoising(SNR(), Only(0.5))
    terms = objective(denoiser, given, Generator(0))
    bound: Any = process.bind(given)
    t = bound.times(torch.tensor(0.5).double())
    assert terms.clock["x"][held].isposinf().all()
    estimate = {"x": Estimate(torch.zeros(6, 2).double())}
    loss = bound._leaves["x"].loss(estimate["x"], batch["x"], batch["x"], t["x"])
    reduced = objective.reduce("x", loss, terms.clock["x"], given)
    snr = torch.exp(Cosine().log_snr(torch.tensor(0.5)))
    free = (batch["x"].square() * ~held).sum(1) * snr
    expected = torch.stack([part.mean() for part in free.split([2, 1, 3])]) / 2
    torch.testing.assert_close(reduced, expected)
    assert float(terms.total.detach()) < 1e3


def test_every_leaf_needs_a_weight() -> None:
    process, batch = mixed()
    objective = Denoising({"x": SNR()})
    with pytest.raises(ValueError, match=r"weights has \['x'\] but no weight for the leaf 'k'"):
        objective(NetworkDenoiser(Counting(), process), batch, Generator(0))


def test_gradient_does_not_flow_into_the_first_estimate() -> None:
    process, batch = mixed()
    network = Counting()
    denoiser = NetworkDenoiser(network, process, self_conditioning=True)
    objective = Denoising(self_conditioning=1.0)
    t = process.bind(batch).times(UniformTime(2).times()[0])
    first = objective.first_estimate(denoiser, batch, t, Generator(0))
    assert first is not None
    assert not first["x"].value.requires_grad
