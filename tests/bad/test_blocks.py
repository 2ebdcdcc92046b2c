"""SDF and XYZ files that are cut, foreign or wrong."""

import pytest
from rdkit import Chem

from tests.bad.corpus import Case, sdf, xyz

V3000 = """water
     test           3D

  0  0  0     0  0            999 V3000
M  V30 BEGIN CTAB
M  V30 COUNTS 3 2 0 0 0
M  V30 BEGIN ATOM
M  V30 1 O 0 0 0.1173 0
M  V30 2 H 0 0.7572 -0.4692 0
M  V30 3 H 0 -0.7572 -0.4692 0
M  V30 END ATOM
M  V30 BEGIN BOND
M  V30 1 1 1 2
M  V30 2 1 1 3
M  V30 END BOND
M  V30 END CTAB
M  END
$$$$
"""
EMPTY = "none\n     test           3D\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n"
DRAWING = sdf().replace("3D", "2D").replace("0.1173", "0.0000").replace("-0.4692", " 0.0000")
NOTHING = "nothing in .* could be used"


def chain(atoms: int) -> str:
    """A record of so many carbon atoms."""
    mol = Chem.RWMol()
    conformer = Chem.Conformer(atoms)
    for i in range(atoms):
        mol.AddAtom(Chem.Atom(6))
        conformer.SetAtomPosition(i, (1.5 * (i % 30), 1.5 * (i // 30), 0.1 * (i % 2)))
    mol.AddConformer(conformer)
    return Chem.MolToMolBlock(mol, forceV3000=atoms > 999) + "$$$$\n"


def one(old: str, new: str) -> str:
    """A good record, then one in which something is replaced."""
    assert old in sdf()
    return sdf() + sdf("second").replace(old, new)


BROKEN = "broken SDF record"
SDFS = [
    Case("empty", "m.sdf", b"", refused="m.sdf is empty; give a file with at least one"),
    Case("only blank lines", "m.sdf", "\n" * 30, refused="0 molecules read"),
    Case("only a mark", "m.sdf", "$$$$\n", refused=f"{NOTHING}.*{BROKEN}"),
    Case("cut in the atoms", "m.sdf", sdf() + sdf()[:120], 1, {BROKEN: 1}),
    Case("cut in the bonds", "m.sdf", sdf() + sdf()[:195], 1, {BROKEN: 1}),
    Case("counts are words", "m.sdf", one("  3  2", "  x  y"), 1, {BROKEN: 1}),
    Case("counts too large", "m.sdf", one("  3  2", " 30  2"), 1, {BROKEN: 1}),
    Case("counts too small", "m.sdf", one("  3  2", "  2  2"), 1, {BROKEN: 1}),
    Case("counts negative", "m.sdf", one("  3  2", " -3  2"), 1, {BROKEN: 1}),
    Case("no counts line", "m.sdf", one("  3  2  0  0  0  0  0  0  0  0999 V2000\n", ""), 1,
        {BROKEN: 1}),
    Case("unknown version", "m.sdf", one("V2000", "V4000"), 1, {BROKEN: 1}),
    Case("a bond to atom 9", "m.sdf", one("  1  3  1", "  1  9  1"), 1, {BROKEN: 1}),
    Case("a bond to itself", "m.sdf", one("  1  3  1", "  1  1  1"), 1, {BROKEN: 1}),
    Case("NUL in an atom", "m.sdf", one("O   0  0", "O\0  0  0"), 1, {BROKEN: 1}),
    Case("NUL in the title", "m.sdf", sdf() + sdf("a\0b"), 1, {BROKEN: 1}),
    Case("latin-1 in the title", "m.sdf", sdf("caf\xe9").encode("latin-1"), 1),
    Case("latin-1 in an atom", "m.sdf", one("O   0  0", "\xd6   0  0").encode("latin-1"), 1,
        {BROKEN: 1}),
    Case("CRLF", "m.sdf", (sdf() * 2).replace("\n", "\r\n"), 2),
    Case("CR alone", "m.sdf", (sdf() * 2).replace("\n", "\r"), 2),
    Case("last mark missing", "m.sdf", sdf() + sdf().replace("$$$$\n", ""), 2),
    Case("mark missing between", "m.sdf", sdf() + sdf().replace("$$$$\n", "") + sdf(), 1,
        {f"{BROKEN}: $$$$ is missing before the next molecule": 1}),
    Case("V3000", "m.sdf", V3000, 1),
    Case("V3000 without END ATOM", "m.sdf", sdf() + V3000.replace("M  V30 END ATOM\n", ""), 1,
        {BROKEN: 1}),
    Case("V3000 with too many atoms", "m.sdf", sdf() + V3000.replace("COUNTS 3", "COUNTS 9"), 1,
        {BROKEN: 1}),
    Case("V3000 of unknown element", "m.sdf", sdf() + V3000.replace("1 O", "1 Xx"), 1,
        {BROKEN: 1}),
    Case("unknown element", "m.sdf", one(" O  ", " Xx "), 1, {"unknown element symbol 'Xx'": 1}),
    Case("R group", "m.sdf", one(" O  ", " R# "), 1, {"unknown element symbol 'R#'": 1}),
    Case("any atom", "m.sdf", one(" O  ", " *  "), 1, {"unknown element symbol '*'": 1}),
    Case("list of atoms", "m.sdf", one(" O  ", " L  "), 1, {"unknown element symbol '*'": 1}),
    Case("deuterium by its letter", "m.sdf", sdf().replace(" H  ", " D  "), 1),
    Case("zero atoms", "m.sdf", sdf() + EMPTY, 1, {"no atoms": 1}),
    Case("one atom", "m.sdf", sdf() + chain(1), 1, {"one atom: no geometry": 1}),
    Case("a drawing", "m.sdf", sdf() + DRAWING, 1, {"no 3-D coordinates": 1}),
    Case("NaN", "m.sdf", one("0.1173", "   nan"), 1, {BROKEN: 1}),
    Case("infinity", "m.sdf", one("0.1173", "   inf"), 1, {BROKEN: 1}),
    Case("1e300", "m.sdf", sdf() + V3000.replace("0.1173", "1e300"), 1,
        {"coordinates are not finite": 1}),
    Case("coincident", "m.sdf", sdf() + sdf().replace("0.7572", "0.0000").replace("-0.0000",
        " 0.0000"), 1, {"two atoms within 0.001 A": 1}),
    Case("600 atoms", "m.sdf", sdf() + chain(600), 1, {"more than 500 atoms": 1}),
    Case("max_atoms 2", "m.sdf", sdf() + chain(2), 1, {"more than 2 atoms": 1}, max_atoms=2),
    Case("M CHG of atom 9", "m.sdf", sdf() + sdf(end="M  CHG  1   9  -1\n"), 1, {BROKEN: 1}),
    Case("M CHG of words", "m.sdf", sdf() + sdf(end="M  CHG  1   x   y\n"), 1, {BROKEN: 1}),
    Case("M CHG of 99", "m.sdf", sdf() + sdf(end="M  CHG  1   1  99\n"), 1,
        {"a formal charge beyond 8": 1}),
    Case("M CHG cut", "m.sdf", sdf() + sdf(end="M  CHG  4   1  -1\n"), 1, {BROKEN: 1}),
    Case("field without a value", "m.sdf", sdf(fields="> <a>\n\n") + sdf(fields="> <a>\n1\n\n"),
        2),
    Case("field twice", "m.sdf", sdf(fields="> <a>\n1\n\n> <a>\n2\n\n"), 1),
    Case("field without a name", "m.sdf", sdf(fields="> <>\n1\n\n>\n2\n\n"), 1),
    Case("field cut", "m.sdf", sdf(fields="> <a>\n1"), 1),
    Case("only skips", "m.sdf", chain(1) + sdf().replace(" O  ", " Xx "),
        refused=f"{NOTHING}.*0 molecules read, 2 skipped"),
    Case("an npz that is called sdf", "m.sdf", b"PK\3\4" + bytes(300), refused=NOTHING),
    Case("a mol file of two", "m.mol", sdf() * 2, 2),
]  # fmt: skip

NUMBERLESS = "expected a number of atoms"
ROWS = "broken XYZ block: not {} rows of `symbol x y z`"
WORDS = "broken XYZ block: a coordinate is not a number"


def block(old: str, new: str) -> str:
    """A good block, then one in which something is replaced."""
    assert old in xyz()
    return xyz() + xyz().replace(old, new)


XYZS = [
    Case("empty", "m.xyz", b"", refused="m.xyz is empty"),
    Case("only blank lines", "m.xyz", "\n" * 30, refused="0 molecules read"),
    Case("count too large", "m.xyz", block("3\n", "4\n"), 1, {ROWS.format(4): 1}),
    Case("count too large, more follow", "m.xyz", block("3\n", "4\n") + xyz() * 2, 2,
        {ROWS.format(4): 1, NUMBERLESS: 1}),
    Case("count too small", "m.xyz", block("3\n", "2\n") + xyz(), 3, {NUMBERLESS: 1}),
    Case("count of zero", "m.xyz", xyz() + "0\nnothing\n" + xyz(), 2, {ROWS.format(0): 1}),
    Case("count negative", "m.xyz", block("3\n", "-3\n") + xyz(), 2, {NUMBERLESS: 1}),
    Case("count a word", "m.xyz", block("3\n", "three\n"), 1, {NUMBERLESS: 1}),
    Case("count a fraction", "m.xyz", block("3\n", "3.0\n"), 1, {NUMBERLESS: 1}),
    Case("count of 999999999", "m.xyz", block("3\n", "999999999\n"), 1,
        {ROWS.format(999999999): 1}),
    Case("count of 40 digits", "m.xyz", block("3\n", "3" * 40 + "\n"), 1, {NUMBERLESS: 1}),
    Case("count in other digits", "m.xyz", xyz().replace("3\n", "\u0663\n", 1), 1),
    Case("one atom", "m.xyz", xyz() + "1\n\nHe 0 0 0\n", 1, {"one atom: no geometry": 1}),
    Case("columns missing", "m.xyz", block("H 0 0.7572 -0.4692", "H 0 0.7572"), 1,
        {ROWS.format(3): 1}),
    Case("more columns", "m.xyz", xyz().replace("0.1173", "0.1173 0 0 0.5"), 1),
    Case("commas", "m.xyz", block("O 0 0 0.1173", "O, 0, 0, 0.1173"), 1,
        {"unknown element symbol 'O,'": 1}),
    Case("Fortran exponent", "m.xyz", block("0.1173", "1.173D-1"), 1, {WORDS: 1}),
    Case("exponent of QM9", "m.xyz", block("0.1173", "1.173*^-1"), 2),
    Case("stars of a Fortran overflow", "m.xyz", block("0.1173", "********"), 1, {WORDS: 1}),
    Case("NaN", "m.xyz", block("0.1173", "nan"), 1, {"coordinates are not finite": 1}),
    Case("infinity", "m.xyz", block("0.1173", "-inf"), 1, {"coordinates are not finite": 1}),
    Case("1e300", "m.xyz", block("0.1173", "1e300"), 1, {"coordinates are not finite": 1}),
    Case("1e400", "m.xyz", block("0.1173", "1e400"), 1, {"coordinates are not finite": 1}),
    Case("coincident", "m.xyz", xyz() + "2\n\nH 1 2 3\nH 1 2 3.0001\n", 1,
        {"two atoms within 0.001 A": 1}),
    Case("600 atoms", "m.xyz", xyz() + "600\n\n" + "".join(f"C {i} 0 0\n" for i in range(600)), 1,
        {"more than 500 atoms": 1}),
    Case("unknown element", "m.xyz", block("O 0", "Xx 0"), 1, {"unknown element symbol 'Xx'": 1}),
    Case("atomic numbers", "m.xyz", block("O 0", "8 0"), 2),
    Case("atomic number 0", "m.xyz", block("O 0", "0 0"), 1, {"unknown element symbol '0'": 1}),
    Case("atomic number 200", "m.xyz", block("O 0", "200 0"), 1,
        {"unknown element symbol '200'": 1}),
    Case("upper and lower case", "m.xyz", "2\n\nCL 0 0 0\nh 0 0 1.27\n", 1),
    Case("labels O1", "m.xyz", block("O 0", "O1 0"), 1, {"unknown element symbol 'O1'": 1}),
    Case("blank lines between", "m.xyz", xyz() + "\n \n\t\n" + xyz(), 2),
    Case("CRLF", "m.xyz", (xyz() * 2).replace("\n", "\r\n"), 2),
    Case("UTF-16", "m.xyz", (xyz() * 2).encode("utf-16"), 2),
    Case("latin-1", "m.xyz", xyz("caf\xe9").encode("latin-1"), 1),
    Case("NUL bytes", "m.xyz", xyz() + "\0" * 400, 1, {NUMBERLESS: 1}),
    Case("comment missing", "m.xyz", xyz() + xyz().replace("water\n", ""), 1, {ROWS.format(3): 1}),
    Case("Properties cut", "m.xyz", xyz("Properties=species:S"), 1),
    Case("Properties without a width", "m.xyz", xyz("Properties=species:S:x:pos:R:3"), 1),
    Case("Properties of columns that are not there", "m.xyz",
        xyz() + xyz("Properties=species:S:1:forces:R:3:pos:R:3"), 1, {ROWS.format(3): 1}),
    Case("Properties of many digits", "m.xyz",
        xyz() + xyz(f"Properties=species:S:{'9' * 5000}:pos:R:3"), 1, {ROWS.format(3): 1}),
    Case("quote not closed", "m.xyz", xyz('a="1 b=2'), 1),
    Case("a picture that is called xyz", "m.xyz", b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        refused=NOTHING),
]  # fmt: skip


@pytest.mark.parametrize("case", SDFS, ids=str)
def test_sdf(case, tmp_path, capsys):
    case.check(tmp_path, capsys)


@pytest.mark.parametrize("case", XYZS, ids=str)
def test_xyz(case, tmp_path, capsys):
    case.check(tmp_path, capsys)
