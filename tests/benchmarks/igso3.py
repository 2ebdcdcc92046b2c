r"""Kernels of SO(3) and S^2: what their score and draws cost.

The published approach to the kernel of SO(3) (FrameDiff and its successors) evaluates the
truncated series over characters

    f(w) = sum_{l = 0}^{L} (2 l + 1) exp(-l (l + 1) tau / 2) sin((l + 1/2) w) / sin(w / 2)

with L = 1,000 on a table of 1,000 times and 1,000 angles, takes the derivative of log f from the
same sums, and looks both up: the score at the nearest entry of the time and by linear
interpolation in the angle, a draw by the inverse of the cumulative sum of f (1 - cos w) / pi. It
is written here from the formula, the sums as matrix products. Beside its speed stands its error
against ours in float64, which the tests hold against mpmath.

    OMP_NUM_THREADS=1 python tests/benchmarks/igso3.py [--rows 1000000]
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from timing import Contestant, ratios, table, where
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import SO3
from structdiff.spaces.sphere import Sphere

TERMS, TIMES, ANGLES = 1000, 1000, 1000
FIRST, LAST = 0.1, 1.5
"""Standard deviations of the table: sqrt(tau), as published."""


class Table:
    """The series on a grid."""

    def __init__(self) -> None:
        sigma = torch.logspace(math.log10(FIRST), math.log10(LAST), TIMES, dtype=torch.float64)
        self.log_sigma = sigma.log()
        self.angles = torch.linspace(0, math.pi, ANGLES + 1, dtype=torch.float64)[1:]
        degree = torch.arange(TERMS + 1, dtype=torch.float64)
        sine = torch.sin((degree[:, None] + 0.5) * self.angles)
        cosine = torch.cos((degree[:, None] + 0.5) * self.angles)
        decay = torch.exp(-degree * (degree + 1) * sigma[:, None].square() / 2) * (2 * degree + 1)
        half = self.angles / 2
        series = decay @ sine / torch.sin(half)
        slope = (decay * (degree + 0.5)) @ cosine / torch.sin(half)
        slope = slope - series * torch.cos(half) / (2 * torch.sin(half))
        # In the tail what is left of the sums is rounding.
        self.slope = (slope / series.clamp(min=1e-9)).float()
        weight = (series * (1 - torch.cos(self.angles)) / math.pi).clamp(min=0)
        self.below = (weight.cumsum(1) / weight.sum(1, keepdim=True)).float()
        self.angles, self.log_sigma = self.angles.float(), self.log_sigma.float()

    def row(self, tau: Tensor) -> Tensor:
        """The nearest time."""
        step = (self.log_sigma[-1] - self.log_sigma[0]) / (TIMES - 1)
        place = (tau.log() / 2 - self.log_sigma[0]) / step
        return place.round().long().clamp(0, TIMES - 1)

    def score(self, way: Tensor, tau: Tensor) -> Tensor:
        """The gradient of log f where `way` is the rotation vector."""
        angle = way.norm(dim=-1).clamp(min=1e-6)
        place = angle * (ANGLES / math.pi) - 1
        low = place.long().clamp(0, ANGLES - 2)
        share = place - low
        row = self.row(tau)
        slope = torch.lerp(self.slope[row, low], self.slope[row, low + 1], share)
        return (slope / angle)[:, None] * way

    def draw(self, rows: int, tau: Tensor) -> Tensor:
        """Rotation vectors; `tau` of shape ()."""
        below = self.below[self.row(tau)]
        uniform = torch.rand(rows)
        high = torch.searchsorted(below, uniform).clamp(1, ANGLES - 1)
        share = (uniform - below[high - 1]) / (below[high] - below[high - 1]).clamp(min=1e-12)
        angle = torch.lerp(self.angles[high - 1], self.angles[high], share)
        axis = torch.randn(rows, 3)
        return (angle / axis.norm(dim=-1))[:, None] * axis


def series(way: Tensor, tau: Tensor, terms: int) -> Tensor:
    """The score by the series at every row, in chunks: what the table spares."""
    parts = []
    degree = torch.arange(terms + 1, dtype=way.dtype)
    for some, t in zip(way.split(2000), tau.split(2000), strict=True):
        angle = some.norm(dim=-1).clamp(min=1e-4)
        phase = (degree + 0.5) * angle[:, None]
        weight = torch.exp(-degree * (degree + 1) * t[:, None] / 2) * (2 * degree + 1)
        total = (weight * torch.sin(phase)).sum(1)
        slope = (weight * (degree + 0.5) * torch.cos(phase)).sum(1) / total
        slope = slope - 0.5 / torch.tan(angle / 2)
        parts.append((slope / angle)[:, None] * some)
    return torch.cat(parts)


def rotations(rows: int, rounds: int) -> None:
    """Score and draw of SO(3)."""
    space = SO3()
    begin = time.process_time()
    looked = Table()
    spent = time.process_time() - begin
    x = space.uniform(rows, Generator(0), torch.float32, "cpu")
    tau = FIRST * (LAST / FIRST) ** Generator(1).uniform((rows,), torch.float32, "cpu")
    tau = tau.square()
    y = space.diffuse(x, tau, Generator(2))
    way, one = space.log(x, y), torch.tensor(0.3)
    random = Generator(3)
    few = min(rows, 10_000)
    score = {
        "structdiff SO3.score (with log)": Contestant(lambda _: space.score(x, y, tau), rows),
        "table look-up (log not counted)": Contestant(lambda _: looked.score(way, tau), rows),
        "series of 1,000 terms, no table": Contestant(
            lambda _: series(way[:few], tau[:few], TERMS), few
        ),
        "SO3.log alone": Contestant(lambda _: space.log(x, y), rows),
        "SO3.exp alone": Contestant(lambda _: space.exp(x, way), rows),
    }
    draws = {
        "structdiff SO3.diffuse": Contestant(lambda _: space.diffuse(x, one, random), rows),
        "table, then SO3.exp": Contestant(lambda _: space.exp(x, looked.draw(rows, one)), rows),
        "SO3.exp alone": Contestant(lambda _: space.exp(x, way), rows),
    }
    floors = list(score)[0], list(draws)[0]
    columns = {
        "score": ratios(score, floors[0], rounds=rounds),
        "draw": ratios(draws, floors[1], rounds=rounds),
    }
    print(f"**SO(3), {rows:,} rotations**: time per rotation over ours\n\n{table(columns)}\n")
    cells = columns["score"]
    own = cells[floors[0]].seconds * rows
    theirs = spent + cells["table look-up (log not counted)"].seconds * rows
    print(f"Made in {spent:.1f} s of CPU, the table and {rows:,} look-ups take {theirs / own:.1f}")
    print(f"times as long as our {rows:,} scores.\n")
    errors(space, looked)


def errors(space: SO3, looked: Table) -> None:
    """How far the look-up is off."""
    print("Slope of log f:\n\n| sigma | angle | table | truth | off by |\n|---|---|---|---|---|")
    for sigma, angle in _PLACES:
        way = torch.tensor([[0.0, 0.0, angle]])
        tau = torch.tensor([sigma**2])
        x = torch.eye(3, dtype=torch.float64)[None]
        truth = space.score(x, space.exp(x, way.double()), tau.double())[0, 2].item()
        found = looked.score(way, tau)[0, 2].item()
        off = abs(found / truth - 1)
        print(f"| {sigma} | {angle} | {found:.4g} | {truth:.4g} | {off:.1%} |")
    print()


_PLACES = [(0.1, 0.2), (0.1, 0.6), (0.1, 1.0), (0.3, 0.5), (0.3, 1.5), (0.3, 3.0), (1.0, 1.5)]


def sphere(rows: int, rounds: int) -> None:
    """Score of S^2 over one exp."""
    space = Sphere(2)
    x = space.uniform(rows, Generator(0), torch.float32, "cpu")
    tau = Generator(1).uniform((rows,), torch.float32, "cpu") * 2 + 0.01
    y = space.exp(x, tau.sqrt()[:, None] * space.noise(x, Generator(2)))
    v = space.noise(x, Generator(3))
    contestants = {
        "exp": Contestant(lambda _: space.exp(x, v), rows),
        "score": Contestant(lambda _: space.score(x, y, tau), rows),
        "log_kernel": Contestant(lambda _: space.log_kernel(x, y, tau), rows),
        "log": Contestant(lambda _: space.log(x, y), rows),
    }
    found = ratios(contestants, "exp", rounds=rounds)
    print(f"**S^2, {rows:,} points**: time per point over one exp\n\n{table({'S^2': found})}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{where()}\n")
    rotations(arguments.rows, arguments.rounds)
    sphere(arguments.rows, arguments.rounds)


if __name__ == "__main__":
    main()
