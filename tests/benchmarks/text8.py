"""Text8's prefix and Markov letters: chains beside an autoregressive model of the same size.

    OMP_NUM_THREADS=1 python tests/benchmarks/text8.py --out runs/text8

Each objective is trained at three learning rates for a short while; the best on validation is
trained at full length, all with the same steps, batches, seed and network, and judged once on the
test part. Letters are an order-1 chain whose entropy is known. Two runs go at a time, one thread
each; stop it at any time, the same command goes on. `--text PATH` names the text (by default
`text8_first6877825.xz` in $STRUCTDIFF_DATA/text).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.artifacts import RunFolder, load_tensors, write_atomic, write_json
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser, NetworkDenoiser
from structdiff.domains.text.data import read
from structdiff.domains.text.ngram import NGram
from structdiff.layout import Layout
from structdiff.likelihood import continuous_bound
from structdiff.nn import TokenNetwork
from structdiff.objectives import (
    ContinuousBound,
    Objective,
    OrderAgnostic,
    PowerTimes,
    Terms,
    UniformTimes,
)
from structdiff.processes import Categorical, Product, RankOne, absorbing, uniform
from structdiff.random import Generator, Randomness
from structdiff.schedules import Flow
from structdiff.training import Source, Trainer, TrainingConfig

LENGTH, BATCH = 128, 8
NETWORK = {"width": 128, "layers": 4, "heads": 2, "neighbours": 5, "near": 10}
RATES = (1e-3, 2e-3, 4e-3)
PILOT, FULL = 500, 7000
KINDS = ("absorbing", "uniform", "order-agnostic", "autoregressive")
LETTERS = 27
LETTER_STEPS = {"absorbing": 1500, "uniform": 3000}


class NextToken(Objective):
    """Cross-entropy of each token given those before it: the autoregressive model."""

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """Nats per token."""
        del random
        loss = next_token(denoiser, batch)
        layout = batch.layouts["token"]
        return Terms({"token": layout.mean(loss)}, {"token": torch.zeros(layout.rows)})


def next_token(denoiser: Any, batch: Batch) -> Tensor:
    """-log p of each token given those before it, `(rows,)`."""
    layout, x = batch.layouts["token"], batch["token"]
    start = denoiser.backbone.classes
    before = torch.where(layout.row == 0, start, x.roll(1))
    logits = denoiser.backbone(batch.with_leaves({"token": before}), {}, None)["token"]
    return F.cross_entropy(logits.float(), x, reduction="none")


def model(kind: str, classes: int, network: dict[str, int]) -> tuple[NetworkDenoiser, Objective]:
    """A denoiser and what trains it."""
    transition: RankOne = uniform(classes) if kind == "uniform" else absorbing(classes)
    torch.manual_seed(0)
    backbone = TokenNetwork(
        classes + (kind != "uniform"),
        classes,
        clocked=kind == "uniform",
        causal=kind == "autoregressive",
        **network,
    )
    process = Product({"token": Categorical(Flow(), transition)})
    objective: dict[str, Objective] = {
        # Earlier than 1 / LENGTH a text has less than one noisy token, of great weight.
        "absorbing": ContinuousBound(UniformTimes(1 / LENGTH)),
        "uniform": ContinuousBound(UniformTimes(1 / LENGTH)),
        "order-agnostic": OrderAgnostic(),
        "autoregressive": NextToken(),
    }
    return NetworkDenoiser(backbone, process), objective[kind]


@torch.no_grad()
def bits(
    denoiser: NetworkDenoiser, kind: str, batches: Sequence[Batch], draws: int
) -> tuple[float, float]:
    """Bits per token over all batches, and the Monte-Carlo error (of windows, for exact ones)."""
    denoiser.eval()
    rows, errors = [], []
    for i, batch in enumerate(batches):
        if kind == "autoregressive":
            rows.append(batch.layouts["token"].mean(next_token(denoiser, batch)))
        else:
            # A network that sees the clock is asked at no time that it was not trained at.
            times = PowerTimes(2.0, 1 / LENGTH if kind == "uniform" else 1e-4)
            report = continuous_bound(denoiser, batch, Generator(i), draws=draws, times=times)
            tokens = batch.layouts["token"].size
            rows.append(report.total / tokens)
            errors.append(report.mean_error() / float(tokens.float().mean()))
    values = torch.cat(rows).double() / math.log(2)
    if kind == "autoregressive":
        return float(values.mean()), 0.0
    error = math.sqrt(sum(e**2 for e in errors)) / len(errors) / math.log(2)
    return float(values.mean()), error


def train(
    kind: str,
    classes: int,
    source: Source,
    folder: Path,
    *,
    network: dict[str, int],
    rate: float,
    steps: int,
) -> NetworkDenoiser:
    """Train, or go on; returns the model with averaged weights."""
    denoiser, objective = model(kind, classes, network)
    config = TrainingConfig(
        steps=steps,
        batch_size=source.batch_size,
        learning_rate=rate,
        warm_up=min(200, steps // 10),
        weight_decay=0.05,
        ema=0.998 if steps > 2000 else 0.99,
        log_every=50,
        validate_every=10**9,
        save_seconds=30,
    )
    run = RunFolder(folder)
    about = {"kind": kind, "rate": rate, "steps": steps, "network": network}
    run.open("benchmark", {"benchmark": about, "training": config.model_dump(mode="json")})
    start = time.process_time()
    Trainer(denoiser, objective, source, config, folder=run).run()
    spent = time.process_time() - start
    path = folder / "seconds.json"
    before = json.loads(path.read_text())["cpu"] if path.exists() else 0.0
    write_json(path, {"cpu": before + spent})
    weights, _ = load_tensors(run.ema)
    denoiser.load_state_dict(weights)
    return denoiser


def windows(corpus: Any, most: int, size: int = 64) -> list[Batch]:
    """Batches of windows spread evenly over a part of the text."""
    chosen = torch.linspace(0, len(corpus) - 1, min(most, len(corpus))).round().long()
    return [corpus.collate(part.numpy()) for part in chosen.split(size)]


def text_job(job: dict[str, Any], text: Path, folder: Path) -> dict[str, Any]:
    """One training on text, judged on validation, or on the test part at full length."""
    data = read(text, length=LENGTH)
    source = Source(len(data.train), data.train.collate, batch_size=BATCH, seed=0)
    denoiser = train(
        job["kind"],
        data.vocabulary.size,
        source,
        folder,
        network=NETWORK,
        rate=job["rate"],
        steps=job["steps"],
    )
    checked, error = bits(denoiser, job["kind"], windows(data.validation, 256), 4)
    found = {**job, "validation": checked, "validation_error": error}
    if job["full"]:
        found["test"], found["test_error"] = bits(
            denoiser, job["kind"], windows(data.test, 1024), 4
        )
    found["parameters"] = sum(p.numel() for p in denoiser.parameters())
    found["cpu"] = json.loads((folder / "seconds.json").read_text())["cpu"]
    return found


def letter_matrix() -> Tensor:
    """P(j | i) proportional to exp(4 cos(2 pi (j - 5 i - 3) / 27)); its columns sum to 1 too."""
    i, j = torch.arange(LETTERS).double()[:, None], torch.arange(LETTERS).double()
    return torch.softmax(4 * torch.cos(2 * math.pi * (j - 5 * i - 3) / LETTERS), 1)


def letter_entropy(length: int) -> float:
    """Bits per letter of a text of this length that begins in the stationary, uniform law."""
    p = letter_matrix()
    rate = float(-(p * p.log2()).sum(1).mean())
    return (math.log2(LETTERS) + (length - 1) * rate) / length


def letters(indices: Tensor, length: int, seed: int) -> Batch:
    """Texts by number."""
    random = torch.Generator()
    rows = []
    edges = letter_matrix().cumsum(1)
    for index in indices.tolist():
        random.manual_seed(seed * 1_000_003 + index)
        u = torch.rand(length, generator=random, dtype=torch.float64)
        rows.append(u)
    u = torch.stack(rows)
    x = [(u[:, 0] * LETTERS).long()]
    for place in range(1, length):
        x.append(
            torch.searchsorted(edges[x[-1]], u[:, place : place + 1].contiguous())[:, 0].clamp(
                max=26
            )
        )
    counts = [length] * len(indices)
    return Batch({"token": torch.stack(x, 1).flatten()}, {"token": Layout.ragged(counts)})


def letter_job(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One training on letters."""
    length = 64
    source = Source(
        1 << 20,
        lambda index: letters(torch.from_numpy(index), length, 1),
        batch_size=32,
        seed=0,
    )
    network = {"width": 96, "layers": 3, "heads": 2}
    denoiser = train(
        job["kind"], LETTERS, source, folder, network=network, rate=2e-3, steps=job["steps"]
    )
    checks = [letters(torch.arange(i, i + 64), length, 2) for i in range(0, 1024, 64)]
    value, error = bits(denoiser, job["kind"], checks, 8)
    entropy = letter_entropy(length)
    return {
        **job,
        "test": value,
        "test_error": error,
        "entropy": entropy,
        "above": value / entropy - 1,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "cpu": json.loads((folder / "seconds.json").read_text())["cpu"],
    }


def name_of(job: dict[str, Any]) -> str:
    """Folder of a job."""
    if job["what"] == "letters":
        return f"letters-{job['kind']}"
    stage = "full" if job["full"] else "pilot"
    return f"{stage}-{job['kind']}-{job['rate']:g}"


def work(jobs: Sequence[dict[str, Any]], out: Path, text: Path) -> list[dict[str, Any]]:
    """Do what is not done, two at a time, and read all results."""
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
                command = [sys.executable, __file__, "--out", str(out), "--text", str(text)]
                print(f"{time.strftime('%H:%M:%S')} {name_of(job)}", flush=True)
                quiet = {"stderr": (out / "progress.log").open("ab")}
                running.append(subprocess.Popen([*command, "--job", json.dumps(job)], **quiet))
            time.sleep(0.5)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return [json.loads((out / name_of(job) / "result.json").read_text()) for job in jobs]


def ngrams(text: Path) -> dict[str, float]:
    """Bits of n-gram models of the training part, on the test part."""
    data = read(text, length=LENGTH)
    train, test = np.asarray(data.train.tokens), np.asarray(data.test.tokens)
    return {
        f"{n}-gram": NGram.fit([train], data.vocabulary.size, n).bits(test)
        for n in (1, 2, 3, 4, 5)
    }


def report(
    pilots: list[dict[str, Any]],
    full: list[dict[str, Any]],
    letter: list[dict[str, Any]],
    ngrams: dict[str, float],
) -> str:
    """The tables."""
    by = {job["kind"]: job for job in full}
    own = by["autoregressive"]["test"]
    lines = [
        "| text8 prefix, bits per character | "
        + " | ".join(f"rate {r:g}" for r in RATES)
        + " (validation, short) | test | times autoregressive | parameters | CPU minutes |",
        "|---|" + "---|" * (len(RATES) + 4),
    ]
    for kind in KINDS:
        short = {job["rate"]: job["validation"] for job in pilots if job["kind"] == kind}
        job = by[kind]
        error = f" +- {job['test_error']:.3f}" if job["test_error"] else ""
        cells = [f"{short[rate]:.3f}" for rate in RATES]
        cells += [f"{job['test']:.3f}{error}", f"{job['test'] / own:.3f}"]
        cells += [f"{job['parameters']:,}", f"{job['cpu'] / 60:.1f}"]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    lines += ["", "n-gram models, fitted to the same part: "]
    lines[-1] += ", ".join(f"{name} {value:.2f}" for name, value in ngrams.items())
    lines += ["", "| Markov letters | bits per letter | entropy | above | CPU minutes |"]
    lines.append("|---|---|---|---|---|")
    lines += [
        f"| {job['kind']} | {job['test']:.4f} +- {job['test_error']:.4f} | {job['entropy']:.4f} "
        f"| {100 * job['above']:.2f} % | {job['cpu'] / 60:.1f} |"
        for job in letter
    ]
    return "\n".join(lines)


def main() -> None:
    """All jobs, or one."""
    default = Path(os.environ.get("STRUCTDIFF_DATA", ".")) / "text" / "text8_first6877825.xz"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/text8"))
    parser.add_argument("--text", type=Path, default=default)
    parser.add_argument("--job", type=json.loads)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.job:
        folder = chosen.out / name_of(chosen.job)
        if chosen.job["what"] == "letters":
            found = letter_job(chosen.job, folder)
        else:
            found = text_job(chosen.job, chosen.text, folder)
        write_json(folder / "result.json", found)
        return
    pilots = work(
        [
            {"what": "text", "kind": kind, "rate": rate, "steps": PILOT, "full": False}
            for kind in KINDS
            for rate in RATES
        ],
        chosen.out,
        chosen.text,
    )
    best = {
        kind: min((job for job in pilots if job["kind"] == kind), key=lambda j: j["validation"])
        for kind in KINDS
    }
    full = [{**job, "steps": FULL, "full": True} for job in best.values()]
    full = [{k: job[k] for k in ("what", "kind", "rate", "steps", "full")} for job in full]
    letter = [{"what": "letters", "kind": k, "steps": n} for k, n in LETTER_STEPS.items()]
    done = work([*full, *letter], chosen.out, chosen.text)
    page = report(pilots, done[: len(full)], done[len(full) :], ngrams(chosen.text))
    write_atomic(chosen.out / "results.md", (page + "\n").encode())
    print(page)


if __name__ == "__main__":
    main()
