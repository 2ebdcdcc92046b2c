"""Molecules as packed arrays, and the pairs of their atoms.

The atoms of all molecules stand one after the other, padding-free: `position[a]` (Angstrom),
`number[a]` (atomic number) and `charge[a]` (formal charge) for atom a, `count[m]` atoms for
molecule m. What else is known of molecule m (an energy, a class) is `properties[name][m]`. Bonds,
where they are known and not to be inferred from distances, are `bond`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]
Integers: TypeAlias = NDArray[np.int64]
Booleans: TypeAlias = NDArray[np.bool_]

_TABLE = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As "
    "Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd "
    "Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am "
    "Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
)
SYMBOLS = _TABLE.split()  # by atomic number; X is the unknown element
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}
AROMATIC = 4  # the order of an aromatic bond, as in mol files
LIMIT = 9_999.0  # Angstrom: the widest coordinate of an SDF


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Returns a read-only view."""
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class Bonds:
    """Bonds of packed molecules, molecule by molecule.

    Arguments:
        pair: The two atoms i < j as indices into the packed atoms, `(2, bonds)`.
        order: The bond orders 1, 2 or 3, or `AROMATIC`, `(bonds,)`.
        molecule: The molecule of each bond, ascending, `(bonds,)`.
    """

    pair: Integers
    order: Integers
    molecule: Integers

    def __len__(self) -> int:
        return len(self.order)

    def split(self, structures: Structures) -> Iterator[Bonds]:
        """Yields the bonds of one molecule after the other, its atoms counted from 0."""
        cuts = np.searchsorted(self.molecule, np.arange(len(structures) + 1)).tolist()
        for m, first in enumerate(structures.offsets[:-1].tolist()):
            part = slice(cuts[m], cuts[m + 1])
            order = self.order[part]
            yield Bonds(self.pair[:, part] - first, order, np.zeros_like(order))

    @classmethod
    def joined(
        cls, parts: Sequence[Bonds], atoms: Sequence[int], molecules: Sequence[int]
    ) -> Bonds:
        """Bonds of several sets of molecules, one set after the other.

        Arguments:
            parts: The bonds of each set, its atoms and molecules counted from 0.
            atoms: Number of atoms of each set.
            molecules: Number of molecules of each set.
        """
        sizes = [len(part) for part in parts]
        atom = np.repeat(np.cumsum([0, *atoms])[:-1], sizes)
        molecule = np.repeat(np.cumsum([0, *molecules])[:-1], sizes)
        return cls(
            np.concatenate([part.pair for part in parts], 1) + atom,
            np.concatenate([part.order for part in parts]),
            np.concatenate([part.molecule for part in parts]) + molecule,
        )


@dataclass(frozen=True, eq=False)
class Structures:
    """Molecules with their atoms packed one after the other.

    Arguments:
        position: The coordinates in Angstrom, `(atoms, 3)`; float32 is kept, all else is float64.
        number: The atomic numbers, `(atoms,)`; 0 is an unknown element.
        count: The number of atoms of each molecule, `(molecules,)`, at least 1.
        name: One name per molecule, or none at all.
        charge: The formal charges, `(atoms,)`; all zero by default.
        properties: What is known of each molecule, by name: numbers `(molecules,)` or
            `(molecules, d)` with NaN where unknown, or words `(molecules,)` with "" where unknown.
        bond: The bonds, if they are known; None where they follow from distances.

    Raises:
        ValueError: If the shapes do not fit together.

    Example:
        >>> h2 = ([1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]])
        >>> structures = Structures.from_list([h2, h2])
        >>> len(structures), structures.offsets.tolist()
        (2, [0, 2, 4])
    """

    position: Floats
    number: NDArray[np.uint8]
    count: Integers
    name: tuple[str, ...] = ()
    charge: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    properties: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    bond: Bonds | None = None

    def __post_init__(self) -> None:
        position = np.asarray(self.position)
        if position.dtype != np.float32:
            position = position.astype(np.float64)
        count = np.asarray(self.count, dtype=np.int64)
        number = np.asarray(self.number)
        if number.size and not (number.min() >= 0 and number.max() < len(SYMBOLS)):
            raise ValueError(
                f"number must hold atomic numbers 0 to {len(SYMBOLS) - 1}, not {number.min()} "
                f"to {number.max()}; pass the numbers of elements, not indices into a list"
            )
        if count.ndim != 1 or (count < 1).any():
            raise ValueError("count must be (molecules,) and positive; leave out empty molecules")
        atoms = int(count.sum())
        if position.shape != (atoms, 3) or number.shape != (atoms,):
            raise ValueError(
                f"count sums to {atoms} atoms, so position must be ({atoms}, 3) and number "
                f"({atoms},), not {position.shape} and {number.shape}"
            )
        if self.name and len(self.name) != len(count):
            raise ValueError(f"name has {len(self.name)} entries for {len(count)} molecules")
        charge = np.asarray(self.charge) if len(self.charge) else np.zeros(atoms, np.int8)
        if charge.shape != (atoms,):
            raise ValueError(f"charge must be ({atoms},), one per atom, not {charge.shape}")
        properties = {n: np.asarray(value) for n, value in self.properties.items()}
        for name, value in properties.items():
            if value.shape[:1] != count.shape:
                raise ValueError(
                    f"property {name!r} has shape {value.shape}, but there are {len(count)} "
                    "molecules; give one row for each"
                )
        if self.bond is not None:
            _check_bonds(self.bond, np.repeat(np.arange(len(count)), count))
        object.__setattr__(self, "charge", frozen(charge.astype(np.int8)))
        object.__setattr__(self, "properties", {n: frozen(v) for n, v in properties.items()})
        object.__setattr__(self, "position", frozen(position))
        object.__setattr__(self, "number", frozen(number.astype(np.uint8)))
        object.__setattr__(self, "count", frozen(count))

    @classmethod
    def from_list(
        cls, molecules: Iterable[tuple[ArrayLike, ArrayLike]], name: Sequence[str] = ()
    ) -> Structures:
        """Packs pairs of atomic numbers `(n,)` and positions `(n, 3)`."""
        pairs = [(np.asarray(z), np.asarray(x).reshape(-1, 3)) for z, x in molecules]
        return cls(
            np.concatenate([x for _, x in pairs] or [np.zeros((0, 3))]),
            np.concatenate([z for z, _ in pairs] or [np.zeros(0, np.uint8)]),
            np.array([len(z) for z, _ in pairs], dtype=np.int64),
            tuple(name),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Structures]) -> Structures:
        """Joins packed molecules; names, properties and bonds are kept if every part has them."""
        named = all(part.name for part in parts)
        known = [part.bond for part in parts if part.bond is not None]
        common = [n for n in parts[0].properties if all(n in part.properties for part in parts)]
        return cls(
            np.concatenate([part.position for part in parts]),
            np.concatenate([part.number for part in parts]),
            np.concatenate([part.count for part in parts]),
            tuple(name for part in parts for name in part.name) if named else (),
            np.concatenate([part.charge for part in parts]),
            {n: np.concatenate([part.properties[n] for part in parts]) for n in common},
            None
            if len(known) < len(parts)
            else Bonds.joined(known, [len(p.number) for p in parts], [len(p) for p in parts]),
        )

    def __len__(self) -> int:
        return len(self.count)

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], Floats]]:
        return (self.molecule(i) for i in range(len(self)))

    @cached_property
    def offsets(self) -> Integers:
        """The first atom of each molecule and, last, the number of atoms, `(molecules + 1,)`."""
        return frozen(np.concatenate([[0], np.cumsum(self.count)]))

    @cached_property
    def owner(self) -> Integers:
        """The molecule of each atom, `(atoms,)`."""
        return frozen(np.repeat(np.arange(len(self)), self.count))

    @property
    def elements(self) -> tuple[int, ...]:
        """The atomic numbers that occur, ascending."""
        return tuple(np.unique(self.number).tolist())

    @property
    def finite(self) -> Booleans:
        """Which molecules have coordinates that are finite and fit a file, `(molecules,)`."""
        bad = ~(np.abs(self.position) <= LIMIT).all(1)
        return np.asarray(np.bincount(self.owner[bad], minlength=len(self)) == 0)

    def molecule(self, i: int) -> tuple[NDArray[np.uint8], Floats]:
        """Returns the atomic numbers and the positions of molecule i."""
        i = range(len(self))[i]
        atoms = slice(self.offsets[i], self.offsets[i + 1])
        return self.number[atoms], self.position[atoms]

    def charges(self, i: int) -> NDArray[np.int8]:
        """Returns the formal charges of molecule i."""
        i = range(len(self))[i]
        return self.charge[self.offsets[i] : self.offsets[i + 1]]

    def identity(self) -> dict[str, str | int]:
        """Returns what tells these molecules from others: their number and a digest of all."""
        digest = blake2b(digest_size=16)
        for array in (self.position, self.number, self.count, self.charge):
            digest.update(np.ascontiguousarray(array).tobytes())
        if self.bond is not None:
            digest.update(np.stack([*self.bond.pair, self.bond.order]).tobytes())
        for name, value in sorted(self.properties.items()):
            digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
        return {"molecules": len(self), "digest": digest.hexdigest()}

    def with_properties(self, properties: Mapping[str, NDArray[Any]]) -> Structures:
        """Returns the same molecules with these properties only."""
        return replace(self, properties=properties)

    def select(self, indices: ArrayLike) -> Structures:
        """Returns the molecules of the indices (or of a boolean mask), in that order."""
        index = np.asarray(indices)
        chosen = np.arange(len(self))[index if index.size else index.astype(np.int64)]
        count = self.count[chosen]
        atoms = spread(self.offsets[chosen], count)
        name = tuple(self.name[i] for i in chosen) if self.name else ()
        properties = {n: value[chosen] for n, value in self.properties.items()}
        return Structures(
            self.position[atoms],
            self.number[atoms],
            count,
            name,
            self.charge[atoms],
            properties,
            self._bonds_of(chosen, count),
        )

    def _bonds_of(self, chosen: Integers, count: Integers) -> Bonds | None:
        """The bonds of these molecules, which have so many atoms."""
        if self.bond is None:
            return None
        cuts = np.searchsorted(self.bond.molecule, np.arange(len(self) + 1))
        number = cuts[chosen + 1] - cuts[chosen]
        rows, molecule = spread(cuts[chosen], number), np.repeat(np.arange(len(chosen)), number)
        shift = np.cumsum(count) - count - self.offsets[chosen]
        return Bonds(self.bond.pair[:, rows] + shift[molecule], self.bond.order[rows], molecule)

    def without_hydrogens(self) -> Structures:
        """Returns the heavy atoms; molecules of hydrogen only are dropped."""
        heavy = self.number != 1
        count = np.bincount(self.owner[heavy], minlength=len(self))
        left, bond = count > 0, self.bond
        if bond is not None:
            kept = heavy[bond.pair].all(0)
            pair = (np.cumsum(heavy) - 1)[bond.pair[:, kept]]
            molecule = (np.cumsum(left) - 1)[bond.molecule[kept]]
            bond = Bonds(pair, bond.order[kept], molecule)
        name = tuple(n for n, c in zip(self.name, count, strict=False) if c)
        properties = {n: value[left] for n, value in self.properties.items()}
        return Structures(
            self.position[heavy],
            self.number[heavy],
            count[left],
            name,
            self.charge[heavy],
            properties,
            bond,
        )


def _check_bonds(bond: Bonds, owner: Integers) -> None:
    """Refuse bonds that do not fit the molecules that their atoms belong to."""
    size = len(bond.order)
    if bond.pair.shape != (2, size) or bond.molecule.shape != (size,):
        msg = f"bond has {size} orders, but pair {bond.pair.shape}, molecule {bond.molecule.shape}"
        raise ValueError(msg)
    if not size:
        return
    inside = bond.pair.min() >= 0 and bond.pair.max() < len(owner)
    if not inside or (bond.pair[0] >= bond.pair[1]).any():
        msg = f"bond.pair must hold atoms i < j of {len(owner)}, it has others"
        raise ValueError(f"{msg}: number the packed atoms from 0")
    if (owner[bond.pair] != bond.molecule).any() or (np.diff(bond.molecule) < 0).any():
        raise ValueError("bond must join atoms of one molecule, molecule by molecule")
    if not (bond.order.min() >= 1 and bond.order.max() <= AROMATIC):
        raise ValueError(f"bond.order must be 1, 2, 3 or {AROMATIC} (aromatic), it has others")


def spread(start: Integers, count: Integers) -> Integers:
    """Concatenates the ranges start[i], ..., start[i] + count[i] - 1 without a loop."""
    ends = np.cumsum(count)
    return np.asarray(np.repeat(start - ends + count, count) + np.arange(count.sum()))


def pairs(structures: Structures, budget: int = 2_000_000) -> Iterator[tuple[Integers, Integers]]:
    """Yields all atom pairs i < j within molecules, as indices into the packed atoms.

    Arguments:
        structures: The molecules.
        budget: About how many pairs to hold at a time.
    """
    later = structures.offsets[structures.owner + 1] - np.arange(len(structures.owner)) - 1
    block = np.cumsum(later) // budget
    cuts = np.flatnonzero(np.diff(block, prepend=-1, append=-1))
    for low, high in pairwise(cuts.tolist()):
        atoms = np.arange(low, high)
        yield np.repeat(atoms, later[low:high]), spread(atoms + 1, later[low:high])


def distances(structures: Structures, i: Integers, j: Integers) -> NDArray[np.float64]:
    """Returns the distances of atom pairs in Angstrom; NaN where a coordinate is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = structures.position[i].astype(np.float64) - structures.position[j]
        return np.asarray(np.sqrt((difference**2).sum(-1)))
