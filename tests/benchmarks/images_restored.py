"""MNIST: digits that are completed and enlarged, by models trained for it and one that was not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import CALLS, DRAWN, MODELS, digits, judge_of, train
from torch import Tensor

from structdiff.artifacts import RunFolder, save_tensors
from structdiff.domains.images.recipe import ImagesConfig
from structdiff.domains.images.run import Run, load_data
from structdiff.metrics.comparison import accuracy
from structdiff.operators import Downsample, Mask, Measurement
from structdiff.runs.fields import Given, Request, Seen

RESTORED = 100


def psnr(x: Tensor, clean: Tensor, where: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio of all images, in dB; the range is 2."""
    square = (x - clean).square()
    mean = square.mean() if where is None else square[where.expand_as(square)].mean()
    return float(10 * torch.log10(4 / mean))


def restoring(
    clean: Tensor,
) -> dict[str, tuple[Measurement, Tensor, Tensor | None]]:
    """What is measured of digits, what came out, and the pixels that are not known."""
    known = torch.ones(1, 28, 28, dtype=torch.bool)
    known[:, 7:21, 7:21] = False
    mask, small = Mask(known), Downsample((1, 28, 28), 4, axes=2)
    return {
        "inpainting": (mask, mask(clean), ~known),
        "super-resolution": (small, small(clean), None),
    }


def laid(operator: Measurement, y: Tensor) -> Tensor:
    """What was measured at the places of digits: with a grey hole, or each pixel repeated."""
    if isinstance(operator, Downsample):
        return y.repeat_interleave(4, 2).repeat_interleave(4, 3)
    masked: Tensor = operator.adjoint(y)
    return masked


def asked_to(way: str, task: str, run: Run, clean: Tensor) -> Request:
    """The request that restores digits."""
    operator, y, hole = restoring(clean)[task]
    if way == "trained" and hole is not None:
        return run.asked(len(clean), given=clean, known=~hole, seed=2)
    if way == "trained":
        return run.asked(len(clean), measured=y, seed=2)
    if way == "replacement" and hole is not None:
        held = Given(clean, (~hole)[None])
        return run.request(len(clean), given=held, seed=2)
    return run.request(len(clean), seen=Seen(operator, y), seed=2)


def work_restored(out: Path, data: Path) -> dict[str, Any]:
    """Digits completed and enlarged: by models trained for it, and by one that was not."""
    mnist, found = digits(data), dict[str, Any]()
    some = mnist.test.select(np.arange(DRAWN, DRAWN + RESTORED))
    clean, judge = some.fields(), judge_of(out)
    plain = {"threshold": "clip", "guidance": 1.0, "batch_size": 100}
    ways: dict[str, dict[str, Any]] = {
        "trained": {"kind": "ddim", "steps": CALLS},
        "replacement": {"kind": "ancestral", "steps": CALLS, "inverse": "replacement"},
        "replacement, repeated": {"kind": "ancestral", "steps": CALLS, "repaint": 5, "jump": 5},
        "DPS": {"inverse": "dps", "steps": 100, "zeta": 1.0},
    }
    for task in ("inpainting", "super-resolution"):
        operator, y, hole = restoring(clean)[task]
        again = laid(operator, y)
        pictures = {"digit": clean, "seen": again}
        for way, settings in ways.items():
            if way == "replacement, repeated" and hole is None:
                continue
            model = task if way == "trained" else "pixel"
            run = Run.load(out / model / "run").drawing(**plain, **settings)
            began = time.process_time()
            x = run.fields(asked_to(way.split(",")[0], task, run, clean), progress=False)
            seconds = time.process_time() - began
            labels = some.labels if some.labels is not None else []
            found.setdefault(task, {})[way] = {
                "psnr": psnr(x, clean, hole),
                "consistency": float((operator(x) - y).square().mean().sqrt()),
                "accuracy": accuracy(judge, x, labels).value,
                "cpu": seconds,
            }
            pictures[way] = x
        found[task]["as measured"] = {
            "psnr": psnr(again, clean, hole),
            "consistency": float((operator(again) - y).square().mean().sqrt()),
            "accuracy": accuracy(judge, again, labels).value,
            "cpu": 0.0,
        }
        small = {name.replace(", ", "-"): x[:10].contiguous() for name, x in pictures.items()}
        save_tensors(out / "restored" / f"{task}.safetensors", small, {})
    return found


def work_restoring(name: str, out: Path, data: Path) -> dict[str, Any]:
    """Train a model that restores."""
    own = {**MODELS[name].get("data", {}), "path": str(data / "mnist")}
    config = ImagesConfig.model_validate({**MODELS[name], "data": own})
    return train(config, RunFolder(out / name / "run"), load_data(config))[1]
