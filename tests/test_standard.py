"""Standard units: one conversion makes DDPM, VE, EDM and straight-path models the same."""

import pytest
import torch

from structdiff.batch import Batch
from structdiff.denoiser import NetworkDenoiser, to_standard
from structdiff.parameterisations import Noise, Parameterisation, Preconditioned, Straight
from structdiff.processes import Brownian, Categorical, Gaussian, Product, Tractable, absorbing
from structdiff.random import Generator
from structdiff.samplers import DDIM, DDPM, Heun, Sampler
from structdiff.schedules import (
    CLEAN,
    Discrete,
    Flow,
    Geometric,
    Grid,
    Karras,
    Linear,
    Schedule,
    Standard,
)
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser

MODELS = {
    "ddpm": (Discrete.ddpm(), Noise()),
    "vp": (Linear(), Noise()),
    "ve": (Geometric(0.01, 80.0), Noise()),
    "edm": (Karras(0.005, 90.0), Preconditioned(1.3)),
    "straight": (Flow(), Straight()),
}
POINTS = torch.tensor([[-1.0, 0.5], [2.0, 1.0], [0.3, -1.5]], dtype=torch.float64)


class Clocks(Grid):
    """Times of a schedule at given clocks, whatever the schedule."""

    def __init__(self, schedule: Schedule, steps: int = 16) -> None:
        self.schedule, self.steps = schedule, steps

    def times(self) -> torch.Tensor:
        clock = torch.linspace(-3.5, 3.5, self.steps, dtype=torch.float64)
        return torch.cat([self.schedule.time(clock), torch.tensor([CLEAN])])


class Converted(torch.nn.Module):
    """A network of one parameterisation that knows the answer of the exact denoiser."""

    def __init__(self, schedule: Schedule, parameterisation: Parameterisation) -> None:
        super().__init__()
        process = Product({"x": Gaussian(schedule, parameterisation, event=(2,))})
        self.exact = ExactDenoiser(process, Batch.of(POINTS))
        self.schedule, self.parameterisation = schedule, parameterisation

    def forward(self, batch: Batch, clock: dict, previous: object) -> dict:
        t = self.schedule.time(clock["x"].double())
        level = self.schedule(t)
        # The exact denoiser wants x_t; the network was handed the encoded one.
        scale = self.parameterisation.encode(torch.ones(()).double(), level.alpha, level.sigma)
        x_t = batch["x"] / scale
        x_0 = self.exact(batch.with_leaves({"x": x_t}), {"x": t})["x"].value
        return {"x": self.parameterisation.target(x_0, x_t, level.alpha, level.sigma)}


@pytest.mark.parametrize("make", [DDIM, Heun])
def test_models_of_one_law_give_one_ode(make: type[Sampler]) -> None:
    ends = {}
    z = torch.randn(24, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name, (schedule, parameterisation) in MODELS.items():
        process = Product({"x": Gaussian(schedule, parameterisation, event=(2,))})
        model = NetworkDenoiser(Converted(schedule, parameterisation), process)
        for form, denoiser in {"own": model, "standard": to_standard(model)}.items():
            used = schedule if form == "own" else Standard(schedule)
            level = used(Clocks(schedule).times()[0])
            # One start in standard units: x / sqrt(alpha^2 + sigma^2) is z for all.
            x = z * torch.sqrt(level.alpha**2 + level.sigma**2)
            bound = make(denoiser, Clocks(used)).bind(Batch.of({"x": x}), Generator(0))
            carry = bound.start()
            carry = type(carry)({"x": x})
            for i in range(bound.steps):
                carry = bound.step(carry, i)
            ends[name, form] = carry.x["x"]
    reference = ends["vp", "standard"]
    assert reference.std() > 0.5  # several points are reached
    for key, end in ends.items():
        assert torch.allclose(end, reference, atol=1e-4), key


@pytest.mark.parametrize("name", MODELS)
def test_the_standard_process_keeps_the_clock_and_the_units(name: str) -> None:
    schedule, parameterisation = MODELS[name]
    process = Product({"x": Gaussian(schedule, parameterisation, event=(2,))})
    batch = Batch.of({"x": POINTS})
    own, standard = process.bind(batch), process.standard().bind(batch)
    for time in (0.2, 0.7, 1.0):
        t = own.times(torch.tensor(time, dtype=torch.float64))
        assert torch.allclose(own.clock(t)["x"], standard.clock(t)["x"])
        moved = own.from_standard(standard.diffuse({"x": POINTS}, t, Generator(3)), t)["x"]
        assert torch.allclose(moved, own.diffuse({"x": POINTS}, t, Generator(3))["x"])
    clean = own.times(torch.tensor(CLEAN, dtype=torch.float64))
    assert torch.equal(own.from_standard({"x": POINTS}, clean)["x"], POINTS)


def test_leaves_without_units_stay() -> None:
    process = Product(
        {
            "angle": Brownian(Geometric(0.01, 4.0), Torus(1)),
            "kind": Categorical(Flow(), absorbing(3)),
            "x": Gaussian(Geometric(0.01, 50.0)),
        }
    )
    data = Batch.of(
        {
            "angle": torch.tensor([[0.5], [-2.0]]),
            "kind": torch.tensor([0, 2]),
            "x": torch.tensor([-1.0, 1.0]),
        }
    )
    assert process.standard().offers(Tractable)
    exact = ExactDenoiser(process, data)
    blank = Batch.of(process.empty(100))
    own = DDPM(exact, Clocks(Geometric(0.01, 50.0))).sample(blank, Generator(0))
    same = DDPM(to_standard(exact), Clocks(Geometric(0.01, 50.0))).sample(blank, Generator(0))
    assert torch.equal(own["kind"], same["kind"])
    assert torch.allclose(own["x"], same["x"], atol=1e-4)
    assert torch.allclose(own["angle"], same["angle"], atol=1e-4)
