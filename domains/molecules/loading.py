"""Molecules of a config: read, split, hydrogens kept or dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.chemistry import implied
from structdiff.domains.molecules.data import EMBEDDED, Skipped, read
from structdiff.domains.molecules.readers.files import opened
from structdiff.domains.molecules.readers.packed import load_arrays
from structdiff.domains.molecules.readers.sources import qm9_split
from structdiff.domains.molecules.recipe import MoleculesConfig
from structdiff.domains.molecules.structures import Integers, Structures

__all__ = ["Data", "load_data"]

_NONE = np.zeros(0)


@dataclass(frozen=True)
class Data:
    """Molecules for training, for validation during it, and for judging."""

    train: Structures
    validation: Structures
    reference: Structures
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    units: Mapping[str, str]
    report: str


def load_data(config: MoleculesConfig, path: str | None = None) -> Data:
    """Read and split the molecules of a config.

    Arguments:
        config: Settings.
        path: Where the data lie, if not where the config says.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If too few molecules are left to train on, or the split does not fit.
    """
    settings = config.data if path is None else config.data.model_copy(update={"path": path})
    source = EMBEDDED if settings.path is None else settings.path
    loaded = read(source, max_atoms=settings.max_atoms)
    molecules, skipped = loaded.structures, loaded.skipped
    if settings.path == "qm9" and settings.split is None:
        whole = qm9_split()
        train, test = molecules.select(whole.train), molecules.select(whole.test)
    else:
        train, test = _split(molecules, settings.split, skipped)
    if settings.bonds == "none":
        # Distances judge what such a model makes, and so what it stands beside.
        train, test = replace(train, bond=None), replace(test, bond=None)
    else:
        train, lost = _with_bonds(train, aromatic=settings.bonds == "aromatic")
        test, _ = _with_bonds(test, aromatic=settings.bonds == "aromatic")
        skipped = (*skipped, *lost)
    if settings.hydrogens == "implicit":
        train, test = train.without_hydrogens(), test.without_hydrogens()
    held = min(settings.validation, len(train) // 5)
    order = np.random.default_rng(0).permutation(len(train))
    kept, aside = _set_aside(train, order, held, settings.conditions)
    if len(kept) < 2:
        msg = f"{len(kept)} molecules are left to train on, at least 2 are needed: give more data"
        raise ValueError(msg)
    reference = test if len(test) else kept
    notes, units = tuple(loaded.notes), loaded.units
    report = replace(loaded, structures=molecules, skipped=skipped).report()
    return Data(kept, aside, reference, skipped, notes, units, report)


def _with_bonds(molecules: Structures, *, aromatic: bool) -> tuple[Structures, list[Skipped]]:
    """The molecules whose bonds are known, and the others with the reason."""
    if molecules.bond is None and len(molecules) and implied(molecules):
        msg = (
            "bonds do not follow from distances without hydrogens, and these molecules have "
            "neither: give a file with bonds (SDF, SMILES), or one with hydrogens"
        )
        raise ValueError(msg)
    found, reasons = assigned(molecules, aromatic=aromatic)
    names = molecules.name or [f"molecule {i + 1}" for i in range(len(molecules))]
    lost = [Skipped(name, why) for name, why in zip(names, reasons, strict=True) if why]
    return found, lost


def _set_aside(
    molecules: Structures, order: Integers, held: int, conditions: tuple[str, ...]
) -> tuple[Structures, Structures]:
    """Molecules for training and for validation; what occurs in one of those alone is trained on.

    A model has a class for each atom type and each word of a condition that it was trained on.
    """
    chosen, left = order[:held], order[held:]
    words = [n for n in conditions if molecules.properties.get(n, _NONE).dtype.kind == "U"]
    types = molecules.number.astype(np.int64) * 1000 + molecules.charge
    seen = np.isin(types, types[np.isin(molecules.owner, left)])
    unseen = np.bincount(molecules.owner[~seen], minlength=len(molecules)) > 0
    for name in words:
        column = molecules.properties[name]
        unseen |= ~np.isin(column, [*column[left], ""])
    moved = unseen[chosen]
    kept = np.sort(np.concatenate([left, chosen[moved]]))
    return molecules.select(kept), molecules.select(np.sort(chosen[~moved]))


def _split(
    molecules: Structures, path: str | None, skipped: tuple[Skipped, ...]
) -> tuple[Structures, Structures]:
    """Training and test molecules."""
    if path is None:
        return molecules, molecules.select(np.zeros(0, np.int64))
    if skipped:
        msg = (
            "data.split numbers the molecules of the whole file, but "
            f"{len(skipped)} of it were skipped: split the file itself"
        )
        raise ValueError(msg)
    try:
        with opened(Path(path)) as stream:
            arrays = load_arrays(stream)
    except ValueError as error:
        msg = f"data.split must be an .npz with index arrays `train` and `test`, {path}: {error}"
        raise ValueError(msg) from None
    missing = {"train", "test"} - arrays.keys()
    if missing:
        msg = f"{path} has the arrays {sorted(arrays)}, {sorted(missing)} are missing"
        raise ValueError(msg)
    for name in ("train", "test"):
        part = arrays[name]
        if part.ndim != 1 or part.dtype.kind not in "iu":
            msg = (
                f"{name} in {path} must be whole numbers (molecules,), not {part.dtype} "
                f"{part.shape}"
            )
            raise ValueError(msg)
        ends = [int(end) for end in (part.min(initial=0), part.max(initial=0))]
        if ends[0] < 0 or ends[1] >= len(molecules) > 0:
            wrong = ends[0] if ends[0] < 0 else ends[1]
            msg = f"{path} names molecule {wrong}, but the data has {len(molecules)}, from 0"
            raise ValueError(msg)
    return molecules.select(arrays["train"]), molecules.select(arrays["test"])
