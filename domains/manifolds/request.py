"""What to draw: how many points, and which leaves of them are known.

Known leaves are said in the units of the data, the numbers of a leaf in the order of its columns:
`place=12.5,41.9`, several with a semicolon between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from structdiff.domains.manifolds.codec import ManifoldsCodec, Table
from structdiff.domains.manifolds.leaf import Leaf
from structdiff.runs import whole

__all__ = ["Request", "known_leaves", "request"]


@dataclass(frozen=True, eq=False)
class Request:
    """What to draw.

    Arguments:
        points: How many.
        known: Leaves that are known, one point each, as the model sees them, `(1, *point)`.
        seed: Start of the random numbers.
    """

    points: int
    known: Mapping[str, Tensor]
    seed: int


def request(
    codec: ManifoldsCodec, points: int, *, given: str | None, exact: bool, seed: int
) -> Request:
    """A request.

    Arguments:
        codec: Leaves and units.
        points: How many.
        given: Known leaves, see the head of the module.
        exact: Whether the model was trained with a time for each leaf, as known leaves need.
        seed: Start of the random numbers.

    Raises:
        ValueError: If a number is out of range, or the known leaves do not fit.
    """
    points, seed = whole("the number of points", points, 1), whole("seed", seed, 0)
    known = {} if given is None else known_leaves(codec, given)
    if known and not exact:
        msg = (
            "given needs a model that was trained with a time for each leaf: train with "
            "--loss.independent"
        )
        raise ValueError(msg)
    return Request(points, known, seed)


def known_leaves(codec: ManifoldsCodec, given: str) -> dict[str, Tensor]:
    """The points of leaves as words, `(1, *point)` by leaf.

    Raises:
        ValueError: If there is no such leaf, all are named, or the numbers are no point.
    """
    leaves = {leaf.name: leaf for leaf in codec.leaves}
    read = dict[str, np.ndarray]()
    for word in given.split(";"):
        name, equals, numbers = word.strip().partition("=")
        if name not in leaves or not equals or name in read:
            msg = (
                f"given must be LEAF=NUMBERS, each leaf once, with a semicolon between, got "
                f"{word.strip()!r}; the leaves are {', '.join(leaves)}"
            )
            raise ValueError(msg)
        read[name] = _point(leaves[name], numbers)
    if len(read) == len(leaves):
        msg = f"given names all leaves ({', '.join(leaves)}): leave one out, to be drawn"
        raise ValueError(msg)
    return codec.points(read)


def _point(leaf: Leaf, words: str) -> np.ndarray:
    """A point of a leaf from its numbers.

    Raises:
        ValueError: If they are not as many, or no point.
    """
    sizes = [int(np.prod(shape)) for shape in leaf.shapes]
    try:
        values = np.array([float(word) for word in words.split(",")])
    except ValueError:
        values = np.zeros(0)
    if len(values) != sum(sizes):
        msg = f"given {leaf.name} must be {sum(sizes)} numbers ({leaf.describe()}), got {words!r}"
        raise ValueError(msg)
    parts = np.split(values, np.cumsum(sizes)[:-1])
    columns = {
        name: part.reshape(1, *shape)
        for name, part, shape in zip(leaf.columns, parts, leaf.shapes, strict=True)
    }
    points, faults = leaf.read(Table(columns))
    if faults:
        msg = f"given {leaf.name}={words}: {faults[0].reason}; {faults[0].fix}"
        raise ValueError(msg)
    return points
