"""Both recipes trained on QM9, and drawn from with few and with many calls of the network.

Recipe 1 has positions and elements, recipe 2 bonds too; hydrogens are explicit, the network is the
default one. Molecules are judged by the bonds that they were drawn with, and by those that follow
from their distances. Nothing is rejected or corrected. CPU time is that of drawing and judging.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from molecules_budget import CHOOSING, Plan
from molecules_training import train_on_the_clock

from structdiff.artifacts import read_json, write_json
from structdiff.domains.molecules.chemistry import Verdict, judge
from structdiff.domains.molecules.recipe import MoleculesConfig
from structdiff.domains.molecules.run import Run
from structdiff.domains.molecules.sampling import Samples
from structdiff.domains.molecules.tally import interval
from structdiff.reports.charts import COLOURS, framed, keep
from structdiff.reports.tables import markdown_table

__all__ = ["CALLS", "RECIPES", "REPORTED", "WAYS", "chosen", "picture", "report"]
__all__ += ["run_of", "work_calls", "work_recipe"]

RECIPES: Mapping[str, tuple[str, str]] = {
    "recipe1": ("none", "positions, elements"),
    "recipe2": ("kekulized", "positions, elements, bonds"),
}
CALLS = (10, 20, 50, 100, 200)
REPORTED = 100
"""Calls of what is told beside the packaged model, which has as many."""
_OWN = {"temperature": 1.0, "class_temperature": 1.0}
WAYS: Mapping[str, Mapping[str, float]] = {
    "eta 0": {"eta": 0.0, **_OWN, "remask_share": 0.0},
    "eta 1": {"eta": 1.0, **_OWN, "remask_share": 0.0},
    "noised anew": {"eta": 1.0, **_OWN, "remask_share": 0.4},
    "surer, noised anew": {
        "eta": 1.0, "temperature": 0.8, "class_temperature": 0.5, "remask_share": 0.4,
    },
}  # fmt: skip
"""What `SamplerConfig` has for a model without conditions; the last is its default."""


def work_recipe(name: str, plan: Plan) -> dict[str, Any]:
    """A recipe trained."""
    updates = getattr(plan.budget, name)
    looks = train_on_the_clock(settings(name, updates), plan.out / name / "run")
    run = run_of(name, plan)
    return {
        "looks": looks,
        "parameters": sum(weight.numel() for weight in run.denoiser.parameters()),
        "weights_mb": run.folder.ema.stat().st_size / 1e6,
    }


def settings(name: str, updates: int) -> MoleculesConfig:
    """A recipe with its defaults, on all of QM9."""
    return MoleculesConfig.model_validate(
        {
            "data": {"path": "qm9", "bonds": RECIPES[name][0]},
            "training": {
                "steps": updates,
                "warm_up": min(1000, updates // 10),
                "validate_every": max(1, updates // 4),
                "log_every": max(1, updates // 30),
                "save_seconds": 60.0,
                "device": "cpu",
            },
        }
    )


def run_of(name: str, plan: Plan) -> Run:
    """A recipe's model."""
    return Run.load(plan.out / name / "run")


def work_calls(name: str, plan: Plan) -> dict[str, Any]:
    """A recipe's molecules in all ways with all numbers of calls; goes on where it was stopped."""
    recipe = {"calls1": "recipe1", "calls2": "recipe2"}[name]
    run, path = run_of(recipe, plan), plan.out / name / "tried.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = read_json(path) if path.exists() else {}
    for way, settings in WAYS.items():
        for calls in CALLS:
            if str(calls) not in found.setdefault(way, {}):
                start = time.process_time()
                drawn = run.sample(
                    plan.budget.tried, seed=CHOOSING, steps=calls, progress=False, **settings
                )
                seconds = time.process_time() - start
                found[way][str(calls)] = {"per_second": len(drawn) / seconds, **rates(drawn)}
                write_json(path, found)
    return found


def rates(drawn: Samples) -> dict[str, Any]:
    """Rates of all drawn, each with its interval; with bonds, those by distances too."""
    found = _rates(drawn.verdicts)
    if drawn.structures.bond is not None:
        found["by_distance"] = _rates(judge(replace(drawn.structures, bond=None)))
    return found


def _rates(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    good: Mapping[str, Callable[[Verdict], bool]] = {
        "stable": lambda verdict: bool(verdict.stable),
        "valid": lambda verdict: verdict.valid,
        "whole": lambda verdict: verdict.valid and verdict.connected,
    }
    counts = {name: int(np.sum([test(one) for one in verdicts])) for name, test in good.items()}
    total = len(verdicts)
    found = {name: [hits / total, *interval(hits, total)] for name, hits in counts.items()}
    return found | {"unique": len({one.smiles for one in verdicts if one.smiles}) / total}


def chosen(tried: Mapping[str, Any], calls: int = REPORTED) -> str:
    """The way of drawing with the most valid and connected molecules."""
    return max(tried, key=lambda way: float(tried[way][str(calls)]["whole"][0]))


def report(found: Mapping[str, Any]) -> str:
    """Training, and rates by calls."""
    parts = []
    there = [name for name in RECIPES if name in found]
    if there:
        rows = [["recipe", "parameters", "updates", "CPU min", "validation bound, nats"]]
        for name in there:
            last = found[name]["looks"][-1]
            cells = [f"{found[name]['parameters']:,}", f"{last['updates']:,}"]
            cells += [f"{last['seconds'] / 60:.1f}", f"{last['bound']:.2f}"]
            rows.append([f"{name[-1]}: {RECIPES[name][1]}", *cells])
        parts.append(markdown_table(rows))
    for name in ("calls1", "calls2"):
        if name in found:
            parts.append(f"Recipe {name[-1]} by calls of the network (seed {CHOOSING}):")
            parts.append(markdown_table(_table(found[name])))
            parts.append(f"Chosen at {REPORTED} calls: {chosen(found[name])}.")
    return "\n\n".join(parts)


def _table(tried: Mapping[str, Any]) -> list[list[str]]:
    bonded = any("by_distance" in one for way in tried.values() for one in way.values())
    head = ["way", "calls", "stable, %", "valid, %", "unique, %", "valid and connected, %"]
    head += ["the same by distances, %"] * bonded
    lines = [[*head, "molecules/s"]]
    for way, by_calls in tried.items():
        for calls, one in by_calls.items():
            cells = [percent(one["stable"]), percent(one["valid"]), f"{100 * one['unique']:.1f}"]
            cells.append(percent(one["whole"]))
            cells += [percent(one["by_distance"]["whole"])] if bonded else []
            lines.append([way, calls, *cells, f"{one['per_second']:.2f}"])
    return lines


def percent(rate: Sequence[float]) -> str:
    """A rate with its interval."""
    value, low, high = (100 * x for x in rate)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def picture(found: Mapping[str, Any], folder: Path) -> None:
    """Valid and connected molecules against calls and against time."""
    from matplotlib.ticker import LogLocator, NullLocator

    there = [name for name in ("calls1", "calls2") if name in found]
    if not there:
        return
    figure, axes = framed(2)
    for name, style in zip(there, ("-", "--"), strict=False):
        for colour, (way, by_calls) in zip(COLOURS, found[name].items(), strict=False):
            calls = [int(number) for number in by_calls]
            values = 100 * np.array([one["whole"] for one in by_calls.values()])
            ends = np.abs(values[:, 1:] - values[:, :1]).T
            look = {"color": colour, "ls": style, "lw": 1.4, "marker": "o", "ms": 3.5}
            label = way if name == there[0] else None
            axes[0].errorbar(calls, values[:, 0], ends, label=label, **look)
            seconds = [1 / one["per_second"] for one in by_calls.values()]
            label = f"recipe {name[-1]}" if way == [*WAYS][0] else None
            axes[1].plot(seconds, values[:, 0], label=label, **look)
    axes[0].set(xscale="log", xlabel="calls of the network", ylabel="valid and connected, %")
    axes[0].set_xticks(CALLS, [str(calls) for calls in CALLS])
    axes[0].minorticks_off()
    axes[1].set(xscale="log", xlabel="CPU seconds a molecule")
    axes[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[1].xaxis.set_major_formatter("{x:g}")
    axes[1].xaxis.set_minor_locator(NullLocator())
    for ax in axes:
        ax.set_ylim(bottom=0)
    keep(figure, folder / "calls.png")
