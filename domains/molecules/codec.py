"""Molecules as records: `position` (atoms x 3, Angstrom, zero centre), `element`, maybe `bond`.

A class of `element` is an atom type: an element with a formal charge. `bond` has a row for each
pair of atoms i < j, whose class is its order: none, single, double, triple, maybe aromatic. What
is asked of a molecule (a property of the data) is a condition of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from structdiff.batch import Batch
from structdiff.codecs import Codec, Condition, SizeLaw, encode_conditions
from structdiff.domains.molecules.structures import AROMATIC, SYMBOLS, Bonds, Structures
from structdiff.layout import Layout

__all__ = ["AtomType", "BondKind", "MoleculeCodec"]

AtomType = tuple[int, int]
"""Atomic number and formal charge."""
BondKind = Literal["none", "kekulized", "aromatic"]
"""No bonds in the record; single and double ones in aromatic rings; a kind of their own there."""

_SHIFT = 128  # int8 charges as indices


class MoleculeCodec(Codec[Structures]):
    """Vocabulary of atom types, law of sizes, scale of positions, conditions.

    Arguments:
        types: Atom types that occur, ascending.
        type_counts: How often each occurs.
        sizes: Law of the number of atoms.
        position_std: Root mean square of a centred coordinate, Angstrom.
        conditions: What molecules can be asked for.
        bond_counts: How many pairs of atoms have no bond, a single one, ...; nothing if bonds are
            not of the record.
    """

    def __init__(
        self,
        types: tuple[AtomType, ...],
        type_counts: tuple[int, ...],
        sizes: SizeLaw,
        position_std: float,
        conditions: tuple[Condition, ...] = (),
        bond_counts: tuple[int, ...] = (),
    ) -> None:
        self.bond_counts = bond_counts
        self.types, self.type_counts, self.sizes = types, type_counts, sizes
        self.position_std, self.conditions = position_std, conditions
        self._numbers = np.array([z for z, _ in types], np.uint8)
        self._charges = np.array([q for _, q in types], np.int8)
        self._class = np.full((len(SYMBOLS), 2 * _SHIFT), -1)
        self._class[self._numbers, self._charges.astype(np.int64) + _SHIFT] = np.arange(len(types))

    @classmethod
    def fit(
        cls,
        objects: Structures,
        conditions: Sequence[str] = (),
        units: Mapping[str, str] | None = None,
        *,
        bonds: BondKind = "none",
    ) -> Self:
        """Read off the molecules.

        Arguments:
            objects: Training molecules.
            conditions: Names of their properties that the model is to know.
            units: Units of those that have one.
            bonds: Whether bonds are of the record, and how aromatic rings are written.

        Raises:
            ValueError: If there are none, their bonds are not known, or a property is missing or
                named twice.
        """
        if not len(objects):
            msg = "there are no molecules to fit to"
            raise ValueError(msg)
        if len(set(conditions)) < len(conditions):
            msg = f"conditions must name each property once, got {list(conditions)}"
            raise ValueError(msg)
        missing = sorted(set(conditions) - objects.properties.keys())
        if missing:
            has = f"the data has the properties {sorted(objects.properties)}"
            msg = f"{has}, not {missing}: choose conditions among them"
            raise ValueError(msg)
        types, counts = np.unique(
            np.stack([objects.number.astype(np.int64), objects.charge.astype(np.int64)], 1),
            axis=0,
            return_counts=True,
        )
        known = tuple(
            Condition.fit(name, objects.properties[name], (units or {}).get(name, ""))
            for name in conditions
        )
        condition, present = encode_conditions(
            known, {n: objects.properties[n] for n in conditions}
        )
        return cls(
            tuple((int(z), int(q)) for z, q in types),
            tuple(int(count) for count in counts),
            SizeLaw.fit(objects.count, condition, present),
            float(np.sqrt(np.mean(_centred(objects) ** 2))),
            known,
            () if bonds == "none" else _bond_counts(objects, aromatic=bonds == "aromatic"),
        )

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers of the atom types, ascending."""
        return tuple(sorted({z for z, _ in self.types}))

    def symbols(self) -> list[str]:
        """The atom types in words: C, N, N+, O-, ..."""
        return [type_symbol(z, q) for z, q in self.types]

    def encode(self, objects: Structures) -> Batch:
        """A clean batch in float32, with the conditions that the molecules have.

        Raises:
            ValueError: If a molecule has an atom type that was not in the training data.
        """
        classes = self._class[objects.number, objects.charge.astype(np.int64) + _SHIFT]
        if (classes < 0).any():
            pairs = zip(objects.number[classes < 0], objects.charge[classes < 0], strict=True)
            unknown = sorted({type_symbol(int(z), int(q)) for z, q in pairs})
            msg = (
                f"the model knows the elements {self.symbols()}, but the molecules have "
                f"{unknown}: train on data that has them"
            )
            raise ValueError(msg)
        position = torch.from_numpy(_centred(objects).astype(np.float32))
        leaves = {"position": position, "element": torch.from_numpy(classes.astype(np.int64))}
        if self.bond_counts:
            leaves["bond"] = torch.from_numpy(self._bond_classes(objects))
        names = [c.name for c in self.conditions if c.name in objects.properties]
        condition, present = encode_conditions(
            self.conditions, {name: objects.properties[name] for name in names}
        )
        return Batch(leaves, self.layouts(objects.count.tolist()), condition, present)

    def layouts(
        self, counts: Sequence[int], device: torch.device | str | None = None
    ) -> dict[str, Layout]:
        """The layout of each leaf of molecules with these numbers of atoms."""
        atoms = Layout.ragged(counts, device)
        pairs = {"bond": Layout.pairs(atoms)} if self.bond_counts else {}
        return {"position": atoms, "element": atoms, **pairs}

    def decode(self, batch: Batch) -> Structures:
        """Molecules of a clean batch."""
        return self.structures(batch.leaves, batch.layouts)

    def structures(
        self, leaves: Mapping[str, torch.Tensor], layouts: Mapping[str, Layout]
    ) -> Structures:
        """Molecules of leaves, noisy or clean; a masked atom is unknown, a masked bond none."""
        classes = leaves["element"].cpu().clamp(max=len(self.types)).numpy()
        numbers, charges = np.append(self._numbers, 0), np.append(self._charges, 0)
        place = leaves["position"].float().cpu().numpy()
        count = np.asarray(layouts["position"].counts)
        bond = self._bonds(leaves["bond"], layouts["bond"]) if self.bond_counts else None
        return Structures(
            place, numbers[classes], count, charge=charges[classes], properties={}, bond=bond
        )

    def _bond_classes(self, objects: Structures) -> NDArray[np.int64]:
        """The class of each pair i < j, `(pairs,)`.

        Raises:
            ValueError: If the bonds are not known, or one is of an order that training had not.
        """
        bond, size = _known_bonds(objects), objects.count
        if (bond.order >= len(self.bond_counts)).any():
            has = f"bonds of order {int(bond.order.max())}"
            msg = f"the model knows the orders 1 to {len(self.bond_counts) - 1}, these have {has}"
            raise ValueError(f"{msg}: kekulise the molecules, or train with data.bonds aromatic")
        pairs = size * (size - 1) // 2
        i, j = bond.pair - objects.offsets[bond.molecule]
        n = size[bond.molecule]
        place = (np.cumsum(pairs) - pairs)[bond.molecule] + i * n - i * (i + 1) // 2 + j - i - 1
        classes = np.zeros(int(pairs.sum()), np.int64)
        classes[place] = bond.order
        return classes

    def _bonds(self, classes: torch.Tensor, layout: Layout) -> Bonds:
        order = classes.cpu().numpy()
        there = np.flatnonzero((order > 0) & (order < len(self.bond_counts)))
        nodes = layout.nodes.cpu().numpy() if layout.nodes is not None else np.zeros((2, 0), int)
        return Bonds(nodes[:, there], order[there], layout.sample.cpu().numpy()[there])

    def state(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        return {
            "types": [list(pair) for pair in self.types],
            "type_counts": list(self.type_counts),
            "sizes": self.sizes.state(),
            "position_std": self.position_std,
            "conditions": [condition.state() for condition in self.conditions],
            "bond_counts": list(self.bond_counts),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """From what `state` gave.

        Raises:
            ValueError: If a part is missing, of another kind or out of range.
        """
        try:
            types = tuple((int(z), int(q)) for z, q in state["types"])
            counts = tuple(int(count) for count in state["type_counts"])
            sizes = SizeLaw.from_state(state["sizes"])
            std = float(state["position_std"])
            conditions = tuple(Condition.from_state(one) for one in state["conditions"])
            bonds = tuple(int(count) for count in state.get("bond_counts", ()))
            faults = list(_faults(types, counts, sizes, std, conditions))
            if bonds and (not 4 <= len(bonds) <= 1 + AROMATIC or min(bonds) < 0 or not sum(bonds)):
                faults.append("bond_counts must count pairs of no, single, double, ... bond")
        except KeyError as error:
            faults = [f"{error} is missing"]
        except (TypeError, AttributeError, ValueError, OverflowError) as error:
            faults = [f"a value is of the wrong kind ({error})"]
        if faults:
            msg = f"this is not the state of a molecule codec: {faults[0]}"
            raise ValueError(msg)
        return cls(types, counts, sizes, std, conditions, bonds)


def _known_bonds(objects: Structures) -> Bonds:
    if objects.bond is None:
        msg = "the bonds of the molecules are not known: assign them first (see `assigned`)"
        raise ValueError(msg)
    return objects.bond


def _bond_counts(objects: Structures, *, aromatic: bool) -> tuple[int, ...]:
    """How many pairs have each order, none first."""
    order = _known_bonds(objects).order
    pairs = int((objects.count * (objects.count - 1) // 2).sum())
    found = np.bincount(order, minlength=1 + AROMATIC if aromatic else AROMATIC)
    found[0] = pairs - len(order)
    return tuple(int(count) for count in found)


def _faults(
    types: tuple[AtomType, ...],
    counts: tuple[int, ...],
    sizes: SizeLaw,
    std: float,
    conditions: tuple[Condition, ...],
) -> Iterator[str]:
    """What is out of range in a state."""
    known = all(0 < z < len(SYMBOLS) and abs(q) < _SHIFT for z, q in types)
    if not types or not known or sorted(set(types)) != list(types):
        yield "types must be elements with small charges, ascending, each once"
    if len(counts) != len(types) or min(counts, default=0) < 1:
        yield f"type_counts must be {len(types)} positive numbers"
    if not 0 < std < math.inf:
        yield f"position_std must be positive, not {std}"
    histogram = np.asarray(sizes.histogram)
    counted = histogram.ndim == 1 and histogram.dtype.kind in "iu" and histogram.size
    if not counted or histogram.min() < 0 or histogram[0] or not histogram.any():
        yield "sizes.histogram must count the molecules of each size, from 0 (of which none is)"
    columns = [name for one in conditions for name in _columns(one)]
    if len({one.name for one in conditions}) < len(conditions) or "" in columns:
        yield "conditions must have names, each once"
    if not all(isinstance(word, str) for one in conditions for word in one.classes):
        yield "classes of conditions must be words"
    for one in conditions:
        real = np.asarray([one.mean, one.std, one.low, one.high], np.float64)
        good = np.isfinite(real).all() and (real[1] > 0).all()
        if not good or bool(one.classes) == bool(one.mean) or len({*one.classes, ""}) == 2:
            yield f"condition {one.name!r} must have numbers with a spread, or classes"
    if sizes.tables.keys() != set(columns):
        yield f"sizes.tables must be of the conditions {columns}, not {list(sizes.tables)}"
    for name, (edges, rows) in sizes.tables.items():
        table = np.asarray(rows)
        whole = table.dtype.kind in "iu" and table.shape == (len(histogram), len(edges) + 1)
        if not whole or table.min() < 0 or not table.any() or not np.isfinite(edges).all():
            yield f"sizes.tables.{name} must count molecules by size and bin"


def _columns(condition: Condition) -> list[str]:
    """Names of a condition, or of its entries, in the law of sizes."""
    name, entries = condition.name, condition.entries
    return [name] if entries < 2 else [f"{name}[{i}]" for i in range(entries)]


def type_symbol(number: int, charge: int) -> str:
    """An atom type in words: C, N+, O-, Fe2+."""
    size = "" if abs(charge) == 1 else str(abs(charge))
    sign = "" if charge == 0 else "+" if charge > 0 else "-"
    return f"{SYMBOLS[number]}{size if charge else ''}{sign}"


def _centred(objects: Structures) -> NDArray[np.float64]:
    """Positions with the mean of each molecule at the origin."""
    position = objects.position.astype(np.float64)
    total = np.zeros((len(objects), 3))
    np.add.at(total, objects.owner, position)
    return np.asarray(position - (total / objects.count[:, None])[objects.owner])
