"""How good a model of molecules is: a page beside real molecules, pictures, files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

import structdiff
from structdiff.artifacts import write_json
from structdiff.domains.molecules.loading import Data, load_data
from structdiff.domains.molecules.measures.chemistry import ChemistryReport, chemistry_report
from structdiff.domains.molecules.metrics import baselines, evaluate
from structdiff.domains.molecules.output import write
from structdiff.domains.molecules.pictures import grid, trajectory
from structdiff.domains.molecules.reports.charts import histograms
from structdiff.domains.molecules.reports.chemistry import CHEMISTRY, pictures, section
from structdiff.domains.molecules.reports.report import (
    Report,
    comparison,
    comparison_rows,
)
from structdiff.domains.molecules.run import Run
from structdiff.domains.molecules.sampling import Samples
from structdiff.domains.molecules.structures import Structures
from structdiff.domains.molecules.tally import Tally, interval
from structdiff.reports.charts import curves
from structdiff.reports.page import (
    Block,
    Heading,
    Picture,
    Table,
    Words,
    write_page,
)
from structdiff.reports.tables import markdown_table

__all__ = ["Evaluation", "evaluate_run"]

_REAL = 1000  # real molecules that chemistry is compared with


class Evaluation:
    """Reports by source, and where the files are.

    Arguments:
        reports: The model's report and those of the baselines, by name.
        samples: What the model drew.
        files: What was written.
        chemistry: Its chemistry beside that of real molecules, if that was asked for.
    """

    def __init__(
        self,
        reports: dict[str, Report],
        samples: Samples,
        files: list[Path],
        chemistry: ChemistryReport | None = None,
    ) -> None:
        self.reports, self.samples, self.files = reports, samples, files
        self.chemistry = chemistry

    def table(self) -> str:
        """All measures of all sources, Markdown."""
        return comparison(self.reports)

    def protocols(self) -> list[tuple[str, str]]:
        """How each measure of the model was taken."""
        return [(row.name, row.protocol) for row in self.reports["model"].rows]

    def measures(self) -> str:
        """The table and the protocols, Markdown."""
        head = ("metric", "protocol")
        words = [self.table(), "In brackets: 95 % intervals."]
        words.append(markdown_table([head, *self.protocols()]))
        if self.chemistry is not None:
            words += [f"{CHEMISTRY}:", self.chemistry.table()]
            words.append(markdown_table([head, *self.chemistry.protocols()]))
        return "\n\n".join(words)


@dataclass(frozen=True)
class _Film:
    """Noisy molecules on their way, and the times they were seen at."""

    total: int
    frames: list[Structures] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def watch(self, step: int, structures: Structures) -> None:
        """Keep the first three molecules at some of the steps, denser towards the end."""
        marks = {max(1, round(self.total * part)) for part in (0.05, 0.3, 0.5, 0.65, 0.8, 1.0)}
        if step in marks:
            self.frames.append(structures.select(np.arange(min(3, len(structures)))))
            self.times.append(1 - step / self.total)


def evaluate_run(
    run: Run,
    molecules: int = 200,
    *,
    condition: Mapping[str, ArrayLike] | None = None,
    guidance: float | Mapping[str, float] | None = None,
    seed: int = 0,
    out: Path | None = None,
    source: Path | None = None,
    chemistry: bool = False,
    say: Callable[[str], None] = print,
) -> Evaluation:
    """Draw molecules, measure them beside real ones, and write a page, files and pictures.

    Real molecules, real ones with 0.02 and 0.05 Angstrom of noise, and real ones with shuffled
    elements say what a number is worth.

    Arguments:
        run: The model.
        molecules: How many to draw.
        condition: What is asked of them, as in `Run.sample`.
        guidance: Scale of the conditions, as in `Run.sample`.
        seed: Start of the random numbers.
        out: Folder for what is written, `samples/` of the run by default.
        source: Where the run's data lie, if not where its config says.
        chemistry: Whether to measure geometry, rings, properties, strain and fragments too (see
            `chemistry_report`), which takes some 0.1 s a molecule.
        say: Where to report.
    """
    folder = out or run.folder.samples
    data = load_data(run.config, None if source is None else str(source))
    film = _Film(run.config.sampler.steps)
    say(f"drawing {molecules} molecules with {film.total} steps each")
    samples = run.sample(
        molecules, condition=condition, guidance=guidance, seed=seed, watch=film.watch
    )
    folder.mkdir(parents=True, exist_ok=True)
    say("measuring them beside real molecules")
    chosen = np.random.default_rng(0).permutation(len(data.reference))[: max(molecules, 1000)]
    real = data.reference.select(np.sort(chosen))
    reports = {"model": evaluate(samples.structures, data.train, reference=data.reference)}
    for name, structures in baselines(real, seed).items():
        reports[name] = evaluate(structures, data.train, reference=data.reference)
    chemical = _chemistry(samples, data, seed, say) if chemistry else None
    files = [*_molecules(folder, samples), *_pictures(folder, run, samples, data, film)]
    files += pictures(folder, chemical)
    evaluation = Evaluation(reports, samples, files, chemical)
    settings = _settings(run, molecules, condition, guidance, seed)
    blocks = _blocks(run, evaluation, settings, folder)
    title = f"Evaluation of {run.folder.path.resolve().name}"
    tally = Tally.of(samples.verdicts, len(samples))
    numbers: dict[str, object] = {name: report.to_dict() for name, report in reports.items()}
    numbers |= {"settings": dict(settings), "reasons": tally.counts()["reasons"]}
    if chemical is not None:
        numbers["chemistry"] = {name: each.to_dict() for name, each in chemical.reports.items()}
    files += write_page(folder, title, blocks)
    write_json(folder / "evaluation.json", numbers)
    files.append(folder / "evaluation.json")
    return evaluation


def _settings(
    run: Run,
    molecules: int,
    condition: Mapping[str, ArrayLike] | None,
    guidance: float | Mapping[str, float] | None,
    seed: int,
) -> list[tuple[str, str]]:
    """What was drawn, and how."""
    sampler = run.config.sampler
    asked = ", ".join(f"{n} = {np.asarray(v).tolist()}" for n, v in (condition or {}).items())
    scale = sampler.guidance if guidance is None else guidance
    found = {
        "run": run.folder.path,
        "molecules": f"{molecules}, none rejected or corrected",
        "sizes": "as in the training data" + (", given the conditions" if asked else ""),
        "conditions": asked or "none",
        "guidance": scale if asked else "none",
        "steps": sampler.steps,
        "eta": sampler.eta,
        "temperature": sampler.temperature,
        "temperature of elements and bonds": sampler.class_temperature,
        "elements and bonds noised anew": f"{sampler.remask_share:.0%} of them a step",
        "last noise": f"{sampler.sigma_last} Angstrom",
        "noise keyed by": sampler.randomness,
        "batch size": sampler.batch_size,
        "seed": seed,
        "structdiff": structdiff.__version__,
    }
    return [(name, str(value)) for name, value in found.items()]


def _chemistry(
    samples: Samples, data: Data, seed: int, say: Callable[[str], None]
) -> ChemistryReport | None:
    """The chemistry of what was drawn beside real molecules, if there are enough of these."""
    wanted = len(samples) + _REAL
    chosen = np.random.default_rng(seed).permutation(len(data.reference))[:wanted]
    if len(chosen) < 2:
        say("no chemistry: there are fewer than 2 real molecules to compare with")
        return None
    say(f"measuring the chemistry of {len(samples)} drawn and {len(chosen)} real molecules")
    real = data.reference.select(chosen)
    return chemistry_report(samples.structures, real, seed=seed, progress=True)


def _molecules(folder: Path, samples: Samples) -> list[Path]:
    """The drawn molecules; files of an earlier evaluation are replaced."""
    paths = [folder / f"molecules{suffix}" for suffix in (".sdf", ".xyz", ".smi")]
    return [write(p, samples.structures, samples.verdicts, overwrite=True).path for p in paths]


def _pictures(folder: Path, run: Run, samples: Samples, data: Data, film: _Film) -> list[Path]:
    """Pictures; those that there is nothing for are not there afterwards."""
    names = ("molecules", "trajectory", "histograms", "training")
    paths = {name: folder / f"{name}.png" for name in names}
    shown = np.arange(min(16, len(samples)))
    verdicts = [samples.verdicts[i] for i in shown.tolist()]
    grid(samples.structures.select(shown), verdicts, paths["molecules"], overwrite=True)
    histograms(samples.structures, data.reference, paths["histograms"])
    if film.frames:
        trajectory(film.frames, film.times, paths["trajectory"], overwrite=True)
    else:
        paths["trajectory"].unlink(missing_ok=True)
    if not curves(run.folder.read_metrics(), paths["training"]):
        paths["training"].unlink(missing_ok=True)
    return [path for path in paths.values() if path.exists()]


def _blocks(
    run: Run, evaluation: Evaluation, settings: list[tuple[str, str]], folder: Path
) -> list[Block]:
    """The sections of the page."""
    head, *rows = comparison_rows(evaluation.reports)
    known = evaluation.samples.structures.bond is not None
    bonds = "the bonds that were drawn" if known else "bonds from distances"
    captions = {
        "molecules": f"The first molecules drawn, with {bonds}. Green: valid; brown: "
        "valid with a fault; red: not valid.",
        "trajectory": "Three of them on their way from noise (t = 1) to data (t = 0).",
        "histograms": "Sizes and elements of what was drawn beside the data.",
        "training": "Training: loss by leaf, and the bound on held-out molecules.",
    }
    shown: dict[str, list[Block]] = {
        name: [Picture(folder / f"{name}.png", caption)]
        for name, caption in captions.items()
        if (folder / f"{name}.png").exists()
    }
    config = run.config.data
    origin = config.path or "2,000 molecules of QM9 that come with structdiff"
    return [
        Words(f"Data: {origin}, hydrogens {config.hydrogens}."),
        Heading("What was drawn"),
        Table(("setting", "value"), settings),
        Heading("Measures"),
        Words(
            "Of all drawn, beside real molecules, real ones with noise on their positions, and "
            "real ones with shuffled elements. In brackets: 95 % bootstrap intervals; a rate of "
            f"0 or 100 % is known to within {300 / len(evaluation.samples):.2g} points."
        ),
        Table(head, rows),
        Table(("metric", "protocol"), evaluation.protocols()),
        Heading("Why molecules are not valid or not stable"),
        *_reasons(evaluation.samples),
        *section(evaluation.chemistry, folder),
        Heading("Pictures"),
        *(block for blocks in shown.values() for block in blocks),
    ]


def _reasons(samples: Samples) -> list[Block]:
    """The first reason of each molecule that has one."""
    found = Tally.of(samples.verdicts, len(samples)).counts()["reasons"]
    if not found:
        return [Words("There is nothing wrong with any of them.")]
    total, rows = len(samples), list[tuple[str, str, str]]()
    for reason, count in found.items():
        low, high = interval(count, total)
        rows.append(
            (reason, str(count), f"{100 * count / total:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        )
    return [Table(("first reason of a molecule", "molecules", "% of all drawn"), rows)]
