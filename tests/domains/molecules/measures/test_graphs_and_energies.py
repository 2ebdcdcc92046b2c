"""Rings, properties, fragments, scaffolds, strain and descriptors of molecules that are known."""

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import QED, AllChem, Crippen, Descriptors

from structdiff.domains.molecules.data import Structures
from structdiff.domains.molecules.measures import parts, properties, rings, strain
from structdiff.domains.molecules.measures.descriptors import (
    DESCRIPTORS,
    descriptor_distance,
    descriptors,
    frechet_chemnet,
)
from structdiff.domains.molecules.measures.valid import Valid
from structdiff.domains.molecules.mols import bonds_of
from structdiff.domains.molecules.structures import Bonds
from structdiff.metrics.frechet import frechet

ASPIRIN, CAFFEINE = "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C"


def shaped(smiles, *, relaxed=False):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    assert not relaxed or AllChem.MMFFOptimizeMolecule(mol, maxIters=5000) == 0
    return mol


def packed(*mols):
    parts = []
    for mol in mols:
        found = bonds_of(mol)
        atoms = list(mol.GetAtoms())
        parts.append(
            Structures(
                mol.GetConformer().GetPositions(),
                [atom.GetAtomicNum() for atom in atoms],
                [len(atoms)],
                charge=[atom.GetFormalCharge() for atom in atoms],
                bond=Bonds(found[:2], found[2], 0 * found[2]),
            )
        )
    return Structures.concatenate(parts)


def valid(*smiles):
    found = Valid.of(packed(*(shaped(each) for each in smiles)))
    assert len(found) == len(smiles)
    return found


def once(measure, molecules):
    return float(measure.statistic(np.ones((1, molecules)))[0])


@pytest.fixture(scope="module")
def known():
    return valid(ASPIRIN, CAFFEINE, "CCO", "C[NH3+]")


def test_properties_are_those_of_the_smiles(known):
    found = properties.properties(known)
    plain = [Chem.MolFromSmiles(s) for s in (ASPIRIN, CAFFEINE, "CCO", "C[NH3+]")]
    assert found["QED"].value == pytest.approx([QED.qed(mol) for mol in plain])
    assert found["logP"].value == pytest.approx([Crippen.MolLogP(mol) for mol in plain])
    score = properties.synthetic_accessibility()
    assert found["SA"].value == pytest.approx([score(mol) for mol in plain])
    assert found["logP"].value[0] == pytest.approx(1.3101, abs=1e-4)  # aspirin, Crippen
    assert found["QED"].value[0] == pytest.approx(0.550, abs=1e-3)  # aspirin, Bickerton et al.
    assert found["SA"].value[0] == pytest.approx(1.58, abs=0.01)


def test_without_contributions_there_is_no_accessibility(known, monkeypatch, tmp_path):
    monkeypatch.setattr(properties.RDConfig, "RDContribDir", str(tmp_path))
    properties.synthetic_accessibility.cache_clear()
    assert set(properties.properties(known)) == {"QED", "logP"}
    properties.synthetic_accessibility.cache_clear()


def test_smiles_are_canonical(known):
    assert known.smiles == [Chem.CanonSmiles(s) for s in (ASPIRIN, CAFFEINE, "CCO", "C[NH3+]")]


def test_rings_are_counted_by_size():
    some = valid(CAFFEINE, "C1CC1", "CC", "C1CCCCCCCCCCC1")
    sizes = rings.ring_sizes(some)
    assert sizes.kind.tolist() == [5, 6, 3, 11]
    assert rings.ring_counts(sizes, 4).kind.tolist() == [2, 1, 0, 1]
    one, two = valid("C1CC1", "C1CC1", "C1CCC1"), valid("C1CC1", "CC")
    both = [(s := rings.ring_sizes(v), rings.ring_counts(s, len(v))) for v in (one, two)]
    size, number = rings.compared(*both, "")
    assert once(size, 3) == pytest.approx(1 / 3)  # of rings: (2/3, 1/3) beside (1, 0)
    assert once(number, 3) == pytest.approx(1 / 2)  # all have one, beside half of them none


def test_similarities_are_those_of_counts_by_hand():
    """Ethyl methyl ether is an ethyl and a methoxy piece; butane is one piece."""
    drawn, real = valid("CCOC", "CCOC", "CCCC"), valid("CCOC", "CCCC", "CCCC", "CCCC")
    assert sorted(parts.fragments(drawn).kind) == ["CCCC"] + ["[3*]OC"] * 2 + ["[4*]CC"] * 2
    both = [(parts.fragments(v), parts.scaffolds(v)) for v in (drawn, real)]
    similar, none = (once(measure, 3) for measure in parts.compared(*both, ""))
    assert similar == pytest.approx((1 * 3 + 2 + 2) / (3 * np.sqrt(11)))
    assert np.isnan(none)  # nothing has two rings


def test_scaffolds_have_two_rings():
    some = valid("CCC1CC2(C1)CC2", "CC1CC1", "C1CC2(C1)CC2")
    assert parts.scaffolds(some).kind.tolist() == ["C1CC2(C1)CC2"] * 2
    assert parts.scaffolds(some).owner.tolist() == [0, 2]


def test_relaxed_molecules_have_no_strain_and_squeezed_ones_have():
    relaxed = shaped(ASPIRIN, relaxed=True)
    assert strain.strain_energy(relaxed) == pytest.approx(0, abs=0.01)
    squeezed = Chem.Mol(relaxed)
    before = relaxed.GetConformer().GetPositions()
    squeezed.GetConformer().SetPositions(0.97 * before)
    high, low = (
        AllChem.MMFFGetMoleculeForceField(mol, AllChem.MMFFGetMoleculeProperties(mol)).CalcEnergy()
        for mol in (squeezed, relaxed)
    )
    gap = high - low
    assert strain.strain_energy(squeezed) == pytest.approx(gap, abs=0.05)
    assert gap > 10
    np.testing.assert_array_equal(squeezed.GetConformer().GetPositions(), 0.97 * before)


def test_hydrogens_that_are_missing_are_no_strain():
    """A heavy skeleton: hydrogens are placed and relaxed before the energy is taken."""
    relaxed = shaped("CCO", relaxed=True)
    skeleton = Chem.RemoveHs(relaxed)
    assert strain.strain_energy(skeleton) == pytest.approx(0, abs=0.05)


def test_what_has_no_energy_is_counted():
    some = valid("CCO", "C[Se]C", "CC")
    assert np.isfinite(strain.strain(some).value).tolist() == [True, False, True]
    energy, none = strain.compared(strain.strain(some), "")
    assert once(none, 3) == pytest.approx(1 / 3)
    assert np.isfinite(once(energy, 3))
    assert np.isnan(strain.strain_energy(Chem.AddHs(shaped("CC.O"))))


def test_distance_of_descriptors_is_that_of_normal_laws(known):
    table = descriptors(known)
    mols = [Chem.MolFromSmiles(s) for s in known.smiles]
    expected = [[getattr(Descriptors, name)(mol) for name in DESCRIPTORS] for mol in mols]
    np.testing.assert_allclose(table, expected, atol=1e-9)
    random = np.random.default_rng(0)
    real = random.normal(size=(200, 4)) * [1, 10, 100, 0] + [0, 5, -3, 2]
    same = descriptor_distance(real, real)
    assert same.value == pytest.approx(0, abs=1e-6)
    width = real.std(0)
    moved = descriptor_distance(real + 2 * width, real)
    assert moved.value == pytest.approx(3 * 4)  # three that vary, by two deviations each
    assert moved.low < 12 < moved.high
    odd = np.concatenate([real[1:], real[:1] + 1e9 * (width > 0)])
    assert 0 < descriptor_distance(odd, real).value < 0.3  # 6 deviations of one in 200
    assert (
        "MolWt, HeavyAtomCount" in moved.protocol and "not the Frechet ChemNet" in moved.protocol
    )
    assert np.isnan(descriptor_distance(real[:1], real).value)


def test_features_of_a_network_are_compared_as_they_are(tmp_path):
    """Of x with covariance S and 2 x + 1: |1|^2 + tr(S + 4 S - 2 2 S) = D + tr S."""
    x = np.random.default_rng(1).normal(size=(300, 5))
    x -= x.mean(0)
    row = frechet_chemnet(2 * x + 1, x)
    assert row.value == pytest.approx(5 + np.trace(np.cov(x.T)))
    assert row.value == pytest.approx(
        frechet(torch.from_numpy(2 * x + 1), torch.from_numpy(x)).value
    )
    for name, table in (("drawn", 2 * x + 1), ("real", x)):
        np.savez(tmp_path / f"{name}.npz", features=table)
    assert frechet_chemnet(tmp_path / "drawn.npz", tmp_path / "real.npz") == row


def test_features_that_cannot_be_compared_are_refused(tmp_path):
    x = np.ones((5, 3))
    with pytest.raises(ValueError, match="at least 2 samples of either"):
        frechet_chemnet(x[:1], x)
    with pytest.raises(ValueError, match=r"features must be"):
        frechet_chemnet(x[:, :2], x)
    with pytest.raises(ValueError, match="finite"):
        frechet_chemnet(np.where(x > 0, np.nan, x), x)
    np.savez(tmp_path / "x.npz", activations=x)
    with pytest.raises(ValueError, match=r"must hold the array features.*activations"):
        frechet_chemnet(tmp_path / "x.npz", x)
    with pytest.raises(FileNotFoundError):
        frechet_chemnet(tmp_path / "none.npz", x)
