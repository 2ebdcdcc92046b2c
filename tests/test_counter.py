"""Noise by address: the law of the numbers, and that nothing but the address decides them."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from scipy import stats

from structdiff import (
    Generator,
    Layout,
)
from structdiff.counter import Counter, _minus_log, _normal, _uniform
from structdiff.random import Randomness, Tempered
from structdiff.threefry import threefry

N = 100_000
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
kinds = pytest.mark.parametrize("kind", ["normal", "uniform"])


def draw(source: Randomness, kind: str = "normal", shape=(N,), dtype=torch.float64):
    return getattr(source, kind)(shape, dtype, "cpu")


# The law of the numbers.


def test_uniform_numbers_are_uniform():
    u = draw(Counter(0), "uniform").numpy()
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    for parts in (10, 1000):
        counts = torch.histc(torch.from_numpy(u), parts, 0, 1).numpy()
        assert stats.chisquare(counts).pvalue > 1e-3


def test_bits_of_uniform_numbers_are_even():
    """Chi-square of the low 53 - 40 bits as well: none is stuck."""
    k = (draw(Counter(1), "uniform") * 2**53).long()
    counts = torch.bincount(k % 2**10, minlength=2**10).numpy()
    assert stats.chisquare(counts).pvalue > 1e-3


def test_normal_numbers_are_normal_far_into_the_tails():
    """Counts beyond k sigma on either side are binomial."""
    n = 1_000_000
    z = draw(Counter(0), shape=(n,)).numpy()
    assert stats.kstest(z[:N], "norm").pvalue > 1e-3
    edges = stats.norm.ppf([i / 1000 for i in range(1001)])
    counts = [
        int(c)
        for c in torch.bincount(
            torch.bucketize(torch.from_numpy(z), torch.from_numpy(edges[1:-1]))
        )
    ]
    assert stats.chisquare(counts).pvalue > 1e-3
    for beyond in (2.0, 3.0, 4.0, 4.5):
        for side in (z, -z):
            count = int((side > beyond).sum())
            assert stats.binomtest(count, n, stats.norm.sf(beyond)).pvalue > 1e-3, beyond


def test_pairs_are_turned_evenly():
    """The two numbers of a block: their angle is uniform, their radius has the law of Rayleigh."""
    x, y = draw(Counter(3), shape=(N, 2)).numpy().T
    angle = torch.atan2(torch.tensor(y), torch.tensor(x)).numpy()
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    assert stats.kstest((x**2 + y**2) ** 0.5, "rayleigh").pvalue > 1e-3


def test_the_logarithm():
    """Against torch's, relative, from 1 to the smallest argument."""
    u = torch.cat(
        [
            0.5 ** torch.arange(54, dtype=torch.float64),
            1 - 0.5 ** torch.arange(2, 54, dtype=torch.float64),
            torch.rand(N, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        ]
    ).clamp(min=0.5**53)
    torch.testing.assert_close(_minus_log(u.clone()), -torch.log(u), rtol=4e-15, atol=0)


def test_normal_numbers_are_those_of_the_formula():
    source = torch.Generator().manual_seed(0)
    low, high = torch.randint(-(2**63), 2**63 - 1, (2, N), generator=source)
    low[:4], high[:4] = (
        torch.tensor([0, -1, 1 << 62, -(1 << 63)]),
        torch.tensor([-1, 0, -(1 << 63), (1 << 62) - 1 + (1 << 62)]),
    )
    u = ((low >> 11).double() + 2**52 + 1) / 2**53
    x = (high >> 11).double() / 2**52 * math.pi / 4
    z = [(-torch.log(u)).sqrt() * (torch.cos(x) + sign * torch.sin(x)) for sign in (-1, 1)]
    expected = [torch.where(w & 1 == 1, -v, v) for v, w in zip(z, (low, high), strict=True)]
    for ours, theirs in zip(_normal(low.clone(), high.clone()), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=2e-15)
    largest = _normal(torch.tensor([-(1 << 63)]), torch.tensor([(1 << 63) - 1]))
    assert max(float(v.abs()) for v in largest) == pytest.approx(math.sqrt(106 * math.log(2)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_uniform_numbers_never_reach_one(dtype):
    """All are multiples of eps / 2; the largest word gives 1 - eps / 2, the smallest 0."""
    half = torch.finfo(dtype).eps / 2
    digits = round(-math.log2(half))
    ends = _uniform(torch.tensor([-(1 << 63), (1 << 63) - 1]), digits).to(dtype).double()
    assert ends.tolist() == [0, 1 - half]
    u = draw(Counter(2), "uniform", dtype=dtype)
    assert u.dtype == dtype
    u = u.double()
    assert float(u.min()) >= 0 and float(u.max()) < 1
    assert torch.equal((u / half).round() * half, u)
    assert abs(float(u.mean()) + half / 2 - 0.5) < 5 / math.sqrt(12 * N)


@pytest.mark.parametrize("dtype", FLOATS[1:])
def test_lower_precisions_round_the_same_numbers(dtype):
    assert torch.equal(draw(Counter(4), dtype=dtype), draw(Counter(4)).to(dtype))
    half = torch.finfo(dtype).eps / 2
    floor = (draw(Counter(4), "uniform") / half).floor() * half
    assert torch.equal(draw(Counter(4), "uniform", dtype=dtype).double(), floor)


# The address decides.


def at(seed=0, leaf="x", step=1, first=0, counts=None):
    layout = Layout.regular(N) if counts is None else Layout.ragged(counts)
    ids = torch.arange(layout.samples) + first
    return Counter(seed).scoped(leaf=leaf, step=step, ids=ids, layout=layout)


def second_draw():
    source = at()
    draw(source)
    return draw(source)


def of_rows(row):
    return draw(at(counts=[2] * N), shape=(2 * N,))[row::2]


def of_entries(entry):
    return draw(at(), shape=(N, 3))[:, entry]


NEIGHBOURS = {
    "seed": lambda: (draw(at()), draw(at(seed=1))),
    "large seed": lambda: (draw(at(seed=2**64)), draw(at(seed=0))),
    "id": lambda: (draw(at()), draw(at(first=1))),
    "far id": lambda: (draw(at()), draw(at(first=2**63 - N))),
    "row": lambda: (of_rows(0), of_rows(1)),
    "leaf": lambda: (draw(at()), draw(at(leaf="y"))),
    "step": lambda: (draw(at()), draw(at(step=2))),
    "large step": lambda: (draw(at()), draw(at(step=1 + 2**64))),
    "draw": lambda: (draw(at()), second_draw()),
    "entry of a pair": lambda: (of_entries(0), of_entries(1)),
    "entry": lambda: (of_entries(0), of_entries(2)),
    "row against entry": lambda: (of_rows(1), of_entries(1)),
    "id against row": lambda: (draw(at())[1:], of_rows(1)[:-1]),
}


@pytest.mark.parametrize("axis", NEIGHBOURS)
def test_neighbouring_addresses_are_independent(axis):
    """Correlations of numbers and of squares over 1e5 pairs: within 4 / sqrt(n)."""
    x, y = NEIGHBOURS[axis]()
    assert not bool((x == y).any())
    for a, b in ((x, y), (x**2, y**2), (x, y**2)):
        correlation = torch.corrcoef(torch.stack((a, b)))[0, 1]
        assert abs(float(correlation)) < 4 / math.sqrt(len(x))


def test_numbers_by_hand():
    """Key and counter spelled out and the formula in Python: numbers outlive versions."""
    layout, ids = Layout.ragged([1, 2]), torch.tensor([2**62 + 3, 5])
    source = Counter(7).scoped(step=4, ids=ids, layout=layout).scoped(leaf="x")
    draw(source, shape=(3,))
    z = draw(source, shape=(3, 5))
    address = b"(7, ('x',), (4,), True, 1)"
    digest = hashlib.blake2b(address, digest_size=16).digest()
    key = (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little"))
    for r, (id, row) in enumerate([(2**62 + 3, 0), (5, 0), (5, 1)]):
        for pair in range(3):
            counter = torch.tensor([id]), torch.tensor([2**32 * row + pair])
            low, high = (int(word) for word in threefry(counter, key))
            radius = math.sqrt(-math.log((low // 2**11 + 2**52 + 1) / 2**53))
            x = math.pi / 4 * (high // 2**11) / 2**52
            numbers = [
                radius * (math.cos(x) - math.sin(x)) * (-1) ** (low % 2),
                radius * (math.cos(x) + math.sin(x)) * (-1) ** (high % 2),
            ]
            entries = slice(2 * pair, 2 * pair + 2)
            assert z[r, entries].tolist() == pytest.approx(numbers[: 5 - 2 * pair], rel=1e-12)


@kinds
@pytest.mark.parametrize("event", [(), (1,), (3,), (5,), (2, 7)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_alone_in_a_batch_in_any_order_and_partition(kind, event, dtype):
    """1000 samples of 0 to 5 rows against single ones, a permutation and parts of odd sizes."""
    source = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 6, (1000,), generator=source)
    ids = torch.randint(0, 2**63 - 1, (1000,), generator=source)
    whole = Layout.ragged(counts.tolist())

    def of(samples):
        layout = whole.select(samples)
        scope = Counter(3).scoped(leaf="x", step=2, ids=ids[samples], layout=layout)
        return draw(scope, kind, (layout.rows, *event), dtype)

    every = of(torch.arange(1000))
    parts = [torch.tensor([i]) for i in range(0, 1000, 37)]
    parts += [torch.randperm(1000, generator=source)]
    parts += list(torch.arange(1000).split([1, 2, 3, 61, 933]))
    for samples in parts:
        assert torch.equal(of(samples), every[whole.rows_of(samples)])


@kinds
@pytest.mark.parametrize("event", [(), (3,)])
def test_without_a_layout_a_row_is_its_index(kind, event):
    every = draw(Counter(5), kind, (1001, *event))
    for rows in (0, 1, 2, 3, 7, 15, 16, 17, 31, 64, 333, 1000, 1001):
        assert torch.equal(draw(Counter(5), kind, (rows, *event)), every[:rows])


def test_pieces_of_a_large_draw_join():
    """More blocks than are drawn at once, of rows that the pieces cut."""
    rows, layout = 30_011, Layout.regular(30_011)
    every = draw(Counter(6).scoped(layout=layout), shape=(rows, 5))
    for row in (0, 10_922, 10_923, 21_845, rows - 1):
        alone = Counter(6).scoped(ids=torch.tensor([row]), layout=Layout.regular(1))
        assert torch.equal(draw(alone, shape=(1, 5))[0], every[row])


def test_samples_without_ids_are_their_places():
    layout = Layout.ragged([2, 0, 3])
    bare, named = Counter(0).scoped(layout=layout), torch.arange(3)
    numbered = Counter(0).scoped(layout=layout, ids=named)
    assert torch.equal(draw(bare, shape=(5,)), draw(numbered, shape=(5,)))
    assert torch.equal(
        draw(Counter(0).scoped(layout=layout, ids=named.int()), shape=(5,)),
        draw(Counter(0).scoped(layout=layout, ids=named), shape=(5,)),
    )


def test_scopes_nest_and_may_come_in_any_order():
    def first(*scopes):
        source: Randomness = Counter(0)
        for scope in scopes:
            source = source.scoped(**scope)
        return tuple(draw(source, shape=(4,)).tolist())

    x, y, one, two = {"leaf": "x"}, {"leaf": "y"}, {"step": 1}, {"step": 2}
    assert first(x, one) == first(one, x) == first(x | one) == first({}, x, {}, one)
    different = [
        (),
        (x,),
        (one,),
        (x, one),
        (x, y),
        (y, x),
        (one, two),
        (two, one),
        ({"leaf": ""},),
    ]
    different += [({"leaf": "xy"},), ({"step": 0},), ({"step": 12},), ({"leaf": "x', 'y"},)]
    assert len({first(*scopes) for scopes in different}) == len(different)


def test_no_scope_influences_another():
    source = Counter(0)
    before, sibling = source.scoped(step=1), source.scoped(step=2)
    expected = draw(Counter(0).scoped(step=1), shape=(9,))
    draw(source), draw(sibling), draw(sibling.scoped(leaf="x"))
    assert torch.equal(draw(before, shape=(9,)), expected)
    assert torch.equal(draw(source.scoped(step=1), shape=(9,)), expected)
    assert not torch.equal(draw(before, shape=(9,)), expected)
    assert (source.draws, sibling.draws, source.steps, source.layout) == (1, 1, (), None)


@kinds
@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**200 + 1])
def test_state_goes_on_where_it_was(kind, seed):
    source = Counter(seed)
    draw(source)
    state = source.state()
    assert state.dtype == torch.uint8 and state.device.type == "cpu"
    expected, below = draw(source, kind, (7,)), draw(source.scoped(step=3), kind, (7,))
    other = Counter(99)
    other.restore(state)
    assert torch.equal(draw(other, kind, (7,)), expected)
    assert torch.equal(draw(other.scoped(step=3), kind, (7,)), below)
    other.restore(state)
    assert torch.equal(draw(other, kind, (7,)), expected)


def test_what_is_refused():
    bound = Counter(0).scoped(layout=Layout.ragged([2, 3]))
    with pytest.raises(ValueError, match="shape has 4 rows, but the layout that is bound has 5"):
        draw(bound, shape=(4, 3))
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        Counter(-1)
    with pytest.raises(ValueError, match="step must be at least 0, got -2"):
        bound.scoped(step=-2)
    with pytest.raises(ValueError, match=r"ids must be integers of shape \(2,\).*got torch.int64"):
        bound.scoped(ids=torch.arange(5))
    with pytest.raises(ValueError, match=r"got torch.float32 of shape \(2,\)"):
        bound.scoped(ids=torch.ones(2))
    with pytest.raises(ValueError, match="dtype must be floating, got torch.int64"):
        draw(bound, shape=(5,), dtype=torch.int64)
    with pytest.raises(ValueError, match="state must be one that Counter.state gave"):
        Counter(0).restore(Generator(0).state())


def test_tempered():
    cold = Tempered(Counter(0), 0.5)
    for step, factor in ((0, 1.0), (1, 0.5)):
        plain = draw(Counter(0).scoped(step=step, leaf="x"))
        assert torch.equal(draw(cold.scoped(step=step).scoped(leaf="x")), factor * plain)
    assert torch.equal(
        draw(cold.scoped(step=1), "uniform"), draw(Counter(0).scoped(step=1), "uniform")
    )
