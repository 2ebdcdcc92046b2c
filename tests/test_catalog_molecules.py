"""Published models of molecules, proteins and cells, made of the parts there are."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Denoiser,
    Denoising,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Guided,
    Layout,
    Linear,
    NetworkDenoiser,
    Product,
    UniformLogSNR,
    UniformTime,
    absorbing,
    bound,
    uniform,
)
from structdiff.domains.molecules.fragments import anchored
from structdiff.domains.molecules.network import MoleculeBackbone
from structdiff.guidance import Linearised, Rewarded
from structdiff.objectives import UniformTimes
from structdiff.parameterisations import Data
from structdiff.processes import Estimate, Process
from structdiff.samplers import Ancestral
from structdiff.schedules import Window
from structdiff.spaces import SO3, ZeroCentre
from structdiff.testing import Addressed, ExactDenoiser


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniforms(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# Backbones of proteins: places, frames and types of residues.


def residues() -> Product:
    """R^3 without its centre x SO(3) under IGSO(3) x types."""
    return Product(
        {
            "place": Gaussian(Linear(), event=(3,), space=ZeroCentre()),
            "frame": Brownian(Geometric(0.05, 3.0), SO3()),
            "type": Categorical(Flow(), uniform(5)),
        }
    )


def chains(samples: int, length: int) -> Batch:
    """Chains of residues at random."""
    layout = Layout.ragged([length] * samples)
    rows = samples * length
    place = ZeroCentre().project(2 * normal(rows, 3, seed=1), layout, None)
    frame = SO3().exp(torch.eye(3).expand(rows, 3, 3), 2 * normal(rows, 3, seed=2))
    kinds = (5 * uniforms(rows, seed=3)).long()
    leaves = {"place": place, "frame": frame, "type": kinds}
    return Batch(leaves, dict.fromkeys(leaves, layout))


def test_the_bound_of_places_frames_and_types_is_the_sum_of_their_bounds() -> None:
    """Of independent parts; each alone, with the same noise."""
    process: Any = residues()
    names, two = list(process.offering(Process)), chains(2, 3)
    index = torch.cartesian_prod(*[torch.arange(2)] * 3)
    layout = Layout.ragged([3] * 8)

    def part(name: str, which: Tensor) -> Tensor:
        return two[name].reshape(2, 3, *two[name].shape[1:])[which].flatten(0, 1)

    leaves = {name: part(name, index[:, k]) for k, name in enumerate(names)}
    data = Batch(leaves, dict.fromkeys(names, layout))
    grid = UniformTime(5)
    report = bound(ExactDenoiser(process, data), data, grid, Addressed(3))
    total = torch.zeros(8)
    for name in names:
        own = Product({name: process[name]})
        alone = ExactDenoiser(own, Batch({name: two[name]}, {name: two.layouts[name]}))
        here = Batch({name: leaves[name]}, {name: layout})
        found = bound(alone, here, grid, Addressed(3))
        torch.testing.assert_close(found.total, report.leaf(name), rtol=1e-9, atol=1e-9)
        total = total + found.total
    torch.testing.assert_close(report.total, total, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_frames_turn_with_the_places(time: float) -> None:
    """A turned chain has the turned estimate: places turn, velocities of frames are their own."""
    process, data, turn = residues(), chains(5, 4), chains(1, 1)["frame"][0]

    def turned(batch: Batch) -> Batch:
        place, frame = batch["place"] @ turn.T, turn @ batch["frame"]
        return batch.with_leaves({**batch.leaves, "place": place, "frame": frame})

    bind: Any = process.bind(data)
    t = bind.times(torch.tensor(time))
    noisy = data.with_leaves(bind.diffuse(data.leaves, t, Generator(0)))
    said = ExactDenoiser(process, data)(noisy, t)
    again = ExactDenoiser(process, turned(data))(turned(noisy), t)
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(again["place"].value, said["place"].value @ turn.T, **close)
    torch.testing.assert_close(again["frame"].value, said["frame"].value, **close)
    torch.testing.assert_close(again["type"].value.exp(), said["type"].value.exp(), **close)
    assert said["frame"].value.norm(dim=1).max() > 1e-3


def test_frames_are_noised_by_igso3() -> None:
    """The law of the angle is the character series, summed here."""
    process: Any = residues()
    frame = SO3().exp(torch.eye(3).expand(4000, 3, 3), normal(4000, 3))
    leaf = process["frame"].bind(Batch.of({"frame": frame}))
    time = torch.tensor(0.8)
    noisy = leaf.diffuse(frame, time, Generator(1))
    angle = SO3().log(frame, noisy).norm(dim=1).sort().values
    tau = float(leaf.schedule(time).sigma) ** 2
    w = torch.linspace(1e-6, math.pi, 2001)
    orders = torch.arange(0.0, 60.0)[:, None]
    series = (2 * orders + 1) * torch.exp(-orders * (orders + 1) * tau / 2)
    series = (series * torch.sin((orders + 0.5) * w) / torch.sin(w / 2)).sum(0)
    density = (1 - torch.cos(w)) / math.pi * series
    law = torch.cumulative_trapezoid(density, w)
    assert float(law[-1]) == pytest.approx(1, abs=1e-5)
    found = torch.searchsorted(angle, w[1:]) / len(angle)
    assert (found - law).abs().max() < 1.63 / math.sqrt(len(angle))  # Kolmogorov-Smirnov, 1 %


def test_chains_come_back_whole() -> None:
    """Places, frames and types of one chain together, not of different ones."""
    process, data = residues(), chains(3, 4)
    walk = Ancestral(ExactDenoiser(process, data), UniformTime(60), eta=1.0)
    blank = data.select([0] * 90)
    blank = Batch(blank.leaves, blank.layouts)
    drawn = walk.sample(blank, Generator(2))
    kinds = drawn["type"].reshape(90, 1, 4) == data["type"].reshape(1, 3, 4)
    which = kinds.all(2).int().argmax(1)
    assert kinds.all(2).any(1).double().mean() > 0.95
    assert (torch.bincount(which, minlength=3) > 10).all()
    gap = (drawn["place"].reshape(90, 4, 3) - data["place"].reshape(3, 4, 3)[which]).norm(dim=2)
    angle = SO3().log(drawn["frame"], data["frame"].reshape(3, 4, 3, 3)[which].flatten(0, 1))
    assert (gap.amax(1) < 0.2).double().mean() > 0.95
    assert (angle.norm(dim=1).reshape(90, 4).amax(1) < 0.3).double().mean() > 0.95


# Molecules in a pocket: some atoms are given and fix the frame.


def in_pocket(samples: int = 3) -> tuple[NetworkDenoiser, Batch, Tensor]:
    """An untrained model that predicts x_0, and molecules of 4 atoms in a pocket of 6."""
    kinds = 4
    process = Product(
        {
            "position": Gaussian(Geometric(0.01, 8.0), Data(), event=(3,), space=ZeroCentre()),
            "element": Categorical(Window(Flow(), 0.3, 0.9), uniform(kinds)),
        }
    )
    torch.manual_seed(0)
    backbone = MoleculeBackbone(kinds, kinds, 1.5, layers=2, width=8, hidden=8, basis=6)
    layout = Layout.ragged([10] * samples)
    pocket = (torch.arange(10) < 6).repeat(samples)
    position = 3 * normal(10 * samples, 3, seed=4) + 20
    element = (kinds * uniforms(10 * samples, seed=5)).long()
    batch = Batch(
        {"position": position, "element": element}, {"position": layout, "element": layout}
    ).with_given({"position": pocket, "element": pocket})
    return NetworkDenoiser(backbone.double(), process), anchored(batch), pocket


def test_the_pocket_is_fixed_and_its_centre_is_the_origin() -> None:
    denoiser, batch, pocket = in_pocket()
    layout = batch.layouts["position"]
    centre = layout.sum(batch["position"] * pocket[:, None])
    assert centre.abs().max() < 1e-12
    walk = Ancestral(denoiser, UniformLogSNR(Geometric(0.01, 8.0), 12), eta=1.0)
    states: list[dict[str, Tensor]] = []
    with torch.no_grad():
        drawn = walk.sample(batch, Generator(0), lambda _, carry: states.append(dict(carry.x)))
    for state in (*states, drawn.leaves):
        assert torch.equal(state["position"][pocket], batch["position"][pocket])
        assert torch.equal(state["element"][pocket], batch["element"][pocket])
    # What is drawn keeps its own centre: it is not projected.
    free = states[0]["position"][~pocket].reshape(-1, 4, 3).mean(1)
    assert free.norm(dim=1).min() > 0.1


def test_a_moved_pocket_moves_what_is_drawn() -> None:
    """What is drawn is relative to the pocket's centre."""
    denoiser, batch, _ = in_pocket()
    walk = Ancestral(denoiser, UniformLogSNR(Geometric(0.01, 8.0), 8), eta=1.0)
    away = batch.with_leaves({**batch.leaves, "position": batch["position"] + 7})
    with torch.no_grad():
        first, second = (walk.sample(anchored(b), Generator(1)) for b in (batch, away))
    torch.testing.assert_close(first["position"], second["position"], rtol=0, atol=1e-9)
    assert torch.equal(first["element"], second["element"])


def test_the_joint_loss_in_a_pocket_is_that_of_the_molecule_alone() -> None:
    """Finite for both leaves; what the network says of the pocket costs nothing."""
    denoiser, batch, pocket = in_pocket()
    objective = Denoising(times=UniformTimes(0.5, 0.85))
    terms = objective(denoiser, batch, Generator(2))
    assert set(terms.leaves) == {"position", "element"}
    assert all(term.isfinite().all() and (term > 0).all() for term in terms.leaves.values())

    class Spoilt(Denoiser):
        """The same estimates but for those of the pocket."""

        def __init__(self) -> None:
            super().__init__()
            self.process = denoiser.process

        def forward(self, batch: Batch, t: Any, previous: Any = None) -> Any:
            said = dict(denoiser(batch, t, previous))
            moved = said["position"].value + 100.0 * pocket[:, None]
            kinds = torch.where(pocket[:, None], -3.0, said["element"].value)
            return {"position": Estimate(moved), "element": Estimate(kinds)}

    again = objective(Spoilt(), batch, Generator(2))
    for name, term in terms.leaves.items():
        torch.testing.assert_close(again.leaves[name], term)
    terms.total.backward()
    assert all(p.grad.isfinite().all() for p in denoiser.parameters() if p.grad is not None)


# Bonds: guided by what they are to be.

_VALENCE = 4.0


class Loose(Denoiser):
    """Bonds that know nothing of each other: none, single, double or triple."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process
        self.chances = torch.tensor([0.35, 0.35, 0.2, 0.1])

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Any:
        process: Any = self.process.bind(batch)
        output = self.chances.log().expand(len(batch["bond"]), 4)
        bond = process["bond"].decode(output, batch["bond"], t["bond"])
        return {"position": Estimate(0.5 * batch["position"]), "bond": bond}


def orders_at_atoms(orders: Tensor, layout: Layout, atoms: int) -> Tensor:
    """Sum of the orders of the bonds of each atom, `(rows,)`."""
    assert layout.nodes is not None
    both = orders.new_zeros(atoms)
    return both.index_add(0, layout.nodes[0], orders).index_add(0, layout.nodes[1], orders)


def overvalence(said: Any, batch: Batch) -> Tensor:
    """How far the expected orders at atoms are above four, squared, of each sample; negative."""
    expected = said["bond"].value.exp() @ torch.arange(4.0)
    atoms = batch.layouts["position"]
    found = orders_at_atoms(expected, batch.layouts["bond"], atoms.rows)
    return -atoms.sum(torch.relu(found - _VALENCE).square())


def test_bonds_guided_by_a_valence_keep_it_more_often() -> None:
    """A reward on the bonds' probabilities; at scale 0 the walk is the unguided one."""
    process = Product(
        {
            "position": Gaussian(Geometric(0.01, 8.0), event=(3,), space=ZeroCentre()),
            "bond": Categorical(Window(Flow(), 0.1, 0.6), absorbing(4)),
        }
    )
    atoms = Layout.ragged([6] * 80)
    layouts = {"position": atoms, "bond": Layout.pairs(atoms)}
    blank = Batch(process.empty({n: x.rows for n, x in layouts.items()}), layouts)
    grid, plain = UniformLogSNR(Geometric(0.01, 8.0), 40), Loose(process)

    def drawn(denoiser: Denoiser) -> Tensor:
        with torch.no_grad():
            return Ancestral(denoiser, grid, eta=1.0).sample(blank, Generator(0))["bond"]

    free = drawn(plain)
    assert torch.equal(drawn(Rewarded(plain, overvalence, 0.0)), free)

    def over(bond: Tensor) -> float:
        found = orders_at_atoms(bond.double(), layouts["bond"], atoms.rows)
        return float((found > _VALENCE).double().mean())

    guided = drawn(Rewarded(plain, overvalence, 3.0))
    assert over(free) > 0.5
    assert over(guided) < 0.5 * over(free)
    assert float((guided > 0).double().mean()) > 0.1  # bonds there are


# Cells of neural architectures: directed acyclic graphs with an operation at each node.

NODES, KINDS = 5, 3


def cells(count: int = 24) -> Batch:
    """Random cells: edges of the ordered nodes i < j, operations of the nodes."""
    nodes = Layout.ragged([NODES] * count)
    edges = Layout.pairs(nodes)
    edge = torch.where(uniforms(edges.rows, seed=6) < 0.5, 1.0, -1.0)
    kinds = (KINDS * uniforms(nodes.rows, seed=7)).long()
    return Batch({"edge": edge, "kind": kinds}, {"edge": edges, "kind": nodes})


def adjacency(batch: Batch) -> Tensor:
    """The decoded matrices, `(samples, nodes, nodes)`: an edge where the value is positive."""
    layout = batch.layouts["edge"]
    assert layout.nodes is not None
    i, j = layout.nodes - layout.sample * NODES
    found = torch.zeros(batch.samples, NODES, NODES)
    return found.index_put((layout.sample, i, j), (batch["edge"] > 0).double())


def score(edge: Tensor, kind: Tensor, batch: Batch) -> Tensor:
    """A predictor of how good a cell is: many edges, and operations of the last kind; smooth."""
    edges, nodes = batch.layouts["edge"], batch.layouts["kind"]
    vectors = kind if kind.is_floating_point() else F.one_hot(kind, KINDS).double()
    worth = vectors[:, :KINDS] @ torch.tensor([-0.5, 0.0, 0.5])
    return edges.sum(torch.tanh(edge)) / 2 + nodes.sum(worth)


def search() -> tuple[ExactDenoiser, Batch, Any]:
    process = Product({"edge": Gaussian(Linear()), "kind": Categorical(Flow(), uniform(KINDS))})
    data = cells()
    index = torch.zeros(150, dtype=torch.long)
    return ExactDenoiser(process, data), replace(data.select(index), ids=torch.arange(150)), data


def drawn_cells(denoiser: Denoiser, blank: Batch) -> Batch:
    with torch.no_grad():
        return Ancestral(denoiser, UniformTime(20), eta=1.0).sample(blank, Generator(3))


def test_generated_cells_are_acyclic() -> None:
    """Edges of ordered nodes: no product of n steps leads anywhere, and they are the data's."""
    denoiser, blank, data = search()
    found = adjacency(drawn_cells(denoiser, blank))
    assert torch.linalg.matrix_power(found, NODES).abs().max() == 0
    assert found.sum() > 0 and torch.tril(found).abs().max() == 0
    rows = found.flatten(1)[:, None] == adjacency(data).flatten(1)
    assert rows.all(2).any(1).double().mean() > 0.95


def test_a_predictor_raises_the_mean_score_of_cells() -> None:
    """Guided by its gradient and differences, and by a reward of the estimate; still acyclic."""
    denoiser, blank, _ = search()

    def scores(batch: Batch) -> Tensor:
        return score(batch["edge"], batch["kind"], batch)

    def of_estimates(said: Any, batch: Batch) -> Tensor:
        return score(said["edge"].value, said["kind"].value.exp(), batch)

    free = scores(drawn_cells(denoiser, blank))
    error = float(free.std()) / math.sqrt(len(free))
    guided = Guided(denoiser, lambda b, t: score(b["edge"], b["kind"], b), 1.5, Linearised())
    for steered in (guided, Rewarded(denoiser, of_estimates, 1.5)):
        found = drawn_cells(steered, blank)
        assert float(scores(found).mean()) > float(free.mean()) + 6 * error
        assert torch.linalg.matrix_power(adjacency(found), NODES).abs().max() == 0


# Molecules without a frame: the subspace of zero centre.


def test_every_state_of_a_walk_has_its_centre_at_the_origin() -> None:
    """To 1e-5 in float32, for molecules of several sizes."""
    torch.set_default_dtype(torch.float32)
    process: Any = Product({"x": Gaussian(Linear(), event=(3,), space=ZeroCentre())})
    layout = Layout.ragged([5, 9, 2, 18])
    data = ZeroCentre().project(3 * normal(34, 3).float(), layout, None)
    batch = Batch({"x": data}, {"x": layout})
    states: list[Tensor] = []
    walk = Ancestral(ExactDenoiser(process, batch), UniformTime(15), eta=1.0)
    walk.sample(batch, Generator(0), lambda _, carry: states.append(carry.x["x"]))
    bind = process.bind(batch)
    states += [
        bind.diffuse({"x": data}, {"x": torch.tensor(t)}, Generator(1))["x"] for t in (0.1, 1.0)
    ]
    states.append(bind.prior(Generator(2))["x"])
    for state in states:
        assert layout.mean(state).abs().max() < 1e-5
        assert state.abs().max() > 0.1


@pytest.mark.parametrize("atoms", [2, 5, 18])
def test_densities_are_of_three_n_minus_three_dimensions(atoms: int) -> None:
    """The exact normal log-density in coordinates of an orthonormal basis of the subspace."""
    process: Any = Product({"x": Gaussian(Linear(), event=(3,), space=ZeroCentre())})
    layout = Layout.ragged([atoms])
    x_0 = ZeroCentre().project(normal(atoms, 3), layout, None)
    bind = process.bind(Batch({"x": x_0}, {"x": layout}))
    t = {"x": torch.tensor(0.6)}
    x_t = bind.diffuse({"x": x_0}, t, Generator(0))
    level = process["x"].schedule(t["x"])
    centring = torch.eye(atoms) - 1 / atoms
    _, vectors = torch.linalg.eigh(torch.kron(centring, torch.eye(3)))
    basis = vectors[:, 3:]
    assert basis.shape[1] == 3 * (atoms - 1)
    gap = basis.T @ (x_t["x"] - level.alpha * x_0).flatten()
    exact = torch.distributions.Normal(0.0, float(level.sigma)).log_prob(gap).sum()
    found = bind.log_prob(x_t, {"x": x_0}, t)["x"].sum()
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)
    prior = bind.prior_log_prob(x_t)["x"].sum()
    end = float(process["x"].schedule(torch.tensor(1.0)).sigma)
    placed = basis.T @ x_t["x"].flatten()
    expected = torch.distributions.Normal(0.0, end).log_prob(placed).sum()
    torch.testing.assert_close(prior, expected, rtol=0, atol=1e-9)
