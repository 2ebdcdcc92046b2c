"""Schedules and grids of other libraries, taken over by `translate`: do alpha and sigma agree?

What the others do is asked of them: diffusers adds noise to 1 and to 0, azula is called,
k-diffusion makes its lists of sigmas. Gaps are in units of sqrt(alpha^2 + sigma^2).

    OMP_NUM_THREADS=1 python tests/benchmarks/peers_schedules.py

Exits with 1 if a gap is above 1e-6. Libraries that are not installed are left out.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from overhead import k_diffusion_sampling
from torch import Tensor

from structdiff.schedules import (
    Cosine,
    Discrete,
    Exploding,
    Geometric,
    Grid,
    Karras,
    KarrasGrid,
    Linear,
    PowerTime,
    Schedule,
    UniformLogSNR,
    UniformTime,
    translate,
)

TOLERANCE = 1e-6


class Row(NamedTuple):
    """What was compared, at how many times, and the largest gaps."""

    what: str
    times: int
    alpha: float
    sigma: float


def compare(what: str, schedule: Schedule, t: Tensor, alpha: Tensor, sigma: Tensor) -> Row:
    """The largest gaps between our levels and their numbers."""
    level, alpha, sigma = schedule(t), alpha.double(), sigma.double()
    unit = torch.hypot(alpha, sigma)
    pairs = ((level.alpha, alpha), (level.sigma, sigma))
    gaps = ((ours - theirs).abs() / unit for ours, theirs in pairs)
    return Row(what, len(t), *(float(gap.max()) for gap in gaps))


def behaviour(scheduler: Any, steps: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma, by noising 1 with 0 and 0 with 1."""
    one, zero = torch.ones(len(steps), 1), torch.zeros(len(steps), 1)
    alpha, sigma = (scheduler.add_noise(x, z, steps)[:, 0] for x, z in ((one, zero), (zero, one)))
    return alpha, sigma


def share(alpha: Tensor, sigma: Tensor) -> Tensor:
    """alpha^2 over alpha^2 + sigma^2."""
    return alpha**2 / (alpha**2 + sigma**2)


def betas(kind: str) -> Discrete:
    """Our chain for a schedule that diffusers has a name for."""
    if kind == "squaredcos_cap_v2":
        return Discrete.cosine()
    if kind == "scaled_linear":
        return Discrete(torch.linspace(1e-4**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2)
    return Discrete.ddpm()


def diffusers_rows() -> Iterator[Row]:
    """Chains, their exploding twins, EDM, and grids of Karras et al."""
    diffusers: Any = importlib.import_module("diffusers")
    for kind in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        for name in ("DDPM", "DDIM", "EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep"):
            make = getattr(diffusers, f"{name}Scheduler")
            scheduler = make(beta_schedule=kind, beta_start=1e-4, beta_end=0.02)
            if name == "DPMSolverMultistep":
                scheduler.set_timesteps(50)  # before that, its sigmas run against its times
            steps = scheduler.timesteps.unique()
            t = (steps.double() + 1) / 1000
            found = behaviour(scheduler, steps)
            yield compare(f"diffusers {name}, {kind}", translate(scheduler), t, *found)
            preset: Schedule = betas(kind)
            preset = Exploding(preset) if scheduler.init_noise_sigma > 1 else preset
            # Theirs are float32 products, which blur 1 - alpha^2: so squares are compared.
            ours, theirs = (share(*x) for x in (preset(t)[:2], (x.double() for x in found)))
            gap = float((ours - theirs).abs().max())
            yield Row("  alpha^2 / (alpha^2 + sigma^2) of our own", len(t), gap, gap)
    for name, law in (("karras", Karras()), ("exponential", Geometric(0.002, 80.0))):
        scheduler = diffusers.EDMEulerScheduler(sigma_schedule=name)
        sigmas = scheduler.sigmas[:-1].flip(0)
        t = torch.linspace(0, 1, len(sigmas), dtype=torch.float64)
        found = behaviour(scheduler, scheduler.timesteps.flip(0))
        for what, schedule in (("", translate(scheduler)), (", ours", law)):
            yield compare(f"diffusers EDM, {name}{what}", schedule, t, *found)
    for name in ("EulerDiscrete", "DPMSolverMultistep"):
        scheduler = getattr(diffusers, f"{name}Scheduler")(use_karras_sigmas=True)
        scheduler.set_timesteps(25)
        ours, sigmas = translate(scheduler), scheduler.sigmas[:-1].double()
        ends = {"sigma_min": float(sigmas[-1]), "sigma_max": float(sigmas[0])}
        t = KarrasGrid(ours, 25, **ends).times()[:-1]
        ratio = torch.exp(-ours(t).clock)
        gap = float(((ratio - sigmas) / sigmas).abs().max())
        yield Row(f"diffusers {name}, use_karras_sigmas, as a grid", 25, 0.0, gap)


def azula_rows() -> Iterator[Row]:
    """Functions of a continuous time, asked in float64."""
    noise: Any = importlib.import_module("azula.noise")
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for name in ("VP", "VE", "Cosine", "Rectified", "Decay"):
        theirs = getattr(noise, f"{name}Schedule")()
        yield compare(f"azula {name}", translate(theirs), t, *theirs(t))
    theirs = noise.VESchedule(0.002, 80.0)
    yield compare("azula VE, our Geometric", Geometric(0.002, 80.0), t, *theirs(t))
    theirs = noise.CosineSchedule(alpha_min=1e-12, sigma_min=0.0)
    yield compare("azula Cosine, our Cosine(0)", Cosine(0.0), t[1:], *(x[1:] for x in theirs(t)))


def k_diffusion_rows() -> Iterator[Row]:
    """Lists of sigmas as grids of ours, and wrappers of models, in float64."""
    torch.set_default_dtype(torch.float64)
    sampling = k_diffusion_sampling()
    n, low, high = 40, 0.02, 80.0
    even = Geometric(low, high)
    grids: dict[str, tuple[Tensor, Schedule, Grid]] = {
        "karras": (
            sampling.get_sigmas_karras(n, low, high),
            Karras(0.002, 100.0),
            KarrasGrid(Karras(0.002, 100.0), n, sigma_min=low, sigma_max=high),
        ),
        "exponential": (
            sampling.get_sigmas_exponential(n, low, high),
            Karras(low, high),
            UniformLogSNR(Karras(low, high), n, end=0.0),
        ),
        "polyexponential": (
            sampling.get_sigmas_polyexponential(n, low, high, rho=2.0),
            even,
            PowerTime(n, 2.0, end=0.0),
        ),
        "vp": (sampling.get_sigmas_vp(n), Linear(), UniformTime(n, end=1e-3)),
    }
    for name, (sigmas, schedule, grid) in grids.items():
        ratio = torch.exp(-schedule(grid.times()).clock)
        theirs = sigmas.double()
        gap = ((ratio - theirs)[:-1] / theirs[:-1]).abs()
        assert ratio[-1] == theirs[-1] == 0
        yield Row(f"k-diffusion {name}, as a grid", n, 0.0, float(gap.max()))
        t = torch.linspace(1, 0, n, dtype=torch.float64)
        one = torch.ones(n)
        yield compare(f"k-diffusion {name}, as a schedule", translate(sigmas), t, one, theirs[:-1])
    external: Any = importlib.import_module("k_diffusion.external")
    survival = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    wrapper = external.DiscreteEpsDDPMDenoiser(None, survival, quantize=False)
    t = torch.linspace(0, 1, 1000, dtype=torch.float64)
    sigmas = wrapper.t_to_sigma(torch.arange(1000))
    yield compare("k-diffusion eps wrapper", translate(wrapper), t, torch.ones(1000), sigmas)
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    wrapper = external.VDenoiser(None)
    sigmas = torch.tan(t * math.pi / 2)
    yield compare("k-diffusion v wrapper", translate(wrapper), t, torch.ones(99), sigmas)


def main() -> int:
    """Print the table."""
    bad = 0
    print(f"| {'compared':58} | times | alpha   | sigma   |")
    print("|---|---|---|---|")
    for rows in (diffusers_rows, azula_rows, k_diffusion_rows):
        try:
            for row in rows():
                print(f"| {row.what:58} | {row.times:5} | {row.alpha:.1e} | {row.sigma:.1e} |")
                bad += max(row.alpha, row.sigma) > TOLERANCE
        except ImportError as missing:
            print(f"left out: {missing}")
    print(f"{bad} above {TOLERANCE:g}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
