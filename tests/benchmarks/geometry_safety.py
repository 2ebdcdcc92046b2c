"""Delicate places of geometry: what comes out, here and in other libraries.

For every space, at its origin o and along a unit tangent vector e there, with y(t) = exp_o(t e)
written in closed form:

    slope of log            d/dt <log_o y(t), e> at 0, which is 1
    bend of dist^2          d^2/dt^2 dist(o, y(t))^2 at 0, which is 2
    bend of exp             d^2/dt^2 exp_o(t e) at 0, which is y''(0)
    dist at 1e-8            of o and y(1e-8) in float32
    dist at 1e-6 afar       of two points 1e-6 apart, 3 from the origin (1 in SO(3)), in float64
    dist(x, x)              of 10,000 points in float32: how many are NaN, and the largest

and where the space has them: opposite points, half turns, equal eigenvalues, points far apart.
Truth is a closed form, or mpmath with 50 digits. "right" is within 1e-3 of it (float32) or 1e-6
(float64), relative; its error stands beside it.

    OMP_NUM_THREADS=1 GEOMSTATS_BACKEND=pytorch python tests/benchmarks/geometry_safety.py

Libraries that are not installed are left out.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable

import torch
from geometry_compact import rotations, sphere
from geometry_libraries import Library
from geometry_open import ball, hyperboloid, positive
from geometry_place import NARROW, PLAIN, WIDE, Cell, Place, number, slope
from torch import Tensor

from structdiff.random import Generator


def slope_of_log(place: Place, library: Library) -> Cell:
    t = number(0.0)
    return slope(library.log(place.curve(t)), t).item(), 1.0, WIDE


def bend_of_square(place: Place, library: Library) -> Cell:
    t = number(0.0)
    square = library.square(place.curve(number(0.0).detach()), place.curve(t))
    return slope(slope(square, t), t).item(), 2.0, WIDE


def bend_of_exp(place: Place, library: Library) -> Cell:
    """The entry of the second derivative that is largest in truth."""

    def bends(path: Callable[[Tensor], Tensor]) -> Tensor:
        t = number(0.0)
        entries = path(t).flatten()
        if not entries.requires_grad:
            raise RuntimeError(PLAIN)
        return torch.stack([slope(slope(x, t), t)[0] for x in entries])

    truth = bends(place.curve)
    place_of = truth.abs().argmax()
    return bends(library.exp)[place_of].item(), truth[place_of].item(), WIDE


def small_distance(place: Place, library: Library) -> Cell:
    start, end = (place.curve(torch.tensor([s], dtype=torch.float32)) for s in (0.0, 1e-8))
    return library.dist(start, end).item(), 1e-8, NARROW


def distance_afar(place: Place, library: Library) -> Cell:
    x, y = place.apart()
    return library.dist(x, y).item(), 1e-6, WIDE


def self_distance(place: Place, library: Library) -> str:
    """The share of NaN and the largest number."""
    space = place.native
    start = space.origin(torch.float64, "cpu").expand(10_000, *space.point)
    x = space.exp(start, space.noise(start, Generator(0))).float()
    found = library.dist(x, x)
    lost = found.isnan().double().mean().item()
    largest = found.nan_to_num(0.0).abs().max().item()
    if lost:
        return f"**NaN for {100 * lost:.0f} %**"
    return f"right (0 to {largest:.0e})" if largest < 1e-6 else f"**wrong: up to {largest:.1g}**"


PLACES = {
    "S^2": sphere,
    "SO(3)": rotations,
    "H^2, hyperboloid": hyperboloid,
    "H^2, ball": ball,
    "SPD(3), affine-invariant": positive,
}
CASES: dict[str, Callable[[Place, Library], Cell]] = {
    "slope of log(x, y) at y = x": slope_of_log,
    "bend of dist^2 at y = x": bend_of_square,
    "bend of exp at v = 0": bend_of_exp,
    "dist at 1e-8, float32": small_distance,
    "dist at 1e-6, afar": distance_afar,
}


def verdict(cell: Callable[[], Cell | str]) -> str:
    """In words."""
    try:
        outcome = cell()
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).split("\n")[0].split(":")[0].rstrip(".")
        return PLAIN if reason == PLAIN or "requires grad" in reason else f"**raises**: {reason}"
    if isinstance(outcome, str):
        return outcome
    found, truth, tolerance = outcome
    if math.isnan(found):
        return "**NaN**"
    error = abs(found - truth) / (abs(truth) or 1)
    if error <= tolerance:
        return f"right ({error:.0e})"
    return f"**off by {error:.0e}**" if error < 0.01 else f"**wrong: {found:.3g}**, is {truth:.3g}"


def table(title: str, place: Place) -> str:
    """A Markdown table: cases by libraries."""
    names = list(place.libraries)
    lines = [f"**{title}**\n", "| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    rows: dict[str, Callable[[Library], Cell | str]] = {
        label: lambda library, case=case: case(place, library) for label, case in CASES.items()
    }
    rows["dist(x, x), float32"] = lambda library: self_distance(place, library)
    for label, case in (rows | place.extra).items():
        cells = [
            verdict(lambda case=case, library=library: case(library))
            for library in place.libraries.values()
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print a table per space."""
    os.environ["GEOMSTATS_BACKEND"] = "pytorch"
    for title, make in PLACES.items():
        torch.set_default_dtype(torch.float64)  # geomstats fails with another one
        print(table(title, make()))


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
