"""Many SMILES become conformers: in parallel, with a time limit each, remembered on the disk.

Workers are processes of their own that run `conformer.py`: nothing of the caller is imported
again, and a molecule that crashes or hangs RDKit costs a worker, not the run. The result depends
on the SMILES alone, not on the number of processes, unless the time limit strikes. Every thousand
molecules are stored under a hash of their SMILES and the settings in `cache_folder()`, so an
interrupted list goes on where it was; a damaged file is computed again.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from threading import Timer
from typing import Any, NamedTuple

import numpy as np
import rdkit
from numpy.typing import NDArray
from tqdm import tqdm

from structdiff.domains.molecules.readers import conformer as script
from structdiff.domains.molecules.readers.files import cache_folder, write_atomically

__all__ = ["Conformer", "embed"]

LIMIT = 60.0  # seconds per molecule
METHOD = 2  # counts the changes of what is stored: 2 has bonds
_CHUNK = 1_000
_FEW = 50  # are embedded in this process


class Conformer(NamedTuple):
    """A molecule with coordinates in 1e-4 Angstrom, or the reason why there is none.

    `bond` has the atoms and the order of each bond, `(3, bonds)`, or is None if one is dative.
    """

    number: NDArray[np.uint8]
    charge: NDArray[np.int8]
    position: NDArray[np.int32]
    bond: NDArray[np.int64] | None = None
    isotopes: bool = False
    reason: str = ""


def embed(
    smiles: Sequence[str], *, max_atoms: int = 500, processes: int | None = None
) -> list[Conformer]:
    """Embeds each SMILES; equal ones get equal coordinates.

    Arguments:
        smiles: The molecules.
        max_atoms: The largest number of atoms, hydrogens included.
        processes: How many work at a time; None means one per core, and one for a short list.
    """
    distinct = list(dict.fromkeys(smiles))
    found: dict[str, Conformer] = {}
    missing: list[tuple[Path, list[str]]] = []
    for start in range(0, len(distinct), _CHUNK):
        chunk = distinct[start : start + _CHUNK]
        path = _place(chunk, max_atoms)
        known = _load(path, len(chunk))
        found |= dict(zip(chunk, known, strict=False))
        if not known:
            missing.append((path, chunk))
    left = sum(len(chunk) for _, chunk in missing)
    few = left < _FEW
    processes = (1 if few else _cores()) if processes is None else processes
    bar = tqdm(
        total=left, desc="3-D coordinates", unit="molecule", disable=few or None, leave=False
    )
    with bar, _mapping(processes) as mapped:
        for path, chunk in missing:
            made = []
            for answer in mapped([(text, max_atoms, LIMIT) for text in chunk]):
                made.append(_conformer(answer))
                bar.update()
            with suppress(OSError, ValueError):  # a folder that cannot be written: no cache
                _save(path, made)
            found |= dict(zip(chunk, made, strict=True))
    return [found[text] for text in smiles]


def _cores() -> int:
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


def _conformer(answer: dict[str, Any]) -> Conformer:
    return Conformer(
        np.array(answer.get("number", []), np.uint8),
        np.array(answer.get("charge", []), np.int8),
        np.array(answer.get("position", []), np.int32).reshape(-1, 3),
        None
        if answer.get("bond") is None
        else np.array(answer["bond"], np.int64).reshape(-1, 3).T,
        answer.get("isotopes", False),
        answer.get("reason", ""),
    )


Arguments = tuple[str, int, float]
Mapped = Callable[[Iterable[Arguments]], Iterator[dict[str, Any]]]


@contextmanager
def _mapping(processes: int) -> Iterator[Mapped]:
    """Yields a map over molecules that keeps their order."""
    if processes < 2:
        yield lambda molecules: (script.conformer(*arguments) for arguments in molecules)
        return
    workers = [_Worker() for _ in range(processes)]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def ask(arguments: Arguments) -> dict[str, Any]:
        worker = idle.get()
        try:
            return worker.ask(arguments)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(processes)
    try:
        yield lambda molecules: threads.map(ask, molecules)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.stop()
        threads.shutdown(wait=True)


class _Worker:
    """A process that embeds one molecule after the other, and is replaced when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, arguments: Arguments) -> dict[str, Any]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script.__file__)],  # -P: no module of ours shadows
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        alarm = Timer(2 * arguments[2], process.kill)
        alarm.start()
        try:
            process.stdin.write(f"{json.dumps(arguments)}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except (BrokenPipeError, ValueError):
            answer = ""
        finally:
            alarm.cancel()
        if answer.endswith("\n"):
            return dict(json.loads(answer))
        self.stop()
        return {"reason": "RDKit crashed, or hung beyond the time limit"}

    def stop(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError, AttributeError):
                    pipe.close()  # type: ignore[union-attr]


def _place(chunk: list[str], max_atoms: int) -> Path:
    settings = [METHOD, rdkit.__version__, max_atoms, LIMIT, script.STEPS]
    key = sha256(json.dumps([settings, chunk]).encode()).hexdigest()[:32]
    return cache_folder() / "conformers" / f"{key}.npz"


def _save(path: Path, made: list[Conformer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bonds = [np.zeros((3, 0), np.int64) if one.bond is None else one.bond for one in made]
    known = np.array([one.bond is not None for one in made], np.bool_)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        pos_1e4A=np.concatenate([one.position for one in made]),
        z=np.concatenate([one.number for one in made]),
        charge=np.concatenate([one.charge for one in made]),
        n_atoms=np.array([len(one.number) for one in made], np.int64),
        bond=np.concatenate(bonds, axis=1).astype(np.int32),
        n_bonds=np.where(known, [bond.shape[1] for bond in bonds], -1),
        isotopes=np.array([one.isotopes for one in made], np.bool_),
        reason=np.array([one.reason for one in made], np.str_),
    )
    write_atomically(path, buffer.getvalue())


def _cuts(sizes: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The first and the last of each of some ranges that stand one after the other."""
    ends = np.cumsum(sizes).tolist()
    return [*zip([0, *ends[:-1]], ends, strict=True)]


def _load(path: Path, expected: int) -> list[Conformer]:
    """What was stored, or nothing if it is not there or not whole."""
    try:
        with path.open("rb") as stored, np.load(stored, allow_pickle=False) as file:
            keys = ("z", "charge", "pos_1e4A", "bond", "n_atoms", "n_bonds", "isotopes", "reason")
            number, charge, position, bond, count, bonds, isotopes, reason = (
                file[key] for key in keys
            )
        if not expected == len(count) == len(bonds) == len(isotopes) == len(reason):
            return []
        cuts, ends = _cuts(count), _cuts(np.maximum(bonds, 0))
        whole = len(number) == len(charge) == len(position) == cuts[-1][1]
        if not whole or bond.shape != (3, ends[-1][1]):
            return []
        return [
            Conformer(
                number[a:b], charge[a:b], position[a:b],
                bond[:, c:d].astype(np.int64) if known else None, bool(label), str(why),
            )
            for (a, b), (c, d), known, label, why in zip(
                cuts, ends, bonds >= 0, isotopes, reason, strict=True
            )
        ]  # fmt: skip
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
        return []
