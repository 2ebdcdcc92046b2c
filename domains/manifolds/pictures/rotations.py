r"""Pictures of rotations: where they take an axis, how they turn about it, and by which angle.

A rotation R is three numbers: the direction u = R e_z (a place on the sphere) and the tilt about
it. The shortest turn S(u) from e_z to u leaves a turn about e_z, R = S(u) Z(tilt), with

    tilt = atan2(R_21 - R_12, R_11 + R_22),

which is alpha + gamma of the Euler angles Z(alpha) Y(beta) Z(gamma); only at u = -e_z it is not
defined. The map keeps areas and the tilt is even for uniform rotations, so the uniform measure
(Haar's) is even in the picture: in places and in colours. The angle w of a uniform rotation has
the density (1 - cos w) / pi on [0, pi].

References:
    Implicit-PDF: Non-Parametric Representation of Probability Distributions on the Rotation
    Manifold (Murphy et al., 2021), section 4.3. https://arxiv.org/abs/2106.05965
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from structdiff.domains.manifolds.pictures.canvas import (
    EDGE,
    INK,
    MOST,
    SAMPLE,
    Floats,
    counted,
    headed,
    plain,
    points_of,
    sheet,
    shown,
    tidy,
)
from structdiff.domains.manifolds.pictures.histograms import both
from structdiff.domains.manifolds.pictures.maps import Globe
from structdiff.domains.manifolds.pictures.projections import Mollweide
from structdiff.reports.charts import DATA

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure

__all__ = ["angle_of", "rotation_maps", "tilt_of"]


def rotation_maps(samples: Floats, data: Floats, *, title: str = "") -> Figure:
    """Maps of where rotations take the z-axis, coloured by tilt, and histograms of the angle.

    Arguments:
        samples: Drawn rotation matrices, `(rows, 3, 3)`.
        data: Real ones.
        title: What the rotations are.

    Raises:
        ValueError: If a matrix is not a rotation.
    """
    figure = sheet(9.6, 5.2 + (0.3 if title else 0.0))
    upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
    globe, axes = Globe(Mollweide(), land=False), upper.subplots(1, 2)
    pairs = [(_rotations(x, name), name) for x, name in ((data, "data"), (samples, "samples"))]
    for ax, (x, name) in zip(axes, pairs, strict=True):
        globe.base(ax)
        some = shown(x)
        globe.scatter(
            ax, some[:, :, 2], np.degrees(tilt_of(some)), cmap=_wheel(), vmin=-180, vmax=180
        )
        plain(ax, counted(f"{name}: direction of the z-axis", x, MOST))
    bar = upper.colorbar(
        axes[0].collections[-1], ax=list(axes), location="right", shrink=0.7, aspect=20, pad=0.01,
        ticks=[-180, -90, 0, 90, 180],
    )  # fmt: skip
    bar.set_label("tilt, degrees", fontsize=8.5, color=INK)
    bar.ax.tick_params(color=EDGE, labelcolor=INK, labelsize=8)
    bar.solids.set(alpha=1)
    bar.outline.set_visible(False)
    _histograms(lower, pairs[1][0], pairs[0][0])
    return headed(figure, title)


def _histograms(figure: SubFigure, samples: Floats, data: Floats) -> None:
    left, right = figure.subplots(1, 2)
    edges = np.linspace(0, 180, 46)
    fine = np.linspace(0, 180, 181)
    both(left, np.degrees(angle_of(samples)), np.degrees(angle_of(data)), edges)
    left.plot(fine, (1 - np.cos(np.radians(fine))) / 180, color=INK, lw=1.0, ls="--")
    tidy(left, "angle of the rotation", "degrees", "density")
    left.set_xticks(range(0, 181, 45))
    edges = np.linspace(-180, 180, 46)
    both(right, np.degrees(tilt_of(samples)), np.degrees(tilt_of(data)), edges)
    right.axhline(1 / 360, color=INK, lw=1.0, ls="--")
    tidy(right, "tilt", "degrees", "")
    right.set_xticks(range(-180, 181, 90))
    _legend(figure)


def _legend(figure: SubFigure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [
        Patch(color=DATA, label="data"),
        Line2D([], [], color=SAMPLE, lw=1.4, label="samples"),
        Line2D([], [], color=INK, lw=1.0, ls="--", label="uniform"),
    ]
    figure.legend(
        handles=marks,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        loc="outside lower center",
        ncols=3,
    )


def tilt_of(rotations: Floats) -> Floats:
    """The turn about the z-axis before the shortest turn to its new direction, in radians."""
    r = rotations
    return np.arctan2(r[:, 1, 0] - r[:, 0, 1], r[:, 0, 0] + r[:, 1, 1])


def angle_of(rotations: Floats) -> Floats:
    """The angle in [0, pi], from sine and cosine: right at both ends."""
    r = rotations
    turn = np.stack(
        [r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], axis=1
    )
    return np.asarray(np.arctan2(np.linalg.norm(turn, axis=1), np.trace(r, axis1=1, axis2=2) - 1))


def _rotations(x: Floats, name: str) -> Floats:
    array = points_of(x, (3, 3), name)
    off = np.abs(array @ array.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    off = np.maximum(off, np.abs(np.linalg.det(array) - 1))
    worst = int(off.argmax())
    if off[worst] > 1e-3:
        raise ValueError(
            f"{name} is off by {off[worst]:.3g} from a rotation in row {worst}, must be R R^T = 1 "
            "with determinant 1: give rotation matrices"
        )
    return array


def _wheel() -> Colormap:
    """A closed circle of colours that differ in lightness as well as in hue."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = ["#23408f", "#2f9e97", "#e8b83a", "#b8325a", "#23408f"]
    return LinearSegmentedColormap.from_list("wheel", stops)
