"""Valid files to be spoiled, and what is asserted of every refusal and of every skip."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from structdiff.artifacts import RunFolder, save_tensors, write_json
from structdiff.cli.main import main
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.data import embedded, read
from structdiff.domains.molecules.recipe import MoleculesConfig, build

WATER = ((8, (0.0, 0.0, 0.1173)), (1, (0.0, 0.7572, -0.4692)), (1, (0.0, -0.7572, -0.4692)))
XYZ = "3\n{}\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"
SDF = """{title}
     test           3D

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.1173 O   0  0
    0.0000    0.7572   -0.4692 H   0  0
    0.0000   -0.7572   -0.4692 H   0  0
  1  2  1  0
  1  3  1  0
{end}M  END
{fields}$$$$
"""


def sdf(title: str = "water", end: str = "", fields: str = "") -> str:
    """A record of an SDF."""
    return SDF.format(title=title, end=end, fields=fields)


def xyz(comment: str = "water") -> str:
    """A block of an XYZ file."""
    return XYZ.format(comment)


def npz(**changes: object) -> bytes:
    """Two molecules of water as an npz; an array of None is left out."""
    place = [x for _, x in WATER] * 2
    arrays = {
        "pos_1e4A": (np.array(place) * 1e4).astype(np.int32),
        "z": np.array([z for z, _ in WATER] * 2, np.uint8),
        "n_atoms": np.array([3, 3]),
    } | changes
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})
    return buffer.getvalue()


@dataclass(frozen=True)
class Case:
    """A file, and what reading it must come to.

    Arguments:
        name: What is wrong.
        file: Name of the file.
        content: Its bytes or text, or what makes it.
        kept: How many molecules are read.
        skipped: Reasons and how often each.
        refused: Pattern of the error if nothing is read.
        max_atoms: As in `read`.
    """

    name: str
    file: str
    content: bytes | str | Callable[[Path], None]
    kept: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    refused: str = ""
    max_atoms: int = 500

    def __str__(self) -> str:
        return self.name

    def make(self, folder: Path) -> Path:
        """Write the file."""
        path = folder / self.file
        if callable(self.content):
            self.content(path)
        else:
            text = self.content
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def check(self, folder: Path, capsys) -> None:
        """Read it: molecules and counted reasons, or one line that names the file."""
        path = self.make(folder)
        if self.refused:
            line = refusal(capsys, folder, "doctor", path)
            assert re.search(self.refused, line), line
            assert path.name.splitlines()[0] in line
            return
        before = snapshot(folder)
        loaded = read(path, max_atoms=self.max_atoms)
        found = Counter(skip.reason for skip in loaded.skipped)
        assert (len(loaded.structures), found) == (self.kept, Counter(self.skipped))
        assert all(skip.where for skip in loaded.skipped)
        assert snapshot(folder) == before


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """All that is below a folder."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}


def refusal(capsys, folder: Path, *words: object) -> str:
    """The one line of a command that must be refused, and that must leave the folder alone."""
    before = snapshot(folder)
    capsys.readouterr()
    status = 0
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        status = end.code
    _, errors = capsys.readouterr()
    assert status == 2, errors
    said = errors.removesuffix("\n")
    assert "Traceback" not in said
    assert "\n" not in said, said
    assert said.startswith("structdiff: ")
    assert len(said) > len("structdiff: ") + 10, said
    assert snapshot(folder) == before
    return said


SMALL = {
    "network": {"layers": 1, "width": 8, "hidden": 8, "basis": 4},
    "sampler": {"steps": 3},
    "data": {"validation": 4, "conditions": ["alpha", "kind"]},
    "training": {"device": "cpu"},
}


def conditioned() -> tuple[MoleculesConfig, MoleculeCodec]:
    """Settings and a codec with a number and a word as conditions."""
    molecules = embedded().select(range(40))
    kinds = np.array(["even", "odd"])[molecules.count % 2]
    molecules = molecules.with_properties({"alpha": molecules.properties["alpha"], "kind": kinds})
    config = MoleculesConfig.model_validate(SMALL)
    return config, MoleculeCodec.fit(molecules, config.data.conditions)


def make_run(path: Path) -> None:
    """A run folder as training leaves it, with weights that were not trained."""
    config, codec = conditioned()
    folder = RunFolder(path)
    folder.open("molecules", config.model_dump(mode="json"))
    write_json(folder.codec, codec.state())
    weights = build(config, codec).state_dict()
    save_tensors(folder.ema, weights, {"step": "4"})
