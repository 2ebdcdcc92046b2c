"""How well are molecules completed around a part that is given?

The part is an atom of a test molecule of QM9 and its nearest, half of them; the molecule drawn
around it has as many atoms as the one that it is from. The run was trained with
`--loss.given 0.5`; its weights are also used by replacement and RePaint, as if it had not been.

    structdiff train molecules --data qm9 --loss.given 0.5 --training.steps 12000 --out runs/given
    python tests/benchmarks/given.py runs/given
"""

from __future__ import annotations

import argparse

import numpy as np

from structdiff.domains.molecules import Run, Structures
from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.readers.sources import qm9_split
from structdiff.likelihood import ratio


def halves(molecules: Structures) -> list[Structures]:
    """Of each molecule its first atom and the nearest ones, half of all."""
    parts = []
    for number, position in molecules:
        gaps = np.linalg.norm(position - position[0], axis=1)
        near = np.argsort(gaps, kind="stable")[: len(number) // 2]
        parts.append(Structures.from_list([(number[near], position[near])]))
    return parts


def untrained(run: Run) -> Run:
    """The same weights as if no part had been given in training."""
    loss = run.config.loss.model_copy(update={"given": 0.0})
    config = run.config.model_copy(update={"loss": loss})
    return Run(run.folder, config, run.codec, run.denoiser)


def percent(rates: list[float]) -> str:
    """A rate with its 95 % interval over molecules."""
    value, low, high = (100 * x for x in ratio(rates))
    return f"{value:5.1f} [{low:.1f}, {high:.1f}] %"


def main() -> None:
    """Draw around each part in three ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--parts", type=int, default=40)
    parser.add_argument("--each", type=int, default=5)
    arguments = parser.parse_args()
    run = Run.load(arguments.run)
    test = read("qm9").structures.select(qm9_split().test[: arguments.parts])
    cores = halves(test)
    ways: dict[str, tuple[Run, dict[str, int]]] = {
        "given, as trained": (run, {}),
        "RePaint, 5 repeats": (untrained(run), {"repaint": 5}),
        "replacement": (untrained(run), {}),
    }
    for name, (model, settings) in ways.items():
        valid, whole, off = [], [], 0.0
        for m, core in enumerate(cores):
            drawn = model.sample(
                arguments.each,
                sizes=[int(test.count[m])],
                given=core,
                seed=m,
                progress=False,
                **settings,
            )
            valid += [float(v.valid) for v in drawn.verdicts]
            whole += [float(v.valid and v.connected) for v in drawn.verdicts]
            kept = [drawn.structures.molecule(i)[1] for i in range(len(drawn))]
            off = max(off, *(np.abs(x[: len(core.position)] - core.position).max() for x in kept))
        print(f"{name:20} valid {percent(valid)}, in one piece {percent(whole)}, off {off:.1e} A")


if __name__ == "__main__":
    main()
