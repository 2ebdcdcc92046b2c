"""RePaint: known entries are exact, and the rest comes to agree with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Heun,
    Layout,
    Multistep,
    Product,
    Randomness,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.guidance import RePaint, Replacement
from structdiff.guidance.repaint import visits
from structdiff.samplers import Carry
from structdiff.testing import Addressed, ExactDenoiser, Impulses, NormalDenoiser
from tests.guidance.worlds import SIZES, Correlated, blank, clean, everything, opinionated
from tests.processes.test_product import Blur

SAMPLERS = {"DDIM": DDIM, "DDPM": DDPM, "Heun": Heun}
samplers = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def known_part(sizes: list[int] = SIZES) -> Batch:
    """Rows of every ragged leaf, entries of the others, a rotation."""
    known = clean(everything(), sizes)
    row = known.layouts["field"].row
    entries = torch.zeros_like(known["field"], dtype=torch.bool)
    entries[:, 1], entries[0] = True, True
    shades = torch.zeros_like(known["shades"], dtype=torch.bool)
    shades[:, 0] = True
    masks = {"field": entries, "atoms": row < 2, "kind": row % 2 == 0, "shades": shades}
    turns = torch.arange(len(sizes)) % 2 == 0
    return known.with_given(masks | {"angle": row == 0, "turn": turns})


@samplers
def test_known_entries_return_exactly_whatever_the_denoiser_says(make):
    """I04: bit for bit; of a centred leaf up to one translation of each sample."""
    known, denoiser = known_part(), opinionated()
    sampler = RePaint(make(denoiser, UniformTime(5)), known, jump=2, repeats=3)
    drawn = sampler.sample(blank(denoiser.process, SIZES), Generator(1))
    for name, mask in known.given.items():
        if name != "atoms":
            assert torch.equal(drawn[name][mask], known[name][mask]), name
            assert not torch.equal(drawn[name], known[name]), name
    atoms = known.layouts["atoms"]
    torch.testing.assert_close(atoms.mean(drawn["atoms"]), torch.zeros(3, 2), rtol=0, atol=1e-14)
    shift = drawn["atoms"] - known["atoms"]
    first = atoms.spread(shift[atoms.start])
    held = known.given["atoms"]
    torch.testing.assert_close(shift[held], first[held], rtol=0, atol=1e-13)
    assert (shift - first)[~held].abs().min() > 1e-3


@samplers
@pytest.mark.parametrize(("jump", "repeats"), [(1, 4), (2, 3), (10, 2), (3, 1)])
def test_the_number_of_calls(make, jump, repeats):
    """Of C calls of a plain walk, repeats (C - 1) + 1."""
    denoiser = opinionated()
    inner = make(denoiser, UniformTime(5))
    empty = blank(denoiser.process, SIZES)
    inner.sample(empty, Generator(0))
    plain, seen = denoiser.calls, []
    sampler = RePaint(inner, known_part(), jump=jump, repeats=repeats)
    sampler.sample(empty, Generator(0), lambda k, carry: seen.append((k, carry.calls)))
    expected = repeats * (plain - 1) + 1
    assert denoiser.calls - plain == seen[-1][1] == expected
    assert [k for k, _ in seen] == list(range(1, sampler.steps + 1))
    assert sampler.steps == repeats * 4 + 1


def test_the_order_of_the_steps():
    """With jump 1 algorithm 1; with longer jumps blocks, the last one shorter."""
    assert [tuple(v) for v in visits(3, 1, 2)] == [
        (0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2), (2, 0, 2)
    ]  # fmt: skip
    assert [tuple(v) for v in visits(6, 3, 2)] == [
        (0, 0, 0), (1, 0, 1), (2, 0, 2), (0, 1, 3), (1, 1, 1), (2, 1, 2),
        (3, 0, 3), (4, 0, 4), (3, 1, 5), (4, 1, 4), (5, 0, 5),
    ]  # fmt: skip
    assert [tuple(v) for v in visits(1, 10, 10)] == [(0, 0, 0)]


@samplers
def test_without_repeats_it_is_replacement_in_the_noisy_state(make):
    """x_s = graft(step(x_t), q(x_s | known)), in every space."""
    known, denoiser = known_part(), opinionated()
    empty = blank(denoiser.process, SIZES)
    sampler = make(denoiser, UniformTime(6))
    drawn = RePaint(sampler, known, jump=2, repeats=1).sample(empty, Generator(3))
    random = Generator(3)
    walk = sampler.bind(empty, random)

    def replaced(carry: Carry, i: int) -> Carry:
        times = walk.leaf_times[i]
        noisy = walk.process.diffuse(known.leaves, times, random) if i < 6 else known.leaves
        return replace(carry, x=walk.process.graft(carry.x, noisy, known.given))

    carry = replaced(walk.start(), 0)
    for i in range(6):
        carry = replaced(walk.step(carry, i), i + 1)
    assert all(torch.equal(x, carry.x[name]) for name, x in drawn.leaves.items())


def test_where_nothing_is_known_it_is_the_sampler():
    """DDIM on R^n draws its prior alone."""
    denoiser = NormalDenoiser(Gaussian(Cosine(), event=(2,)), torch.ones(1, 2), torch.ones(1))
    empty = Batch.of(torch.zeros(5, 2))
    sampler = DDIM(denoiser, UniformTime(6))
    plain = sampler.sample(empty, Generator(0))["x"]
    assert torch.equal(RePaint(sampler, empty, repeats=1).sample(empty, Generator(0))["x"], plain)
    noisy = RePaint(sampler, empty, repeats=2).sample(empty, Generator(0))["x"]
    assert not torch.equal(noisy, plain)


class Recorder(Addressed):
    """Keeps the address of every draw."""

    drawn: list[tuple[object, ...]]

    def scoped(self, **where: object) -> Recorder:
        narrow = super().scoped(**where)
        recorder = Recorder(0)
        recorder.__dict__.update(narrow.__dict__, drawn=self.drawn)
        return recorder

    def _draw(self, *where: object) -> Tensor:
        self.drawn.append((self.address, self.draws))
        return super()._draw(*where)


@samplers
def test_no_address_is_used_twice(make):
    denoiser, source = opinionated(), Recorder(0)
    source.drawn = []
    sampler = RePaint(make(denoiser, UniformTime(5)), known_part(), jump=2, repeats=3)
    sampler.sample(blank(denoiser.process, SIZES), source)
    assert len(source.drawn) > 6 * sampler.steps
    assert len(set(source.drawn)) == len(source.drawn)


@samplers
def test_a_sample_does_not_depend_on_its_batch_mates(make):
    """Nor on where its walk was saved."""
    denoiser, known = opinionated(), known_part()
    grid = UniformTime(4)
    empty = blank(denoiser.process, SIZES)
    whole = RePaint(make(denoiser, grid), known, jump=2, repeats=2).bind(empty, Addressed(0))
    carry = whole.start()
    for k in range(whole.steps):
        carry = Carry.from_tensors(carry.tensors()) if k == 3 else carry
        carry = whole.step(carry, k)
    for i in (0, 2):
        part = RePaint(make(denoiser, grid), known.select([i]), jump=2, repeats=2)
        alone = part.sample(empty.select([i]), Addressed(0))
        for name, x in alone.leaves.items():
            rows = empty.layouts[name].rows_of(torch.tensor([i]))
            torch.testing.assert_close(carry.x[name][rows], x, rtol=1e-10, atol=1e-10)


def test_the_previous_estimate_is_forgotten_on_the_way_back():
    """It was made at less noise than the state that the network sees next."""
    denoiser = opinionated()
    sampler = RePaint(DDPM(denoiser, UniformTime(5)), known_part(), jump=2, repeats=2)
    sampler.sample(blank(denoiser.process, SIZES), Generator(0))
    fresh = [k for k, previous in enumerate(denoiser.shown) if previous is None]
    assert fresh == [0, 2, 6]


RHO, VALUE = 0.9, 2.0


def correlated() -> Correlated:
    covariance = torch.tensor([[1.0, RHO], [RHO, 1.0]])
    return Correlated(Gaussian(Cosine(), event=(2,)), covariance)


def half_known(rows: int) -> Batch:
    """The first of two entries."""
    mask = torch.tensor([True, False]).expand(rows, 2)
    return Batch.of(torch.tensor([VALUE, 0.0]).repeat(rows, 1)).with_given({"x": mask})


def shrunk(sampler: object, batch: Batch, random: Randomness) -> Tensor:
    """The unknown entry."""
    return sampler.sample(batch, random)["x"][:, 1]


def test_the_conditional_mean_of_a_correlated_gaussian():
    """I01, I04: exact means (all is affine in the noise, row 0 of an impulse response has none).

    Replacement is off by a third of the mean, ten repeats by a quarter of what one is.
    """
    denoiser, steps, rows = correlated(), 20, 800
    known, empty = half_known(rows), Batch.of(torch.zeros(rows, 2))

    def error(sampler: object, batch: Batch = empty) -> float:
        return abs(float(shrunk(sampler, batch, Impulses())[0]) - RHO * VALUE)

    ddpm = DDPM(denoiser, UniformTime(steps))
    replaced = DDPM(Replacement(denoiser, known), UniformTime(steps))
    assert error(ddpm, known) < 0.005
    assert error(replaced) > 0.5
    for jump in (1, 5):
        errors = [error(RePaint(ddpm, known, jump=jump, repeats=r)) for r in (1, 3, 10)]
        assert errors[0] == pytest.approx(error(replaced), abs=0.05)
        assert errors[1] < 0.55 * errors[0]
        assert errors[2] < 0.3 * errors[0], (jump, errors)


def test_the_conditional_spread_of_a_correlated_gaussian():
    """The variance 1 - RHO^2, exactly for `given=`; RePaint with 4000 samples, error 2.2 %."""
    denoiser, rows = correlated(), 4000
    truth = 1 - RHO**2
    given = shrunk(DDPM(denoiser, UniformTime(400)), half_known(500), Impulses())
    assert (given[1:] - given[0]).square().sum() == pytest.approx(truth, rel=0.03)
    assert given[0] == pytest.approx(RHO * VALUE, rel=0.03)
    known, empty = half_known(rows), Batch.of(torch.zeros(rows, 2))
    ddpm = DDPM(denoiser, UniformTime(20))
    gaps = [
        abs(
            float(shrunk(RePaint(ddpm, known, jump=5, repeats=r), empty, Generator(0)).var())
            - truth
        )
        for r in (1, 10)
    ]
    assert gaps[1] < 0.4 * gaps[0]


WEIGHTS = torch.tensor([0.30, 0.04, 0.06, 0.02, 0.38, 0.20]).double()


def total_variation(transition: object, make: object) -> float:
    """Of z given y = 0, over all pairs (y, z), from the law of 1500 samples."""
    n = 1500
    process = Product(
        {"y": Categorical(Flow(), transition(2)), "z": Categorical(Flow(), transition(3))}
    )
    pairs = {"y": torch.tensor([0, 0, 0, 1, 1, 1]), "z": torch.tensor([0, 1, 2, 0, 1, 2])}
    denoiser, empty = ExactDenoiser(process, Batch.of(pairs), WEIGHTS), Batch.of(process.empty(n))
    known = empty.with_given({"y": torch.ones(n, dtype=torch.bool)})
    drawn = make(denoiser, known).sample(empty, Generator(0))
    assert drawn["y"].tolist() == [0] * n
    share = torch.bincount(drawn["z"], minlength=3) / n
    return 0.5 * float((share - WEIGHTS[:3] / WEIGHTS[:3].sum()).abs().sum())


@pytest.mark.parametrize(("transition", "end"), [(uniform, 0.75), (absorbing, 0.5)])
def test_classes_come_to_agree_with_what_is_known(transition, end):
    """I04 on an enumerable world: total variation falls with the repeats (its error is 0.012)."""
    grid = UniformTime(12)
    by_repeats = [
        total_variation(
            transition,
            lambda denoiser, known, r=r: RePaint(DDPM(denoiser, grid), known, jump=2, repeats=r),
        )
        for r in (1, 3, 10)
    ]
    replaced = total_variation(transition, lambda d, known: DDPM(Replacement(d, known), grid))
    assert by_repeats[0] == pytest.approx(replaced, abs=0.04)
    assert by_repeats[1] < by_repeats[0] - 0.03
    assert by_repeats[2] < by_repeats[1] - 0.01
    assert by_repeats[2] < end * by_repeats[0], by_repeats


KINDS = torch.tensor([0.10, 0.45, 0.15, 0.30]).double()


def graphs(states: Tensor) -> Batch:
    """Two nodes of two kinds and the bonds there and back, from `(samples, 4)`."""
    count = len(states)
    nodes, edges = (Layout.ragged([2] * count) for _ in range(2))
    ends = (torch.tensor([[0, 1], [1, 0]])[:, None] + 2 * torch.arange(count)[:, None]).flatten(1)
    leaves = {"kind": states[:, :2].flatten(), "bond": states[:, 2:].flatten()}
    return Batch(leaves, {"kind": nodes, "bond": Layout(edges.counts, edges.sample, ends)})


@pytest.mark.parametrize("transition", [uniform, absorbing])
def test_graphs_come_to_agree_with_edges_that_are_known(transition):
    """I04: nodes of one kind have a bond with probability 0.9, others with 0.1.

    The bonds that are known return exactly; the total variation of the law of the kinds and of the
    bond back, from 1500 graphs, falls with the repeats (its error is 0.015).
    """
    process = Product(
        {"kind": Categorical(Flow(), transition(2)), "bond": Categorical(Flow(), transition(2))}
    )
    every = torch.cartesian_prod(*[torch.arange(2)] * 4)
    same = (every[:, 0] == every[:, 1])[:, None]
    bonded = torch.where(same == every[:, 2:], 0.9, 0.1).double()
    weight = KINDS.repeat_interleave(4) * bonded.prod(1)
    denoiser, n = ExactDenoiser(process, graphs(every), weight), 1500
    known = graphs(torch.tensor([[0, 0, 1, 0]]).repeat(n, 1))
    held = known.layouts["bond"].nodes[0] % 2 == 0
    empty, known = known, known.with_given({"bond": held})
    truth = weight * every[:, 2]
    gaps = []
    for repeats in (1, 3, 10):
        sampler = RePaint(DDPM(denoiser, UniformTime(16)), known, jump=2, repeats=repeats)
        drawn = sampler.sample(empty, Generator(0))
        assert torch.equal(drawn["bond"][held], known["bond"][held])
        states = torch.cat([drawn[name].reshape(n, 2) for name in ("kind", "bond")], 1)
        share = torch.bincount(states @ torch.tensor([8, 4, 2, 1]), minlength=16) / n
        gaps.append(0.5 * float((share - truth / truth.sum()).abs().sum()))
    assert gaps[1] < gaps[0] - 0.03
    assert gaps[2] < 0.7 * gaps[0], gaps


def test_samplers_with_a_history_are_refused_and_others_are_not():
    denoiser, known = correlated(), half_known(4)
    empty, grid = Batch.of(torch.zeros(4, 2)), UniformTime(4)
    with pytest.raises(ValueError, match="Multistep keeps a history"):
        RePaint(Multistep(denoiser, grid), known).sample(empty, Generator(0))
    one = RePaint(Multistep(denoiser, grid, order=1), known).sample(empty, Generator(0))
    ddim = RePaint(DDIM(denoiser, grid), known).sample(empty, Generator(0))
    assert torch.equal(one["x"], ddim["x"])


def test_what_does_not_fit_is_refused():
    denoiser, known = correlated(), half_known(4)
    sampler = DDPM(denoiser, UniformTime(4))
    for wrong in ({"jump": 0}, {"repeats": 0}):
        with pytest.raises(ValueError, match="jump and repeats must be at least 1, got"):
            RePaint(sampler, known, **wrong)
    cold = correlated()
    cold.process = Product({"x": Blur(Flow(), (2,))})
    with pytest.raises(ValueError, match="must be Markov to go back .* Product is not"):
        RePaint(DDPM(cold, UniformTime(4)), known)
    other = Batch.of({"y": torch.zeros(4, 2)}).with_given({"y": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"the process has leaves \['x'\], the batch \['y'\]"):
        RePaint(sampler, other)
    with pytest.raises(ValueError, match="rows must agree"):
        RePaint(sampler, known).sample(Batch.of(torch.zeros(5, 2)), Generator(0))


@pytest.mark.parametrize("name", ["atoms", "angle", "turn"])
def test_entries_of_leaves_that_are_held_by_rows_are_refused(name):
    denoiser, known = opinionated(), clean(everything(), SIZES)
    entries = {name: torch.ones_like(known[name], dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"held must be \(rows,\) .*: hold whole rows"):
        RePaint(DDPM(denoiser, UniformTime(4)), known.with_given(entries))
