r"""Where a process sees the points of a leaf: in the middle, by an isometry where there is one.

    euclidean       z = (x - m) / s, by column
    log-euclidean   log Z = (log X - M) / s, M the mean logarithm
    spd             Z = A X A^T, A = exp(-M / 2): an isometry, so no density changes
    other spaces    as they are

M is the mean of the logarithms, so A takes the log-Euclidean mean to the identity. `log_scale` is
log |dz / dx| against the volumes of the two spaces: log p(x) = log p(z) + log_scale.

References:
    Log-Euclidean metrics for fast and simple calculus on diffusion tensors (Arsigny et al., 2006).
    https://doi.org/10.1002/mrm.20965
    A Riemannian Framework for Tensor Computing (Pennec et al., 2006), section 3.
    https://doi.org/10.1007/s11263-005-3222-z
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from structdiff.domains.manifolds.matrices import matrix_exp, matrix_log
from structdiff.domains.manifolds.readers.table import Floats

__all__ = ["Frame", "fit_frame", "frame_from_state"]


class Frame(ABC):
    """A map of points that is undone."""

    @property
    @abstractmethod
    def log_scale(self) -> float:
        """log |dz / dx|."""

    @abstractmethod
    def encode(self, points: Floats) -> Floats:
        """Points of the data, `(N, *point)`, as the process sees them."""

    @abstractmethod
    def decode(self, points: Floats) -> Floats:
        """Undoes `encode`."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Its numbers, for JSON."""


class Plain(Frame):
    """As they are."""

    @property
    def log_scale(self) -> float:
        """None."""
        return 0.0

    def encode(self, points: Floats) -> Floats:
        """The identity."""
        return points

    def decode(self, points: Floats) -> Floats:
        """The identity."""
        return points

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}


@dataclass(frozen=True, eq=False)
class Standardised(Frame):
    """Numbers by mean and standard deviation, `(d,)` each."""

    mean: Floats
    deviation: Floats

    @property
    def log_scale(self) -> float:
        """The sum of -log s."""
        return float(-np.log(self.deviation).sum())

    def encode(self, points: Floats) -> Floats:
        """(x - m) / s."""
        return (points - self.mean) / self.deviation

    def decode(self, points: Floats) -> Floats:
        """m + s z."""
        return self.mean + self.deviation * points

    def state(self) -> dict[str, Any]:
        """Both."""
        return {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}


@dataclass(frozen=True, eq=False)
class Whitened(Frame):
    """Matrices by the congruence that takes exp(M) to the identity; `(n, n)`."""

    mean: Floats

    @property
    def log_scale(self) -> float:
        """None: it is an isometry."""
        return 0.0

    def encode(self, points: Floats) -> Floats:
        """exp(-M / 2) X exp(-M / 2)."""
        return _congruence(matrix_exp(-self.mean / 2), points)

    def decode(self, points: Floats) -> Floats:
        """exp(M / 2) Z exp(M / 2)."""
        return _congruence(matrix_exp(self.mean / 2), points)

    def state(self) -> dict[str, Any]:
        """M."""
        return {"mean": self.mean.tolist()}


def _congruence(a: Floats, points: Floats) -> Floats:
    moved = a @ points @ a
    return np.asarray((moved + np.swapaxes(moved, -1, -2)) / 2)


@dataclass(frozen=True, eq=False)
class Centred(Frame):
    """Matrices by the mean and the spread of their logarithms."""

    mean: Floats
    deviation: float

    @property
    def log_scale(self) -> float:
        """-n (n + 1) / 2 log s."""
        n = len(self.mean)
        return float(-n * (n + 1) / 2 * np.log(self.deviation))

    def encode(self, points: Floats) -> Floats:
        """exp((log X - M) / s)."""
        return matrix_exp((matrix_log(points) - self.mean) / self.deviation)

    def decode(self, points: Floats) -> Floats:
        """exp(M + s log Z)."""
        return matrix_exp(self.mean + self.deviation * matrix_log(points))

    def state(self) -> dict[str, Any]:
        """Both."""
        return {"mean": self.mean.tolist(), "deviation": self.deviation}


def fit_frame(space: str, points: Floats, columns: str) -> Frame:
    """The frame of points of a space.

    Arguments:
        space: A spec, see `space_of`.
        points: `(N, *point)`, at least one.
        columns: What errors call them.

    Raises:
        ValueError: If a column never changes.
    """
    family = space.partition(":")[0]
    if family == "euclidean":
        mean, deviation = points.mean(0), points.std(0)
        _varies(deviation > 1e-9 * np.abs(mean) + 1e-150, columns)
        return Standardised(mean, deviation)
    if family not in ("spd", "log-euclidean"):
        return Plain()
    logs = matrix_log(points)
    mean = logs.mean(0)
    if family == "spd":
        return Whitened(mean)
    n = len(mean)
    spread = float(np.sqrt(2 * np.square(logs - mean).sum((1, 2)).mean() / (n * (n + 1))))
    _varies(np.array([spread > 1e-9]), columns)
    return Centred(mean, spread)


def _varies(changes: Any, columns: str) -> None:
    if not np.all(changes):
        place = "" if len(changes) == 1 else f" (number {int(np.argmin(changes)) + 1} of them)"
        msg = f"{columns}: a column{place} has one value in all rows for training: leave it out"
        raise ValueError(msg)


def frame_from_state(space: str, state: Mapping[str, Any]) -> Frame:
    """From what `state` gave.

    Raises:
        ValueError: If it is not that of a frame of this space.
    """
    family, _, size = space.partition(":")
    keys = {
        "euclidean": {"mean", "deviation"},
        "spd": {"mean"},
        "log-euclidean": {"mean", "deviation"},
    }.get(family, set())
    if not isinstance(state, Mapping) or set(state) != keys:
        msg = f"the frame of {space} must have {sorted(keys) or 'nothing'}"
        raise ValueError(msg)
    if not keys:
        return Plain()
    n = int(size)
    mean = _numbers(state["mean"], (n,) if family == "euclidean" else (n, n), "mean")
    if family == "euclidean":
        deviation = _numbers(state["deviation"], (n,), "deviation")
    elif family == "log-euclidean":
        deviation = _numbers(state["deviation"], (), "deviation")
    else:
        deviation = np.ones(1)
    if not (deviation > 0).all():
        msg = "deviation must be positive"
        raise ValueError(msg)
    if family == "euclidean":
        return Standardised(mean, deviation)
    if np.abs(mean - mean.T).max() > 1e-9 * (1 + np.abs(mean).max()) or np.abs(mean).max() > 600:
        msg = "mean must be a symmetric matrix of logarithms"
        raise ValueError(msg)
    return Whitened(mean) if family == "spd" else Centred(mean, float(deviation))


def _numbers(value: Any, shape: tuple[int, ...], name: str) -> Floats:
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.zeros(0, object)
    if array.shape != shape or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        msg = f"{name} must be finite numbers of shape {shape}"
        raise ValueError(msg)
    return array.astype(np.float64)
