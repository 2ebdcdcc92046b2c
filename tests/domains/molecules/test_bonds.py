"""Bonds as a part of molecules, of records and of what a model generates."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.bonding import bonds, inferred
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.data import embedded
from structdiff.domains.molecules.fragments import random_fragments, with_core
from structdiff.domains.molecules.recipe import MoleculesConfig, build, objective_of
from structdiff.domains.molecules.structures import AROMATIC, Bonds, Structures
from structdiff.layout import Layout
from structdiff.nn import PairNetwork
from structdiff.random import Generator
from structdiff.schedules import Geometric


@pytest.fixture(scope="module")
def known():
    """Molecules with bonds."""
    found, reasons = assigned(embedded().select(range(80)))
    assert sum(not reason for reason in reasons) == len(found) > 60
    return found


def triples(structures):
    """(molecule, atoms counted in it, order) of each bond."""
    return [
        (m, i, j, order)
        for m, local in enumerate(structures.bond.split(structures))
        for i, j, order in zip(*local.pair.tolist(), local.order.tolist(), strict=True)
    ]


def test_bonds_follow_their_molecules(known):
    chosen = [7, 2, 2, 40]
    found = known.select(chosen)
    for place, m in enumerate(chosen):
        mine = [row[1:] for row in triples(known) if row[0] == m]
        assert [row[1:] for row in triples(found) if row[0] == place] == mine
    again = Structures.concatenate([known.select([7, 2]), known.select([2, 40])])
    assert triples(again) == triples(found)
    bare = replace(known.select([0]), bond=None)
    assert Structures.concatenate([found, bare]).bond is None


def test_bonds_of_heavy_atoms_are_left_without_hydrogens(known):
    heavy = known.without_hydrogens()
    symbols = [known.molecule(m)[0] for m in range(len(known))]
    for m, number in enumerate(symbols):
        rank = np.cumsum(number != 1) - 1
        want = [
            (rank[i], rank[j], order)
            for k, i, j, order in triples(known)
            if k == m and number[i] != 1 and number[j] != 1
        ]
        assert [row[1:] for row in triples(heavy) if row[0] == m] == want


def test_bonds_that_a_molecule_came_with_are_believed():
    far = Structures(np.eye(3)[:2] * 5, [6, 8], [2])
    assert len(bonds(far)) == 0
    double = Bonds(np.array([[0], [1]]), np.array([2]), np.array([0]))
    carbonyl = replace(far, bond=double)
    assert bonds(carbonyl).order.tolist() == [2]
    assert len(inferred(carbonyl)) == 0
    assert judge(carbonyl)[0].smiles == "C=O"
    assert judge(carbonyl)[0].connected


@pytest.mark.parametrize(
    ("pair", "order", "molecule", "says"),
    [
        ([[0], [2]], [1], [0], "one molecule"),
        ([[1], [0]], [1], [0], "i < j"),
        ([[0], [9]], [1], [0], "i < j"),
        ([[0], [1]], [5], [0], "bond.order must be"),
        ([[0], [1]], [1, 1], [0], "2 orders"),
    ],
)
def test_bonds_that_do_not_fit_are_refused(pair, order, molecule, says):
    bond = Bonds(np.array(pair), np.array(order), np.array(molecule))
    with pytest.raises(ValueError, match=says):
        Structures(np.zeros((4, 3)), [6, 6, 6, 6], [2, 2], bond=bond)


@pytest.mark.parametrize("aromatic", [False, True])
def test_bonds_survive_the_record(aromatic):
    found, _ = assigned(embedded().select(range(80)), aromatic=aromatic)
    codec = MoleculeCodec.fit(found, bonds="aromatic" if aromatic else "kekulized")
    assert len(codec.bond_counts) == (5 if aromatic else 4)
    assert sum(codec.bond_counts) == sum(n * (n - 1) // 2 for n in found.count.tolist())
    again = MoleculeCodec.from_state(codec.state())
    batch = again.encode(found)
    assert batch.layouts["bond"].rows == sum(codec.bond_counts)
    assert triples(again.decode(batch)) == triples(found)
    chosen = batch.select([5, 0])
    assert triples(codec.decode(chosen)) == triples(found.select([5, 0]))


def test_masked_bonds_are_none(known):
    codec = MoleculeCodec.fit(known, bonds="kekulized")
    batch = codec.encode(known)
    masked = batch.with_leaves({**batch.leaves, "bond": torch.full_like(batch["bond"], 4)})
    assert len(codec.decode(masked).bond) == 0


def test_orders_that_training_had_not_are_refused(known):
    codec = MoleculeCodec.fit(known, bonds="kekulized")
    ringed, _ = assigned(known, aromatic=True)
    assert (ringed.bond.order == AROMATIC).any()
    with pytest.raises(ValueError, match="the model knows the orders 1 to 3"):
        codec.encode(ringed)
    with pytest.raises(ValueError, match="bonds of the molecules are not known"):
        codec.encode(replace(known, bond=None))


def config(**settings):
    base = {"network": {"layers": 2, "width": 8, "hidden": 8, "basis": 6}}
    return MoleculesConfig.model_validate({"data": {"bonds": "kekulized"}, **base, **settings})


def test_bonds_are_noised_first_and_drawn_last_by_their_window(known):
    """MolDiff's order by one setting, and the other way round by another."""
    codec = MoleculeCodec.fit(known, bonds="kekulized")
    batch = codec.encode(known)
    sigma = torch.tensor([0.05, 0.3, 1.0, 2.0], dtype=torch.float64)
    for noise, first, last in (
        ({"bond_from": 0.03, "bond_to": 0.6}, "bond", "element"),
        ({"bond_from": 3.5, "bond_to": 7.0}, "element", "bond"),
    ):
        chosen = config(noise=noise)
        process = build(chosen, codec).process.bind(batch)
        times = Geometric(0.005, 8.0).time(-torch.log(sigma))
        shares = {}
        for name in ("element", "bond"):
            shares[name] = [
                (
                    process.diffuse(batch.leaves, process.times(t), Generator(0))[name]
                    != batch[name]
                )
                .double()
                .mean()
                .item()
                for t in times
            ]
        assert shares[first][1] > shares[last][1] + 0.3
        assert shares[last][0] == 0.0
        assert shares[first][-1 if first == "bond" else 3] > 0.8


def test_the_loss_sees_bonds_and_its_gradient_reaches_their_head(known):
    codec = MoleculeCodec.fit(known, bonds="kekulized")
    denoiser, objective = build(config(), codec), objective_of(config(), codec)
    terms = objective(denoiser, codec.encode(known), Generator(0))
    assert set(terms.leaves) == {"position", "element", "bond"}
    terms.leaves["bond"].mean().backward()
    network = denoiser.backbone.network
    assert isinstance(network, PairNetwork)
    assert network.told.out.weight.grad.abs().max() > 0
    assert network.known.weight.grad.abs().max() > 0


def test_a_given_core_brings_its_bonds(known):
    codec = MoleculeCodec.fit(known, bonds="kekulized")
    core = known.select([3])
    atoms = int(core.count[0])
    counts = [atoms + 2, atoms + 5, atoms]
    layouts = codec.layouts(counts)
    denoiser = build(config(), codec)
    blank = codec.encode(known.select([0])).select([0, 0, 0])
    leaves = denoiser.process.empty({n: x.rows for n, x in layouts.items()})
    blank = replace(blank, leaves=leaves, layouts=layouts, condition={}, present={})
    given = with_core(blank, codec, core)
    for m in range(3):
        chosen = given.select([m])
        nodes, held = chosen.layouts["bond"].nodes, chosen.given["bond"]
        assert held.tolist() == (nodes < atoms).all(0).tolist()
        rows = [row[1:] for row in triples(codec.decode(chosen)) if max(row[1:3]) < atoms]
        assert rows == [row[1:] for row in triples(core)]


def test_bonds_inside_a_random_fragment_are_given(known):
    codec = MoleculeCodec.fit(known, bonds="kekulized")
    batch = codec.encode(known)
    found = random_fragments(batch, Generator(0), torch.ones(len(known), dtype=torch.bool))
    held = found.given["position"]
    nodes = found.layouts["bond"].nodes
    assert 0 < found.given["bond"].double().mean() < 1
    assert torch.equal(found.given["bond"], held[nodes[0]] & held[nodes[1]])


@pytest.mark.parametrize("kind", ["pairs", "egnn", "painn", "chiral_painn", "graph_transformer"])
@pytest.mark.parametrize("told", ["none", "kekulized"])
def test_networks_are_swapped_by_one_value(kind, told, known):
    """Every network trains on both recipes, with the previous estimate and without."""
    for self_conditioning in (False, True):
        small = {"layers": 2, "width": 8, "hidden": 8, "basis": 6}
        network = {**small, "kind": kind, "self_conditioning": self_conditioning}
        chosen = config(data={"bonds": told}, network=network)
        codec = MoleculeCodec.fit(known, bonds=told)
        denoiser = build(chosen, codec)
        terms = objective_of(chosen, codec)(denoiser, codec.encode(known), Generator(1))
        sum(term.mean() for term in terms.leaves.values()).backward()
        heads = {n: p for n, p in denoiser.named_parameters() if p.grad is not None}
        assert all(p.grad.isfinite().all() for p in heads.values())
        assert sum(p.grad.abs().sum() for p in heads.values()) > 0


def test_aromatic_bonds_need_hydrogens():
    with pytest.raises(ValueError, match="cannot be aromatic with implicit hydrogens"):
        config(data={"bonds": "aromatic", "hydrogens": "implicit"})


def test_molecules_whose_bonds_are_not_known_say_why():
    water = ([8, 1, 1], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    found, reasons = assigned(Structures.from_list([([8, 1], np.eye(3)[:2]), water]))
    assert reasons == ["an atom has no allowed valency by the distances", ""]
    assert triples(found) == [(0, 0, 1, 1), (0, 0, 2, 1)]


def test_layouts_of_pairs_are_those_of_the_network(known):
    """Bond rows and the network's own pairs are in one order."""
    from structdiff.nn import Pairs

    layout = Layout.ragged(known.count.tolist())
    pairs = Pairs.complete(layout)
    assert torch.equal(Layout.pairs(layout).nodes, torch.stack([pairs.first, pairs.second]))


def test_a_thioether_is_stable_by_its_own_bonds_and_not_by_the_table():
    """EDM's table knows four bonds of sulphur alone; bonds that are known may be two."""
    xyz = np.array([[0.0, 0, 0], [1.8, 0, 0]])
    methyl = np.array([[0.5, 1, 0], [0.5, -0.5, 0.9], [0.5, -0.5, -0.9]])
    place = np.concatenate([xyz[:1], xyz[1:], -methyl, [[2.2, 1.3, 0]]])
    pair = np.array([[0, 0, 0, 0, 1], [1, 2, 3, 4, 5]])
    bond = Bonds(pair, np.ones(5, np.int64), np.zeros(5, np.int64))
    thiol = Structures(place, [6, 16, 1, 1, 1, 1], [6], bond=bond)
    (verdict,) = judge(thiol)
    assert verdict.smiles == "CS"
    assert verdict.stable
    assert verdict.reasons == ()


def test_scores_say_which_molecules_have_no_bonds(known):
    """A model of bonds scores molecules by their bonds; those without known ones say why."""
    from structdiff.domains.molecules.reports.scoring import score

    codec, settings = MoleculeCodec.fit(known, bonds="kekulized"), config()
    bare = replace(known.select([0, 1]), bond=None)
    odd = replace(bare, position=bare.position * 1.3)
    both = Structures.concatenate([bare, odd])
    found = score(build(settings, codec), codec, settings, both, draws=2, steps=4, progress=False)
    assert list(found.reasons[:2]) == ["", ""]
    assert all("no allowed valency" in reason for reason in found.reasons[2:])
    assert "bond" in found.bound.prior
    with pytest.raises(ValueError, match="The model knows bonds"):
        score(build(settings, codec), codec, settings, odd, draws=2, steps=4, progress=False)


def test_a_core_with_aromatic_bonds_is_written_as_the_model_has_them(known):
    from structdiff.domains.molecules.fragments import part_of

    ringed, _ = assigned(known, aromatic=True)
    place = int(ringed.bond.molecule[np.flatnonzero(ringed.bond.order == AROMATIC)[0]])
    core = ringed.select([place])
    codec = MoleculeCodec.fit(known, bonds="kekulized")
    assert triples(part_of(core, codec)) == triples(known.select([place]))
    plain = MoleculeCodec.fit(known)
    assert part_of(core, plain).bond is None
    aromatic = MoleculeCodec.fit(ringed, bonds="aromatic")
    assert triples(part_of(known.select([place]), aromatic)) == triples(core)


def test_the_network_sees_the_clock_of_each_leaf(known):
    """A leaf that is a little noisier alone changes what is said of all."""
    codec = MoleculeCodec.fit(known, bonds="kekulized")
    backbone = build(config(), codec).backbone
    batch = codec.encode(known.select(range(5)))
    clock = {name: torch.tensor(0.3) for name in batch.leaves}
    usual = backbone(batch, clock, None)
    for name in batch.leaves:
        moved = backbone(batch, {**clock, name: torch.tensor(1.1)}, None)
        assert all((moved[n] - usual[n]).abs().max() > 1e-6 for n in usual), name


def test_pairs_see_the_distances_and_bonds_of_the_previous_estimate(known):
    network = {"layers": 2, "width": 8, "hidden": 8, "basis": 6, "self_conditioning": True}
    codec = MoleculeCodec.fit(known, bonds="kekulized")
    backbone = build(config(network=network), codec).backbone
    batch, seen = codec.encode(known.select(range(4))), []
    backbone.network.register_forward_pre_hook(
        lambda _, __, named: seen.append(named["pair_features"]), with_kwargs=True
    )
    torch.manual_seed(0)
    position = torch.randn_like(batch["position"]) * 3
    bond = torch.log_softmax(torch.randn(batch["bond"].shape[0], 4), 1)
    element = torch.zeros(len(position), len(codec.types))
    clock = {name: torch.tensor(0.3) for name in batch.leaves}
    backbone(batch, clock, {"position": position, "element": element, "bond": bond})
    i, j = batch.layouts["bond"].nodes
    length = (position[i] - position[j]).norm(dim=1)
    centres = torch.linspace(np.log(0.8), np.log(12.0), 16)
    width = centres[1] - centres[0]
    want = torch.exp(-(((length.log()[:, None] - centres) / width) ** 2) / 2)
    torch.testing.assert_close(seen[0][:, -20:-4], want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen[0][:, -4:], bond.exp())


def test_a_core_keeps_the_bonds_that_it_came_with(known):
    """They are not those of its distances: a single length that is said to be double."""
    codec = MoleculeCodec.fit(known, bonds="kekulized")
    bond = Bonds(np.array([[0], [1]]), np.array([2]), np.array([0]))
    core = Structures(np.array([[0.0, 0, 0], [1.54, 0, 0]]), [6, 6], [2], bond=bond)
    assert inferred(core).order.tolist() == [1]
    blank = codec.encode(known.select([0]))
    assert triples(codec.decode(with_core(blank, codec, core)))[0] == (0, 0, 1, 2)


def test_settings_of_bonds_reach_bonds_alone(known):
    codec = MoleculeCodec.fit(known, bonds="kekulized")
    batch = codec.encode(known)
    terms = {}
    for weight in (1.0, 2.0):
        chosen = config(loss={"bond_weight": weight})
        terms[weight] = objective_of(chosen, codec)(build(chosen, codec), batch, Generator(0))
    one, two = (terms[weight].leaves for weight in (1.0, 2.0))
    torch.testing.assert_close(two["bond"], 2 * one["bond"])
    torch.testing.assert_close(two["element"], one["element"])
    process = build(config(noise={"bond": "uniform"}), codec).process
    assert process["element"].transition.symbols == len(codec.types) + 1
    assert process["bond"].transition.symbols == len(codec.bond_counts)


def test_bonds_are_part_of_what_tells_molecules_apart(known):
    other = replace(known, bond=replace(known.bond, order=np.roll(known.bond.order, 1)))
    assert other.identity() != known.identity()
    assert replace(known, bond=known.bond).identity() == known.identity()


def test_aromatic_rings_are_judged_as_their_kekule_forms():
    """Pyrrole: counted by halves its nitrogen would have four bonds."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    from structdiff.domains.molecules.aromaticity import aromatised
    from structdiff.domains.molecules.chemistry import atom_valency
    from structdiff.domains.molecules.mols import bonds_of

    mol = Chem.AddHs(Chem.MolFromSmiles("c1cc[nH]c1"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    number = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    pairs = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    order = [int(b.GetBondTypeAsDouble()) for b in mol.GetBonds()]
    ends = np.sort(np.array(pairs).T, 0)
    assert bonds_of(mol) is not None
    bond = Bonds(ends, np.array(order), np.zeros(len(order), np.int64))
    lined = Structures(mol.GetConformer().GetPositions(), number, [len(number)], bond=bond)
    ringed, _ = aromatised(lined)
    assert (ringed.bond.order == AROMATIC).sum() == 5
    assert judge(ringed) == judge(lined)
    assert judge(ringed)[0].stable
    carbons = np.flatnonzero(np.array(number) == 6)
    assert atom_valency(ringed, ringed.bond)[carbons].tolist() == [4] * 4


def test_aromatic_models_know_aromatic_bonds_that_only_validation_has(known):
    """Whether there is such a class is said by the setting, not by the molecules of a part."""
    ringed, _ = assigned(known, aromatic=True)
    has = np.unique(ringed.bond.molecule[ringed.bond.order == AROMATIC])
    without = ringed.select(np.setdiff1d(np.arange(len(ringed)), has))
    codec = MoleculeCodec.fit(without, bonds="aromatic")
    assert codec.bond_counts[AROMATIC] == 0
    batch = codec.encode(ringed)
    assert triples(MoleculeCodec.from_state(codec.state()).decode(batch)) == triples(ringed)
    for kind in ("absorbing", "marginal"):
        chosen = config(data={"bonds": "aromatic"}, noise={"bond": kind})
        terms = objective_of(chosen, codec)(build(chosen, codec), batch, Generator(0))
        assert terms.leaves["bond"].isfinite().all()


def test_heavy_atoms_alone_have_no_bonds_by_distance(tmp_path):
    from structdiff.domains.molecules.loading import load_data
    from structdiff.domains.molecules.output import write

    heavy = embedded().select(range(30)).without_hydrogens()
    path = tmp_path / "heavy.npz"
    write(path, heavy, judge(heavy))
    data = {"path": str(path), "bonds": "kekulized", "hydrogens": "implicit"}
    with pytest.raises(ValueError, match="bonds do not follow from distances without hydrogens"):
        load_data(config(data=data))
