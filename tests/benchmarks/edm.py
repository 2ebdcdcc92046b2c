"""Beside the public EDM molecules code: the same function, speed and memory, training.

    export OMP_NUM_THREADS=1 STRUCTDIFF_DATA=FOLDER EDM=PATH
    python tests/benchmarks/edm.py check [--trained edm_run.pt]
    python tests/benchmarks/edm.py speed [--size large] [--networks EGNN PaiNN] [--out speed.json]
    python tests/benchmarks/edm.py train --minutes 30 --out edm_run.json
    python tests/benchmarks/edm.py compare RUN... --with edm_run.json [--out compared.json]

`check` copies EDM's weights into our EGNN and compares outputs and gradients, and the bounds of
both for a molecule that is known, which have a closed form. `speed` prints training molecules per
second and peak memory as ratios to EDM's; it fails where a bar is missed by more than 15 %.
`train` trains EDM for a given CPU time and writes its bound against updates and CPU time; stopped,
the same command goes on. `compare` scores runs of `structdiff train molecules --data qm9` on the
molecules that EDM was judged on.

PATH is a checkout of ehoogeboom/e3_diffusion_for_molecules, which is no part of this repository;
without one nothing is done, and that is said. FOLDER has `qm9/qm9_3d.npz` (of no use to `check`
and `speed`). See edm_function.py, edm_units.py, edm_speed.py and edm_training.py for what is
compared and how.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import timing
from edm_function import check
from edm_peer import EDMCode
from edm_speed import KINDS, compare, misses, table
from edm_training import Settings, judged_molecules, standard_error, train
from edm_units import units

from structdiff.artifacts import read_json, write_json
from structdiff.domains.molecules.run import Run

SIZES = {"small": ((4, 64),), "large": ((9, 256),), "both": ((4, 64), (9, 256))}


def function(code: EDMCode, options: argparse.Namespace) -> int:
    """Print the errors."""
    shown, missed = check(code, options.trained)
    bounds, off = units(code)
    print(f"{shown}\n\n{bounds}")
    return verdict(missed + off)


def speed(code: EDMCode, options: argparse.Namespace) -> int:
    """Print the tables."""
    print(timing.where())
    chosen = [name for name in options.networks if KINDS[name].here()]
    for name in sorted(set(options.networks) - set(chosen)):
        print(f"{name} is left out: its module or its extra is not here")
    found, missed = {}, []
    for layers, width in SIZES[options.size]:
        times, peaks = compare(
            code, layers, width, chosen=chosen, rounds=options.rounds, seconds=options.seconds
        )
        name = f"{layers} layers x {width} features, batches of 32"
        print(f"\n{name}\n\n{table(times, peaks)}", flush=True)
        missed += [f"{name}: {each}" for each in misses(times, peaks)]
        found[name] = {n: asdict(ratio) | {"peak_mb": peaks[n]} for n, ratio in times.items()}
        if options.out is not None:
            write_json(options.out, {"where": timing.where(), "times": found})
    return verdict(missed)


def training(code: EDMCode, options: argparse.Namespace) -> int:
    """Train."""
    settings = Settings(rate=options.rate, judge=options.judge, molecules=options.molecules)
    train(code, settings, options.minutes, options.out)
    return 0


def comparison(_: EDMCode | None, options: argparse.Namespace) -> int:
    """Bounds of runs beside EDM's, and differences by molecule."""
    peer = read_json(options.peer)
    if not peer["history"]:
        raise ValueError(f"{options.peer} has no bound yet: let `train` go on")
    molecules = judged_molecules(peer["settings"]["molecules"])
    last = peer["history"][-1]
    theirs = {name: np.array(found["molecules"]) for name, found in last["bounds"].items()}
    best = min(theirs, key=lambda name: theirs[name].mean())
    rows = {f"EDM, {name}": values for name, values in theirs.items()}
    for folder in options.runs:
        scores = Run.load(folder).score(
            molecules, draws=options.draws, steps=options.steps, progress=False
        )
        if len(scores.rows) < len(molecules):
            raise ValueError(f"{folder} cannot score all molecules: {scores.summary()}")
        rows[str(folder)] = scores.bound.total.double().numpy()
    print(f"EDM: {last['updates']:,} updates, {last['seconds'] / 60:.1f} CPU minutes")
    print(f"bound in {peer['units']}\n")
    print(f"| model | bound | standard error | less EDM, {best} | error of that |")
    print("|---|---|---|---|---|")
    found: dict[str, Any] = {}
    for name, values in rows.items():
        gap = values - theirs[best]
        found[name] = {
            "bound": float(values.mean()),
            "standard_error": standard_error(values),
            "difference": float(gap.mean()),
            "difference_error": standard_error(gap),
        }
        print(f"| {name} | " + " | ".join(f"{x:.2f}" for x in found[name].values()) + " |")
    if options.out is not None:
        write_json(options.out, {"peer": best, "draws": options.draws, "models": found})
    return 0


def verdict(missed: list[str]) -> int:
    """Say what missed its bar."""
    print("\n" + "\n".join(f"MISSED {each}" for each in missed) if missed else "\nall bars met")
    return int(bool(missed))


def arguments() -> argparse.Namespace:
    """What is asked for."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--edm", type=Path, default=os.environ.get("EDM"), help="the checkout")
    parts = parser.add_subparsers(dest="what", required=True)

    part = parts.add_parser("check", help="weights copied: outputs and gradients")
    part.add_argument("--trained", type=Path, help="also with weights that `train` saved (.pt)")
    part.set_defaults(run=function)

    part = parts.add_parser("speed", help="molecules per second and memory, ratios to EDM's")
    part.add_argument("--networks", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    part.add_argument("--size", choices=tuple(SIZES), default="both", help="4x64 or 9x256")
    part.add_argument("--rounds", type=int, default=3)
    part.add_argument("--seconds", type=float, default=2.0, help="CPU time of a turn")
    part.add_argument("--out", type=Path, help="JSON")
    part.set_defaults(run=speed)

    part = parts.add_parser("train", help="EDM for a given CPU time, its bound on the way")
    part.add_argument("--minutes", type=float, default=30.0, help="CPU time of all updates")
    part.add_argument("--rate", type=float, default=1e-4, help="of learning; EDM's README: 1e-4")
    part.add_argument("--judge", type=float, default=300.0, help="CPU seconds between bounds")
    part.add_argument("--molecules", type=int, default=500, help="judged on, of EDM's validation")
    part.add_argument("--out", type=Path, default=Path("edm_run.json"), help="JSON; state in .pt")
    part.set_defaults(run=training)

    part = parts.add_parser("compare", help="runs of ours on the molecules EDM was judged on")
    part.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    part.add_argument("--with", dest="peer", type=Path, required=True, help="JSON of `train`")
    part.add_argument("--draws", type=int, default=4)
    part.add_argument("--steps", type=int, default=500)
    part.add_argument("--out", type=Path, help="JSON")
    part.set_defaults(run=comparison)
    return parser.parse_args()


def main() -> int:
    """Do what is asked, or say why not."""
    options = arguments()
    if options.what == "compare":
        return int(options.run(None, options))
    try:
        code = EDMCode.load(None if options.edm is None else Path(options.edm))
    except FileNotFoundError as error:
        print(f"skipped: {error}")
        return 0
    return int(options.run(code, options))


if __name__ == "__main__":
    sys.exit(main())
