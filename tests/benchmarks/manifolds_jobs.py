"""A job of `manifolds.py`: a training whose likeliest weights are judged once on the test part."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from manifolds_density import log_density
from manifolds_sets import config_of, name_of
from torch import Tensor

from structdiff.artifacts import RunFolder, load_tensors, read_json, save_tensors, write_json
from structdiff.denoiser import Denoiser, NetworkDenoiser
from structdiff.domains.manifolds.data import Data, read
from structdiff.domains.manifolds.kde import fit_bandwidth, fit_mixture
from structdiff.domains.manifolds.metrics import nearest
from structdiff.domains.manifolds.recipe import build, objective_of
from structdiff.training import Source, Trainer

NEAR = 1e-3
PARTS = ("train", "validation", "test")
NOISES = (1e-3, 3e-3, 1e-2, 3e-2)
AT = {"flood": 1e-2}  # noise of the validations during training; 0.003 of the others
CHECKED = {"sphere:2": 192, "torus:7": 96}
TRAIN_POINTS = 150


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
