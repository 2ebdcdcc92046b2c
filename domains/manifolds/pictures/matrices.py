"""Pictures of symmetric positive definite matrices: ellipses, spectra, correlations.

A matrix X is drawn as the ellipse v^T X^{-1} v = 1 of a covariance, one standard deviation; one of
3 x 3 by its shadow on the first two axes, which is the ellipse of the block of those axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from structdiff.domains.manifolds.pictures.canvas import (
    DATA_DOT,
    EDGE,
    GRID,
    INK,
    SAMPLE,
    Floats,
    counted,
    headed,
    logarithmic,
    plain,
    points_of,
    sheet,
    shown,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["correlation_of", "ellipse", "matrix_charts"]

_ELLIPSES = 60
_LARGEST = 3


def matrix_charts(samples: Floats, data: Floats, *, title: str = "") -> Figure:
    """Eigenvalues, standard deviations and correlations; ellipses up to 3 x 3.

    Arguments:
        samples: Drawn matrices, `(rows, n, n)`.
        data: Real ones.
        title: What the matrices are.

    Raises:
        ValueError: If a matrix is not symmetric and positive definite.
    """
    data = _matrices(data, None, "data")
    size = data.shape[1]
    samples = _matrices(samples, size, "samples")
    drawn = size <= _LARGEST
    figure = sheet(10.2, (7.0 if drawn else 3.5) + (0.3 if title else 0.0))
    parts = figure.subfigures(1 + drawn, 1, squeeze=False)[:, 0]
    if drawn:
        _ellipses(parts[0].subplots(1, 2, sharex=True, sharey=True), samples, data)
    left, middle, right = parts[-1].subplots(1, 3, width_ratios=[1.15, 1.15, 1])
    _bands(left, *(np.asarray(np.linalg.eigvalsh(x)[:, ::-1]) for x in (samples, data)))
    tidy(left, "eigenvalues", "rank", "eigenvalue")
    scales = [np.sqrt(np.diagonal(x, axis1=1, axis2=2)) for x in (samples, data)]
    _bands(middle, *scales)
    tidy(middle, "square roots of the diagonal", "coordinate", "standard deviation")
    left.legend(frameon=False, fontsize=8, labelcolor=INK)
    _correlations(right, samples, data)
    words = f"{counted('data', data)}, {counted('samples', samples)}"
    return headed(figure, f"{title}: {words}" if title else words)


def ellipse(matrix: Floats, points: int = 73) -> Floats:
    """The ellipse of a 2 x 2 matrix, `(points, 2)`: its Cholesky factor times the circle."""
    turn = np.linspace(0, 2 * np.pi, points)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    return np.asarray((np.linalg.cholesky(matrix) @ circle).T)


def correlation_of(matrices: Floats) -> Floats:
    """Each matrix with its diagonal scaled to 1.

    Example:
        >>> correlation_of(np.array([[[4.0, 1.0], [1.0, 1.0]]]))[0]
        array([[1. , 0.5],
               [0.5, 1. ]])
    """
    scale = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
    return np.asarray(matrices / (scale[:, :, None] * scale[:, None, :]))


def _ellipses(axes: tuple[Axes, Axes], samples: Floats, data: Floats) -> None:
    from matplotlib.collections import LineCollection

    pairs = ((data, "data", DATA_DOT), (samples, "samples", SAMPLE))
    axes[0].set_anchor("E")
    axes[1].set_anchor("W")
    reach = 1.1 * float(np.sqrt(np.quantile(data[:, :2, :2].diagonal(0, 1, 2).max(1), 0.99)))
    for ax, (x, name, colour) in zip(axes, pairs, strict=True):
        lines = [ellipse(one) for one in shown(x, _ELLIPSES)[:, :2, :2]]
        ax.add_collection(LineCollection(lines, colors=colour, lw=0.9, alpha=0.55))
        tidy(ax, counted(name, x, _ELLIPSES), "axis 1", "axis 2")
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def _bands(ax: Axes, samples: Floats, data: Floats) -> None:
    """Medians, and the middle half and nine tenths, of each column."""
    place = np.arange(1, data.shape[1] + 1)
    looks = ((data, -0.14, DATA_DOT, "data"), (samples, 0.14, SAMPLE, "samples"))
    for x, shift, colour, name in looks:
        low, lower, middle, upper, high = np.quantile(x, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
        ax.vlines(place + shift, low, high, color=colour, lw=1.1)
        ax.vlines(place + shift, lower, upper, color=colour, lw=4.5, alpha=0.55)
        ax.plot(place + shift, middle, "o", ms=4, color=colour, mec="white", mew=0.6, label=name)
    logarithmic(ax, "y")
    ax.set(xticks=place, xlim=(0.5, place[-1] + 0.5))


def _correlations(ax: Axes, samples: Floats, data: Floats) -> None:
    """Mean correlations: those of data below the diagonal, those of samples above."""
    below, above = (correlation_of(x).mean(0) for x in (data, samples))
    size = len(below)
    whole = np.where(np.tri(size, k=-1, dtype=bool), below, above)
    np.fill_diagonal(whole, np.nan)
    image = ax.imshow(whole, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.plot([-0.5, size - 0.5], [-0.5, size - 0.5], color=EDGE, lw=0.8)
    places, names = np.arange(size), [str(i + 1) for i in range(size)]
    ax.set_xticks(places, names)
    ax.set_yticks(places, names)
    plain(ax, "mean correlation: data below,\nsamples above the diagonal", "coordinate")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, aspect=20, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.ax.tick_params(color=EDGE, labelcolor=INK, labelsize=8)
    bar.outline.set(color=GRID)


def _matrices(x: Floats, size: int | None, name: str) -> Floats:
    array = points_of(x, (size, size), name)
    if array.shape[1] != array.shape[2]:
        raise ValueError(f"{name} has shape {array.shape}, must be (rows, n, n): give matrices")
    scale = np.abs(array).max(axis=(1, 2))
    uneven = np.abs(array - array.transpose(0, 2, 1)).max(axis=(1, 2)) > 1e-3 * scale
    bad = np.flatnonzero(uneven | (np.linalg.eigvalsh(array)[:, 0] <= 0))
    if len(bad):
        raise ValueError(
            f"{name} is not symmetric and positive definite in {len(bad)} of {len(array)} rows, "
            f"the first is row {bad[0]}; leave those rows out"
        )
    return array
