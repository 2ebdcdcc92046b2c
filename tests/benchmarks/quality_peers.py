"""What other libraries make of the same probability flow with a number of network calls.

Every function walks from the same standard normal `z` to data, with the model given as a denoiser
`D(y, sigma)` of `y = x_t / alpha_t` at the noise-to-signal ratio `sigma`, and yields its name and
where it ends. A variance-preserving state is `y / sqrt(1 + sigma^2)`, a rectified one
`y / (1 + sigma)`: one equation in several scales. A library is asked at its own levels, not at
whole-numbered times beside them.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from overhead import k_diffusion_sampling
from torch import Tensor

__all__ = ["SIGMAS", "Model", "Walked", "libraries"]

Model = Callable[[Tensor, Tensor], Tensor]
Walked = Iterator[tuple[str, Tensor]]

SURVIVAL = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
SIGMAS = ((1 - SURVIVAL) / SURVIVAL).sqrt()
"""Noise-to-signal ratios of the linear schedule of DDPM, 0.01 to 157."""


def diffusers_multistep(model: Model, z: Tensor, calls: int) -> Walked:
    """DPM-Solver++, UniPC and DEIS on the grids that diffusers offers them."""
    import diffusers

    spaced: dict[str, dict[str, Any]] = {
        "trailing": {"timestep_spacing": "trailing"},
        "linspace": {},
        "Karras": {"use_karras_sigmas": True},
        "exponential": {"use_exponential_sigmas": True},
    }
    uniform: dict[str, dict[str, Any]] = {"uniform log-SNR": {"use_lu_lambdas": True}}
    kinds: list[tuple[str, str, dict[str, Any], dict[str, dict[str, Any]]]] = [
        ("DPM++", "DPMSolverMultistep", {}, spaced | uniform),
        (
            "UniPC",
            "UniPCMultistep",
            {"solver_type": "bh1", "final_sigmas_type": "sigma_min"},
            spaced,
        ),
        ("UniPC-bh2", "UniPCMultistep", {"solver_type": "bh2"}, spaced),
        ("DEIS", "DEISMultistep", {}, spaced),
    ]
    for kind, cls, extra, grids in kinds:
        for order in (2, 3):
            for grid, options in grids.items():
                scheduler = getattr(diffusers, cls + "Scheduler")(
                    beta_schedule="linear", solver_order=order, **extra, **options
                )
                scheduler.set_timesteps(calls)
                sigmas = scheduler.sigmas.double()
                x = z * sigmas[0] / (1 + sigmas[0] ** 2).sqrt()
                for i, t in enumerate(scheduler.timesteps):
                    scale = (1 + sigmas[i] ** 2).sqrt()
                    estimate = model(x.double() * scale, sigmas[i])
                    noise = (x * scale - estimate) / sigmas[i]
                    x = scheduler.step(noise, t, x, return_dict=False)[0]
                yield f"diffusers {kind}{order} {grid}", x * (1 + sigmas[-1] ** 2).sqrt()


def diffusers_singlestep(model: Model, z: Tensor, calls: int) -> Walked:
    """DDIM and PNDM on whole-numbered times, Heun on two grids."""
    import diffusers

    for name, cls, steps, options in (
        ("DDIM trailing", "DDIM", calls, {"timestep_spacing": "trailing"}),
        ("DDIM leading", "DDIM", calls, {"timestep_spacing": "leading"}),
        ("PNDM", "PNDM", calls - 1, {"skip_prk_steps": True}),
        (
            "PNDM trailing",
            "PNDM",
            calls - 1,
            {"skip_prk_steps": True, "timestep_spacing": "trailing"},
        ),
    ):
        scheduler = (
            getattr(diffusers, cls + "Scheduler")(
                beta_schedule="linear", set_alpha_to_one=True, clip_sample=False, **options
            )
            if cls == "DDIM"
            else getattr(diffusers, cls + "Scheduler")(
                beta_schedule="linear", set_alpha_to_one=True, **options
            )
        )
        scheduler.set_timesteps(steps)
        x = z * (1 - SURVIVAL[scheduler.timesteps[0]]).sqrt()
        for t in scheduler.timesteps:
            scale = 1 / SURVIVAL[t].sqrt()
            noise = (x * scale - model(x * scale, SIGMAS[t])) / SIGMAS[t]
            x = scheduler.step(noise, t, x, return_dict=False)[0]
        yield f"diffusers {name}", x
    for grid, options in (
        ("trailing", {"timestep_spacing": "trailing"}),
        ("Karras", {"use_karras_sigmas": True}),
        ("exponential", {"use_exponential_sigmas": True}),
    ):
        scheduler = diffusers.HeunDiscreteScheduler(
            beta_schedule="linear", beta_start=1e-4, beta_end=0.02, **options
        )
        scheduler.set_timesteps((calls + 1) // 2)
        y = z * scheduler.sigmas[0].double()
        for t in scheduler.timesteps:
            i = 0 if scheduler.step_index is None else scheduler.step_index
            sigma = scheduler.sigmas[i].double()
            if not scheduler.state_in_first_order:
                sigma = scheduler.sigmas[i].double()
            noise = (y - model(y, sigma)) / sigma
            y = scheduler.step(noise, t, y, return_dict=False)[0]
        yield f"diffusers Heun {grid}", y


def k_diffusion(model: Model, z: Tensor, calls: int) -> Walked:
    """Euler, LMS, Heun, DPM-2 and DPM++2M on Karras and exponential grids."""
    sampling = k_diffusion_sampling()

    def answer(y: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return model(y, sigma[0])

    half = (calls + 1) // 2
    kinds = {"euler": calls, "lms": calls, "dpmpp_2m": calls, "heun": half, "dpm_2": half}
    low, high = float(SIGMAS[0]), float(SIGMAS[-1])
    for grid in ("karras", "exponential"):
        for name, steps in kinds.items():
            sigmas = getattr(sampling, f"get_sigmas_{grid}")(steps, low, high).double()
            y = getattr(sampling, f"sample_{name}")(answer, z * sigmas[0], sigmas, disable=True)
            yield f"k-diffusion {name} {grid}", y


def azula(model: Model, z: Tensor, calls: int) -> Walked:
    """azula's samplers on the schedule of DDPM and on the rectified one."""
    denoise: Any = importlib.import_module("azula.denoise")
    noise: Any = importlib.import_module("azula.noise")
    sample: Any = importlib.import_module("azula.sample")

    class Preserving(noise.Schedule):  # type: ignore[name-defined, misc]
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            place = (t * 999).clamp(0, 999)
            i = place.floor().long().clamp(max=998)
            log_sigma = torch.lerp(SIGMAS.log()[i], SIGMAS.log()[i + 1], place - i)
            alpha = (1 + (2 * log_sigma).exp()).rsqrt()
            return alpha, alpha * log_sigma.exp()

    class Posterior(denoise.Denoiser):  # type: ignore[name-defined, misc]
        def __init__(self, schedule: Any) -> None:
            super().__init__()
            self.schedule = schedule

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            alpha, sigma = self.schedule(t)
            return denoise.DiracPosterior(mean=model(x_t / alpha, sigma / alpha))

    high = float(SIGMAS[-1])
    rectified = noise.RectifiedSchedule(alpha_min=1 / high, sigma_min=1e-3)
    kinds = {"Euler": calls, "DDIM": calls, "Heun": calls // 2}
    kinds |= dict.fromkeys(("zAB", "vAB", "zEAB", "xEAB"), calls)
    for title, schedule in (("DDPM", Preserving()), ("rectified", rectified)):
        for name, steps in kinds.items():
            for order in (2, 3) if name.endswith("AB") else (0,):
                options = {"order": order} if order else {}
                sampler = getattr(sample, name + "Sampler")(
                    Posterior(schedule), steps=steps, silent=True, dtype=torch.float64, **options
                )
                (alpha, sigma), (end, _) = (schedule(torch.tensor(t).double()) for t in (1.0, 0.0))
                x = sampler(z * high * alpha)
                yield f"azula {name}{order or ''} {title}", x / end


def flow_matching(model: Model, z: Tensor, calls: int) -> Walked:
    """flow-matching's solver on the rectified path, in tau = 1 / (1 + sigma)."""
    solver: Any = importlib.import_module("flow_matching.solver")
    first = 1 / (1 + float(SIGMAS[-1]))

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        tau = t.double().clamp(max=1 - 1e-6)
        return (model(x / tau, (1 - tau) / tau) - x) / (1 - tau)

    ode = solver.ODESolver(velocity_model=velocity)
    for method, stages in (("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 4)):
        steps = calls // stages
        if steps:
            times = torch.linspace(first, 1, steps + 1, dtype=torch.float64)
            x = ode.sample(
                x_init=z * first * float(SIGMAS[-1]),
                step_size=None,
                method=method,
                time_grid=times,
            )
            yield f"flow-matching {method}", x


def libraries(model: Model, z: Tensor, calls: int) -> Walked:
    """All of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for walk in (diffusers_multistep, diffusers_singlestep, k_diffusion, azula, flow_matching):
            yield from walk(model, z, calls)
