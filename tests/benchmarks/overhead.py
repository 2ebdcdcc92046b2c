"""What a sampler costs beside the network: CPU time per network call, with a free denoiser.

The denoiser returns a stored tensor, so all that is left is the sampler. The floor is the least
that a first-order step can do, `x * a + b * eps` in two kernels with `a` and `b` made beforehand;
for stochastic samplers it is that and one `randn`. Whole walks are timed; what a library makes
once per grid is made outside the clock where its interface allows it.

    OMP_NUM_THREADS=1 python tests/benchmarks/overhead.py

Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from timing import Contestant, ratios, table, where
from torch import Tensor

from structdiff import DDIM, DDPM, Batch, Gaussian, Generator, Heun, Linear, Multistep, Product
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate
from structdiff.samplers import Sampler
from structdiff.schedules import UniformTime

STEPS = 50
SHAPES = {"64x3x32x32": (64, 3, 32, 32), "1024x2": (1024, 2)}


def floor(x: Tensor, eps: Tensor, *, noisy: bool) -> Contestant:
    """The hand-written walk."""
    pairs = [(0.9 + 0.001 * i, 0.01 * i) for i in range(STEPS)]

    def walk(_: object) -> Tensor:
        x_t = x
        for a, b in pairs:
            x_t = torch.add(x_t * a, eps, alpha=b)
        return x_t

    def walk_noisy(_: object) -> Tensor:
        x_t = x
        for a, b in pairs:
            x_t = torch.add(x_t * a, torch.randn(x.shape), alpha=b)
            x_t = torch.add(x_t, eps, alpha=b)
        return x_t

    return Contestant(walk_noisy if noisy else walk, STEPS)


class Stored(Denoiser):
    """A denoiser that always gives the same answer."""

    def __init__(self, process: Any, value: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.process = process
        self.estimate = {name: Estimate(x) for name, x in value.items()}

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The stored answer."""
        del batch, t, previous
        return self.estimate


def ours(
    make: Callable[[Denoiser, UniformTime], Sampler], shape: Sequence[int], leaves: int = 1
) -> Contestant:
    """A walk of one of our samplers over a product of equal leaves."""
    names = ["x", "y", "z"][:leaves]
    process = Product({name: Gaussian(Linear(), event=shape[1:]) for name in names})
    denoiser = Stored(process, {name: torch.randn(*shape) for name in names})
    batch = Batch.of({name: torch.zeros(*shape) for name in names})
    sampler = make(denoiser, UniformTime(STEPS)).bind(batch, Generator(0))

    def walk(carry: Any) -> Any:
        for i in range(STEPS):
            carry = sampler.step(carry, i)
        return carry

    last = sampler
    calls = 0

    def counting(batch: Batch, t: Any, previous: Any = None) -> Any:
        nonlocal calls
        calls += 1
        return Stored.forward(denoiser, batch, t, previous)

    denoiser.forward = counting  # type: ignore[method-assign]
    with torch.no_grad():
        walk(last.start())
    del denoiser.forward
    return Contestant(walk, calls, sampler.start)


def diffusers_walks(x: Tensor, eps: Tensor) -> dict[str, tuple[bool, Contestant]]:
    """Schedulers of diffusers: is it stochastic, and its walk."""
    import diffusers

    def walk_of(make: Callable[[], Any]) -> Contestant:
        def prepare() -> Any:
            scheduler = make()
            scheduler.set_timesteps(STEPS)
            return scheduler, scheduler.timesteps

        def walk(state: Any) -> Tensor:
            scheduler, times = state
            x_t = x
            for t in times:
                x_t = scheduler.step(eps, t, x_t, return_dict=False)[0]
            return x_t

        scheduler, times = prepare()
        return Contestant(walk, len(times), prepare)

    return {
        "diffusers FlowMatchEuler": (
            False,
            walk_of(diffusers.FlowMatchEulerDiscreteScheduler),
        ),
        "diffusers DDIM": (False, walk_of(diffusers.DDIMScheduler)),
        "diffusers Heun": (False, walk_of(diffusers.HeunDiscreteScheduler)),
        "diffusers DPM++2M": (False, walk_of(diffusers.DPMSolverMultistepScheduler)),
        "diffusers DDPM": (True, walk_of(diffusers.DDPMScheduler)),
    }


@cache
def k_diffusion_sampling() -> Any:
    """k-diffusion's sampling module alone: the package's `__init__` needs torchvision."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("No module named 'k_diffusion'")
    package: Any = ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    helpers: Any = ModuleType("k_diffusion.utils")
    helpers.append_dims = lambda v, n: v[(...,) + (None,) * (n - v.ndim)]
    package.utils = helpers
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": helpers})
    if importlib.util.find_spec("torchsde") is None:
        sys.modules["torchsde"] = ModuleType("torchsde")
    return importlib.import_module("k_diffusion.sampling")


def k_diffusion_walks(x: Tensor, eps: Tensor) -> dict[str, tuple[bool, Contestant]]:
    """k-diffusion's functions."""
    sampling = k_diffusion_sampling()
    sigmas = sampling.get_sigmas_karras(STEPS, 0.01, 80.0)

    def model(x_t: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return eps

    def walk_of(function: Callable[..., Tensor], calls: int = STEPS) -> Contestant:
        return Contestant(lambda _: function(model, x, sigmas, disable=True), calls)

    return {
        "k-diffusion euler": (False, walk_of(sampling.sample_euler)),
        "k-diffusion heun": (False, walk_of(sampling.sample_heun, 2 * STEPS - 1)),
        "k-diffusion dpmpp_2m": (False, walk_of(sampling.sample_dpmpp_2m)),
        "k-diffusion euler_ancestral": (True, walk_of(sampling.sample_euler_ancestral)),
    }


def azula_walks(x: Tensor, eps: Tensor) -> dict[str, tuple[bool, Contestant]]:
    """azula's samplers, called as its users do."""
    denoise: Any = importlib.import_module("azula.denoise")
    noise: Any = importlib.import_module("azula.noise")
    sample: Any = importlib.import_module("azula.sample")

    class Fixed(denoise.Denoiser):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.schedule = noise.VPSchedule()
            self.answer = denoise.DiracPosterior(mean=eps)

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            return self.answer

    def walk_of(kind: Any, calls: int = STEPS) -> Contestant:
        sampler = kind(Fixed(), steps=STEPS, silent=True)
        return Contestant(lambda _: sampler(x), calls)

    return {
        "azula Euler": (False, walk_of(sample.EulerSampler)),
        "azula DDIM": (False, walk_of(sample.DDIMSampler)),
        "azula Heun": (False, walk_of(sample.HeunSampler, 2 * STEPS)),
        "azula zAB": (False, walk_of(sample.zABSampler)),
        "azula DDPM": (True, walk_of(sample.DDPMSampler)),
    }


def flow_matching_walks(x: Tensor, eps: Tensor) -> dict[str, tuple[bool, Contestant]]:
    """flow-matching's ODE solver on a velocity that is stored."""
    solver: Any = importlib.import_module("flow_matching.solver")

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return eps

    ode = solver.ODESolver(velocity_model=velocity)

    def walk_of(method: str, calls: int) -> Contestant:
        return Contestant(
            lambda _: ode.sample(x_init=x, step_size=1 / STEPS, method=method), calls
        )

    return {
        "flow-matching Euler": (False, walk_of("euler", STEPS)),
        "flow-matching midpoint": (False, walk_of("midpoint", 2 * STEPS)),
    }


PEERS = (diffusers_walks, k_diffusion_walks, azula_walks, flow_matching_walks)
OURS: dict[str, tuple[bool, Callable[[Denoiser, UniformTime], Sampler]]] = {
    "structdiff DDIM": (False, DDIM),
    "structdiff Heun": (False, Heun),
    "structdiff Multistep(2)": (False, lambda d, g: Multistep(d, g, order=2)),
    "structdiff Multistep(3)": (False, lambda d, g: Multistep(d, g, order=3)),
    "structdiff Multistep(3), corrected": (
        False,
        lambda d, g: Multistep(d, g, order=3, corrector=3),
    ),
    "structdiff Multistep(4), corrected": (
        False,
        lambda d, g: Multistep(d, g, order=4, corrector=4),
    ),
    "structdiff DDPM": (True, DDPM),
}


def contestants(shape: Sequence[int], *, noisy: bool) -> dict[str, Contestant]:
    """All walks of one kind."""
    x, eps = torch.randn(*shape), torch.randn(*shape)
    walks = {"floor": floor(x, eps, noisy=noisy)}
    walks |= {n: ours(make, shape) for n, (kind, make) in OURS.items() if kind == noisy}
    if not noisy:
        walks["structdiff DDIM, three leaves"] = ours(DDIM, shape, leaves=3)
    for peer in PEERS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = peer(x, eps)
        except ImportError as missing:
            print(f"left out: {missing}")
            continue
        walks |= {name: walk for name, (kind, walk) in found.items() if kind == noisy}
    return walks


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="CPU time of a turn")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(where())
    for noisy, title in ((False, "floor: x * a + b * eps"), (True, "floor: the same and a randn")):
        columns = {
            name: ratios(
                contestants(shape, noisy=noisy),
                "floor",
                rounds=options.rounds,
                seconds=options.seconds,
            )
            for name, shape in SHAPES.items()
        }
        print(f"\n{title}\n\n{table(columns)}")
        micro = {n: f"{1e6 * c['floor'].seconds:.1f} us" for n, c in columns.items()}
        print(f"\nthe floor itself: {micro}")
        if not noisy:
            one, three = "structdiff DDIM", "structdiff DDIM, three leaves"
            over = {n: f"{c[three].median / c[one].median:.2f}" for n, c in columns.items()}
            print(f"three leaves over one: {over}")


if __name__ == "__main__":
    main()
