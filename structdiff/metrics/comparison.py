"""Drawn samples beside real ones, in the features of one extractor, with the protocol.

A number is told with its standard error, with that of as many real samples, and with what it
follows from: the features, the numbers of samples, how good the judge is. `Judge` is an extractor;
so is any callable, wrapped in `Extracted`, as a network that is known elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from structdiff.likelihood.intervals import Interval, ratio
from structdiff.metrics.frechet import Measured, frechet
from structdiff.metrics.judge import Judge, logits
from structdiff.metrics.kernel import kernel_distance
from structdiff.metrics.precision import overlap

__all__ = [
    "Comparison",
    "Extracted",
    "Extractor",
    "Line",
    "accuracy",
    "compared",
    "extracted",
    "pooled",
    "told",
]

_TOGETHER = 256


class Extractor(Protocol):
    """What distances are measured in."""

    def features(self, x: Tensor) -> Tensor:
        """Features `(samples, features)` of fields."""
        ...

    def about(self) -> str:
        """What it is, in words."""
        ...


@dataclass(frozen=True)
class Extracted:
    """A callable as an extractor.

    Arguments:
        call: From fields `(samples, *event)` to features; all but the first axis is flattened.
        name: What it is, in words.
    """

    call: Callable[[Tensor], Tensor]
    name: str

    def features(self, x: Tensor) -> Tensor:
        """Features `(samples, features)` of fields."""
        return self.call(x).flatten(1)

    def about(self) -> str:
        """What it is, in words."""
        return self.name


def pooled(cells: int = 8) -> Extracted:
    """The means of at most so many cells along each axis: what there is without classes.

    Arguments:
        cells: Along each axis.
    """

    def call(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, (min(cells, x.shape[2]), min(cells, x.shape[3])))

    return Extracted(call, f"brightness of at most {cells} x {cells} cells (no classifier)")


class Line(NamedTuple):
    """A measure of drawn samples, and what as many real ones get."""

    name: str
    drawn: Measured
    real: Measured


@dataclass(frozen=True)
class Comparison:
    """Measures and what they follow from.

    Arguments:
        lines: The measures.
        protocol: Name to words.
    """

    lines: tuple[Line, ...]
    protocol: dict[str, str]

    def rows(self) -> list[list[str]]:
        """A table, the head first."""
        head = ["measure", "drawn", "as many real ones"]
        return [head, *([line.name, told(line.drawn), told(line.real)] for line in self.lines)]

    def numbers(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """All of them, for JSON."""
        return {
            line.name: {"drawn": _plain(line.drawn), "real": _plain(line.real)}
            for line in self.lines
        }


def told(value: Measured | Interval) -> str:
    """A number and its error, or the ends of its interval, in words.

    Example:
        >>> told(Measured(1.25, 0.021)), told(Interval(0.95, 0.9, 0.975))
        ('1.25 +- 0.021', '0.95 [0.9, 0.975]')
    """
    if isinstance(value, Interval):
        return f"{value.value:.4g} [{value.low:.4g}, {value.high:.4g}]"
    error = f" +- {value.error:.2g}" if math.isfinite(value.error) else ""
    return f"{value.value:.4g}{error}"


def _plain(value: Measured) -> dict[str, float | None]:
    return {name: each if math.isfinite(each) else None for name, each in value._asdict().items()}


@torch.no_grad()
def extracted(extractor: Extractor, x: Tensor) -> Tensor:
    """Features of many fields, in pieces, on the CPU.

    Raises:
        ValueError: If they are no vectors.
    """
    found = [extractor.features(part).float().cpu() for part in torch.split(x, _TOGETHER)]
    if any(part.ndim != 2 for part in found):
        msg = f"features must be (samples, features), got {tuple(found[0].shape)}"
        raise ValueError(msg)
    return torch.cat(found)


def compared(
    extractor: Extractor,
    drawn: Tensor,
    reference: Tensor,
    real: Tensor,
    *,
    neighbours: int = 5,
    seed: int = 0,
) -> Comparison:
    """Frechet and kernel distances, precision, recall, density and coverage.

    Arguments:
        extractor: What they are measured in.
        drawn: Fields of a model, `(samples, *event)`.
        reference: Real ones that both are compared with.
        real: Other real ones, for the baseline; as many are taken as are drawn, if there are.
        neighbours: Of the balls of precision and recall, fewer where samples are few.
        seed: Start of the resampling.

    Raises:
        ValueError: If there are fewer than three of either.
    """
    if min(len(drawn), len(reference), len(real)) < 3:
        has = f"{len(drawn)} drawn, {len(reference)} and {len(real)} real"
        msg = f"at least 3 samples of each are needed, got {has}: draw more"
        raise ValueError(msg)
    x, y, z = (extracted(extractor, part) for part in (drawn, reference, real[: len(drawn)]))
    near = min(neighbours, len(x) - 1, len(y) - 1, len(z) - 1)
    made, other = _measures(x, y, near, seed), _measures(z, y, near, seed)
    protocol = {
        "features": f"{x.shape[1]} numbers of {extractor.about()}",
        "samples": f"{len(x):,} drawn, against {len(y):,} real ones; beside, {len(z):,} others",
        "neighbours": str(near),
    }
    lines = tuple(Line(name, made[name], other[name]) for name in made)
    return Comparison(lines, protocol)


def _measures(x: Tensor, y: Tensor, neighbours: int, seed: int) -> dict[str, Measured]:
    around = overlap(x, y, neighbours)
    return {
        "Frechet distance": frechet(x, y, seed=seed),
        "kernel distance": kernel_distance(x, y),
        **around._asdict(),
    }


def accuracy(judge: Judge, x: Tensor, labels: Sequence[int] | NDArray[np.int64]) -> Interval:
    """How often the judge says the class that was asked for, with its interval.

    Arguments:
        judge: The classifier.
        x: Fields, `(samples, *event)`.
        labels: Number of the class of each.

    Raises:
        ValueError: If there are not as many labels as fields.
    """
    asked = np.asarray(labels)
    if asked.shape != (len(x),) or not len(x):
        msg = f"labels must be ({len(x)},), one a sample, got {asked.shape}"
        raise ValueError(msg)
    guess = logits(judge, x).argmax(1).cpu().numpy()
    return ratio((guess == asked).astype(np.float64))
