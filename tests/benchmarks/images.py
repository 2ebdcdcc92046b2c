"""MNIST: digits in latents, in pixels and by diffusers, and digits that are completed.

The jobs of `latent_results.py` that are of images. What is fixed for all models of digits: the
training part of `structdiff.domains.images` (57,000 of the 60,000; the others chose the settings),
the number of updates, the batch, the parameters of the network (+- 3 %), the network calls of a
drawn digit. The test images are looked at once, by the judge and as what is to be restored.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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
from structdiff.domains.images.run import Run, load_data
from structdiff.metrics.comparison import accuracy, extracted
from structdiff.metrics.frechet import frechet
from structdiff.metrics.judge import JUDGING, Judge, Labelled, load_judge, train_judge
from structdiff.metrics.nearest import nearest
from structdiff.operators import Downsample, Mask, Measurement
from structdiff.reports.tables import markdown_table
from structdiff.runs.codecs import fit_codec
from structdiff.runs.fields import Given, Request, Seen
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
RESTORED = 100
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


def work(name: str, out: Path, data: Path, peers: Path) -> dict[str, Any]:
    """A job by name."""
    if name in ONLY_DIGITS:
        return work_digits(name, out, data)
    if name in MODELS:
        return work_restoring(name, out, data)
    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        "judge": lambda: work_judge(out, data),
        "theirs": lambda: work_theirs(out, peers),
        "theirs-judged": lambda: work_theirs_judged(out, data),
        "restored": lambda: work_restored(out, data),
    }
    return jobs[name]()


NEEDS: dict[str, Sequence[str]] = {
    "judge": (),
    "theirs": ("judge",),
    "kl": ("judge",),
    "pixel": ("judge",),
    "vq": ("judge",),
    "inpainting": (),
    "super-resolution": (),
    "restored": ("judge", "pixel", "inpainting", "super-resolution"),
    "theirs-judged": ("judge", "theirs"),
}
"""Jobs and which others they need."""


def told(name: str, line: Mapping[str, Any], theirs: float | None) -> list[str]:
    """A line of the table of digits."""
    right = f"{line['accuracy']:.2%} [{line['accuracy_low']:.2%}, {line['accuracy_high']:.2%}]"
    over = "" if theirs is None else f"{line['frechet'] / theirs:.2f}"
    return [
        name,
        right,
        f"{line['frechet']:.2f} +- {line['frechet_error']:.2f}",
        over,
        f"{line['nearest']:.3f}",
        f"{line['cpu']:.0f}" if "cpu" in line else "",
    ]


def report(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables of what is there."""
    parts = []
    theirs = found.get("theirs-judged", {})
    samplers = [name for name in ("DDPM", "DDIM") if name in theirs]
    best = min((theirs[name]["frechet"] for name in samplers), default=None)
    if "judge" in found:
        judge = found["judge"]
        head = [
            "digits",
            "accuracy",
            "Frechet",
            "over diffusers' best",
            "nearest training digit",
            "CPU s of drawing",
        ]
        rows = [head, told("real, of the test part", judge["real"], best)]
        names = {"kl": "KL latents", "vq": "VQ codes", "pixel": "pixels"}
        for name, title in names.items():
            for way in ("guided", "plain"):
                if name in found and way in found[name]:
                    rows.append(told(f"{title}, {way}", found[name][way], best))
            if name in found and found[name]["reconstructed"]:
                rows.append(told(f"{title}, encoded", found[name]["reconstructed"], best))
        rows += [told(f"diffusers, {name}", theirs[name], best) for name in samplers]
        parts += [f"The judge is {judge['about']}.", markdown_table(rows)]
        costs = [["model", "parameters", "of the codec", "CPU min", "codec", "images/s", "over"]]
        for name, title in {**names, "theirs-judged": "diffusers"}.items():
            if name not in found:
                continue
            one = found[name]
            rate = one["images_per_second"]
            over = f"{rate / theirs['images_per_second']:.2f}" if theirs else ""
            spent = STEPS * BATCH / rate / 60
            codec, cpu = one.get("codec", 0), one.get("codec_cpu", 0.0) / 60
            costs.append(
                [
                    title,
                    f"{one['parameters']:,}",
                    f"{codec:,}" if codec else "",
                    f"{spent:.1f}",
                    f"{cpu:.1f}" if codec else "",
                    f"{rate:.0f}",
                    over,
                ]
            )
        parts.append(markdown_table(costs))
    if "restored" in found:
        head = ["task", "way", "PSNR, dB", "consistency", "accuracy", "CPU s"]
        rows = [
            [
                task,
                way,
                f"{one['psnr']:.2f}",
                f"{one['consistency']:.4f}",
                f"{one['accuracy']:.1%}",
                f"{one['cpu']:.0f}",
            ]
            for task, ways in found["restored"].items()
            for way, one in ways.items()
        ]
        parts.append(markdown_table([head, *rows]))
    return "\n\n".join(parts)


def pictures(found: Mapping[str, Mapping[str, Any]], out: Path, folder: Path) -> None:
    """Digits, the course of quality, and what was restored."""
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    paths = {
        "KL latents": out / "kl" / "guided.npz",
        "pixels": out / "pixel" / "guided.npz",
        "VQ codes": out / "vq" / "guided.npz",
        "diffusers": out / "theirs" / "DDPM.npz",
    }
    there = {title: path for title, path in paths.items() if path.exists()}
    if there:
        figure, axes = plt.subplots(
            1, len(there), figsize=(3 * len(there), 3.3), layout="constrained", squeeze=False
        )
        for axis, (title, path) in zip(axes[0], there.items(), strict=True):
            with np.load(path) as file:
                axis.imshow(grid(file["pixels"][:100, 0], 10), cmap="gray")
            axis.set(title=title, xticks=[], yticks=[])
        figure.savefig(folder / "digits.png", dpi=110)
        plt.close(figure)
    named = {"kl": "KL latents", "vq": "VQ codes", "pixel": "pixels", "theirs-judged": "diffusers"}
    lines = {title: found[name]["looks"] for name, title in named.items() if name in found}
    if lines:
        figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
        for title, looks in lines.items():
            minutes = [look["cpu"] / 60 for look in looks]
            axes[0].plot(minutes, [look["frechet_fewer"] for look in looks], "o-", label=title)
            axes[1].plot(minutes, [100 * (1 - look["accuracy"]) for look in looks], "o-")
        axes[0].set(ylabel="Frechet distance", yscale="log", xlabel="CPU minutes of training")
        axes[1].set(ylabel="judged another digit, %", yscale="log", xlabel="with the codec's")
        axes[0].legend(frameon=False)
        figure.savefig(folder / "quality.png", dpi=110)
        plt.close(figure)
    for path in (out / "restored").glob("*.safetensors"):
        shown = load_tensors(path)[0]
        order = ["digit", "seen", "trained", "replacement", "replacement-repeated", "DPS"]
        order = [name for name in order if name in shown]
        figure, axes = plt.subplots(
            len(order), 1, figsize=(6, 0.65 * len(order)), layout="constrained"
        )
        for axis, name in zip(axes, order, strict=True):
            axis.imshow(grid(shown[name][:, 0].numpy(), 10), cmap="gray", vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.set_ylabel(name, rotation=0, ha="right", va="center")
        figure.savefig(folder / f"{path.stem}.png", dpi=110)
        plt.close(figure)


def grid(x: Any, columns: int) -> Any:
    """Images side by side, so many in a line."""
    count, height, width = x.shape
    rows = count // columns
    return x.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, -1)


if __name__ == "__main__":
    sys.exit("run latent_results.py")
