"""The process of a run of fields, from its settings."""

from __future__ import annotations

import math
from collections.abc import Callable

from structdiff.parameterisations import (
    Data,
    Noise,
    Parameterisation,
    Preconditioned,
    Straight,
    Velocity,
)
from structdiff.processes import Categorical, Gaussian, Product, absorbing, uniform
from structdiff.processes.affine import Affine
from structdiff.processes.covariance import FromCondition
from structdiff.processes.transitions import Transition
from structdiff.processes.transitions.replace import mask_and_replace
from structdiff.runs.fields.centre import centre_of
from structdiff.runs.fields.record import Fields, Record
from structdiff.runs.fields.settings import FieldConfig, NoiseConfig
from structdiff.schedules import Cosine, Flow, Karras, Linear, Schedule, Sigmoid
from structdiff.schedules.derived import Shifted

__all__ = ["parameterisation_of", "process_of", "schedule_of", "transition_of"]


def schedule_of(config: NoiseConfig) -> Schedule:
    """How the noise level of real leaves rises."""
    make: dict[str, Callable[[], Schedule]] = {
        "cosine": Cosine,
        "linear": Linear,
        "sigmoid": Sigmoid,
        "flow": Flow,
        "edm": Karras,
    }
    schedule = make[config.schedule]()
    return schedule if config.shift == 1 else Shifted(schedule, -math.log(config.shift))


def parameterisation_of(config: NoiseConfig) -> Parameterisation:
    """What the network predicts of real leaves."""
    make: dict[str, Callable[[], Parameterisation]] = {
        "velocity": Velocity,
        "noise": Noise,
        "data": Data,
        "straight": Straight,
        "edm": lambda: Preconditioned(config.sigma_data),
    }
    return make[config.predict]()


def transition_of(config: NoiseConfig, classes: int) -> Transition:
    """Where noised codes go."""
    make: dict[str, Callable[[], Transition]] = {
        "absorbing": lambda: absorbing(classes),
        "mask-and-replace": lambda: mask_and_replace(classes, config.replace),
        "uniform": lambda: uniform(classes),
    }
    return make[config.process]()


def process_of(config: FieldConfig, fields: Fields, record: Record) -> Product:
    """Gaussian noise on real leaves, around 0 or a field that is shown; a chain on codes.

    Raises:
        ValueError: If the noise is to lie around a field and none is shown.
    """
    if record.classes:
        transition = transition_of(config.noise, record.classes)
        return Product({record.leaf: Categorical(Flow(), transition)})
    schedule, said = schedule_of(config.noise), parameterisation_of(config.noise)
    plain = Gaussian(schedule, said, event=record.event)
    if not config.noise.centre:
        return Product({record.leaf: plain})
    centre = centre_of("noise.centre = true", fields)
    return Product({record.leaf: Affine(plain, mean=FromCondition(centre.name, centre))})
