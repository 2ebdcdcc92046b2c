"""Samplers and grids against those of diffusers, given the same schedule, grid and estimates.

The model is the exact denoiser of a mixture of two normals on the linear schedule of DDPM, in
float64. Each of diffusers' solvers walks on a grid of its own; our sampler of that name walks on
the same times from the same noise. Printed is the largest difference of the end points over the
largest of their values; anything above 1e-5 fails. Their tables are rounded to float32.

    OMP_NUM_THREADS=1 python tests/benchmarks/peers_samplers.py
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from quality_peers import SIGMAS
from torch import Tensor

from structdiff import DDIM, Batch, Gaussian, Heun
from structdiff.random import Randomness
from structdiff.samplers import Carry, Sampler
from structdiff.samplers.solvers import DEIS, DPMSolver, UniPC
from structdiff.schedules import CLEAN, Discrete, Grid, Karras, KarrasGrid
from structdiff.testing import NormalDenoiser, Silent

TOLERANCE = 1e-5


class Levels(Grid):
    """The times of noise-to-signal ratios; 0 is clean."""

    def __init__(self, sigmas: Tensor) -> None:
        inside = sigmas[sigmas > 0].double()
        t = Discrete.ddpm().time(-inside.log())
        self.listed = torch.nn.functional.pad(t, (0, len(sigmas) - len(inside)), value=CLEAN)

    def times(self) -> Tensor:
        """The times."""
        return self.listed


class Recorded(Randomness):
    """Normal draws that another library made."""

    def __init__(self, draws: list[Tensor]) -> None:
        self.draws = draws

    def normal(self, shape: Any, dtype: torch.dtype, device: Any) -> Tensor:
        """The next one."""
        del shape
        return self.draws.pop(0).to(device, dtype)

    def uniform(self, shape: Any, dtype: torch.dtype, device: Any) -> Tensor:
        """Not asked for."""
        raise NotImplementedError

    def scoped(self, **_: Any) -> Recorded:
        """The same draws."""
        return self

    def state(self) -> Tensor:
        """Nothing."""
        return torch.zeros(0, dtype=torch.uint8)

    def restore(self, state: Tensor) -> None:
        """Nothing."""


def model() -> NormalDenoiser:
    """Two normals in the plane."""
    mean, std = torch.tensor([[-1.0, 0.5], [2.0, -1.0]]), torch.tensor([0.3, 0.5])
    return NormalDenoiser(
        Gaussian(Discrete.ddpm(), event=(2,)), mean, std, torch.tensor([0.4, 0.6])
    )


def answer(denoiser: NormalDenoiser, y: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0] of y = x_t / alpha at a ratio."""
    t = Discrete.ddpm().time(-sigma.double().log())
    alpha = denoiser.leaf.level(t, y).alpha
    return denoiser(Batch.of(alpha * y), {"x": t})["x"].value


def theirs(scheduler: Any, z: Tensor, draws: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Walk a multistep solver of diffusers: where it ends, in units of alpha, and its ratios."""
    denoiser, sigmas = model(), scheduler.sigmas.double()
    x = z * sigmas[0] / (1 + sigmas[0] ** 2).sqrt()
    for i, t in enumerate(scheduler.timesteps):
        scale = (1 + sigmas[i] ** 2).sqrt()
        noise = (x.double() * scale - answer(denoiser, x.double() * scale, sigmas[i])) / sigmas[i]
        options = {"variance_noise": draws[i]} if draws else {}
        x = scheduler.step(noise, t, x, return_dict=False, **options)[0].double()
    return x * (1 + sigmas[-1] ** 2).sqrt(), sigmas


def ours(sampler: Sampler, z: Tensor, random: Randomness) -> Tensor:
    """Walk our sampler from the same noise to its last time, in units of alpha."""
    bound = sampler.bind(Batch.of(z), random)
    level = Discrete.ddpm()(sampler.times)
    carry = Carry({"x": level.sigma[0] * z})
    with torch.no_grad():
        for i in range(bound.steps):
            carry = bound.step(carry, i)
    return carry.x["x"] / level.alpha[-1]


def far(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def multisteps(steps: int, z: Tensor) -> list[tuple[str, float]]:
    """Every multistep solver on every grid that diffusers has for it."""
    import diffusers

    grids: dict[str, dict[str, Any]] = {
        "trailing": {"timestep_spacing": "trailing"},
        "Karras": {"use_karras_sigmas": True},
        "exponential": {"use_exponential_sigmas": True},
    }
    low = steps < 15
    kinds: list[tuple[str, str, dict[str, Any], Callable[..., Sampler]]] = [
        ("DPM++ 1", "DPMSolverMultistep", {"solver_order": 1}, lambda d, g: DDIM(d, g)),
        (
            "DPM++ 2M",
            "DPMSolverMultistep",
            {"solver_order": 2},
            lambda d, g: DPMSolver(d, g, lower_final=low),
        ),
        (
            "DPM++ 3M",
            "DPMSolverMultistep",
            {"solver_order": 3},
            lambda d, g: DPMSolver(d, g, order=3, lower_final=low),
        ),
        (
            "SDE-DPM++ 2M",
            "DPMSolverMultistep",
            {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
            lambda d, g: DPMSolver(d, g, eta=1.0, lower_final=low),
        ),
        ("DEIS 2", "DEISMultistep", {"solver_order": 2, "lower_order_final": False}, DEIS),
        (
            "DEIS 3",
            "DEISMultistep",
            {"solver_order": 3, "lower_order_final": False},
            lambda d, g: DEIS(d, g, order=3),
        ),
    ]
    for order in (1, 2, 3):
        for variant in ("bh1", "bh2"):
            kinds.append(
                (
                    f"UniPC {order} {variant}",
                    "UniPCMultistep",
                    {
                        "solver_order": order,
                        "solver_type": variant,
                        "final_sigmas_type": "sigma_min" if variant == "bh1" else "zero",
                    },
                    lambda d, g, o=order, v=variant: UniPC(d, g, order=o, variant=v),
                )
            )
    found = []
    for name, cls, options, make in kinds:
        for grid, spacing in grids.items():
            if "bh1" in name and grid != "trailing":
                continue  # ends in a step of no length, which only corrects the one before
            scheduler = getattr(diffusers, cls + "Scheduler")(
                beta_schedule="linear", **options, **spacing
            )
            scheduler.set_timesteps(steps)
            scheduler.sigmas = scheduler.sigmas.double()
            source = torch.Generator().manual_seed(1)
            draws = [torch.randn(z.shape, generator=source) for _ in range(steps)]
            noisy = "sde" in str(options)
            end, sigmas = theirs(scheduler, z, draws if noisy else [])
            random = Recorded([d.double() for d in draws]) if noisy else Silent()
            same = ours(make(model(), Levels(sigmas)), z, random)
            found.append((f"{name}, {grid}, {steps} steps", far(same, end)))
    return found


def singles(steps: int, z: Tensor) -> list[tuple[str, float]]:
    """DDIM on whole-numbered times, Heun, and the grid of Karras et al."""
    import diffusers

    found = []
    scheduler: Any = diffusers.DDIMScheduler(
        beta_schedule="linear", timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(steps)
    sigmas = torch.nn.functional.pad(SIGMAS[scheduler.timesteps], (0, 1))
    x = z * sigmas[0] / (1 + sigmas[0] ** 2).sqrt()
    for t, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        scale = (1 + sigma**2).sqrt()
        noise = (x * scale - answer(model(), x * scale, sigma)) / sigma
        x = scheduler.step(noise, t, x, return_dict=False)[0]
    found.append(
        (
            f"DDIM, trailing, {steps} steps",
            far(ours(DDIM(model(), Levels(sigmas)), z, Silent()), x),
        )
    )
    scheduler = diffusers.HeunDiscreteScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, use_karras_sigmas=True
    )
    scheduler.set_timesteps(steps)
    y = z * scheduler.sigmas[0].double()
    for t in scheduler.timesteps:
        i = scheduler.step_index or 0
        sigma = scheduler.sigmas[i].double()
        noise = (y - answer(model(), y, sigma)) / sigma
        y = scheduler.step(noise, t, y, return_dict=False)[0]
    sigmas = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]]).double()
    found.append(
        (f"Heun, Karras, {steps} steps", far(ours(Heun(model(), Levels(sigmas)), z, Silent()), y))
    )
    edm: Any = diffusers.EDMEulerScheduler()
    edm.set_timesteps(steps)
    grid = Karras().sigma(KarrasGrid(Karras(), steps).times())
    found.append((f"EDM grid, {steps} steps", far(grid, edm.sigmas.double())))
    return found


def main() -> None:
    """Print the table; fail above the tolerance."""
    warnings.simplefilter("ignore")
    source = torch.Generator().manual_seed(0)
    z = torch.randn(128, 2, generator=source, dtype=torch.float64)
    with torch.no_grad():
        rows = [row for n in (8, 20) for walk in (singles, multisteps) for row in walk(n, z)]
    print("| sampler, grid | largest difference |\n|---|---|")
    for name, difference in rows:
        print(f"| {name} | {difference:.1e} |")
    wrong = [name for name, difference in rows if not difference < TOLERANCE]
    if wrong:
        sys.exit(f"above {TOLERANCE}: {wrong}")


if __name__ == "__main__":
    main()
