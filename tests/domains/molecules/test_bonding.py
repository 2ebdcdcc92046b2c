"""Charges, pairs without a length, and orders beside a charge."""

from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
from rdkit import Chem

from structdiff.domains.molecules.bonding import VALENCIES, allowed, bonds
from structdiff.domains.molecules.chemistry import atom_valency, judge, stable_atoms, to_mol
from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.output import write
from structdiff.domains.molecules.structures import NUMBERS, SYMBOLS, Structures

CHARGED = [
    "C[NH3+]", "C[N+](C)(C)C", "OCC[N+](C)(C)C", "C=[NH2+]", "CC=[N+](C)C", "NC(N)=[NH2+]",
    "Cc1[nH]cc[nH+]1", "C[n+]1ccccc1", "[OH3+]", "C[S+](C)C", "C[P+](C)(C)C", "C[O-]", "C[S-]",
    "CC(=O)[O-]", "O=C([O-])CC(=O)[O-]", "[O-]c1ccccc1", "CC(=O)[CH-]C(C)=O", "[BH4-]",
    "F[B-](F)(F)F", "[NH3+]CC(=O)[O-]", "C[N+](=O)[O-]", "O=[N+]([O-])c1ccccc1",
    "C[N+](C)(C)[O-]", "[O-][n+]1ccccc1", "CN=[N+]=[N-]", "C=[N+]=[N-]", "C[N+]#[C-]", "[C-]#[O+]",
    "COP(=O)([O-])[O-]", "C[C+](C)C", "NC(=[NH2+])NCCC[C@H]([NH3+])C(=O)[O-]",
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(tmp_path / "cache"))


def embedded(tmp_path, smiles):
    path = tmp_path / "list.smi"
    path.write_text("".join(f"{one} {one}\n" for one in smiles))
    loaded = read(path)
    assert loaded.skipped == ()
    return replace(loaded.structures, bond=None)  # distances are to tell


def plain(smiles):
    return Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)


def test_charged_molecules_come_back_from_an_sdf(tmp_path):
    structures = embedded(tmp_path, CHARGED)
    write(tmp_path / "m.sdf", structures, judge(structures))
    loaded = read(tmp_path / "m.sdf").structures
    np.testing.assert_array_equal(loaded.charge, structures.charge)
    verdicts = judge(loaded)
    assert [v.smiles for v in verdicts] == [plain(smiles) for smiles in CHARGED]
    assert all(v.valid and v.stable and not v.reasons for v in verdicts)
    supplier = Chem.SDMolSupplier(str(tmp_path / "m.sdf"), removeHs=True)
    found = [Chem.MolToSmiles(mol, isomericSmiles=False) for mol in supplier]
    assert found == [plain(smiles) for smiles in CHARGED]  # RDKit alone reads what we wrote


def test_without_its_charges_the_same_shape_is_not_stable(tmp_path):
    structures = embedded(tmp_path, ["C[NH3+]", "C[N+](C)(C)C", "C[O-]"])
    neutral = Structures(structures.position, structures.number, structures.count)
    verdicts = judge(neutral)
    assert [v.stable for v in verdicts] == [False] * 3
    assert verdicts[0].reasons[0] == "atom 1 (N) has valence 4, allowed 3"
    assert not verdicts[0].valid and not verdicts[1].valid


@pytest.mark.parametrize(
    ("symbol", "charge", "like"),
    [("N", 1, "C"), ("O", -1, "F"), ("O", 1, "N"), ("C", -1, "N"), ("C", 1, "B"), ("B", -1, "C"),
     ("S", 1, "P"), ("S", -1, "Cl"), ("P", 1, "Si"), ("N", -1, "O"), ("Cl", 0, "Cl")],
)  # fmt: skip
def test_a_charged_atom_has_the_valencies_of_its_isoelectronic_element(symbol, charge, like):
    atom = Structures(np.zeros((1, 3)), [NUMBERS[symbol]], [1], charge=[charge])
    assert tuple(np.flatnonzero(allowed(atom)[0])) == VALENCIES[like]


def test_neutral_atoms_have_the_valencies_of_the_table():
    every = Structures(np.zeros((len(SYMBOLS), 3)), np.arange(len(SYMBOLS)), [len(SYMBOLS)])
    for symbol, row in zip(SYMBOLS, allowed(every), strict=True):
        assert tuple(np.flatnonzero(row)) == VALENCIES.get(symbol, ())
    wild = Structures(np.zeros((3, 3)), [1, 0, 118], [3], charge=[1, -1, -1])
    assert not allowed(wild).any()


def test_reasons_name_the_charge():
    ammonia = (
        [7, 1, 1, 1],
        [[0, 0, 0], [0.94, 0, 0.38], [-0.47, 0.81, 0.38], [-0.47, -0.81, 0.38]],
    )
    pack = Structures.from_list([ammonia])
    (verdict,) = judge(Structures(pack.position, pack.number, pack.count, charge=[1, 0, 0, 0]))
    assert verdict.reasons[0] == "atom 0 (N+) has valence 3, allowed 4"
    (verdict,) = judge(Structures(pack.position, pack.number, pack.count, charge=[3, 0, 0, 0]))
    assert verdict.reasons[0] == "atom 0 (N3+) is not in EDM's tables"


@pytest.mark.parametrize(
    ("left", "right", "limit"),
    [("B", "O", 1.58), ("B", "C", 1.70), ("Si", "N", 1.97), ("P", "I", 2.54), ("Se", "C", 2.01)],
)
def test_pairs_without_a_length_have_single_bonds_by_radii(left, right, limit):
    for distance, order in ((limit - 1e-6, [1]), (limit + 1e-6, []), (0.9, [1])):
        pair = Structures.from_list(
            [([NUMBERS[left], NUMBERS[right]], [[0, 0, 0], [0, 0, distance]])]
        )
        assert bonds(pair).order.tolist() == order


def test_metals_and_noble_gases_get_no_bonds():
    for symbol in ("Na", "Fe", "He", "Xe", "Og"):
        pair = Structures.from_list([([NUMBERS[symbol], 8], [[0, 0, 0], [0, 0, 1.5]])])
        assert len(bonds(pair)) == 0


def test_every_pair_of_drug_elements_can_bond():
    symbols = ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Br", "I")
    pairs = [
        ([NUMBERS[a], NUMBERS[b]], [[0, 0, 0], [0, 0, 0.8]])
        for a, b in combinations_with_replacement(symbols, 2)
    ]
    structures = Structures.from_list(pairs)
    assert set(bonds(structures).molecule.tolist()) == set(range(len(pairs)))


def test_molecules_of_other_elements_are_judged(tmp_path):
    smiles = ["CB(O)O", "C[Si](C)(C)N", "CSC", "C[Se]C", "CCBr", "CI", "CP(C)C", "CCl"]
    structures = embedded(tmp_path, smiles)
    verdicts = judge(structures)
    assert [v.smiles for v in verdicts] == [plain(one) for one in smiles]
    assert [v.stable for v in verdicts] == [True, True, False, False, True, True, True, True]
    assert verdicts[2].reasons == ("atom 1 (S) has valence 2, allowed 4",)  # as in EDM's table
    assert verdicts[3].reasons == ("atom 1 (Se) is not in EDM's tables",)


def test_neutral_molecules_beside_charged_ones_are_untouched(tmp_path):
    structures = embedded(tmp_path, ["c1ccccc1", "CC(=O)O", "O=C1CCCO1"])
    charged = embedded(tmp_path, ["CC(=O)[O-]", "C[N+](=O)[O-]"])
    both = Structures.concatenate([structures, charged])
    neutral = bonds(structures)
    found = bonds(both)
    np.testing.assert_array_equal(found.order[: len(neutral)], neutral.order)
    assert len(found) > len(neutral)


def test_a_carboxylate_is_single_to_the_charge_whatever_the_lengths():
    """Both C-O bonds below EDM's double limit, both above, and either one shorter."""
    for first, second in ((1.24, 1.24), (1.27, 1.27), (1.23, 1.28), (1.28, 1.23)):
        angle = np.deg2rad(125) / 2
        place = [[0, 0, 0], [-1.1, 0, 0]]
        place += [
            [d * np.cos(angle), s * d * np.sin(angle), 0] for d, s in ((first, 1), (second, -1))
        ]
        formate = Structures.from_list([([6, 1, 8, 8], place)])
        formate = Structures(formate.position, formate.number, formate.count, charge=[0, 0, 0, -1])
        found = bonds(formate)
        order = dict(zip(map(tuple, found.pair.T.tolist()), found.order.tolist(), strict=True))
        assert order == {(0, 1): 1, (0, 2): 2, (0, 3): 1}
        assert stable_atoms(formate, found).all()
        assert atom_valency(formate, found).tolist() == [4, 1, 2, 1]


def test_lengths_far_from_two_orders_are_not_bent():
    """A C-O- bond of 1.10 Angstrom stays triple: no order is invented to please the valencies."""
    pair = Structures(np.array([[0, 0, 0], [0, 0, 1.05]]), [6, 8], [2], charge=[0, -1])
    assert bonds(pair).order.tolist() == [3]


def test_to_mol_sets_charges():
    pair = Structures(np.array([[0, 0, 0], [0, 0, 1.13]]), [6, 8], [2], charge=[-1, 1])
    mol = to_mol(*pair.molecule(0), next(bonds(pair).split(pair)), pair.charges(0).tolist())
    assert [atom.GetFormalCharge() for atom in mol.GetAtoms()] == [-1, 1]
    Chem.SanitizeMol(mol)
