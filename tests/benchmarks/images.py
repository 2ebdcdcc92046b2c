"""MNIST: models of digits in latents, codes and pixels, and diffusers'.

What is fixed for all models of digits: the
training part of `structdiff.domains.images` (57,000 of the 60,000; the others are for validation),
the number of updates, the batch, the parameters of the network (+- 3 %), the network calls of a
drawn digit. The test images are looked at once, by the judge and as what is to be restored.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structdiff.artifacts import RunFolder, load_tensors, read_json, save_tensors, write_json
from structdiff.denoiser import Denoiser
from structdiff.domains.images.codec import ImageCodec
from structdiff.domains.images.data import Data, read
from structdiff.domains.images.images import Images
from structdiff.domains.images.recipe import ImagesConfig, fields_of
from structdiff.domains.images.run import Run
from structdiff.metrics.comparison import accuracy, extracted
from structdiff.metrics.frechet import frechet
from structdiff.metrics.judge import JUDGING, Judge, Labelled, load_judge, train_judge
from structdiff.metrics.nearest import nearest
from structdiff.runs.codecs import fit_codec
from structdiff.runs.fields.build import build, codec_of, objective_of
from structdiff.runs.fields.record import Record
from structdiff.runs.fields.training import Collating, Plain
from structdiff.runs.fit import fit
from structdiff.runs.latents import encode_data

STEPS, BATCH = 1500, 64
LOOKS = 4
DRAWN, LOOKED = 2000, 500
CALLS = 50
REFERENCE = 10_000
TRAINING = {
    "steps": STEPS,
    "batch_size": BATCH,
    "learning_rate": 2e-3,
    "warm_up": 100,
    "ema": 0.995,
    "log_every": 100,
    "validate_every": STEPS // LOOKS,
    "save_seconds": 60,
    "device": "cpu",
}
CODEC_TRAINING = {
    "steps": 1200,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "warm_up": 50,
    "ema": 0.99,
    "log_every": 100,
    "validate_every": 600,
    "save_seconds": 60,
    "device": "cpu",
}
PIXELS = {"width": 16, "multipliers": (1, 2, 3), "blocks": 1, "attention": (2,), "features": 80}
SAMPLER = {"kind": "multistep", "eta": 1.0, "grid": "log-snr"}
# A guided step has two calls; near pure noise, where classes decide little, there is no guidance.
GUIDED = {**SAMPLER, "steps": CALLS // 2, "guidance": 1.8, "guide_to": 0.75}
PLAIN = {**SAMPLER, "steps": CALLS, "guidance": 1.0}
CODES = {"kind": "ancestral"}

MODELS: dict[str, dict[str, Any]] = {
    "kl": {
        "codec": {"kind": "kl", "channels": 4, "width": 32, "training": CODEC_TRAINING},
        "network": {
            "width": 24,
            "multipliers": (1, 2),
            "blocks": 1,
            "attention": (1,),
            "features": 144,
        },
        "training": TRAINING,
    },
    "vq": {
        "codec": {
            "kind": "vq",
            "channels": 8,
            "codes": 128,
            "width": 32,
            "training": CODEC_TRAINING,
        },
        "network": {"width": 80, "layers": 3, "features": 80},
        "training": TRAINING,
    },
    "pixel": {"network": PIXELS, "training": TRAINING},
    "inpainting": {
        "network": PIXELS,
        "task": {"kind": "inpainting"},
        "training": {**TRAINING, "steps": 800, "validate_every": 800},
        "loss": {"dropout": 0.0},
        "data": {"labelled": False},
    },
    "super-resolution": {
        "network": PIXELS,
        "task": {"kind": "super-resolution", "factor": 4},
        "training": {**TRAINING, "steps": 800, "validate_every": 800},
        "loss": {"dropout": 0.0},
        "data": {"labelled": False},
    },
}
ONLY_DIGITS = ("kl", "vq", "pixel")
"""Models whose digits are judged."""


class Looks:
    """Averaged weights in the course of training, each with the CPU seconds until then."""

    def __init__(self, folder: RunFolder, spent: Callable[[], float]) -> None:
        self.folder, self.spent = folder.path / "looks", spent
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, denoiser: Denoiser) -> dict[str, float]:
        """Keep the weights."""
        seconds = self.spent()
        number = len(list(self.folder.glob("*.safetensors"))) + 1
        path = self.folder / f"{number}.safetensors"
        save_tensors(path, dict(denoiser.state_dict()), {"cpu": repr(seconds)})
        return {"cpu": seconds}

    def read(self) -> list[tuple[dict[str, Tensor], float]]:
        """Weights and seconds, the earliest first."""
        paths = sorted(self.folder.glob("*.safetensors"))
        return [(found[0], float(found[1]["cpu"])) for found in map(load_tensors, paths)]


class Clock:
    """CPU seconds of a job over all its starts."""

    def __init__(self, path: Path) -> None:
        self.path, self.began = path, time.process_time()
        self.before = read_json(path)["cpu"] if path.exists() else 0.0

    def __call__(self) -> float:
        """Seconds so far."""
        return float(self.before) + time.process_time() - self.began

    def keep(self) -> float:
        """Write them."""
        write_json(self.path, {"cpu": self()})
        return self()


def train(config: ImagesConfig, folder: RunFolder, data: Data) -> tuple[Run, dict[str, Any]]:
    """A run whose weights are kept in the course of its training, and what it took."""
    objects = ImageCodec.of(data)
    fields = fields_of(config, objects)
    folder.open("images", config.model_dump(mode="json"))
    clock = Clock(folder.path / "codec-seconds.json")
    codec, latents = codec_of(config, fields), None
    identity = data.train.identity()
    try:
        if codec is not None:
            codec = fit_codec(
                folder.path,
                codec,
                Plain(data.train),
                identity=identity,
                training=config.codec.training,
                held_out=Plain(data.validation, 512),
            )
            latents = encode_data(
                folder.path / "latents", codec, Plain(data.train), identity=identity
            )
    finally:
        before = clock.keep()
    clock = Clock(folder.path / "seconds.json")
    record = Record(fields, codec)
    denoiser, objective = build(config, fields, record), objective_of(config, fields, record)
    try:
        fit(
            folder,
            "images",
            config,
            config.training,
            denoiser,
            objective,
            samples=len(data.train),
            collate=Collating(data.train, fields, codec, latents),
            identity=identity,
            codec=objects.state(),
            validate=Looks(folder, clock),
        )
    finally:
        spent = clock.keep()
    parameters = sum(weight.numel() for weight in denoiser.parameters())
    inside = 0 if codec is None else sum(weight.numel() for weight in codec.parameters())
    took = {"cpu": spent, "codec_cpu": before, "parameters": parameters, "codec": inside}
    return Run.load(folder.path), took


def digits(data: Path) -> Data:
    """MNIST."""
    return read(data / "mnist")


def judge_of(out: Path) -> Judge:
    """The judge, which another job trained."""
    return load_judge(out / "judge" / "model")


def work_judge(out: Path, data: Path) -> dict[str, Any]:
    """Train the judge, and keep the features of real digits and what is known of those."""
    mnist = digits(data)
    labelled = [
        Labelled(part.labels, part.fields, part.identity())
        for part in (mnist.train, mnist.test)
        if part.labels is not None
    ]
    judge = train_judge(
        labelled[0],
        labelled[1],
        mnist.train.shape,
        10,
        folder=out / "judge" / "model",
        config=JUDGING.model_copy(update={"steps": 1000, "device": "cpu", "save_seconds": 60.0}),
    )
    np.savez(
        out / "digits.part.npz",
        train_images=mnist.train.pixels,
        train_labels=mnist.train.labels,
    )
    os.replace(out / "digits.part.npz", out / "digits.npz")
    some = np.linspace(0, len(mnist.train) - 1, REFERENCE).round().astype(np.int64)
    reference = extracted(judge, mnist.train.fields(some))
    save_tensors(out / "judge" / "reference.safetensors", {"features": reference}, {})
    real = mnist.test.select(np.arange(DRAWN))
    return {"about": judge.about(), **judge.facts, "real": judged(out, mnist, real)}


def judged(out: Path, data: Data, drawn: Images) -> dict[str, Any]:
    """How good digits are: the judge's word, the Frechet distance, nearest training digits."""
    judge = judge_of(out)
    reference = load_tensors(out / "judge" / "reference.safetensors")[0]["features"]
    x = drawn.fields()
    labels = drawn.labels if drawn.labels is not None else np.zeros(len(drawn), np.int64)
    right, distance = accuracy(judge, x, labels), frechet(extracted(judge, x), reference)
    looked = extracted(judge, x[:LOOKED])
    few = x[:: max(1, len(x) // 500)]
    blocks = (
        data.train.fields(slice(first, first + 5000)) for first in range(0, len(data.train), 5000)
    )
    return {
        "samples": len(drawn),
        "accuracy": right.value,
        "accuracy_low": right.low,
        "accuracy_high": right.high,
        "frechet": distance.value,
        "frechet_error": distance.error,
        "frechet_fewer": frechet(looked, reference).value,
        "nearest": float(nearest(few, blocks).distance.median()),
    }


def sampled(run: Run, samples: int, settings: Mapping[str, Any]) -> tuple[Images, float]:
    """Digits of all classes in turn, and the CPU seconds that they took."""
    began = time.process_time()
    labels = [number % 10 for number in range(samples)]
    drawn = run.sample(samples, label=labels, seed=1, batch_size=250, progress=False, **settings)
    return drawn, time.process_time() - began


def drawn_by(
    way: str, name: str, run: Run, out: Path, data: Data, samples: int, look: int | None = None
) -> dict[str, Any]:
    """Digits that were drawn and judged, or what is kept of that."""
    label = way if look is None else f"{way}-{look}"
    path = out / name / f"{label}.json"
    if path.exists():
        kept: dict[str, Any] = read_json(path)
        return kept
    drawn, seconds = sampled(run, samples, settings_of(name)[way])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path.with_suffix(".npz"), pixels=drawn.pixels[:200])
    found = {**judged(out, data, drawn), "cpu": seconds}
    write_json(path, found)
    return found


def settings_of(name: str) -> dict[str, dict[str, Any]]:
    """Ways to draw of a model."""
    if name == "vq":
        guided = {**CODES, "steps": CALLS // 2, "guidance": 2.0}
        return {"guided": guided, "plain": {**CODES, "steps": CALLS}}
    return {"guided": GUIDED, "plain": PLAIN}


def work_digits(name: str, out: Path, data: Path) -> dict[str, Any]:
    """Train a model of digits, and judge what it draws."""
    mnist, folder = digits(data), RunFolder(out / name / "run")
    config = ImagesConfig.model_validate({**MODELS[name], "data": {"path": str(data / "mnist")}})
    run, took = train(config, folder, mnist)
    found = {way: drawn_by(way, name, run, out, mnist, DRAWN) for way in settings_of(name)}
    looks, lines = Looks(folder, float).read(), []
    denoiser, before = run.model.denoiser, took["codec_cpu"]
    final = dict(denoiser.state_dict())
    for number, (weights, seconds) in enumerate(looks[:-1]):
        denoiser.load_state_dict(weights)
        told = drawn_by("guided", name, run, out, mnist, LOOKED, look=number)
        lines.append({**told, "cpu": before + seconds})
    denoiser.load_state_dict(final)
    lines.append({**found["guided"], "cpu": before + looks[-1][1]})
    reconstructed: dict[str, Any] = {}
    if run.model.codec is not None:
        part = mnist.validation.select(np.arange(min(DRAWN, len(mnist.validation))))
        x = part.fields()
        again = run.model.decode(run.model.encode(x)).clamp(-1, 1)
        labels = None if part.labels is None else torch.from_numpy(part.labels)
        lost = float((again - x).square().mean())
        reconstructed = {**judged(out, mnist, Images.of_fields(again, labels)), "error": lost}
    rate = config.training.steps * config.training.batch_size / took["cpu"]
    return {
        **took,
        "images_per_second": rate,
        "reconstructed": reconstructed,
        "looks": lines,
        **found,
    }


def work_theirs(out: Path, peers: Path) -> dict[str, Any]:
    """Train diffusers' model in its own environment."""
    folder = out / "theirs"
    command = [
        *(str(peers), str(Path(__file__).with_name("diffusers_mnist.py"))),
        *("--data", str(out / "digits.npz"), "--out", str(folder)),
        *("--steps", str(STEPS), "--batch", str(BATCH), "--calls", str(CALLS)),
        *("--samples", str(DRAWN), "--looked", str(LOOKED), "--looks", str(LOOKS)),
    ]
    subprocess.run(command, check=True)
    found: dict[str, Any] = read_json(folder / "theirs.json")
    return found


def work_theirs_judged(out: Path, data: Path) -> dict[str, Any]:
    """Judge what diffusers' model draws."""
    mnist, folder = digits(data), out / "theirs"
    theirs = read_json(folder / "theirs.json")
    last = max(map(int, theirs["kept"]))
    found: dict[str, Any] = {"looks": []}
    for path in sorted(folder.glob("samples-*.npz")):
        _, sampler, step = path.stem.split("-")
        with np.load(path) as file:
            x, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
            seconds = float(file["seconds"])
        told = judged(out, mnist, Images.of_fields(x, labels))
        if int(step) == last:
            found[sampler] = {**told, "cpu": seconds}
            drawn = Images.of_fields(x[:200], labels[:200])
            np.savez(folder / f"{sampler}.npz", pixels=drawn.pixels)
        if sampler == "DDPM":
            found["looks"].append({"cpu": theirs["kept"][step], **told})
    found["looks"].sort(key=lambda line: line["cpu"])
    return {**{key: theirs[key] for key in ("parameters", "images_per_second")}, **found}
