"""Laws of `tilt` (products of powers of laws) and of `graft` (known entries in a noisy state)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Categorical, Flow, Generator, Layout, Product, absorbing, uniform
from structdiff.processes import Estimate, Gaussian, Tractable
from structdiff.processes.transitions import RankOne
from structdiff.schedules import Cosine
from structdiff.spaces import SO3, Torus, ZeroCentre
from tests.processes.cases import CASES, Case, said_by_a_network, time

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
WEIGHTS = [(-0.5, 1.5), (0.25, 0.75), (-2.0, 3.0), (2.0, -1.0), (-1.0, 1.2, 0.8), (0.4, 1.6, -1.0)]
weights = pytest.mark.parametrize("weights", WEIGHTS, ids=str)


def answers(case: Case, count: int) -> tuple[Tractable, list[Estimate]]:
    """Several estimates at one noisy state."""
    process = case.process.bind(case.batch())
    x_t = process.diffuse(case.batch()["x"], time(0.5), Generator(1))
    said = [said_by_a_network(process, x_t, seed) for seed in range(count)]
    return process, [process.decode(output, x_t, time(0.5)) for output in said]


@cases
@weights
def test_tilts_of_equal_laws_are_that_law(case: Case, weights: tuple[float, ...]) -> None:
    process, (estimate,) = answers(case, 1)
    tilted = process.tilt([estimate] * len(weights), weights)
    torch.testing.assert_close(tilted.value, estimate.value, rtol=1e-12, atol=1e-12)


@cases
def test_tilts_nest_and_do_not_depend_on_the_order(case: Case) -> None:
    """(p^a q^(1-a))^b r^(1-b) = p^(ab) q^(b-ab) r^(1-b), up to what an excluded class makes."""
    process, (p, q, r) = answers(case, 3)
    nested = process.tilt([process.tilt([p, q], [0.6, 0.4]), r], [1.5, -0.5])
    flat = process.tilt([r, p, q], [-0.5, 0.9, 0.6])
    torch.testing.assert_close(nested.value, flat.value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("transition", [uniform(4), absorbing(4)], ids=["uniform", "absorbing"])
@weights
def test_classes_have_the_normalised_product(
    transition: RankOne, weights: tuple[float, ...]
) -> None:
    """By enumeration, with a class that every law excludes and one that the last does."""
    process = Categorical(Flow(), transition).bind(Batch.of(torch.zeros(6, dtype=torch.long)))
    source = torch.Generator().manual_seed(3)
    laws = torch.rand(len(weights), 6, 4, generator=source, dtype=torch.float64)
    laws[:, 1::3, 0] = 0
    if weights[-1] > 0:
        laws[-1, 2::3, 2] = 0
    laws = laws / laws.sum(-1, keepdim=True)
    tilted = process.tilt([Estimate(p.log()) for p in laws], weights).value.exp()
    for row in range(6):
        powers = []
        for k in range(4):
            factors = [(w, float(p)) for w, p in zip(weights, laws[:, row, k], strict=True)]
            dead = any(p == 0 for w, p in factors if w > 0)
            powers.append(0.0 if dead else math.prod(p**w for w, p in factors))
        expected = torch.tensor(powers, dtype=torch.float64) / sum(powers)
        torch.testing.assert_close(tilted[row], expected, rtol=0, atol=1e-12)


def test_classes_that_laws_exclude() -> None:
    process = Categorical(Flow(), uniform(3)).bind(Batch.of(torch.zeros(1, dtype=torch.long)))

    def tilt(laws: list[list[float]], weights: list[float]) -> list[float]:
        found = process.tilt([Estimate(torch.tensor([p]).log()) for p in laws], weights)
        assert not found.value.isnan().any()
        return [round(p, 6) for p in found.value.exp()[0].tolist()]

    # What the negative law excludes is where the ratio is largest.
    assert tilt([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]], [2.0, -1.0]) == [0.0, 0.0, 1.0]
    # Unless a positive one excludes it too.
    assert tilt([[0.5, 0.5, 0.0], [0.8, 0.2, 0.0]], [2.0, -1.0]) == [0.2, 0.8, 0.0]
    # Where the positive ones leave nothing, the last of them stands.
    assert tilt([[1.0, 0.0, 0.0], [0.0, 0.7, 0.3]], [0.5, 0.5]) == [0.0, 0.7, 0.3]
    # A weight of zero is no law.
    assert tilt([[1.0, 0.0, 0.0], [0.1, 0.6, 0.3]], [0.0, 1.0]) == [0.1, 0.6, 0.3]


def test_r_n_and_tangents_add() -> None:
    for name in ("gaussian centred", "torus", "so3"):
        process, (p, q) = answers(CASES[name], 2)
        tilted = process.tilt([p, q], [-0.5, 1.5])
        expected = 1.5 * q.value - 0.5 * p.value
        torch.testing.assert_close(tilted.value, expected, rtol=1e-14, atol=1e-14)


def test_a_product_tilts_and_grafts_leaf_by_leaf() -> None:
    names = ("gaussian cosine scalar", "absorbing", "torus")
    leaves = {name: CASES[name].batch()["x"] for name in names}
    product = Product({n: CASES[n].process for n in names}).bind(Batch.of(leaves))
    alone = {n: answers(CASES[n], 2) for n in names}
    pairs = [{n: found[i] for n, (_, found) in alone.items()} for i in (0, 1)]
    tilted = product.tilt(pairs, [-1.0, 2.0])
    for name, (process, found) in alone.items():
        assert torch.equal(tilted[name].value, process.tilt(found, [-1.0, 2.0]).value)
    other = {n: CASES[n].batch(seed=7)["x"] for n in names}
    held = torch.tensor([True, False, True])
    grafted = product.graft(leaves, other, {"torus": held, "absorbing": held})
    assert grafted["gaussian cosine scalar"] is leaves["gaussian cosine scalar"]
    for name in ("torus", "absorbing"):
        own = CASES[name].process.bind(CASES[name].batch())
        assert torch.equal(grafted[name], own.graft(leaves[name], other[name], held))


def held_rows(case: Case) -> Tensor:
    return torch.tensor([True, True, False, False, False, True])[: len(case.batch()["x"])]


@cases
def test_grafted_rows_are_the_known_ones_and_others_stay(case: Case) -> None:
    """Bit for bit; in a zero-centre subspace up to one translation of each sample."""
    if case is CASES["gaussian centred"]:
        return  # test_a_centred_graft
    process, x_t = case.process.bind(case.batch()), case.batch(seed=3)["x"]
    known, held = case.batch(seed=5)["x"], held_rows(case)
    before = x_t.clone(), known.clone()
    grafted = process.graft(x_t, known, held)
    assert torch.equal(grafted[held], known[held])
    assert torch.equal(grafted[~held], x_t[~held])
    assert not torch.equal(grafted, x_t)
    assert torch.equal(x_t, before[0])
    assert torch.equal(known, before[1])
    assert torch.equal(process.graft(x_t, known, torch.zeros_like(held)), x_t)
    assert torch.equal(process.graft(x_t, known, torch.ones_like(held)), known)


@pytest.mark.parametrize("name", ["gaussian sub-vp", "gaussian ragged", "absorbing event"])
def test_grafted_entries(name: str) -> None:
    case = CASES[name]
    process, x_t, known = (
        case.process.bind(case.batch()),
        case.batch()["x"],
        case.batch(seed=5)["x"],
    )
    held = torch.rand(x_t.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    grafted = process.graft(x_t, known, held)
    assert torch.equal(grafted[held], known[held])
    assert torch.equal(grafted[~held], x_t[~held])


def test_a_centred_graft() -> None:
    """Zero mean; the known rows are congruent to the given ones by a translation, the rest moves
    as one; samples without known rows stay.
    """
    layout = Layout.ragged([4, 1, 3, 2])
    process = Gaussian(Cosine(), event=(3,), space=ZeroCentre())
    x_t, known = torch.randn(
        2, 10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    x_t = x_t - layout.spread(layout.mean(x_t))
    bound = process.bind(Batch({"x": x_t}, {"x": layout}))
    held = torch.tensor([1, 0, 1, 0, 0, 1, 1, 1, 0, 0], dtype=torch.bool)
    grafted = bound.graft(x_t, known, held)
    zero = torch.zeros(4, 3, dtype=torch.float64)
    torch.testing.assert_close(layout.mean(grafted), zero, rtol=0, atol=1e-15)
    for i in (0, 2):
        rows = layout.rows_of(torch.tensor([i]))
        for source, chosen in ((known, rows[held[rows]]), (x_t, rows[~held[rows]])):
            shift = grafted[chosen] - source[chosen]
            if len(chosen):
                torch.testing.assert_close(shift, shift[:1].expand_as(shift), rtol=0, atol=1e-14)
    untouched = torch.tensor([4, 8, 9])
    torch.testing.assert_close(grafted[untouched], x_t[untouched], rtol=0, atol=1e-15)
    # The frame of the known rows is that of x_t: their mean against that of the others stays.
    first = slice(0, 4)

    def offset(x: Tensor) -> Tensor:
        return x[first][held[first]].mean(0) - x[first][~held[first]].mean(0)

    torch.testing.assert_close(offset(grafted), offset(x_t), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["gaussian centred", "torus", "so3"])
def test_masks_of_entries_are_refused_where_rows_are_held_whole(name: str) -> None:
    case = CASES[name]
    process, x = case.process.bind(case.batch()), case.batch()["x"]
    entries = torch.ones_like(x, dtype=torch.bool)
    estimate = process.oracle(x, x, time(0.5))
    with pytest.raises(ValueError, match=r"held must be \(rows,\) .*, got \(.*: hold whole rows"):
        process.graft(x, x, entries)
    with pytest.raises(ValueError, match=r"held must be \(rows,\) .*, got \(.*: hold whole rows"):
        process.impose(estimate, x, entries, x, time(0.5))


@pytest.mark.parametrize("manifold", [Torus(2), SO3()], ids=["torus", "so3"])
def test_the_tilted_tangent_is_the_gradient_of_the_tilted_kernel(manifold: object) -> None:
    """Of the weighted log kernels of two points, by autograd through exp, over tau."""
    points = manifold.uniform(3, Generator(4), torch.float64, "cpu")
    y, z, x = (point.unsqueeze(0) for point in points)
    case = CASES["torus" if isinstance(manifold, Torus) else "so3"]
    process = case.process.bind(Batch.of(x))
    for t in (0.6, 0.9):
        tau = process.tau(time(t), x)
        v = torch.zeros(1, *manifold.tangent, dtype=torch.float64, requires_grad=True)
        at = manifold.exp(x, v)
        log_p = -0.7 * manifold.log_kernel(y, at, tau) + 1.7 * manifold.log_kernel(z, at, tau)
        (gradient,) = torch.autograd.grad(log_p.sum(), v)
        found = process.tilt([process.oracle(o, x, time(t)) for o in (y, z)], [-0.7, 1.7])
        torch.testing.assert_close(found.value, tau * gradient, rtol=1e-8, atol=1e-8)
