"""Aromatic rings with aromatic bonds, with single and double ones, and back."""

from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem

from structdiff.domains.molecules import embedded
from structdiff.domains.molecules.aromaticity import aromatised, kekulised
from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.structures import AROMATIC, Bonds, Structures
from tests.domains.molecules.smiles import lines, plain, scattered, shaped

RINGS = [
    "c1ccccc1", "c1cc[nH]c1", "c1ccoc1", "c1ccsc1", "c1cc[se]c1", "c1ccncc1", "c1c[nH]cn1",
    "Cc1[nH]cc[nH+]1", "c1ccc2cccc-2cc1", "O=c1cccccc1", "[O-][n+]1ccccc1", "C[n+]1ccccc1",
    "[O-]c1ccccc1", "[cH-]1cccc1", "[cH+]1cccccc1", "c1cc[o+]cc1", "b1ccccc1", "c1cpccc1",
    "c1nn[n-]n1", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "O=c1[nH]cnc2[nH]cnc12", "c1ccc2[nH]ccc2c1",
    "c1ccc2c(c1)[nH]c1ccccc12", "c1cc2ccc3cccc4ccc(c1)c2c34", "O=[N+]([O-])c1ccccc1",
    "c1ccc(-c2ccccc2)cc1", "[te]1cccc1", "c1ccc2c(c1)oc1ccccc12",
]  # fmt: skip
NONE = ["C1=CC=CC=CC=C1", "C1=CCC=CC1", "O=C1C=CC(=O)C=C1", "CS(=O)(=O)N", "CC=O"]


def check(structures, smiles):
    """Both ways round, and through records, a molecule stays what it is."""
    ringed, faults = aromatised(structures)
    lined, more = kekulised(ringed)
    again, last = aromatised(lined)
    assert {*faults, *more, *last} == {""}
    assert (lined.bond.order < AROMATIC).all()
    np.testing.assert_array_equal(again.bond.order, ringed.bond.order)
    for one in (structures, ringed, lined):
        codec = MoleculeCodec.fit(one, bonds="aromatic")
        back = codec.decode(codec.encode(one))
        for each in (one, back):
            np.testing.assert_array_equal(each.bond.pair, structures.bond.pair)
            np.testing.assert_array_equal(each.charge, structures.charge)
            assert [v.smiles for v in judge(each)] == smiles
    return ringed


@pytest.mark.parametrize("smiles", RINGS)
def test_rings_stay_what_they_are(smiles):
    """Hetero, charged and fused rings; as many aromatic bonds as RDKit reads from the SMILES."""
    ringed = check(scattered(smiles), [plain(smiles)])
    want = sum(bond.GetIsAromatic() for bond in Chem.MolFromSmiles(smiles).GetBonds())
    assert (ringed.bond.order == AROMATIC).sum() == want >= 5


@pytest.mark.parametrize("smiles", NONE)
def test_what_is_not_aromatic_is_not_touched(smiles):
    one = scattered(smiles)
    ringed = check(one, [plain(smiles)])
    np.testing.assert_array_equal(ringed.bond.order, one.bond.order)


def test_molecules_of_qm9_stay_what_they_are():
    known, _ = assigned(embedded().select(range(400)))
    ringed = check(known, [v.smiles for v in judge(known)])
    assert (ringed.bond.order == AROMATIC).sum() > 200


@pytest.mark.parametrize(
    "parts", [("moses", "test.csv.xz"), ("zinc250k_jtvae", "test.txt.xz")], ids=["moses", "zinc"]
)
def test_molecules_with_geometries_of_rdkit_stay_what_they_are(parts):
    rows = [line.split(",")[0] for line in lines(*parts)[1:]]
    smiles = [rows[i] for i in np.random.default_rng(0).choice(len(rows), 8)]
    known = Structures.concatenate([shaped(one) for one in smiles])
    ringed = check(known, [plain(one) for one in smiles])
    assert (ringed.bond.order == AROMATIC).sum() > 40


def test_a_nitro_group_is_left_as_it_was_drawn():
    """RDKit would part its charges; only bonds of the ring are written another way."""
    charged = scattered("O=[N+]([O-])c1ccccc1")
    drawn = replace(
        charged,
        charge=np.zeros_like(charged.charge),
        bond=replace(charged.bond, order=np.where(
            (charged.number[charged.bond.pair] == 8).any(0), 2, charged.bond.order)),
    )  # fmt: skip
    ringed, (fault,) = aromatised(drawn)
    lined, (other,) = kekulised(ringed)
    assert (fault, other) == ("", "")
    outside = ringed.bond.order != AROMATIC
    assert outside.sum() == len(drawn.bond) - 6
    np.testing.assert_array_equal(ringed.bond.order[outside], drawn.bond.order[outside])
    np.testing.assert_array_equal(lined.bond.order[outside], drawn.bond.order[outside])


def bonded(number, pair, order):
    position = np.arange(3.0 * len(number)).reshape(-1, 3)
    pair = np.array(pair).T
    bonds = Bonds(pair, np.array(order), np.zeros(len(order), int))
    return Structures(position, number, [len(number)], bond=bonds)


CHAIN = bonded([6, 6, 6], [(0, 1), (1, 2)], [AROMATIC, AROMATIC])
FIVE = bonded([6] * 5, [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)], [AROMATIC] * 5)
CROWD = bonded([6] * 10, [(0, i) for i in range(1, 10)], [AROMATIC] * 9)
NAMELESS = bonded([0, 6, 6], [(0, 1), (1, 2), (0, 2)], [AROMATIC] * 3)
GOOD = scattered("c1ccccc1")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (CHAIN, "RDKit: non-ring atom 0 marked aromatic"),
        (FIVE, "RDKit: Can't kekulize mol"),
        (CROWD, "an atom is not known, or has more than 8 bonds"),
        (NAMELESS, "an atom is not known, or has more than 8 bonds"),
    ],
    ids=["chain", "five", "crowd", "nameless"],
)
def test_what_cannot_be_kekulised_says_why(wrong, says):
    """It stays as it was, the molecule beside it is written, and the judge has a reason."""
    ringed, _ = aromatised(GOOD)
    both = Structures.concatenate([wrong, ringed])
    back, (fault, none) = kekulised(both)
    assert fault.startswith(says)
    assert none == ""
    cut = len(wrong.bond)
    assert (back.bond.order[:cut] == AROMATIC).all()
    assert (back.bond.order[cut:] < AROMATIC).all()
    bad, good = judge(both)
    assert not bad.valid and bad.reasons
    assert good.smiles == "c1ccccc1" and good.stable
    kept, reasons = assigned(both)
    assert (len(kept), reasons) == (1, [fault, ""])


def test_nonsense_is_never_an_error():
    """Graphs at random, some of them dense, aromatic or not."""
    random = np.random.default_rng(0)
    size, parts = 14, []
    first, second = np.triu_indices(size, 1)
    for share in np.repeat([0.05, 0.1, 0.15, 0.3, 0.9], 12):
        there = np.flatnonzero(random.random(len(first)) < share)
        order = random.integers(1, 5, len(there)) if len(there) % 2 else np.full(len(there), 4)
        number = random.choice([0, 1, 6, 7, 8, 16], size, p=[0.01, 0.19, 0.5, 0.1, 0.1, 0.1])
        pair = np.stack([first[there], second[there]], 1).reshape(-1, 2)
        parts.append(bonded(number, pair, order.astype(int)))
    many = Structures.concatenate(parts)
    verdicts = judge(many)
    _, faults = kekulised(many)
    _, more = aromatised(many)
    assert sum(bool(fault) for fault in faults) > 20
    assert sum(bool(fault) for fault in more) > 40
    assert all(v.reasons or v.valid for v in verdicts)
    assert sum(not v.valid for v in verdicts) > 40


def test_molecules_without_bonds_cannot_be_rewritten():
    with pytest.raises(ValueError, match="have no bonds to be written another way: assign them"):
        kekulised(replace(GOOD, bond=None))
