"""Asymmetric time intervals."""

from __future__ import annotations

import pytest
import torch

from structdiff import DDIM, Batch, Flow, Gaussian, Generator, NetworkDenoiser, Product
from structdiff.denoiser import Denoiser
from structdiff.guidance.shifted import LaterTime
from structdiff.schedules import CLEAN, UniformTime
from structdiff.testing import ExactDenoiser
from tests.guidance.worlds import SIZES, Opinion, blank, everything


class Timed(Opinion):
    """Says something else at each time."""

    def forward(self, batch, clock, previous):
        said = super().forward(batch, clock, previous)
        return {name: torch.cos(clock[name]) * value for name, value in said.items()}


def test_no_shift_changes_no_bit_in_any_space() -> None:
    """D08: a walk over R^n, a zero-centre subspace, two chains, a torus and rotations."""
    denoiser, batch = NetworkDenoiser(Timed(), everything()), blank(everything(), SIZES)
    plain = DDIM(denoiser, UniformTime(8)).sample(batch, Generator(3))
    shifted = DDIM(LaterTime(denoiser, 0.0), UniformTime(8)).sample(batch, Generator(3))
    later = DDIM(LaterTime(denoiser, 0.2), UniformTime(8)).sample(batch, Generator(3))
    for name, x in plain.leaves.items():
        assert torch.equal(shifted[name], x), name
    for name in ("field", "atoms", "angle", "turn"):
        assert not torch.allclose(later[name], plain[name], atol=1e-3), name


class Asked(Denoiser):
    """Remembers the times it was asked at."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.process, self.times = denoiser, denoiser.process, []

    def forward(self, batch, t, previous=None):
        self.times.append(t)
        return self.denoiser(batch, t, previous)


def exact() -> ExactDenoiser:
    data = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    return ExactDenoiser(Product({"x": Gaussian(Flow())}), Batch.of(data))


def test_it_asks_later_but_never_after_pure_noise() -> None:
    asked, batch = Asked(exact()), Batch.of(torch.zeros(3, dtype=torch.float64))
    DDIM(LaterTime(asked, 0.3), UniformTime(4)).sample(batch, Generator(0))
    seen = torch.stack([t["x"] for t in asked.times])
    torch.testing.assert_close(seen, torch.tensor([1.0, 1.0, 0.8, 0.55], dtype=torch.float64))


def test_given_rows_stay_clean() -> None:
    asked, batch = Asked(exact()), Batch.of(torch.ones(2, dtype=torch.float64))
    batch = batch.with_given({"x": torch.tensor([True, False])})
    drawn = DDIM(LaterTime(asked, 0.3), UniformTime(2)).sample(batch, Generator(0))
    assert [t["x"].tolist() for t in asked.times] == [[CLEAN, 1.0], [CLEAN, 0.8]]
    assert drawn["x"][0] == 1


def test_a_later_time_is_less_sure() -> None:
    """Of two points the posterior mean is tanh(alpha x / sigma^2): nearer to 0 later."""
    x = torch.linspace(0.05, 2, 9, dtype=torch.float64)
    t = {"x": torch.tensor(0.4, dtype=torch.float64)}
    now = exact()(Batch.of(x), t)["x"].value
    later = LaterTime(exact(), 0.1)(Batch.of(x), t)["x"].value
    torch.testing.assert_close(now, torch.tanh(0.6 * x / 0.16))
    torch.testing.assert_close(later, torch.tanh(0.5 * x / 0.25))
    assert bool((later < now).all())


@pytest.mark.parametrize("shift", [-0.1, float("inf"), float("nan")])
def test_refusals(shift: float) -> None:
    with pytest.raises(ValueError, match="shift must be finite and at least 0, got"):
        LaterTime(exact(), shift)
