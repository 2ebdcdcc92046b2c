"""Cost of chains on classes: losses, steps and corruption, as ratios to the plainest code.

Run `python tests/benchmarks/chains.py` (about five minutes on one core). Logits are given, so the
network is not in it. Floors: `F.cross_entropy` forward and backward for losses, `torch.softmax`
for a sampling step, `bernoulli` + `randint` for corruption. `--plot PATH` also draws the cost
against the number of classes and the length, `--memory` measures peaks of memory in processes of
their own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from timing import Contestant, Ratio, ratios, table, where
from torch import Tensor
from torch.nn import functional as F

from structdiff import (
    Batch,
    Categorical,
    FirstHitting,
    Flow,
    Generator,
    Layout,
    Product,
    UniformTime,
    absorbing,
    marginal,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate, RankOne

LENGTH = 256
SIZES = {27: 32, 256: 32, 50_257: 2}
"""Number of classes to sequences in a batch."""

Loss = Callable[[Categorical, Tensor, Tensor, Tensor, Tensor], Tensor]


def cross_entropy(
    process: Categorical, logits: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor
) -> Tensor:
    """The floor."""
    del process, x_t, t
    return F.cross_entropy(logits, x_0)


def weighted(process: Categorical, logits: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The continuous-time bound, as `ContinuousBound` takes it."""
    estimate = process.decode(logits, x_t, t)
    return process.divergence_rate(estimate, x_0, x_t, t).mean()


def simple(process: Categorical, logits: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Cross-entropy of the noisy rows, as `Denoising` takes it."""
    return process.loss(process.decode(logits, x_t, t), x_0, x_t, t).mean()


LOSSES: dict[str, tuple[Loss, Callable[[int], RankOne]]] = {
    "F.cross_entropy": (cross_entropy, absorbing),
    "absorbing, continuous bound": (weighted, absorbing),
    "absorbing, cross-entropy": (simple, absorbing),
    "uniform, continuous bound": (weighted, uniform),
    "uniform, cross-entropy": (simple, uniform),
}


class Scene:
    """Noisy sequences and logits of them."""

    def __init__(self, transition: RankOne, sequences: int, length: int = LENGTH) -> None:
        layout = Layout.ragged([length] * sequences)
        classes, random = transition.classes, torch.Generator().manual_seed(0)
        self.x_0 = torch.randint(classes, (layout.rows,), generator=random)
        self.process = Categorical(Flow(), transition).bind(Batch({"x": self.x_0}, {"x": layout}))
        self.t = torch.full((layout.rows,), 0.5)
        self.x_t = self.process.diffuse(self.x_0, self.t, Generator(0))
        self.logits = torch.randn(layout.rows, classes, generator=random)

    def train(self, loss: Loss) -> Callable[[object], object]:
        """Forward and backward to the logits."""
        logits = self.logits.detach().requires_grad_()

        def run(_: object) -> None:
            logits.grad = None
            loss(self.process, logits, self.x_0, self.x_t, self.t).backward()

        return run

    def step(self, eta: float = 1.0) -> Callable[[object], object]:
        """From logits to the next symbols."""
        (plan,) = self.process.plan(torch.tensor([0.5, 0.4], dtype=torch.float64), eta)
        random, time = Generator(1), torch.tensor(0.5, dtype=torch.float32)

        def run(_: object) -> None:
            estimate = self.process.decode(self.logits, self.x_t, time)
            self.process.step(self.x_t, estimate, plan, random)

        return run


def losses(classes: int, sequences: int, **settings: float) -> dict[str, Ratio]:
    """Losses over cross-entropy."""
    contestants = {
        name: Contestant(Scene(make(classes), sequences).train(loss), 1)
        for name, (loss, make) in LOSSES.items()
    }
    return ratios(contestants, "F.cross_entropy", grad=True, **settings)


def steps(classes: int, sequences: int, **settings: float) -> dict[str, Ratio]:
    """Steps over softmax."""
    scenes = {
        "absorbing": Scene(absorbing(classes), sequences),
        "uniform": Scene(uniform(classes), sequences),
        "marginal": Scene(marginal(torch.ones(classes).double() / classes), sequences),
    }
    logits = scenes["absorbing"].logits
    contestants = {"softmax": Contestant(lambda _: torch.softmax(logits, -1), 1)}
    contestants |= {name: Contestant(scene.step(), 1) for name, scene in scenes.items()}
    return ratios(contestants, "softmax", **settings)


def corruption(classes: int, rows: int, **settings: float) -> dict[str, Ratio]:
    """Corruption over bernoulli + randint."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(classes, (rows,))
    t = torch.full((rows,), 0.5)

    def floor(_: object) -> Tensor:
        noisy = torch.bernoulli(t, generator=generator).bool()
        return torch.where(noisy, torch.randint(classes, (rows,), generator=generator), x)

    contestants = {"bernoulli + randint": Contestant(floor, 1)}
    for name, make in {"absorbing": absorbing, "uniform": uniform}.items():
        process = Categorical(Flow(), make(classes)).bind(Batch.of(x))
        random = Generator(0)
        contestants[name] = Contestant(
            lambda _, process=process, random=random: process.diffuse(x, t, random), 1
        )
    return ratios(contestants, "bernoulli + randint", **settings)


def peak(name: str) -> float:
    """Extra memory of one loss at 50,257 classes, MB: what the process grows by beyond logits."""
    loss, make = LOSSES[name]
    scene = Scene(make(50_257), 2)
    small = Scene(make(100), 2)
    small.train(loss)(None)  # libraries and thread pools are loaded
    run = scene.train(loss)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run(None)
    return (_status("VmHWM") - before) / 1000


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1])


def memory() -> str:
    """Peaks of all losses, each in a fresh process."""
    command = [sys.executable, __file__, "--peak"]
    peaks = {name: float(subprocess.check_output([*command, name], text=True)) for name in LOSSES}
    floor = peaks["F.cross_entropy"]
    lines = ["| peak extra memory, K = 50,257 | MB | times cross-entropy's |", "|---|---|---|"]
    lines += [f"| {name} | {mb:.0f} | {mb / floor:.2f} |" for name, mb in peaks.items()]
    return "\n".join(lines)


class Flat(Denoiser):
    """All classes alike."""

    def __init__(self, process: Product) -> None:
        super().__init__()
        self.process = process

    def forward(self, batch: Batch, t: object, previous: object = None) -> dict[str, Estimate]:
        """Logits of zero, decoded."""
        process = self.process.bind(batch)
        logits = torch.zeros(len(batch["x"]), self.process["x"].classes)
        found: dict[str, Estimate] = process.decode({"x": logits}, batch.leaves, t)
        return found


def calls() -> str:
    """Network calls of masked walks: one a step, and only where a row changes."""
    denoiser = Flat(Product({"x": Categorical(Flow(), absorbing(27))}))
    lines = ["| masked rows x samples | steps | calls | saved |", "|---|---|---|---|"]
    for rows, samples in ((64, 1), (256, 1), (256, 16)):
        layout = Layout.ragged([rows] * samples)
        blank = Batch({"x": torch.zeros(layout.rows, dtype=torch.long)}, {"x": layout})
        for steps in (64, 256, 1024, 4096):
            walk = FirstHitting(denoiser, UniformTime(steps)).bind(blank, Generator(0))
            carry = walk.start()
            for i in range(walk.steps):
                carry = walk.step(carry, i)
            lines.append(
                f"| {rows} x {samples} | {steps} | {carry.calls} | {1 - carry.calls / steps:.0%} |"
            )
    return "\n".join(lines)


def plot(path: Path) -> None:
    """Cost against the number of classes, and against the length."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    classes = [27, 128, 512, 2048, 8192, 50_257]
    found = {k: losses(k, 2, rounds=3, seconds=0.05) for k in classes}
    drawn = {k: steps(k, 2, rounds=3, seconds=0.05) for k in classes}
    for name in LOSSES:
        left.loglog(classes, [1e3 * found[k][name].seconds for k in classes], "o-", label=name)
    for name in ("softmax", "absorbing", "uniform"):
        cost = [1e3 * drawn[k][name].seconds for k in classes]
        left.loglog(classes, cost, "x--", label=f"step, {name}")
    left.set(xlabel="classes K (2 x 256 rows)", ylabel="CPU ms")
    left.legend(fontsize=6)
    lengths = [64, 256, 1024, 4096]
    for name in ("F.cross_entropy", "absorbing, continuous bound", "uniform, continuous bound"):
        loss, make = LOSSES[name]
        cost = []
        for length in lengths:
            scene = Scene(make(1000), 2, length)
            one = {name: Contestant(scene.train(loss), 1)}
            cost.append(1e3 * ratios(one, name, rounds=3, seconds=0.05, grad=True)[name].seconds)
        right.loglog(lengths, cost, "o-", label=name)
    right.set(xlabel="length (2 sequences, K = 1,000)", ylabel="CPU ms")
    right.legend(fontsize=6)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", choices=LOSSES)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--memory", action="store_true")
    chosen = parser.parse_args()
    if chosen.peak:
        print(peak(chosen.peak))
        return
    print(where())
    print("\nLoss, forward and backward to given logits, length 256")
    print(table({f"K = {k}, batch {n}": losses(k, n) for k, n in SIZES.items()}))
    print("\nOne sampling step from given logits")
    print(table({f"K = {k}, batch {n}": steps(k, n) for k, n in SIZES.items()}))
    print("\nCorruption")
    print(
        table(
            {f"K = {k}, {n:,} rows": corruption(k, n) for k, n in [(27, 10**6), (50_257, 10**6)]}
        )
    )
    print("\nNetwork calls of the exact masked sampler")
    with torch.no_grad():
        print(calls())
    if chosen.memory:
        print(f"\n{memory()}")
    if chosen.plot:
        plot(chosen.plot)


if __name__ == "__main__":
    main()
