"""Points on the earth and RNA torsions: likelihoods of networks beside kernel density estimates.

    OMP_NUM_THREADS=1 python tests/benchmarks/manifolds.py --out runs/manifolds-results

Four data sets of S^2 and one of T^7, by diffusion and by flow, in the splits of the riemannian-fm
code (80 / 10 / 10 by seed); RNA also by PDB entry. The training stops where the validation loss is
least, and the noise at which densities are taken is chosen on validation points; the test part is
looked at once. What is fixed beforehand: the noise reaches down to 0.001 (rad, or time of a flow),
about the precision of coordinates given to a tenth of a degree; densities never are of less noise.
Two runs go at a time, one thread each; stop it at any time, the same command goes on. `--data` is
the folder with `earth/` and `torus_rna/` (by default $STRUCTDIFF_DATA).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structdiff.artifacts import RunFolder, read_json, write_atomic, write_json
from structdiff.denoiser import Denoiser
from structdiff.domains.manifolds.data import Data
from structdiff.domains.manifolds.kde import fit_bandwidth, fit_mixture
from structdiff.domains.manifolds.metrics import nearest
from structdiff.domains.manifolds.recipe import ManifoldsConfig
from structdiff.domains.manifolds.run import load_data, train
from structdiff.domains.manifolds.scoring import score
from structdiff.reports.tables import markdown_table

LEAST = 1e-3
NEAR = 1e-3
ROUTES = ("diffusion", "flow")
SEEDS = (0, 1, 2)
LOOKS = (0.25, 0.5, 1.0)
TRAIN_POINTS = 300

# File, what its columns are, octaves of waves, updates by route, published numbers, bar.
SETS: dict[str, dict[str, Any]] = {
    "earthquake": {
        "path": "earth/quakes_all.csv",
        "published": {"Riemannian score-based": -0.19, "Riemannian flow matching": -0.28},
    },
    "flood": {
        "path": "earth/flood.csv",
        "published": {"Riemannian score-based": 0.48, "Riemannian flow matching": 0.42},
    },
    "fire": {
        "path": "earth/fire.csv",
        "published": {"Riemannian score-based": -1.33, "Riemannian flow matching": -1.86},
    },
    "rna": {
        "path": "torus_rna/rna.tsv",
        "columns": "3..9:torus:degrees",
        "published": {"Riemannian diffusion": -3.70, "Riemannian flow matching": -5.20},
    },
    "volcano": {
        "path": "earth/volerup.csv",
        "published": {"Riemannian score-based": -4.92, "Riemannian flow matching": -7.93},
    },
}
OCTAVES = {"rna": 8.0, "earthquake": 10.0, "flood": 10.0, "fire": 11.0, "volcano": 10.0}
STEPS = {"rna": 2600, "earthquake": 1500, "flood": 1000, "fire": 2200, "volcano": 500}
BARS = {"rna": -4.5, "fire": -1.80}
BELOW_KDE = {"earthquake": 0.05, "flood": 0.05}


def name_of(job: Mapping[str, Any]) -> str:
    """Folder of a job."""
    entry = "-by-entry" if job["by_entry"] else ""
    return f"{job['data']}{entry}-{job['route']}-{job['seed']}"


def config_of(job: Mapping[str, Any], data: Path) -> ManifoldsConfig:
    """Settings of a job."""
    steps = STEPS[job["data"]]
    about = SETS[job["data"]]
    return ManifoldsConfig.model_validate(
        {
            "data": {
                "path": str(data / about["path"]),
                "columns": about.get("columns"),
                "split_seed": job["seed"],
                "split_by": "1" if job["by_entry"] else None,
            },
            "noise": {"route": job["route"], "sigma_min": LEAST},
            "network": {"octaves": OCTAVES[job["data"]]},
            "training": {
                "steps": steps,
                "batch_size": 512,
                "learning_rate": 1e-3,
                "warm_up": 100,
                "validate_every": max(1, steps // 12),
                "log_every": 50,
                "save_seconds": 60,
                "device": "cpu",
            },
        }
    )


class Checkpoints:
    """Validation points' mean of -log density at some places of the training, and CPU time."""

    def __init__(self, config: ManifoldsConfig, data: Data, folder: RunFolder) -> None:
        self.config, self.data = config, data
        self.spent, self.calls = 0.0, len(validations(folder))
        some = 96 if "torus" in str(data.codec.specs) else 192
        few = np.linspace(0, len(data.validation) - 1, min(some, len(data.validation)))
        self.some = data.validation.subset(np.unique(few.astype(int)))

    def __call__(self, denoiser: Denoiser) -> dict[str, float]:
        """Numbers of one validation."""
        self.calls += 1
        places = [round(12 * share) for share in LOOKS]
        if self.calls not in places:
            return {}
        began = time.process_time()
        noise = 3e-3
        value, error = score(
            denoiser,
            self.data.codec,
            self.config,
            self.some,
            noise,
            tolerance=1e-2,
            progress=False,
        ).nll()
        self.spent += time.process_time() - began
        return {"nll": value, "nll_error": error}


def validations(folder: RunFolder) -> list[dict[str, Any]]:
    """The lines of the metrics that are of validations."""
    return [line for line in folder.read_metrics() if "bound" in line]


def work_of(job: Mapping[str, Any], source: Path, out: Path) -> dict[str, Any]:
    """One training, judged once on the test part."""
    config = config_of(job, source)
    folder = RunFolder(out / name_of(job))
    data = load_data(config)
    looks = Checkpoints(config, data, folder) if job["seed"] == 0 else None
    clock, before = folder.path / "seconds.json", 0.0
    if clock.exists():
        before = read_json(clock)["cpu"]
    began = time.process_time()
    try:
        run = train(config, folder.path, also=looks)
    finally:
        folder.path.mkdir(parents=True, exist_ok=True)
        spent = time.process_time() - began - (looks.spent if looks else 0.0)
        write_json(clock, {"cpu": before + spent})
    test = run.score(data.test, tolerance=1e-3, progress=False)
    few = np.linspace(0, len(data.train) - 1, min(TRAIN_POINTS, len(data.train))).astype(int)
    seen = run.score(data.train.subset(few), tolerance=1e-3, progress=False)
    (leaf,) = run.codec.leaves
    space: Any = run.codec.spaces[leaf.name]
    points = {
        part: getattr(data, part).leaves[leaf.name] for part in ("train", "validation", "test")
    }
    gap = nearest(space, points["test"], points["train"])
    far = (gap > NEAR).numpy()
    value, error = test.nll()
    lines = validations(folder)
    best = min(lines, key=lambda line: line["bound"])
    return {
        **job,
        "nll": value,
        "error": error,
        "nll_far": float(-test.total[far].mean()),
        "near": int((~far).sum()),
        "test": len(far),
        "nll_train": seen.nll()[0],
        "nearest": float(gap.median()),
        "noise": run.noise,
        "stopped": best["step"],
        "steps": config.training.steps,
        "cpu": before + spent,
        "parameters": sum(weight.numel() for weight in run.denoiser.parameters()),
        "looks": [
            {"step": line["step"], "nll": line["nll"], "error": line["nll_error"]}
            for line in lines
            if "nll" in line
        ],
        **estimates(job, space, points, torch.from_numpy(far), out),
    }


def estimates(
    job: Mapping[str, Any], space: Any, points: Mapping[str, Tensor], far: Tensor, out: Path
) -> dict[str, Any]:
    """Kernel density estimates of the split, shared by the routes."""
    path = out / f"kde-{job['data']}{'-by-entry' if job['by_entry'] else ''}-{job['seed']}.json"
    if path.exists():
        found: dict[str, Any] = read_json(path)
        return found
    one = fit_bandwidth(space, points["train"], points["validation"])
    many = fit_mixture(space, points["train"], points["validation"])
    found = {"bandwidth": one.bandwidths[0]}
    for name, density in (("kde", one), ("kde_mixture", many)):
        total = density.log_prob(points["test"])
        found |= {name: float(-total.mean()), f"{name}_far": float(-total[far].mean())}
    write_json(path, found)
    return found


def run_jobs(jobs: Sequence[dict[str, Any]], out: Path, data: Path) -> list[dict[str, Any]]:
    """Do what is not done, two at a time, and read all results."""
    out.mkdir(parents=True, exist_ok=True)
    left = [job for job in jobs if not (out / name_of(job) / "result.json").exists()]
    running: list[subprocess.Popen[bytes]] = []
    try:
        while left or running:
            for process in [p for p in running if p.poll() is not None]:
                running.remove(process)
                if process.returncode:
                    sys.exit(process.returncode)
            while left and len(running) < min(2, os.cpu_count() or 1):
                job = left.pop(0)
                command = [sys.executable, __file__, "--out", str(out), "--data", str(data)]
                print(f"{time.strftime('%H:%M:%S')} {name_of(job)}", flush=True)
                log = (out / "progress.log").open("ab")
                running.append(
                    subprocess.Popen([*command, "--job", json.dumps(job)], stdout=log, stderr=log)
                )
            time.sleep(0.5)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return [read_json(out / name_of(job) / "result.json") for job in jobs]


def mean_of(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error over splits."""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), float(error)


def shown(values: Sequence[float]) -> str:
    """Mean and standard error as words."""
    mean, error = mean_of(values)
    return f"{mean:.2f}" if math.isnan(error) else f"{mean:.2f} +- {error:.2f}"


def groups_of(results: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Results by data set and route."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in results:
        title = f"{one['data']} by PDB entry" if one["by_entry"] else one["data"]
        found.setdefault((title, one["route"]), []).append(one)
    return found


def report(results: Sequence[dict[str, Any]]) -> str:
    """The tables."""
    groups = groups_of(results)
    head = ["test, nats", "route", "network", "one bandwidth", "eleven", "published", "bar"]
    rows, more = [], []
    for (title, route), runs in groups.items():
        data = runs[0]["data"]
        published = ", ".join(f"{n} {v:.2f}" for n, v in SETS[data]["published"].items())
        mine = mean_of([one["nll"] for one in runs])[0]
        bar = BARS.get(data)
        if data in BELOW_KDE:
            bar = mean_of([one["kde"] for one in runs])[0] - BELOW_KDE[data]
        verdict = "" if bar is None else f"{bar:.2f} {'met' if mine <= bar else 'missed'}"
        rows.append(
            [
                title,
                route,
                *(shown([one[key] for one in runs]) for key in ("nll", "kde", "kde_mixture")),
                "" if runs[0]["by_entry"] else published,
                "" if runs[0]["by_entry"] else verdict,
            ]
        )
        more.append(
            [
                title,
                route,
                shown([one["nll_far"] for one in runs]),
                shown([one["kde_far"] for one in runs]),
                shown([one["kde_mixture_far"] for one in runs]),
                f"{sum(one['near'] for one in runs)} of {sum(one['test'] for one in runs)}",
                shown([one["nll_train"] for one in runs]),
                f"{mean_of([one['nearest'] for one in runs])[0]:.4f}",
                ", ".join(f"{one['noise']:g}" for one in runs),
                ", ".join(f"{one['stopped']}/{one['steps']}" for one in runs),
                f"{mean_of([one['cpu'] / 60 for one in runs])[0]:.1f}",
            ]
        )
    second = [
        "test points farther than 1e-3 from training points",
        "route",
        "network",
        "one bandwidth",
        "eleven",
        "points left out",
        "training points (network)",
        "median distance to training (rad)",
        "noise chosen",
        "best update",
        "CPU minutes",
    ]
    size = results[0]["parameters"]
    words = (
        f"Mean of -log density, mean and standard error over splits; {size:,} parameters or so."
    )
    return "\n\n".join([words, markdown_table([head, *rows]), markdown_table([second, *more])])


def quality(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Validation density against CPU minutes, of the first split, as a picture."""
    from structdiff.domains.manifolds.pictures import Quality, quality_chart

    rows = []
    for one in results:
        if one["by_entry"] or one["seed"]:
            continue
        minutes = one["cpu"] / 60 / one["steps"]
        rows += [
            Quality(one["data"], one["route"], look["nll"], round(minutes * look["step"], 2))
            for look in one["looks"]
        ]
        if one["route"] == ROUTES[0]:
            rows.append(Quality(one["data"], "one bandwidth (test)", one["kde"]))
    quality_chart(rows, path, columns=3)


def main() -> None:
    """All jobs, or one."""
    default = Path(os.environ.get("STRUCTDIFF_DATA", "."))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/manifolds-results"))
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--only", nargs="*", help="data sets", choices=[*SETS])
    parser.add_argument("--job", type=json.loads)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.job:
        found = work_of(chosen.job, chosen.data, chosen.out)
        write_json(chosen.out / name_of(chosen.job) / "result.json", found)
        return
    jobs = [
        {"data": data, "route": route, "seed": seed, "by_entry": False}
        for seed in SEEDS
        for data in (chosen.only or SETS)
        for route in ROUTES
    ]
    if "rna" in (chosen.only or SETS):
        jobs.append({"data": "rna", "route": "diffusion", "seed": 0, "by_entry": True})
    done = run_jobs(jobs, chosen.out, chosen.data)
    page = report(done)
    write_atomic(chosen.out / "results.md", (page + "\n").encode())
    write_json(chosen.out / "results.json", done)
    quality(done, chosen.out / "quality.png")
    print(page)


if __name__ == "__main__":
    main()
