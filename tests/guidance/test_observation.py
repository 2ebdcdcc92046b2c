"""What was measured, and what methods refuse to take for it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Product,
    UniformTime,
    uniform,
)
from structdiff.guidance.inverse.consistent import Consistent
from structdiff.guidance.inverse.ddrm import DDRM
from structdiff.guidance.inverse.dps import DPS
from structdiff.guidance.inverse.observation import Observation
from structdiff.guidance.inverse.pigdm import PiGDM
from structdiff.guidance.inverse.projection import Projection
from structdiff.operators import Downsample, LinearOperator, Matrix, PhaseMagnitude, Quantised
from structdiff.processes import Estimate
from structdiff.spaces import Torus, ZeroCentre
from structdiff.testing import ExactDenoiser, NormalDenoiser

HALF = Downsample((4,), 2)
STEPS = UniformTime(3)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Backwards(LinearOperator):
    """A cumulative sum whose adjoint is another one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.cumsum(1)


class Unknown(Backwards):
    """The same, right, of which no singular values are known."""

    def adjoint(self, y: Tensor) -> Tensor:
        return y.flip(1).cumsum(1).flip(1)


def test_its_density_is_that_of_the_noise():
    """Summed over the rows of a sample, with the normaliser."""
    y, x = Generator(0).normal((5, 2), torch.float64, "cpu"), torch.arange(20.0).reshape(5, 4)
    seen = Observation(HALF, y, noise_std=0.7)
    layout = Layout.ragged([2, 3])
    law = torch.distributions.Normal(HALF(x), 0.7)
    found = seen.log_prob({"x": Estimate(x)}, Batch({"x": x}, {"x": layout}))
    torch.testing.assert_close(found, layout.sum(law.log_prob(y).sum(1)))
    one = Observation(HALF, y[0], noise_std=0.7)
    torch.testing.assert_close(one.residual(x)[3], y[0] - HALF(x)[3])


def test_whole_numbers_are_a_measurement_too():
    counts = Observation(
        Quantised(0.5, HALF),
        torch.tensor([[1, -2], [0, 3]]).reshape(2, 2, 1) * torch.ones(2, dtype=torch.int64),
    )
    assert counts.y.dtype == torch.float64 and counts.y[1, 1].tolist() == [3.0, 3.0]


def test_what_was_not_measured_is_refused():
    y = torch.zeros(2)
    refused = [
        (lambda: Observation(HALF, torch.zeros(3)), r"y must have .* Downsample measures, .*\(3,"),
        (lambda: Observation(HALF, torch.zeros(5, 4)), r"y must have .*got \(5, 4\)"),
        (lambda: Observation(HALF, y / 0), "y must be finite, 2 of its numbers are not"),
        (lambda: Observation(HALF, y, noise_std=-0.1), "noise_std must be finite .* got -0.1"),
        (lambda: Observation(HALF, y, noise_std=math.nan), "noise_std must be finite .* got nan"),
        (lambda: Observation(Backwards((4,), (4,)), torch.zeros(4)), "the adjoint of Backwards"),
    ]
    for make, message in refused:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="y must be real: stack real and imaginary parts"):
        Observation(HALF, y + 1j)
    batch, said = Batch.of(torch.zeros(3, 4)), {"x": Estimate(torch.zeros(3, 4))}
    with pytest.raises(ValueError, match="noise_std is 0, so that y has no density"):
        Observation(HALF, y).log_prob(said, batch)
    with pytest.raises(ValueError, match="noise_std is 0, so that clean data have no density"):
        PiGDM(normal(), Observation(HALF, y)).log_prob(said, batch, {"x": torch.tensor(-1.0)})
    with pytest.raises(ValueError, match="y has 2 rows, the leaf 'x' has 3: give one each"):
        Observation(HALF, torch.zeros(2, 2), noise_std=1.0).log_prob(said, batch)


METHODS = {
    "Consistent": Consistent,
    "DDRM": lambda denoiser, seen: DDRM(DDPM(denoiser, STEPS), seen),
    "DPS": lambda denoiser, seen: DPS(denoiser, STEPS, seen, zeta=1.0),
    "PiGDM": PiGDM,
    "Projection": lambda denoiser, seen: Projection(DDPM(denoiser, STEPS), seen),
}
methods = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def normal(event: int = 4, **space: object) -> NormalDenoiser:
    process = Gaussian(Cosine(), event=(event,), **space)
    return NormalDenoiser(process, torch.zeros(1, event), torch.ones(1))


@methods
def test_leaves_that_cannot_be_measured_are_refused(make):
    classes = ExactDenoiser(
        Product({"x": Categorical(Flow(), uniform(3))}), Batch.of(torch.arange(3))
    )
    torus = Brownian(Geometric(0.1, 3.0), Torus(4))
    angles = ExactDenoiser(Product({"x": torus}), Batch.of(torch.zeros(1, 4)))
    seen = Observation(HALF, torch.zeros(2))
    for denoiser in (classes, angles):
        with pytest.raises(ValueError, match="leaf 'x' must be Gaussian .* Gaussian leaves are"):
            make(denoiser, seen)
    with pytest.raises(ValueError, match=r"leaf 'x' has rows of shape \(6,\), the operator .*4"):
        make(normal(6), seen)
    with pytest.raises(ValueError, match="leaf 'z' must be Gaussian"):
        make(normal(), Observation(HALF, torch.zeros(2), leaf="z"))


@methods
def test_rows_without_a_measurement_are_refused(make):
    wrapped = make(normal(), Observation(HALF, torch.zeros(2, 2)))
    batch = Batch.of(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="y has 2 rows, the leaf 'x' has 3"):
        if hasattr(wrapped, "sample"):
            wrapped.sample(batch, Generator(0))
        else:
            wrapped(batch, {"x": torch.tensor(0.5)})


@pytest.mark.parametrize("name", ["DDRM", "PiGDM", "Projection"])
def test_what_needs_singular_values_says_so(name):
    seen = Observation(Unknown((4,), (4,)), torch.zeros(4))
    with pytest.raises(ValueError, match=r"singular values of Unknown are not known: use Matrix"):
        METHODS[name](normal(), seen)
    METHODS[name](normal(), Observation(Matrix.of(seen.operator), torch.zeros(4)))
    centred = normal(space=ZeroCentre())
    with pytest.raises(
        ValueError, match="leaf 'x' lives in the subspace ZeroCentre, out of which"
    ):
        Consistent(centred, Observation(HALF, torch.zeros(2)))
    with pytest.raises(ValueError, match="leaf 'x' must have the same noise in all directions"):
        METHODS[name](centred, Observation(HALF, torch.zeros(2)))


def test_numbers_out_of_range_are_refused():
    seen, sampler = Observation(HALF, torch.zeros(2)), DDPM(normal(), STEPS)
    phase = Observation(PhaseMagnitude((4,)), torch.zeros(4))
    refused = [
        (lambda: Consistent(normal(), seen, mix=1.5), r"mix must be in \[0, 1\], .* got 1.5"),
        (lambda: Consistent(normal(), phase), "PhaseMagnitude has no pseudo-inverse"),
        (lambda: Projection(sampler, seen, mix=-1), r"mix must be in \[0, 1\], .* got -1"),
        (lambda: DDRM(sampler, seen, eta=2), r"eta and eta_b must be in \[0, 1\], got 2 and 1.0"),
        (lambda: DDRM(sampler, seen, eta_b=math.nan), "eta and eta_b must be in"),
        (
            lambda: DPS(normal(), STEPS, seen, zeta=-1),
            "zeta must be finite and at least 0, got -1",
        ),
        (lambda: PiGDM(normal(), seen, data_std=0.0), "data_std must be positive"),
        (lambda: PiGDM(normal(), seen, data_std=torch.ones(3)), r"data_std .*got \(3,\)"),
    ]
    for make, message in refused:
        with pytest.raises(ValueError, match=message):
            make()
