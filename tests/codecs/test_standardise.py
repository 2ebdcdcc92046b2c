"""Latents that are the data: as they are, or of unit variance."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff.codecs.standardise import Identity, Standardise

X = torch.randn(50, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double() * torch.tensor(
    [1.0, 10.0, 0.1]
).reshape(3, 1, 1) + torch.tensor([0.0, -5.0, 100.0]).reshape(3, 1, 1)


def test_the_identity_is_the_very_tensor() -> None:
    codec = Identity((3, 4, 5))
    codec.fit(X)
    assert codec.encode(X) is X
    assert codec.decode(X) is X


def test_classes_have_no_density() -> None:
    codec = Identity((4,), classes=7)
    assert codec.classes == 7
    assert codec.log_det(torch.zeros(2, 4, dtype=torch.long)) is None


@pytest.mark.parametrize(
    ("axes", "over"), [((), (0, 1, 2, 3)), ((0,), (0, 2, 3)), ((-3, 1), (0, 3)), ((0, 1, 2), (0,))]
)
def test_places_of_the_chosen_axes_have_zero_mean_and_unit_variance(axes, over) -> None:
    codec = Standardise((3, 4, 5), axes=axes)
    codec.fit(X)
    z = codec.encode(X)
    torch.testing.assert_close(z.mean(over), torch.zeros_like(z.mean(over)), rtol=0, atol=1e-9)
    spread = z.var(over, correction=0)
    torch.testing.assert_close(spread, torch.ones_like(spread), rtol=1e-9, atol=0)


def test_the_statistics_are_those_by_hand() -> None:
    codec = Standardise((2,), axes=(0,))
    codec.fit(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
    assert codec.centre.tolist() == [2, 20]
    assert codec.scale.tolist() == [1, 10]
    expected = torch.full((4,), -math.log(10.0))
    torch.testing.assert_close(codec.log_det(torch.zeros(4, 2)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_does_not_vary_is_only_shifted(dtype) -> None:
    """A border of black pixels: the rounding of its mean is no deviation."""
    x = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[:, 0] = 0.1
    codec = Standardise((2,), axes=(0,))
    codec.fit(x)
    assert float(codec.scale[0]) == 1
    z = codec.encode(x)
    assert float(z[:, 0].abs().max()) < 1e-6
    assert float(codec.log_det(x[:1])) == pytest.approx(-math.log(float(codec.scale[1])))


def test_fitting_again_forgets() -> None:
    codec = Standardise((2,))
    codec.fit(torch.tensor([[100.0, 300.0]]))
    codec.fit(torch.tensor([[-1.0, 1.0]]))
    assert codec.encode(torch.tensor([[1.0, 1.0]])).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Standardise((3, 4), axes=(2,)),
            r"axes must be of an event of 2 axes, got \(2,\)",
        ),
        (lambda: Standardise((3, 0)), r"sizes of event must be positive, got \(3, 0\)"),
        (lambda: Identity((3,), classes=-1), "classes must be at least 0, got -1"),
        (lambda: Standardise((3,)).fit(torch.zeros(3)), r"must have shape \(samples, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_rounding_of_a_constant_is_no_variance() -> None:
    """Two neighbours among the numbers of float32: their gap is not what the data say."""
    near = torch.nextafter(torch.tensor(1000.0), torch.tensor(2000.0))
    codec = Standardise((1,))
    codec.fit(torch.tensor([[1000.0], [near]]))
    assert codec.scale.item() == 1
