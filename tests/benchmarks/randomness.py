"""What noise by address costs: `Counter` beside torch's generator, CPU time of one thread.

The floor is `torch.randn` (`torch.rand` for uniform numbers) with a generator of its own, in the
same shape and precision. `Counter` is scoped to a leaf, a step, ids and a layout inside the clock,
as a sampler does it; "no layout" is the bare source.

    OMP_NUM_THREADS=1 python tests/benchmarks/randomness.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from timing import Contestant, ratios, table, where

from structdiff import Layout
from structdiff.counter import Counter

SHAPES = {"1e6": (1_000_000,), "1000x1000": (1000, 1000), "1000x3": (1000, 3)}
DRAWS = 5


def contestants(shape: Sequence[int], dtype: torch.dtype) -> dict[str, Contestant]:
    """The generator's numbers and ours."""
    generator, source = torch.Generator(), Counter(0)
    layout, ids = Layout.regular(shape[0]), torch.arange(shape[0])

    def scoped() -> Counter:
        return source.scoped(leaf="x", step=1, ids=ids, layout=layout)

    walks = {
        "torch.randn": lambda: torch.randn(shape, generator=generator, dtype=dtype),
        "torch.rand": lambda: torch.rand(shape, generator=generator, dtype=dtype),
        "Counter normal": lambda: scoped().normal(shape, dtype, "cpu"),
        "Counter normal, no layout": lambda: source.normal(shape, dtype, "cpu"),
        "Counter uniform": lambda: scoped().uniform(shape, dtype, "cpu"),
    }
    return {
        name: Contestant(lambda _, draw=draw: [draw() for _ in range(DRAWS)][-1], DRAWS)
        for name, draw in walks.items()
    }


def main() -> None:
    """Print a table for each precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="CPU time of a turn")
    options = parser.parse_args()
    print(where())
    for dtype in (torch.float32, torch.float64):
        columns = {
            name: ratios(
                contestants(shape, dtype),
                "torch.randn",
                rounds=options.rounds,
                seconds=options.seconds,
            )
            for name, shape in SHAPES.items()
        }
        print(f"\n{dtype}\n\n{table(columns)}")
        micro = {n: f"{1e6 * c['torch.randn'].seconds:.1f} us" for n, c in columns.items()}
        print(f"\nthe floor itself: {micro}")


if __name__ == "__main__":
    main()
