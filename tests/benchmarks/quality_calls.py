"""Error at the end of the probability flow against network calls, beside other libraries.

Targets are mixtures of normals with the exact score in float64, on the linear schedule of DDPM
(noise-to-signal ratio 0.01 to 157). Everybody starts from the same noise; the error is the root
mean square distance of 4,096 end points from those of a Runge-Kutta solve of 1,000 calls down to
no noise, over the deviation of the data. Of each library the best of its settings counts, chosen
after the fact; ours is `tune_sampler` with its defaults, which sees the model and nothing else.

    OMP_NUM_THREADS=1 python tests/benchmarks/quality_calls.py [--calls 5 10 20 50] [--seed 1]

- ring8-2D: eight normals of deviation 0.135 on a circle of radius 1.25;
- gmm20-32D: twenty of deviation 0.3 at standard normal points of R^32;
- two more are drawn from the seed: 2 to 16 dimensions, 4 to 16 parts of unequal weight and width.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from quality_peers import SIGMAS, libraries
from torch import Tensor

from structdiff import Batch, Gaussian, Multistep, Product
from structdiff.acceleration.pilots import ListedTimes
from structdiff.acceleration.tuning import tune_sampler
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate
from structdiff.samplers import Carry, Sampler
from structdiff.samplers.warps import LOG_SNR, RECTIFIED, Warp, arctan
from structdiff.schedules import Discrete
from structdiff.testing import Silent

torch.set_num_threads(1)

SAMPLES = 4096
CALLS = (5, 10, 20, 50)


@dataclass
class Target:
    """A mixture of normals: `target(y, sigma)` is E[x_0 | x_0 + sigma z = y]."""

    name: str
    mean: Tensor
    std: Tensor
    share: Tensor
    calls: int = 0

    def __call__(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The posterior mean."""
        self.calls += 1
        variance = self.std**2 + sigma**2
        squares = y.square().sum(1, keepdim=True) - 2 * y @ self.mean.T
        squares = squares + self.mean.square().sum(1)
        dimension = self.mean.shape[1]
        log = self.share.log() - (squares / variance + dimension * variance.log()) / 2
        part = torch.softmax(log, 1)
        gain = self.std**2 / variance
        return part @ (self.mean * (1 - gain)[:, None]) + (part @ gain)[:, None] * y

    @property
    def deviation(self) -> float:
        """Root mean variance of a coordinate."""
        centre = self.share @ self.mean
        spread = (self.mean - centre).square().mean(1) + self.std**2
        return float((self.share @ spread).sqrt())


class MixtureDenoiser(Denoiser):
    """A target as a model of ours, on the schedule of DDPM."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target
        self.leaf = Gaussian(Discrete.ddpm(), event=target.mean.shape[1:])
        self.process = Product({"x": self.leaf})

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The posterior mean."""
        del previous
        level = self.leaf.level(t["x"], batch["x"])
        return {"x": Estimate(self.target(batch["x"] / level.alpha, level.sigma / level.alpha))}


def published() -> list[Target]:
    """The two that stay."""
    angle = torch.arange(8) * (math.pi / 4)
    ring = 1.25 * torch.stack([angle.cos(), angle.sin()], 1)
    points = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    return [
        Target("ring8-2D", ring, torch.full((8,), 0.135), torch.full((8,), 1 / 8)),
        Target("gmm20-32D", points, torch.full((20,), 0.3), torch.full((20,), 1 / 20)),
    ]


def drawn(seed: int) -> list[Target]:
    """Two of a seed."""
    source = torch.Generator().manual_seed(seed)
    targets = []
    for low, high in ((2, 6), (7, 16)):
        dimension = int(torch.randint(low, high + 1, (), generator=source))
        parts = int(torch.randint(4, 17, (), generator=source))
        share = torch.rand(parts, generator=source) + 0.1
        std = 0.1 + 0.3 * torch.rand(parts, generator=source)
        mean = 1.2 * torch.randn(parts, dimension, generator=source)
        targets.append(Target(f"gmm{parts}-{dimension}D", mean, std, share / share.sum()))
    return targets


def reference(target: Target, z: Tensor, steps: int = 250) -> Tensor:
    """The fourth-order Runge-Kutta method, dense where there is little noise."""
    sigma = torch.linspace(float(SIGMAS[-1]) ** (1 / 7), 1e-4 ** (1 / 7), steps + 1) ** 7
    y = z * sigma[0]

    def slope(y: Tensor, at: Tensor) -> Tensor:
        return (y - target(y, at)) / at

    for a, b in zip(sigma[:-1], sigma[1:], strict=True):
        h = b - a
        one = slope(y, a)
        two = slope(y + h / 2 * one, a + h / 2)
        three = slope(y + h / 2 * two, a + h / 2)
        y = y + h / 6 * (one + 2 * two + 2 * three + slope(y + h * three, b))
    return y


def ended(sampler: Sampler, z: Tensor) -> Tensor:
    """Where a sampler of ours takes the same noise."""
    bound = sampler.bind(Batch.of(z), Silent())
    sigma = Discrete.ddpm()(sampler.times[0]).sigma
    carry = Carry({"x": sigma * z})
    with torch.no_grad():
        for i in range(bound.steps):
            carry = bound.step(carry, i)
    if carry.calls != bound.steps:
        msg = f"{carry.calls} calls in {bound.steps} steps"
        raise AssertionError(msg)
    return carry.x["x"]


def picked(target: Target, z: Tensor, truth: Tensor, calls: int) -> float:
    """The best polynomial method of a plain search that is shown the truth of 512 samples."""
    denoiser, schedule = MixtureDenoiser(target), Discrete.ddpm()
    tried = {}
    for shape in (LOG_SNR, Warp(0.3, 0.0), RECTIFIED):
        for first in (15.0, 150.0):
            for last in (0.3, 0.1, 0.03):
                ends = shape(-torch.tensor([first, last]).log())
                even = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, calls))
                grid = ListedTimes(schedule.time(shape.inverse(even)))
                for order in (2, 3, 4):
                    for coordinate in (None, arctan):
                        sampler = Multistep(
                            denoiser, grid, order=order, corrector=order, coordinate=coordinate
                        )
                        x = ended(sampler, z[:512])
                        tried[sampler] = (x - truth[:512]).square().mean().sqrt()
    best = min(tried, key=lambda each: float(tried[each]))
    return float((ended(best, z) - truth).square().mean().sqrt()) / target.deviation


def row(target: Target, z: Tensor, truth: Tensor, calls: int) -> tuple[float, float]:
    """Print one line of the table; ours over the best of the others, of all and on this path."""

    def error(x: Tensor) -> float:
        value = float((x.double() - truth).square().mean().sqrt()) / target.deviation
        return value if math.isfinite(value) else math.inf

    errors = {}
    torch.set_default_dtype(torch.float32)  # UniPC of diffusers fails under float64
    for name, x in libraries(target, z, calls):
        if target.calls > calls:
            msg = f"{name} took {target.calls} calls, allowed are {calls}"
            raise AssertionError(msg)
        errors[f"{name} ({target.calls})"], target.calls = error(x), 0
    torch.set_default_dtype(torch.float64)
    path = {n: e for n, e in errors.items() if "rectified" not in n and "flow-matching" not in n}
    best, same = (min(some, key=some.__getitem__) for some in (errors, path))
    start = time.process_time()
    tuned = tune_sampler(MixtureDenoiser(target), nfe=calls, show=None)
    spent = time.process_time() - start
    ours = error(ended(tuned.sampler(MixtureDenoiser(target)), z))
    hand = picked(target, z, truth, calls)
    target.calls = 0
    print(
        f"| {target.name} | {calls} | {errors[best]:.3g} {best} | {errors[same]:.3g} {same} "
        f"| {hand:.3g} | **{ours:.3g}** | {ours / errors[best]:.3f} | {ours / errors[same]:.3f} "
        f"| {tuned.calls} x {tuned.pilots}, {spent:.0f} s |",
        flush=True,
    )
    return ours / errors[best], ours / errors[same]


def mean(ratios: list[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def main() -> None:
    """Print the table and whether the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--seed", type=int, default=1, help="of the two drawn targets")
    parser.add_argument("--noise", type=int, default=0, help="seed of the terminal noise")
    parser.add_argument("--only", choices=("published", "drawn"), default=None)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    print(
        "| target | calls | best of the others (calls) | best on the same path | picked by hand",
        end=" ",
    )
    print(
        "| tuned | over best | over best on the path | tuning: calls x pilots |\n"
        + "|---" * 9
        + "|"
    )
    for title, targets, bar in (
        ("published", published(), 0.6),
        ("drawn", drawn(options.seed), 0.8),
    ):
        if options.only not in (None, title):
            continue
        ratios = []
        for target in targets:
            source = torch.Generator().manual_seed(options.noise)
            z = torch.randn(SAMPLES, target.mean.shape[1], generator=source)
            truth = reference(target, z)
            target.calls = 0
            ratios += [row(target, z, truth, calls) for calls in options.calls]
        of_all, on_path = mean([a for a, _ in ratios]), mean([b for _, b in ratios])
        worst = max(a for a, _ in ratios)
        print(
            f"\n{title}: geometric mean {of_all:.3f} of the best (bar {bar}), "
            f"{on_path:.3f} of the best on the same path; worst cell {worst:.3f}\n"
        )


if __name__ == "__main__":
    main()
