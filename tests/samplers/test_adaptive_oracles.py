"""The adaptive probability flow against solvers of other libraries, called with the same field."""

from __future__ import annotations

import pytest
import torch
from scipy.integrate import solve_ivp

from structdiff import Batch, Gaussian, Generator, Linear
from structdiff.samplers import Adaptive
from structdiff.samplers.adaptive import row_times
from structdiff.testing import NormalDenoiser

MEAN, STD = torch.tensor([-1.0, 0.5, 1.5]).double(), torch.tensor([0.3, 0.5, 0.2]).double()
START, END, SAMPLES = 1.0, 0.02, 8


def by_scipy(field, x, tolerance):
    """The Dormand-Prince pair of scipy."""
    count = 0

    def rate(t, y):
        nonlocal count
        count += 1
        return field(t, torch.from_numpy(y)).numpy()

    method = {"method": "RK45", "rtol": tolerance, "atol": tolerance}
    end = solve_ivp(rate, (START, END), x.numpy(), **method)
    return torch.from_numpy(end.y[:, -1].copy()), count


def by_torchdiffeq(field, x, tolerance):
    """The Dormand-Prince pair of torchdiffeq."""
    library = pytest.importorskip("torchdiffeq")
    count = 0

    def rate(t, y):
        nonlocal count
        count += 1
        return field(t, y)

    times = torch.tensor([START, END], dtype=torch.float64)
    end = library.odeint(rate, x, times, method="dopri5", rtol=tolerance, atol=tolerance)
    return end[-1], count


def solved(tolerance):
    """Start, end, calls, and the field as a function of a number and a tensor."""
    denoiser = NormalDenoiser(Gaussian(Linear()), MEAN, STD)
    batch = Batch.of(torch.zeros(SAMPLES, dtype=torch.float64))
    walk = Adaptive(denoiser, tolerance=tolerance, start=START, end=END)
    bound = walk.bind(batch, Generator(0))
    carry = bound.start()
    end = bound.step(carry, 0)

    def field(t, x):
        time = torch.full((SAMPLES,), float(t), dtype=torch.float64)
        times = row_times(bound.process, batch, time)
        estimate = denoiser(batch.with_leaves({"x": x}), times)
        return bound.process.velocity(estimate, {"x": x}, times)["x"]

    return carry.x["x"], end.x["x"], end.calls, field


@pytest.mark.parametrize("oracle", [by_scipy, by_torchdiffeq])
def test_it_ends_where_other_solvers_end(oracle):
    """At a tight tolerance to it; at a loose one with about as many looks at the field."""
    x, end, _, field = solved(1e-8)
    other, _ = oracle(field, x, 1e-10)
    torch.testing.assert_close(end, other, rtol=0, atol=3e-6)
    x, end, calls, field = solved(1e-4)
    loose, count = oracle(field, x, 1e-4)
    assert float((end - other).abs().max()) < 3e-2
    assert float((loose - other).abs().max()) < 3e-2
    assert calls < 1.5 * count


def test_the_error_falls_with_the_tolerance_and_calls_rise():
    x, _, _, field = solved(1e-2)
    truth, _ = by_scipy(field, x, 1e-11)
    errors, calls = [], []
    for tolerance in (1e-2, 1e-4, 1e-6, 1e-8):
        _, end, looks, _ = solved(tolerance)
        errors.append(float((end - truth).abs().max()))
        calls.append(looks)
    assert all(a > 5 * b for a, b in zip(errors, errors[1:], strict=False)), errors
    assert errors[-1] < 1e-5
    assert all(a < b for a, b in zip(calls, calls[1:], strict=False)), calls
