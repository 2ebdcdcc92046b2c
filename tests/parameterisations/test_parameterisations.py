"""Laws of every parameterisation: what a network predicts never changes an estimate or a loss."""

import pytest
import torch
from torch import Tensor

from structdiff import DDIM, Batch, Gaussian, NetworkDenoiser
from structdiff.objectives import EDM, SNR, Uniform
from structdiff.parameterisations import (
    Data,
    Noise,
    Parameterisation,
    Preconditioned,
    Score,
    Straight,
    Velocity,
)
from structdiff.processes import Product
from structdiff.samplers import Carry
from structdiff.schedules import Cosine, Flow, Karras, Linear, Schedule, SubVP, UniformTime
from structdiff.testing import NormalDenoiser, Silent, walk

PARAMETERISATIONS = {
    "data": Data(),
    "noise": Noise(),
    "score": Score(),
    "velocity": Velocity(),
    "straight": Straight(),
    "preconditioned": Preconditioned(),
    "preconditioned 0.5": Preconditioned(0.5),
}
SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "sub-vp": SubVP(), "karras": Karras()}

each = pytest.mark.parametrize("name", PARAMETERISATIONS)
over = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())

ROWS = 64


def normal(seed: int, rows: int = ROWS) -> Tensor:
    return torch.randn(rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def levels(schedule: Schedule, low: float = 0.01, high: float = 0.99) -> tuple[Tensor, Tensor]:
    level = schedule(torch.linspace(low, high, ROWS, dtype=torch.float64))
    return level.alpha[:, None], level.sigma[:, None]


def diffused(schedule: Schedule) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    alpha, sigma = levels(schedule)
    x_0, noise = normal(0), normal(1)
    return x_0, noise, alpha * x_0 + sigma * noise, alpha, sigma


@each
@over
def test_decode_inverts_target(name: str, schedule: Schedule) -> None:
    x_0, _, x_t, alpha, sigma = diffused(schedule)
    how = PARAMETERISATIONS[name]
    target = how.target(x_0, x_t, alpha, sigma)
    torch.testing.assert_close(how.decode(target, x_t, alpha, sigma), x_0, rtol=1e-9, atol=1e-9)


@each
@over
def test_outputs_convert_into_each_other(name: str, schedule: Schedule) -> None:
    """P01: an output of one, decoded and read as the target of another, and back."""
    _, _, x_t, alpha, sigma = diffused(schedule)
    how = PARAMETERISATIONS[name]
    output = normal(7)
    estimate = how.decode(output, x_t, alpha, sigma)
    for other in PARAMETERISATIONS.values():
        converted = other.target(estimate, x_t, alpha, sigma)
        back = how.target(other.decode(converted, x_t, alpha, sigma), x_t, alpha, sigma)
        torch.testing.assert_close(back, output, rtol=1e-6, atol=1e-6)


@over
def test_targets_are_what_their_names_say(schedule: Schedule) -> None:
    """P02, P03, P04, E03: eps, -eps / sigma, alpha eps - sigma x_0 and eps - x_0."""
    x_0, noise, x_t, alpha, sigma = diffused(schedule)
    for how, expected in [
        (Data(), x_0),
        (Noise(), noise),
        (Score(), -noise / sigma),
        (Velocity(), alpha * noise - sigma * x_0),
        (Straight(), noise - x_0),
    ]:
        target = how.target(x_0, x_t, alpha, sigma)
        torch.testing.assert_close(target, expected, rtol=1e-8, atol=1e-8)


@each
def test_at_pure_noise(name: str) -> None:
    """alpha = 0: x_t says nothing; all but eps and score still decode to x_0 (v = -x_0)."""
    if name in ("noise", "score"):
        with pytest.raises(ValueError, match="has no meaning at t = 1, where alpha"):
            Gaussian(Flow(), PARAMETERISATIONS[name])
        return
    x_0, x_t = normal(0), normal(1)
    alpha, sigma = torch.zeros(ROWS, 1).double(), torch.ones(ROWS, 1).double()
    how = PARAMETERISATIONS[name]
    target = how.target(x_0, x_t, alpha, sigma)
    torch.testing.assert_close(how.decode(target, x_t, alpha, sigma), x_0)
    if name == "velocity":
        torch.testing.assert_close(target, -x_0)


@each
def test_at_clean_data(name: str) -> None:
    """sigma = 0: whatever the output, all but the data prediction decode to x_t itself."""
    x_t, output = normal(0), normal(1)
    alpha, sigma = torch.ones(ROWS, 1).double(), torch.zeros(ROWS, 1).double()
    decoded = PARAMETERISATIONS[name].decode(output, x_t, alpha, sigma)
    torch.testing.assert_close(decoded, output if name == "data" else x_t, rtol=0, atol=0)


def test_velocity_turns_into_noise_at_the_data() -> None:
    """P04: v -> eps as sigma -> 0."""
    x_0, noise = normal(0), normal(1)
    sigma = torch.full((ROWS, 1), 1e-6).double()
    alpha = torch.sqrt(1 - sigma**2)
    target = Velocity().target(x_0, alpha * x_0 + sigma * noise, alpha, sigma)
    torch.testing.assert_close(target, noise, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 3.0])
@over
def test_preconditioned_input_and_target_have_unit_variance(
    sigma_data: float, schedule: Schedule
) -> None:
    """P05, by exact covariances: both are linear in (x_0, z) with variances sigma_data^2 and 1."""
    alpha, sigma = levels(schedule)
    how, one, zero = Preconditioned(sigma_data), torch.ones_like(alpha), torch.zeros_like(alpha)
    data, noise = (alpha, one), (sigma, zero)  # (x_t, x_0) of a unit of each
    variances = {"input": zero, "target": zero, "both": zero}
    for (x_t, x_0), variance in ((data, sigma_data**2), (noise, 1.0)):
        seen = how.encode(x_t, alpha, sigma)
        target = how.target(x_0, x_t, alpha, sigma)
        variances["input"] = variances["input"] + variance * seen**2
        variances["target"] = variances["target"] + variance * target**2
        variances["both"] = variances["both"] + variance * seen * target
    torch.testing.assert_close(variances["input"], one)
    torch.testing.assert_close(variances["target"], one, rtol=1e-7, atol=0)
    # Uncorrelated: on Gaussian data the best F is 0 and the exact denoiser is c_skip x_t.
    torch.testing.assert_close(variances["both"], zero, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("how", "schedules"),
    [
        (Noise(), SCHEDULES),
        (Velocity(), {"linear": Linear(), "cosine": Cosine()}),
        (Straight(), {}),
    ],
    ids=["noise", "velocity", "straight"],
)
def test_targets_have_unit_variance_for_unit_data(
    how: Parameterisation, schedules: dict[str, Schedule]
) -> None:
    """P03, P04, by exact covariances at every t; eps - x_0 has variance 2 (E03)."""
    for schedule in schedules.values() or [Flow()]:
        alpha, sigma = levels(schedule)
        one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
        of_data, of_noise = (
            how.target(x_0, x_t, alpha, sigma) for x_0, x_t in ((one, alpha), (zero, sigma))
        )
        expected = one if schedules else 2 * one
        torch.testing.assert_close(of_data**2 + of_noise**2, expected, rtol=1e-9, atol=0)


@over
def test_a_network_of_zero_leaves_the_state(schedule: Schedule) -> None:
    """P03: eps = 0 is x_0 = x_t / alpha; P02: so is a score of 0."""
    _, _, x_t, alpha, sigma = diffused(schedule)
    zero = torch.zeros_like(x_t)
    for how in (Noise(), Score()):
        torch.testing.assert_close(how.decode(zero, x_t, alpha, sigma), x_t / alpha)


def test_preconditioned_zero_is_the_posterior_mean_of_gaussian_data() -> None:
    """P05: E[x_0 | x_t] = alpha sigma_d^2 x_t / (alpha^2 sigma_d^2 + sigma^2)."""
    sigma = torch.logspace(-3, 2, ROWS, dtype=torch.float64)[:, None]
    alpha, x_t = torch.ones_like(sigma), normal(0)
    skip = 0.25 / (sigma**2 + 0.25)
    decoded = Preconditioned(0.5).decode(torch.zeros_like(x_t), x_t, alpha, sigma)
    torch.testing.assert_close(decoded, skip * x_t)


@pytest.mark.parametrize("name", ["data", "noise", "score", "velocity", "straight"])
@over
def test_inputs_have_unit_variance_for_unit_data(name: str, schedule: Schedule) -> None:
    alpha, sigma = levels(schedule)
    how = PARAMETERISATIONS[name]
    variance = how.encode(alpha, alpha, sigma) ** 2 + how.encode(sigma, alpha, sigma) ** 2
    torch.testing.assert_close(variance, torch.ones_like(variance))


def squared(how: Parameterisation, a: Tensor, b: Tensor, x_t: Tensor, *level: Tensor) -> Tensor:
    """Squared error of what `how` predicts, between two estimates of x_0."""
    return (how.target(a, x_t, *level) - how.target(b, x_t, *level)).square().sum(-1)


@over
def test_losses_differ_by_functions_of_the_level(schedule: Schedule) -> None:
    """P09: weights of the error of x_0 that give the losses of each output."""
    x_0, _, x_t, alpha, sigma = diffused(schedule)
    estimate = normal(5)
    data = squared(Data(), estimate, x_0, x_t, alpha, sigma)
    a, s = alpha[:, 0], sigma[:, 0]
    clock = torch.log(a / s)

    def same(how: Parameterisation, expected: Tensor) -> None:
        error = squared(how, estimate, x_0, x_t, alpha, sigma)
        torch.testing.assert_close(error, expected, rtol=1e-7, atol=1e-9)

    same(Noise(), SNR()(clock) * data)  # L_x0 = L_eps / SNR
    same(Data(), Uniform()(clock) * data)
    same(Straight(), (1 + a / s) ** 2 * data)
    same(Velocity(), (a**2 + s**2) ** 2 / s**2 * data)
    for sigma_data in (0.5, 1.0):  # L_F = lambda c_out^2 L_F: EDM weight is unit weight on F
        same(Preconditioned(sigma_data), EDM(sigma_data)(clock) * data)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_identities_that_need_a_preserved_variance(schedule: Schedule) -> None:
    """P09: L_v = (SNR + 1) L_x0 = L_eps / alpha^2, L_score = L_eps / sigma^2."""
    x_0, _, x_t, alpha, sigma = diffused(schedule)
    estimate, a, s = normal(5), alpha[:, 0], sigma[:, 0]
    data, eps, v = (
        squared(how, estimate, x_0, x_t, alpha, sigma) for how in (Data(), Noise(), Velocity())
    )
    score = squared(Score(), estimate, x_0, x_t, alpha, sigma)
    snr = (a / s) ** 2
    torch.testing.assert_close(v, (snr + 1) * data, rtol=1e-8, atol=0)
    torch.testing.assert_close(v, eps / a**2, rtol=1e-8, atol=0)
    torch.testing.assert_close(score, eps / s**2, rtol=1e-8, atol=0)


MEAN, STD = torch.tensor([-1.0, 0.5, 2.0]).double(), torch.tensor([0.3, 0.8, 0.5]).double()
SHARE = torch.tensor([0.2, 0.5, 0.3]).double()


def mixture(schedule: Schedule) -> NormalDenoiser:
    return NormalDenoiser(Gaussian(schedule), MEAN, STD, SHARE)


@pytest.mark.parametrize("schedule", [Linear(), SubVP(), Karras()])
@pytest.mark.parametrize("t", [0.05, 0.4, 0.8])
def test_the_score_of_a_mixture_decodes_to_its_posterior_mean(
    schedule: Schedule, t: float
) -> None:
    """P02, Tweedie: the score by differentiating the mixture's log density."""
    alpha, sigma = schedule(torch.tensor(t).double())[:2]
    scale = float(torch.hypot(alpha, sigma))
    x = torch.linspace(-3 * scale, 4 * scale, 101, dtype=torch.float64).requires_grad_()
    variance = (alpha * STD) ** 2 + sigma**2
    each = torch.log(SHARE) - 0.5 * torch.log(variance)
    log_density = torch.logsumexp(each - 0.5 * (x[:, None] - alpha * MEAN) ** 2 / variance, 1)
    (score,) = torch.autograd.grad(log_density.sum(), x)
    x = x.detach()
    answer = mixture(schedule)(Batch.of(x), {"x": torch.tensor(t).double()})["x"].value
    torch.testing.assert_close(Score().decode(score, x, alpha, sigma), answer, rtol=0, atol=1e-9)


class Converted(torch.nn.Module):
    """The exact denoiser of the mixture, as a network that says it in some parameterisation."""

    def __init__(self, how: Parameterisation, schedule: Schedule) -> None:
        super().__init__()
        self.how, self.schedule, self.exact = how, schedule, mixture(schedule)

    def forward(self, batch: Batch, clock: dict[str, Tensor], previous: object) -> object:
        t = self.schedule.time(clock["x"])
        alpha, sigma = self.schedule(t)[:2]
        # What each encodes is linear in x_t: undo it.
        x_t = batch["x"] / self.how.encode(torch.ones_like(alpha), alpha, sigma)
        x_0 = self.exact(Batch.of(x_t), {"x": t})["x"].value
        return {"x": self.how.target(x_0, x_t, alpha, sigma)}


@each
@over
def test_samples_do_not_depend_on_what_converted_networks_predict(
    name: str, schedule: Schedule
) -> None:
    """P01."""
    grid, how = UniformTime(12), PARAMETERISATIONS[name]
    if isinstance(schedule, Cosine) and name in ("noise", "score"):
        return  # refused, see above
    end = schedule(torch.ones(()))
    x = {"x": torch.linspace(-2, 2, 9).double() * torch.hypot(end.alpha, end.sigma)}
    process = Product({"x": Gaussian(schedule, how)})
    denoiser = NetworkDenoiser(Converted(how, schedule), process)
    ours = walk(DDIM(denoiser, grid), x, Silent())["x"]
    expected = walk(DDIM(mixture(schedule), grid), x, Silent())["x"]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_straight_paths_reach_a_point_in_one_step() -> None:
    """P07: for a point mass at c the velocity is (x_t - c) / t, and x_1 - velocity = c."""

    class Velocities(torch.nn.Module):
        def forward(self, batch: Batch, clock: dict[str, Tensor], previous: object) -> object:
            t = torch.sigmoid(-clock["x"])  # log((1 - t) / t)
            x_t = batch["x"] * torch.sqrt((1 - t) ** 2 + t**2)
            return {"x": (x_t - 0.7) / t}

    process = Product({"x": Gaussian(Flow(), Straight())})
    sampler = DDIM(NetworkDenoiser(Velocities(), process), UniformTime(1))
    x_1 = normal(3)[:, 0]
    carry = sampler.bind(Batch.of(x_1), Silent()).step(Carry({"x": x_1}), 0)
    torch.testing.assert_close(carry.x["x"], torch.full_like(x_1, 0.7), rtol=0, atol=1e-7)


def test_sigma_data_must_be_positive() -> None:
    with pytest.raises(ValueError, match="sigma_data must be positive, got 0"):
        Preconditioned(0)
