"""How far are the methods for inverse problems from the exact posterior?

y = H x + n with a smooth random field x of 16 entries on a circle, normal with a known covariance,
noise of 0.1 beside entries of standard deviation 1, and the exact denoiser: then the posterior is
normal and known, and what is left is the method's own error and that of its steps. For each method

- `mean`: error of the mean of its draws in posterior standard deviations (root of mean square),
- `cov`: error of their covariance over its size, in Frobenius' norm,
- `fit`: |y - H x| over what the noise makes of it on average; below 1 it fits the noise,
- `calls`: of the denoiser, of which `+g` with a gradient.

4096 draws have by chance alone a mean error of 0.016 and a covariance error of 0.01 to 0.06 (the
line `exact draws`). One y for each problem, drawn from the model.

    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/inverse.py [--steps 100] [--noise 0.1]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff import DDPM, Batch, Cosine, Gaussian, Generator, UniformTime
from structdiff.denoiser import Denoiser
from structdiff.guidance import RePaint
from structdiff.guidance.inverse.consistent import Consistent
from structdiff.guidance.inverse.ddrm import DDRM
from structdiff.guidance.inverse.dps import DPS
from structdiff.guidance.inverse.moments import MomentGuided
from structdiff.guidance.inverse.observation import Observation
from structdiff.guidance.inverse.pigdm import PiGDM
from structdiff.guidance.inverse.projection import Projection
from structdiff.guidance.twisted import TwistedSMC, particles_of
from structdiff.operators import Blur, Downsample, LinearOperator, Mask, Matrix
from structdiff.processes import Estimate
from structdiff.samplers import Walk
from tests.guidance.inverse_worlds import Field, Posterior, problem, smooth

SIZE, ROWS, PARTICLES = 16, 4096, 64


class Counted(Denoiser):
    """Counts calls, and those with a gradient."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.process = denoiser, denoiser.process
        self.calls, self.gradients = 0, 0

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        """The denoiser's answer."""
        self.calls += 1
        self.gradients += torch.is_grad_enabled()
        estimates: Mapping[str, Estimate] = self.denoiser(batch, t, previous)
        return estimates


def problems() -> dict[str, LinearOperator]:
    """What is measured."""
    random = Generator(11).normal((6, SIZE), torch.float64, "cpu") / SIZE**0.5
    kernel = torch.tensor([0.06, 0.24, 0.4, 0.24, 0.06], dtype=torch.float64)
    return {
        "every other entry": Mask(torch.arange(SIZE) % 2 == 0),
        "half of the circle": Mask(torch.arange(SIZE) < SIZE // 2),
        "blur": Blur(kernel, (SIZE,)),
        "means of four": Downsample((SIZE,), 4),
        "random 6 x 16": Matrix(random),
    }


def methods(denoiser: Denoiser, seen: Observation, steps: int) -> dict[str, Walk]:
    """All of them at one number of steps of the sampler."""
    grid, blank = UniformTime(steps), Batch.of(torch.zeros(ROWS, SIZE))
    ddpm, consistent = DDPM(denoiser, grid), DDPM(Consistent(denoiser, seen), grid)
    few = DDPM(Consistent(denoiser, seen), UniformTime(max(2, steps // 5)))
    guided = PiGDM(denoiser, seen)
    return {
        "unconditional": ddpm,
        "replacement": consistent,
        "projection": Projection(ddpm, seen),
        "RePaint, 5 repeats": RePaint(few, blank, jump=5, repeats=5),
        "DDRM": DDRM(ddpm, seen),
        "DPS, zeta 0.3": DPS(denoiser, grid, seen, zeta=0.3),
        "DPS, zeta 1": DPS(denoiser, grid, seen, zeta=1.0),
        "PiGDM": DDPM(guided, grid),
        "moments": DDPM(MomentGuided(denoiser, seen), grid),
        f"SMC, {PARTICLES} by PiGDM": TwistedSMC(
            DDPM(guided, grid), denoiser, guided.log_prob, PARTICLES
        ),
    }


def line(name: str, x: Tensor, posterior: Posterior, seen: Observation, cost: str) -> str:
    """A row of the table."""
    noise = seen.noise_std * math.sqrt(math.prod(seen.operator.measured))
    fit = float(seen.residual(x).square().sum(1).mean().sqrt()) / noise
    gaps = posterior.mean_gap(x), posterior.covariance_gap(x)
    return f"{name:22}{gaps[0]:9.3f}{gaps[1]:9.3f}{fit:8.2f}   {cost}"


def main() -> None:
    """Print a table for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.1)
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    prior = Field(Gaussian(Cosine(), event=(SIZE,)), smooth(SIZE))
    for title, operator in problems().items():
        seen, posterior = problem(prior, operator, arguments.noise)
        print(f"\n{title:22}{'mean':>9}{'cov':>9}{'fit':>8}   calls")
        root = torch.linalg.cholesky(posterior.covariance + 1e-12 * torch.eye(SIZE))
        z = Generator(5).normal((ROWS, SIZE), torch.float64, "cpu")
        print(line("exact draws", posterior.mean + z @ root.mT, posterior, seen, ""))
        counted = Counted(prior)
        for name, walk in methods(counted, seen, arguments.steps).items():
            counted.calls = counted.gradients = 0
            copies = PARTICLES if isinstance(walk, TwistedSMC) else 1
            batch = particles_of(Batch.of(torch.zeros(ROWS // copies, SIZE)), copies)
            start = time.process_time()
            x = walk.sample(batch, Generator(0))["x"]
            spent = time.process_time() - start
            cost = f"{counted.calls:4}, {counted.gradients:3}+g  {spent:5.1f} s"
            print(line(name, x, posterior, seen, cost), flush=True)


if __name__ == "__main__":
    main()
