"""Lists of SMILES and tables that are cut, foreign or wrong."""

import time

import pytest

from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.readers import embedding
from tests.bad.corpus import Case

NOTHING = "nothing in .* could be used"
UNREADABLE = "RDKit cannot parse the SMILES"
TWO = "2 fragments: a record is one molecule"

LISTS = [
    Case("empty", "m.smi", b"", refused="m.smi is empty"),
    Case("only a header", "m.smi", "smiles\n", refused="0 molecules read, 0 skipped"),
    Case("only comments", "m.smi", "# C\n#\n", refused="0 molecules read, 0 skipped"),
    Case("unparsable", "m.smi", "C\nC1CC\n[C\nno_smiles\n(C)\n", 1, {UNREADABLE: 4}),
    Case("impossible valence", "m.smi", "C\nC(C)(C)(C)(C)C\n", 1, {UNREADABLE: 1}),
    Case("empty lines and comments", "m.smi", "\n# nothing\nC\n\n  \nO water\n", 2),
    Case("salts", "m.smi", "C\n[Na+].[Cl-]\nCC(=O)[O-].[Na+]\n", 1, {TWO: 2}),
    Case("radicals", "m.smi", "C\n[CH3]\n[O][O]\n", 1, {"a radical": 2}),
    Case("isotopes", "m.smi", "[2H]C\n[13CH4]\n", 2),
    Case("one atom", "m.smi", "C\n[He]\n", 1, {"one atom: no geometry": 1}),
    Case("dummies", "m.smi", "C\n*C\n[R1]C\n", 1, {"unknown element '*'": 1, UNREADABLE: 1}),
    Case("ferrocene", "m.smi", "C\n[Fe+2].c1ccc[cH-]1.c1ccc[cH-]1\n", 1,
        {"3 fragments: a record is one molecule": 1}),
    Case("a metal without parameters", "m.smi", "C\nC[Og]C\n", 1,
        {"no force field has all its atoms": 1}),
    Case("a reaction", "m.smi", "C\nCCO>>CC=O\n", 1, {UNREADABLE: 1}),
    Case("300 carbon atoms", "m.smi", f"C\n{'C' * 300}\n", 1, {"more than 500 atoms": 1}),
    Case("200,000 characters", "m.smi", f"C\n{'(' * 200_000}\n", 1, {UNREADABLE: 1}),
    Case("deep branches", "m.smi", f"C\n{'C(' * 3000}{')' * 3000}\n", 1, {UNREADABLE: 1}),
    Case("NUL bytes", "m.smi", b"C\nC\0C\n\0\0\n", 1, {UNREADABLE: 2}),
    Case("BOM", "m.smi", b"\xef\xbb\xbfsmiles\nC\n", 1),
    Case("a picture that is called smi", "m.smi", b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        refused=NOTHING),
]  # fmt: skip

TABLES = [
    Case("empty", "m.csv", b"", refused="m.csv is empty"),
    Case("only blank lines", "m.csv", "\n\n \n", refused="has no column smiles"),
    Case("only a header", "m.csv", "smiles,a\n", refused="0 molecules read, 0 skipped"),
    Case("no column smiles", "m.csv", "name,formula\nx,CH4\n",
        refused="no column smiles, it has: name, formula; rename"),
    Case("no header", "m.csv", "C,1\nO,2\n", refused="no column smiles, it has: C, 1; rename"),
    Case("two columns of one name", "m.csv", "smiles,a,a\nC,1,2\n",
        refused="two columns called a; rename one"),
    Case("two columns smiles", "m.csv", "smiles,SMILES\nC,O\n",
        refused="two columns called smiles; rename one"),
    Case("ragged rows", "m.csv", "smiles,a\nC,1\nO\nCC,1,2\n", 1,
        {"not 2 cells as in the header": 2}),
    Case("quoted commas", "m.csv", 'smiles,note\n"C","a, b"\nO,"c ""d"""\n', 2),
    Case("quote not closed", "m.csv", 'smiles,note\nC,x\nO,"a\nN,b\n', 2),
    Case("BOM", "m.csv", b"\xef\xbb\xbfsmiles,a\nC,1\n", 1),
    Case("UTF-16", "m.csv", "smiles,a\nC,1\n".encode("utf-16"), 1),
    Case("semicolons", "m.csv", "a;smiles\n1,5;C\n", 1),
    Case("tabs", "m.tsv", "a\tsmiles\n1\tC\n", 1),
    Case("CRLF", "m.csv", "smiles,a\r\nC,1\r\nO,2\r\n", 2),
    Case("empty cells", "m.csv", "smiles,a\n,1\nC,\n", 1, {"no atoms": 1}),
    Case("a cell of 200,000 characters", "m.csv", f"smiles,a\nC,1\nO,{'x' * 200_000}\nN,2\n", 1,
        {"broken table: field larger than field limit (131072)": 1}),
    Case("NUL bytes", "m.csv", b"smiles,a\nC,1\n\0,2\n", 1, {UNREADABLE: 1}),
]  # fmt: skip


@pytest.mark.parametrize("case", LISTS, ids=str)
def test_list(case, tmp_path, capsys):
    case.check(tmp_path, capsys)


@pytest.mark.parametrize("case", TABLES, ids=str)
def test_table(case, tmp_path, capsys):
    case.check(tmp_path, capsys)


def test_embedding_ends_at_its_time_limit(tmp_path, monkeypatch):
    """302 atoms of a straight chain, which a second is not enough for."""
    monkeypatch.setattr(embedding, "LIMIT", 1.0)
    path = tmp_path / "m.smi"
    path.write_text(f"C\n{'C' * 100}\n")
    start = time.process_time()
    loaded = read(path)
    assert time.process_time() - start < 30
    assert [skip.where.split()[:2] for skip in loaded.skipped] == [["line", "2"]]
    assert loaded.skipped[0].reason in ("cannot be embedded", "the time limit was reached")
