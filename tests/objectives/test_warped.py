"""Time warping."""

from __future__ import annotations

import pytest
import torch
from scipy import optimize
from torch import Tensor

from structdiff import (
    Batch,
    Cosine,
    Denoising,
    Flow,
    Gaussian,
    Generator,
    Layout,
    Linear,
    NetworkDenoiser,
    Product,
)
from structdiff.objectives import Uniform, UniformTimes
from structdiff.objectives.embedded import ScoreInterpolation
from structdiff.objectives.warped import WarpedTimes, Warping, isotonic
from tests.objectives.embedded_worlds import made, pairs


@pytest.mark.parametrize("seed", range(5))
def test_isotonic_regression(seed: int) -> None:
    value = Generator(seed).normal((60,), torch.float64, "cpu") + torch.linspace(0, 3, 60)
    weight = 0.1 + Generator(seed + 9).uniform((60,), torch.float64, "cpu")
    expected = optimize.isotonic_regression(value.numpy(), weights=weight.numpy()).x
    torch.testing.assert_close(isotonic(value, weight), torch.from_numpy(expected))


def observed(times: WarpedTimes, schedule: object, loss: object, n: int = 200_000) -> WarpedTimes:
    """What a loss that is a function of time shows at evenly spread times."""
    t = torch.linspace(1e-4, 1, n, dtype=torch.float64)
    times.observe(schedule(t).clock, loss(t))  # type: ignore[operator]
    return times


def test_it_begins_uniform() -> None:
    times, u = WarpedTimes(Cosine(), 0.1, 0.9), torch.linspace(0, 1, 11).double()
    torch.testing.assert_close(times.quantile(u), 0.1 + 0.8 * u)
    torch.testing.assert_close(times.density(0.1 + 0.8 * u), torch.full((11,), 1.25).double())


@pytest.mark.parametrize("schedule", [Cosine(), Flow(), Linear()])
def test_quantiles_follow_a_known_loss(schedule: torch.nn.Module) -> None:
    """A loss that is t^3: quantiles are the cube root, up to the uniform share and the bins."""
    times = observed(WarpedTimes(schedule, bins=400, uniform=1e-3), schedule, lambda t: t**3)
    u = torch.linspace(0.05, 0.95, 19).double()
    torch.testing.assert_close(times.quantile(u), u ** (1 / 3), rtol=0, atol=6e-3)


def test_the_density_is_the_slope_of_the_distribution() -> None:
    """It integrates to the u of each quantile, is 0 outside, and both rise without a flat part."""
    times = WarpedTimes(Cosine(), 0.05, 0.95, bins=20, uniform=0.05)
    noise = Generator(1).normal((200_000,), torch.float64, "cpu")
    observed(times, Cosine(), lambda t: (10 * (t - 0.4)).tanh() + noise)
    fine = torch.linspace(0, 1, 400_001, dtype=torch.float64)
    density = times.density(fine)
    assert not density[(fine < 0.05) | (fine > 0.95)].any()
    assert density[(fine > 0.05) & (fine < 0.95)].min() > 0.05
    u = torch.linspace(0, 1, 41, dtype=torch.float64)
    edges = times.quantile(u)
    assert bool((edges.diff() > 0).all())
    mass = torch.stack([density[fine <= edge].sum() / 400_000 for edge in edges])
    torch.testing.assert_close(mass, u, rtol=0, atol=1e-4)


def entropy_at(t: Tensor, n: int = 20_000) -> Tensor:
    """Cross-entropy of the exact network at these times, all from the same draws."""
    code, denoiser = made()
    rise = []
    for time in t.tolist():
        late = UniformTimes(time - 1e-9, time) if time > 0.5 else UniformTimes(time, time + 1e-9)
        objective = ScoreInterpolation({"pair": code}, {"pair": code}, times=late)
        with torch.no_grad():
            rise.append(objective(denoiser, pairs(n, 7), Generator(8)).total)
    return torch.stack(rise)


def test_warped_times_make_the_cross_entropy_rise_evenly() -> None:
    """D09: fitted while the objective runs; each eighth has its part of the rise within 10 %.

    The rise of an eighth is 0.12 nats, known to 0.003 from 20,000 common draws.
    """
    code, denoiser = made()
    times = WarpedTimes(Cosine(), decay=1.0)
    inner = ScoreInterpolation({"pair": code}, {"pair": code}, times=times)
    objective, random = Warping(inner, times, "pair"), Generator(0)
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    before = entropy_at(times.quantile(u)).diff()
    with torch.no_grad():
        for seed in range(400):
            objective(denoiser, pairs(1000, seed), random)
    edges = times.quantile(u)
    assert bool((edges.diff() > 0).all())
    rise = entropy_at(edges).diff()
    even = rise.sum() / 8
    assert float((rise / even - 1).abs().max()) < 0.1
    assert float((before / even - 1).abs().max()) > 0.5


def test_what_is_seen_later_counts_more() -> None:
    """After a hundred observations of another loss nothing is left of the first."""
    times = WarpedTimes(Flow(), bins=100, decay=0.9)
    observed(times, Flow(), lambda t: t**0.5)
    early = float(times.quantile(torch.tensor(0.5)))
    for _ in range(100):
        observed(times, Flow(), lambda t: t**4, n=5000)
    late = float(times.quantile(torch.tensor(0.5)))
    assert abs(early - 0.5**2) < 0.02
    assert abs(late - 0.5**0.25) < 0.02


def test_losses_are_seen_at_the_clock_of_the_free_rows() -> None:
    """Of ragged samples with given rows, and none of a sample that is given whole."""

    class Zero(torch.nn.Module):
        def forward(self, batch, clock, previous):
            return {"x": torch.zeros_like(batch["x"])}

    layout = Layout.ragged([2, 1, 3])
    batch = Batch({"x": torch.tensor([1.0, 2, 3, 4, 5, 6])}, {"x": layout})
    batch = batch.with_given({"x": torch.tensor([True, False, True, True, False, False])})
    times = WarpedTimes(Flow(), bins=50)
    plain = Denoising(Uniform(), times)
    denoiser = NetworkDenoiser(Zero(), Product({"x": Gaussian(Flow())}))
    drawn = plain.draw_times(batch, Generator(2))["x"]
    terms = Warping(plain, times, "x")(denoiser, batch, Generator(2))
    assert torch.equal(terms.leaves["x"], plain(denoiser, batch, Generator(2)).leaves["x"])
    clock = Flow()(drawn[[1, 4]]).clock
    place = (clock[:, None] < times.edges[1:-1]).sum(1)
    expected = torch.zeros(50, dtype=torch.float64)
    expected[place] = torch.tensor([4 / 2, (25 + 36) / 3]).double()
    torch.testing.assert_close(times.total, expected)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"low": 0.5, "high": 0.5}, "0 <= low < high <= 1, got 0.5 and 0.5"),
        ({"bins": 1}, "bins must be at least 2"),
        ({"decay": 1.1}, r"decay in \[0, 1\]"),
        ({"uniform": 0.0}, r"uniform in \(0, 1\), got 128, 0.999 and 0.0"),
    ],
)
def test_refusals(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        WarpedTimes(Flow(), **settings)
