"""Laws of Gaussian noise with a covariance and a terminal mean, by exact moments."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.distributions import MultivariateNormal, kl_divergence

from structdiff import Batch, Cosine, Gaussian, Generator, Linear
from structdiff.parameterisations import Noise
from structdiff.processes import Estimate
from structdiff.processes.affine import Affine
from structdiff.processes.covariance import FromCondition, Scaling
from structdiff.processes.covariance_dense import Cholesky
from structdiff.schedules import CLEAN
from structdiff.spaces import ZeroCentre
from tests.processes.cases import AFFINES, Case, Fixed, grid, time
from tests.processes.closeness import close

cases = pytest.mark.parametrize("case", AFFINES.values(), ids=AFFINES.keys())
PAIRS = [(0.2, 0.7), (0.0, 0.3), (CLEAN, 0.5), (0.5, 1.0), (CLEAN, 1.0), (0.4, 0.4)]
pairs = pytest.mark.parametrize(("s", "t"), PAIRS)


def affine(f: Callable[[Tensor], Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix and value at zero of an affine map of records."""
    zero = torch.zeros_like(like)
    return jacobian(f, zero).reshape(like.numel(), like.numel()), f(zero).detach().flatten()


class Moments:
    """How diffuse, corrupt and step act on a record, as matrices and offsets."""

    def __init__(self, case: Case) -> None:
        self.x, self.process = case.batch()["x"], case.process.bind(case.batch())
        self.silent = Fixed(torch.zeros_like(self.x))

    def law(self, f: Callable[[Tensor, Fixed], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Matrix, offset and covariance of an affine map with noise."""
        zero = torch.zeros_like(self.x)
        noise, _ = affine(lambda z: f(zero, Fixed(z)) + 0 * z, zero)
        return (*affine(lambda x: f(x, self.silent) + 0 * x, zero), noise @ noise.T)

    def diffuse(self, t: float) -> tuple[Tensor, Tensor, Tensor]:
        return self.law(lambda x, random: self.process.diffuse(x, time(t), random))

    def step(self, t: float, s: float, eta: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Matrices of x_t and x_0, offset and covariance of the step at the oracle."""
        (plan,), zero = self.process.plan(grid(t, s), eta), torch.zeros_like(self.x)

        def move(x_t: Tensor, x_0: Tensor, random: Fixed) -> Tensor:
            return self.process.step(x_t, Estimate(x_0), plan, random)

        from_data = self.law(lambda x, random: move(zero, x, random))
        from_noisy = self.law(lambda x, random: move(x, zero, random))
        return from_noisy[0], *from_data


@cases
@pairs
def test_semigroup(case: Case, s: float, t: float) -> None:
    moments = Moments(case)
    (mean_s, at_s, cov_s), (mean_t, at_t, cov_t) = moments.diffuse(s), moments.diffuse(t)
    kernel, offset, fresh = moments.law(
        lambda x, random: moments.process.corrupt(x, time(s), time(t), random)
    )
    close(kernel @ mean_s, mean_t)
    close(kernel @ at_s + offset, at_t)
    close(kernel @ cov_s @ kernel.T + fresh, cov_t)


@cases
@pairs
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_undoing_and_bayes(case: Case, s: float, t: float, eta: float) -> None:
    """The oracle step brings q(x_t | x_0) to q(x_s | x_0); at eta 1 the pair has one law."""
    moments = Moments(case)
    (mean_s, at_s, cov_s), (mean_t, at_t, cov_t) = moments.diffuse(s), moments.diffuse(t)
    from_noisy, from_data, offset, fresh = moments.step(t, s, eta)
    close(from_noisy @ mean_t + from_data, mean_s)
    close(from_noisy @ at_t + offset, at_s)
    close(from_noisy @ cov_t @ from_noisy.T + fresh, cov_s)
    if eta == 1:
        kernel = moments.law(
            lambda x, random: moments.process.corrupt(x, time(s), time(t), random)
        )
        close(kernel[0] @ cov_s, (from_noisy @ cov_t).T)


def dense(case: Case) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the standard noise of a record, by its formula."""
    count = len(case.batch()["x"])
    eye = torch.eye(count).double()
    if case is AFFINES["affine scaled"]:
        scale = torch.tensor([2.0, 0.3], dtype=torch.float32).double()
        return torch.tensor([1.0, -2.0]).double().repeat(count), torch.kron(
            eye, torch.diag(scale**2)
        )
    if case is AFFINES["affine correlated"]:
        inside = torch.tensor([[2.0, 0.3], [0.3, 0.5]], dtype=torch.float32).double()
        return torch.ones(2 * count).double(), torch.kron(eye, inside)
    if case is AFFINES["affine shared"]:
        blocks = torch.block_diag(
            *(0.4 * torch.eye(n).double() + 0.6 for n in case.batch().layouts["x"].counts)
        )
        return torch.zeros(2 * count).double(), torch.kron(blocks, torch.eye(2).double())
    return torch.zeros(4 * count).double(), torch.eye(4 * count).double()


@cases
@pytest.mark.parametrize("t", [0.1, 0.6, 1.0])
def test_density_and_prior(case: Case, t: float) -> None:
    """N(m + C_t (x_0 - m), sigma_t^2 Sigma), and N(m, sigma_1^2 Sigma) at the end."""
    moments, (centre, sigma) = Moments(case), dense(case)
    process, x_0, x_t = moments.process, moments.x, case.batch(seed=5)["x"]
    fade, offset, cov = moments.diffuse(t)
    level = process.process.level(time(t), x_0).sigma.expand_as(x_0)[0].flatten()[0]
    close(cov, level**2 * sigma)
    close(fade @ centre + offset, centre)
    law = MultivariateNormal(fade @ x_0.flatten() + offset, cov)
    close(process.log_prob(x_t, x_0, time(t)).sum(), law.log_prob(x_t.flatten()))
    end = process.process.level(time(1.0), x_0).sigma.flatten()[0]
    law = MultivariateNormal(centre, end**2 * sigma)
    close(process.prior_log_prob(x_t).sum(), law.log_prob(x_t.flatten()))
    zero = torch.zeros_like(x_0)
    noise, at_zero = affine(lambda z: process.prior(Fixed(z)), zero)
    close(noise @ noise.T, end**2 * sigma)
    close(at_zero, centre)
    last = moments.diffuse(1.0)
    gap = kl_divergence(MultivariateNormal(last[0] @ x_0.flatten() + last[1], last[2]), law)
    close(process.prior_divergence(x_0).sum(), gap)


@cases
def test_score_and_shift(case: Case) -> None:
    """The gradient of the density is the oracle's score; what shifts it by g adds g to it."""
    process, x_0 = case.process.bind(case.batch()), case.batch()["x"]
    x_t, t = case.batch(seed=5)["x"].requires_grad_(), time(0.4)
    (slope,) = torch.autograd.grad(process.log_prob(x_t, x_0, t).sum(), x_t)
    x_t = x_t.detach()
    oracle = process.oracle(x_0, x_t, t)
    close(process.score(oracle, x_t, t), slope)
    gradient = case.batch(seed=7)["x"]
    shifted = process.shift(oracle, gradient, x_t, t)
    close(process.score(shifted, x_t, t), slope + gradient)


@cases
def test_velocity_moves_the_marginal(case: Case) -> None:
    """Along dx/dt at the oracle, x_t = mean_t + root_t z keeps its z."""
    moments = Moments(case)
    process, x_0, z = moments.process, moments.x, case.batch(seed=3)["x"]
    t, h = 0.4, 1e-5
    before, here, after = (process.diffuse(x_0, time(at), Fixed(z)) for at in (t - h, t, t + h))
    velocity = process.velocity(process.oracle(x_0, here, time(t)), here, time(t))
    close(velocity, (after - before) / (2 * h), 1e-6)


@cases
def test_kernels_of_steps(case: Case) -> None:
    """reverse_log_prob and divergence are those of normals; so is the last step's."""
    moments = Moments(case)
    process, x_0 = moments.process, moments.x
    x_t, x_s, guess = (case.batch(seed=i)["x"] for i in (5, 6, 7))
    for eta in (0.5, 1.0):
        (plan,) = process.plan(grid(0.7, 0.3), eta)
        from_noisy, from_data, offset, fresh = moments.step(0.7, 0.3, eta)

        def law(
            x: Tensor, maps: tuple[Tensor, ...] = (from_noisy, from_data, offset, fresh)
        ) -> MultivariateNormal:
            mean = maps[0] @ x_t.flatten() + maps[1] @ x.flatten() + maps[2]
            return MultivariateNormal(mean, maps[3])

        value = process.reverse_log_prob(x_s, x_t, Estimate(guess), plan).sum()
        close(value, law(guess).log_prob(x_s.flatten()), 1e-8)
        gap = process.divergence(Estimate(x_0), Estimate(guess), x_t, plan).sum()
        close(gap, kl_divergence(law(x_0), law(guess)), 1e-8)
    mean, _, cov = moments.diffuse(0.05)
    back = torch.linalg.inv(mean)
    law = MultivariateNormal(guess.flatten(), back @ cov @ back.T)
    value = process.reconstruction(Estimate(guess), x_0, x_0, time(0.05)).sum()
    close(value, -law.log_prob(x_0.flatten()), 1e-8)


@cases
def test_rate_is_the_limit_of_the_divergence(case: Case) -> None:
    process, x_0 = case.process.bind(case.batch()), case.batch()["x"]
    x_t, guess = case.batch(seed=5)["x"], Estimate(case.batch(seed=7)["x"])
    t, h = 0.5, 1e-5
    (plan,) = process.plan(grid(t, t - h), 1.0)
    short = process.divergence(process.oracle(x_0, x_t, time(t)), guess, x_t, plan) / h
    close(process.divergence_rate(guess, x_0, x_t, time(t)), short, 1e-3)


@cases
def test_standard_units_are_the_same_process(case: Case) -> None:
    process, x_0 = case.process, case.batch()["x"]
    standard, own = process.standard().bind(case.batch()), process.bind(case.batch())
    z = Fixed(case.batch(seed=3)["x"])
    moved = own.from_standard(standard.diffuse(x_0, time(0.6), z), time(0.6))
    close(moved, own.diffuse(x_0, time(0.6), z))
    level = standard.process.level(time(0.6), x_0)
    close(level.alpha**2 + level.sigma**2, torch.ones_like(level.alpha))


@cases
def test_any_sum_of_estimates_is_that_of_u(case: Case) -> None:
    """Weights that do not sum to one too: the mean of the noise is not weighed."""
    process = case.process.bind(case.batch())
    a, b, x_t = (case.batch(seed=i)["x"] for i in (1, 2, 3))
    weights = (time(0.9), time(0.4))
    mixed = process.combine([(x_t, Estimate(a)), (x_t, Estimate(b))], weights, x_t).value
    close(process.whiten(mixed), 0.9 * process.whiten(a) + 0.4 * process.whiten(b))


def test_loss_is_the_whitened_one_and_noise_is_coloured() -> None:
    """(e - e')^T Sigma^{-1} (e - e') for noise predictions of covariance Sigma."""
    covariance = torch.tensor([[2.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
    process = Affine(Gaussian(Linear(), Noise(), event=(2,)), Cholesky(covariance), torch.ones(2))
    x_0, e, other = (
        torch.randn(3, 2, generator=torch.Generator().manual_seed(i)).double() for i in range(3)
    )
    process, t = process.bind(Batch.of(x_0)), time(0.4)
    level = Linear()(t)
    x_t = 1 + level.alpha * (x_0 - 1) + level.sigma * e
    close(process.decode(e, x_t, t).value, x_0)
    gap = e - other
    expected = (gap @ torch.linalg.inv(covariance) * gap).sum(1) * (level.sigma / level.alpha) ** 2
    close(process.loss(process.decode(other, x_t, t), x_0, x_t, t), expected)


@pytest.mark.parametrize("diagonal", [False, True])
def test_densities_beside_given_entries_are_those_of_the_free_ones(diagonal: bool) -> None:
    """Noise of the free entries has the covariance Sigma_FF; given ones count nothing."""
    covariance = torch.tensor([[2.0, 0.3, -0.5], [0.3, 0.5, 0.2], [-0.5, 0.2, 1.0]]).double()
    covariance = torch.diag(covariance.diagonal()) if diagonal else covariance
    factor = Scaling(covariance.diagonal().sqrt()) if diagonal else Cholesky(covariance)
    centre = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    x_0, x_t, x_s, guess = (Generator(i).normal((2, 3), torch.float64, "cpu") for i in range(4))
    held = torch.tensor([[True, False, False], [False, False, True]])
    whole = Affine(Gaussian(Linear(), event=(3,)), factor, centre)
    process = whole.bind(Batch.of(x_0).with_given({"x": held}))
    x_t, x_s = torch.where(held, x_0, x_t), torch.where(held, x_0, x_s)
    t, (plan,) = process.times(time(0.5)), process.plan(grid(0.5, 0.2), 1.0)
    level, last, end = (Linear()(time(at)) for at in (0.5, 0.02, 1.0))
    noise = plan.noise.flatten()[0]
    density, prior = process.log_prob(x_t, x_0, t), process.prior_log_prob(x_t)
    back = process.reverse_log_prob(x_s, x_t, Estimate(guess), plan)
    rest = process.reconstruction(Estimate(guess), x_0, x_t, process.times(time(0.02)))
    for row in range(2):
        free = ~held[row]
        own, m = covariance[free][:, free], centre[free]

        def law(mean: Tensor, scale: Tensor, own: Tensor = own) -> MultivariateNormal:
            return MultivariateNormal(mean, scale**2 * own)

        a, b, c, d = (x[row][free] for x in (x_0, x_t, x_s, guess))
        close(density[row], law(m + level.alpha * (a - m), level.sigma).log_prob(b))
        close(prior[row], law(m, end.sigma).log_prob(b))
        mean = m + plan.keep * (b - m) + plan.data * (d - m)
        close(back[row], law(mean, noise).log_prob(c), 1e-8)
        close(rest[row], -law(d, last.sigma / last.alpha).log_prob(a), 1e-8)


def test_the_mean_of_the_noise_is_rho_x_plus_the_rest_mu() -> None:
    """d x = beta (mu - x) / 2 dt + sqrt(beta) d w, by Euler steps of the mean."""
    process = Affine(Gaussian(Linear(), event=(2,)), mean=torch.tensor([4.0, -3.0]).double())
    x_0 = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    process = process.bind(Batch.of(x_0))
    silent, t = Fixed(torch.zeros_like(x_0)), 0.3
    rho = math.exp(-0.5 * (0.1 * t + 0.5 * 19.9 * t**2))
    expected = rho * x_0 + (1 - rho) * process.centre
    close(process.diffuse(x_0, time(t), silent), expected)
    mean, steps = x_0, 20_000
    for i in range(steps):
        beta = 0.1 + 19.9 * t * (i + 0.5) / steps
        mean = mean + 0.5 * beta * (process.centre - mean) * t / steps
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-4)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="must live in all of R.n, got the subspace ZeroCentre"):
        Affine(Gaussian(Cosine(), event=(3,), space=ZeroCentre()))
    with pytest.raises(ValueError, match=r"mean must broadcast against a row \(2,\), got \(3,\)"):
        Affine(Gaussian(Cosine(), event=(2,)), mean=torch.zeros(3))
    with pytest.raises(ValueError, match=r"scale must broadcast against a row \(2,\), got \(3,\)"):
        Affine(Gaussian(Cosine(), event=(2,)), Scaling(torch.ones(3)))
    process = Affine(Gaussian(Cosine()), mean=FromCondition("centre"))
    with pytest.raises(ValueError, match="needs the condition 'centre', but the batch has"):
        process.bind(Batch.of(torch.zeros(3)))
