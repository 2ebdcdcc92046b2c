r"""Symmetric positive definite matrices as columns: all entries, or those from the diagonal on.

    spd, log-euclidean                all n^2 entries, row by row
    spd-upper, log-euclidean-upper    row by row from the diagonal on, n (n + 1) / 2 columns

The two names are two geometries of the same matrices: the affine-invariant one and the flat one of
their logarithms.
"""

from __future__ import annotations

import math

import numpy as np

from structdiff.domains.manifolds.kinds import Kind, Wrong, wrong
from structdiff.domains.manifolds.readers.table import Floats

__all__ = ["Covariance", "matrix_exp", "matrix_log"]

_LEAST = 1e-10  # share of the largest eigenvalue that the smallest must have
_CHUNK = 1 << 20  # numbers that are decomposed together


class Covariance(Kind):
    """A symmetric positive definite matrix.

    Arguments:
        geometry: `spd` or `log-euclidean`.
        upper: Whether the columns are the entries from the diagonal on, or all.
    """

    noun = "spd"

    def __init__(self, geometry: str, *, upper: bool) -> None:
        self._geometry, self._upper = geometry, upper

    def size(self, width: int) -> int:
        """Rows of the matrix of so many columns.

        Raises:
            ValueError: If there is none.
        """
        root = (math.isqrt(8 * width + 1) - 1) // 2 if self._upper else math.isqrt(width)
        cells = root * (root + 1) // 2 if self._upper else root * root
        if width < 1 or cells != width:
            every = f"n^2 columns, all entries row by row ({self._geometry}-upper takes those "
            upper = "n (n + 1) / 2 columns, the entries from the diagonal on"
            form = upper if self._upper else f"{every}from the diagonal on)"
            msg = f"takes {form}, got {width}"
            raise ValueError(msg)
        return root

    def space(self, width: int) -> str:
        """SPD(n)."""
        return f"{self._geometry}:{self.size(width)}"

    def read(self, values: Floats) -> tuple[Floats, list[Wrong]]:
        """The matrices, made symmetric to the last digit."""
        n = self.size(values.shape[1])
        given = self._square(values, n)
        scale = np.abs(given).max((1, 2))
        uneven = ~(np.abs(given - given.transpose(0, 2, 1)).max((1, 2)) <= 1e-4 * scale)
        given = given / 2 + given.transpose(0, 2, 1) / 2
        values_of = eigenvalues(given)
        flat = ~(values_of[:, 0] > _LEAST * values_of[:, -1]) & ~uneven
        return given, wrong(
            Wrong(uneven, "a matrix that is not symmetric", "give all n^2 entries row by row"),
            Wrong(
                flat,
                "a matrix that is not positive definite",
                "add a small multiple of the identity, or take more samples for each matrix",
                tell=lambda row: f"smallest eigenvalue {values_of[row, 0]:.3g}",
            ),
        )

    def _square(self, values: Floats, n: int) -> Floats:
        if not self._upper:
            return values.reshape(-1, n, n)
        square = np.empty((len(values), n, n))
        rows, columns = np.triu_indices(n)
        square[:, rows, columns] = square[:, columns, rows] = values
        return square

    def write(self, points: Floats) -> Floats:
        """The entries."""
        n = points.shape[1]
        if self._upper:
            rows, columns = np.triu_indices(n)
            return np.asarray(points[:, rows, columns])
        return points.reshape(-1, n * n)


def eigenvalues(matrices: Floats) -> Floats:
    """From the smallest on, `(N, n)`; memory is bounded."""
    step = max(1, _CHUNK // matrices[0].size) if len(matrices) else 1
    parts = [np.linalg.eigvalsh(matrices[i : i + step]) for i in range(0, len(matrices), step)]
    return np.concatenate(parts) if parts else np.zeros(matrices.shape[:2])


def _mapped(matrices: Floats, function: np.ufunc) -> Floats:
    values, vectors = np.linalg.eigh(matrices)
    scaled = vectors * function(values)[..., None, :]
    return np.asarray(scaled @ np.swapaxes(vectors, -1, -2))


def matrix_log(matrices: Floats) -> Floats:
    """Logarithms of symmetric positive definite matrices, `(..., n, n)`."""
    return _mapped(matrices, np.log)


def matrix_exp(matrices: Floats) -> Floats:
    """Exponentials of symmetric matrices, `(..., n, n)`."""
    return _mapped(matrices, np.exp)
