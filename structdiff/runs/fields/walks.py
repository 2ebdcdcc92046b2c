"""From a denoiser and what is asked of it to a walk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.classifier_free import ClassifierFree
from structdiff.guidance.inverse.consistent import Consistent
from structdiff.guidance.inverse.ddrm import DDRM
from structdiff.guidance.inverse.dps import DPS
from structdiff.guidance.inverse.observation import Observation
from structdiff.guidance.inverse.pigdm import PiGDM
from structdiff.guidance.inverse.projection import Projection
from structdiff.guidance.repaint import RePaint
from structdiff.guidance.replacement import Replacement
from structdiff.guidance.sharpened import Sharpened
from structdiff.guidance.strengths import Interval, Scale
from structdiff.processes import Estimate
from structdiff.runs.fields.record import Record
from structdiff.runs.fields.settings import SamplerConfig
from structdiff.samplers import DDPM, Ancestral, Heun, Multistep, Walk
from structdiff.samplers.base import Sampler
from structdiff.samplers.routing import Routed
from structdiff.samplers.thresholded import Thresholded
from structdiff.samplers.truncated import Since, Truncated
from structdiff.schedules import (
    Grid,
    KarrasGrid,
    PowerTime,
    Schedule,
    UniformLogSNR,
    UniformTime,
)

__all__ = ["Clipped", "walk_of"]

_SLOPE = 1e-3  # last time of a grid that is even in log-SNR


class Clipped(Denoiser):
    """A denoiser whose estimates are cut to [-1, 1].

    Arguments:
        denoiser: Any denoiser.
        leaf: The leaf whose estimates are cut.

    Example:
        >>> import torch
        >>> from structdiff import Flow, Gaussian
        >>> from structdiff.testing import NormalDenoiser
        >>> exact = NormalDenoiser(Gaussian(Flow(), event=(2,)), torch.zeros(1, 2), torch.ones(1))
        >>> batch, t = Batch.of(torch.tensor([[4.0, 0.5]])), {"x": torch.tensor(0.5)}
        >>> Clipped(exact, "x")(batch, t)["x"].value
        tensor([[1.0000, 0.5000]])
    """

    def __init__(self, denoiser: Denoiser, leaf: str) -> None:
        super().__init__()
        self.denoiser, self.leaf, self.process = denoiser, leaf, denoiser.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The estimates, one of them cut."""
        said: Mapping[str, Estimate] = self.denoiser(batch, t, previous)
        cut = replace(said[self.leaf], value=said[self.leaf].value.clamp(-1, 1))
        return {**said, self.leaf: cut}


def grid_of(config: SamplerConfig, schedule: Schedule) -> Grid:
    """The times of the steps."""
    make: dict[str, Callable[[], Grid]] = {
        "time": lambda: UniformTime(config.steps),
        "quadratic": lambda: PowerTime(config.steps),
        "log-snr": lambda: UniformLogSNR(schedule, config.steps, end=_SLOPE),
        "karras": lambda: KarrasGrid(schedule, config.steps),
    }
    grid = make[config.grid]()
    return grid if config.start == 1 else Since(grid, config.start)


def guided(
    config: SamplerConfig, denoiser: Denoiser, batch: Batch, always: Collection[str] = ()
) -> Denoiser:
    """The denoiser guided by the conditions of the batch, if there are some.

    Arguments:
        config: How to draw.
        denoiser: The model.
        batch: What is drawn.
        always: Conditions that the model always sees, so that nothing is guided by them.
    """
    if config.guidance == 1 or not batch.condition.keys() - set(always):
        return denoiser
    scale: Scale = config.guidance
    if (config.guide_from, config.guide_to) != (0, 1):
        scale = Interval(config.guidance, config.guide_from, config.guide_to)
    return ClassifierFree(denoiser, scale)


def bounded(config: SamplerConfig, denoiser: Denoiser, leaf: str) -> Denoiser:
    """The denoiser with estimates in the range of the data."""
    if config.threshold == "none":
        return denoiser
    if config.threshold == "clip":
        return Clipped(denoiser, leaf)
    return Thresholded(denoiser, {leaf: 1.0})


def sampler_of(config: SamplerConfig, denoiser: Denoiser, grid: Grid) -> Sampler:
    """The sampler of real leaves."""
    eta = float(config.kind == "ancestral") if config.eta is None else config.eta
    make: dict[str, Callable[[], Sampler]] = {
        "ddim": lambda: Ancestral(denoiser, grid, eta=eta),
        "ancestral": lambda: Ancestral(denoiser, grid, eta=eta),
        "multistep": lambda: Multistep(denoiser, grid, order=2, eta=eta),
        "heun": lambda: Heun(denoiser, grid, eta=eta),
    }
    return make[config.kind]()


def walk_of(
    config: SamplerConfig,
    record: Record,
    denoiser: Denoiser,
    batch: Batch,
    *,
    known: Batch | None = None,
    seen: Observation | None = None,
    begin: Tensor | None = None,
    always: Collection[str] = (),
) -> Walk:
    """The walk from noise to latents.

    Arguments:
        config: How to draw.
        record: What the leaf is.
        denoiser: The model.
        batch: What is drawn, with its conditions.
        known: What is known of it, held by a model that was not trained for it.
        seen: What was measured of it, likewise.
        begin: Clean latents that the walk begins at where it does not begin in noise alone.
        always: Conditions that the model always sees.

    Raises:
        ValueError: If the settings do not go together.
    """
    denoiser = guided(config, denoiser, batch, always)
    if record.classes:
        return _walk_of_codes(config, denoiser, known)
    process: Any = denoiser.process
    grid = grid_of(config, process[record.leaf].schedule)
    if seen is not None:
        return _measured(config, record, denoiser, grid, seen)
    inside = _bounded(config, record, denoiser)
    if known is not None and config.repaint > 1:
        walk = sampler_of(config, inside, grid)
        return RePaint(walk, known, jump=config.jump, repeats=config.repaint)
    walk = sampler_of(config, inside if known is None else Replacement(inside, known), grid)
    return walk if begin is None else Truncated(walk, {record.leaf: begin})


def _bounded(config: SamplerConfig, record: Record, denoiser: Denoiser) -> Denoiser:
    return bounded(config, denoiser, record.leaf) if record.bounded else denoiser


def _walk_of_codes(config: SamplerConfig, denoiser: Denoiser, known: Batch | None) -> Walk:
    if (config.temperature, config.nucleus) != (1, 1):
        denoiser = Sharpened(denoiser, temperature=config.temperature, nucleus=config.nucleus)
    if known is not None:
        denoiser = Replacement(denoiser, known)
    grid = UniformTime(config.steps)
    if config.kind == "confidence":
        return Routed(denoiser, grid)
    return (
        DDPM(denoiser, grid) if config.eta is None else Ancestral(denoiser, grid, eta=config.eta)
    )


def _measured(
    config: SamplerConfig, record: Record, denoiser: Denoiser, grid: Grid, seen: Observation
) -> Walk:
    """A walk that follows a measurement."""
    if config.inverse == "dps":
        # Estimates that are cut have no gradient where they are.
        eta = 1.0 if config.eta is None else config.eta
        return DPS(denoiser, grid, seen, zeta=config.zeta, eta=eta)
    if config.inverse == "pigdm":
        return sampler_of(config, _bounded(config, record, PiGDM(denoiser, seen)), grid)
    inside = _bounded(config, record, denoiser)
    if config.inverse == "replacement":
        return sampler_of(config, Consistent(inside, seen), grid)
    sampler = sampler_of(config, inside, grid)
    return DDRM(sampler, seen) if config.inverse == "ddrm" else Projection(sampler, seen)
