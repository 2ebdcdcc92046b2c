"""Bonds, valencies and verdicts under EDM's protocol."""

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from structdiff.domains.molecules.chemistry import (
    atom_valency,
    bonds,
    judge,
    stable_atoms,
    to_mol,
)
from structdiff.domains.molecules.data import Structures, embedded, read

QM9 = Path(__file__).parents[3].parent / "shared" / "data" / "qm9"
SIDE = 1.09 / np.sqrt(3)
METHANE = (
    [6, 1, 1, 1, 1],
    SIDE * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]),
)
CO2 = ([8, 6, 8], [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]])
ETHANOL = (
    [6, 6, 8, 1, 1, 1, 1, 1, 1],
    [
        [1.1879, -0.3829, 0.0],
        [0.0, 0.5526, 0.0],
        [-1.1867, -0.2472, 0.0],
        [-1.9237, 0.3850, 0.0],
        [2.0985, 0.2306, 0.0],
        [1.1184, -1.0093, 0.8869],
        [1.1184, -1.0093, -0.8869],
        [-0.0227, 1.1812, 0.8852],
        [-0.0227, 1.1812, -0.8852],
    ],
)


def edges(structures):
    found = bonds(structures)
    return sorted(zip(*found.pair.tolist(), found.order.tolist(), strict=True))


def stability(structures):
    atoms = stable_atoms(structures, bonds(structures))
    unstable = np.bincount(structures.owner[~atoms], minlength=len(structures))
    return atoms.mean(), (unstable == 0).mean()


def test_known_molecules_have_their_bonds():
    assert edges(Structures.from_list([METHANE])) == [(0, k, 1) for k in range(1, 5)]
    assert edges(Structures.from_list([CO2])) == [(0, 1, 2), (1, 2, 2)]
    expected = [(0, 1), (0, 4), (0, 5), (0, 6), (1, 2), (1, 7), (1, 8), (2, 3)]
    assert edges(Structures.from_list([ETHANOL])) == [(i, j, 1) for i, j in expected]
    hcn = ([1, 6, 7], [[0, 0, -1.07], [0, 0, 0], [0, 0, 1.156]])
    assert edges(Structures.from_list([hcn])) == [(0, 1, 1), (1, 2, 3)]


@pytest.mark.parametrize(
    ("left", "right", "limit", "below", "above"),
    [
        (6, 6, 1.64, 1, 0),
        (6, 6, 1.39, 2, 1),
        (6, 6, 1.23, 3, 2),
        (6, 7, 1.19, 3, 2),
        (6, 8, 1.25, 2, 1),
        (7, 7, 1.13, 3, 2),
        (1, 1, 0.84, 1, 0),
        (16, 15, 1.91, 2, 1),
        (17, 5, 1.85, 1, 0),
        (53, 53, 2.76, 1, 0),
    ],
)
def test_orders_change_at_the_published_distances(left, right, limit, below, above):
    for distance, order in ((limit - 1e-6, below), (limit + 1e-6, above)):
        pair = Structures.from_list([([left, right], [[0, 0, 0], [0, 0, distance]])])
        assert bonds(pair).order.tolist() == [order] * (order > 0)


def test_molecules_of_a_pack_do_not_touch():
    one = Structures.from_list([CO2])
    many = Structures.from_list([METHANE, CO2, CO2, ETHANOL])
    found = bonds(many)
    assert found.molecule.tolist() == [0] * 4 + [1] * 2 + [2] * 2 + [3] * 8
    third = list(found.split(many))[2]
    assert third.pair.tolist() == bonds(one).pair.tolist()
    assert atom_valency(many, found).tolist() == [4, 1, 1, 1, 1] + 2 * [2, 4, 2] + [
        *(4, 4, 2, 1, 1, 1, 1, 1, 1)
    ]


def test_verdicts_of_known_molecules():
    verdicts = judge(Structures.from_list([METHANE, CO2, ETHANOL]))
    assert [verdict.smiles for verdict in verdicts] == ["C", "O=C=O", "CCO"]
    assert all(v.valid and v.connected and v.stable and not v.reasons for v in verdicts)


def test_reasons_say_which_atom_is_wrong():
    number, position = METHANE
    crowded = ([*number, 1], [*position, [0, 0, 1.0]])
    torn = ([*number, 1, 1], [*position, [0, 0, 9], [0, 0, 9.74]])
    lost = (number, np.full((5, 3), np.nan))
    noble = ([54, 9], [[0, 0, 0], [0, 0, 1.9]])
    under = (number[:4], position[:4])
    five, two, broken, xenon, radical = judge(
        Structures.from_list([crowded, torn, lost, noble, under])
    )
    assert not five.valid and five.smiles is None and five.stable is False
    assert five.reasons[0] == "atom 0 (C) has valence 5, allowed 4"
    assert any(reason.startswith("RDKit: Explicit valence") for reason in five.reasons)
    assert two.valid and not two.connected and two.stable
    assert two.smiles == "C" and two.reasons == ("2 fragments",)
    assert broken.reasons == ("coordinates are not finite",)
    assert not (broken.valid or broken.connected or broken.stable)
    assert "atom 0 (Xe) is not in EDM's tables" in xenon.reasons
    assert radical.valid and radical.stable is False  # EDM: RDKit completes the hydrogens
    assert radical.reasons == ("atom 0 (C) has valence 3, allowed 4",)


def test_a_ball_of_atoms_is_judged_and_not_feared():
    ball = np.random.default_rng(0).normal(size=(200, 3)) / 3
    (verdict,) = judge(Structures.from_list([([6] * 200, ball)]), implicit=False)
    assert not verdict.valid and not verdict.stable and verdict.smiles is None
    assert "has valence" in verdict.reasons[0]
    assert verdict.reasons[4] == "and 196 more such atoms"


def test_an_atom_of_no_element_is_not_valid():
    masked = ([0, *METHANE[0][1:]], METHANE[1])
    both = Structures.from_list([masked, METHANE])
    verdict = judge(both)[0]
    assert not verdict.valid and not verdict.stable and verdict.smiles is None
    assert verdict.reasons[0] == "atom 0 (X) is not in EDM's tables"


def test_phosphorus_has_two_allowed_valencies():
    down = 1.42 * np.array(
        [[0, 0, 1], [0.94, 0, -0.33], [-0.47, 0.82, -0.33], [-0.47, -0.82, -0.33]]
    )
    phosphine = ([15, 1, 1, 1], [[0, 0, 0], *down[1:]])
    four = ([15, 1, 1, 1, 1], [[0, 0, 0], *down])
    good, bad = judge(Structures.from_list([phosphine, four]))
    assert good.stable
    assert bad.reasons[0] == "atom 0 (P) has valence 4, allowed 3 or 5"


def test_without_hydrogens_stability_is_not_defined():
    heavy = Structures.from_list([ETHANOL, CO2]).without_hydrogens()
    verdicts = judge(heavy)
    assert [v.smiles for v in verdicts] == ["CCO", "O=C=O"]
    assert all(v.valid and v.stable is None and not v.reasons for v in verdicts)
    explicit = judge(heavy, implicit=False)
    assert explicit[0].stable is False and explicit[1].stable is True


def test_to_mol_keeps_atoms_bonds_and_coordinates():
    structures = Structures.from_list([METHANE, ETHANOL])
    local = list(bonds(structures).split(structures))[1]
    mol = to_mol(*structures.molecule(1), local)
    np.testing.assert_allclose(mol.GetConformer().GetPositions(), ETHANOL[1])
    assert mol.GetConformer().Is3D()
    assert mol.GetBondBetweenAtoms(1, 2).GetBondType() == Chem.BondType.SINGLE


def test_embedded_molecules_agree_with_the_published_rates():
    qm9 = embedded()
    atoms, molecules = stability(qm9)
    assert atoms == pytest.approx(0.990, abs=0.005)
    assert molecules == pytest.approx(0.952, abs=0.015)
    verdicts = judge(qm9)
    assert np.mean([v.valid for v in verdicts]) == pytest.approx(0.977, abs=0.01)
    assert np.mean([v.stable for v in verdicts]) == molecules


def test_qm9_test_molecules_agree_with_the_published_rates():
    if not (QM9 / "qm9_3d.npz").is_file():
        pytest.skip(f"the full QM9 is not at {QM9}")
    with np.load(QM9 / "qm9_3d.npz") as qm9, np.load(QM9 / "edm_split.npz") as split:
        position, number, count = qm9["pos_1e4A"] / 1e4, qm9["z"], qm9["n_atoms"]
        test = split["test"]
    structures = Structures(position, number, count).select(test)
    assert len(structures) == 13083
    atoms, molecules = stability(structures)
    assert atoms == pytest.approx(0.990, abs=0.005)
    assert molecules == pytest.approx(0.952, abs=0.002)


def test_bonds_do_not_depend_on_the_frame_or_precision():
    qm9 = embedded().select(range(200))
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    moved = Structures((qm9.position @ rotation + 5).astype(np.float32), qm9.number, qm9.count)
    np.testing.assert_array_equal(bonds(moved).pair, bonds(qm9).pair)
    np.testing.assert_array_equal(bonds(moved).order, bonds(qm9).order)


def test_conformers_of_rdkit_give_their_smiles_back(tmp_path):
    names = ["CC(C)O", "NCC#N", "O=C1CCCO1", "FC(F)F"]
    writer = Chem.SDWriter(str(tmp_path / "m.sdf"))
    for smiles in names:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMolecule(mol, randomSeed=1)
        AllChem.MMFFOptimizeMolecule(mol)
        writer.write(mol)
    writer.close()
    verdicts = judge(read(tmp_path / "m.sdf").structures)
    assert [v.smiles for v in verdicts] == [Chem.CanonSmiles(smiles) for smiles in names]
