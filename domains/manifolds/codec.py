"""Columns as records: one leaf for each point, one row for each sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.codecs import Codec
from structdiff.domains.manifolds.frames import Frame, fit_frame, frame_from_state
from structdiff.domains.manifolds.leaf import Leaf
from structdiff.domains.manifolds.readers.table import Fault, Floats, Table
from structdiff.layout import Layout
from structdiff.spaces.base import Manifold

__all__ = ["ManifoldsCodec", "Table", "space_of"]

_LARGEST = 10_000  # dimensions


def space_of(spec: str) -> Manifold:
    """The space of a spec.

    Arguments:
        spec: sphere:n, torus:d, so3, hyperbolic:n (Lorentz), ball:n (Poincare), spd:n
            (affine-invariant), log-euclidean:n, simplex:K or euclidean:d.

    Raises:
        ValueError: If there is no such space.

    Example:
        >>> space_of("torus:7").dimension
        7
    """
    family, size = _parsed(spec)
    return _SPACES[family](size)


def _parsed(spec: str) -> tuple[str, int]:
    family, _, size = spec.partition(":")
    sized = size.isascii() and size.isdigit() and 1 <= int(size[:9]) <= _LARGEST
    if family not in _SPACES or (family != "so3") != sized or (size and not sized):
        known = ", ".join(name if name == "so3" else f"{name}:N" for name in _SPACES)
        msg = f"there is no space {spec!r}; there are: {known}, N from 1 to {_LARGEST}"
        raise ValueError(msg)
    return family, int(size or 0)


def _space(module: str, name: str, *size: int) -> Manifold:
    made: Manifold = getattr(import_module(f"structdiff.spaces.{module}"), name)(*size)
    return made


_SPACES: Mapping[str, Callable[[int], Manifold]] = {
    "sphere": lambda n: _space("sphere", "Sphere", n),
    "torus": lambda n: _space("torus", "Torus", n),
    "so3": lambda _: _space("so3", "SO3"),
    "hyperbolic": lambda n: _space("hyperbolic", "Hyperbolic", n),
    "ball": lambda n: _space("hyperbolic", "PoincareBall", n),
    "spd": lambda n: _space("spd", "SPD", n),
    "log-euclidean": lambda n: _space("spd", "LogEuclidean", n),
    "simplex": lambda n: _space("simplex", "Simplex", n),
    "euclidean": lambda n: _space("euclidean", "Euclidean", n),
}


class ManifoldsCodec(Codec[Table]):
    """Which columns are which point, and where the points are moved to, see `frames`.

    Arguments:
        leaves: The leaves.
        frames: Where the points of each are moved to, by name.

    Raises:
        ValueError: If there is no leaf, or two have one name or share a column.

    Example:
        >>> angles = Leaf("torus", ("phi", "psi"), ((), ()), "torus", "degrees")
        >>> table = Table({"phi": np.array([-60.0, 90.0]), "psi": np.array([45.0, -180.0])})
        >>> codec = ManifoldsCodec.of([angles], {"torus": angles.read(table)[0]})
        >>> batch = codec.encode(table)
        >>> batch["torus"]
        tensor([[-1.0472,  0.7854],
                [ 1.5708, -3.1416]], dtype=torch.float64)
        >>> codec.decode(batch).flat()
        {'phi': [-60.0, 90.0], 'psi': [45.0, -180.0]}
    """

    def __init__(self, leaves: Sequence[Leaf], frames: Mapping[str, Frame]) -> None:
        names = [leaf.name for leaf in leaves]
        columns = [column for leaf in leaves for column in leaf.columns]
        for what, words in (("leaf", names), ("column", columns)):
            twice = [word for word in words if words.count(word) > 1]
            if twice:
                msg = f"the {what} {twice[0]!r} is there twice: a {what} must be there once"
                raise ValueError(msg)
        if not leaves or set(names) != set(frames):
            msg = f"there must be a leaf, and a frame for each; got {names} and {sorted(frames)}"
            raise ValueError(msg)
        self.leaves, self._frames = tuple(leaves), dict(frames)

    @classmethod
    def of(cls, leaves: Sequence[Leaf], points: Mapping[str, Floats]) -> Self:
        """The codec of points that were read.

        Raises:
            ValueError: If a column never changes.
        """
        return cls(
            leaves,
            {
                leaf.name: fit_frame(leaf.space, points[leaf.name], leaf.describe())
                for leaf in leaves
            },
        )

    @classmethod
    def fit(cls, objects: Table) -> Self:
        """The codec of a table whose columns say by their names what they are, see `guess`.

        Raises:
            ValueError: If that is not clear, or a row is no point.
        """
        from structdiff.domains.manifolds.schema import schema

        leaves, _ = schema(objects)
        return cls.of(leaves, _whole(leaves, objects))

    @property
    def specs(self) -> dict[str, str]:
        """The space of each leaf, see `space_of`."""
        return {leaf.name: leaf.space for leaf in self.leaves}

    @property
    def spaces(self) -> dict[str, Manifold]:
        """The space of each leaf."""
        return {name: space_of(spec) for name, spec in self.specs.items()}

    @property
    def log_scale(self) -> dict[str, float]:
        """log p(data) - log p(point) of each leaf, see `frames`."""
        return {name: frame.log_scale for name, frame in self._frames.items()}

    def points(self, read: Mapping[str, Floats]) -> dict[str, Tensor]:
        """Points of the data, by leaf, as the process sees them."""
        return {
            name: torch.from_numpy(np.ascontiguousarray(self._frames[name].encode(points)))
            for name, points in read.items()
        }

    def encode(self, objects: Table) -> Batch:
        """A clean batch in float64.

        Raises:
            ValueError: If a column is missing, or a row is no point; it says which.
        """
        leaves = self.points(_whole(self.leaves, objects))
        return Batch(leaves, {name: Layout.regular(len(x)) for name, x in leaves.items()})

    def decode(self, batch: Batch) -> Table:
        """The points of a batch as columns, in the units of the data."""
        columns = dict[str, Floats]()
        for leaf in self.leaves:
            x = batch[leaf.name].detach().to("cpu", torch.float64).numpy()
            columns |= leaf.write(self._frames[leaf.name].decode(x))
        return Table(columns)

    def state(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        return {
            "leaves": [leaf.state() for leaf in self.leaves],
            "frames": {name: frame.state() for name, frame in self._frames.items()},
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """From what `state` gave.

        Raises:
            ValueError: If a part is missing, of another kind or out of range.
        """
        try:
            leaves = [_leaf(one) for one in state["leaves"]]
            frames = {
                leaf.name: frame_from_state(leaf.space, state["frames"][leaf.name])
                for leaf in leaves
            }
            if set(state) != {"leaves", "frames"} or set(state["frames"]) != set(frames):
                msg = "it must have leaves, and a frame for each"
                raise ValueError(msg)
            return cls(leaves, frames)
        except KeyError as error:
            fault = f"{error} is missing"
        except (TypeError, AttributeError, ValueError, OverflowError) as error:
            fault = str(error)
        msg = f"this is not the state of a codec of manifolds: {fault}"
        raise ValueError(msg)


def _leaf(state: Mapping[str, Any]) -> Leaf:
    """A leaf from its state.

    Raises:
        ValueError: If a part is not of its kind.
    """
    words = [state["name"], state["kind"], state["units"], *state["columns"]]
    sizes = [size for shape in state["shapes"] for size in shape]
    lists = [state["columns"], state["shapes"], *state["shapes"]]
    if (
        not all(isinstance(word, str) for word in words)
        or not all(isinstance(one, list) for one in lists)
        or not all(type(size) is int and 1 <= size <= _LARGEST for size in sizes)
        or type(state["positive"]) is not bool
        or len(state["shapes"]) != len(state["columns"])
        or len(state) != len(Leaf.__dataclass_fields__)
    ):
        msg = "a leaf must have name, kind, units, columns, a shape for each, and positive"
        raise ValueError(msg)
    shapes = tuple(tuple(shape) for shape in state["shapes"])
    leaf = Leaf(
        state["name"],
        tuple(state["columns"]),
        shapes,
        state["kind"],
        state["units"],
        state["positive"],
    )
    _parsed(leaf.space)
    return leaf


def _whole(leaves: Sequence[Leaf], table: Table) -> dict[str, Floats]:
    """The points of a table of which no row may be broken.

    Raises:
        ValueError: If one is.
    """
    read = {leaf.name: leaf.read(table) for leaf in leaves}
    faults: list[Fault] = [*table.faults, *(f for _, found in read.values() for f in found)]
    if faults:
        fault = faults[0]
        row = table.where(int(fault.rows.argmax()))
        msg = f"{row}: {fault.reason}: {fault.first}; {fault.fix}"
        raise ValueError(msg)
    return {name: points for name, (points, _) in read.items()}
