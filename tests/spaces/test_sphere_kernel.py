"""The sphere's heat kernel against series in many digits, closed forms, and its laws.

The stated bounds are 1e-9 max(1, |log K|), and for the score 1e-9 max(|score|, 1 / sqrt(tau)).
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import SO3, Torus
from structdiff.spaces.s2_kernel import table
from structdiff.spaces.sphere import Sphere
from structdiff.spaces.sphere_kernel import Angle, kernel_of, switch

ANGLES = [0.0, 1e-3, 0.1, 1.0, 1.6, 2.5, 3.1, math.pi - 1e-4, math.pi]


def scalar(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def pair(
    dimension: int, angles: list[float], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Points at the given angles from the first axis, as `x` and `y`."""
    space = Sphere(dimension)
    x = space.origin(dtype, "cpu").expand(len(angles), -1)
    y = torch.zeros_like(x)
    theta = torch.tensor(angles, dtype=torch.float64)
    y[:, 0], y[:, 1] = torch.cos(theta).to(dtype), (torch.sin(theta) * (theta < math.pi)).to(dtype)
    return x, y


def slopes(space: Sphere, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
    """The component of the score away from `x`."""
    outward = torch.zeros_like(y)
    outward[:, 0], outward[:, 1] = -y[:, 1], y[:, 0]
    return (space.score(x, y, tau) * outward).sum(1)


def series(dimension: int, theta: float, tau: float, digits: int) -> tuple[float, float]:
    """log K and its derivative in theta, by Gegenbauer's series in many digits."""
    with mpmath.workdps(digits):
        nu, c = mpmath.mpf(dimension - 1) / 2, mpmath.cos(theta)
        last, value = mpmath.mpf(0), mpmath.mpf(1)
        below, slope = mpmath.mpf(0), mpmath.mpf(0)
        total = rise = mpmath.mpf(0)
        for degree in range(10_000):
            weight = (degree + nu) / nu
            weight *= mpmath.exp(-mpmath.mpf(degree) * (degree + dimension - 1) * tau / 2)
            total += weight * value
            rise += weight * slope
            choices = math.lgamma(degree + dimension + 1) - math.lgamma(degree + 1)
            if choices - degree * (degree + dimension - 1) * tau / 2 < -2.4 * digits:
                break
            a, b = 2 * (degree + nu) / (degree + 1), (degree + 2 * nu - 1) / (degree + 1)
            slope, below = a * (value + c * slope) - b * below, slope
            value, last = a * c * value - b * last, value
        half = mpmath.mpf(dimension + 1) / 2
        volume = 2 * mpmath.pi**half / mpmath.gamma(half)
        return float(mpmath.log(total / volume)), float(-mpmath.sin(theta) * rise / total)


@pytest.mark.parametrize("dimension", [2, 3, 4, 7, 15, 31, 127])
@pytest.mark.parametrize("share", [0.3, 0.99, 1.01, 4.0])
def test_agrees_with_the_series_in_many_digits(dimension: int, share: float) -> None:
    space, tau = Sphere(dimension), share * switch(dimension)
    angles = [0.0, 0.4, 1.5, 2.7, 3.14]
    x, y = pair(dimension, angles)
    log_k, slope = space.log_kernel(x, y, scalar(tau)), slopes(space, x, y, scalar(tau))
    digits = 30 + int(math.pi**2 / tau / 4.6) + dimension
    for i, theta in enumerate(angles):
        value, steep = series(dimension, theta, tau, digits)
        assert abs(log_k[i].item() - value) < 1e-9 * max(1, abs(value))
        assert abs(slope[i].item() - steep) < 1e-9 * max(abs(steep), tau**-0.5)


@pytest.mark.parametrize("tau", [1e-6, 1e-4, 0.01, 0.2, 0.8, 1.5, 10.0, 100.0])
def test_is_the_fibre_mean_of_the_rotations_kernel_on_s2(tau: float) -> None:
    """SO(3) covers S^2 with circles of length 2 pi: K = integral of IGSO(3) over the fibre."""
    angles = torch.tensor(ANGLES, dtype=torch.float64)
    x, y = pair(2, ANGLES)
    half = torch.cos(angles / 2).clamp(min=1e-15)
    reach = (6 * (tau / half).sqrt()).clamp(max=math.pi / 2)
    alpha = reach[:, None] * (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    # Rotation angle of each point of the fibre.
    sine = torch.sin(angles / 2)[:, None].square() + (half[:, None] * torch.sin(alpha)).square()
    turn = 2 * torch.atan2(sine.sqrt(), half[:, None] * torch.cos(alpha)).reshape(-1)
    v = torch.stack([turn, 0 * turn, 0 * turn], 1)
    eye = torch.eye(3, dtype=torch.float64).expand(len(v), 3, 3)
    log_f = SO3().log_kernel(eye, SO3().exp(eye, v), scalar(tau)).reshape(len(angles), -1)
    mean = torch.logsumexp(log_f, 1) - math.log(32)
    truth = mean + (4 * reach).log()
    error = (Sphere(2).log_kernel(x, y, scalar(tau)) - truth).abs() / truth.abs().clamp(min=1)
    assert error.max() < 1e-9


def three(theta: float, tau: float) -> tuple[float, float]:
    """log K and its slope on S^3, by the images."""
    with mpmath.workdps(60):
        angle, time = mpmath.mpf(theta), mpmath.mpf(tau)

        def log_k(a: mpmath.mpf) -> mpmath.mpf:
            def image(w: mpmath.mpf) -> mpmath.mpf:
                return w * mpmath.exp(-w * w / (2 * time))

            total = mpmath.fsum(image(a + 2 * mpmath.pi * k) for k in range(-4, 5))
            scale = mpmath.exp(time / 2) * (2 * mpmath.pi * time) ** -1.5
            return mpmath.log(scale * total / mpmath.sin(a))

        step = mpmath.mpf(10) ** -20 * time
        slope = (log_k(angle + step) - log_k(angle - step)) / (2 * step)
        return float(log_k(angle)), float(slope)


@pytest.mark.parametrize("tau", [0.03, 0.1, 0.7, 1.5])
@pytest.mark.parametrize("theta", [1e-3, 0.3, 1.5, 2.9, 3.1415])
def test_is_the_closed_form_on_s3(theta: float, tau: float) -> None:
    value, steep = three(theta, tau)
    x, y = pair(3, [theta])
    assert abs(Sphere(3).log_kernel(x, y, scalar(tau)).item() - value) < 1e-9 * max(1, abs(value))
    error = abs(slopes(Sphere(3), x, y, scalar(tau)).item() - steep)
    assert error < 1e-9 * max(abs(steep), tau**-0.5)


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 0.1])
@pytest.mark.parametrize("theta", [1e-3, 0.3, 1.5, 2.5])
def test_short_times_on_s3(theta: float, tau: float) -> None:
    """There log K = tau / 2 - 3/2 log(2 pi tau) - theta^2 / (2 tau) + log(theta / sin theta)."""
    x, y = pair(3, [theta])
    truth = tau / 2 - 1.5 * math.log(2 * math.pi * tau) - theta**2 / (2 * tau)
    truth += math.log(theta / math.sin(theta))
    value = Sphere(3).log_kernel(x, y, scalar(tau)).item()
    assert abs(value - truth) < 1e-9 * max(1, abs(truth))
    steep = 1 / theta - 1 / math.tan(theta) - theta / tau
    error = abs(slopes(Sphere(3), x, y, scalar(tau)).item() - steep)
    assert error < 1e-9 * max(abs(steep), tau**-0.5)


@pytest.mark.parametrize("tau", [1e-6, 0.01, 0.5, 2.0])
def test_is_the_wrapped_normal_on_the_circle(tau: float) -> None:
    x, y = pair(1, ANGLES[:-1])
    a = torch.tensor(ANGLES[:-1], dtype=torch.float64)[:, None]
    truth = Torus(1).log_kernel(torch.zeros_like(a), a, scalar(tau))
    error = (Sphere(1).log_kernel(x, y, scalar(tau)) - truth) / truth.abs().clamp(min=1)
    assert error.abs().max() < 1e-12
    truth = Torus(1).score(torch.zeros_like(a), a, scalar(tau))[:, 0]
    error = slopes(Sphere(1), x, y, scalar(tau)) - truth
    assert (error.abs() / truth.abs().clamp(min=tau**-0.5)).max() < 1e-9


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 16, 29, 125])
@pytest.mark.parametrize("tau", [1e-6, 1e-3, 0.03, 0.4])
def test_recursion_in_the_dimension(dimension: int, tau: float) -> None:
    """The slope of log K_n in cos(theta) is 2 pi exp(-n tau / 2) K_{n+2} / K_n."""
    angles = [0.01, 0.2, 0.9, 1.7, 3.0]
    x, y = pair(dimension, angles)
    a, b = pair(dimension + 2, angles)
    log_k = Sphere(dimension).log_kernel(x, y, scalar(tau))
    higher = Sphere(dimension + 2).log_kernel(a, b, scalar(tau))
    slope = slopes(Sphere(dimension), x, y, scalar(tau)) / -y[:, 1]
    truth = math.log(2 * math.pi) - dimension * tau / 2 + higher - log_k
    bound = 2e-9 * log_k.abs().clamp(min=1)
    assert ((slope.log() - truth).abs() < bound).all()


@pytest.mark.parametrize("dimension", [2, 3, 7, 127])
@pytest.mark.parametrize("tau", [1e-4, 0.02, 0.3, 3.0])
def test_integrates_to_one(dimension: int, tau: float) -> None:
    end = min(math.pi, math.sqrt(tau) * (math.sqrt(dimension) + 9))
    node, weight = np.polynomial.legendre.leggauss(150)
    theta = end * (node + 1) / 2
    x, y = pair(dimension, theta.tolist())
    log_k = Sphere(dimension).log_kernel(x, y, scalar(tau)).numpy()
    circle = Sphere(dimension - 1).log_volume + (dimension - 1) * np.log(np.sin(theta))
    assert abs(weight @ np.exp(log_k + circle) * end / 2 - 1) < 1e-8


@pytest.mark.parametrize("each", [False, True], ids=["one time", "times by row"])
def test_polynomials_on_s2_are_the_general_kernel(each: bool) -> None:
    """At all angles, and where the angle is a few sqrt(tau) or its supplement a few tau."""
    space, rows, dtype, bound = Sphere(2), 60, torch.float32, 1e-5
    spread = torch.linspace(0, math.pi, rows, dtype=torch.float64)
    for tau in np.geomspace(1e-6, 100, 25):
        theta = torch.cat([spread, 2 * tau**0.5 * spread, math.pi - tau * spread])
        x, y = pair(2, theta.clamp(0, math.pi).tolist(), dtype)
        time = scalar(tau, dtype).expand(len(x)) if each else scalar(tau, dtype)
        wide_x, wide_y = x.double(), y.double()
        near = torch.stack([(wide_y - wide_x).norm(dim=1), (wide_y + wide_x).norm(dim=1)])
        behind = (near[1] < near[0]).double()
        angle = Angle(near.amin(0).square() / 2, behind)
        log_k, rise = kernel_of(2, angle, time.double())
        error = (space.log_kernel(x, y, time).double() - log_k).abs()
        assert (error / log_k.abs().clamp(min=1)).max() < bound
        truth = -rise * wide_y[:, 1]
        error = (slopes(space, x, y, time).double() - truth).abs()
        assert (error / truth.abs().clamp(min=tau**-0.5)).max() < bound


def test_blocks_of_rows_do_not_mix() -> None:
    space, rows = Sphere(2), 20_000
    x = space.uniform(rows, Generator(1), torch.float32, "cpu")
    y = space.uniform(rows, Generator(2), torch.float32, "cpu")
    tau = torch.linspace(0.01, 3, rows, dtype=torch.float32)
    for last in (0, 1, 8191, 8192, 8193, rows):
        part = slice(max(last - 3, 0), last)
        whole = space.score(x[:last], y[:last], tau[:last])[part]
        assert whole.shape == (len(x[part]), 3)
        torch.testing.assert_close(
            whole, space.score(x[part], y[part], tau[part]), rtol=1e-5, atol=1e-4
        )
        whole = space.log_kernel(x[:last], y[:last], scalar(0.2, torch.float32))[part]
        torch.testing.assert_close(
            whole,
            space.log_kernel(x[part], y[part], scalar(0.2, torch.float32)),
            rtol=1e-5,
            atol=1e-4,
        )


@pytest.mark.parametrize("tau", [1e-3, 0.05, 0.6, 5.0])
def test_score_is_the_gradient_on_s2(tau: float) -> None:
    space = Sphere(2)
    x, y = pair(2, [1e-3, 0.02, 0.8, 1.57, 1.58, 2.6, 3.1, math.pi - 1e-4])
    y.requires_grad_()
    (grad,) = torch.autograd.grad(space.log_kernel(x, y, scalar(tau)).sum(), y)
    score = space.score(x, y.detach(), scalar(tau))
    error = (space.to_tangent(y.detach(), grad) - score).norm(dim=1)
    assert (error < 2e-9 * score.norm(dim=1).clamp(min=tau**-0.5)).all()


def test_coefficients_on_s2_are_small() -> None:
    """So float32 sums lose no digits."""
    assert np.abs(table()).max() < 10


@pytest.mark.parametrize("dimension", [1, 2, 3, 8])
@pytest.mark.parametrize("theta", [0.0, math.pi])
@pytest.mark.parametrize("tau", [0.05, 0.6, 3.0])
def test_second_derivatives_at_both_poles(dimension: int, theta: float, tau: float) -> None:
    """Isotropic there, with the heat equation: n (log K)'' = 2 d log K / d tau."""
    space = Sphere(dimension)
    x, y = pair(dimension, [theta])
    basis = space.frame(y)[0]
    t = scalar(tau).requires_grad_()

    def value(w: Tensor) -> Tensor:
        return space.log_kernel(x, space.exp(y, (w @ basis)[None]), t.detach()).sum()

    zero = torch.zeros(dimension, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(value, zero)
    (rate,) = torch.autograd.grad(space.log_kernel(x, y, t).sum(), t)
    truth = 2 * rate / dimension * torch.eye(dimension, dtype=torch.float64)
    torch.testing.assert_close(hessian, truth, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 31])
@pytest.mark.parametrize("tau", [1e-4, 0.01, 0.3, 3.0])
def test_float32_keeps_four_digits(dimension: int, tau: float) -> None:
    space = Sphere(dimension)
    angles = [0.0, 1e-3, 0.3, 1.2, 2.0, 3.0]
    x, y = pair(dimension, angles, torch.float32)
    t = torch.tensor(tau)
    wide = (x.double(), y.double(), t.double())
    value, truth = space.log_kernel(x, y, t).double(), space.log_kernel(*wide)
    assert ((value - truth).abs() < 1e-4 * truth.abs().clamp(min=1)).all()
    value, truth = space.score(x, y, t).double(), space.score(*wide)
    bound = 1e-4 * truth.norm(dim=1).clamp(min=tau**-0.5)
    assert ((value - truth).norm(dim=1) < bound).all()


# Draws.

ROWS = 5_000


def law(dimension: int, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """The distribution function of the angle on a grid, by quadrature of the kernel."""
    end = min(math.pi, math.sqrt(tau) * (math.sqrt(dimension) + 9))
    theta = np.linspace(0, end, 1001)[1:-1]
    x, y = pair(dimension, theta.tolist())
    log_k = Sphere(dimension).log_kernel(x, y, scalar(tau)).numpy()
    density = np.exp(
        log_k
        + Sphere(max(dimension - 1, 1)).log_volume * (dimension > 1)
        + math.log(2) * (dimension == 1)
        + (dimension - 1) * np.log(np.sin(theta))
    )
    total = integrate.cumulative_simpson(density, x=theta, initial=0)
    return theta, total + density[0] * theta[0] / dimension


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 7, 31, 127])
@pytest.mark.parametrize("tau", [1e-4, 0.05, 0.5, 3.0])
def test_angles_of_draws_have_the_law_of_the_kernel(dimension: int, tau: float) -> None:
    space = Sphere(dimension)
    x = space.uniform(1, Generator(9), torch.float64, "cpu").expand(ROWS, -1)
    y = space.diffuse(x, scalar(tau), Generator(10))
    angle = space.distance(x, y).numpy()
    theta, total = law(dimension, tau)
    found = stats.kstest(angle, lambda a: np.interp(a, theta, total))
    assert found.pvalue > 1e-4
    decay = math.exp(-dimension * tau / 2)
    cosine = np.cos(angle)
    assert abs(cosine.mean() - decay) < 5 * cosine.std() / math.sqrt(ROWS)
    direction = space.log(x, y) @ space.frame(x[:1])[0].T
    unit = direction / direction.norm(dim=1, keepdim=True)
    assert unit.mean(0).abs().max() < 5 / math.sqrt(ROWS)


@pytest.mark.parametrize("dimension", [1, 2, 3, 31])
def test_times_by_row_are_those_times(dimension: int) -> None:
    space = Sphere(dimension)
    x = space.uniform(5, Generator(9), torch.float64, "cpu")
    tau = torch.tensor([0.0, 1e-3, 0.2, 1.0, 30.0], dtype=torch.float64)
    mixed = space.diffuse(x, tau, Generator(1))
    torch.testing.assert_close(mixed[0], x[0], rtol=0, atol=1e-15)
    for i in range(5):
        alone = space.diffuse(x, tau[i], Generator(1))[i]
        torch.testing.assert_close(mixed[i], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dimension", [3, 8])
def test_draws_keep_ranks(dimension: int) -> None:
    """The rank of the drawn angle is that of the length of the normal vector, to 1e-7."""
    space, tau = Sphere(dimension), 0.4
    x = space.origin(torch.float64, "cpu").expand(500, -1)
    angle = space.distance(x, space.diffuse(x, scalar(tau), Generator(3))).numpy()
    z = Generator(3).normal((500, dimension), torch.float64, "cpu")
    rank = stats.chi.cdf(z.norm(dim=1).numpy(), dimension)
    node, weight = np.polynomial.legendre.leggauss(60)
    points = angle[:, None] * (node + 1) / 2
    flat, y = pair(dimension, points.ravel().tolist())
    log_k = space.log_kernel(flat, y, scalar(tau)).numpy().reshape(points.shape)
    circle = Sphere(dimension - 1).log_volume + (dimension - 1) * np.log(np.sin(points))
    total = (np.exp(log_k + circle) * weight).sum(1) * angle / 2
    assert np.abs(total - rank).max() < 1e-7
