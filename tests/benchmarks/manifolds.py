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
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from manifolds_jobs import work_of
from manifolds_report import quality, report
from manifolds_sets import ROUTES, SETS, name_of

from structdiff.artifacts import read_json, write_atomic, write_json

SEEDS = (0, 1, 2)


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
