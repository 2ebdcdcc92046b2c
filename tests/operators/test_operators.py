"""Operators: adjoints, singular bases and pseudo-inverses against dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.operators import (
    Blur,
    Downsample,
    Factored,
    FourierMask,
    FrequencyMask,
    Invertible,
    LinearOperator,
    Mask,
    Matrix,
    PhaseMagnitude,
    Quadratic,
    Quantised,
    check_operator,
    hartley,
    low_pass,
)
from tests.operators.cases import ALL, EVERY_OTHER, FACTORED, LINEAR, LOPSIDED, normal


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


factored = pytest.mark.parametrize("operator", FACTORED.values(), ids=FACTORED)
linear = pytest.mark.parametrize("operator", LINEAR.values(), ids=LINEAR)
every = pytest.mark.parametrize("operator", ALL.values(), ids=ALL)


def dense(operator: LinearOperator) -> Tensor:
    """The matrix, by autograd rather than by basis vectors."""
    x = torch.zeros(1, *operator.event)
    jacobian = torch.autograd.functional.jacobian(lambda x: operator(x).flatten(), x)
    return jacobian.reshape(-1, x.numel())


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_operator_keeps_its_contract(operator, dtype):
    """Adjoint by the dot product test, singular basis, A(A^+(A(x))) = A(x)."""
    check_operator(operator, like=torch.zeros((), dtype=dtype))
    assert operator(torch.zeros(2, *operator.event, dtype=dtype)).dtype == dtype


@linear
def test_the_adjoint_is_the_transposed_matrix(operator):
    matrix = dense(operator)
    y = normal(3, *operator.measured, seed=4)
    expected = (y.flatten(1) @ matrix).reshape(3, *operator.event)
    torch.testing.assert_close(operator.adjoint(y), expected, rtol=1e-10, atol=1e-12)
    found = Matrix.of(operator).matrix
    torch.testing.assert_close(found, matrix, rtol=1e-10, atol=1e-12)


@factored
def test_singular_values_and_pseudo_inverse_are_those_of_the_matrix(operator):
    matrix = dense(operator)
    expected = torch.linalg.svdvals(matrix)
    found = operator.singular.flatten().sort(descending=True).values
    torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-9, atol=1e-9)
    assert (found[len(expected) :] == 0).all()
    assert (found[:1] > 0).all()
    y = normal(3, *operator.measured, seed=5)
    back = y.flatten(1) @ torch.linalg.pinv(matrix, rtol=1e-10).mT
    torch.testing.assert_close(operator.pinv(y).flatten(1), back, rtol=1e-8, atol=1e-9)


@every
def test_rows_are_measured_by_themselves(operator):
    x = normal(3, *operator.event, seed=2)
    torch.testing.assert_close(operator(x)[1:2], operator(x[1:2]), rtol=1e-12, atol=1e-13)


def test_the_same_by_other_means():
    """A convolution, a pooling, a discrete Fourier transform."""
    x = normal(2, 1, 7, seed=3)
    wrapped = F.pad(x, (1, 1), mode="circular")
    expected = F.conv1d(wrapped, LOPSIDED.flip(0)[None, None]).squeeze(1)
    torch.testing.assert_close(Blur(LOPSIDED, (7,))(x.squeeze(1)), expected)
    x = normal(2, 3, 4, 6, seed=3)
    torch.testing.assert_close(Downsample((3, 4, 6), 2, axes=2)(x), F.avg_pool2d(x, 2))
    z = normal(2, 2, 5, seed=6)
    angle = 2 * torch.pi * torch.outer(torch.arange(5.0), torch.arange(5.0)) / 5
    real = (z[:, 0] @ angle.cos() + z[:, 1] @ angle.sin()) / 5**0.5
    found = FourierMask(EVERY_OTHER)(z)[:, 0]
    torch.testing.assert_close(found, real[:, EVERY_OTHER])
    x = z[:, 0]
    expected = x @ (angle.cos() + angle.sin()) / 5**0.5
    torch.testing.assert_close(hartley(x, 1), expected)


def test_what_a_wide_blur_hides_from_single_precision_is_not_divided_by():
    """Singular values from 1 to 1e-7: those above rounding are inverted rightly."""
    bump = torch.exp(-0.5 * (torch.arange(-12.0, 13) / 2.5) ** 2)
    blur, x = Blur(bump / bump.sum(), (32,)), normal(5, 32)
    assert blur.singular.min() < 1e-6
    single = blur.pinv(blur(x).float()).double()
    trusted = blur.values(torch.zeros((), dtype=torch.float32)) > 1e-3
    assert 4 < trusted.sum() < 32
    gap = (hartley(single, 1) - hartley(x, 1)).abs()
    assert gap[:, trusted].max() < 1e-3
    assert single.abs().max() < 10
    check_operator(blur, like=torch.zeros((), dtype=torch.float32))


def test_a_frequency_comes_with_its_mirror_image():
    """What is kept of a real row says its Fourier coefficients there."""
    mask, x = FrequencyMask(torch.tensor([False, True, False, False, False])), normal(3, 5)
    assert mask.keep.tolist() == [False, True, False, False, True]
    again = mask.pinv(mask(x))
    spectrum, own = torch.fft.fft(again), torch.fft.fft(x)
    torch.testing.assert_close(spectrum[:, mask.keep], own[:, mask.keep])
    assert spectrum[:, ~mask.keep].abs().max() < 1e-14


def test_magnitudes_do_not_tell_shifts_and_signs_apart():
    x, phase = normal(2, 6), PhaseMagnitude((6,))
    for other in (-x, x.roll(2, 1), x.flip(1)):
        torch.testing.assert_close(phase(other), phase(x))
    assert (phase(normal(2, 6, seed=1)) - phase(x)).abs().max() > 0.1
    padded = PhaseMagnitude((6,), padding=6)
    assert (padded(x.roll(2, 1)) - padded(x)).abs().max() > 0.1
    energy = (padded(x) ** 2).sum(1)
    torch.testing.assert_close(energy, (x**2).sum(1))


def test_a_quadratic_form():
    forms, x = normal(3, 4, 4), normal(2, 4, seed=1)
    expected = torch.stack([torch.stack([row @ q @ row for q in forms]) for row in x])
    torch.testing.assert_close(Quadratic(forms)(x), expected)


def test_a_quantised_row_is_measured_alike_and_near():
    """A(A^+(A(x))) = A(x), the requirement of the method; half a width at most is lost."""
    operator, x = Quantised(0.3, low_pass((7,), 7)), normal(50, 7)
    y = operator(x)
    near = operator.pinv(y)
    assert torch.equal(operator(near), y)
    assert torch.equal(y, y.round())
    assert 0.1 < (hartley(near - x, 1)).abs().max() <= 0.15 + 1e-12


class Wrong(Factored):
    """A mask with one promise broken."""

    def __init__(self, broken: str) -> None:
        super().__init__((4,), (4,))
        self.broken, self.seen_here = broken, torch.tensor([1.0, 1.0, 0.0, 2.0])

    @property
    def singular(self) -> Tensor:
        return self.seen_here.abs() * (1.5 if self.broken == "singular" else 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.seen_here * x + (1 if self.broken == "linear" else 0)
        return y[:, :3] if self.broken == "output" else y

    def adjoint(self, y: Tensor) -> Tensor:
        if self.broken == "adjoint shape":
            return y[:, :2]
        return (self.seen_here * y).roll(1 if self.broken == "adjoint" else 0, 1)

    def analysis(self, x: Tensor) -> Tensor:
        return 2 * x if self.broken in ("basis", "length") else x

    def synthesis(self, c: Tensor) -> Tensor:
        return c / 2 if self.broken == "length" else c


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("output", r"the output of Wrong must have shape \(4, 4\), got \(4, 3\)"),
        ("linear", r"2 x \+ x' of Wrong is off by .*a linear operator"),
        ("adjoint", r"the adjoint of Wrong is off by .*<H x, y> must be <x, H\^T y>"),
        ("adjoint shape", r"the adjoint of Wrong must have shape \(4, 4\), got \(4, 2\)"),
        ("basis", "synthesis must undo analysis"),
        ("length", "the basis must be orthonormal"),
        ("singular", "singular must have the roots"),
    ],
)
def test_a_broken_promise_is_found(broken, message):
    check_operator(Wrong("nothing"))
    for seed in range(3):
        with pytest.raises(ValueError, match=message):
            check_operator(Wrong(broken), seed=seed)


def test_a_broken_promise_is_found_in_any_unit():
    """Of a measurement in units in which all its numbers are small."""

    class Faint(LinearOperator):
        def __init__(self, back: float) -> None:
            super().__init__((4,), (4,))
            self.back = back

        def forward(self, x: Tensor) -> Tensor:
            return 1e-12 * x

        def adjoint(self, y: Tensor) -> Tensor:
            return self.back * y

    check_operator(Faint(1e-12))
    with pytest.raises(ValueError, match="the adjoint of Faint is off by"):
        check_operator(Faint(1.1e-12))


class Floor(Invertible):
    """A wrong inverse of a rounding."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.floor(x)

    def pinv(self, y: Tensor) -> Tensor:
        return y - 0.5


def test_a_pseudo_inverse_that_is_measured_otherwise_is_found():
    with pytest.raises(ValueError, match=r"A\(A\^\+\(A\(x\)\)\) of Floor is off by 1"):
        check_operator(Floor((3,), (3,)))


def test_what_does_not_fit_is_refused():
    blur = Blur(LOPSIDED, (7,))
    refused = [
        (lambda: Mask(torch.zeros(3, dtype=torch.bool)), "keep must be a bool mask of at least"),
        (lambda: Mask(torch.ones(3)), "keep must be a bool mask .* got torch.float64"),
        (lambda: FourierMask(torch.ones(3)), "keep must be a bool mask of at least one freq"),
        (lambda: Downsample((6,), 4), "multiples of factor 4"),
        (lambda: Downsample((6,), 0), "factor must be at least 1"),
        (lambda: Blur(torch.ones(9), (7,)), r"kernel of shape \(9,\) must fit .* \(7,\)"),
        (lambda: Blur(torch.ones(2, 2), (7,)), r"kernel of shape \(2, 2\) must fit"),
        (lambda: low_pass((4,), -1), "cutoff must be at least 0 cycles, got -1"),
        (lambda: Matrix(torch.tensor([[torch.nan]])), "matrix must be finite"),
        (lambda: Matrix(torch.ones(2, 6), (2, 2)), "matrix has 6 columns, but event"),
        (lambda: blur @ Mask(EVERY_OTHER), r"outer takes rows of shape \(7,\), but inner gives"),
        (lambda: PhaseMagnitude((3,), padding=-1), "padding must be at least 0 entries"),
        (lambda: Quadratic(torch.ones(2, 3, 4)), "forms must be"),
        (lambda: Quantised(0.0, blur), "width must be positive, got 0.0"),
    ]
    for make, message in refused:
        with pytest.raises(ValueError, match=message):
            make()
