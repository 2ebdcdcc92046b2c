"""Quality against training time: the default model of molecules at several budgets.

Each budget is a run of its own (the learning rate falls to zero at its end). Runs that are there
are not trained again and those that were stopped go on, so this can be stopped at any time and
started again. It writes `results.json` and `quality_time.png` into the folder.

    OMP_NUM_THREADS=1 python tests/benchmarks/quality_time.py --steps 500 1000 2000 4000

Finished runs from elsewhere are measured beside them with `--runs FOLDER ...`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from timing import where

from structdiff.artifacts import write_json
from structdiff.domains.molecules.loading import load_data
from structdiff.domains.molecules.metrics import baselines, evaluate
from structdiff.domains.molecules.recipe import MoleculesConfig
from structdiff.domains.molecules.run import Run, train

SHOWN = ("atom stability", "molecule stability", "validity", "valid and connected")
COLOURS = ("#3a63d8", "#dd3a34", "#2a9d5c", "#b07d12")


def trained(steps: int, out: Path) -> Run:
    """The run of that budget; its CPU seconds are kept beside it, also when it is stopped."""
    folder, clock = out / f"steps-{steps}", out / f"steps-{steps}.seconds.json"
    config = MoleculesConfig.model_validate({"training": {"steps": steps, "device": "cpu"}})
    if (folder / "ema.safetensors").exists():
        return Run.load(folder)
    before = json.loads(clock.read_text()) if clock.exists() else 0.0
    start = time.process_time()
    try:
        return train(config, folder)
    finally:
        write_json(clock, before + time.process_time() - start)


def rates(report: Any) -> dict[str, list[float]]:
    """Value and interval of each measure that is shown, in percent."""
    return {n: [100 * v for v in (report[n].value, report[n].low, report[n].high)] for n in SHOWN}


def measured(run: Run, molecules: int) -> dict[str, Any]:
    """What a run is worth."""
    data = load_data(run.config)
    start = time.process_time()
    samples = run.sample(molecules, progress=False)
    seconds = time.process_time() - start
    report = evaluate(samples.structures, data.train, reference=data.reference)
    return {
        "steps": run.config.training.steps,
        "drawn": molecules,
        "sampling_cpu_seconds_per_molecule": seconds / molecules,
        "rates": rates(report),
    }


def real(config: MoleculesConfig) -> dict[str, dict[str, list[float]]]:
    """The rates of real molecules, clean and with noise."""
    data = load_data(config)
    chosen = data.reference.select(np.arange(min(1000, len(data.reference))))
    return {
        name: rates(evaluate(structures, data.train, reference=data.reference))
        for name, structures in baselines(chosen, 0).items()
    }


def line(result: Mapping[str, Any]) -> str:
    """One row of the table."""
    spent = result.get("cpu_seconds")
    cells = [f"{v:.1f} [{low:.1f}, {high:.1f}]" for v, low, high in result["rates"].values()]
    seconds = "-" if spent is None else f"{spent:,.0f}"
    return f"| {result['name']} | {result['steps']:,} | {seconds} | " + " | ".join(cells) + " |"


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, rates in percent with 95 % intervals."""
    head = "| run | updates | CPU seconds | " + " | ".join(f"{n} (%)" for n in SHOWN) + " |"
    return "\n".join([head, "|---" * (3 + len(SHOWN)) + "|", *(line(r) for r in results)])


def picture(
    results: Sequence[Mapping[str, Any]],
    floor: Mapping[str, Mapping[str, list[float]]],
    path: Path,
) -> None:
    """Rates against updates, with the rates of real molecules as dashes."""
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    ordered = sorted(results, key=lambda r: r["steps"])
    for name, colour in zip(SHOWN, COLOURS, strict=True):
        value, low, high = np.array([r["rates"][name] for r in ordered]).T
        steps = [r["steps"] for r in ordered]
        axes.plot(steps, value, "o-", color=colour, label=name)
        axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(floor["real"][name][0], color=colour, linestyle="--", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks([r["steps"] for r in ordered], [f"{r['steps']:,}" for r in ordered])
    axes.minorticks_off()
    axes.set_ylim(0, 101)
    axes.set_xlabel("updates")
    axes.set_ylabel("% of all drawn (dashes: real molecules)")
    figure.legend(frameon=False, loc="outside upper center", ncols=len(SHOWN), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="*", default=[500, 1000, 2000, 4000])
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="finished runs to add")
    parser.add_argument("--molecules", type=int, default=200, help="drawn from each")
    parser.add_argument("--out", type=Path, default=Path("runs/quality_time"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    machine = where()
    floor = real(MoleculesConfig())
    results = []
    for steps in options.steps:
        result = measured(trained(steps, options.out), options.molecules)
        clock = options.out / f"steps-{steps}.seconds.json"
        spent = json.loads(clock.read_text()) if clock.exists() else None
        results.append({"name": "default", "cpu_seconds": spent, **result})
        write(results, floor, machine, options.out)
    for folder in options.runs:
        results.append({"name": folder.name, **measured(Run.load(folder), options.molecules)})
        write(results, floor, machine, options.out)
    print(f"{machine}\n\n{table(results)}\n")
    for name, found in floor.items():
        print(f"{name}: " + ", ".join(f"{n} {v[0]:.1f}" for n, v in found.items()))


def write(
    results: Sequence[Mapping[str, Any]],
    floor: Mapping[str, Mapping[str, list[float]]],
    machine: str,
    out: Path,
) -> None:
    """What there is so far."""
    write_json(out / "results.json", {"machine": machine, "real": floor, "runs": list(results)})
    picture(results, floor, out / "quality_time.png")


if __name__ == "__main__":
    main()
