"""Lengths, angles and dihedrals of geometries that are known, and those that RDKit finds."""

from dataclasses import replace

import numpy as np
import pytest
from rdkit.Chem import rdMolTransforms

from structdiff.domains.molecules.data import Structures, embedded
from structdiff.domains.molecules.measures.geometry import (
    angle_name,
    angles,
    bond_name,
    compared,
    dihedrals,
    lengths,
)
from structdiff.domains.molecules.measures.valid import Valid
from structdiff.domains.molecules.structures import Bonds


def valid(*molecules):
    found = Valid.of(Structures.from_list(molecules))
    assert len(found) == len(molecules)
    return found.structures


def ethane(turn):
    """Ideal tetrahedra, one end turned against the other by so many degrees."""
    down, out = 1.09 / 3, 1.09 * np.sqrt(8) / 3
    around = np.radians([0, 120, 240])
    near = [[out * np.cos(a), out * np.sin(a), -down] for a in around]
    far = [[out * np.cos(a), out * np.sin(a), 1.53 + down] for a in around + np.radians(turn)]
    return [6, 6, *[1] * 6], [[0, 0, 0], [0, 0, 1.53], *near, *far]


def benzene():
    """A regular hexagon, its bonds single and double by turns."""
    around, k = np.radians(60 * np.arange(6)), np.arange(6)
    ring = np.stack([np.cos(around), np.sin(around), 0 * around], 1)
    pair = np.concatenate([np.sort([k, (k + 1) % 6], axis=0), [k, k + 6]], axis=1)
    bond = Bonds(pair, np.concatenate([1 + k % 2, np.ones(6, int)]), np.zeros(12, int))
    shape = Structures.from_list([([6] * 6 + [1] * 6, np.concatenate([1.39 * ring, 2.48 * ring]))])
    return Valid.of(replace(shape, bond=bond)).structures


def water():
    half = np.radians(104.5 / 2)
    ends = [[0.96 * np.sin(s * half), 0.96 * np.cos(half), 0] for s in (-1, 1)]
    return [8, 1, 1], [[0, 0, 0], *ends]


def test_water():
    drops = valid(water())
    assert angles(drops).value.tolist() == pytest.approx([104.5])
    assert angle_name(angles(drops).kind[0]) == "at O"
    assert lengths(drops).value.tolist() == pytest.approx([0.96, 0.96])
    assert {bond_name(kind) for kind in lengths(drops).kind} == {"O-H"}
    assert not len(dihedrals(drops))


@pytest.mark.parametrize(
    ("turn", "expected"),
    [(60, [-60] * 3 + [60] * 3 + [180] * 3), (20, [-100] * 3 + [20] * 3 + [140] * 3)],
)
def test_ethane(turn, expected):
    one = valid(ethane(turn))
    np.testing.assert_allclose(angles(one).value, np.degrees(np.arccos(-1 / 3)), atol=1e-10)
    assert len(angles(one)) == 12
    assert np.sort(np.abs(dihedrals(one).value)) == pytest.approx(np.sort(np.abs(expected)))
    turned = dihedrals(one)
    assert {bond_name(kind) for kind in turned.kind} == {"C-C"}
    apart = [np.min(np.abs((e - turned.value + 180) % 360 - 180)) for e in expected]
    assert max(apart) < 1e-9


def test_benzene_is_flat_and_aromatic():
    ring = benzene()
    assert angles(ring).value == pytest.approx(np.full(18, 120))
    flat = dihedrals(ring)
    assert len(flat) == 24  # six bonds, two neighbours at either end
    assert np.minimum(np.abs(flat.value), 180 - np.abs(flat.value)).max() < 1e-6
    found = lengths(ring)
    names = np.array([bond_name(kind) for kind in found.kind])
    assert found.value[names == "C:C"] == pytest.approx(np.full(6, 1.39))
    assert found.value[names == "C-H"] == pytest.approx(np.full(6, 1.09))


def test_all_of_them_are_those_of_rdkit():
    molecules = Valid.of(embedded().select(range(60)))
    found = [values(molecules.structures) for values in (lengths, angles, dihedrals)]
    for m, mol in enumerate(molecules.mols):
        shape = mol.GetConformer()
        near = [[b.GetIdx() for b in atom.GetNeighbors()] for atom in mol.GetAtoms()]
        ends = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
        bent = [
            (i, j, k) for j, around in enumerate(near) for i in around for k in around if i < k
        ]
        turned = [
            (i, j, k, end)
            for j, k in ends for i in near[j] for end in near[k]
            if i != k and end != j and i != end
        ]  # fmt: skip
        straight = {at for at in bent if rdMolTransforms.GetAngleDeg(shape, *at) > 179}
        straight |= {(k, j, i) for i, j, k in straight}
        turned = [t for t in turned if not {t[:3], t[1:]} & straight]
        expected = [
            [rdMolTransforms.GetBondLength(shape, *at) for at in ends],
            [rdMolTransforms.GetAngleDeg(shape, *at) for at in bent],
            [rdMolTransforms.GetDihedralDeg(shape, *at) for at in turned],
        ]
        for mine, theirs in zip(found, expected, strict=True):
            own = mine.value[mine.owner == m]
            np.testing.assert_allclose(np.sort(own), np.sort(theirs), atol=1e-5)


def test_turns_keep_dihedrals_and_mirrors_turn_their_sign():
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    number, position = ethane(20)
    first = dihedrals(valid((number, position))).value
    for by, sign in ((rotation, 1), (-rotation, -1)):
        moved = dihedrals(valid((number, np.asarray(position) @ by + 3.0))).value
        np.testing.assert_allclose(moved, sign * first, atol=1e-9)


def test_lines_have_no_dihedral():
    acetylene = [6, 6, 1, 1], [[0, 0, 0], [0, 0, 1.2], [0, 0, -1.06], [0, 0, 2.26]]
    line = valid(acetylene)
    assert angles(line).value == pytest.approx([180, 180])
    assert not len(dihedrals(line))
    assert sorted(bond_name(kind) for kind in lengths(line).kind) == ["C#C", "C-H", "C-H"]


def test_stretched_bonds_are_apart_by_their_stretch():
    """All C-H 0.02 Angstrom longer, of seven bonds six: the distance is 0.02 * 6 / 7."""
    number, position = ethane(60)
    longer = np.asarray(position, float)
    for hydrogen in range(2, 8):
        carbon = longer[0 if hydrogen < 5 else 1]
        longer[hydrogen] += 0.02 / 1.09 * (longer[hydrogen] - carbon)
    both = [
        tuple(values(molecules) for values in (lengths, angles, dihedrals))
        for molecules in (valid((number, longer)), valid((number, position)))
    ]
    stretch, bend, turn = (float(m.statistic(np.ones((1, 1)))[0]) for m in compared(*both, "1"))
    assert stretch == pytest.approx(0.02 * 6 / 7)
    assert (bend, turn) == pytest.approx((0, 0), abs=1e-6)
