"""Latent diffusion of digits and spoken digits, beside pixels, codes and diffusers.

    OMP_NUM_THREADS=1 python tests/benchmarks/latent_results.py --out runs/latent-results

All runs of the tables: `images_jobs.py` (MNIST: KL latents, VQ codes, pixels, diffusers, what is
completed and enlarged), `audio.py` (spoken digits), `audio_waves.py` (their waves, of no class)
and `training_throughput.py`. Two jobs go at a time, one thread each; stop it at any time, the same
command goes on. `--data` is the folder with `mnist/` and `fsdd/` (by default $STRUCTDIFF_DATA);
`--peers` is a Python that has diffusers, and without it that side is left out. Written are
`results.md`, `results.json` and `pictures/`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import audio
import audio_waves
import images_jobs
import images_report
import torch
import training_throughput
from jobs import keep_result, results, run_jobs

from structdiff.artifacts import write_atomic, write_json
from structdiff.training.memory import keep_freed_memory

NEEDS: dict[str, Sequence[str]] = {
    **{name: needs for name, needs in images_jobs.NEEDS.items()},
    **audio.NEEDS,
    **audio_waves.NEEDS,
    "throughput": (),
}
# The longest first, but the judge, which others wait for.
ORDER = (
    "judge",
    "audio-judge",
    "theirs",
    "pixel",
    "audio-waves",
    "kl",
    "audio",
    "vq",
    "inpainting",
    "super-resolution",
    "restored",
    "theirs-judged",
    "throughput",
)


def work(name: str, out: Path, data: Path, peers: Path | None) -> dict[str, Any]:
    """A job by name."""
    torch.set_num_threads(1)
    keep_freed_memory()
    if name in audio.NEEDS:
        return audio.work(name, out, data)
    if name in audio_waves.NEEDS:
        return audio_waves.work(out, data)
    if name in images_jobs.NEEDS:
        return images_jobs.work(name, out, data, peers)
    return training_throughput.measured(peers)


def page(found: Mapping[str, Any]) -> str:
    """All tables."""
    parts = {
        "Digits": images_report.report(found),
        "Spoken digits": audio.report(found),
        "Waves of spoken digits": audio_waves.report(found),
        "Throughput": training_throughput.report(found["throughput"])
        if "throughput" in found
        else "",
    }
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items() if text)


def main() -> None:
    """All jobs, or one."""
    default = Path(os.environ.get("STRUCTDIFF_DATA", "."))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/latent-results"))
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--peers", type=Path, help="a Python that has diffusers")
    parser.add_argument("--only", nargs="*", help="jobs", choices=ORDER)
    parser.add_argument("--job", choices=ORDER)
    parser.add_argument("--report", action="store_true", help="tables of what is there alone")
    chosen = parser.parse_args()
    if chosen.job:
        found = work(chosen.job, chosen.out, chosen.data, chosen.peers)
        keep_result(chosen.job, chosen.out, found)
        return
    names = [name for name in ORDER if name in (chosen.only or ORDER)]
    if chosen.peers is None:
        names = [name for name in names if not name.startswith("theirs")]
    command = [sys.executable, __file__, "--out", str(chosen.out), "--data", str(chosen.data)]
    command += [] if chosen.peers is None else ["--peers", str(chosen.peers)]
    if not chosen.report:
        run_jobs(names, NEEDS, chosen.out, command)
    found = results(ORDER, chosen.out)
    text = page(found)
    write_atomic(chosen.out / "results.md", (text + "\n").encode())
    write_json(chosen.out / "results.json", found)
    images_report.pictures(found, chosen.out, chosen.out / "pictures")
    audio.pictures(chosen.out, chosen.out / "pictures")
    audio_waves.pictures(chosen.out, chosen.out / "pictures")
    print(text)


if __name__ == "__main__":
    main()
