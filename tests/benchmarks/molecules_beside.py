"""Beside EDM's public code: the bound at equal updates, and the time to EDM's bound.

Both have 4 layers of 64 features and see the same 32 molecules, hydrogens explicit, in update
number k; both are judged on the same molecules of EDM's validation split by the same number of
nats, see `edm_training.py`. EDM's better average is taken at each look. Ours has its own recipe:
network of pairs, preconditioned regression, learning rate that falls to zero at the last update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from edm_peer import EDMCode
from edm_training import Settings, judged_molecules, pace, standard_error, train
from molecules_budget import Plan
from molecules_training import train_on_the_clock

from structdiff.artifacts import read_json
from structdiff.domains.molecules.recipe import MoleculesConfig, build
from structdiff.domains.molecules.run import Run
from structdiff.domains.molecules.structures import Structures
from structdiff.reports.charts import COLOURS, framed, keep
from structdiff.reports.tables import markdown_table

__all__ = ["picture", "report", "work_beside", "work_edm"]

BAR = 0.5  # of EDM's time, at most, to EDM's last bound


def work_edm(plan: Plan) -> dict[str, Any]:
    """EDM trained for its minutes, or its run that is there."""
    if plan.edm_run is not None:
        found = dict(read_json(plan.edm_run))
        if not found["history"] or "molecules" not in best(found["history"][-1]):
            raise ValueError(f"{plan.edm_run} has no bound by molecule: let `edm.py train` go on")
        return found
    minutes = plan.budget.edm_minutes
    settings = Settings(judge=10 * minutes, molecules=plan.budget.judged)
    folder = plan.out / "edm"
    folder.mkdir(parents=True, exist_ok=True)
    return dict(train(EDMCode.load(plan.edm), settings, minutes, folder / "run.json"))


def best(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The bound of EDM's best average."""
    return min(entry["bounds"].values(), key=lambda one: one["bound"])


def work_beside(plan: Plan) -> dict[str, Any]:
    """Ours at EDM's size, judged on EDM's molecules on its way."""
    updates, number = plan.budget.beside, plan.budget.judged
    if plan.with_edm:
        theirs = read_json(plan.out / "edm" / "result.json")
        updates, number = theirs["history"][-1]["updates"], theirs["settings"]["molecules"]
        if plan.edm_run is not None:
            updates = max(plan.budget.looks, round(plan.scale * updates))
    molecules = judged_molecules(number)
    folder = plan.out / "beside" / "run"
    looks = train_on_the_clock(
        settings(updates, plan.budget.looks), folder, lambda run: judged(run, molecules, draws=2)
    )
    run = Run.load(folder)
    first = Run(run.folder, run.config, run.codec, build(run.config, run.codec))
    return {
        "looks": [{n: x for n, x in look.items() if n != "molecules"} for look in looks],
        "last": judged(run, molecules, draws=4),
        "first": judged(first, molecules, draws=2)["bound"],
        "parameters": sum(weight.numel() for weight in run.denoiser.parameters()),
    }


def settings(updates: int, looks: int) -> MoleculesConfig:
    """Our run at EDM's size."""
    return MoleculesConfig.model_validate(
        {
            "data": {"path": "qm9"},
            "network": {"layers": 4, "width": 64, "hidden": 64},
            "training": {
                "steps": updates,
                "batch_size": 32,
                "warm_up": min(500, updates // 10),
                "validate_every": max(1, updates // looks),
                "log_every": max(1, updates // 20),
                "device": "cpu",
            },
        }
    )


def judged(run: Run, molecules: Structures, draws: int) -> dict[str, Any]:
    """The bound of the molecules, in nats."""
    values = run.score(molecules, draws=draws, progress=False).bound.total.double().numpy()
    return {
        "bound": float(values.mean()),
        "standard_error": standard_error(values),
        "pace": pace(),
        "molecules": [round(float(value), 3) for value in values],
    }


def between(looks: Sequence[Mapping[str, Any]], x: str, y: str, at: float) -> float:
    """`y` at a value of `x`, evenly between looks; NaN outside."""
    xs, ys = (np.array([float(look[name]) for look in looks]) for name in (x, y))
    return float(np.interp(at, xs, ys, left=np.nan, right=np.nan))


def reached(looks: Sequence[Mapping[str, Any]], bound: float) -> float | None:
    """CPU seconds to a bound; None where it is not reached."""
    before: Mapping[str, Any] | None = None
    for look in looks:
        if look["bound"] <= bound:
            if before is None:
                return float(look["seconds"])
            part = (before["bound"] - bound) / (before["bound"] - look["bound"])
            return float(before["seconds"] + part * (look["seconds"] - before["seconds"]))
        before = look
    return None


def report(found: Mapping[str, Any]) -> str:
    """Ours by look; with EDM, both at EDM's looks, and what follows."""
    if "beside" not in found:
        return ""
    ours = found["beside"]
    looks = ours["looks"]
    about = (
        f"Ours has {ours['parameters']:,} parameters and, before its first update, a bound of "
        f"{ours['first']:.2f} nats: where noise is small, what it is told is already an estimate."
    )
    if "edm" not in found:
        rows = [["updates", "CPU min", "bound, nats"]]
        rows += [
            [
                f"{x['updates']:,}",
                f"{x['seconds'] / 60:.1f}",
                shown(x["bound"], x["standard_error"]),
            ]
            for x in looks
        ]
        left_out = "EDM is left out: name its checkout with --edm, or a run of it with --edm-run."
        return "\n\n".join([about, left_out, markdown_table(rows)])
    history = found["edm"]["history"]
    rows = [["updates", "EDM, CPU min", "EDM, nats", "ours, CPU min", "ours, nats", "ours - EDM"]]
    for entry in history:
        theirs, at = best(entry), entry["updates"]
        bound, error, seconds = (
            between(looks, "updates", name, at) for name in ("bound", "standard_error", "seconds")
        )
        gap = bound - theirs["bound"]
        rows.append(
            [
                f"{at:,}",
                f"{entry['seconds'] / 60:.1f}",
                shown(theirs["bound"], theirs["standard_error"]),
                shown(seconds / 60, digits=1),
                shown(bound, error),
                shown(gap, math.hypot(error, theirs["standard_error"])),
            ]
        )
    about += f" EDM's network has {found['edm']['parameters']:,}."
    return "\n\n".join([about, markdown_table(rows), *verdicts(found["edm"], ours)])


def verdicts(edm: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The two sentences, and how loaded the machine was."""
    last, look = edm["history"][-1], ours["looks"][-1]
    theirs = best(last)
    gap = np.array(ours["last"]["molecules"]) - np.array(theirs["molecules"])
    error = standard_error(gap)
    met = "met" if gap.mean() <= 2 * error else "missed"
    equal = (
        f"After {look['updates']:,} updates of ours and {last['updates']:,} of EDM, the gap "
        f"by molecule is {shown(float(gap.mean()), error)} nats (bar: at most two standard "
        f"errors): {met}."
    )
    time = reached(ours["looks"], theirs["bound"])
    minutes = last["seconds"] / 60
    if time is None:
        fast = f"EDM's bound after {minutes:.1f} CPU minutes was not reached: missed."
    else:
        met = "met" if time / 60 <= BAR * minutes else "missed"
        fast = (
            f"EDM's bound after {minutes:.1f} CPU minutes was reached in {time / 60:.1f} (bar: "
            f"{BAR * minutes:.1f}): {met}."
        )
    paces = [
        float(np.median([x["pace"] for x in part])) for part in (edm["history"], ours["looks"])
    ]
    even = (
        f"A fixed piece of work took {1e3 * paces[0]:.1f} CPU ms beside EDM and "
        f"{1e3 * paces[1]:.1f} beside ours."
    )
    return [equal, fast, even]


def shown(value: float, error: float | None = None, digits: int = 2) -> str:
    """A number with its standard error; nothing for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:.{digits}f}" + ("" if error is None else f" +- {error:.{digits}f}")


def picture(found: Mapping[str, Any], folder: Path) -> None:
    """Bounds against updates and against CPU time."""
    if "beside" not in found:
        return
    curves = {"structdiff": found["beside"]["looks"]}
    if "edm" in found:
        curves["EDM"] = [{**entry, **best(entry)} for entry in found["edm"]["history"]]
    figure, axes = framed(2)
    for colour, (name, looks) in zip(COLOURS, curves.items(), strict=False):
        bounds, errors = ([look[x] for look in looks] for x in ("bound", "standard_error"))
        for ax, x, unit in zip(axes, ("updates", "seconds"), (1, 60), strict=True):
            at = [look[x] / unit for look in looks]
            ax.errorbar(at, bounds, errors, color=colour, label=name, lw=1.4, marker="o", ms=3.5)
    for ax, label in zip(axes, ("updates", "CPU minutes of updates"), strict=True):
        ax.set(xlabel=label)
        ax.set_yscale("symlog", linthresh=100)
        low, high = ax.get_ylim()
        ticks = [tick for tick in (-100, -50, 0, 50, 100, 200, 500, 1000) if low <= tick <= high]
        ax.set_yticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
    axes[0].set(title="bound on -log p of 4 layers x 64", ylabel="nats a molecule")
    axes[1].legend(frameon=False, fontsize=8)
    keep(figure, folder / "beside.png")
