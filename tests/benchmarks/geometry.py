"""Speed of exp, log and a step of a random walk, beside other libraries.

A step draws normal numbers, makes a tangent vector of them and follows its geodesic. Other
libraries get ambient normal numbers projected to the tangent space, which is less work than
Brownian motion needs on the hyperboloid, the ball and positive definite matrices. Libraries that
compute in float32 are compared with ours in float32; geomstats and scipy in their float64.
Before it is timed, every library's exp of its log must bring x to y.

    OMP_NUM_THREADS=1 python tests/benchmarks/geometry.py [--spaces S2 T7] [--rows 1000]

Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from timing import Contestant, Ratio, ratios, where
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import SO3, Torus
from structdiff.spaces.base import Manifold
from structdiff.spaces.hyperbolic import Hyperbolic, PoincareBall
from structdiff.spaces.spd import SPD
from structdiff.spaces.sphere import Sphere

STEP = 0.1


@dataclass(frozen=True)
class Peer:
    """How a library walks on a space; `lift` makes its points of ours and `lower` ours of its.

    Arguments:
        exp: Of a point and a tangent vector in its own coordinates.
        log: Of two points.
        noise: A tangent vector at a point, of normal numbers.
        dtype: What it computes in.
        few: Whether `log` is timed on 100 rows only, being a loop over them.
    """

    exp: Callable[[Any, Any], Any]
    log: Callable[[Any, Any], Any]
    noise: Callable[[Any], Any]
    lift: Callable[[Tensor], Any] = lambda x: x
    lower: Callable[[Any], Tensor] = lambda x: x
    dtype: torch.dtype = torch.float32
    few: bool = False


def geomstats(backend: str) -> Any:
    """geomstats on a backend; it is imported anew, so that two backends serve one process."""
    for name in [name for name in sys.modules if name.split(".")[0] == "geomstats"]:
        del sys.modules[name]
    sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "BackendImporter"]
    os.environ["GEOMSTATS_BACKEND"] = backend
    names = {
        "Hyperboloid": "hyperboloid",
        "Hypersphere": "hypersphere",
        "PoincareBall": "poincare_ball",
        "SPDMatrices": "spd_matrices",
        "SpecialOrthogonal": "special_orthogonal",
    }
    before = torch.get_default_dtype()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {
            name: getattr(importlib.import_module(f"geomstats.geometry.{module}"), name)
            for name, module in names.items()
        }
    torch.set_default_dtype(before)
    return SimpleNamespace(**found)


def of_geomstats(name: str, *arguments: int, few: bool = False) -> Iterator[tuple[str, Peer]]:
    """The manifold of geomstats on both backends."""
    if importlib.util.find_spec("geomstats") is None:
        return
    for backend in ("pytorch", "numpy"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        manifold = getattr(geomstats(backend), name)(*arguments)
        torch.set_default_dtype(before)
        source = np.random.default_rng(0)
        plain = backend == "numpy"
        yield (
            f"geomstats ({backend})",
            Peer(
                exp=lambda x, u, m=manifold: m.metric.exp(u, x),
                log=lambda x, y, m=manifold: m.metric.log(y, x),
                noise=lambda x, m=manifold, plain=plain, source=source: m.to_tangent(
                    STEP * (source.standard_normal(x.shape) if plain else torch.randn_like(x)), x
                ),
                lift=(lambda x: x.numpy()) if plain else (lambda x: x),
                lower=torch.as_tensor,
                dtype=torch.float64,
                few=few,
            ),
        )


def of_geoopt(make: Callable[[Any], Any]) -> Iterator[tuple[str, Peer]]:
    """The manifold of geoopt."""
    if importlib.util.find_spec("geoopt") is None:
        return
    manifold = make(importlib.import_module("geoopt"))
    yield (
        "geoopt",
        Peer(
            exp=manifold.expmap,
            log=manifold.logmap,
            noise=lambda x: manifold.proju(x, STEP * torch.randn_like(x)),
        ),
    )


def of_flow_matching(name: str) -> Iterator[tuple[str, Peer]]:
    """The manifold of flow-matching."""
    if importlib.util.find_spec("flow_matching") is None:
        return
    manifold = getattr(importlib.import_module("flow_matching.utils.manifolds"), name)()
    yield (
        "flow-matching",
        Peer(
            exp=manifold.expmap,
            log=manifold.logmap,
            noise=lambda x: manifold.proju(x, STEP * torch.randn_like(x)),
        ),
    )


def of_roma() -> Iterator[tuple[str, Peer]]:
    """Products of matrices with rotation vectors of roma."""
    if importlib.util.find_spec("roma") is None:
        return
    roma = importlib.import_module("roma")
    yield (
        "roma",
        Peer(
            exp=lambda x, u: x @ roma.rotvec_to_rotmat(u),
            log=lambda x, y: roma.rotmat_to_rotvec(x.mT @ y),
            noise=lambda x: STEP * torch.randn(len(x), 3, dtype=x.dtype),
        ),
    )


def of_scipy() -> Iterator[tuple[str, Peer]]:
    """Products of numpy matrices with scipy's rotation vectors, and scipy's own products."""
    from scipy.spatial.transform import Rotation

    source = np.random.default_rng(0)
    yield (
        "scipy (matrices)",
        Peer(
            exp=lambda x, u: x @ Rotation.from_rotvec(u).as_matrix(),
            log=lambda x, y: Rotation.from_matrix(x.transpose(0, 2, 1) @ y).as_rotvec(),
            noise=lambda x: STEP * source.standard_normal((len(x), 3)),
            lift=lambda x: x.numpy(),
            lower=torch.as_tensor,
            dtype=torch.float64,
        ),
    )
    yield (
        "scipy (Rotation)",
        Peer(
            exp=lambda x, u: x * Rotation.from_rotvec(u),
            log=lambda x, y: (x.inv() * y).as_rotvec(),
            noise=lambda x: STEP * source.standard_normal((len(x), 3)),
            lift=lambda x: Rotation.from_matrix(x.numpy()),
            lower=lambda x: torch.as_tensor(x.as_matrix()),
            dtype=torch.float64,
        ),
    )


def eigen(x: Tensor) -> Tensor:
    """Two batched eigendecompositions: the floor of exp and log of matrices."""
    return torch.linalg.eigh(x)[1] + torch.linalg.eigh(x)[1]


SPACES: dict[str, tuple[Manifold, Callable[[], list[tuple[str, Peer]]]]] = {
    "S2": (
        Sphere(2),
        lambda: [
            *of_geoopt(lambda g: g.Sphere()),
            *of_flow_matching("Sphere"),
            *of_geomstats("Hypersphere", 2),
        ],
    ),
    "S7": (
        Sphere(7),
        lambda: [
            *of_geoopt(lambda g: g.Sphere()),
            *of_flow_matching("Sphere"),
            *of_geomstats("Hypersphere", 7),
        ],
    ),
    "T7": (Torus(7), lambda: [*of_flow_matching("FlatTorus")]),
    "SO3": (
        SO3(),
        lambda: [*of_roma(), *of_scipy(), *of_geomstats("SpecialOrthogonal", 3, few=True)],
    ),
    "H2": (
        Hyperbolic(2),
        lambda: [*of_geoopt(lambda g: g.Lorentz()), *of_geomstats("Hyperboloid", 2)],
    ),
    "H2 ball": (
        PoincareBall(2),
        lambda: [*of_geoopt(lambda g: g.PoincareBall()), *of_geomstats("PoincareBall", 2)],
    ),
    "SPD3": (
        SPD(3),
        lambda: [
            *of_geoopt(lambda g: g.SymmetricPositiveDefinite()),
            *of_geomstats("SPDMatrices", 3),
        ],
    ),
}


def points(space: Manifold, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Points around the origin, tangent vectors, and what exp makes of them."""
    start = space.origin(dtype, "cpu").expand(rows, *space.point)
    x = space.project(space.exp(start, 0.7 * space.noise(start, Generator(0))))
    v = 0.5 * space.noise(x, Generator(1))
    return x, v, space.project(space.exp(x, v))


def ours(space: Manifold, rows: int, dtype: torch.dtype) -> dict[str, Contestant]:
    """By operation; the unit of work is a row."""
    x, v, y = points(space, rows, dtype)
    random = Generator(2)
    return {
        "exp": Contestant(lambda _: space.exp(x, v), rows),
        "log": Contestant(lambda _: space.log(x, y), rows),
        "walk": Contestant(lambda _: space.exp(x, STEP * space.noise(x, random)), rows),
    }


def theirs(space: Manifold, peer: Peer, rows: int) -> dict[str, Contestant]:
    """By operation, after a look at whether it is the same one."""
    x, _, y = points(space, rows, peer.dtype)
    start = peer.lift(x)
    count = min(rows, 100) if peer.few else rows
    some, others = peer.lift(x[:count]), peer.lift(y[:count])
    way = peer.log(some, others)
    found = peer.lower(peer.exp(some, way)).to(peer.dtype).reshape(x[:count].shape)
    off = space.distance(space.project(found), y[:count]).max().item()
    limit = 2e-2 if peer.dtype == torch.float32 else 1e-5
    if not off < limit:
        print(f"  (exp(log) of the peer misses by up to {off:.2g})", file=sys.stderr)
    step = peer.noise(start)
    return {
        "exp": Contestant(lambda _: peer.exp(start, step), rows),
        "log": Contestant(lambda _: peer.log(some, others), count),
        "walk": Contestant(lambda _: peer.exp(start, peer.noise(start)), rows),
    }


def measure(name: str, rows: int, rounds: int) -> Iterator[tuple[str, dict[str, Ratio]]]:
    """For each operation, the time of each library over ours in the same dtype."""
    space, make = SPACES[name]
    peers = dict(make())
    found: dict[str, dict[str, Ratio]] = {}
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)  # geomstats fails with another one than its own
        same = {label: peer for label, peer in peers.items() if peer.dtype == dtype}
        here = ours(space, rows, dtype)
        there = {label: theirs(space, peer, rows) for label, peer in same.items()}
        matrices = points(space, rows, dtype)[0]
        for operation, mine in here.items():
            contestants = {"structdiff": mine}
            contestants |= {label: walks[operation] for label, walks in there.items()}
            if name == "SPD3" and operation != "walk" and dtype == torch.float32:
                contestants["two eigh"] = Contestant(lambda _, x=matrices: eigen(x), rows)
            if len(contestants) > 1:
                cells = ratios(contestants, "structdiff", rounds=rounds, seconds=0.05)
                found.setdefault(operation, {}).update(cells)
    torch.set_default_dtype(torch.float32)
    yield from found.items()


def bar(space: str, peer: str) -> float:
    """The least ratio that is asked for."""
    if peer.startswith("geomstats"):
        return 5
    if peer == "geoopt" and space != "SPD3":
        return 1.5
    if peer.startswith("scipy"):
        return 3
    return 1 if peer == "two eigh" else 1 / 1.15


def main(arguments: argparse.Namespace) -> None:
    """Print a table per number of rows and what misses its bar."""
    print(f"{where()}\n")
    for rows in arguments.rows:
        table: dict[str, dict[str, Ratio]] = {}
        for name in arguments.spaces:
            for operation, cells in measure(name, rows, arguments.rounds):
                table[f"{name} {operation}"] = cells
        columns = list(dict.fromkeys(label for row in table.values() for label in row))[1:]
        columns.sort()
        print(f"**{rows:,} rows**: CPU time per row over ours, median round (lowest to highest)\n")
        print("| | ours, ns per row (float32) | " + " | ".join(columns) + " |")
        print("|---|---|" + "---|" * len(columns))
        missed = []
        for label, cells in table.items():
            space = label.rsplit(" ", 1)[0]
            line = []
            for column in columns:
                cell = cells.get(column)
                if cell is None:
                    line.append("-")
                    continue
                short = cell.median < bar(space, column)
                mark = "**" if short else ""
                line.append(f"{mark}{cell.median:.2f}{mark} ({cell.low:.2f} to {cell.high:.2f})")
                if short:
                    missed.append(
                        f"{label}: {column} {cell.median:.2f} < {bar(space, column):.2f}"
                    )
            own = cells["structdiff"].seconds * 1e9
            own = own if math.isfinite(own) else math.nan
            print(f"| {label} | {own:.0f} | " + " | ".join(line) + " |", flush=True)
        print("\nBelow its bar (bold): " + ("; ".join(missed) or "none") + "\n")


def parse() -> argparse.Namespace:
    """Which spaces, how many rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spaces", nargs="+", choices=list(SPACES), default=list(SPACES))
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 1_000])
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main(parse())
