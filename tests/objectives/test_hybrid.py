"""Losses for the variance of a step."""

from __future__ import annotations

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
    NetworkDenoiser,
    Product,
    StepBound,
    absorbing,
    bound,
)
from structdiff.denoiser import Denoiser
from structdiff.nn import ClockEmbedding
from structdiff.objectives import SNR, Objective, TimeDistribution
from structdiff.objectives.hybrid import Hybrid, VarianceMatching, improved_ddpm
from structdiff.parameterisations import Data, Noise, Velocity
from structdiff.parameterisations.heads import InterpolatedVariance, ResidualVariance
from structdiff.processes import Estimate, affine
from structdiff.processes.covariance import Scaling
from structdiff.reverse_variance import FixedVariance
from structdiff.schedules import Schedule, UniformTime

GRID = UniformTime(20)


class Network(nn.Module):
    """A small network on points of the plane, with one head or two of weights of their own."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.clock = ClockEmbedding(16, lowest=0.25, highest=2.0)
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(18, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 2)
            )
            for _ in range(heads)
        )
        for weight in self.parameters():
            with torch.no_grad():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)

    def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
        x = batch["x"]
        level = self.clock(clock["x"].to(x).expand(len(x)))
        seen = torch.cat([x, level], 1)
        said = [head(seen) for head in self.heads]
        return {"x": torch.stack(said, -1) if len(said) > 1 else said[0]}


def two_heads(schedule: Schedule | None = None) -> NetworkDenoiser:
    gaussian = Gaussian(schedule or Discrete.cosine(20), InterpolatedVariance(Noise()), event=(2,))
    return NetworkDenoiser(Network(2), Product({"x": gaussian}))


def points(rows: int, seed: int) -> Batch:
    random = Generator(seed)
    pick = (random.uniform((rows,), torch.float32, "cpu") < 0.3)[:, None]
    centre = torch.where(pick, torch.tensor([1.2, 0.4]), torch.tensor([-0.6, -0.3]))
    scale = torch.tensor([0.5, 0.15])
    return Batch.of(centre + scale * random.normal((rows, 2), torch.float32, "cpu"))


def test_without_the_bound_it_is_the_simple_loss() -> None:
    """Factor 0, bit for bit: the weighted error at the chain's own times and noise."""
    denoiser, batch = two_heads(), points(32, 0)
    got = Hybrid(StepBound(GRID), 0.0)(denoiser, batch, Generator(1))
    _, look = StepBound(GRID).look(denoiser, batch, Generator(1))
    noise = Noise().target(batch["x"], look.noisy["x"], *levels(denoiser, look.t["x"]))
    said = denoiser.backbone(
        look.noisy.with_leaves(denoiser.process.bind(batch).encode(look.noisy.leaves, look.t)),
        denoiser.process.clock(look.t),
        None,
    )["x"][..., 0]
    torch.testing.assert_close(
        got.leaves["x"], (said - noise).square().mean(1), rtol=1e-3, atol=1e-4
    )
    whole = Hybrid(StepBound(GRID), 0.25)(denoiser, batch, Generator(1))
    part = StepBound(GRID)(denoiser, batch, Generator(1))
    torch.testing.assert_close(whole.leaves["x"] - got.leaves["x"], 0.25 * part.leaves["x"])


def levels(denoiser: NetworkDenoiser, t: Tensor) -> tuple[Tensor, Tensor]:
    process: Any = denoiser.process
    level = process["x"].schedule(t)
    return level.alpha.float()[:, None], level.sigma.float()[:, None]


def gradients(objective: Objective, denoiser: NetworkDenoiser) -> list[Tensor]:
    denoiser.zero_grad()
    objective(denoiser, points(64, 0), Generator(1)).total.backward()
    return [
        torch.cat(
            [
                torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten()
                for w in head.parameters()
            ]
        )
        for head in denoiser.backbone.heads
    ]


def test_the_bound_trains_the_variance_alone() -> None:
    """The gradient of the mean's weights is that of the simple loss, to the last bit."""
    denoiser = two_heads()
    simple, held = (gradients(Hybrid(StepBound(GRID), f), denoiser) for f in (0.0, 1.0))
    assert torch.equal(simple[0], held[0])
    assert not simple[1].any()
    whole = gradients(StepBound(GRID), denoiser)
    torch.testing.assert_close(held[1], whole[1])
    assert float(whole[1].norm()) > 0.1
    assert float(whole[0].norm()) > 0.1  # which the mean would have got otherwise


def train(denoiser: NetworkDenoiser, objective: Objective, steps: int = 200) -> None:
    optimiser, random = torch.optim.Adam(denoiser.parameters(), 4e-3), Generator(0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * (1 - step / steps)
        optimiser.zero_grad()
        objective(denoiser, points(128, 100 + step), random).total.backward()
        optimiser.step()


def test_improved_ddpm_has_a_lower_bound_than_ddpm() -> None:
    """The preset (cosine, learned variance, hybrid loss), against linear betas, beta or tilde.

    In nats of the same networks with the same training, on held-out points.
    """
    linear = Gaussian(Discrete.ddpm(), Velocity(), event=(2,))
    plain = NetworkDenoiser(Network(1), Product({"x": linear}))
    train(plain, Denoising(SNR()))
    cosine, hybrid = improved_ddpm(20, (2,), Velocity())
    improved = NetworkDenoiser(Network(2), Product({"x": cosine}))
    train(improved, hybrid)
    held_out = points(4000, 7)
    ours, *theirs = (
        float(bound(one, held_out, GRID, Generator(3)).total.mean())
        for one in (improved, plain, FixedVariance(plain, 1.0))
    )
    assert ours < min(theirs), (ours, theirs)


def test_the_preset_is_the_chain_of_the_paper() -> None:
    """Its betas, its prediction, and 0.001 of the bound in bits on all its steps."""
    process, hybrid = improved_ddpm(50, (2,))
    t = torch.linspace(0, 1, 51, dtype=torch.float64)
    survival = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    beta = (1 - survival[1:] / survival[:-1]).clamp(max=0.999)
    torch.testing.assert_close(process.schedule(t[1:]).alpha ** 2, torch.cumprod(1 - beta, 0))
    denoiser = NetworkDenoiser(Network(2), Product({"x": process}))
    theirs = Hybrid(StepBound(UniformTime(50)), 0.001 / 0.6931471805599453)
    same = two_heads(Discrete.cosine(50))
    got, wanted = (
        loss(one, points(32, 0), Generator(1)).leaves["x"]
        for loss, one in ((hybrid, denoiser), (theirs, same))
    )
    torch.testing.assert_close(got, wanted)


class Whitened(Generator):
    """Noise whose sample moments with itself and with the data are exact."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__(0)
        self.noise = noise

    def normal(self, shape: object, dtype: torch.dtype, device: object) -> Tensor:
        return self.noise


class Only(TimeDistribution):
    """Always the same time."""

    def __init__(self, t: float) -> None:
        self.t = t

    def quantile(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.t)

    def density(self, t: Tensor) -> Tensor:
        return torch.where(t == self.t, torch.inf, 0.0).double()


class Affine(nn.Module):
    """x_0 = (factor + off) x_t by entry, and a raw variance of each."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(factor.clone())
        self.raw = nn.Parameter(torch.zeros_like(factor))

    def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
        mean = self.factor * batch["x"]
        return {"x": torch.stack([mean, self.raw.expand_as(mean)], -1)}


def fit(denoiser: NetworkDenoiser, objective: Objective, batch: Batch, noise: Tensor) -> None:
    """To the minimum over the very noise that is given."""
    raw = denoiser.backbone.raw
    optimiser = torch.optim.LBFGS(
        [raw], max_iter=100, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        denoiser.zero_grad()
        value = objective(denoiser, batch, Whitened(noise)).total
        value.backward()
        return value

    optimiser.step(loss)


@pytest.mark.parametrize("off", [0.0, 0.3])
def test_variances_of_a_diagonal_normal_are_recovered(off: float) -> None:
    """To 1e-3, at every time; beside a wrong mean, the square of its error is added to them."""
    rows = 2000
    white = Generator(0).normal((rows, 6), torch.float64, "cpu")
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T @ white / rows)).T
    std = torch.tensor([0.2, 1.0, 3.0]).double()
    batch = Batch.of(white[:, :3] * std)
    for t in (0.1, 0.5, 0.9):
        alpha, sigma, _ = Cosine()(torch.tensor(t).double())
        total = alpha**2 * std**2 + sigma**2
        network = Affine(alpha * std**2 / total * torch.sqrt(alpha**2 + sigma**2) + off)
        process = Product({"x": Gaussian(Cosine(), ResidualVariance(Data()), event=(3,))})
        denoiser, objective = NetworkDenoiser(network, process), VarianceMatching(Only(t))
        fit(denoiser, objective, batch, white[:, 3:])
        assert network.factor.grad is None or not network.factor.grad.any()
        got = denoiser(batch, {"x": torch.tensor(t).double()})["x"].extras["variance"][0]
        truth = std**2 * sigma**2 / total + off**2 * total
        torch.testing.assert_close(got.detach(), truth, rtol=1e-3, atol=0)


class Coloured(Denoiser):
    """Of data white in u: their mean, and a multiple of their variance."""

    def __init__(self, process: Product, factor: float) -> None:
        super().__init__()
        self.process, self.factor = process, factor

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> dict[str, Estimate]:
        level = self.process.bind(batch)["x"].level(t["x"], batch["x"])
        variance = (self.factor * level.sigma**2).expand_as(batch["x"])
        return {"x": Estimate(level.alpha * batch["x"], {"variance": variance})}


def test_the_variance_of_coloured_noise_is_that_of_its_own_coordinates() -> None:
    """Least at the truth in u, not at the variance of x, four times larger."""
    scale = Scaling(torch.tensor(2.0).double())
    process = Product({"x": affine.Affine(Gaussian(Cosine(), event=(2,)), scale)})
    batch = Batch.of(2 * Generator(0).normal((4000, 2), torch.float64, "cpu"))
    losses = [
        float(VarianceMatching()(Coloured(process, factor), batch, Generator(1)).total)
        for factor in (1.0, 0.5, 2.0, 4.0)
    ]
    assert min(losses) == losses[0]


def test_given_entries_and_leaves_without_variance_count_nothing() -> None:
    """A class has none; a given entry is clean."""
    process = Product(
        {
            "x": Gaussian(Cosine(), ResidualVariance(Data()), event=(2,)),
            "k": Categorical(Flow(), absorbing(3)),
        }
    )

    class Both(nn.Module):
        def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
            return {"x": torch.zeros(4, 2, 2).double(), "k": torch.zeros(4, 3).double()}

    x = torch.ones(4, 2).double()
    batch = Batch.of({"x": x, "k": torch.tensor([0, 1, 2, 0])})
    held = torch.tensor([[True, False], [False, False], [True, True], [False, True]])
    objective = VarianceMatching(Only(0.5))
    free = objective(NetworkDenoiser(Both(), process), batch, Generator(0))
    some = objective(NetworkDenoiser(Both(), process), batch.with_given({"x": held}), Generator(0))
    level = Cosine()(torch.tensor(0.5).double())
    unit = level.sigma**2 / (level.alpha**2 + level.sigma**2)
    each = ((unit - 1) / unit) ** 2  # the squared residual of 0 is 1
    torch.testing.assert_close(free.leaves["x"], each.expand(4))
    share = (~held).double().mean(1)
    torch.testing.assert_close(some.leaves["x"], each * share)
    assert set(free.leaves) == {"x"}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: improved_ddpm(0), "steps must be at least 1, got 0"),
        (lambda: Hybrid(StepBound(GRID), -1.0), "factor must be at least 0 and finite, got -1.0"),
        (
            lambda: VarianceMatching()(
                NetworkDenoiser(Network(1), Product({"x": Gaussian(Cosine(), event=(2,))})),
                points(4, 0),
                Generator(0),
            ),
            r"an estimate must have an extra 'variance'.*got \['x'\] without",
        ),
    ],
)
def test_refusals(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
