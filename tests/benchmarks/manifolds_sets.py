"""The data sets of `manifolds.py`, and how the networks on each of them are trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from structdiff.domains.manifolds.recipe import ManifoldsConfig

LEAST = 1e-3
ROUTES = ("diffusion", "flow")
VALIDATIONS = 6

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
