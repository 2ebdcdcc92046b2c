"""Jobs of a results script: two at a time, each once what it needs is there, stopped at any time.

A job is done when its folder has a `result.json`; so the same command goes on after a stop, and
what a job keeps on its way is its own affair.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from structdiff.artifacts import read_json, write_json

__all__ = ["done", "keep_result", "metered", "results", "run_jobs", "spent"]

TOGETHER = 2


def run_jobs(
    names: Sequence[str], needs: Mapping[str, Sequence[str]], out: Path, command: Sequence[str]
) -> None:
    """Do what is not done, two at a time, each once what it needs is there.

    Arguments:
        names: The jobs, those to begin with first; what one of them needs is among them or done.
        needs: The jobs that each job needs.
        out: Folder of all jobs; each has a folder and a log of its name there.
        command: What does a job, with `--job NAME` behind it.
    """
    out.mkdir(parents=True, exist_ok=True)
    left = [name for name in names if not done(name, out)]
    running: dict[str, subprocess.Popen[bytes]] = {}
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        while left or running:
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    if process.returncode:
                        sys.exit(f"{name} failed: the end of {out / name}.log says why")
            for name in list(left):
                if len(running) < min(TOGETHER, os.cpu_count() or 1) and all(
                    done(other, out) for other in needs[name]
                ):
                    left.remove(name)
                    print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
                    with (out / f"{name}.log").open("ab") as log:
                        running[name] = subprocess.Popen(
                            [*command, "--job", name], stdout=log, stderr=log
                        )
            if left and not running:
                missing = {n for name in left for n in needs[name] if not done(n, out)}
                sys.exit(f"{', '.join(left)} need {', '.join(sorted(missing))}, not asked for")
            time.sleep(0.5)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a group is told twice
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)


def done(name: str, out: Path) -> bool:
    """Whether a job has ended."""
    return (out / name / "result.json").exists()


@contextmanager
def metered(name: str, out: Path) -> Iterator[None]:
    """Add the CPU time of this process to what a job has spent, also where it is stopped."""
    before = spent(name, out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this must be written
        (out / name).mkdir(parents=True, exist_ok=True)
        write_json(out / name / "spent.json", {"cpu": before + time.process_time()})


def spent(name: str, out: Path) -> float:
    """CPU seconds of a job in all its starts."""
    path = out / name / "spent.json"
    return float(read_json(path)["cpu"]) if path.exists() else 0.0


def keep_result(name: str, out: Path, found: Mapping[str, Any]) -> None:
    """Write down what a job has found, by which it has ended."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "result.json", found)


def results(names: Sequence[str], out: Path) -> dict[str, Any]:
    """What has ended."""
    return {name: read_json(out / name / "result.json") for name in names if done(name, out)}
