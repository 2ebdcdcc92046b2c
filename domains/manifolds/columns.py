r"""Which columns are a point of which space: the schema of a data set.

A schema is written as

    [name=]columns:kind[:degrees|radians]

one for each leaf, several separated by semicolons or blanks, as in

    lat,lon:sphere; depth:euclidean
    backbone=3..9:torus:degrees

Columns are called by name, or by number from 1; `a..d` are all from a to d. An array of an npz is
one column, whatever its shape. The kinds are those of `kinds`, `rotations` and `matrices`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from structdiff.domains.manifolds.leaf import KINDS, NAME, UNITS, few

__all__ = ["Angles", "Asked", "bind", "find", "parse"]

Angles = Literal["auto", "degrees", "radians"]

_LONGITUDE = re.compile(r"^(lon|lng)", re.IGNORECASE)
_LATITUDE = re.compile(r"^lat", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """A leaf as it is written, before the file is looked at.

    Arguments:
        columns: Names, numbers, or ranges `a..d`.
        kind: A name of `KINDS`.
        name: Of the leaf; None for the kind's noun.
        units: Of angles; None where they are not said.
    """

    columns: tuple[str, ...]
    kind: str
    name: str | None = None
    units: str | None = None

    def __str__(self) -> str:
        name = f"{self.name}=" if self.name else ""
        units = f":{self.units}" if self.units else ""
        return f"{name}{','.join(self.columns)}:{self.kind}{units}"


def parse(text: str) -> list[Asked]:
    """The leaves of a schema.

    Raises:
        ValueError: If it cannot be read.

    Example:
        >>> [str(leaf) for leaf in parse("lat, lon:sphere; deep=depth:euclidean")]
        ['lat,lon:sphere', 'deep=depth:euclidean']
    """
    tight = re.sub(r"\s*([,:=])\s*", r"\1", text)
    words = [word for word in re.split(r"[;\s]+", tight) if word]
    if not words:
        msg = "data.columns is empty: write columns:kind, as in lat,lon:sphere, or leave it out"
        raise ValueError(msg)
    return [_asked(word) for word in words]


def _asked(word: str) -> Asked:
    name, _, rest = word.rpartition("=")
    columns, *kind = rest.split(":")
    fault = ""
    if not kind or not columns:
        fault = f"it must be columns:kind, the kind one of {', '.join(KINDS)}"
    elif kind[0] not in KINDS:
        fault = f"there is no kind {kind[0]!r}; there are: {', '.join(KINDS)}"
    elif len(kind) > 2 or (len(kind) == 2 and kind[1] not in UNITS):
        fault = "after the kind may be :degrees or :radians"
    elif len(kind) == 2 and not KINDS[kind[0]].angular:
        fault = f"{kind[0]} has no angles"
    elif name and not NAME.fullmatch(name):
        fault = f"the name {name!r} must be a letter, then letters, numbers and _"
    elif "" in columns.split(","):
        fault = "a column has no name: there is a comma too many"
    if fault:
        msg = f"data.columns has {word!r}: {fault}"
        raise ValueError(msg)
    units = kind[1] if len(kind) == 2 else None
    return Asked(tuple(columns.split(",")), kind[0], name or None, units)


def find(word: str, names: Sequence[str], source: str) -> str:
    """The column of a name, in any case where that is clear, or of a number from 1.

    Raises:
        ValueError: If there is none.
    """
    if word in names:
        return word
    alike = [name for name in names if name.lower() == word.lower()]
    if len(alike) == 1:
        return alike[0]
    if word.isascii() and word.isdigit() and 1 <= int(word[:9]) <= len(names):
        return names[int(word[:9]) - 1]
    msg = (
        f"{source} has no column {word!r}, it has: {few(names, 20)}; name one of these, or give "
        f"a number from 1 to {len(names)}"
    )
    raise ValueError(msg)


def bind(asked: Asked, shapes: Mapping[str, tuple[int, ...]], source: str) -> tuple[str, ...]:
    """The names of the columns that are asked for.

    Raises:
        ValueError: If one is missing, or latitude and longitude are swapped.
    """
    names, found = list(shapes), list[str]()
    for word in asked.columns:
        low, dots, high = word.partition("..")
        if not dots or word in names:
            found.append(find(word, names, source))
            continue
        ends = [names.index(find(end, names, source)) for end in (low, high)]
        if ends[0] > ends[1]:
            msg = f"data.columns has {word!r}, but {high} is before {low}: swap them"
            raise ValueError(msg)
        found += names[ends[0] : ends[1] + 1]
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        msg = f"data.columns has {asked}: the column {twice[0]!r} is there twice"
        raise ValueError(msg)
    if asked.kind == "sphere" and len(found) == 2:
        swapped = _LONGITUDE.match(found[0]) and _LATITUDE.match(found[1])
        if swapped:
            msg = f"sphere takes latitude, then longitude: write {found[1]},{found[0]}:sphere"
            raise ValueError(msg)
    return tuple(found)
