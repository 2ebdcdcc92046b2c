r"""Rotations as columns: Bunge's Euler angles, unit quaternions, matrices.

The Euler angles (phi_1, Phi, phi_2) are those of texture analysis, turns about z, x, z of the
moving frame:

    R = Z(phi_1) X(Phi) Z(phi_2),

the transpose of Bunge's orientation matrix g. A quaternion (w, x, y, z) and its negative are one
rotation; written ones have w >= 0. Symmetries of a crystal are not divided out.

References:
    Texture Analysis in Materials Science (Bunge, 1982), section 2.1.
    https://doi.org/10.1016/C2013-0-11769-2
"""

from __future__ import annotations

import numpy as np

from structdiff.domains.manifolds.kinds import Kind, Wrong, exactly, unit, wrong
from structdiff.domains.manifolds.readers.table import Floats

__all__ = ["Bunge", "Quaternion", "RotationMatrix"]

_TOLERANCE = 1e-2
_FLAT = 1e-7  # a tilt below which only phi_1 + phi_2 is known


class Bunge(Kind):
    """Euler angles of texture analysis; the tilt Phi is from 0 to half a turn."""

    noun, angular = "rotation", True

    def space(self, width: int) -> str:
        """SO(3)."""
        exactly(width, 3, "the Euler angles phi1, Phi, phi2")
        return "so3"

    def read(self, values: Floats) -> tuple[Floats, list[Wrong]]:
        """Rotation matrices."""
        first, tilt, last = values.T
        (a, b, c), (p, q, r) = np.cos(values).T, np.sin(values).T
        points = np.stack(
            [
                np.stack([a * c - p * b * r, -a * r - p * b * c, p * q], -1),
                np.stack([p * c + a * b * r, -p * r + a * b * c, -a * q], -1),
                np.stack([q * r, q * c, b], -1),
            ],
            -2,
        )
        outside = (tilt < -1e-6) | (tilt > np.pi + 1e-6)
        far = (np.abs(first) > 2 * np.pi + 1e-6) | (np.abs(last) > 2 * np.pi + 1e-6)
        return points, wrong(
            Wrong(outside, "a tilt Phi that is not from 0 to 180 degrees", "mend it", (1,)),
            Wrong(far & ~outside, "an angle beyond a full turn", "mend it", (0, 2)),
        )

    def write(self, points: Floats) -> Floats:
        """The angles, phi1 and phi2 from 0 up to 2 pi; phi2 is 0 where only their sum is known."""
        turn, tilt = np.hypot(points[:, 0, 2], points[:, 1, 2]), points[:, 2, 2]
        flat = turn < _FLAT
        first = np.arctan2(points[:, 0, 2], -points[:, 1, 2])
        alone = np.arctan2(points[:, 1, 0], points[:, 0, 0])
        last = np.arctan2(points[:, 2, 0], points[:, 2, 1])
        angles = np.stack(
            [np.where(flat, alone, first), np.arctan2(turn, tilt), np.where(flat, 0.0, last)], 1
        )
        angles[:, ::2] %= 2 * np.pi
        return angles


class Quaternion(Kind):
    """Unit quaternions.

    Arguments:
        order: Where w, x, y, z are in a row.
    """

    noun = "rotation"

    def __init__(self, order: str) -> None:
        self._places = ["wxyz".index(letter) for letter in order]
        self.order = order

    def space(self, width: int) -> str:
        """SO(3)."""
        exactly(width, 4, f"a unit quaternion {', '.join(self.order)}")
        return "so3"

    def read(self, values: Floats) -> tuple[Floats, list[Wrong]]:
        """Rotation matrices of rows made unit."""
        ordered = np.empty_like(values)
        ordered[:, self._places] = values
        units, found = unit(ordered, "a quaternion")
        w, x, y, z = units.T
        points = np.stack(
            [
                np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
                np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
                np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
            ],
            -2,
        )
        return points, found

    def write(self, points: Floats) -> Floats:
        """The quaternion with w >= 0."""
        return quaternions(points)[:, self._places]


def quaternions(points: Floats) -> Floats:
    """Unit quaternions (w, x, y, z) of rotation matrices.

    The matrix 4 q q^T is linear in the rotation; its column with the largest diagonal is a
    multiple of q, without cancellation.
    """
    m, trace = points, np.trace(points, axis1=1, axis2=2)
    a, b, c = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    outer = np.empty((len(m), 4, 4))
    outer[:, 0, 0] = 1 + trace
    for i, part in enumerate((a, b, c), 1):
        outer[:, 0, i] = outer[:, i, 0] = part
        for j in range(1, 4):
            outer[:, i, j] = m[:, i - 1, j - 1] + m[:, j - 1, i - 1]
        outer[:, i, i] += 1 - trace
    largest = np.einsum("nii->ni", outer).argmax(1)
    column = np.take_along_axis(outer, largest[:, None, None], 1)[:, 0]
    column /= np.linalg.norm(column, axis=1, keepdims=True)
    return np.where(column[:, :1] < 0, -column, column)


class RotationMatrix(Kind):
    """The nine entries of the matrix, row by row."""

    noun = "rotation"

    def space(self, width: int) -> str:
        """SO(3)."""
        exactly(width, 9, "the entries of a matrix, row by row")
        return "so3"

    def read(self, values: Floats) -> tuple[Floats, list[Wrong]]:
        """The nearest rotations."""
        given = values.reshape(-1, 3, 3)
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.abs(given @ given.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
        skewed = ~(error <= _TOLERANCE)
        safe = np.where(skewed[:, None, None], np.eye(3), given)
        mirrored = np.linalg.det(safe) < 0
        left, _, right = np.linalg.svd(safe)
        return left @ right, wrong(
            Wrong(
                skewed,
                "a matrix that is no rotation",
                "its rows must be orthogonal and of length 1",
                tell=lambda row: f"R R^T is off the identity by {error[row]:.3g}",
            ),
            Wrong(
                mirrored,
                "a reflection, not a rotation",
                "its determinant must be 1: change the sign of an axis",
                tell=lambda row: "determinant -1",
            ),
        )

    def write(self, points: Floats) -> Floats:
        """The entries, row by row."""
        return points.reshape(-1, 9)
