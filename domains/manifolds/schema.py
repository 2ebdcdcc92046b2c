"""From what is asked, or guessed, to leaves with units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from structdiff.domains.manifolds.columns import Angles, Asked, bind, parse
from structdiff.domains.manifolds.guessing import guess
from structdiff.domains.manifolds.leaf import KINDS, Leaf
from structdiff.domains.manifolds.readers.table import Floats, Given, Source, Table

__all__ = ["Bound", "bound", "leaves_of", "schema"]

_TURN = 2 * np.pi + 0.01
_MANY = 20  # rows from which a range says something


class Bound(NamedTuple):
    """A leaf whose columns are known, but not yet its units."""

    name: str
    asked: Asked
    columns: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


def bound(columns: str | None, source: Source) -> tuple[list[Bound], list[str]]:
    """The leaves that are asked for, or one that is guessed, and what to say of it.

    Raises:
        ValueError: If a column is missing, two leaves share one, or nothing can be guessed.
    """
    asked, notes = (parse(columns), list[str]()) if columns is not None else _guessed(source)
    found, taken = list[Bound](), dict[str, int]()
    for one in asked:
        names = bind(one, source.shapes, source.name)
        noun = one.name or KINDS[one.kind].noun
        taken[noun] = taken.get(noun, 0) + 1
        name = noun if taken[noun] == 1 else f"{noun}_{taken[noun]}"
        if one.name and taken[noun] > 1:
            msg = f"data.columns has two leaves called {noun!r}: give them other names"
            raise ValueError(msg)
        found.append(Bound(name, one, names, tuple(source.shapes[n] for n in names)))
    every = [name for one in found for name in one.columns]
    twice = [name for name in every if every.count(name) > 1]
    if twice:
        msg = f"data.columns has the column {twice[0]!r} in two leaves: leave it out of one"
        raise ValueError(msg)
    return found, notes


def _guessed(source: Source) -> tuple[list[Asked], list[str]]:
    asked, how = guess(source)
    return [asked], [f"guessed from their {how}: {asked}; say otherwise with --data.columns"]


def leaves_of(
    found: Sequence[Bound], table: Table, angles: Angles
) -> tuple[list[Leaf], list[str]]:
    """The leaves with their units, and what to say of these.

    Arguments:
        found: Columns of each leaf.
        table: What was read of them.
        angles: Units of angles that do not say theirs; `auto` are degrees of latitude and
            longitude, and what goes beyond a full turn of radians.

    Raises:
        ValueError: If a kind takes another number of columns.
    """
    leaves, notes = list[Leaf](), list[str]()
    for one in found:
        kind = KINDS[one.asked.kind]
        kinds = (one.name, one.columns, one.shapes, one.asked.kind)
        if not kind.angular:
            leaves.append(Leaf(*kinds))
            continue
        numbers = Leaf(*kinds, "radians").values(table)
        low, high = _range(numbers)
        units, note = _units(one, angles, low, high, len(numbers))
        half = 180.0 if units == "degrees" else np.pi
        turning = numbers[:, 1:] if one.asked.kind == "sphere" else numbers
        least, most = _range(turning)
        leaves.append(Leaf(*kinds, units, least >= 0 and most > half))
        notes += [note] if note else []
    return leaves, notes


def _range(numbers: Floats) -> tuple[float, float]:
    known = numbers[np.isfinite(numbers)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)


def _units(
    one: Bound, angles: Angles, low: float, high: float, rows: int
) -> tuple[str, str | None]:
    """The units of a leaf, and what to say of them."""
    said = one.asked.units or (None if angles == "auto" else angles)
    beyond = max(-low, high) > _TURN
    place = f"angles of {one.name} are from {low:.4g} to {high:.4g}"
    if said == "radians" and beyond:
        return said, f"warning: {place} radians: they look like degrees, set --data.angles degrees"
    small = rows >= _MANY and not beyond
    if small and (said == "degrees" or (said is None and one.asked.kind == "sphere")):
        return "degrees", (
            f"warning: {place} degrees: they look like radians, set --data.angles radians"
        )
    if said is not None or one.asked.kind == "sphere":
        return said or "degrees", None
    units = "degrees" if beyond else "radians"
    return units, f"{place}: read as {units}; say otherwise with --data.angles"


def schema(
    table: Table, columns: str | None = None, angles: Angles = "auto"
) -> tuple[list[Leaf], list[str]]:
    """The leaves of a table, and what to say of them.

    Raises:
        ValueError: If what its columns mean is not clear, or one is missing.

    Example:
        >>> table = Table({"lat": np.array([52.5, -8.0]), "lon": np.array([13.4, 110.0])})
        >>> [leaf.describe() for leaf in schema(table)[0]]
        ['sphere: lat, lon as sphere, degrees, a point of sphere:2']
    """
    found, notes = bound(columns, Given(table))
    leaves, more = leaves_of(found, table, angles)
    return leaves, [*notes, *more]
