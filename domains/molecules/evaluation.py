"""How good a model of molecules is: a table beside real molecules, pictures, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from structdiff.artifacts import write_atomic, write_json
from structdiff.domains.molecules.loading import load_data
from structdiff.domains.molecules.metrics import baselines, evaluate
from structdiff.domains.molecules.output import grid, trajectory, write
from structdiff.domains.molecules.report import Report, comparison
from structdiff.domains.molecules.run import Run
from structdiff.domains.molecules.sampling import Samples
from structdiff.domains.molecules.structures import Structures

__all__ = ["Evaluation", "evaluate_run"]


class Evaluation:
    """Reports by source, and where the files are.

    Arguments:
        reports: The model's report and those of the baselines, by name.
        samples: What the model drew.
        files: What was written.
    """

    def __init__(self, reports: dict[str, Report], samples: Samples, files: list[Path]) -> None:
        self.reports, self.samples, self.files = reports, samples, files

    def table(self) -> str:
        """All measures of all sources, Markdown."""
        return comparison(self.reports)


def evaluate_run(
    run: Run,
    molecules: int = 200,
    *,
    steps: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    say: Callable[[str], None] = print,
) -> Evaluation:
    """Draw molecules, measure them beside real ones, and write files and pictures.

    Real molecules, real ones with 0.02 and 0.05 Angstrom of noise, and real ones with shuffled
    elements say what a number is worth.

    Arguments:
        run: The model.
        molecules: How many to draw.
        steps: Calls of the network per molecule.
        seed: Start of the random numbers.
        out: Folder for what is written, `samples/` of the run by default.
        say: Where to report.
    """
    folder = out or run.folder.samples
    folder.mkdir(parents=True, exist_ok=True)
    data = load_data(run.config)
    frames: list[Structures] = []
    marks: list[float] = []
    total = steps or run.config.sampler.steps
    wanted = _marks(total)

    def watch(step: int, structures: Structures) -> None:
        if step in wanted:
            frames.append(structures.select(np.arange(min(3, len(structures)))))
            marks.append(1 - step / total)

    say(f"drawing {molecules} molecules with {total} steps each")
    samples = run.sample(molecules, steps=steps, seed=seed, watch=watch)
    say("measuring them beside real molecules")
    chosen = np.random.default_rng(0).permutation(len(data.reference))[: max(molecules, 1000)]
    real = data.reference.select(np.sort(chosen))
    reports = {"model": evaluate(samples.structures, data.train, reference=data.reference)}
    for name, structures in baselines(real, seed).items():
        reports[name] = evaluate(structures, data.train, reference=data.reference)
    files = _write(folder, samples, frames, marks)
    evaluation = Evaluation(reports, samples, files)
    write_atomic(folder / "evaluation.md", (evaluation.table() + "\n").encode())
    write_json(folder / "evaluation.json", {n: r.to_dict() for n, r in reports.items()})
    files += [folder / "evaluation.md", folder / "evaluation.json"]
    return evaluation


def _marks(total: int) -> set[int]:
    """Steps at which the trajectory is drawn, denser towards the end."""
    return {max(1, round(total * part)) for part in (0.05, 0.3, 0.5, 0.65, 0.8, 1.0)}


def _write(
    folder: Path, samples: Samples, frames: list[Structures], marks: list[float]
) -> list[Path]:
    """Molecules and pictures; files of an earlier evaluation are replaced."""
    files = []
    for suffix in (".sdf", ".xyz", ".smi"):
        path = folder / f"molecules{suffix}"
        files.append(write(path, samples.structures, samples.verdicts, overwrite=True).path)
    shown = np.arange(min(16, len(samples)))
    verdicts = [samples.verdicts[i] for i in shown.tolist()]
    picture = folder / "molecules.png"
    files.append(grid(samples.structures.select(shown), verdicts, picture, overwrite=True))
    if frames:
        files.append(trajectory(frames, marks, folder / "trajectory.png", overwrite=True))
    return files
