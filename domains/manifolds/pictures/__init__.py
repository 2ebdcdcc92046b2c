"""Pictures of points of manifolds: data beside samples, densities, quality against time.

`picture` draws what suits a space; the modules hold one kind of picture each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from structdiff.domains.manifolds.pictures.ball import discs, in_ball
from structdiff.domains.manifolds.pictures.canvas import LogDensity, points_of, save
from structdiff.domains.manifolds.pictures.histograms import marginals
from structdiff.domains.manifolds.pictures.maps import sphere_maps
from structdiff.domains.manifolds.pictures.matrices import matrix_charts
from structdiff.domains.manifolds.pictures.quality import Quality, quality_chart
from structdiff.domains.manifolds.pictures.rotations import rotation_maps
from structdiff.domains.manifolds.pictures.simplex import triangles
from structdiff.domains.manifolds.pictures.torus import MOST_ANGLES, angle_pairs, ramachandran

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Quality",
    "angle_pairs",
    "discs",
    "marginals",
    "matrix_charts",
    "picture",
    "quality_chart",
    "ramachandran",
    "rotation_maps",
    "sphere_maps",
    "triangles",
]


_MORE = {"sphere": (1,), "torus": (0,), "spd": (0, 0), "log-euclidean": (0, 0), "simplex": (0,),
         "hyperbolic": (1,), "ball": (0,), "euclidean": (0,)}  # fmt: skip
"""Of each kind, the shape of one point less the size of the space."""


def picture(
    space: str,
    samples: ArrayLike | Any,
    data: ArrayLike | Any,
    path: Path | str,
    *,
    log_density: LogDensity | None = None,
    test: ArrayLike | Any | None = None,
    earth: bool = False,
    centre: float = 0.0,
    names: Sequence[str] = (),
    title: str = "",
) -> Path:
    """Draws samples of one leaf against data, as suits its space, and writes a PNG.

    A sphere S^2 is a map, two angles are a Ramachandran plot and up to eight all their pairs,
    rotations are maps of an axis coloured by tilt, matrices are spectra and correlations (and
    ellipses up to 3 x 3), three probabilities are a triangle, hyperbolic points a disc; all other
    spaces are histograms of each coordinate.

    Arguments:
        space: What the points are: `sphere:2`, `torus:7`, `so3`, `spd:8`, `log-euclidean:3`,
            `simplex:3`, `hyperbolic:2`, `ball:2`, `euclidean:5`.
        samples: Drawn points of that space, `(rows, *point)`, an array or a tensor.
        data: Real ones.
        path: The PNG to write.
        log_density: Points to nats, asked once on a grid; drawn for S^2 and two angles.
        test: Held-out points, drawn on the log density of S^2.
        earth: Whether the sphere is the Earth and gets its land.
        centre: The longitude in the middle of a map, in degrees.
        names: What angles, probabilities or numbers are called.
        title: What the points are.

    Raises:
        ValueError: If the space is not known or points do not belong to it.
        ImportError: If matplotlib is not installed.
        OSError: If the file cannot be written.
    """
    kind, _, size = space.partition(":")
    event = _event(kind, size, space)
    drawn, real = points_of(samples, event, "samples"), points_of(data, event, "data")
    if test is not None:
        test = points_of(test, event, "test")
    figure: Figure
    match kind, event:
        case "sphere", (3,):
            figure = sphere_maps(
                drawn, real, log_density=log_density, test=test, earth=earth, centre=centre,
                title=title,
            )  # fmt: skip
        case "torus", (2,):
            figure = ramachandran(drawn, real, log_density=log_density, names=names, title=title)
        case "torus", (int(angles),) if 2 < angles <= MOST_ANGLES:
            figure = angle_pairs(drawn, real, names=names, title=title)
        case "torus", _:
            turned = [np.degrees(np.arctan2(np.sin(x), np.cos(x))) for x in (drawn, real)]
            figure = marginals(*turned, names=names, unit="degrees", title=title)
        case "so3", _:
            figure = rotation_maps(drawn, real, title=title)
        case (("spd" | "log-euclidean"), _):
            figure = matrix_charts(drawn, real, title=title)
        case "simplex", (3,):
            figure = triangles(drawn, real, names=names, title=title)
        case "hyperbolic", (int(entries),) if entries > 2:
            figure = discs(in_ball(drawn), in_ball(real), title=title)
        case "ball", (int(entries),) if entries > 1:
            figure = discs(drawn, real, title=title)
        case _:
            figure = marginals(drawn, real, names=names, title=title)
    return save(figure, path)


def _event(kind: str, size: str, space: str) -> tuple[int, ...]:
    """The shape of one point."""
    if kind == "so3" and not size:
        return (3, 3)
    if kind not in _MORE or not size.isdecimal() or int(size) < 1:
        raise ValueError(
            f"space is {space!r}, must be so3 or one of {', '.join(_MORE)} with its size, "
            "as in sphere:2"
        )
    return tuple(int(size) + more for more in _MORE[kind])
