"""The manifolds recipe: how data, process, network and training are put together.

Each leaf of a record is a point of a space. Diffusion noises it by the heat kernel where that is
known (flat leaves by normal noise), a flow carries it along geodesics; either way one network sees
all leaves, and their estimates are regressed at times that are uniform in the logarithm of the
noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator

from structdiff.denoiser import Denoiser, NetworkDenoiser
from structdiff.domains.manifolds.codec import ManifoldsCodec
from structdiff.domains.manifolds.data import DataConfig
from structdiff.domains.manifolds.network import PointNetwork
from structdiff.objectives import (
    SNR,
    Denoising,
    InverseSigma,
    LogUniformTimes,
    Objective,
    UniformTimes,
)
from structdiff.parameterisations import Preconditioned
from structdiff.processes import Brownian, Gaussian, GeodesicFlow, Process, Product
from structdiff.runs import Settings
from structdiff.samplers import DDIM, Adaptive, Ancestral, Heun, Walk
from structdiff.schedules import Geometric, PowerTime, UniformTime
from structdiff.spaces import Euclidean, HeatKernel, Manifold
from structdiff.training import TrainingConfig

__all__ = [
    "ManifoldsConfig",
    "SamplerConfig",
    "build",
    "objective_of",
    "process_of",
    "route_of",
    "time_of",
    "walk_of",
]

_FLAT = 50.0
"""Last noise of flat leaves, whose data are standardised."""


class NoiseConfig(Settings):
    """How points are noised."""

    route: Literal["auto", "diffusion", "flow"] = "auto"
    """Diffusion by the heat kernel, or a flow along geodesics; by default diffusion where all
    spaces have a heat kernel or are flat."""
    sigma_min: float = Field(default=1e-3, gt=0, lt=1)
    """Least noise, in the unit of the space (radians); the earliest time of a flow."""
    sigma_max: float = Field(default=4.0, gt=1e-2, le=100)
    """Most noise of a diffusion, at which nothing of the data is left."""


class NetworkConfig(Settings):
    """The residual network."""

    width: int = Field(default=384, ge=1, le=100_000)
    """Features of a layer."""
    blocks: int = Field(default=2, ge=1, le=1_000)
    """Number of residual blocks."""
    waves: int = Field(default=256, ge=1, le=100_000)
    """Random waves of the coordinates that the network sees."""
    octaves: float = Field(default=8.0, gt=0, le=30)
    """Range of their frequencies: the shortest are 2 pi / 2^octaves long."""


class LossConfig(Settings):
    """What training makes small."""

    independent: bool = False
    """Whether each leaf has its own time: then samples given some leaves are exact."""


class SamplerConfig(Settings):
    """How points are drawn."""

    kind: Literal["auto", "ancestral", "ddim", "heun", "adaptive", "tuned"] = "auto"
    """Ancestral steps with fresh noise (diffusion alone), geodesic steps of the flow of first or
    second order, its equation to a tolerance, or what `structdiff tune` found for so many steps;
    by default ancestral, and heun of a flow."""
    steps: int = Field(default=200, ge=1, le=1_000_000)
    """Steps; adaptive chooses its own."""
    eta: float = Field(default=1.0, ge=0, le=1)
    """Fresh noise of ancestral steps: 0 none, 1 that of the Bayes kernel."""
    tolerance: float = Field(default=1e-4, gt=0, lt=1)
    """Error of a step of adaptive."""
    batch_size: int = Field(default=1000, ge=1)
    """Points drawn together."""
    randomness: Literal["batch", "sample"] = "batch"
    """Noise from one stream per batch, or keyed by sample: then the same in every batch."""


class ManifoldsConfig(Settings):
    """Everything about a run."""

    data: DataConfig = DataConfig()
    noise: NoiseConfig = NoiseConfig()
    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    sampler: SamplerConfig = SamplerConfig()
    training: TrainingConfig = TrainingConfig(
        steps=3_000,
        batch_size=512,
        learning_rate=1e-3,
        warm_up=100,
        validate_every=250,
        save_seconds=60,
    )

    @model_validator(mode="after")
    def _fits(self) -> ManifoldsConfig:
        noise = self.noise
        if not noise.sigma_min < noise.sigma_max:
            msg = (
                "noise.sigma_min must be below noise.sigma_max, "
                f"got {noise.sigma_min} and {noise.sigma_max}"
            )
            raise ValueError(msg)
        if noise.route == "flow" and self.sampler.kind == "ancestral":
            msg = "sampler.kind ancestral needs fresh noise, which a flow has not: choose heun"
            raise ValueError(msg)
        return self


def route_of(config: ManifoldsConfig, spaces: Mapping[str, Manifold]) -> str:
    """`diffusion` or `flow`.

    Raises:
        ValueError: If diffusion is asked for on a space that has no heat kernel.
    """
    without = {n: s for n, s in spaces.items() if not isinstance(s, (HeatKernel, Euclidean))}
    if config.noise.route == "diffusion" and without:
        name, space = next(iter(without.items()))
        msg = (
            f"noise.route diffusion needs the heat kernel of each space, and none is known of "
            f"{type(space).__name__}, that of the leaf {name!r}: set noise.route to flow"
        )
        raise ValueError(msg)
    if config.noise.route == "auto":
        return "flow" if without else "diffusion"
    return config.noise.route


def process_of(config: ManifoldsConfig, spaces: Mapping[str, Manifold]) -> Product:
    """The process of each leaf."""
    noise, flows = config.noise, route_of(config, spaces) == "flow"

    def diffusion(space: Manifold) -> Process:
        if isinstance(space, HeatKernel):
            return Brownian(Geometric(noise.sigma_min, noise.sigma_max), space)
        return Gaussian(Geometric(noise.sigma_min, _FLAT), Preconditioned(), event=space.point)

    return Product({n: GeodesicFlow(s) if flows else diffusion(s) for n, s in spaces.items()})


def build(config: ManifoldsConfig, codec: ManifoldsCodec) -> NetworkDenoiser:
    """The untrained denoiser; its weights follow from the seed."""
    spaces = codec.spaces
    process = process_of(config, spaces)
    outputs = {name: space.tangent for name, space in spaces.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        finest = -math.log(config.noise.sigma_min)
        backbone = PointNetwork(spaces, outputs, finest=finest, **config.network.model_dump())
    return NetworkDenoiser(backbone, process)


def objective_of(config: ManifoldsConfig, codec: ManifoldsCodec) -> Objective:
    """What training makes small: the error of the noise, or of the velocity of a flow.

    The times are uniform in the logarithm of the noise, so for diffusion this is the bound on
    -log p up to a factor and a constant.
    """
    own = config.loss.independent
    if route_of(config, codec.spaces) == "flow":
        times = LogUniformTimes(config.noise.sigma_min, 1.0)
        return Denoising(InverseSigma(2), times, independent=own)
    return Denoising(SNR(), UniformTimes(0.0, 1.0), independent=own)


def time_of(config: ManifoldsConfig, codec: ManifoldsCodec, noise: float) -> float:
    """The time at which there is so much noise.

    Arguments:
        config: Settings.
        codec: The spaces.
        noise: sigma of a diffusion, the time itself of a flow.
    """
    if route_of(config, codec.spaces) == "flow":
        return noise
    low, high = config.noise.sigma_min, config.noise.sigma_max
    return math.log(noise / low) / math.log(high / low)


def walk_of(
    config: ManifoldsConfig, codec: ManifoldsCodec, denoiser: Denoiser, end: float
) -> Walk:
    """The walk from noise to points.

    Arguments:
        config: Settings; `sampler` says how.
        codec: The spaces.
        denoiser: The denoiser.
        end: The last time at which the network is asked.
    """
    sampler, flows = config.sampler, route_of(config, codec.spaces) == "flow"
    # Both are dense where there is little noise: even in log sigma, nearly so in log t.
    steps = sampler.steps
    grid = PowerTime(steps, 4.0, end=end) if flows else UniformTime(steps, end=end)
    make: dict[str, Callable[[], Walk]] = {
        "ancestral": lambda: Ancestral(denoiser, grid, eta=sampler.eta),
        "ddim": lambda: DDIM(denoiser, grid),
        "heun": lambda: Heun(denoiser, grid),
        "adaptive": lambda: Adaptive(denoiser, tolerance=sampler.tolerance, end=max(end, 1e-6)),
    }
    kind = sampler.kind
    return make[("heun" if flows else "ancestral") if kind == "auto" else kind]()
