"""Molecules in three dimensions: beside EDM, with and without bonds, by calls, by properties.

    OMP_NUM_THREADS=1 python tests/benchmarks/molecules_results.py --out runs/molecules-results

All runs of the tables, on all of QM9: `molecules_beside.py` (EDM's public code and ours at its
size), `molecules_recipes.py` (both recipes; quality against calls of the network),
`molecules_judged.py` (what they and the packaged model draw) and `molecules_conditional.py` (EDM's
protocol for properties). Two jobs go at a time, one thread each; stop it at any time, the same
command goes on. How much each may do stands in `molecules_budget.py`; `--scale 0.002` tries all
of it in minutes. `--edm` is a checkout of ehoogeboom/e3_diffusion_for_molecules, or `--edm-run`
the JSON of a run that `edm.py train` has made; without either that side is left out. QM9 is
fetched, or found below $STRUCTDIFF_DATA. Written are `results.md`, `results.json` and `pictures/`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import molecules_beside
import molecules_conditional
import molecules_judged
import molecules_recipes
import torch
from jobs import keep_result, metered, results, run_jobs, spent
from molecules_budget import Budget, Plan

from structdiff.artifacts import read_json, write_atomic, write_json
from structdiff.reports.tables import markdown_table
from structdiff.training.memory import keep_freed_memory

# The longest first, but those that others wait for.
NEEDS: dict[str, Sequence[str]] = {
    "edm": (),
    "recipe1": (),
    "recipe2": (),
    "generator": (),
    "beside": ("edm",),
    "calls1": ("recipe1",),
    "calls2": ("recipe2",),
    "regressor": (),
    "judged": ("recipe1", "recipe2", "calls1", "calls2"),
    "asked": ("generator", "regressor"),
}
JOBS: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "edm": molecules_beside.work_edm,
    "beside": molecules_beside.work_beside,
    "recipe1": lambda plan: molecules_recipes.work_recipe("recipe1", plan),
    "recipe2": lambda plan: molecules_recipes.work_recipe("recipe2", plan),
    "calls1": lambda plan: molecules_recipes.work_calls("calls1", plan),
    "calls2": lambda plan: molecules_recipes.work_calls("calls2", plan),
    "judged": molecules_judged.work,
    "regressor": molecules_conditional.work_regressor,
    "generator": molecules_conditional.work_generator,
    "asked": molecules_conditional.work_asked,
}


def page(found: Mapping[str, Any], out: Path) -> str:
    """All tables."""
    parts = {
        "Beside EDM": molecules_beside.report(found),
        "Recipes": molecules_recipes.report(found),
        "Molecules": molecules_judged.report(found),
        "Asked for a property": molecules_conditional.report(found),
        "Time": times(found, out),
    }
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items() if text)


def times(found: Mapping[str, Any], out: Path) -> str:
    """CPU minutes of the jobs that have ended, in all their starts."""
    minutes = {name: spent(name, out) / 60 for name in found}
    minutes["all"] = sum(minutes.values())
    rows = [["job", "CPU min"], *([name, f"{each:.1f}"] for name, each in minutes.items())]
    return markdown_table(rows)


def begun(plan: Plan) -> None:
    """Note the scale in a new folder.

    Raises:
        ValueError: If the folder was begun with another.
    """
    path = plan.out / "scale.json"
    plan.out.mkdir(parents=True, exist_ok=True)
    before = read_json(path)["scale"] if path.exists() else plan.scale
    if before != plan.scale:
        msg = (
            f"{plan.out} was begun with --scale {before:g}, not {plan.scale:g}: give another --out"
        )
        raise ValueError(msg)
    write_json(path, {"scale": plan.scale})


def arguments() -> argparse.Namespace:
    """What is asked for."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--out", type=Path, default=Path("runs/molecules-results"))
    parser.add_argument("--scale", type=float, default=1.0, help="part of the budget")
    parser.add_argument("--edm", type=Path, default=os.environ.get("EDM"), help="a checkout")
    parser.add_argument("--edm-run", type=Path, help="JSON of `edm.py train`")
    parser.add_argument("--only", nargs="*", help="jobs", choices=tuple(NEEDS))
    parser.add_argument("--job", choices=tuple(NEEDS))
    parser.add_argument("--report", action="store_true", help="tables of what is there alone")
    return parser.parse_args()


def main() -> None:
    """All jobs, or one."""
    asked = arguments()
    budget = Budget().scaled(asked.scale)
    edm = None if asked.edm is None else Path(asked.edm)
    plan = Plan(asked.out, budget, asked.scale, edm, asked.edm_run)
    begun(plan)
    if asked.job:
        torch.set_num_threads(1)
        keep_freed_memory()
        with metered(asked.job, plan.out):
            keep_result(asked.job, plan.out, JOBS[asked.job](plan))
        return
    left_out = () if plan.with_edm else ("edm",)
    needs = {n: [x for x in of if x not in left_out] for n, of in NEEDS.items()}
    names = [n for n in NEEDS if n in (asked.only or NEEDS) and n not in left_out]
    command = [sys.executable, __file__, "--out", str(plan.out), "--scale", str(plan.scale)]
    for flag, path in (("--edm", plan.edm), ("--edm-run", plan.edm_run)):
        command += [] if path is None else [flag, str(path)]
    if not asked.report:
        run_jobs(names, needs, plan.out, command)
    found = results([name for name in NEEDS if name not in left_out], plan.out)
    text = page(found, plan.out)
    write_atomic(plan.out / "results.md", (text + "\n").encode())
    write_json(plan.out / "results.json", found)
    pictures = plan.out / "pictures"
    pictures.mkdir(exist_ok=True)
    for one in (molecules_beside, molecules_recipes, molecules_conditional):
        one.picture(found, pictures)
    print(text)


if __name__ == "__main__":
    main()
