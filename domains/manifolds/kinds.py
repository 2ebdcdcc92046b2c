r"""How columns say a point: each kind of leaf reads the numbers of a row as one, and writes it.

A kind takes `(N, width)` numbers, angles in radians, and gives points `(N, *point)` of a space of
`structdiff.spaces`. What is a point up to rounding is mended (a quaternion is made unit, a matrix
the nearest rotation); what is not is a fault, which says the row, what it must be, and how to mend
it.

    kind              columns                                        space
    sphere            latitude, longitude                            S^2
    sphere-vector     x_0 ... x_n, a unit vector                     S^n
    torus             d angles                                       T^d
    so3-...           see `rotations`                                SO(3)
    spd, ...          see `matrices`                                 SPD(n)
    simplex           p_1 ... p_K, probabilities                     simplex, Fisher-Rao
    hyperbolic        x_0 ... x_n with x_0^2 = 1 + |x|^2             H^n, Lorentz
    ball              x_1 ... x_n with |x| < 1                       H^n, Poincare ball
    euclidean         d numbers                                      R^d
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.manifolds.readers.table import Floats

__all__ = [
    "Ball",
    "Euclidean",
    "Geographic",
    "Hyperbolic",
    "Kind",
    "Simplex",
    "Torus",
    "UnitVector",
    "Wrong",
    "wrong",
]

_TOLERANCE = 1e-2  # how far a row may be from the space, to be mended
_EDGE = 1e-9


class Wrong(NamedTuple):
    """Rows that are no points.

    Arguments:
        rows: Which, `(N,)` of bool.
        reason: What is wrong with them.
        fix: How to mend them.
        columns: Which columns to show, by place; all by default.
        tell: More about a row.
    """

    rows: NDArray[np.bool_]
    reason: str
    fix: str
    columns: tuple[int, ...] = ()
    tell: Callable[[int], str] = lambda row: ""


def wrong(*found: Wrong) -> list[Wrong]:
    """Those that some row has."""
    return [one for one in found if one.rows.any()]


class Kind(ABC):
    """A way to write points as rows of numbers.

    Attributes:
        noun: What a leaf of it is called by default.
        angular: Whether the numbers are angles.
    """

    noun: str
    angular = False

    @abstractmethod
    def space(self, width: int) -> str:
        """The space of so many columns, see `spaces.space_of`.

        Raises:
            ValueError: If there is none.
        """

    @abstractmethod
    def read(self, values: Floats) -> tuple[Floats, list[Wrong]]:
        """The points of rows, and which are none.

        Arguments:
            values: `(N, width)`, finite; angles in radians.
        """

    @abstractmethod
    def write(self, points: Floats) -> Floats:
        """The rows of points, `(N, width)`; angles in radians."""


def least(width: int, columns: int, what: str) -> None:
    """Refuses too few columns."""
    if width < columns:
        msg = f"takes at least {columns} columns, {what}, got {width}"
        raise ValueError(msg)


def exactly(width: int, columns: int, what: str) -> None:
    """Refuses another number of columns."""
    if width != columns:
        msg = f"takes {columns} columns, {what}, got {width}"
        raise ValueError(msg)


class Geographic(Kind):
    """Latitude and longitude: (cos lat cos lon, cos lat sin lon, sin lat)."""

    noun, angular = "sphere", True

    def space(self, width: int) -> str:
        """S^2."""
        exactly(width, 2, "latitude and longitude")
        return "sphere:2"

    def read(self, values: Floats) -> tuple[Floats, list[Wrong]]:
        """Unit vectors; a latitude is within a quarter turn, a longitude within a full one."""
        latitude, longitude = values.T
        high = np.abs(latitude) > np.pi / 2 + 1e-6
        far = np.abs(longitude) > 2 * np.pi + 1e-6
        ring = np.cos(latitude)
        points = np.stack(
            [ring * np.cos(longitude), ring * np.sin(longitude), np.sin(latitude)], 1
        )
        order = "latitude comes first: if they are swapped, swap the columns"
        return points, wrong(
            Wrong(high, "a latitude beyond the poles (90 degrees)", order, (0,)),
            Wrong(far, "a longitude beyond a full turn (360 degrees)", "mend it", (1,)),
        )

    def write(self, points: Floats) -> Floats:
        """Latitude and longitude in (-pi, pi]."""
        x, y, z = points.T
        return np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], 1)


class AsItIs(Kind):
    """Points that are written as they are."""

    @final
    def write(self, points: Floats) -> Floats:
        """The points."""
        return points


class UnitVector(AsItIs):
    """The unit vector itself."""

    noun = "sphere"

    def space(self, width: int) -> str:
        """S^n of n + 1 columns."""
        least(width, 2, "a unit vector")
        return f"sphere:{width - 1}"

    def read(self, values: Floats) -> tuple[Floats, list[Wrong]]:
        """The rows, made unit."""
        return unit(values, "a vector")


def unit(values: Floats, what: str) -> tuple[Floats, list[Wrong]]:
    """Rows made unit, and which are too far from it."""
    norm = np.linalg.norm(values, axis=1)
    outside = ~(np.abs(norm - 1) <= _TOLERANCE)
    points = values / np.where(outside, 1.0, norm)[:, None]
    return points, wrong(
        Wrong(
            outside,
            f"{what} that is not of length 1",
            "divide each row by its length",
            tell=lambda row: f"length {norm[row]:.6g}",
        )
    )


class Torus(Kind):
    """Angles."""

    noun, angular = "torus", True

    def space(self, width: int) -> str:
        """T^d."""
        least(width, 1, "angles")
        return f"torus:{width}"

    def read(self, values: Floats) -> tuple[Floats, list[Wrong]]:
        """The angles in [-pi, pi)."""
        return wrapped(values), []

    def write(self, points: Floats) -> Floats:
        """As they are."""
        return points


def wrapped(angles: Floats) -> Floats:
    """Angles modulo 2 pi in [-pi, pi), unchanged where they are there already."""
    inside = (angles >= -np.pi) & (angles < np.pi)
    turned = angles - 2 * np.pi * np.floor((angles + np.pi) / (2 * np.pi))
    rounded = (turned < -np.pi) | (turned >= np.pi)
    return np.where(inside, angles, np.where(rounded, -np.pi, turned))


class Simplex(AsItIs):
    """Probabilities."""

    noun = "simplex"

    def space(self, width: int) -> str:
        """The simplex of K columns."""
        least(width, 2, "probabilities")
        return f"simplex:{width}"

    def read(self, values: Floats) -> tuple[Floats, list[Wrong]]:
        """The rows, made to sum to 1."""
        total = values.sum(1)
        negative = values.min(1) < 0
        unsummed = ~(np.abs(total - 1) <= _TOLERANCE) & ~negative
        points = values / np.where(negative | unsummed, 1.0, total)[:, None]
        return points, wrong(
            Wrong(negative, "a probability below 0", "probabilities are from 0 to 1"),
            Wrong(
                unsummed,
                "probabilities that do not sum to 1",
                "divide each row by its sum",
                tell=lambda row: f"sum {total[row]:.6g}",
            ),
        )


class Hyperbolic(AsItIs):
    """A point of the upper sheet of the hyperboloid, x_0 first."""

    noun = "hyperbolic"

    def space(self, width: int) -> str:
        """H^n of n + 1 columns."""
        least(width, 2, "x_0 first, then x_1 ... x_n")
        return f"hyperbolic:{width - 1}"

    def read(self, values: Floats) -> tuple[Floats, list[Wrong]]:
        """The rows, x_0 made to fit the others."""
        first = np.sqrt(1 + np.square(values[:, 1:]).sum(1))
        outside = ~(np.abs(values[:, 0] - first) <= _TOLERANCE * first)
        points = np.concatenate([first[:, None], values[:, 1:]], 1)
        return points, wrong(
            Wrong(
                outside,
                "x_0 is not sqrt(1 + |x|^2)",
                "write x_0 first; points of the Poincare ball are of the kind ball",
                tell=lambda row: f"x_0 must be {first[row]:.6g}",
            )
        )


class Ball(AsItIs):
    """A point of the open unit ball."""

    noun = "ball"

    def space(self, width: int) -> str:
        """H^n of n columns."""
        least(width, 1, "a point of the unit ball")
        return f"ball:{width}"

    def read(self, values: Floats) -> tuple[Floats, list[Wrong]]:
        """The rows."""
        norm = np.linalg.norm(values, axis=1)
        outside = ~(norm < 1 - _EDGE)
        return values, wrong(
            Wrong(
                outside,
                "a point that is not inside the unit ball",
                "its length must be below 1",
                tell=lambda row: f"length {norm[row]:.9g}",
            )
        )


class Euclidean(AsItIs):
    """Numbers as they are."""

    noun = "euclidean"

    def space(self, width: int) -> str:
        """R^d."""
        least(width, 1, "numbers")
        return f"euclidean:{width}"

    def read(self, values: Floats) -> tuple[Floats, list[Wrong]]:
        """The rows."""
        return values, []
