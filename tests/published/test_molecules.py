"""Published models of molecules: in a pocket, with guided bonds, without a frame."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    Batch,
    Categorical,
    Denoiser,
    Denoising,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    NetworkDenoiser,
    Product,
    UniformLogSNR,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.domains.molecules.fragments import anchored
from structdiff.domains.molecules.network import MoleculeBackbone
from structdiff.guidance import Rewarded
from structdiff.objectives import UniformTimes
from structdiff.parameterisations import Data
from structdiff.processes import Estimate, Process
from structdiff.samplers import Ancestral
from structdiff.schedules import Window
from structdiff.spaces import ZeroCentre
from structdiff.testing import ExactDenoiser
from tests.published.draws import normal, uniforms

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
