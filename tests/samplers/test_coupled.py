"""Coupled walks: exact inversion, gradients in constant memory, the law in the limit."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDIM,
    Batch,
    Brownian,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Product,
    UniformLogSNR,
    UniformTime,
    absorbing,
)
from structdiff.samplers.coupled import Coupled
from structdiff.spaces import Torus, ZeroCentre
from structdiff.testing import Addressed, ExactDenoiser, NormalDenoiser, Silent, flow_map


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mixture():
    mean, std = torch.tensor([-1.0, 0.5, 1.5]), torch.tensor([0.6, 0.5, 0.7])
    return NormalDenoiser(Gaussian(Linear()), mean, std, torch.tensor([0.3, 0.5, 0.2]))


def bound(grid, x, mixing=0.93):
    return Coupled(mixture(), grid, mixing=mixing).bind(Batch.of(x), Silent())


@pytest.mark.parametrize("steps", [10, 50])
def test_it_is_walked_back_exactly(steps):
    x = torch.linspace(-2, 2, 9)
    walk = bound(UniformTime(steps), x)
    end, other = walk.ends({"x": x})
    assert float((end["x"] - x).abs().max()) > 0.1
    back, twin = walk.inverse(end, other)
    for state in (back, twin):
        assert float((state["x"] - x).abs().max()) < 1e-5
    # The walk of data that no walk has led to is exact as well.
    up = walk.inverse({"x": x})
    again = x, x
    first, second = (state["x"] for state in up)
    pair = {"x": first}, {"x": second}
    for i in range(walk.steps):
        pair = walk.forth(*pair, i)
    for state, data in zip(pair, again, strict=True):
        assert float((state["x"] - data).abs().max()) < 1e-5


def test_it_ends_where_the_last_noise_is():
    """At t = 0 sigma is zero: from there nothing leads back."""
    x = torch.linspace(-2, 2, 9)
    walk = bound(UniformTime(11, end=0.0), x)
    assert walk.times.tolist() == UniformTime(11, end=0.0).times()[:-2].tolist()
    torch.testing.assert_close(walk.inverse(*walk.ends({"x": x}))[0]["x"], x)


def test_without_coupling_ddim_does_not_come_back():
    """The measure can fail: DDIM up and down with as many steps is off by far more."""
    from structdiff.samplers.encoding import Rising, encode
    from structdiff.samplers.truncated import Truncated

    x, grid = torch.linspace(-2, 2, 9), UniformTime(10)
    code = encode(DDIM(mixture(), Rising(grid)), Batch.of(x))
    down = Truncated(DDIM(mixture(), grid), code.leaves, noisy=True)
    assert float((down.sample(Batch.of(x), Generator(0))["x"] - x).abs().max()) > 0.05


def test_the_end_is_that_of_the_flow_to_first_order():
    schedule, x, errors = Linear(), torch.linspace(-2, 2, 9), []
    truth = flow_map(mixture(), schedule, x, 1.0, 0.05, steps=200)
    for steps in (80, 160):
        walk = bound(UniformLogSNR(schedule, steps + 1, end=0.05), x)
        end, other = walk.ends({"x": x})
        errors.append(float((end["x"] - truth).abs().mean() + (other["x"] - truth).abs().mean()))
    assert abs(math.log2(errors[0] / errors[1]) - 1) < 0.2, errors


def test_a_step_is_that_of_the_paper_on_x_0():
    """Section 4 of the paper with a = sigma_s / sigma_t and x_0(y) in place of eps(y)."""
    denoiser, grid = mixture(), UniformTime(3)
    t, level = grid.times(), Linear()(grid.times())
    x = y = torch.linspace(-2, 2, 7)

    def clean(z, i):
        return denoiser(Batch.of(z), {"x": t[i]})["x"].value

    a = level.sigma[1:] / level.sigma[:-1]
    b = level.alpha[1:] - level.alpha[:-1] * a
    inner = a[0] * x + b[0] * clean(y, 0)
    outer = a[0] * y + b[0] * clean(inner, 0)
    x = 0.93 * inner + 0.07 * outer
    y = 0.93 * outer + 0.07 * x
    # The roles change: y goes first.
    inner = a[1] * y + b[1] * clean(x, 1)
    outer = a[1] * x + b[1] * clean(inner, 1)
    y = 0.93 * inner + 0.07 * outer
    x = 0.93 * outer + 0.07 * y
    end, other = bound(grid, x).ends({"x": torch.linspace(-2, 2, 7)})
    torch.testing.assert_close(end["x"], x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(other["x"], y, rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_autograd():
    """By inversion, against the graph of all steps; two leaves, ragged, with given rows."""
    process = Product(
        {
            "atoms": Gaussian(Linear(), event=(2,), space=ZeroCentre()),
            "x": Gaussian(Linear()),
        }
    )
    place = torch.tensor([[1.0, 0], [-1.0, 0], [2.0, 0], [-1.0, 1.0], [-1.0, -1.0]])
    layouts = {"atoms": Layout.ragged([2, 3]), "x": Layout.regular(2)}
    data = Batch({"atoms": place, "x": torch.tensor([1.0, -1.0])}, layouts)
    many = Batch(
        {"atoms": torch.cat([place, -place]), "x": torch.tensor([1.0, -1.0, 0.5, 2.0])},
        {"atoms": Layout.ragged([2, 3, 2, 3]), "x": Layout.regular(4)},
    )
    held = {"x": torch.tensor([True, False])}
    walk = Coupled(ExactDenoiser(process, many), UniformTime(6)).bind(
        data.with_given(held), Generator(0)
    )
    start = {n: x.requires_grad_() for n, x in walk.start().x.items()}

    def loss(ends):
        return (ends["atoms"] ** 3).sum() + ends["x"].sin().sum()

    found = torch.autograd.grad(loss(walk.decode(start)), list(start.values()))
    first, second = dict(start), dict(start)
    for i in range(walk.steps):
        first, second = walk.forth(first, second, i)
    truth = torch.autograd.grad(loss(first), list(start.values()))
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    assert float(found[0].abs().max()) > 1e-2
    assert float(found[1][0]) == 0


def test_given_entries_are_those_of_the_batch_whatever_the_noise_says():
    mean, std = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]), torch.tensor([0.3, 0.3])
    denoiser = NormalDenoiser(Gaussian(Linear(), event=(2,)), mean, std)
    held = torch.tensor([[True, False], [True, False]])
    batch = Batch.of(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])).with_given({"x": held})
    walk = Coupled(denoiser, UniformTime(6)).bind(batch, Silent())
    placed = torch.tensor([[-1.0, 0.7], [1.0, 0.7]])
    other = torch.where(held, 9.0, placed).requires_grad_()
    end = walk.decode({"x": other})["x"]
    assert torch.equal(end, walk.ends({"x": placed})[0]["x"])
    assert end[0, 1] > 0 > end[1, 1]
    (slope,) = torch.autograd.grad(end.sum(), [other])
    assert (slope[held] == 0).all() and (slope[~held] != 0).all()


def test_memory_does_not_depend_on_the_number_of_steps():
    """What the graph keeps: two states, whatever the steps; the plain graph keeps more by each."""

    def kept(walk, x, plain):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda saved: (sizes.append(saved.numel()), saved)[1], lambda saved: saved
        ):
            if plain:
                pair = {"x": x}, {"x": x}
                for i in range(walk.steps):
                    pair = walk.forth(*pair, i)
            else:
                walk.decode({"x": x})
        return sum(sizes)

    x = torch.linspace(-2, 2, 9).requires_grad_()
    ours = [kept(bound(UniformTime(n), x), x, False) for n in (5, 40)]
    plain = [kept(bound(UniformTime(n), x), x, True) for n in (5, 40)]
    assert ours[0] == ours[1] == 2 * 9
    assert plain[1] > 8 * plain[0]


def test_optimising_the_noise_lowers_a_loss_of_the_sample():
    """DOODL: the sample is led to 1.2 by its noise alone."""
    x = torch.linspace(-1.5, 1.5, 5)
    walk = bound(UniformTime(12), x)
    before = float((walk.ends({"x": x})[0]["x"] - 1.2).abs().mean())
    for _ in range(40):
        x = x.detach().requires_grad_()
        loss = (walk.decode({"x": x})["x"] - 1.2).square().sum()
        (slope,) = torch.autograd.grad(loss, x)
        x = x - 0.3 * slope
    after = float((walk.ends({"x": x.detach()})[0]["x"] - 1.2).abs().mean())
    assert after < 0.1 * before


def test_samples_do_not_depend_on_batch_mates_and_calls_are_counted():
    sampler, calls = Coupled(mixture(), UniformTime(8)), []
    batch = Batch.of(torch.zeros(4))
    whole = sampler.sample(batch, Addressed(0), lambda i, carry: calls.append(carry.calls))["x"]
    alone = sampler.sample(batch.select([2]), Addressed(0))["x"]
    torch.testing.assert_close(whole[[2]], alone, rtol=1e-12, atol=1e-12)
    assert calls == [2, 4, 6, 8, 10, 12, 14]


def test_refusals():
    with pytest.raises(ValueError, match=r"mixing must be in \(0, 1\], got 0"):
        Coupled(mixture(), UniformTime(3), mixing=0.0)
    with pytest.raises(ValueError, match="two times with noise"):
        Coupled(mixture(), UniformTime(1))
    for leaf in (Brownian(Geometric(0.1, 3.0), Torus(2)), Categorical(Flow(), absorbing(2))):
        process = Product({"y": leaf})
        denoiser = ExactDenoiser(process, Batch.of(process.empty(2)))
        with pytest.raises(ValueError, match=r"steps are taken back on R\^n only.*\['y'\]"):
            Coupled(denoiser, UniformTime(3))
