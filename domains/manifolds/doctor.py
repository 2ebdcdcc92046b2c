"""Looking at points before training: what is read, how it lies in its space, what looks wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from structdiff.domains.manifolds.codec import space_of
from structdiff.domains.manifolds.columns import Angles
from structdiff.domains.manifolds.data import read
from structdiff.domains.manifolds.leaf import Leaf
from structdiff.domains.manifolds.matrices import eigenvalues
from structdiff.domains.manifolds.points import Data
from structdiff.domains.manifolds.readers.table import Floats
from structdiff.spaces.base import Compact, Manifold

__all__ = ["examine"]

_SAMPLE = 2_000  # points that a mean is taken of
_STEPS = 20
_FEW = 100  # points for training, below which little can be learned
_SHOWN = 12  # columns
_FLOAT = 1e6  # ratio of eigenvalues beyond which single precision loses the smallest


def examine(path: str, *, columns: str | None = None, angles: Angles = "auto") -> str:
    """What training with the default settings would do with points, in words.

    Arguments:
        path: What training would be given as data.path.
        columns: As data.columns.
        angles: As data.angles.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If nothing in it can be trained on.
    """
    data = read(path, columns=columns, angles=angles)
    warnings, lines = [note for note in data.notes if note.startswith("warning: ")], list[str]()
    for leaf in data.codec.leaves:
        found = [*_leaf(data, leaf)]
        lines += ["", leaf.describe(), *(f"  {one}" for one in found if not _warns(one))]
        warnings += [f"warning: {leaf.name}: {one[9:]}" for one in found if _warns(one)]
    warnings += _whole(data)
    marks = [f"  ! {one.removeprefix('warning: ')}" for one in warnings]
    many = f"{len(marks) or 'no'} warning{'s' * (len(marks) != 1)}"
    notes = [f"  {note}" for note in data.notes if not _warns(note)]
    parts = (data.train, data.validation, data.test)
    sizes = ", ".join(
        f"{len(part):,} {name}"
        for part, name in zip(
            parts, ("for training", "for validation", "for the test"), strict=True
        )
    )
    schema = "; ".join(
        f"{leaf.name}={','.join(leaf.columns)}:{leaf.kind}{leaf.units and ':'}{leaf.units}"
        for leaf in data.codec.leaves
    )
    ask = [] if len(schema) > 200 else ["", f'--data.columns "{schema}" says the same']
    return "\n".join([f"{path}: {many}", *marks, f"  rows {sizes}", *notes, *lines, *ask])


def _warns(line: str) -> bool:
    return line.startswith("warning: ")


def _whole(data: Data) -> Iterator[str]:
    """What is wrong with all leaves together."""
    parts = [part for part in (data.train, data.validation, data.test) if len(part)]
    flat = [
        np.concatenate([x.flatten(1).numpy() for x in part.leaves.values()], 1) for part in parts
    ]
    rows = np.concatenate(flat)
    distinct = len(np.unique(rows, axis=0))
    copies = len(rows) - distinct
    if copies > 0.01 * len(rows):
        yield (
            f"warning: {copies:,} of {len(rows):,} rows are copies of others: a density can grow "
            "without bound there, and the test holds points of the training"
        )
    if len(data.train) < _FEW:
        yield f"warning: {len(data.train)} rows for training are few: a model may repeat them"


def _leaf(data: Data, leaf: Leaf) -> Iterator[str]:
    """How the points of a leaf lie, and what looks wrong; lines of warnings say so."""
    x = data.train.leaves[leaf.name]
    table = data.codec.decode(data.train.batch())
    points, _ = leaf.read(table)
    family = leaf.space.partition(":")[0]
    yield from {
        "sphere": _sphere,
        "torus": _torus,
        "so3": _rotations,
        "spd": _matrices,
        "log-euclidean": _matrices,
        "simplex": _simplex,
        "hyperbolic": _hyperbolic,
        "ball": _hyperbolic,
        "euclidean": _numbers,
    }[family](leaf, points)
    space = space_of(leaf.space)
    few_points = x[torch.linspace(0, len(x) - 1, min(len(x), _SAMPLE)).long()]
    yield f"spread {_spread(space, few_points):.3g}: root mean square distance from the mean"
    if isinstance(space, Compact):
        yield f"the uniform law takes {space.log_volume:.4f} nats a point"
    scale = data.codec.log_scale[leaf.name]
    if scale:
        yield f"densities are per unit of the data: {-scale:+.4f} nats to those of the process"


def _spread(space: Manifold, x: Tensor) -> float:
    """Root mean square distance from a mean, found by steps along the mean logarithm."""
    centre = x[:1]
    for _ in range(_STEPS):
        mean = space.log(centre.expand_as(x), x).mean(0, keepdim=True)
        centre = space.project(space.exp(centre, mean))
    return float(space.distance(centre.expand_as(x), x).square().mean().sqrt())


def _columns(leaf: Leaf, points: Floats) -> Iterator[tuple[str, Floats]]:
    """The first columns as they are written."""
    flat = np.concatenate(
        [column.reshape(len(points), -1) for column in leaf.write(points).values()], 1
    )
    yield from zip(leaf.names[:_SHOWN], flat.T, strict=False)


def _ranges(leaf: Leaf, points: Floats) -> Iterator[str]:
    for name, column in _columns(leaf, points):
        yield f"{name}: {column.min():.4g} to {column.max():.4g}"


def _sphere(leaf: Leaf, points: Floats) -> Iterator[str]:
    yield from _ranges(leaf, points)
    length = float(np.linalg.norm(points.mean(0)))
    yield f"mean resultant length {length:.3f}: 0 if evenly spread, 1 if all in one place"


def _torus(leaf: Leaf, points: Floats) -> Iterator[str]:
    factor = 180 / np.pi if leaf.units == "degrees" else 1.0
    for name, angle in zip(leaf.names[:_SHOWN], points.T, strict=False):
        mean = np.exp(1j * angle).mean()
        direction = float(np.angle(mean)) * factor
        yield f"{name}: mean direction {direction:.4g}, resultant length {abs(mean):.3f}"


def _rotations(leaf: Leaf, points: Floats) -> Iterator[str]:
    del leaf
    least = float(np.linalg.svd(points.mean(0))[1].min())
    yield f"least singular value of the mean matrix {least:.3f}: 1 if all are one rotation"


def _matrices(leaf: Leaf, points: Floats) -> Iterator[str]:
    del leaf
    values = eigenvalues(points)
    ratio = values[:, -1] / values[:, 0]
    yield f"eigenvalues {values.min():.3g} to {values.max():.3g}"
    yield f"largest over smallest: median {np.median(ratio):.3g}, at most {ratio.max():.3g}"
    if ratio.max() > _FLOAT:
        yield (
            f"warning: {int((ratio > _FLOAT).sum()):,} matrices have eigenvalues up to "
            f"{ratio.max():.0e} apart, of which single precision loses the smallest: add a small "
            "multiple of the identity"
        )


def _simplex(leaf: Leaf, points: Floats) -> Iterator[str]:
    yield from _ranges(leaf, points)
    zeros = (points == 0).any(1)
    if zeros.any():
        yield (
            f"warning: {int(zeros.sum()):,} of {len(points):,} rows have a probability of 0: they "
            "lie on the edge of the simplex, where there is no density; add a pseudo-count"
        )


def _hyperbolic(leaf: Leaf, points: Floats) -> Iterator[str]:
    if leaf.kind == "ball":
        far = 2 * np.arctanh(np.linalg.norm(points, axis=1))
    else:
        far = np.arcsinh(np.linalg.norm(points[:, 1:], axis=1))
    yield f"distance from the origin: median {np.median(far):.3g}, at most {far.max():.3g}"
    if far.max() > 8:
        yield (
            f"warning: points are as far as {far.max():.3g} from the origin: beyond 8, single "
            "precision can hardly tell them apart; divide the data by a factor"
        )


def _numbers(leaf: Leaf, points: Floats) -> Iterator[str]:
    for name, column in _columns(leaf, points):
        ends = f"{column.min():.4g} to {column.max():.4g}"
        yield f"{name}: {ends}, mean {column.mean():.4g}, deviation {column.std():.4g}"
    tails = np.abs(points - points.mean(0)).max(0) / points.std(0)
    if tails.max() > 12:
        name = leaf.names[int(tails.argmax())]
        yield (
            f"warning: {name} goes {tails.max():.0f} deviations from its mean: if it is skewed, "
            "take its logarithm"
        )
