r"""Equal-area projections of the unit sphere: what has the same area has it on the map.

Longitude l in [-pi, pi], latitude p in [-pi/2, pi/2], both in radians. Both projections are
pseudo-cylindrical: x = l w(p), y = h(p), with the area law

    w(p) dh/dp = cos p.

Equal Earth: sin(q) = sqrt(3)/2 sin(p), h = A1 q + A2 q^3 + A3 q^7 + A4 q^9, which keeps the
shapes of continents. Mollweide: 2 q + sin(2 q) = pi sin(p), h = sqrt(2) sin(q), an ellipse on
which the poles are points; its equation is solved for e = pi/2 - |q|, where it reads
2 e - sin(2 e) = pi (1 - sin |p|) and Newton's method from e = (3/4 pi (1 - sin|p|))^(1/3)
converges up to the pole.

References:
    The Equal Earth map projection (Savric, Patterson and Jenny, 2018).
    https://doi.org/10.1080/13658816.2018.1504949
    Map Projections: A Working Manual (Snyder, 1987), page 249.
    https://doi.org/10.3133/pp1395
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from structdiff.domains.manifolds.pictures.canvas import Floats

__all__ = ["EqualEarth", "Mollweide", "Projection", "angles", "directions"]

_A1, _A2, _A3, _A4 = 1.340264, -0.081106, 0.000893, 0.003796
_NEWTON = 8


class Projection(ABC):
    """An equal-area map of the sphere."""

    @abstractmethod
    def forward(self, longitude: Floats, latitude: Floats) -> tuple[Floats, Floats]:
        """Place on the map; linear in the longitude, also outside [-pi, pi]."""

    @abstractmethod
    def inverse(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Longitude and latitude of a place; a longitude beyond pi is outside the map."""

    def outline(self, points: int = 181) -> tuple[Floats, Floats]:
        """The edge of the map, counter-clockwise from the south pole's right end."""
        up = np.linspace(-np.pi / 2, np.pi / 2, points)
        right = self.forward(np.full(points, np.pi), up)
        left = self.forward(np.full(points, -np.pi), up[::-1])
        return np.concatenate([right[0], left[0]]), np.concatenate([right[1], left[1]])


class EqualEarth(Projection):
    """The Equal Earth projection.

    Example:
        >>> x, y = EqualEarth().forward(np.array([np.pi]), np.array([0.0]))
        >>> float(x[0])
        2.70663
    """

    def forward(self, longitude: Floats, latitude: Floats) -> tuple[Floats, Floats]:
        """See `Projection`."""
        q = np.arcsin(math.sqrt(3) / 2 * np.sin(latitude))
        return longitude * self._width(q), self._height(q)

    def inverse(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """See `Projection`."""
        q = np.asarray(y) / _A1
        for _ in range(_NEWTON):
            q = q - (self._height(q) - y) / self._slope(q)
        sine = np.clip(2 / math.sqrt(3) * np.sin(q), -1.0, 1.0)
        return x / self._width(q), np.arcsin(sine)

    def _height(self, q: Floats) -> Floats:
        r = q * q
        return q * (_A1 + r * (_A2 + r * r * (_A3 + r * _A4)))

    def _slope(self, q: Floats) -> Floats:
        r = q * q
        return _A1 + r * (3 * _A2 + r * r * (7 * _A3 + 9 * r * _A4))

    def _width(self, q: Floats) -> Floats:
        return np.asarray(2 / math.sqrt(3) * np.cos(q) / self._slope(q))


class Mollweide(Projection):
    """The Mollweide projection.

    Example:
        >>> x, y = Mollweide().forward(np.array([np.pi]), np.array([0.0]))
        >>> float(x[0])
        2.82843
    """

    def forward(self, longitude: Floats, latitude: Floats) -> tuple[Floats, Floats]:
        """See `Projection`."""
        rest = 2 * np.pi * np.sin((np.pi / 2 - np.abs(latitude)) / 2) ** 2
        e = np.cbrt(0.75 * rest)
        for _ in range(_NEWTON):
            slope = np.maximum(4 * np.sin(e) ** 2, np.finfo(np.float64).tiny)
            e = e - (2 * e - np.sin(2 * e) - rest) / slope
        x = 2 * math.sqrt(2) / np.pi * longitude * np.sin(e)
        return x, np.sign(latitude) * math.sqrt(2) * np.cos(e)

    def inverse(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """See `Projection`."""
        q = np.arcsin(np.clip(y / math.sqrt(2), -1.0, 1.0))
        latitude = np.arcsin(np.clip((2 * q + np.sin(2 * q)) / np.pi, -1.0, 1.0))
        width = np.maximum(2 * math.sqrt(2) / np.pi * np.cos(q), np.finfo(np.float64).tiny)
        return x / width, latitude


def angles(points: Floats) -> tuple[Floats, Floats]:
    """Longitude and latitude of vectors `(rows, 3)`: x at (0, 0), y at (pi/2, 0), z north."""
    x, y, z = points.T
    return np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))


def directions(longitude: Floats, latitude: Floats) -> Floats:
    """Unit vectors `(rows, 3)` of longitudes and latitudes."""
    level = np.cos(latitude)
    return np.stack(
        [level * np.cos(longitude), level * np.sin(longitude), np.sin(latitude)], axis=-1
    )
