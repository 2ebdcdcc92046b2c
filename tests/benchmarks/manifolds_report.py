"""Results of `manifolds.py` as tables and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from manifolds_sets import BARS, BELOW_KDE, ROUTES, SETS

from structdiff.reports.tables import markdown_table


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
