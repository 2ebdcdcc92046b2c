"""What a page about a model of points is made of: likelihoods and distances, beside references."""

from __future__ import annotations

import numpy as np

from structdiff.batch import Batch
from structdiff.domains.manifolds.codec import Table
from structdiff.domains.manifolds.kde import fit_bandwidth, fit_mixture
from structdiff.domains.manifolds.leaf import Leaf
from structdiff.domains.manifolds.metrics import (
    discrepancy,
    kuiper,
    nearest,
    off_space,
    smirnov,
)
from structdiff.domains.manifolds.points import Data, Points
from structdiff.domains.manifolds.run import Run
from structdiff.spaces import Torus
from structdiff.spaces.sphere import Sphere

__all__ = ["likelihoods", "marginals", "measures", "some"]

NEAR = 1e-3
_SCORED = 1000
_COMPARED = 200

Row = tuple[str, str]


def some(points: Points, most: int) -> Points:
    """At most so many of them, evenly spread."""
    few = np.linspace(0, len(points) - 1, min(most, len(points)))
    return points.subset(np.unique(few.astype(int)))


def likelihoods(run: Run, data: Data, held: Points, *, progress: bool) -> list[Row]:
    """-log density of held-out points under the run, and under estimates that hold the data."""
    looked = some(held, _SCORED)
    scores = run.score(looked, progress=progress)
    value, error = scores.nll()
    seen = run.score(some(data.train, _COMPARED), progress=False).nll()
    rows = [
        (f"the run, {len(looked):,} held-out points", f"{value:.3f} +- {error:.2g}"),
        ("the run, training points", f"{seen[0]:.3f} +- {seen[1]:.2g}"),
    ]
    if len(run.codec.leaves) > 1:
        return rows
    ((name, space),) = run.codec.spaces.items()
    train, test = data.train.leaves[name], looked.leaves[name]
    if space.dimension * len(train) <= 200_000:
        far = nearest(space, test[:_SCORED], train) > NEAR
        if 0 < int(far.sum()) < len(far):
            rest = float(-scores.total[far.numpy()].mean())
            words = f"the run, without {int((~far).sum())} within {NEAR:g} of a training point"
            rows.append((words, f"{rest:.3f}"))
    if isinstance(space, Torus) or (isinstance(space, Sphere) and space.dimension > 1):
        check = data.validation.leaves[name]
        if len(check):
            one, many = fit_bandwidth(space, train, check), fit_mixture(space, train, check)
            title = "kernel density estimate"
            best = f"{title}, bandwidth {one.bandwidths[0]:.3g}"
            rows.append((best, f"{float(-one.log_prob(test).mean()):.3f}"))
            words = f"{title}, {len(many.bandwidths)} bandwidths"
            rows.append((words, f"{float(-many.log_prob(test).mean()):.3f}"))
        rows.append(("uniform", f"{space.log_volume:.3f}"))
    return rows


def measures(run: Run, data: Data, held: Points, drawn: Batch) -> list[tuple[str, str, str]]:
    """Name, value of drawn points and of as many training points, beside held-out ones."""
    real = some(held, _COMPARED)
    train = some(data.train, min(_COMPARED, drawn.samples))
    rows = list[tuple[str, str, str]]()
    for name, space in run.codec.spaces.items():
        made = drawn[name].double().cpu()[:_COMPARED]
        ours = discrepancy(space, made, real.leaves[name])
        theirs = discrepancy(space, train.leaves[name], real.leaves[name])
        near = float(nearest(space, made, data.train.leaves[name]).median())
        held_near = float(nearest(space, real.leaves[name], data.train.leaves[name]).median())
        title = f"{name}: MMD^2 to held-out points"
        made_said, train_said = (f"{x.value:.2g} +- {x.error:.1g}" for x in (ours, theirs))
        rows.append((title, made_said, train_said))
        title = f"{name}: median distance to the nearest training point (held-out beside)"
        rows.append((title, f"{near:.3g}", f"{held_near:.3g}"))
        off = off_space(space, drawn[name].cpu())
        rows.append((f"{name}: farthest off the space, in any number", f"{off:.1g}", "0"))
    return rows


def marginals(run: Run, data: Data, held: Points, drawn: Table) -> list[tuple[str, str, str]]:
    """The distance of each column from held-out points: Kuiper's of angles, else Smirnov's."""
    real, train = (_table(run, points) for points in (held, some(data.train, len(held))))
    rows = list[tuple[str, str, str]]()
    for leaf in run.codec.leaves:
        unit = np.pi / 180 if leaf.units == "degrees" else 1.0
        parts = [
            leaf.values(table) * (unit if leaf.units else 1.0) for table in (drawn, train, real)
        ]
        for place, column in enumerate(leaf.names[:_COLUMNS]):
            ours, theirs, truth = (part[:, place] for part in parts)
            measure = kuiper if _circular(leaf, place) else smirnov
            near, train_near = measure(ours, truth), measure(theirs, truth)
            title = f"{column}, {measure.__name__}"
            rows.append((title, f"{near:.3f}", f"{train_near:.3f}"))
    return rows


_COLUMNS = 12


def _circular(leaf: Leaf, place: int) -> bool:
    """Whether a number of a leaf is an angle without ends."""
    circles = {"torus": True, "sphere": place == 1, "so3-bunge": place != 1}
    return circles.get(leaf.kind, False)


def _table(run: Run, points: Points) -> Table:
    return run.codec.decode(points.batch())
