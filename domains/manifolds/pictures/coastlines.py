"""The land of the Earth as polygons.

`coastlines.npz` holds Natural Earth's 1:110 million land (public domain): `points`, longitude and
latitude in hundredths of a degree as int16, and `lengths`, the number of points of each ring; a
ring is closed by its first point. It was made from the countries (`naturalearth_lowres`) that
PyPI's geopandas 0.14.4 carries: coordinates rounded, an edge kept when an odd number of countries
has it (borders have two), edges joined to rings, land counter-clockwise and the one lake (the
Caspian Sea) clockwise, the largest ring first. Land covers 28.9 % of this sphere.

References:
    Natural Earth. https://www.naturalearthdata.com
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.manifolds.pictures.canvas import Floats

__all__ = ["is_land", "rings"]


@cache
def rings() -> tuple[Floats, ...]:
    """The rings in degrees, each `(points, 2)`: longitude, latitude. Land lies to their left."""
    source = files("structdiff.domains.manifolds") / "coastlines.npz"
    with source.open("rb") as file, np.load(file) as stored:
        points, lengths = stored["points"] / 100.0, stored["lengths"]
    return tuple(np.split(points, np.cumsum(lengths)[:-1]))


def is_land(longitude: Floats, latitude: Floats) -> NDArray[np.bool_]:
    """Whether a place lies on land: a ray to the east crosses an odd number of coasts.

    Arguments:
        longitude: Degrees from -180 to 180.
        latitude: Degrees, of the same shape.

    Example:
        >>> is_land(np.array([15.0, -35.0]), np.array([23.0, 30.0]))  # Sahara, Atlantic
        array([ True, False])
    """
    here = np.asarray(longitude)[..., None], np.asarray(latitude)[..., None]
    crossings = np.zeros(np.shape(longitude), dtype=np.int64)
    for ring in rings():
        (x, y), (x_next, y_next) = ring.T, np.roll(ring, -1, axis=0).T
        passes = (y > here[1]) != (y_next > here[1])
        rise = np.where(y_next == y, 1.0, y_next - y)
        east = x + (here[1] - y) * (x_next - x) / rise
        crossings += (passes & (here[0] < east)).sum(axis=-1)
    return np.asarray(crossings % 2 == 1)
