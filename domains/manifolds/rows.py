"""The rows of a file that are points: what is none is left out and counted, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from structdiff.domains.manifolds.codec import ManifoldsCodec
from structdiff.domains.manifolds.columns import Angles, Asked
from structdiff.domains.manifolds.leaf import Leaf
from structdiff.domains.manifolds.readers.table import Fault, Floats, Source, Table, flat_names
from structdiff.domains.manifolds.schema import Bound, bound, leaves_of

__all__ = ["Rows", "fresh", "known"]

_SHOWN = 5  # reasons


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a source that are points."""

    leaves: Sequence[Leaf]
    points: Mapping[str, Floats]
    table: Table
    notes: tuple[str, ...]


ReadRows = Callable[[Source, Sequence[str], float], Rows]
"""Reads a source, with columns of words beside the leaves; the share of rows it may leave out."""


def fresh(columns: str | None, angles: Angles) -> ReadRows:
    """Reads leaves as they are asked for."""

    def read_rows(source: Source, words: Sequence[str], skip_bad: float) -> Rows:
        found, notes = bound(columns, source)
        table = _table(source, found, words)
        leaves, more = leaves_of(found, table, angles)
        return _kept(source, leaves, table, skip_bad, (*notes, *more))

    return read_rows


def known(codec: ManifoldsCodec, columns: str | None, angles: Angles) -> ReadRows:
    """Reads the leaves of a trained model, in its units unless others are said."""

    def read_rows(source: Source, words: Sequence[str], skip_bad: float) -> Rows:
        found = [
            one._replace(asked=replace(one.asked, units=_units(leaf, one.asked.units, angles)))
            for leaf, one in zip(codec.leaves, _match(codec, columns, source), strict=True)
        ]
        table = _table(source, found, words)
        leaves, notes = leaves_of(found, table, "auto")
        return _kept(source, leaves, table, skip_bad, notes)

    return read_rows


def _units(leaf: Leaf, asked: str | None, angles: Angles) -> str | None:
    if not leaf.units:
        return None
    return asked or (leaf.units if angles == "auto" else angles)


def _match(codec: ManifoldsCodec, columns: str | None, source: Source) -> list[Bound]:
    """Where the leaves of a model are in a file.

    Raises:
        ValueError: If they are not.
    """
    if columns is None:
        return [_place(leaf, source) for leaf in codec.leaves]
    found, _ = bound(columns, source)
    kinds = [(leaf.name, leaf.kind, leaf.width) for leaf in codec.leaves]
    other = [
        (one.name, one.asked.kind, sum(int(np.prod(shape)) for shape in one.shapes))
        for one in found
    ]
    if kinds != other:
        has, asks = (
            "; ".join(f"{n} ({k} of {w} columns)" for n, k, w in x) for x in (kinds, other)
        )
        msg = f"the model has the leaves {has}, data.columns says {asks}: give the model's"
        raise ValueError(msg)
    return found


def _place(leaf: Leaf, source: Source) -> Bound:
    """Where a leaf is in a file, by the names of its columns."""
    shapes, columns = source.shapes, list[str]()
    for name, shape in zip(leaf.columns, leaf.shapes, strict=True):
        flat = flat_names(name, shape)
        if name in shapes:
            columns.append(name)
        elif all(one in shapes for one in flat):
            columns += flat
        else:
            msg = (
                f"the model was trained on {leaf.describe()}; {source.name} has no column "
                f"{name!r}, it has: {', '.join([*shapes][:20])}. Give such data, or say "
                f"which columns they are, as in --columns {leaf.name}=COLUMNS:{leaf.kind}"
            )
            raise ValueError(msg)
    found = tuple(columns)
    return Bound(leaf.name, Asked(found, leaf.kind), found, tuple(shapes[n] for n in found))


def _table(source: Source, found: Sequence[Bound], words: Sequence[str]) -> Table:
    numbers = [name for one in found for name in one.columns]
    both = [name for name in words if name in numbers]
    if both:
        msg = f"data.split_by is {both[0]!r}, a column of a leaf: split by another column"
        raise ValueError(msg)
    return source.read(numbers, words)


def _kept(
    source: Source, leaves: Sequence[Leaf], table: Table, skip_bad: float, notes: Iterable[str]
) -> Rows:
    """The rows that are points of all leaves.

    Raises:
        ValueError: If too few are.
    """
    faults, points = [*table.faults], dict[str, Floats]()
    for leaf in leaves:
        points[leaf.name], found = leaf.read(table)
        faults += found
    bad = np.any([fault.rows for fault in faults], 0) if faults else np.zeros(len(table), bool)
    if not len(table):
        msg = f"{source.name} has no rows: give data with some"
        raise ValueError(msg)
    count = int(bad.sum())
    if count > skip_bad * len(table) or count == len(table):
        raise ValueError(_refusal(source, table, faults, count, skip_bad))
    if not count:
        return Rows(leaves, points, table, tuple(notes))
    kept = np.flatnonzero(~bad)
    said = f"{count:,} of {len(table):,} rows left out: {_reasons(table, faults)}"
    chosen = {name: array[kept] for name, array in points.items()}
    return Rows(leaves, chosen, table.select(kept), (*notes, said))


def _refusal(
    source: Source, table: Table, faults: Sequence[Fault], count: int, skip_bad: float
) -> str:
    first = min(faults, key=lambda fault: int(fault.rows.argmax()))
    where = table.where(int(first.rows.argmax()))
    most = f"more than the share {skip_bad:g} of data.skip_bad" if count < len(table) else "all"
    many = f"{count:,} of {len(table):,} rows are no points, {most}"
    if len(faults) > 1:
        many += f": {_reasons(table, faults)}"
    return f"{source.name}, {where}: {first.reason}: {first.first}; {first.fix} ({many})"


def _reasons(table: Table, faults: Sequence[Fault]) -> str:
    """How often what is wrong, the commonest first."""
    order = sorted(faults, key=lambda fault: -int(fault.rows.sum()))
    said = [
        f"{int(fault.rows.sum()):,} x {fault.reason} "
        f"(first {table.where(int(fault.rows.argmax()))}: {fault.first})"
        for fault in order[:_SHOWN]
    ]
    return "; ".join(said) + ("; ..." if len(order) > _SHOWN else "")
