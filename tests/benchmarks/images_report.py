"""Tables and pictures of the digits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from images import BATCH, STEPS

from structdiff.artifacts import load_tensors
from structdiff.reports.tables import markdown_table


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
