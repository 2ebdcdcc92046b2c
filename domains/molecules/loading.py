"""Molecules of a config: read, split, hydrogens kept or dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.chemistry import implied
from structdiff.domains.molecules.data import EMBEDDED, Loaded, Skipped, read
from structdiff.domains.molecules.readers.files import opened
from structdiff.domains.molecules.readers.packed import load_arrays
from structdiff.domains.molecules.readers.records import reported
from structdiff.domains.molecules.readers.sources import is_named, qm9_split
from structdiff.domains.molecules.recipe import DataConfig, MoleculesConfig
from structdiff.domains.molecules.structures import Integers, Structures

__all__ = ["Data", "load_data"]

_NONE = np.zeros(0)
_ANY = 1_000_000  # atoms: no limit


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
    named = settings.split is None and is_named(source)
    most = _ANY if named else settings.max_atoms  # EDM's split numbers all molecules
    loaded = read(source, max_atoms=most, bonded=settings.bonds != "none")
    parts = _edm() if named else _split(loaded, settings.split)
    (train, lost), (test, more) = (_usable(loaded, part, settings) for part in parts)
    held = min(settings.validation, len(train) // 5)
    order = np.random.default_rng(0).permutation(len(train))
    kept, aside = _set_aside(train, order, held, settings.conditions)
    if len(kept) < 2:
        msg = f"{len(kept)} molecules are left to train on, at least 2 are needed: give more data"
        raise ValueError(msg)
    reference = test if len(test) else kept
    skipped, notes = (*loaded.skipped, *lost, *more), tuple(loaded.notes)
    number = len(loaded.structures) - len(lost) - len(more)
    report = reported(number, skipped, notes)
    return Data(kept, aside, reference, skipped, notes, loaded.units, report)


def _usable(
    loaded: Loaded, part: Integers, settings: DataConfig
) -> tuple[Structures, list[Skipped]]:
    """Molecules of a part as the record has them, and those that cannot be with the reason."""
    chosen = loaded.structures.select(part)
    where = [loaded.where[i] for i in part.tolist()]
    faults = np.full(len(chosen), "", object)
    faults[chosen.count > settings.max_atoms] = f"more than {settings.max_atoms} atoms"
    if settings.hydrogens == "implicit":
        heavy = np.bincount(chosen.owner[chosen.number != 1], minlength=len(chosen))
        faults[heavy == 0] = "hydrogen only: nothing is left without hydrogens"
    left = np.flatnonzero(faults == "")
    chosen = chosen.select(left)
    if settings.bonds == "none":
        # Distances judge what such a model makes, and so what it stands beside.
        chosen = replace(chosen, bond=None)
    else:
        _check_bonds(loaded, settings)
        chosen, reasons = assigned(chosen, aromatic=settings.bonds == "aromatic")
        faults[left] = reasons
    lost = [Skipped(where[i], faults[i]) for i in np.flatnonzero(faults != "").tolist()]
    return chosen.without_hydrogens() if settings.hydrogens == "implicit" else chosen, lost


def _check_bonds(loaded: Loaded, settings: DataConfig) -> None:
    """Refuse data without hydrogens where bonds do not follow."""
    if not implied(loaded.structures):
        return
    if loaded.structures.bond is None:
        msg = (
            "bonds do not follow from distances without hydrogens, and these molecules have "
            "neither: give a file with bonds (SDF, SMILES), or one with hydrogens"
        )
        raise ValueError("; ".join([msg, *loaded.notes]))
    if settings.bonds == "aromatic":
        msg = (
            "data.bonds aromatic needs the hydrogens, which say what a ring nitrogen gives to its "
            "ring, and these molecules have none: use data.bonds kekulized"
        )
        raise ValueError(msg)


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


def _edm() -> tuple[Integers, Integers]:
    """Places of training and test molecules of QM9 in EDM's split."""
    whole = qm9_split()
    return whole.train, whole.test


def _split(loaded: Loaded, path: str | None) -> tuple[Integers, Integers]:
    """Places of training and test molecules."""
    molecules = loaded.structures
    if path is None:
        return np.arange(len(molecules)), np.zeros(0, np.int64)
    if loaded.skipped:
        msg = (
            "data.split numbers the molecules of the whole file, but "
            f"{len(loaded.skipped)} of it were skipped: split the file itself"
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
    return arrays["train"].astype(np.int64), arrays["test"].astype(np.int64)
