"""What training makes small, from the settings of a run of fields."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.objectives import (
    EDM,
    P2,
    SNR,
    ConditionDropout,
    ContinuousBound,
    Denoising,
    GivenRows,
    MinSNR,
    NormalClock,
    Objective,
    PowerTimes,
    SigmoidWeight,
    Terms,
    TimeDistribution,
    TruncatedSNR,
    Uniform,
    UniformClock,
    UniformTimes,
    Weight,
    random_rows,
)
from structdiff.objectives.hiding import per_sample
from structdiff.random import Randomness
from structdiff.runs.fields.conditions import Made
from structdiff.runs.fields.process import schedule_of
from structdiff.runs.fields.record import Fields, Record
from structdiff.runs.fields.settings import FieldConfig

__all__ = ["Seeded", "objective_of", "random_boxes", "shown", "times_of"]


def weight_of(config: FieldConfig) -> Weight:
    """Weight of the error of x_0."""
    sigma = config.noise.sigma_data if config.noise.predict == "edm" else 1.0
    make: dict[str, Callable[[], Weight]] = {
        "min-snr": MinSNR,
        "snr": SNR,
        "velocity": lambda: EDM(sigma),
        "sigmoid": lambda: SigmoidWeight(config.loss.bias),
        "truncated-snr": TruncatedSNR,
        "uniform": Uniform,
        "p2": P2,
    }
    return make[config.loss.weight]()


def times_of(config: FieldConfig) -> TimeDistribution:
    """Law of the training times of real leaves."""
    schedule = schedule_of(config.noise)
    low = 0.0 if config.noise.schedule == "edm" else 1e-4
    make: dict[str, Callable[[], TimeDistribution]] = {
        "uniform": lambda: UniformTimes(low),
        "normal": lambda: NormalClock(schedule),
        "clock": lambda: UniformClock(schedule),
    }
    return make[config.loss.times]()


def objective_of(config: FieldConfig, fields: Fields, record: Record) -> Objective:
    """What training makes small."""
    own = 0.5 if config.network.self_conditioning else 0.0
    objective: Objective
    if not record.classes:
        objective = Denoising(weight_of(config), times_of(config), self_conditioning=own)
    elif own:
        objective = Denoising(Uniform(), self_conditioning=own)
    else:
        masked = config.noise.process == "absorbing"
        times = UniformTimes(1 / (record.rows + 1)) if masked else PowerTimes()
        objective = ContinuousBound(times)
    if config.loss.given:
        choose = random_rows if record.classes else random_boxes
        objective = GivenRows(objective, choose, rate=config.loss.given)
    return shown(config, fields, record, objective)


def shown(config: FieldConfig, fields: Fields, record: Record, objective: Objective) -> Objective:
    """An objective that sees the conditions, made and now and then dropped."""
    if fields.named and config.loss.dropout:
        objective = ConditionDropout(objective, 0.0, together=config.loss.dropout)
    if fields.conditions:
        objective = Made(objective, fields.conditions, record.latent[1:])
    return Seeded(objective) if config.network.dropout else objective


class Seeded(Objective):
    """Another objective, of networks that draw by torch's own generator what they drop.

    Arguments:
        objective: The other objective.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """The terms of the batch; what is dropped follows from `random`."""
        drawn = random.scoped(leaf="dropout").uniform((1,), torch.float64, "cpu")
        devices = [batch.device] if batch.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(drawn.item() * 2**53))
            return self.objective(denoiser, batch, random)


def random_boxes(batch: Batch, random: Randomness, chosen: Tensor) -> Batch:
    """All but a box of each field given, a box of random sides at a random place.

    Arguments:
        batch: Clean fields.
        random: Where the choice comes from.
        chosen: Samples that have given entries, `(samples,)`.
    """
    given = {}
    for name, x in batch.leaves.items():
        hole = chosen.reshape(-1, *(1,) * (x.ndim - 1))
        for axis, size in enumerate(x.shape[2:]):
            side = 0.25 + 0.75 * per_sample(batch, random, f"side {axis} of {name}")
            place = per_sample(batch, random, f"place {axis} of {name}") * (1 - side)
            at = (torch.arange(size, device=x.device) + 0.5) / size
            inside = (at >= place.unsqueeze(1)) & (at <= (place + side).unsqueeze(1))
            hole = hole & inside.reshape(
                -1, *(size if a == axis + 2 else 1 for a in range(1, x.ndim))
            )
        known = ~hole & chosen.reshape(-1, *(1,) * (x.ndim - 1))
        given[name] = known.expand_as(x)
    return batch.with_given(given)
