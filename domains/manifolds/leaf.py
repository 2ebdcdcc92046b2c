"""A leaf: the columns of a data set that say one point, and in which units."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from structdiff.domains.manifolds.kinds import (
    Ball,
    Euclidean,
    Geographic,
    Hyperbolic,
    Kind,
    Simplex,
    Torus,
    UnitVector,
    Wrong,
)
from structdiff.domains.manifolds.matrices import Covariance
from structdiff.domains.manifolds.readers.table import Fault, Floats, Table, flat_names
from structdiff.domains.manifolds.rotations import Bunge, Quaternion, RotationMatrix

__all__ = ["KINDS", "NAME", "UNITS", "Leaf", "few"]

KINDS: Mapping[str, Kind] = {
    "sphere": Geographic(),
    "sphere-vector": UnitVector(),
    "torus": Torus(),
    "so3-bunge": Bunge(),
    "so3-quaternion": Quaternion("wxyz"),
    "so3-quaternion-xyzw": Quaternion("xyzw"),
    "so3-matrix": RotationMatrix(),
    "spd": Covariance("spd", upper=False),
    "spd-upper": Covariance("spd", upper=True),
    "log-euclidean": Covariance("log-euclidean", upper=False),
    "log-euclidean-upper": Covariance("log-euclidean", upper=True),
    "simplex": Simplex(),
    "hyperbolic": Hyperbolic(),
    "ball": Ball(),
    "euclidean": Euclidean(),
}
"""How columns can say a point, by name."""

UNITS = ("degrees", "radians")
"""Of angles."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
"""What a leaf may be called."""

_SHOWN = 4  # values of a row in an error
_LARGEST = 1e100


@dataclass(frozen=True)
class Leaf:
    """Columns that say a point, read and written alike.

    Arguments:
        name: Of the leaf in a record.
        columns: Names of the columns.
        shapes: Shape of an entry of each: `()` for a number.
        kind: A name of `KINDS`.
        units: Of angles, degrees or radians; empty where there is no angle.
        positive: Whether angles are written from 0 to a full turn, not from minus half a turn.

    Raises:
        ValueError: If the kind is not known, or takes another number of columns.

    Example:
        >>> leaf = Leaf("place", ("lat", "lon"), ((), ()), "sphere", "degrees")
        >>> points, faults = leaf.read(Table({"lat": np.array([0.0]), "lon": np.array([90.0])}))
        >>> leaf.space, points.round(6).tolist(), faults
        ('sphere:2', [[0.0, 1.0, 0.0]], [])
    """

    name: str
    columns: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    kind: str
    units: str = ""
    positive: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            msg = (
                f"a leaf is called {self.name!r}: a name must be a letter, then letters, numbers "
                "and _, at most 64"
            )
            raise ValueError(msg)
        if self.kind not in KINDS:
            msg = f"there is no kind of leaf {self.kind!r}; there are: {', '.join(KINDS)}"
            raise ValueError(msg)
        try:
            KINDS[self.kind].space(self.width)
        except ValueError as error:
            msg = f"{self.kind} {error}: {few(self.columns)}"
            raise ValueError(msg) from None
        if KINDS[self.kind].angular != (self.units in UNITS) or self.units not in ("", *UNITS):
            msg = f"the units of {self.kind} cannot be {self.units!r}"
            raise ValueError(msg)

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return sum(prod(shape) for shape in self.shapes)

    @property
    def space(self) -> str:
        """The space, see `spaces.space_of`."""
        return KINDS[self.kind].space(self.width)

    @property
    def names(self) -> list[str]:
        """What each number of a row is called."""
        pairs = zip(self.columns, self.shapes, strict=True)
        return [name for column, shape in pairs for name in flat_names(column, shape)]

    def values(self, table: Table) -> Floats:
        """The numbers of each row, `(N, width)`.

        Raises:
            ValueError: If a column is missing or has another shape.
        """
        parts = []
        for name, shape in zip(self.columns, self.shapes, strict=True):
            column = table.columns.get(name)
            if column is None:
                flat = [table.columns.get(one) for one in flat_names(name, shape)]
                if not shape or any(one is None for one in flat):
                    msg = (
                        f"the leaf {self.name!r} has the column {name!r}, the data has "
                        f"{few(list(table.columns))}: give data with this column"
                    )
                    raise ValueError(msg)
                column = np.stack([one for one in flat if one is not None], 1)
                column = column.reshape(-1, *shape)
            if column.shape[1:] != shape:
                msg = f"the column {name!r} has entries of shape {column.shape[1:]}, not {shape}"
                raise ValueError(msg)
            parts.append(column.reshape(len(column), prod(shape)))
        return np.asarray(np.concatenate(parts, 1), np.float64)

    def read(self, table: Table) -> tuple[Floats, list[Fault]]:
        """The points of rows, `(N, *point)`, and the rows that have none.

        Raises:
            ValueError: If a column is missing or has another shape.
        """
        raw, kind = self.values(table), KINDS[self.kind]
        whole = np.asarray((np.abs(raw) < _LARGEST).all(1))  # not NaN either
        known = np.zeros(len(raw), bool)
        for fault in table.faults:
            known |= fault.rows
        faults = []
        if (lost := ~whole & ~known).any():
            reason = "a number is missing, infinite or beyond 1e100"
            fix = "fill it in, or leave the row out"
            faults.append(self._fault(table, raw, Wrong(lost, reason, fix)))
        with np.errstate(all="ignore"):
            points, wrongs = kind.read(raw[whole] * self._factor)
        every = np.zeros((len(raw), *points.shape[1:]))
        every[whole] = points
        for one in wrongs:
            place, rows = np.flatnonzero(whole), np.zeros(len(raw), bool)
            rows[place[one.rows]] = True
            tell = one.tell(int(one.rows.argmax()))
            faults.append(self._fault(table, raw, one._replace(rows=rows), tell))
        return every, faults

    def write(self, points: Floats) -> dict[str, Floats]:
        """The columns of points, in the units of the data."""
        values = KINDS[self.kind].write(points)
        if self.units and self.positive and self.kind != "so3-bunge":
            first = 1 if self.kind == "sphere" else 0  # latitudes keep their sign
            values = np.concatenate([values[:, :first], values[:, first:] % (2 * np.pi)], 1)
        values = values / self._factor
        ends = np.cumsum([prod(shape) for shape in self.shapes])[:-1]
        parts = np.split(values, ends, axis=1)
        return {
            name: part.reshape(len(part), *shape)
            for name, part, shape in zip(self.columns, parts, self.shapes, strict=True)
        }

    def describe(self) -> str:
        """The leaf in words."""
        units = f", {self.units}" if self.units else ""
        return f"{self.name}: {few(self.columns)} as {self.kind}{units}, a point of {self.space}"

    def state(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        shapes = [list(shape) for shape in self.shapes]
        return {
            "name": self.name,
            "columns": list(self.columns),
            "shapes": shapes,
            "kind": self.kind,
            "units": self.units,
            "positive": self.positive,
        }

    @property
    def _factor(self) -> float:
        return float(np.pi / 180) if self.units == "degrees" else 1.0

    def _fault(self, table: Table, raw: Floats, one: Wrong, tell: str = "") -> Fault:
        row = int(one.rows.argmax())
        flat = self.names
        shown = one.columns or tuple(range(len(flat)))
        if not one.columns and len(flat) > _SHOWN:
            bad = np.flatnonzero(~(np.abs(raw[row]) < _LARGEST))
            shown = tuple(bad[:1].tolist())
        names, values = (
            ", ".join(flat[i] for i in shown),
            ", ".join(f"{raw[row, i]:g}" for i in shown),
        )
        first = f"{names} = {values}" if shown else few(self.columns)
        fix = one.fix
        if self.units == "radians" and np.nanmax(np.abs(raw)) > 2 * np.pi + 0.01:
            fix = "the numbers look like degrees: set --data.angles degrees"
        return Fault(one.rows, one.reason, f"{first} ({tell})" if tell else first, fix)


def few(names: Sequence[str], most: int = 12) -> str:
    """Names in words, the first of them."""
    shown = ", ".join(name[:60] for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
