r"""How likely a model holds molecules to be.

A molecule's score is an upper bound on -log p(positions, elements | size, conditions), in nats,
with densities per Angstrom on the space of centred positions: the same molecule in other units of
length has another score, and scores of molecules of different sizes are densities of different
dimension. The law of sizes adds -log p(size | conditions), which is kept apart.

The noise that the bound is estimated with follows from the seed and from the molecule itself (its
positions and elements), so a score is the same alone and in any file, up to rounding.
"""

from __future__ import annotations

import hashlib
from collections import Counter as Count
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from structdiff.artifacts.table import Cell
from structdiff.batch import Batch
from structdiff.counter import Counter
from structdiff.denoiser import Denoiser
from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.codec import MoleculeCodec, type_symbol
from structdiff.domains.molecules.recipe import MoleculesConfig, grid_of
from structdiff.domains.molecules.structures import AROMATIC, Integers, Structures
from structdiff.likelihood import Bound, Interval, bound, ratio

__all__ = ["Scores", "score"]

TERMS = 20  # of the chain's steps are looked at in each draw
_PAIRS = {"cpu": 5_000}  # atom pairs looked at together
_MANY = 200_000  # on other devices
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """What is known of each molecule; a bare number says too little.

    Arguments:
        bound: The bound of those that were scored, in their order.
        rows: Which ones they are.
        reasons: Of every molecule, why it was not scored, or "".
        atoms: Their numbers of atoms, those that the model knows.
        size: -log p(size | conditions) of those scored, infinite for a size never seen.
        known: Names of the conditions that are known of each one scored.
        draws: Monte-Carlo repetitions.
        steps: Steps of the chain.
        seed: Start of the random numbers.
    """

    bound: Bound
    rows: Integers
    reasons: tuple[str, ...]
    atoms: Integers
    size: Floats
    known: tuple[tuple[str, ...], ...]
    draws: int
    steps: int
    seed: int

    def __len__(self) -> int:
        return len(self.reasons)

    def columns(self) -> dict[str, list[Cell]]:
        """Columns of a table, a row for each molecule; NaN where it was not scored."""
        bound, nan = self.bound, float("nan")
        found: dict[str, NDArray[np.floating]] = {
            "nats": bound.total.numpy(),
            "error": bound.error.numpy(),
        }
        for leaf in bound.prior:
            found[leaf] = bound.leaf(leaf).numpy()
            found[f"{leaf}_error"] = bound.leaf_error(leaf).numpy()
            found[f"{leaf}_prior"] = bound.prior[leaf].numpy()
            found[f"{leaf}_steps"] = bound.divergence[leaf].numpy()
            found[f"{leaf}_last"] = bound.reconstruction[leaf].numpy()
        found["size"] = self.size
        spread: dict[str, list[Cell]] = {"atoms": [int(n) for n in self.atoms]}
        for name, values in found.items():
            column: list[Cell] = [nan] * len(self)
            for row, value in zip(self.rows.tolist(), values.tolist(), strict=True):
                column[row] = float(value)
            spread[name] = column
        if any(self.known):
            given: list[Cell] = [""] * len(self)
            for row, names in zip(self.rows.tolist(), self.known, strict=True):
                given[row] = " ".join(names)
            spread["conditions"] = given
        return spread | {"reason": [*self.reasons]}

    def means(self) -> dict[str, tuple[Interval, float]]:
        """Mean of each part with its bootstrap interval over molecules and Monte-Carlo error."""
        bound, leaves = self.bound, list(self.bound.prior)
        found = {"total": (ratio(bound.total.numpy()), bound.mean_error())}
        for leaf in leaves:
            found[leaf] = ratio(bound.leaf(leaf).numpy()), bound.mean_error(leaf)
        atoms = self.atoms[self.rows]
        per_atom = bound.mean_error() / float(atoms.mean())
        found["total per atom"] = ratio(bound.total.numpy(), atoms), per_atom
        seen = np.isfinite(self.size)
        if seen.any():
            found["size"] = ratio(self.size[seen]), 0.0
        return found

    def facts(self) -> dict[str, str | int]:
        """What the numbers are."""
        names = sorted({name for names in self.known for name in names})
        condition = f", and {', '.join(names)} where the data has them" if names else ""
        return {
            "kind": self.bound.kind,
            "units": f"{self.bound.units} per molecule",
            "measure": f"{self.bound.measure}; positions in Angstrom",
            "given": f"the number of atoms{condition}",
            "error": f"standard error over {self.draws} draws",
            "draws": self.draws,
            "steps": self.steps,
            "terms per draw": min(TERMS, self.steps),
            "seed": self.seed,
            "molecules": len(self),
            "scored": len(self.rows),
        }

    def summary(self) -> str:
        """Means with intervals and errors, and why molecules were not scored."""
        lines = [f"{len(self.rows):,} of {len(self):,} molecules scored"]
        missed = Count(reason for reason in self.reasons if reason)
        lines += [f"  {count:,} not: {reason}" for reason, count in missed.most_common()]
        facts = self.facts()
        lines += [f"{facts['kind']}, {facts['units']}, given {facts['given']}"]
        lines += [f"  {'mean':<16}{'value':>10}  {'95 % over molecules':<22}Monte-Carlo error"]
        for name, (value, error) in self.means().items():
            name = "size, -log p(n)" if name == "size" else name
            ends = f"[{value.low:.2f}, {value.high:.2f}]"
            shown = f"{error:.2g}" if error else "none, it is exact"
            lines.append(f"  {name:<16}{value.value:>10.2f}  {ends:<22}{shown}")
        unseen = int(np.isinf(self.size).sum())
        lines += [f"  {unseen} of a size that training never saw"] * (unseen > 0)
        return "\n".join(lines)


def score(
    denoiser: Denoiser,
    codec: MoleculeCodec,
    config: MoleculesConfig,
    structures: Structures,
    *,
    draws: int = 4,
    steps: int = 500,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """The bound of each molecule; those that cannot have one are told with the reason.

    Arguments:
        denoiser: The denoiser.
        codec: Vocabulary, sizes and conditions.
        config: Settings of the run.
        structures: Molecules; those properties that are conditions of the run are given to it.
        draws: Monte-Carlo repetitions, at least 2, for the error.
        steps: Steps of the chain whose bound it is.
        seed: Start of the random numbers.
        progress: Whether to show a bar.

    Raises:
        ValueError: If no molecule can be scored, or a number is out of range.
    """
    if draws < 2 or steps < 1:
        msg = (
            f"draws must be at least 2, for the error, and steps at least 1, got {draws}, {steps}"
        )
        raise ValueError(msg)
    if seed < 0:
        msg = f"seed must be at least 0, got {seed}"
        raise ValueError(msg)
    implicit = config.data.hydrogens == "implicit"
    reasons = _faults(codec, structures, implicit=implicit)
    rows = np.flatnonzero([not reason for reason in reasons])
    if not len(rows):
        first = reasons[0] if reasons else "there is none"
        msg = f"no molecule can be scored, the first: {first}. The model knows {codec.symbols()}"
        raise ValueError(msg)
    usable, rows = _with_bonds(codec, structures, rows, reasons)
    usable = usable.without_hydrogens() if implicit else usable
    atoms = structures.count.copy()
    atoms[rows] = usable.count
    sampler = config.sampler.model_copy(update={"steps": steps})
    grid = grid_of(config.model_copy(update={"sampler": sampler}))
    device = next(denoiser.parameters()).device
    bounds, sizes, known = list[Bound](), list[Floats](), list[tuple[str, ...]]()
    with tqdm(total=len(usable), unit="molecule", disable=not progress) as bar:
        for part in _parts(usable.count, _PAIRS.get(device.type, _MANY)):
            batch = codec.encode(usable.select(part))
            sizes.append(_surprise(codec, batch, usable.count[part]))
            known += _known(batch)
            batch = replace(batch, ids=_ids(batch)).to(device)
            found = bound(denoiser, batch, grid, Counter(seed), draws=draws, terms=TERMS)
            bounds.append(_kept(found))
            bar.update(len(part))
    return Scores(
        Bound.concatenate(bounds), rows, tuple(reasons), atoms, np.concatenate(sizes),
        tuple(known), draws, steps, seed,
    )  # fmt: skip


def _with_bonds(
    codec: MoleculeCodec, structures: Structures, rows: Integers, reasons: list[str]
) -> tuple[Structures, Integers]:
    """These molecules with bonds, if the model has any; `reasons` gets why others have none.

    Raises:
        ValueError: If none is left.
    """
    usable = structures.select(rows)
    if not codec.bond_counts:
        return replace(usable, bond=None), rows
    usable, faults = assigned(usable, aromatic=len(codec.bond_counts) > AROMATIC)
    for row, fault in zip(rows.tolist(), faults, strict=True):
        reasons[row] = fault
    if not len(usable):
        msg = f"no molecule can be scored, the first: {reasons[int(rows[0])]}"
        raise ValueError(f"{msg}. The model knows bonds: give molecules that have them")
    return usable, rows[[not fault for fault in faults]]


def _kept(found: Bound) -> Bound:
    """The bound in float64 on the CPU."""

    def kept(terms: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.double().cpu() for name, value in terms.items()}

    return Bound(
        kept(found.prior), kept(found.divergence), kept(found.reconstruction), kept(found.draws)
    )


def _parts(count: Integers, budget: int) -> Iterator[Integers]:
    """Molecules in their order, about so many atom pairs together."""
    block = np.cumsum(count * (count - 1) // 2) // budget
    yield from np.split(np.arange(len(count)), np.flatnonzero(np.diff(block)) + 1)


def _ids(batch: Batch) -> torch.Tensor:
    """A number of each molecule that follows from its positions and elements."""
    cuts = np.cumsum(batch.layouts["position"].counts)[:-1]
    leaves = [np.split(batch[name].numpy(), cuts) for name in ("position", "element")]
    digests = [
        hashlib.blake2b(b"".join(leaf.tobytes() for leaf in one), digest_size=8).digest()
        for one in zip(*leaves, strict=True)
    ]
    return torch.tensor([int.from_bytes(d, "little") >> 1 for d in digests])


def _surprise(codec: MoleculeCodec, batch: Batch, count: Integers) -> Floats:
    """-log p(size | conditions); infinite where it is zero."""
    weights = codec.sizes.weights(batch.samples, batch.condition, batch.present)
    place = np.minimum(count, weights.shape[1] - 1)
    mass = np.where(count < weights.shape[1], weights[np.arange(len(count)), place], 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(weights.sum(1)) - np.log(mass))


def _known(batch: Batch) -> list[tuple[str, ...]]:
    """Names of the conditions that are known of each molecule."""
    masks = {name: mask.tolist() for name, mask in batch.present.items()}
    return [tuple(name for name, mask in masks.items() if mask[i]) for i in range(batch.samples)]


def _faults(codec: MoleculeCodec, structures: Structures, *, implicit: bool) -> list[str]:
    """Why each molecule cannot be scored, or ""."""
    counted = structures.number != 1 if implicit else np.ones(len(structures.number), np.bool_)
    number, charge = structures.number.astype(np.int64), structures.charge.astype(np.int64)
    kinds = np.array([256 * z + q for z, q in codec.types])
    strange = counted & ~np.isin(256 * number + charge, kinds)
    unseen: dict[int, set[tuple[int, int]]] = {}
    for atom in np.flatnonzero(strange).tolist():
        kind = (int(number[atom]), int(charge[atom]))
        unseen.setdefault(int(structures.owner[atom]), set()).add(kind)
    left = np.bincount(structures.owner[counted], minlength=len(structures))
    finite = structures.finite
    return [
        "hydrogen only" if not left[i]
        else "coordinates are not finite" if not finite[i]
        else f"training had no {_named(unseen[i])}" if i in unseen
        else _odd_value(codec, structures, i)
        for i in range(len(structures))
    ]  # fmt: skip


def _named(types: set[tuple[int, int]]) -> str:
    return ", ".join(type_symbol(z, q) for z, q in sorted(types))


def _odd_value(codec: MoleculeCodec, structures: Structures, i: int) -> str:
    """Says which property of a molecule cannot be the condition that it is in the run, or ""."""
    known = structures.properties
    faults = (one.fault(known[one.name][i]) for one in codec.conditions if one.name in known)
    return next(filter(None, faults), "")
