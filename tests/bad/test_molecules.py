"""Molecules that are no ordinary molecules: what becomes of each, wherever it is given.

Salts and other sets of molecules, ions, radicals, isotopes, foreign elements, impossible valences,
atoms at one point: read or skipped with a reason, trained on or left out with a reason, scored or
not with a reason; the others are not touched.
"""

import csv
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem

from structdiff.cli.main import main
from structdiff.domains.molecules import MoleculesConfig, embedded, train
from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.chemistry import judge, to_mol
from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.loading import load_data
from structdiff.domains.molecules.reports.doctor import examine
from structdiff.domains.molecules.run import Run
from structdiff.domains.molecules.structures import SYMBOLS, Structures
from tests.bad.corpus import Case, npz, sdf
from tests.domains.molecules.smiles import shaped

AT_ONE_POINT = "two atoms within 0.001 A"
NO_VALENCY = "an atom has no allowed valency by the distances"
GOOD = 12


def beside(first: Structures, second: Structures) -> Structures:
    """Two molecules as one, 7 Angstrom apart."""
    moved = replace(second, position=second.position + [7.0, 0, 0])
    both = Structures.concatenate([first, moved])
    bond = replace(both.bond, molecule=np.zeros_like(both.bond.molecule))
    return replace(both, count=[len(both.number)], bond=bond)


def sodium() -> Structures:
    """An ion beside which there is something."""
    none = replace(shaped("C").bond, pair=np.zeros((2, 0), int), order=np.zeros(0, int))
    none = replace(none, molecule=np.zeros(0, int))
    return Structures(np.zeros((1, 3)), [11], [1], charge=[1], bond=none)


def crowded() -> Structures:
    """Methane with a fifth hydrogen."""
    methane = shaped("C")
    pair = np.concatenate([methane.bond.pair, [[0], [5]]], 1)
    bond = replace(methane.bond, pair=pair, order=np.ones(5, int), molecule=np.zeros(5, int))
    place = np.concatenate([methane.position, -1.05 * methane.position[1:2]])
    return Structures(place, [6, 1, 1, 1, 1, 1], [6], bond=bond)


def radical() -> Structures:
    """Methyl."""
    angle = np.deg2rad([0, 120, 240])
    place = np.pad(1.08 * np.stack([np.cos(angle), np.sin(angle)], 1), ((1, 0), (0, 1)))
    kept = shaped("C").bond
    bond = replace(kept, pair=kept.pair[:, :3], order=kept.order[:3], molecule=kept.molecule[:3])
    return Structures(place, [6, 1, 1, 1], [4], bond=bond)


def doubled() -> Structures:
    """Methane with one hydrogen twice."""
    one = crowded()
    return replace(one, position=np.concatenate([one.position[:5], one.position[4:5]]))


@pytest.fixture(scope="module")
def zoo():
    """Each is called by what it is."""
    ethane = shaped("CC")
    return {
        "two molecules": beside(ethane, shaped("O")),
        "a salt": beside(shaped("CC(=O)[O-]"), sodium()),
        "an ion": shaped("C[NH3+]"),
        "a radical": radical(),
        "an isotope": ethane,
        "another element": shaped("CBr"),
        "five bonds": crowded(),
        "zero coordinates": replace(ethane, position=np.zeros_like(ethane.position)),
        "an atom twice": doubled(),
    }


READ = ["two molecules", "a salt", "an ion", "a radical", "an isotope", "another element",
        "five bonds"]  # fmt: skip
SKIPPED = ["zero coordinates", "an atom twice"]


def block(name: str, one: Structures) -> str:
    (bond,) = one.bond.split(one)
    mol = to_mol(*one.molecule(0), bond, one.charges(0).tolist())
    if name == "an isotope":
        mol.GetAtomWithIdx(0).SetIsotope(13)
    mol.UpdatePropertyCache(strict=False)
    mol.SetProp("_Name", name)
    return Chem.MolToMolBlock(mol) + "$$$$\n"


def rows(name: str, one: Structures) -> str:
    lines = [
        f"{SYMBOLS[z]} {x:.6f} {y:.6f} {w:.6f}"
        for z, (x, y, w) in zip(one.number, one.position, strict=True)
    ]
    return "\n".join([str(len(lines)), name, *lines]) + "\n"


@pytest.fixture(scope="module")
def files(zoo, tmp_path_factory):
    """The same molecules with bonds and charges, and without, behind some good ones."""
    folder = tmp_path_factory.mktemp("zoo")
    good, _ = assigned(embedded().select(range(GOOD)))
    parts = {f"good {m}": good.select([m]) for m in range(GOOD)} | zoo
    (folder / "zoo.sdf").write_text("".join(block(n, one) for n, one in parts.items()))
    (folder / "zoo.xyz").write_text("".join(rows(n, one) for n, one in parts.items()))
    return folder


@pytest.mark.parametrize("suffix", ["sdf", "xyz"])
def test_reading(files, suffix):
    loaded = read(files / f"zoo.{suffix}")
    assert list(loaded.structures.name[GOOD:]) == READ
    assert Counter(skip.reason for skip in loaded.skipped) == {AT_ONE_POINT: 2}
    where = [skip.where for skip in loaded.skipped]
    if suffix == "sdf":
        assert [place.split("(")[1][:-1] for place in where] == SKIPPED
        assert loaded.notes == ("1 molecules with isotopes: the labels were dropped",)
    assert f"{GOOD + 7} molecules read, 2 skipped" in loaded.report()
    assert f"2 x {AT_ONE_POINT}: {where[0]}, {where[1]}" in loaded.report()


def test_judging(files):
    """Each fault is named; the ion, the isotope and the bromide have none."""
    loaded = read(files / "zoo.sdf").structures
    found = dict(zip(loaded.name, judge(loaded), strict=True))
    said = {name: " / ".join(found[name].reasons) for name in READ}
    assert said == {
        "two molecules": "2 fragments",
        "a salt": "atom 7 (Na+) is not in EDM's tables / 2 fragments",
        "an ion": "",
        "a radical": "atom 0 (C) has valence 3, allowed 4",
        "an isotope": "",
        "another element": "",
        "five bonds": "atom 0 (C) has valence 5, allowed 4 / RDKit: Explicit valence for atom # 0 "
        "C, 5, is greater than permitted",
    }
    assert not found["two molecules"].connected
    assert not found["five bonds"].valid


def settings(path, bonds, **more):
    return MoleculesConfig.model_validate(
        {
            "data": {"path": str(path), "bonds": bonds, "validation": 2},
            "network": {"layers": 1, "width": 8, "hidden": 8, "basis": 4},
            "sampler": {"steps": 3},
            "training": {"steps": 2, "batch_size": 4, "device": "cpu"} | more,
        }
    )


@pytest.mark.parametrize(
    ("suffix", "bonds", "refused"),
    [
        ("sdf", "none", {}),
        ("xyz", "none", {}),
        ("sdf", "kekulized", {}),
        ("xyz", "kekulized", {NO_VALENCY: 4}),
        ("sdf", "aromatic", {"RDKit: Explicit valence for atom # 0 C, 5, is greater than "
                             "permitted": 1}),
    ],
)  # fmt: skip
def test_data_for_training(files, suffix, bonds, refused):
    """What is left out is counted and listed; what distances cannot tell is left out for bonds."""
    data = load_data(settings(files / f"zoo.{suffix}", bonds))
    assert Counter(skip.reason for skip in data.skipped) == {AT_ONE_POINT: 2, **refused}
    kept = {*data.train.name, *data.validation.name}
    lost = {"a salt", "an ion", "a radical", "five bonds"} if suffix == "xyz" else {"five bonds"}
    assert kept & {*READ} == {*READ} - (lost if refused else set())
    assert len(kept & {f"good {m}" for m in range(GOOD)}) == GOOD
    assert (data.train.bond is not None) or bonds == "none"
    for reason in refused:
        assert reason in data.report


@pytest.mark.parametrize("bonds", ["none", "kekulized"])
def test_training_and_drawing_go_on(files, bonds, tmp_path):
    said = []
    run = train(settings(files / "zoo.xyz", bonds), tmp_path / "run", say=said.append)
    told = "\n".join(said)
    assert f"2 x {AT_ONE_POINT}" in told
    assert (f"4 x {NO_VALENCY}" in told) == (bonds == "kekulized")
    drawn = run.sample(2, sizes=[5])
    assert len(drawn) == 2
    assert all(verdict.valid or verdict.reasons for verdict in drawn.verdicts)


def test_scoring_goes_on(files, run, tmp_path, capsys):
    """Every record has a row: a score, or why there is none."""
    out = tmp_path / "out.csv"
    words = ["score", str(run), "--data", str(files / "zoo.sdf"), "-o", str(out)]
    main([*words, "--draws", "2", "--steps", "5"])
    said = capsys.readouterr().out
    assert f"{GOOD + 4} of {GOOD + 7} molecules scored" in said
    with out.open(newline="") as file:
        why = {row["where"].split("(")[1][:-1]: row["reason"] for row in csv.DictReader(file)}
    assert len(why) == GOOD + 9
    assert {name: reason for name, reason in why.items() if reason} == {
        "a salt": "training had no O-, Na+",
        "an ion": "training had no N+",
        "another element": "training had no Br",
        **dict.fromkeys(SKIPPED, f"not read: {AT_ONE_POINT}"),
    }


def test_given_parts(zoo, run):
    """Several pieces and open valences are held; atoms that training had not are refused."""
    model = Run.load(run)
    for name in ("two molecules", "a radical", "five bonds"):
        core = zoo[name]
        drawn = model.sample(2, given=core).structures
        for number, position in drawn:
            atoms = len(core.number)
            assert number[:atoms].tolist() == core.number.tolist()
            np.testing.assert_allclose(position[:atoms], core.position, atol=1e-5)
    for name, unseen in (("a salt", "Na"), ("an ion", "N+"), ("another element", "Br")):
        with pytest.raises(ValueError, match="the model knows the elements .* but") as error:
            model.sample(2, given=zoo[name])
        assert unseen in str(error.value).split("the molecules have")[1]


def test_the_doctor_counts_them(files):
    text = examine(files / "zoo.sdf", progress=False).text()
    assert f"{GOOD + 7} molecules read, 2 skipped" in text
    assert "2 in several pieces" in text
    assert f"{GOOD + 7} of {GOOD + 7} can be used with --data.bonds kekulized" in text
    assert f"{GOOD + 6} of {GOOD + 7} can be used with --data.bonds aromatic" in text
    text = examine(files / "zoo.xyz", progress=False).text()
    assert f"{GOOD + 3} of {GOOD + 7} can be used with --data.bonds kekulized" in text
    assert f"4 x {NO_VALENCY}" in text


def test_a_list_of_smiles(tmp_path):
    """RDKit cannot read it, place it, or it is no single molecule: the others are trained on."""
    path = tmp_path / "list.smi"
    path.write_text(
        "CC\nCC(=O)[O-].[Na+]\nO.C\n[CH3]\nC1#CC1\nC(C)(C)(C)(C)C\n[13CH3]C\nC[NH3+]\nCBr\n"
    )
    data = load_data(settings(path, "kekulized"))
    assert Counter(skip.reason for skip in data.skipped) == {
        "2 fragments: a record is one molecule": 2,
        "a radical": 1,
        "cannot be embedded": 1,
        "RDKit cannot parse the SMILES": 1,
    }
    assert data.notes == ("1 molecules with isotopes: the labels were dropped",)
    assert len(data.train) + len(data.validation) == 4
    assert data.train.bond is not None


PAIRS, ORDERS = np.array([[0, 0, 3, 3], [1, 2, 4, 5]]), np.ones(4, int)
WRONG = [
    ("orders missing", {"bond_pair": PAIRS}, "bonds are bond_pair and bond_order, it has bond_pa"),
    ("pairs missing", {"bond_order": ORDERS}, "it has bond_order only"),
    ("pairs on their side", {"bond_pair": PAIRS.T, "bond_order": ORDERS}, r"\(2, bonds\) and"),
    ("orders too few", {"bond_pair": PAIRS, "bond_order": ORDERS[:3]}, r"int64 \(2, 4\) and"),
    ("fractions", {"bond_pair": PAIRS, "bond_order": ORDERS * 1.5}, "must be whole numbers"),
    ("an atom beyond", {"bond_pair": PAIRS + 1, "bond_order": ORDERS}, "must hold atoms 0 to 5"),
    ("an atom below", {"bond_pair": PAIRS - 1, "bond_order": ORDERS}, "must hold atoms 0 to 5"),
    ("order 5", {"bond_pair": PAIRS, "bond_order": ORDERS * 5}, "bond.order must be 1, 2, 3 or 4"),
    ("order 0", {"bond_pair": PAIRS, "bond_order": ORDERS * 0}, "bond.order must be 1, 2, 3 or 4"),
    ("between molecules", {"bond_pair": PAIRS[:, [0]] + [[0], [3]], "bond_order": ORDERS[:1]},
        "must join atoms of one molecule"),
    ("twice", {"bond_pair": PAIRS[:, [0, 1, 2, 2]], "bond_order": ORDERS}, "each pair once"),
    ("to itself", {"bond_pair": PAIRS * 0, "bond_order": ORDERS}, "two different atoms"),
    ("pickled", {"bond_pair": PAIRS.astype(object), "bond_order": ORDERS}, "Object arrays"),
]  # fmt: skip
BONDS = [Case(name, "m.npz", npz(**changes), refused=why) for name, changes, why in WRONG]
LINES = [
    Case("a bond twice", "m.sdf", sdf() + sdf().replace("  1  3  1", "  1  2  1"), 1,
         {"broken SDF record": 1}),
    Case("a bond of order 9", "m.sdf", sdf() + sdf().replace("  1  3  1", "  1  3  9"), 2),
    Case("an order of letters", "m.sdf", sdf() + sdf().replace("  1  3  1", "  1  3  x"), 1,
         {"broken SDF record": 1}),
    Case("an aromatic water", "m.sdf", sdf() + sdf().replace("  1  3  1", "  1  3  4"), 2),
    Case("bonds of two waters", "m.npz", npz(bond_pair=PAIRS, bond_order=ORDERS), 2),
]  # fmt: skip


@pytest.mark.parametrize("case", [*BONDS, *LINES], ids=str)
def test_bonds_that_are_wrong(case, tmp_path, capsys):
    case.check(tmp_path, capsys)
