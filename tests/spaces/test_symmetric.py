"""Functions of symmetric matrices: values, first and second derivatives, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from structdiff.spaces.decompositions import (
    cholesky,
    inward,
    outward,
    product,
    root_spectrum,
    solve,
    spectrum,
)
from structdiff.spaces.divided import EXP, INVERSE_ROOT, LOG, ROOT, Scalar
from structdiff.spaces.symmetric import (
    exponential,
    inverse_square_root,
    logarithm,
    square_root,
)

FUNCTIONS = {
    "exp": (exponential, scipy.linalg.expm, mpmath.exp, EXP),
    "log": (logarithm, scipy.linalg.logm, mpmath.log, LOG),
    "sqrt": (square_root, scipy.linalg.sqrtm, mpmath.sqrt, ROOT),
    "rsqrt": (
        inverse_square_root,
        lambda a: np.linalg.inv(scipy.linalg.sqrtm(a)),
        lambda x: 1 / mpmath.sqrt(x),
        INVERSE_ROOT,
    ),
}
GAPS = [0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3]

functions = pytest.mark.parametrize("name", FUNCTIONS)
sizes = pytest.mark.parametrize("n", [1, 2, 3, 4, 8])


def draw(*shape: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=source)


def even(a: Tensor) -> Tensor:
    return (a + a.mT) / 2


def with_spectrum(values: Tensor, seed: int = 0) -> Tensor:
    """Matrices with the given eigenvalues `(rows, n)` and random eigenvectors."""
    turn = torch.linalg.qr(draw(*values.shape, values.shape[1], seed=seed))[0]
    return even(turn * values[:, None] @ turn.mT)


def difference(f: Callable, numbers: list[float]) -> mpmath.mpf:
    """A divided difference in 60 digits, of equal numbers set 1e-20 apart."""
    with mpmath.workdps(60):
        spread = [mpmath.mpf(x) * (1 + k * mpmath.mpf(10) ** -20) for k, x in enumerate(numbers)]
        rates = [(f(y) - f(x)) / (y - x) for x, y in pairwise(spread)]
        return rates[0] if len(rates) == 1 else (rates[1] - rates[0]) / (spread[2] - spread[0])


def reference(a: Tensor, f: Callable) -> Tensor:
    """f of one symmetric matrix, by mpmath."""
    with mpmath.workdps(50):
        values, vectors = mpmath.eigsy(mpmath.matrix(a.double().tolist()))
        result = vectors * mpmath.diag([f(x) for x in values]) * vectors.T
        entries = [[float(x) for x in row] for row in result.tolist()]
        return torch.tensor(entries, dtype=torch.float64)


# Divided differences.


@functions
def test_divided_differences_are_exact(name: str) -> None:
    scalar: Scalar = FUNCTIONS[name][3]
    for base in (0.003, 1.0, 7.0):
        for gap in [*GAPS, 0.1, 0.9, 1.1, 5.0]:
            for other in (0.0, 0.5 * gap, gap, 3.0):
                numbers = torch.tensor([base + gap, base, base + other]).double()
                a, b, c = numbers
                exact = [difference(FUNCTIONS[name][2], numbers[:k].tolist()) for k in (2, 3)]
                assert abs(scalar.first(a, b).item() / exact[0] - 1) < 2e-15
                assert abs(scalar.second(a, b, c).item() / exact[1] - 1) < 4e-15
                torch.testing.assert_close(scalar.second(c, a, b), scalar.second(a, b, c))


# Values.


@functions
@sizes
def test_agrees_with_scipy(name: str, n: int) -> None:
    ours, theirs, _, _ = FUNCTIONS[name]
    a = with_spectrum(torch.exp(0.5 * draw(20, n, seed=1)), seed=2)
    expected = torch.stack([torch.as_tensor(theirs(x.numpy())) for x in a])
    b = ours(a)
    torch.testing.assert_close(b, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
    assert b.equal(b.mT)


@functions
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 8])
def test_bad_conditions_cost_what_rounding_does(name: str, dtype: torch.dtype, n: int) -> None:
    """Relative to the largest entry: eps times |a| for exp, cond(a)^(1/2) for roots, cond(a)."""
    ours, _, exact, _ = FUNCTIONS[name]
    eps = torch.finfo(dtype).eps
    for power in (1, 3, 5) if dtype == torch.float32 else (1, 6, 11, 13):
        condition = 10.0**power
        values = condition ** torch.linspace(0, 1, n).double().expand(4, n)
        if name == "exp":
            values = 3 * power * (torch.linspace(-1, 1, n).double().expand(4, n))
        a = with_spectrum(values, seed=power).to(dtype)
        loss = {"exp": 3.0 * power, "sqrt": condition**0.5}.get(name, condition)
        for row, found in zip(a, ours(a).double(), strict=True):
            truth = reference(row, exact)
            assert (found - truth).abs().max() < 3 * n * eps * loss * truth.abs().max()


@sizes
def test_functions_undo_each_other(n: int) -> None:
    a = with_spectrum(torch.exp(draw(50, n)))
    torch.testing.assert_close(exponential(logarithm(a)), a, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(square_root(a) @ square_root(a), a, rtol=1e-12, atol=1e-12)
    unit = torch.eye(n).double().expand_as(a)
    mixed = inverse_square_root(a) @ a @ inverse_square_root(a)
    torch.testing.assert_close(mixed, unit, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-8, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scale_is_no_matter(scale: float, dtype: torch.dtype) -> None:
    a = with_spectrum(torch.tensor([[1.0, 2.0, 2.0], [-3.0, 0.5, 1.0]]).double()).to(dtype)
    values = spectrum(inward(scale * a))[0].sort(0)[0]
    exact = torch.linalg.eigvalsh((scale * a).double()).t()
    bound = 20 * torch.finfo(dtype).eps
    assert (values.double() - exact).abs().max() <= bound * 3 * scale


# Decompositions.


@pytest.mark.parametrize("n", [1, 3, 5])
def test_cholesky_and_substitution(n: int) -> None:
    a, b = with_spectrum(torch.exp(draw(30, n))), draw(30, n, n, seed=4)
    lower = cholesky(inward(a))
    torch.testing.assert_close(outward(lower), torch.linalg.cholesky(a))
    found = outward(product(lower, solve(lower, inward(b))))
    torch.testing.assert_close(found, b, rtol=1e-11, atol=1e-11)


def test_rotations_converge_where_they_are_slowest() -> None:
    """Triangular matrices that a search found; after three sweeps their columns are not turned."""
    hard = [
        [[0.2704, 0.0, 0.0], [-2.6974, 0.0037, 0.0], [0.1151, 2.8779, 2.7366]],
        [[4.1151, 0.0, 0.0], [0.0513, 0.2852, 0.0], [0.5925, -5.3458, 10.8314]],
        [[0.4478, 0.0, 0.0], [8.1147, 0.1031, 0.0], [0.1330, -9.5476, 9.4219]],
        [[2.6112, 0.0, 0.0], [0.1750, 0.0125, 0.0], [0.1018, -2.7867, 2.6043]],
    ]
    near = torch.tensor(hard, dtype=torch.float64).repeat(2000, 1, 1)
    for b in (near * (1 + 1e-3 * draw(8000, 3, 3)), draw(8000, 3, 3, seed=1).tril()):
        for dtype in (torch.float32, torch.float64):
            _, vectors = root_spectrum(inward(b.to(dtype)))
            unit = torch.eye(3, dtype=dtype)[..., None]
            off = product(vectors, vectors.transpose(0, 1)) - unit
            assert off.abs().max() < 8 * torch.finfo(dtype).eps


def test_spectrum_agrees_with_lapack() -> None:
    a = even(draw(20_000, 3, 3))
    a[:100] *= torch.logspace(-30, 30, 100, dtype=torch.float64)[:, None, None]
    a[100:200] = with_spectrum(1 + 1e-7 * draw(100, 3))
    values, vectors = spectrum(inward(a))
    exact = torch.linalg.eigvalsh(a)
    size = exact.abs().amax(1)
    assert ((values.t().sort(1)[0] - exact).abs().amax(1) / size).max() < 1e-14
    residue = product(vectors, inward(a)) - values[:, None] * vectors
    assert (residue.abs().amax((0, 1)) / size).max() < 1e-14


def test_small_eigenvalues_of_a_root_keep_their_digits() -> None:
    """b b^T has a condition of about 1e32, beyond float64."""
    b = (draw(20, 3, 3).tril() + 2 * torch.eye(3).double()) * torch.tensor(
        [1e8, 1e4, 1.0]
    ).double()
    found = root_spectrum(inward(b))[0].sort(0, descending=True)[0].sqrt().t()
    with mpmath.workdps(60):
        for row, values in zip(b, found, strict=True):
            exact = mpmath.svd_r(mpmath.matrix(row.tolist()), compute_uv=False)
            for ours, theirs in zip(values.tolist(), exact, strict=True):
                assert abs(ours / theirs - 1) < 1e-14


# Derivatives.


def hard_points(name: str, n: int) -> Tensor:
    """The identity, repeated and nearly repeated eigenvalues, and a generic matrix."""
    values = torch.ones(len(GAPS), n).double()
    for row, gap in enumerate(GAPS):
        values[row, 0] += gap
        values[row, -1] += 2 * gap if row % 2 else 1.0
    generic = torch.exp(0.5 * draw(1, n, seed=5))
    values = torch.cat([torch.ones(1, n).double(), values, generic])
    turned = with_spectrum(values, seed=6)
    turned[0] = torch.eye(n)
    return turned if name != "exp" else turned - 2 * torch.eye(n)


@functions
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_first_and_second_derivatives(name: str, n: int) -> None:
    a = hard_points(name, n).requires_grad_()
    function = FUNCTIONS[name][0]
    assert gradcheck(function, a, fast_mode=True)
    assert gradgradcheck(function, a, fast_mode=True)


@pytest.mark.parametrize("n", [3, 8])
def test_derivatives_at_multiples_of_the_identity(n: int) -> None:
    """f(c + E) = f(c) + f'(c) E + f''(c) E^2 / 2 + ..., exactly, where A = c commutes with all."""
    c = 1.7
    e = even(draw(5, n, n))
    slopes = {
        "exp": (np.exp(c), np.exp(c)),
        "log": (1 / c, -1 / c**2),
        "sqrt": (0.5 * c**-0.5, -0.25 * c**-1.5),
        "rsqrt": (-0.5 * c**-1.5, 0.75 * c**-2.5),
    }
    for name, (first, second) in slopes.items():
        a = (c * torch.eye(n).double()).expand(5, n, n).clone().requires_grad_()
        g = even(draw(5, n, n, seed=3))
        (slope,) = torch.autograd.grad((FUNCTIONS[name][0](a) * g).sum(), a, create_graph=True)
        torch.testing.assert_close(slope.detach(), first * g, rtol=1e-13, atol=1e-13)
        (bend,) = torch.autograd.grad((slope * e).sum(), a)
        torch.testing.assert_close(bend, second * even(e @ g), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_slope_of_exp_agrees_with_scipy(n: int) -> None:
    a, e = even(draw(10, n, n)), even(draw(10, n, n, seed=1))
    a[0] = 0
    x = a.clone().requires_grad_()
    (slope,) = torch.autograd.grad((exponential(x) * e).sum(), x)
    pairs = zip(a.numpy(), e.numpy(), strict=True)
    expected = [scipy.linalg.expm_frechet(p, q, compute_expm=False) for p, q in pairs]
    torch.testing.assert_close(slope, torch.tensor(np.stack(expected)), rtol=1e-11, atol=1e-11)


@functions
@pytest.mark.parametrize("n", [3, 5])
def test_float32_derivatives_are_those_of_float64(name: str, n: int) -> None:
    start = hard_points(name, n).float()
    g, e = draw(len(start), n, n, seed=7), even(draw(len(start), n, n, seed=8))
    found = []
    for dtype in (torch.float32, torch.float64):
        a = start.to(dtype).requires_grad_()
        value = FUNCTIONS[name][0](a)
        (slope,) = torch.autograd.grad((value * g.to(dtype)).sum(), a, create_graph=True)
        (bend,) = torch.autograd.grad((slope * e.to(dtype)).sum(), a)
        found.append([value.detach().double(), slope.detach().double(), bend.double()])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single, double, rtol=0, atol=3e-6 * float(double.abs().max()))


def test_third_derivative_is_refused() -> None:
    a = torch.eye(3).double()[None].requires_grad_()
    value = exponential(a).sum()
    for _ in range(2):
        (slope,) = torch.autograd.grad(value, a, create_graph=True)
        value = slope.square().sum()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        value.backward()


# Batches.


@functions
@pytest.mark.parametrize("n", [3, 5])
def test_rows_do_not_see_each_other(name: str, n: int) -> None:
    """A row that has no value gives NaN, and leaves the others and their derivatives alone."""
    function = FUNCTIONS[name][0]
    a = with_spectrum(torch.exp(draw(4, n)))
    alone = function(a[1:])
    a[0] = torch.nan if name == "exp" else -torch.eye(n)
    a.requires_grad_()
    result = function(a)
    assert result[0].isnan().all()
    torch.testing.assert_close(result[1:], alone, rtol=1e-14, atol=1e-14)
    (grad,) = torch.autograd.grad(result[1:].sum(), a)
    assert grad[1:].isfinite().all()


@functions
@pytest.mark.parametrize("n", [3, 5])
def test_autocast_and_empty_batches_change_nothing(name: str, n: int) -> None:
    function = FUNCTIONS[name][0]
    a = with_spectrum(torch.exp(draw(4, n))).float()
    with torch.autocast("cpu", torch.bfloat16):
        low = function(a)
    assert low.equal(function(a))
    assert function(a[:0]).shape == (0, n, n)
