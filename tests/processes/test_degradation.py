"""Cold diffusion: deterministic degradations undone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Categorical,
    Denoising,
    Flow,
    Generator,
    Geometric,
    Heun,
    Multistep,
    Product,
    UniformTime,
    absorbing,
    fit,
    sample,
)
from structdiff.denoiser import Denoiser
from structdiff.objectives import Uniform
from structdiff.processes import Conditional, Estimate, Flowing, Markov
from structdiff.processes.degradation import Degradation, blurring, covering, fading
from structdiff.schedules import CLEAN
from structdiff.testing import Silent
from tests.processes.cases import grid, time

PLACES = torch.linspace(0.1, 1.0, 16).reshape(4, 4)
DEGRADATIONS = {
    "fading": fading(torch.tensor(0.3)),
    "masking": covering(PLACES),
    "soft masking": covering(PLACES, 0.4),
    "blurring": blurring(1.5),
    "squaring": lambda x, s: x + s * (x.sign() * x**2 - x),
}
degradations = pytest.mark.parametrize("degrade", DEGRADATIONS.values(), ids=DEGRADATIONS.keys())


class Restoration(Denoiser):
    """A function of x_t as a denoiser."""

    def __init__(self, process: Product, restore: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.process, self.restore = process, restore

    def forward(self, batch: Batch, t: dict, previous: object = None) -> dict[str, Estimate]:
        return {name: Estimate(self.restore(x)) for name, x in batch.leaves.items()}


def images(rows: int = 3) -> Tensor:
    return torch.randn(rows, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@degradations
@pytest.mark.parametrize("factory", [DDIM, DDPM, Heun, Multistep])
def test_a_perfect_restoration_gives_the_data_back(degrade: Callable, factory: Callable) -> None:
    """For any degradation, by either algorithm and by every sampler."""
    x_0, process = images(), Product({"x": Degradation(degrade, event=(4, 4))})
    bound = process.bind(Batch.of(x_0))
    x_1 = bound.diffuse({"x": x_0}, bound.times(time(1.0)), Silent())
    sampler = factory(Restoration(process, lambda _: x_0), UniformTime(7))
    drawn = sampler.sample(Batch.of(x_1), Generator(0))["x"]
    torch.testing.assert_close(drawn, x_0)


def test_what_is_linear_in_the_severity_needs_no_restoration() -> None:
    """D = x_0 + severity e: the corrected walk returns x_0 for any guesses, the plain one not."""
    x_0, e = images(), images().flip(0)
    process = Product({"x": Degradation(lambda x, s: x + s * e[: len(x)], event=(4, 4))})
    wild = Restoration(process, lambda x: torch.tanh(3 * x) - 1.7)
    start = Batch.of(x_0 + e)
    corrected = DDIM(wild, UniformTime(9)).sample(start, Generator(0))["x"]
    torch.testing.assert_close(corrected, x_0, rtol=0, atol=1e-12)
    plain = DDPM(wild, UniformTime(9)).sample(start, Generator(0))["x"]
    assert float((plain - x_0).abs().mean()) > 0.3


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_the_step_is_the_formula(eta: float) -> None:
    x_0, degrade = images(), blurring(1.5)
    process = Degradation(degrade, event=(4, 4)).bind(Batch.of(x_0))
    x_t, guess = images().flip(1), images().flip(2)
    (step,) = process.plan(grid(0.8, 0.3), eta)
    rest = x_t - degrade(guess, time(0.8))
    expected = degrade(guess, time(0.3)) + math.sqrt(1 - eta**2) * rest
    torch.testing.assert_close(process.step(x_t, Estimate(guess), step, Silent()), expected)


@degradations
def test_rows_have_times_of_their_own_and_given_entries_stay(degrade: Callable) -> None:
    x_0 = images()
    process = Degradation(degrade, event=(4, 4)).bind(Batch.of(x_0))
    t = torch.tensor([0.7, CLEAN, 0.2]).double()
    got = process.diffuse(x_0, t, Silent())
    for i in (0, 2):
        torch.testing.assert_close(got[i], degrade(x_0, t[i])[i])
    assert torch.equal(got[1], x_0[1])
    held = torch.zeros(3, 4, 4, dtype=torch.bool)
    held[0, :2] = True
    bound = process.bind(Batch.of(x_0).with_given({"x": held}))
    some = bound.diffuse(x_0, bound.times(time(0.7)), Silent())
    assert torch.equal(some[held], x_0[held])
    torch.testing.assert_close(some[~held], degrade(x_0, time(0.7))[~held])
    (step,) = bound.plan(grid(0.7, 0.3), 0.0)
    stepped = bound.step(some, Estimate(x_0 + 1), step, Silent())
    assert torch.equal(stepped[held], x_0[held])
    assert bound.loss(Estimate(x_0 + 1), x_0, some, t).tolist() == [8.0, 16.0, 16.0]


def test_a_mask_grows_and_a_blur_keeps_the_sum() -> None:
    x_0 = images()
    for severity in (0.25, 0.6, 1.0):
        hidden = covering(PLACES)(x_0, time(severity)) == 0
        assert torch.equal(hidden[0], time(severity) >= PLACES)
        blurred = blurring(1.5)(x_0, time(severity))
        torch.testing.assert_close(blurred.sum((1, 2)), x_0.sum((1, 2)))
    assert not covering(PLACES, 0.4)(x_0, time(1.0)).any()
    twice = blurring(3.0)(blurring(3.0)(x_0, time(0.3)), time(0.4))
    torch.testing.assert_close(twice, blurring(3.0)(x_0, time(0.5)))


def test_it_learns_and_samples_beside_classes() -> None:
    """A constant image and its class: restored by a trained network from grey."""
    ending = lambda like, random: torch.full_like(like, 0.5)  # noqa: E731
    process = Degradation(fading(torch.tensor(0.5)), ending, event=(2,))

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor, clock: Tensor) -> Tensor:
            return self.bias.expand_as(x)

    data = torch.tensor([[0.8, 0.1]]).expand(64, 2)
    denoiser = fit(
        data,
        process,
        Network(),
        steps=150,
        learning_rate=0.05,
        objective=Denoising(Uniform()),
    )
    drawn = sample(denoiser, 5, sampler=DDIM(denoiser, UniformTime(4)))
    torch.testing.assert_close(drawn, data[:5], rtol=0, atol=0.03)
    both = Product({"image": process, "kind": Categorical(Flow(), absorbing(3))})
    assert not any(both.offers(contract) for contract in (Markov, Conditional, Flowing))
    guess = {"image": data[:2], "kind": torch.zeros(2, dtype=torch.long)}

    class Known(Denoiser):
        def forward(self, batch: Batch, t: dict, previous: object = None) -> dict[str, Estimate]:
            bound = both.bind(batch)
            return {
                "image": Estimate(guess["image"]),
                "kind": bound["kind"].oracle(guess["kind"], batch["kind"], t["kind"]),
            }

    known = Known()
    known.process = both
    got = DDPM(known, UniformTime(5)).sample(Batch.of(both.empty(2)), Generator(0))
    torch.testing.assert_close(got["image"], guess["image"])
    assert torch.equal(got["kind"], guess["kind"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Degradation(lambda x, s: x + 1), "degrade must be the identity at severity 0"),
        (lambda: Degradation(lambda x, s: x[:1], event=(2,)), "keep shapes, on rows of shape"),
        (
            lambda: Degradation(fading(0.5), schedule=Geometric(0.01, 100.0)),
            "severities must be in .0, 1., sigma of Geometric goes to 100",
        ),
        (lambda: covering(torch.tensor([0.0, 1.0])), "order must be in .0, 1., got 0 to 1"),
        (lambda: covering(PLACES, -1.0), "softness must be at least 0"),
        (lambda: blurring(0.0), "width must be positive"),
        (
            lambda: Degradation(blurring(1.0, 1), event=(2,)).prior_log_prob(torch.zeros(1, 2)),
            "a degradation has no densities",
        ),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
