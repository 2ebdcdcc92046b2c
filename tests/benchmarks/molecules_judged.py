"""What both recipes and the packaged model draw, judged alike, beside real and broken molecules.

All that was drawn counts. Each recipe draws in the way that was chosen with another seed, the
packaged model in its own. Molecules with bonds are judged by these and by those that follow from
their distances. Novelty and nearest distances are against the training molecules of recipe 1,
histograms against the test molecules of EDM's split. The packaged model is whatever comes along:
recipe 2 itself, since it beat what came along before.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from molecules_budget import REPORTING, Plan
from molecules_recipes import RECIPES, REPORTED, WAYS, chosen, run_of

from structdiff.artifacts import read_json, write_atomic
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.loading import load_data
from structdiff.domains.molecules.measures.chemistry import chemistry_report
from structdiff.domains.molecules.metrics import baselines, evaluate
from structdiff.domains.molecules.pictures import grid
from structdiff.domains.molecules.recipe import MoleculesConfig
from structdiff.domains.molecules.reports.charts import histograms
from structdiff.domains.molecules.reports.report import Report, Row, comparison
from structdiff.domains.molecules.run import Run
from structdiff.domains.molecules.structures import Bonds, Structures
from structdiff.reports.tables import markdown_table

__all__ = ["report", "work"]

BAR = 0.05
"""Total variation of histograms to the data's."""
MOST_MB = 4.0
"""Weights that may come with the package."""
PACKAGED, BY_BONDS, BY_DISTANCES = "packaged", "recipe2, its bonds", "recipe2, distances"
_NAMES = {"recipe1": "recipe1", "recipe2": BY_BONDS, PACKAGED: PACKAGED}


def work(plan: Plan) -> dict[str, Any]:
    """The numbers of all sources, by name."""
    data = load_data(MoleculesConfig.model_validate({"data": {"path": "qm9"}}))
    random = np.random.default_rng(REPORTING)
    train = data.train.select(_some(random, len(data.train), plan.budget.known))
    real = data.reference.select(_some(random, len(data.reference), plan.budget.drawn))
    drawn = {name: (way, kept) for name, way, kept in _drawn(plan)}
    sources: dict[str, Structures] = {}
    for name, (_, molecules) in drawn.items():
        sources[name] = molecules
        if name == BY_BONDS:
            sources[BY_DISTANCES] = replace(molecules, bond=None)
    reports = {
        name: evaluate(molecules, train, reference=data.reference, seed=REPORTING)
        for name, molecules in (sources | baselines(real, REPORTING)).items()
    }
    real_ones = data.reference.select(_some(random, len(data.reference), 4 * len(real)))
    chemistry: dict[str, Report] = {}
    for name, molecules in sources.items():
        both = chemistry_report(
            molecules, real_ones, most=plan.budget.chemistry, seed=REPORTING
        ).reports
        chemistry[name] = both["drawn"]
        _pictures(name, molecules, data.reference, plan.out / "pictures")
    chemistry["as many real ones"] = both["as many real ones"]
    return {
        "ways": {name: way for name, (way, _) in drawn.items()},
        "reports": {name: one.to_dict() for name, one in reports.items()},
        "chemistry": {name: one.to_dict() for name, one in chemistry.items()},
    }


def _some(random: np.random.Generator, total: int, number: int) -> np.ndarray:
    """Places of so many of them, in order."""
    return np.sort(random.permutation(total)[:number])


def _drawn(plan: Plan) -> Iterator[tuple[str, str, Structures]]:
    """The molecules of all models and how each draws; what has been drawn is kept."""
    number = plan.budget.drawn
    for name in RECIPES:
        way = chosen(read_json(plan.out / f"calls{name[-1]}" / "result.json"))
        settings = {"steps": REPORTED, **WAYS[way]}

        def make(name: str = name, settings: Mapping[str, float] = settings) -> Structures:
            run = run_of(name, plan)
            return run.sample(number, seed=REPORTING, progress=False, **settings).structures

        yield (
            _NAMES[name],
            f"{REPORTED} calls, {way}",
            _kept(plan.out / f"judged/{name}.npz", make),
        )
    run = Run.pretrained()
    way = f"{run.config.sampler.steps} calls, its own settings"
    yield (
        PACKAGED,
        way,
        _kept(
            plan.out / "judged/packaged.npz",
            lambda: run.sample(number, seed=REPORTING, progress=False).structures,
        ),
    )


def _kept(path: Path, make: Callable[[], Structures]) -> Structures:
    """Molecules of a file, or made and written there, every one of them as it is."""
    if not path.exists():
        made = make()
        parts = {name: getattr(made, name) for name in ("position", "number", "count", "charge")}
        if made.bond is not None:
            parts |= {f"bond_{name}": getattr(made.bond, name) for name in _BOND}
        file = io.BytesIO()
        np.savez(file, **parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, file.getvalue())
    with np.load(path) as found:
        bond = Bonds(*(found[f"bond_{n}"] for n in _BOND)) if "bond_pair" in found else None
        position, number, count = (found[name] for name in ("position", "number", "count"))
        return Structures(position, number, count, charge=found["charge"], bond=bond)


_BOND = ("pair", "order", "molecule")


def _pictures(name: str, molecules: Structures, data: Structures, folder: Path) -> None:
    """Histograms and the first molecules of a source."""
    folder.mkdir(parents=True, exist_ok=True)
    title = name.replace(", ", "-").replace(" ", "-")
    if not name.endswith("distances"):
        histograms(molecules, data, folder / f"histograms-{title}.png")
    first = molecules.select(np.arange(min(12, len(molecules))))
    grid(first, judge(first), folder / f"molecules-{title}.png", overwrite=True)


def report(found: Mapping[str, Any]) -> str:
    """Tables of all sources, bars, and which model is the best."""
    if "judged" not in found:
        return ""
    judged = found["judged"]
    reports = {name: _read(one) for name, one in judged["reports"].items()}
    chemistry = {name: _read(one) for name, one in judged["chemistry"].items()}
    ways = "; ".join(f"{name}: {way}" for name, way in judged["ways"].items())
    models = [name for name in _NAMES.values() if name in reports]
    bars = " ".join(_bars(name, reports[name]) for name in models)
    beats = " ".join(
        _beats(name, reports, found[name.partition(",")[0]]["weights_mb"])
        for name in ("recipe1", BY_BONDS, BY_DISTANCES)
        if name in reports
    )
    how = [["measure", "protocol"]]
    how += [[r.name, r.protocol] for one in (reports, chemistry) for r in one[BY_BONDS].rows]
    tables = [comparison(reports), comparison(chemistry), bars, beats, markdown_table(how)]
    return "\n\n".join([f"Drawn with seed {REPORTING}: {ways}.", *tables])


def _read(numbers: Mapping[str, Any]) -> Report:
    """A report from its numbers."""
    ends = ("value", "low", "high")
    rows = (
        Row(
            name,
            *(math.nan if one[end] is None else one[end] for end in ends),
            one["protocol"],
            one["unit"],
        )
        for name, one in numbers["metrics"].items()
    )
    return Report(tuple(rows), numbers["drawn"])


def _bars(name: str, report: Report) -> str:
    """Whether histograms are as near to the data as they must be."""
    rows = [report[f"{kind} histogram"] for kind in ("size", "element")]
    words = ", ".join(f"{r.name} {r.value:.3f} ({r.protocol.partition('; ')[2]})" for r in rows)
    met = "met" if max(row.value for row in rows) <= BAR else "missed"
    return f"Histograms of {name} within TV {BAR}: {words}, {met}."


def _beats(name: str, reports: Mapping[str, Report], megabytes: float) -> str:
    """Whether a recipe beats the packaged model, by what its molecules are."""
    rates = [reports[one]["valid and connected"].value for one in (name, PACKAGED)]
    drawn = [reports[one].drawn for one in (name, PACKAGED)]
    gap = 100 * (rates[0] - rates[1])
    error = 100 * math.sqrt(sum(p * (1 - p) / n for p, n in zip(rates, drawn, strict=True)))
    does = "beats" if gap > 2 * error else "does not beat"
    fits = "fit" if megabytes <= MOST_MB else "do not fit"
    return (
        f"{name} {does} the packaged model: {gap:+.1f} +- {error:.1f} points valid and connected; "
        f"its {megabytes:.1f} MB of weights {fits} the package."
    )
