"""Encoding by the flow and by recorded noise: round trips, closed maps, exactness."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Churn,
    Flow,
    Gaussian,
    Generator,
    GeodesicFlow,
    Geometric,
    Heun,
    Layout,
    Linear,
    Multistep,
    Product,
    UniformLogSNR,
    UniformTime,
    uniform,
)
from structdiff.geodesic_ode import integrate
from structdiff.samplers.adaptive import Adaptive
from structdiff.samplers.encoding import Rising, encode, slerp
from structdiff.samplers.langevin import AnnealedLangevin
from structdiff.samplers.recorded import NoNoise, Replayed, record
from structdiff.samplers.singlestep import Singlestep
from structdiff.samplers.trajectory import Trajectory
from structdiff.samplers.truncated import Truncated
from structdiff.schedules import Grid
from structdiff.spaces import SO3, Torus, ZeroCentre
from structdiff.testing import Addressed, ExactDenoiser, NormalDenoiser


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


MAKE = {
    "DDIM": DDIM,
    "Heun": Heun,
    "Multistep": Multistep,
    "Singlestep": lambda d, g: Singlestep(d, g, order=3),
}


class Unfinished(Grid):
    """Another grid without its step to clean data."""

    def __init__(self, grid):
        self.grid = grid

    def times(self):
        return self.grid.times()[:-1]


def normal(mean=1.2, std=0.5, schedule=None):
    return NormalDenoiser(
        Gaussian(schedule or Linear()), torch.tensor([mean]), torch.tensor([std])
    )


@pytest.mark.parametrize("name", MAKE)
def test_the_code_of_normal_data_is_the_affine_map(name):
    schedule, steps = Linear(), 400
    grid = UniformLogSNR(schedule, steps, end=0.02)
    x = torch.linspace(-1, 3, 9)
    code = encode(MAKE[name](normal(), Rising(grid)), Batch.of(x))["x"]
    level = schedule(torch.tensor([0.02, 1.0]))
    v = ((level.alpha * 0.5) ** 2 + level.sigma**2).sqrt()
    expected = level.alpha[1] * 1.2 + v[1] / v[0] * (x - level.alpha[0] * 1.2)
    tolerance = 0.03 if name == "DDIM" else 1e-3
    torch.testing.assert_close(code, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", MAKE)
def test_data_come_back_and_the_error_falls_as_the_order_says(name):
    mean, std = torch.tensor([-1.0, 2.0]), torch.tensor([0.3, 0.5])
    denoiser, errors = NormalDenoiser(Gaussian(Linear()), mean, std), []
    x = torch.tensor([-1.3, -1.0, -0.7, 1.4, 2.0, 2.6])
    for steps in (100, 200):
        grid = UniformLogSNR(Linear(), steps + 1, end=0.02)
        code = encode(MAKE[name](denoiser, Rising(grid)), Batch.of(x))
        down = Truncated(MAKE[name](denoiser, Unfinished(grid)), code.leaves, noisy=True)
        back = down.sample(Batch.of(x), Generator(0))["x"]
        errors.append(float((back - x).abs().max()))
    slope = math.log2(errors[0] / errors[1])
    assert slope > (0.9 if name == "DDIM" else 1.8), errors
    assert errors[1] < (0.1 if name == "DDIM" else 2e-3), errors


def test_the_adaptive_flow_comes_back():
    """Runge-Kutta 45 at tolerance 1e-5, up to noise and down: within 1e-3."""
    denoiser = NormalDenoiser(
        Gaussian(Linear()), torch.tensor([-1.0, 2.0]), torch.tensor([0.3, 0.5])
    )
    data = Batch.of(torch.tensor([-1.3, -1.0, -0.7, 1.4, 2.0, 2.6]))
    walk = Adaptive(denoiser).bind(data, Generator(0))
    up = integrate(walk.field, walk.process.geometry, data, 1e-3, 1.0, tolerance=1e-5)
    noise = data.with_leaves(up.x)
    down = integrate(walk.field, walk.process.geometry, noise, 1.0, 1e-3, tolerance=1e-5)
    assert float((noise["x"] - data["x"]).abs().min()) > 0.1
    assert float((down.x["x"] - data["x"]).abs().max()) < 1e-3


def curved():
    """A ragged leaf of zero centre beside rotations, by geodesics and by heat."""
    process = Product(
        {
            "atoms": Gaussian(Linear(), event=(2,), space=ZeroCentre()),
            "turn": Brownian(Geometric(0.05, 4.0), SO3()),
            "angle": GeodesicFlow(Torus(2)),
        }
    )
    layouts = {"atoms": Layout.ragged([2, 3])} | {n: Layout.regular(2) for n in ("turn", "angle")}
    atoms = torch.tensor([[1.0, 0], [-1.0, 0], [2.0, 0], [-1.0, 1.0], [-1.0, -1.0]])
    turn = SO3().uniform(2, Generator(2), torch.float64, "cpu")
    data = Batch(
        {"atoms": atoms, "turn": turn, "angle": torch.tensor([[0.3, -2.0], [1.0, 3.0]])}, layouts
    )
    return process, data


def test_records_of_several_spaces_come_back():
    """Of one record alone, where the flow is as simple as can be; given entries stay."""
    process, data = curved()
    one = data.select([1])
    denoiser = ExactDenoiser(process, one)
    near = one.with_leaves(
        {
            "atoms": one["atoms"] + torch.tensor([[0.02, 0.0], [-0.02, 0.03], [0.0, -0.03]]),
            "turn": SO3().exp(one["turn"], torch.tensor([[0.01, -0.02, 0.01]])),
            "angle": one["angle"] + 0.01,
        }
    )
    grid = UniformLogSNR(Linear(), 60, end=0.02)
    code = encode(Multistep(denoiser, Rising(grid)), near)
    for name in ("atoms", "turn"):
        assert float((code[name] - near[name]).abs().max()) > 0.1
    down = Truncated(Multistep(denoiser, Unfinished(grid)), code.leaves, noisy=True)
    back = down.sample(near, Generator(0))
    for name, x in near.leaves.items():
        torch.testing.assert_close(back[name], x, rtol=0, atol=2e-3)


def test_what_cannot_be_encoded_is_refused():
    data = Batch.of(torch.zeros(3))
    with pytest.raises(ValueError, match="must have eta 0 to encode, got 1.0"):
        encode(DDPM(normal(), UniformTime(4)), data)
    with pytest.raises(ValueError, match="times must rise to encode: put its grid into Rising"):
        encode(DDIM(normal(), UniformTime(4)), data)
    process = Product({"x": Categorical(Flow(), uniform(3))})
    classes = Batch.of(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no probability flow"):
        encode(DDIM(ExactDenoiser(process, classes), Rising(UniformTime(4))), classes)
    for sampler in (
        Churn(normal(), Rising(UniformTime(4)), Linear(), churn=4.0),
        AnnealedLangevin(normal(), Rising(UniformTime(4)), rounds=1, snr=0.1),
    ):
        with pytest.raises(ValueError, match="draws fresh noise, which has no way back"):
            encode(sampler, data)
    with pytest.raises(ValueError, match=r"a and b must have one shape, got \(3, 2\) and \(2,\)"):
        slerp(torch.ones(3, 2), torch.ones(2), 0.5)


def test_slerp_keeps_lengths_angles_and_ends():
    source = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 50, generator=source), torch.randn(6, 50, generator=source)
    b = b * a.norm(dim=1, keepdim=True) / b.norm(dim=1, keepdim=True)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)

    def angle(x, y):
        return torch.acos((x * y).sum(1) / x.norm(dim=1) / y.norm(dim=1))

    between = slerp(a, b, 0.3)
    torch.testing.assert_close(between.norm(dim=1), a.norm(dim=1))
    torch.testing.assert_close(angle(a, between), 0.3 * angle(a, b))
    # The straight line is shorter, and further from what the denoiser knows.
    assert bool(((0.7 * a + 0.3 * b).norm(dim=1) < 0.9 * a.norm(dim=1)).all())
    torch.testing.assert_close(slerp(a, a, 0.3), a)


def test_slerp_goes_sample_by_sample():
    a, b = torch.randn(5, 3), torch.randn(5, 3)
    layout = Layout.ragged([2, 3])
    whole = slerp(a, b, 0.4, layout)
    second = slerp(a[2:].reshape(1, -1), b[2:].reshape(1, -1), 0.4)
    torch.testing.assert_close(whole[2:].reshape(1, -1), second)


STOCHASTIC = {
    "DDPM": DDPM,
    "DDIM0.5": lambda d, g: DDIM(d, g, eta=0.5),
    "DDIM": DDIM,
    "Heun": lambda d, g: Heun(d, g, eta=1.0),
    "Multistep": lambda d, g: Multistep(d, g, eta=1.0),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_recorded_noise_gives_the_data_back_exactly(name):
    mean, std = torch.tensor([-1.0, 2.0]), torch.tensor([0.3, 0.5])
    denoiser = NormalDenoiser(Gaussian(Linear()), mean, std)
    sampler, data = STOCHASTIC[name](denoiser, UniformTime(30)), torch.linspace(-4, 4, 11)
    recording = record(sampler, Batch.of(data), Generator(0))
    back = Replayed(sampler, recording).sample(Batch.of(torch.zeros(11)), Generator(5))["x"]
    assert float((back - data).abs().max()) < 1e-5


def test_recorded_noise_of_several_spaces():
    """R^n with a zero centre and rotations, ragged, float64: 1e-5; batch mates do not matter."""
    process, data = curved()
    leaves = {n: process[n] for n in ("atoms", "turn")}
    data = Batch({n: data[n] for n in leaves}, {n: data.layouts[n] for n in leaves}, ids=data.ids)
    denoiser = ExactDenoiser(Product(leaves), data)
    sampler = DDPM(denoiser, UniformTime(12))
    held = {"atoms": torch.tensor([False, False, True, False, False])}
    recording = record(sampler, data.with_given(held), Addressed(0))
    back = Replayed(sampler, recording).sample(data.with_given(held), Generator(1))
    for name, x in data.leaves.items():
        assert float((back[name] - x).abs().max()) < 1e-5
    alone = record(sampler, data.with_given(held).select([1]), Addressed(0))
    torch.testing.assert_close(alone.x["atoms"], recording.x["atoms"][2:])
    torch.testing.assert_close(alone.missing[3]["turn"], recording.missing[3]["turn"][1:])


def test_recorded_noise_is_replayed_beside_the_given_entries_of_the_batch():
    mean, std = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]), torch.tensor([0.3, 0.3])
    denoiser = NormalDenoiser(Gaussian(Linear(), event=(2,)), mean, std)
    sampler, held = DDPM(denoiser, UniformTime(10)), torch.tensor([[True, False]])
    data = Batch.of(mean[:1]).with_given({"x": held})
    recording = record(sampler, data, Generator(0))
    other = data.with_leaves({"x": torch.tensor([[1.0, 0.0]])})
    placed = {"x": torch.where(held, other["x"], recording.x["x"])}
    expected = Replayed(sampler, replace(recording, x=placed)).sample(other, Generator(1))
    found = Replayed(sampler, recording).sample(other, Generator(1))
    assert torch.equal(found["x"], expected["x"])
    assert float(found["x"][0, 0]) == 1
    # Given in the batch alone: what was missing there is left out.
    free = record(sampler, Batch.of(mean[:1]), Generator(0))
    states = Trajectory(other)
    Replayed(sampler, free).sample(other, Generator(1), states)
    assert {float(state["x"][0, 0]) for state in states.states} == {1.0}


def test_the_recorded_walk_is_one_through_the_data():
    """Data far from where the model would lead: every state is a draw of q(x_t | x_0)."""
    schedule, data = Linear(), Batch.of(torch.full((4000,), 4.0))
    sampler, states = DDPM(normal(), UniformTime(10)), Trajectory(data)
    Replayed(sampler, record(sampler, data, Generator(0))).sample(data, Generator(1), states)
    level = schedule(sampler.times)
    for i in (3, 6, 9):
        z = (states.states[i - 1]["x"] - level.alpha[i] * 4) / level.sigma[i]
        assert abs(float(z.mean())) < 5 / 4000**0.5
        assert abs(float(z.std()) - 1) < 5 / 8000**0.5


def test_of_one_data_point_the_missing_is_the_noise_itself():
    """The estimate is exact: r is sigma z of the step with the z that was drawn."""
    schedule, point = Linear(), torch.tensor([0.7])
    denoiser = ExactDenoiser(Product({"x": Gaussian(schedule)}), Batch.of(point))
    sampler = DDPM(denoiser, UniformTime(6))
    recording = record(sampler, Batch.of(point), Generator(3))
    source = Generator(3)
    z = [float(source.normal((1,), torch.float64, "cpu")) for _ in range(6)]
    level = schedule(sampler.times)
    assert float(recording.x["x"]) == pytest.approx(
        float(level.alpha[0] * 0.7 + level.sigma[0] * z[0])
    )
    snr = (level.alpha / level.sigma) ** 2
    for i in range(5):
        noise = float(level.sigma[i + 1] * (1 - snr[i] / snr[i + 1]).sqrt())
        assert float(recording.missing[i]["x"]) == pytest.approx(noise * z[i + 1], rel=1e-6)
    assert float(recording.missing[5]["x"].abs()) < 1e-12


def test_another_model_decodes_to_data_of_its_own_that_keep_their_place():
    """Translation N(0, 0.5^2) to N(3, 0.5^2): the mean moves by 3 and ranks stay."""
    grid, data = (
        UniformTime(80),
        0.5 * torch.randn(200, generator=torch.Generator().manual_seed(1)),
    )
    recording = record(DDPM(normal(0.0), grid), Batch.of(data), Generator(0))
    moved = Replayed(DDPM(normal(3.0), grid), recording).sample(
        Batch.of(torch.zeros(200)), Generator(0)
    )["x"]
    assert abs(float(moved.mean() - data.mean()) - 3) < 0.03
    assert torch.corrcoef(torch.stack([moved, data]))[0, 1] > 0.99


def test_what_cannot_be_recorded_is_refused():
    process = Product({"x": Categorical(Flow(), uniform(3))})
    classes = Batch.of(torch.tensor([0, 1]))
    sampler = DDPM(ExactDenoiser(process, classes), UniformTime(4))
    with pytest.raises(ValueError, match=r"on R\^n and manifolds only"):
        record(sampler, classes, Generator(0))
    recording = record(DDPM(normal(), UniformTime(4)), Batch.of(torch.zeros(2)), Generator(0))
    for grid in (UniformTime(5), UniformTime(4, end=0.1)):
        match = f"the recording has a grid of 4 steps, the sampler another of {grid.steps}"
        with pytest.raises(ValueError, match=match):
            Replayed(DDPM(normal(), grid), recording)
    other = Batch.of(torch.zeros(3))
    with pytest.raises(ValueError, match=r"shapes \{'x': \(2,\)\}, the batch \{'x': \(3,\)\}"):
        Replayed(DDPM(normal(), UniformTime(4)), recording).sample(other, Generator(0))
    with pytest.raises(ValueError, match="uniform numbers has no noise"):
        NoNoise().uniform((1,), torch.float64, "cpu")
