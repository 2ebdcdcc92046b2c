"""How the benchmarks measure: one thread, CPU time, contestants in turns, ratios to a floor.

Seconds on a shared machine say nothing, and neither do ratios of two separate runs. Here every
contestant has a turn in every round, what a round says is its time beside that of the floor in the
same round, and the median over the rounds is printed with the lowest and highest of them.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch

from structdiff.training.memory import keep_freed_memory

__all__ = ["Contestant", "Ratio", "ratios", "table", "where"]

torch.set_num_threads(1)
# glibc gives freed memory back to the kernel and faults it in again, by rules that depend on what
# ran before: with them a contestant's time would depend on its neighbours.
keep_freed_memory()


@dataclass(frozen=True)
class Contestant:
    """What is timed.

    Arguments:
        walk: Takes what `prepare` returned and works; only this is timed.
        calls: Units of work (network calls, molecules) in one walk.
        prepare: Called before each walk, outside the clock.
    """

    walk: Callable[[object], object]
    calls: int
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Ratio:
    """CPU time per unit of work: the median in seconds, and over the floor's of the same round."""

    seconds: float
    median: float
    low: float
    high: float


def turn(contestant: Contestant, seconds: float) -> float:
    """CPU seconds per unit of work, over as many walks as fill `seconds`, at least two."""
    spent, walks = 0.0, 0
    while spent < seconds or walks < 2:
        state = contestant.prepare()
        start = time.process_time()
        contestant.walk(state)
        spent += time.process_time() - start
        walks += 1
    return spent / walks / contestant.calls


def ratios(
    contestants: Mapping[str, Contestant],
    floor: str,
    *,
    rounds: int = 7,
    seconds: float = 0.1,
    grad: bool = False,
) -> dict[str, Ratio]:
    """Times of all contestants over that of the floor.

    Arguments:
        contestants: By name.
        floor: The name of the one that the others are measured in.
        rounds: How many turns each has; an odd number.
        seconds: CPU time of a turn.
        grad: Whether gradients are on.
    """
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    with torch.set_grad_enabled(grad):
        for contestant in contestants.values():
            contestant.walk(contestant.prepare())
        for _ in range(rounds):
            for name, contestant in contestants.items():
                spent[name].append(turn(contestant, seconds))
    base = np.array(spent[floor])
    result = {}
    for name, times in spent.items():
        over = np.array(times) / base
        result[name] = Ratio(
            float(np.median(times)), float(np.median(over)), float(over.min()), float(over.max())
        )
    return result


def table(columns: Mapping[str, Mapping[str, Ratio]]) -> str:
    """A Markdown table of ratios, a column per setting: median (lowest to highest round)."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    lines = ["| times the floor | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name in names:
        cells = [
            f"{c[name].median:.2f} ({c[name].low:.2f} to {c[name].high:.2f})" if name in c else "-"
            for c in columns.values()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def where() -> str:
    """Machine, date and load, for the head of a table."""
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg()) if hasattr(os, "getloadavg") else "?"
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        pass
    today = datetime.now(UTC).date()
    return (
        f"{model}, {os.cpu_count()} cores, one torch thread; Python {platform.python_version()}, "
        f"torch {torch.__version__}; {today}; load average {load}"
    )
