"""Points on the earth and RNA torsions: likelihoods of networks beside kernel density estimates.

    OMP_NUM_THREADS=1 python tests/benchmarks/manifolds.py --out runs/manifolds-results

Four data sets of S^2 and one of T^7, by diffusion and by flow, in the splits of the riemannian-fm
code (80 / 10 / 10 by seed); RNA also by PDB entry. The weights are those of the averaged ones that
validation points are likeliest under, and the noise at which densities are taken is chosen there
too; the test part is looked at once. What is fixed beforehand: the noise reaches down to 0.001
(rad, or time of a flow), about the precision of coordinates given to a tenth of a degree;
densities never are of less noise. The likelihood is that of the probability flow, by Runge-Kutta
steps of fixed length in the logarithm of the noise and the exact divergence.
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
from torch.func import jvp, vmap

from structdiff.artifacts import (
    RunFolder,
    load_tensors,
    read_json,
    save_tensors,
    write_atomic,
    write_json,
)
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser, NetworkDenoiser
from structdiff.domains.manifolds.data import Data, read
from structdiff.domains.manifolds.kde import fit_bandwidth, fit_mixture
from structdiff.domains.manifolds.metrics import nearest
from structdiff.domains.manifolds.recipe import ManifoldsConfig, build, objective_of
from structdiff.processes import GeodesicFlow
from structdiff.reports.tables import markdown_table
from structdiff.training import Source, Trainer

LEAST = 1e-3
NEAR = 1e-3
ROUTES = ("diffusion", "flow")
SEEDS = (0, 1, 2)
PARTS = ("train", "validation", "test")
NOISES = (1e-3, 3e-3, 1e-2, 3e-2)
AT = {"flood": 1e-2}  # noise of the validations during training; 0.003 of the others
CHECKED = {"sphere:2": 192, "torus:7": 96}
VALIDATIONS = 6
TRAIN_POINTS = 150
TOGETHER = 256

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
OCTAVES = {"rna": 8.0, "earthquake": 9.0, "flood": 8.0, "fire": 10.0, "volcano": 10.0}
STEPS = {"rna": 2000, "earthquake": 2400, "flood": 2000, "fire": 3600, "volcano": 300}
RATES = {"fire": 2e-3, "flood": 1.5e-3}
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
                "learning_rate": RATES.get(job["data"], 1e-3),
                "warm_up": 100,
                "validate_every": max(1, steps // VALIDATIONS),
                "log_every": 50,
                "save_seconds": 60,
                "device": "cpu",
            },
        }
    )


def log_density(
    denoiser: NetworkDenoiser, space: Any, x: Tensor, noise: float, steps: int = 20
) -> Tensor:
    """Log density of points of one leaf by the probability flow, `(rows,)`."""
    process: Any = denoiser.process
    (name,) = process.geometry
    leaf, low = process[name], math.log(noise)
    flow = isinstance(leaf, GeodesicFlow)
    high = 0.0 if flow else leaf.schedule.high
    parts = [
        _density(denoiser, space, name, part, (low, high), steps, flow=flow)
        for part in x.float().split(TOGETHER)
    ]
    return torch.cat(parts)


@torch.no_grad()
def _density(
    denoiser: NetworkDenoiser,
    space: Any,
    name: str,
    x: Tensor,
    ends: tuple[float, float],
    steps: int,
    *,
    flow: bool,
) -> Tensor:
    """The same for a block: Runge-Kutta's fourth order in s = log(noise)."""
    batch = Batch.of({name: x})
    schedule: Any = denoiser.process[name].schedule  # type: ignore[index]

    def field(y: Tensor, s: float) -> Tensor:
        # dx/ds = -estimate, for the heat kernel with s = log sigma and for a flow with s = log t.
        time = math.exp(s) if flow else (s - schedule.low) / (schedule.high - schedule.low)
        t = torch.tensor(min(max(time, 0.0), 1.0), dtype=torch.float64)
        return -denoiser(batch.with_leaves({name: y}), {name: t})[name].value

    def rates(y: Tensor, s: float) -> tuple[Tensor, Tensor]:
        frame = space.frame(y)
        v, turned = vmap(
            lambda e: jvp(lambda z: field(z, s), (y,), (e,)), in_dims=1, out_dims=(None, 1)
        )(frame)
        return v, (turned * frame).sum((1, 2))

    h, total, y = (ends[1] - ends[0]) / steps, x.new_zeros(len(x)), x
    for i in range(steps):
        s = ends[0] + i * h
        k1, d1 = rates(y, s)
        k2, d2 = rates(space.project(y + h / 2 * k1), s + h / 2)
        k3, d3 = rates(space.project(y + h / 2 * k2), s + h / 2)
        k4, d4 = rates(space.project(y + h * k3), s + h)
        y = space.project(y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
        total = total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return total.double() - space.log_volume


class Validation:
    """The averaged weights that some validation points are likeliest under, kept in a file."""

    def __init__(self, data: Data, folder: RunFolder, noise: float) -> None:
        (leaf,) = data.codec.leaves
        self.space: Any = data.codec.spaces[leaf.name]
        self.points = data.validation.leaves[leaf.name][: CHECKED[leaf.space]]
        self.path, self.noise, self.spent = folder.path / "best.safetensors", noise, 0.0

    def __call__(self, denoiser: Denoiser) -> dict[str, float]:
        """The mean of -log density, and its error."""
        began = time.process_time()
        total = log_density(denoiser, self.space, self.points, self.noise, 12)  # type: ignore[arg-type]
        value, error = float(-total.mean()), float(total.std() / math.sqrt(len(total)))
        least = float(load_tensors(self.path)[1]["nll"]) if self.path.exists() else math.inf
        if value < least:
            save_tensors(self.path, dict(denoiser.state_dict()), {"nll": repr(value)})
        self.spent += time.process_time() - began
        return {"nll": value, "nll_error": error}

    def best_noise(self, denoiser: NetworkDenoiser) -> dict[float, float]:
        """The mean of -log density at each noise."""
        return {
            noise: float(-log_density(denoiser, self.space, self.points, noise, 12).mean())
            for noise in NOISES
        }


def validations(folder: RunFolder) -> list[dict[str, Any]]:
    """The lines of the metrics that are of validations."""
    return [line for line in folder.read_metrics() if "nll" in line]


def work_of(job: Mapping[str, Any], source: Path, out: Path) -> dict[str, Any]:
    """One training, judged once on the test part."""
    config = config_of(job, source)
    folder = RunFolder(out / name_of(job))
    data = read(**config.data.model_dump())
    (leaf,) = data.codec.leaves
    space: Any = data.codec.spaces[leaf.name]
    points = {part: getattr(data, part).leaves[leaf.name] for part in PARTS}
    denoiser = build(config, data.codec)
    check = Validation(data, folder, AT.get(job["data"], 3e-3))
    folder.open("benchmark", {"job": dict(job), **config.model_dump(mode="json")})
    samples = Source(
        len(data.train), data.train.collate, batch_size=config.training.batch_size, seed=0
    )
    clock, before = folder.path / "seconds.json", 0.0
    if clock.exists():
        before = read_json(clock)["cpu"]
    began = time.process_time()
    try:
        objective = objective_of(config, data.codec)
        Trainer(denoiser, objective, samples, config.training, folder=folder, validate=check).run()
    finally:
        spent = time.process_time() - began
        write_json(clock, {"cpu": before + spent})
    denoiser.load_state_dict(load_tensors(check.path)[0])
    denoiser.eval()
    noises = check.best_noise(denoiser)
    noise = min(noises, key=lambda one: noises[one])
    test = log_density(denoiser, space, points["test"], noise)
    few = torch.linspace(0, len(points["train"]) - 1, TRAIN_POINTS).round().long().unique()
    seen = log_density(denoiser, space, points["train"][few], noise, 16)
    gap = nearest(space, points["test"], points["train"])
    far = gap > NEAR
    lines = validations(folder)
    best = min(lines, key=lambda line: line["nll"])
    return {
        **job,
        "nll": float(-test.mean()),
        "error": float(test.std() / math.sqrt(len(test))),
        "nll_far": float(-test[far].mean()),
        "near": int((~far).sum()),
        "test": len(far),
        "nll_train": float(-seen.mean()),
        "nearest": float(gap.median()),
        "noise": noise,
        "noises": {f"{one:g}": value for one, value in noises.items()},
        "stopped": best["step"],
        "steps": config.training.steps,
        "cpu": before + spent,
        "cpu_looking": check.spent,
        "parameters": sum(weight.numel() for weight in denoiser.parameters()),
        "looks": [
            {"step": line["step"], "nll": line["nll"], "error": line["nll_error"]}
            for line in lines
        ],
        **estimates(job, space, points, far, check.points, out),
    }


def estimates(
    job: Mapping[str, Any],
    space: Any,
    points: Mapping[str, Tensor],
    far: Tensor,
    checked: Tensor,
    out: Path,
) -> dict[str, Any]:
    """Kernel density estimates of the split, shared by the routes."""
    path = out / f"kde-{job['data']}{'-by-entry' if job['by_entry'] else ''}-{job['seed']}.json"
    if path.exists():
        found: dict[str, Any] = read_json(path)
        return found
    one = fit_bandwidth(space, points["train"], points["validation"])
    many = fit_mixture(space, points["train"], points["validation"])
    # Beside the networks' validations, on the same points.
    found = {
        "bandwidth": one.bandwidths[0],
        "kde_checked": float(-one.log_prob(checked).mean()),
        "kde_mixture_checked": float(-many.log_prob(checked).mean()),
    }
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
        minutes = (one["cpu"] - one["cpu_looking"]) / 60 / one["steps"]
        rows += [
            Quality(one["data"], one["route"], look["nll"], round(minutes * look["step"], 2))
            for look in one["looks"]
        ]
        if one["route"] == ROUTES[0]:
            rows.append(Quality(one["data"], "one bandwidth", one["kde_checked"]))
            rows.append(Quality(one["data"], "eleven bandwidths", one["kde_mixture_checked"]))
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
    sets = [data for data in SETS if data in (chosen.only or SETS)]
    jobs = [
        {"data": data, "route": route, "seed": seed, "by_entry": False}
        for seed in SEEDS
        for data in sets
        for route in ROUTES
    ]
    jobs.sort(key=lambda job: job["data"] == "volcano")
    if "rna" in sets:
        jobs.append({"data": "rna", "route": "diffusion", "seed": 0, "by_entry": True})
    done = run_jobs(jobs, chosen.out, chosen.data)
    page = report(done)
    write_atomic(chosen.out / "results.md", (page + "\n").encode())
    write_json(chosen.out / "results.json", done)
    quality(done, chosen.out / "quality.png")
    print(page)


if __name__ == "__main__":
    main()
