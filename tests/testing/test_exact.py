"""The exact denoiser against closed forms."""

from __future__ import annotations

import pytest
import torch

from structdiff import Batch, Categorical, Flow, Gaussian, Layout, Linear, Product, absorbing
from structdiff.processes import Process
from structdiff.processes.leaf import Leaf
from structdiff.testing import ExactDenoiser, ImpossibleState, NormalDenoiser, flow_map


def at(t):
    return torch.tensor(t, dtype=torch.float64)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_two_points_give_tanh(t):
    """E[x_0 | x] = tanh(alpha x / sigma^2 + log-odds / 2) for points at 1 and -1."""
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    points = torch.tensor([1.0, -1.0], dtype=torch.float64)
    for weights in (None, torch.tensor([0.8, 0.2])):
        odds = 0.0 if weights is None else torch.log(weights[0].double() / weights[1].double())
        denoiser = ExactDenoiser(Product({"x": Gaussian(Linear())}), Batch.of(points), weights)
        level = Linear()(at(t))
        expected = torch.tanh(level.alpha * x / level.sigma**2 + odds / 2)
        value = denoiser(Batch.of(x), {"x": at(t)})["x"].value
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)


def test_many_points_tend_to_a_mixture_of_normals():
    """A fine grid of points weighed by a mixture has the mixture's posterior mean."""
    mean, std, share = (
        torch.tensor([-1.0, 1.0]),
        torch.tensor([0.3, 0.6]),
        torch.tensor([0.3, 0.7]),
    )
    grid = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    bell = torch.exp(-0.5 * ((grid[:, None] - mean) / std) ** 2) / std
    finite = ExactDenoiser(
        Product({"x": Gaussian(Linear())}), Batch.of(grid), bell @ share.double()
    )
    smooth = NormalDenoiser(Gaussian(Linear()), mean, std, share)
    x = torch.linspace(-2, 2, 7, dtype=torch.float64)
    for t in (0.2, 0.6):
        a, b = (d(Batch.of(x), {"x": at(t)})["x"].value for d in (finite, smooth))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_classes_by_hand():
    """A masked row beside a seen one has the conditional law, a seen row is certain."""
    process = Product(
        {"a": Categorical(Flow(), absorbing(2)), "b": Categorical(Flow(), absorbing(2))}
    )
    data = Batch.of({"a": torch.tensor([0, 0, 1, 1]), "b": torch.tensor([0, 1, 0, 1])})
    denoiser = ExactDenoiser(process, data, torch.tensor([0.4, 0.1, 0.2, 0.3]))
    seen = Batch.of({"a": torch.tensor([2, 0, 2]), "b": torch.tensor([1, 2, 2])})
    estimate = denoiser(seen, {"a": at(0.5), "b": at(0.5)})
    a, b = estimate["a"].value.exp(), estimate["b"].value.exp()
    torch.testing.assert_close(a[0], torch.tensor([0.25, 0.75]).to(a), rtol=1e-6, atol=0)
    torch.testing.assert_close(b[1], torch.tensor([0.8, 0.2]).to(a), rtol=1e-6, atol=0)
    torch.testing.assert_close(b[2], torch.tensor([0.6, 0.4]).to(a), rtol=1e-6, atol=0)
    assert a[1].tolist() == [1, 0] and b[0].tolist() == [0, 1]


def test_ragged_records_are_compared_with_those_of_their_size():
    data = Batch({"x": torch.tensor([1.0, 2.0, 3.0, 5.0, 6.0])}, {"x": Layout.ragged([1, 2, 2])})
    denoiser = ExactDenoiser(Product({"x": Gaussian(Linear())}), data)
    batch = Batch({"x": torch.zeros(3)}, {"x": Layout.ragged([2, 1])})
    estimate = denoiser(batch, {"x": at(1.0)})["x"].value
    alpha, sigma = Linear().alpha(at(1.0)), Linear().sigma(at(1.0))
    odds = torch.exp(-0.5 * (alpha / sigma) ** 2 * torch.tensor([13.0, 61.0]))
    share = odds / odds.sum()
    expected = torch.stack([2 * share[0] + 5 * share[1], 3 * share[0] + 6 * share[1], at(1.0)])
    torch.testing.assert_close(estimate, expected.float(), rtol=1e-5, atol=1e-6)


def test_impossible_states_are_named():
    process = Product({"x": Categorical(Flow(), absorbing(3))})
    denoiser = ExactDenoiser(process, Batch.of(torch.tensor([0, 1])))
    leaf = {"x": torch.tensor([0, 2, 3, 2])}
    batch = Batch(leaf, {"x": Layout.regular(4)}, ids=torch.tensor([10, 11, 12, 13]))
    with pytest.raises(ImpossibleState, match=r"ids \[11, 13\]"):
        denoiser(batch, {"x": at(0.5)})
    other = Batch({"x": torch.zeros(2, dtype=torch.int64)}, {"x": Layout.ragged([2])})
    with pytest.raises(ImpossibleState, match=r"ids \[0\]"):
        denoiser(other, {"x": at(0.5)})


def test_refusals():
    data = Batch.of(torch.zeros(3))
    with pytest.raises(ValueError, match=r"weights must have shape \(3,\), got \(2,\)"):
        ExactDenoiser(Product({"x": Gaussian(Linear())}), data, torch.ones(2))

    class WalkOnly(Leaf, Process):
        """A leaf of which nothing is known."""

    WalkOnly.__abstractmethods__ = frozenset()
    with pytest.raises(ValueError, match="not Conditional"):
        ExactDenoiser(Product({"x": WalkOnly(Linear(), ())}), data)
    with pytest.raises(ValueError, match="mean must be"):
        NormalDenoiser(Gaussian(Linear()), torch.zeros(1, 2), torch.ones(1))


def test_reference_flow_is_the_closed_form():
    """`flow_map` of one normal is affine."""
    denoiser = NormalDenoiser(Gaussian(Linear()), torch.tensor([1.2]), torch.tensor([0.5]))
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    ends = Linear()(torch.tensor([1.0, 0.05], dtype=torch.float64))
    stds = ((ends.alpha * 0.5) ** 2 + ends.sigma**2).sqrt()
    m = ends.alpha * float(torch.tensor(1.2))
    expected = m[1] + stds[1] / stds[0] * (x - m[0])
    torch.testing.assert_close(
        flow_map(denoiser, Linear(), x, 1.0, 0.05), expected, rtol=1e-7, atol=1e-7
    )
