"""What columns mean when nobody says: by their names, then by their values."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from structdiff.domains.manifolds.columns import Asked
from structdiff.domains.manifolds.leaf import KINDS
from structdiff.domains.manifolds.readers.table import Floats, Source, Table

__all__ = ["guess"]

_LATITUDE = re.compile(r"lat(itude)?(deg(rees)?)?")
_LONGITUDE = re.compile(r"(lon|lng|long|longitude)(deg(rees)?)?")
_TORSIONS = re.compile(
    r"(phi|psi|omega|alpha|beta|gamma|delta|epsilon|zeta|chi[1-5]?|eta|theta|torsion\d*|"
    r"dihedral\d*)(deg(rees)?|rad(ians)?)?"
)
_ENTRY = re.compile(r"(.+)_(\d+)_(\d+)")
_SPAN = 300.0  # degrees that angles must span to be taken for such
_EPSILON = 1e-3


def guess(source: Source) -> tuple[Asked, str]:
    """One leaf of a file, where there is no doubt, and what says it: names or values.

    Raises:
        ValueError: If there is; it says which columns there are.
    """
    how, found = "names", _by_names([*source.shapes], source.named)
    if not found:
        how, found = "values", _by_values(source, source.head())
    if len(found) == 1:
        return found[0], how
    several = f" (it may be {' or '.join(map(str, found[:5]))})" if found else ""
    names = ", ".join(name[:40] for name in [*source.shapes][:20])
    msg = (
        f"{source.name}: what its columns mean is not clear{several}; it has: {names}. Say it "
        f"with --data.columns COLUMNS:KIND, as in lat,lon:sphere; the kinds are {', '.join(KINDS)}"
    )
    raise ValueError(msg)


def _by_names(names: Sequence[str], named: bool) -> list[Asked]:
    if not named:
        return []
    plain = {name: re.sub(r"[^a-z0-9]", "", name.lower()) for name in names}
    place = {word: name for name, word in plain.items()}
    latitude = [name for name, word in plain.items() if _LATITUDE.fullmatch(word)]
    longitude = [name for name, word in plain.items() if _LONGITUDE.fullmatch(word)]
    if len(latitude) == len(longitude) == 1:
        return [Asked((latitude[0], longitude[0]), "sphere")]
    for words, kind in (
        (("phi1", "phi", "phi2"), "so3-bunge"),
        (("euler1", "euler2", "euler3"), "so3-bunge"),
        (("qw", "qx", "qy", "qz"), "so3-quaternion"),
        (("q0", "q1", "q2", "q3"), "so3-quaternion"),
    ):
        if all(word in place for word in words):
            return [Asked(tuple(place[word] for word in words), kind)]
    torsions = [name for name, word in plain.items() if _TORSIONS.fullmatch(word)]
    return [Asked(tuple(torsions), "torus")] if torsions else _grid(names)


def _grid(names: Sequence[str]) -> list[Asked]:
    """Columns such as cov_1_1, cov_1_2, ... that are all entries of a square matrix."""
    cells = [match for name in names if (match := _ENTRY.fullmatch(name))]
    stems = dict.fromkeys(match[1] for match in cells)
    found = []
    for stem in stems:
        places = [(int(m[2]), int(m[3])) for m in cells if m[1] == stem]
        size = max(max(place) for place in places)
        if size > 1 and places == [(i, j) for i in range(1, size + 1) for j in range(1, size + 1)]:
            entries = tuple(f"{stem}_{i}_{j}" for i, j in places)
            found.append(Asked(entries, "spd"))
    return found


def _by_values(source: Source, head: Table) -> list[Asked]:
    """Arrays one by one, or all columns of numbers together."""
    arrays = [name for name in head.columns if head.columns[name].ndim > 1]
    if arrays:
        kinds = {name: _kind(head.columns[name]) for name in arrays}
        return [Asked((name,), kind) for name, kind in kinds.items() if kind]
    names = [name for name in head.columns if name in source.shapes]
    if not names or not len(head):
        return []
    kind = _kind(np.stack([head.columns[name] for name in names], 1))
    return [Asked(tuple(names), kind)] if kind else []


def _kind(values: Floats) -> str | None:
    """What rows or matrices look like."""
    if not len(values) or not np.isfinite(values).all():
        return None
    if values.ndim == 3 and values.shape[1] == values.shape[2]:
        return _matrix(values)
    if values.ndim != 2:
        return None
    low, high = values.min(0), values.max(0)
    if values.shape[1] == 2 and _on_earth(low, high):
        return "sphere"
    signed, positive = (np.abs(values) <= 180).all(), ((low >= 0) & (high <= 360)).all()
    if (signed or positive) and (high - low).max() > _SPAN:
        return "torus"
    width = values.shape[1]
    if width > 1 and (low >= 0).all() and (np.abs(values.sum(1) - 1) < _EPSILON).all():
        return "simplex"
    round_ = (np.abs(np.linalg.norm(values, axis=1) - 1) < _EPSILON).all()
    return "sphere-vector" if width > 1 and width != 4 and round_ else None


def _on_earth(low: Floats, high: Floats) -> bool:
    """Whether two columns can be degrees of latitude and longitude, and are hardly others."""
    inside = low[0] >= -90 and high[0] <= 90 and low[1] >= -180 and high[1] <= 360
    return bool(inside and high[1] - low[1] > 90)


def _matrix(values: Floats) -> str | None:
    across = values.transpose(0, 2, 1)
    unit = np.abs(values @ across - np.eye(values.shape[1])).max() < _EPSILON
    if unit and values.shape[1] == 3:
        return "so3-matrix"
    even = np.abs(values - across).max() <= 1e-4 * np.abs(values).max()
    return "spd" if even and np.linalg.eigvalsh(values).min() > 0 else None
