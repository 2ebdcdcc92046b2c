"""Laws of the Gaussian process, by exact propagation of means and covariances."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from structdiff import Batch, Discrete, Flow, Gaussian, Linear
from structdiff.parameterisations import Noise
from structdiff.processes import Estimate
from structdiff.schedules import CLEAN, Schedule
from structdiff.schedules.by_entry import Speeds
from structdiff.spaces import ZeroCentre
from structdiff.spaces.subspace import Span
from tests.processes.cases import BY_ENTRY, GAUSSIANS, Case, Fixed, grid, time

FLAT = GAUSSIANS | BY_ENTRY
cases = pytest.mark.parametrize("case", FLAT.values(), ids=FLAT.keys())
PAIRS = [(0.2, 0.7), (0.0, 0.3), (CLEAN, 0.5), (0.5, 1.0), (CLEAN, 1.0), (0.4, 0.4)]
pairs = pytest.mark.parametrize(("s", "t"), PAIRS)


def matrix(f: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """The matrix of a linear map of records."""
    return jacobian(f, torch.zeros_like(like)).reshape(like.numel(), like.numel())


class Moments:
    """How diffuse, corrupt and step act on a record, as matrices."""

    def __init__(self, case: Case) -> None:
        batch = case.batch()
        self.x = batch["x"]
        self.process = case.process.bind(batch)
        self.zero, self.silent = torch.zeros_like(self.x), Fixed(torch.zeros_like(self.x))

    def diffuse(self, t: float) -> tuple[Tensor, Tensor]:
        """Mean map and covariance of q(x_t | x_0), on the subspace."""
        p, zero = self.process, self.zero
        noise = matrix(lambda z: p.diffuse(zero, time(t), Fixed(z)), zero)
        mean = matrix(lambda x: p.diffuse(p.project(x), time(t), self.silent), zero)
        return mean, noise @ noise.T

    def corrupt(self, s: float, t: float) -> tuple[Tensor, Tensor]:
        p, zero = self.process, self.zero
        noise = matrix(lambda z: p.corrupt(zero, time(s), time(t), Fixed(z)), zero)
        return matrix(lambda x: p.corrupt(x, time(s), time(t), self.silent), zero), noise @ noise.T

    def step(self, t: float, s: float, eta: float) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of x_t and x_0 and covariance of the step at the oracle."""
        p, zero = self.process, self.zero
        (plan,) = p.plan(grid(t, s), eta)

        def move(x_t: Tensor, x_0: Tensor, z: Tensor) -> Tensor:
            return p.step(x_t, p.oracle(p.project(x_0), x_t, time(t)), plan, Fixed(z))

        noise = matrix(lambda z: move(zero, zero, z) + 0 * z, zero)
        from_noisy = matrix(lambda x: move(x, zero, zero), zero)
        return from_noisy, matrix(lambda x: move(zero, x, zero), zero), noise @ noise.T


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@cases
@pairs
def test_semigroup(case: Case, s: float, t: float) -> None:
    """A13: q(t | s) after q(s | 0) is q(t | 0), to rounding."""
    moments = Moments(case)
    (mean_s, cov_s), (mean_t, cov_t) = moments.diffuse(s), moments.diffuse(t)
    kernel, fresh = moments.corrupt(s, t)
    close(kernel @ mean_s, mean_t)
    close(kernel @ cov_s @ kernel.T + fresh, cov_t)


@cases
@pairs
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_undoing(case: Case, s: float, t: float, eta: float) -> None:
    """The oracle step brings q(x_t | x_0) to q(x_s | x_0)."""
    moments = Moments(case)
    (mean_s, cov_s), (mean_t, cov_t) = moments.diffuse(s), moments.diffuse(t)
    from_noisy, from_data, fresh = moments.step(t, s, eta)
    close(from_noisy @ mean_t + from_data, mean_s)
    close(from_noisy @ cov_t @ from_noisy.T + fresh, cov_s)
    if s != t and s != CLEAN:
        bayes = moments.step(t, s, 1.0)[2]
        close(fresh, eta**2 * bayes)


@cases
@pairs
def test_bayes(case: Case, s: float, t: float) -> None:
    """At eta = 1 the pair (x_s, x_t) has one law both ways."""
    moments = Moments(case)
    kernel, _ = moments.corrupt(s, t)
    from_noisy, _, _ = moments.step(t, s, 1.0)
    close(kernel @ moments.diffuse(s)[1], (from_noisy @ moments.diffuse(t)[1]).T)


@cases
def test_forgetting_is_the_prior_divergence(case: Case) -> None:
    batch = case.batch()
    process = case.process.bind(batch)
    end = process.level(torch.ones(()), batch["x"])
    prior = Normal(torch.zeros_like(batch["x"]), end.sigma)
    per_entry = kl_divergence(Normal(end.alpha * batch["x"], end.sigma), prior)
    close(process.prior_divergence(batch["x"]), per_entry.reshape(len(batch["x"]), -1).sum(1))


def subspace(case: Case) -> Tensor:
    """An orthonormal basis of the subspace, `(numbers, dimensions)`."""
    moments = Moments(case)
    values, vectors = torch.linalg.eigh(matrix(moments.process.project, moments.x))
    return vectors[:, values > 0.5]


def inside(basis: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """The covariance on the subspace of entries of these deviations."""
    return basis.T @ torch.diag(scale.expand_as(x).flatten() ** 2) @ basis


@cases
@pytest.mark.parametrize("t", [0.1, 0.6, 1.0])
def test_density_is_the_normal_of_the_subspace(case: Case, t: float) -> None:
    """So it integrates to one; for centred rows in 3 (N - 1) dimensions a sample."""
    moments, basis = Moments(case), subspace(case)
    process, x_0 = moments.process, moments.x
    if isinstance(process, Gaussian) and case.ragged:
        centred = "Zero" in type(process.space).__name__
        assert basis.shape[1] == (3 * (1 + 0 + 2) if centred else 18)
    x_t = process.project(case.batch(seed=5)["x"])
    mean, cov = moments.diffuse(t)
    law = MultivariateNormal(basis.T @ mean @ x_0.flatten(), basis.T @ cov @ basis)
    total = process.log_prob(x_t, x_0, time(t)).sum()
    close(total, law.log_prob(basis.T @ x_t.flatten()))
    prior = inside(basis, process.level(torch.ones(()), x_0).sigma, x_0)
    law = MultivariateNormal(torch.zeros(basis.shape[1]).double(), prior)
    close(process.prior_log_prob(x_t).sum(), law.log_prob(basis.T @ x_t.flatten()))


@cases
def test_gradient_of_the_density_is_the_oracle_score(case: Case) -> None:
    """(alpha E - x_t) / sigma^2 with the oracle E, in the subspace."""
    process, x_0 = case.process.bind(case.batch()), case.batch()["x"]
    x_t = process.project(case.batch(seed=5)["x"]).requires_grad_()
    t = time(0.4)
    (score,) = torch.autograd.grad(process.log_prob(x_t, x_0, t).sum(), x_t)
    level = process.level(t, x_0)
    oracle = process.oracle(x_0, x_t, t).value
    close(score, (level.alpha * oracle - x_t) / level.sigma**2)


@cases
def test_divergence_and_reverse_density(case: Case) -> None:
    """Against torch.distributions, in the subspace."""
    moments, basis = Moments(case), subspace(case)
    process, x_0 = moments.process, moments.x
    x_t, x_s, guess = (process.project(case.batch(seed=i)["x"]) for i in (5, 6, 7))
    for eta in (0.5, 1.0):
        (plan,) = process.plan(grid(0.7, 0.3), eta)
        from_noisy, from_data, fresh = moments.step(0.7, 0.3, eta)

        def law(
            x: Tensor, maps: tuple[Tensor, Tensor, Tensor] = (from_noisy, from_data, fresh)
        ) -> MultivariateNormal:
            mean = maps[0] @ x_t.flatten() + maps[1] @ x.flatten()
            return MultivariateNormal(basis.T @ mean, basis.T @ maps[2] @ basis)

        kl = process.divergence(Estimate(x_0), Estimate(guess), x_t, plan).sum()
        close(kl, kl_divergence(law(x_0), law(guess)), 1e-8)
        value = process.reverse_log_prob(x_s, x_t, Estimate(guess), plan).sum()
        close(value, law(guess).log_prob(basis.T @ x_s.flatten()), 1e-8)


@cases
def test_reconstruction_is_a_normal_around_the_estimate(case: Case) -> None:
    basis, process = subspace(case), case.process.bind(case.batch())
    x_0, guess = case.batch()["x"], process.project(case.batch(seed=7)["x"])
    level = process.level(time(0.05), x_0)
    scale = inside(basis, level.sigma / level.alpha, x_0)
    law = MultivariateNormal(basis.T @ guess.flatten(), scale)
    value = process.reconstruction(Estimate(guess), x_0, x_0, time(0.05)).sum()
    close(value, -law.log_prob(basis.T @ x_0.flatten()))


@cases
@pytest.mark.parametrize("s", [0.9, 1.0])
def test_encoding_and_decoding_is_a_round_trip(case: Case, s: float) -> None:
    """s > t at eta = 0, then back; from the noise that x_t had. Not to pure noise and back."""
    process, x_0 = case.process.bind(case.batch()), case.batch()["x"]
    x_t = process.project(case.batch(seed=5)["x"])
    up, down = process.plan(grid(0.2, s, 0.2), 0.0)
    oracle, silent = process.oracle(x_0, x_t, time(0.2)), Fixed(torch.zeros_like(x_0))
    x_s = process.step(x_t, oracle, up, silent)
    close(process.step(x_s, oracle, down, silent), x_t)
    low, high = process.level(time(0.2), x_0), process.level(time(s), x_0)
    noise = (x_t - low.alpha * x_0) / low.sigma
    close(x_s, high.alpha * x_0 + high.sigma * noise)


def test_encoding_needs_eta_zero() -> None:
    case = GAUSSIANS["gaussian linear"]
    with pytest.raises(ValueError, match="times must fall: only eta = 0"):
        case.process.bind(case.batch()).plan(grid(0.2, 0.9), 0.5)


def test_the_step_is_ddpms_posterior() -> None:
    """A03: mu-tilde and beta-tilde of eqs. 6 and 7, on DDPM's own grid."""
    schedule = Discrete.ddpm()
    process = Gaussian(schedule).bind(GAUSSIANS["gaussian cosine scalar"].batch())
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    products = torch.cumprod(1 - betas, 0)
    for i in (2, 10, 500, 1000):
        (plan,) = process.plan(grid(i / 1000, (i - 1) / 1000), 1.0)
        now, before, beta = products[i - 1], products[i - 2], betas[i - 1]
        close(plan.data, before.sqrt() * beta / (1 - now), 1e-10)
        close(plan.keep, (1 - beta).sqrt() * (1 - before) / (1 - now), 1e-10)
        close(plan.noise**2, (1 - before) / (1 - now) * beta, 1e-10)


def test_composed_steps_are_ddpms_marginal() -> None:
    """A03(a): sqrt(1 - beta) x + sqrt(beta) z, a thousand times."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    mean, variance = torch.ones(()).double(), torch.zeros(()).double()
    for beta in betas:
        mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
    level = Discrete.ddpm()(time(1.0))
    close(level.alpha, mean, 1e-12)
    close(level.sigma**2, variance, 1e-12)


def test_unit_normal_stays_unit_normal() -> None:
    """A08: alpha^2 I + sigma^2 I = I at every time."""
    moments = Moments(GAUSSIANS["gaussian linear"])
    for t in (0.0, 0.3, 1.0):
        mean, cov = moments.diffuse(t)
        close(mean @ mean.T + cov, torch.eye(len(mean)).double(), 1e-12)


def test_simulated_paths_have_the_marginal() -> None:
    """A07: Euler-Maruyama of dx = -beta x / 2 dt + sqrt(beta) dw, 1e5 paths, 4 standard errors."""
    generator = torch.Generator().manual_seed(0)
    paths, steps, end = 100_000, 200, 0.5
    x = torch.full((paths,), 1.5, dtype=torch.float64)
    h = end / steps
    for i in range(steps):
        beta = 0.1 + 19.9 * (i + 0.5) * h
        z = torch.randn(paths, dtype=torch.float64, generator=generator)
        x = x - 0.5 * beta * h * x + math.sqrt(beta * h) * z
    level = Linear()(time(end))
    bias = 0.02  # of the scheme: first order in beta h
    assert abs(float(x.mean() - 1.5 * level.alpha)) < 4 / math.sqrt(paths) + bias * 0.2
    assert abs(float(x.var() - level.sigma**2)) < 4 * math.sqrt(2 / paths) + bias


def test_times_of_entries() -> None:
    """Rows and entries may have their own times: each entry has its own marginal."""
    case = GAUSSIANS["gaussian linear"]
    process, x_0 = case.process.bind(case.batch()), case.batch()["x"]
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64).reshape(3, 2)
    z = case.batch(seed=3)["x"]
    level = Linear()(t)
    x_t = process.diffuse(x_0, t, Fixed(z))
    close(x_t, level.alpha * x_0 + level.sigma * z)
    density = Normal(level.alpha * x_0, level.sigma).log_prob(x_t).sum(1)
    close(process.log_prob(x_t, x_0, t), density)
    rows = t[:, 0]
    level = Linear()(rows)
    expected = level.alpha[:, None] * x_0 + level.sigma[:, None] * z
    close(process.diffuse(x_0, rows, Fixed(z)), expected)
    close(process.corrupt(x_0, torch.full_like(rows, CLEAN), rows, Fixed(z)), expected)


def test_noise_cannot_be_predicted_from_pure_noise() -> None:
    """At alpha = 0 eps says nothing of x_0; elsewhere it decodes exactly."""
    with pytest.raises(ValueError, match=r"Noise has no meaning at t = 1.*Velocity"):
        Gaussian(Flow(), Noise(), event=(2,))
    case = GAUSSIANS["gaussian flow"]
    batch = case.batch()
    process = Gaussian(Linear(), Noise(), event=(2,)).bind(batch)
    z = case.batch(seed=3)["x"]
    x_t = process.diffuse(batch["x"], time(1.0), Fixed(z))
    close(process.decode(z, x_t, time(1.0)).value, batch["x"])


class Rising(Schedule):
    """A bump: not a schedule."""

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.sin(6 * t)


def test_a_schedule_that_rises_is_refused() -> None:
    """B10."""
    with pytest.raises(ValueError, match="log-SNR of schedule Rising must fall"):
        Gaussian(Rising())


def test_levels_by_entry_must_keep_the_subspace() -> None:
    """In a span of both coordinates noise must be alike in both; a centre is of each one alone."""
    speeds = Speeds(Linear(), torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="levels by entry lead out of the subspace Span"):
        Gaussian(speeds, event=(2,), space=Span(torch.tensor([[1.0, 1.0]])))
    Gaussian(speeds, event=(2,), space=Span(torch.tensor([[0.0, 1.0]])))
    Gaussian(speeds, event=(2,), space=ZeroCentre())


def test_densities_beside_given_entries_are_those_of_the_free_ones() -> None:
    case = GAUSSIANS["gaussian linear"]
    batch = case.batch()
    held = torch.tensor([[True, False], [False, False], [True, True]])
    process = case.process.bind(batch.with_given({"x": held}))
    t = process.times(time(0.5))
    z, guess = case.batch(seed=3)["x"], Estimate(case.batch(seed=4)["x"])
    x_t = process.diffuse(batch["x"], t, Fixed(z))
    level = Linear()(time(0.5))
    free = (~held).double()

    def rows(law: Normal, x: Tensor) -> Tensor:
        return (law.log_prob(x) * free).sum(1)

    close(
        process.log_prob(x_t, batch["x"], t),
        rows(Normal(level.alpha * batch["x"], level.sigma), x_t),
    )
    close(process.prior_log_prob(x_t), rows(Normal(0.0, Linear().sigma(time(1.0))), x_t))
    last = Normal(guess.value, level.sigma / level.alpha)
    close(process.reconstruction(guess, batch["x"], x_t, t), -rows(last, batch["x"]))
    (plan,) = process.plan(grid(0.5, 0.2), 1.0)
    law = Normal(plan.keep * x_t + plan.data * guess.value, plan.noise)
    close(process.reverse_log_prob(z, x_t, guess, plan), rows(law, z))
    moved = torch.where(held, batch["x"] + 1, x_t)
    impossible = process.log_prob(moved, batch["x"], t)
    assert (impossible == -math.inf).tolist() == [True, False, True]


def test_centred_density_beside_given_rows_is_free() -> None:
    """They fix the frame: the other rows of their sample are not projected."""
    case = GAUSSIANS["gaussian centred"]
    held = torch.tensor([True, False, False, False, False, False])
    batch = case.batch().with_given({"x": held})
    process, z = case.process.bind(batch), torch.ones(6, 3).double()
    t = process.times(time(0.5))
    x_t = process.diffuse(batch["x"], t, Fixed(z))
    level = process.level(time(0.5), x_t)
    close(x_t[1], level.alpha * batch["x"][1] + level.sigma)
    close(x_t[3:], level.alpha * batch["x"][3:])  # ones are projected away
    per_row = process.log_prob(x_t, batch["x"], t)
    normal = Normal(level.alpha * batch["x"], level.sigma).log_prob(x_t).sum(1)
    constant = -torch.log(level.sigma) - 0.5 * math.log(2 * math.pi)
    close(per_row[:3], torch.stack([time(0.0), normal[1], time(0.0)]))
    close(per_row[3:].sum(), 6 * constant.squeeze())


def test_entries_that_are_held_have_no_variance_and_other_extras_stay() -> None:
    x_t, known = torch.randn(3, 2), torch.randn(3, 2)
    held = torch.tensor([[True, False], [False, False], [True, True]])
    memory = torch.randn(3, 4, 5)
    said = Estimate(x_t, {"variance": torch.full((3, 2), 0.3), "memory": memory})
    process = Gaussian(Linear(), event=(2,)).bind(Batch.of(known))
    found = process.impose(said, known, held, x_t, time(0.5))
    assert torch.equal(found.extras["variance"], torch.where(held, 0.0, 0.3))
    assert torch.equal(found.extras["memory"], memory)
    assert torch.equal(found.value, torch.where(held, known, x_t))
