"""Bonds from distances: those of the table, those nearest to it, or a reason."""

import time
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from structdiff.domains.molecules import embedded, matching
from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.bonding import inferred
from structdiff.domains.molecules.chemistry import judge, stable_atoms, to_mol
from structdiff.domains.molecules.matching import _candidates, matched, valencies
from structdiff.domains.molecules.structures import Bonds, Structures
from tests.domains.molecules.smiles import lines, plain, shaped, stored

REASON = "an atom has no allowed valency by the distances"
# Thioethers, thiazoles, sulphonamides, sulphoxides, ions, a nitro group, alkynes, spiro rings.
DRUGS = [
    "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)[O-]", "Cc1ccc(-c2cc(C(F)(F)F)nn2C)cc1",
    "CNS(=O)(=O)Cc1ccc2[nH]cc(CC[NH+](C)C)c2c1", "CN(C)C(=[NH2+])N=C(N)N", "CS(=O)c1ccsc1",
    "O=[N+]([O-])c1ccc(Cl)cc1", "COc1ccc2nc(S(=O)Cc3ncc(C)c(OC)c3C)[nH]c2c1", "CC#CC1CCC12CC2",
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CCOP(=O)(OCC)OCC", "C[n+]1ccccc1C=NO", "N#Cc1cscc1Br",
]  # fmt: skip


@pytest.fixture(scope="module")
def qm9():
    return embedded()


@pytest.fixture(scope="module")
def found(qm9):
    return assigned(qm9)


def without(structures):
    return replace(structures, bond=None)


def test_hardly_any_molecule_of_qm9_is_refused(qm9, found):
    """The table alone leaves 88 of 2,000 with an atom of a wrong valency."""
    kept, reasons = found
    table = np.unique(qm9.owner[~stable_atoms(qm9, inferred(qm9))])
    assert len(table) == 88
    assert set(reasons) == {"", REASON}
    assert len(qm9) - len(kept) == 5
    assert all(v.valid and v.connected and v.stable for v in judge(kept))


def test_where_the_table_is_enough_its_bonds_are_taken(qm9, found):
    kept, reasons = found
    table = inferred(qm9)
    fine = np.setdiff1d(np.arange(len(qm9)), qm9.owner[~stable_atoms(qm9, table)])
    place = np.cumsum([not reason for reason in reasons]) - 1
    want = replace(qm9, bond=table).select(fine).bond
    mine = kept.select(place[fine]).bond
    np.testing.assert_array_equal(mine.pair, want.pair)
    np.testing.assert_array_equal(mine.order, want.order)


def test_another_program_finds_the_same_bonds(qm9, found):
    """RDKit's own assignment, which looks at valencies only, where the table alone fails."""
    kept, reasons = found
    bad = np.unique(qm9.owner[~stable_atoms(qm9, inferred(qm9))])
    bad = [m for m in bad.tolist() if not reasons[m]]
    place = np.cumsum([not reason for reason in reasons]) - 1
    same, none = 0, Bonds(np.zeros((2, 0), int), np.zeros(0, int), np.zeros(0, int))
    with rdBase.BlockLogs():
        for m, verdict in zip(bad, judge(kept.select(place[bad])), strict=True):
            mol = to_mol(*qm9.molecule(m), none)
            try:
                rdDetermineBonds.DetermineConnectivity(mol)
                rdDetermineBonds.DetermineBondOrders(mol, maxIterations=10_000)
            except ValueError:
                continue
            smiles = Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False)
            same += verdict.smiles == smiles
    assert len(bad) == 83
    assert same >= 77


def test_bonds_of_qm9_are_those_of_its_smiles(qm9, found):
    index = np.array([int(name.split()[1]) for name in qm9.name])
    known = lines("qm9", "qm9_smiles.txt.xz")
    with np.load(stored("qm9", "qm9_3d.npz")) as archive:
        place = np.searchsorted(archive["gdb_index"], index)
    want = [plain(known[i].split()[0]) for i in place]
    kept, reasons = found
    wanted = [smiles for smiles, reason in zip(want, reasons, strict=True) if not reason]
    right = [v.smiles == one for v, one in zip(judge(kept), wanted, strict=True)]
    assert np.mean(right) > 0.998


def check_back(smiles):
    """Bonds come back from the coordinates and the charges of a conformer."""
    one = Structures.concatenate([shaped(each) for each in smiles])
    back, reasons = assigned(without(one))
    assert reasons == [""] * len(smiles)
    assert [v.smiles for v in judge(back)] == [plain(each) for each in smiles]


def test_bonds_of_conformers_come_back():
    check_back(DRUGS)


@pytest.mark.parametrize(
    "parts", [("moses", "test.csv.xz"), ("zinc250k_jtvae", "test.txt.xz")], ids=["moses", "zinc"]
)
def test_bonds_of_conformers_of_a_data_set_come_back(parts):
    known = [line.split(",")[0] for line in lines(*parts)[1:]]
    check_back([known[i] for i in np.random.default_rng(1).choice(len(known), 8)])


def test_charges_are_not_made_up():
    """Without its charges a zwitterion is refused, also where it could fall apart."""
    smiles = [
        "[NH3+]CC(=O)[O-]",
        "C[N+](=O)[O-]",
        "C[N+](C)(C)CC(=O)[O-]",
        "COC1(C(=O)[O-])CC1[NH3+]",
    ]
    one = Structures.concatenate([shaped(each) for each in smiles])
    back, reasons = assigned(without(one))
    assert reasons == [""] * 4
    assert [v.smiles for v in judge(back)] == [plain(each) for each in smiles]
    bare = Structures(one.position, one.number, one.count)
    kept, reasons = assigned(bare)
    assert len(kept) == 0
    assert reasons == [REASON] * 4


def cost(one):
    """The least sum of what orders are off, over all choices of orders."""
    pair, off = _candidates(one)
    may = valencies(one)
    choices = [np.flatnonzero(np.isfinite(column)).tolist() for column in off.T]
    trials = np.array(list(product(*choices)))
    total = np.zeros((len(trials), len(may)), int)
    for column, (i, j) in enumerate(pair.T):
        total[:, i] += trials[:, column]
        total[:, j] += trials[:, column]
    good = may[np.arange(len(may)), np.minimum(total, 8)].all(1)
    sums = off[trials, np.arange(trials.shape[1])].sum(1)
    return sums[good].min(initial=np.inf)


def test_no_other_orders_are_nearer(qm9):
    """Shaken molecules against all choices of orders."""
    small = qm9.select(np.flatnonzero(qm9.count <= 10)[:30])
    random = np.random.default_rng(3)
    shaken = small.position + random.normal(size=small.position.shape) * 0.06
    solved = 0
    for m in range(len(small)):
        one = replace(small, position=shaken).select([m])
        best, (table,) = cost(one), matched(one)
        assert (table is None) == np.isinf(best)
        if table is not None:
            pair, off = _candidates(one)
            spot = {tuple(ends): i for i, ends in enumerate(pair.T.tolist())}
            orders = np.zeros(pair.shape[1], int)
            orders[[spot[tuple(ends)] for ends in table[:2].T.tolist()]] = table[2]
            assert off[orders, np.arange(len(orders))].sum() == pytest.approx(best, abs=1e-6)
            solved += best > 0.01
    assert solved > 5


def test_bonds_do_not_depend_on_the_molecules_beside():
    """Also where some have none, and where the search is cut short."""
    parts = [shaped(each) for each in DRUGS[:6]]
    parts.insert(2, Structures.from_list([([7, 1, 1], 0.9 * np.eye(3))]))
    many = without(Structures.concatenate([without(one) for one in parts]))
    together = matched(many)
    assert together[2] is None
    for one, table in zip(parts, together, strict=True):
        (alone,) = matched(without(one))
        assert (alone is None) == (table is None)
        if alone is not None:
            np.testing.assert_array_equal(alone, table)


def test_a_search_that_takes_too_long_ends(qm9, monkeypatch):
    """Cut short for all at once, molecules are solved one by one, or refused."""
    few = without(Structures.concatenate([shaped(each) for each in DRUGS[:3]]))
    want, calls = matched(few), []
    solved = matching._solved

    def cut(some, *arguments):
        calls.append(len(some))
        return None if len(some) > 1 or len(calls) == 3 else solved(some, *arguments)

    monkeypatch.setattr(matching, "_solved", cut)
    found = matched(few)
    assert calls == [3, 1, 1, 1]
    assert [table is None for table in found] == [False, True, False]
    np.testing.assert_array_equal(found[2], want[2])


def test_heaps_and_lost_atoms_are_refused_at_once():
    random = np.random.default_rng(0)
    parts = [
        Structures.from_list([([6] * 300, random.normal(size=(300, 3)))]),
        Structures.from_list([([6, 1, 1, 1, 1], np.full((5, 3), np.nan))]),
        Structures.from_list([([54, 26], [[0, 0, 0], [0, 0, 2.0]])]),
        Structures.from_list([([6] * 6, random.normal(size=(6, 3)) * 1000)]),
        Structures.from_list([([8, 8], [[0, 0, 0], [0, 0, 1.2]])]),
    ]
    start = time.monotonic()
    kept, reasons = assigned(Structures.concatenate(parts))
    assert time.monotonic() - start < 5
    assert reasons == [REASON] * 4 + [""]
    assert kept.bond.order.tolist() == [2]
    nothing, reasons = assigned(kept.select([]))
    assert (len(nothing), reasons) == (0, [])
