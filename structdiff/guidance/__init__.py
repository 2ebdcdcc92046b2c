"""Guidance: wrappers that tilt, hold or correct what a sampler draws."""

from typing import TYPE_CHECKING

from structdiff.guidance.classifier import Guided
from structdiff.guidance.classifier_free import ClassifierFree
from structdiff.guidance.rates import RateGuided
from structdiff.guidance.repaint import RePaint
from structdiff.guidance.replacement import Replacement
from structdiff.guidance.rewards import Rewarded
from structdiff.guidance.sharpened import Sharpened
from structdiff.guidance.shifted import LaterTime
from structdiff.guidance.slopes import Enumerated, Linearised
from structdiff.guidance.strengths import Interval
from structdiff.guidance.tilted import Conditioned, Tilted
from structdiff.later import later

if TYPE_CHECKING:
    from structdiff.guidance.activations import Activations
    from structdiff.guidance.ahead import LookAhead
    from structdiff.guidance.augmented import Augmented
    from structdiff.guidance.classes import Classified, Classifier
    from structdiff.guidance.clusters import Clusters
    from structdiff.guidance.degraded import Degraded, extrapolated
    from structdiff.guidance.distillation import score_distillation
    from structdiff.guidance.inverse import (
        DDRM,
        DPS,
        Consistent,
        MomentGuided,
        Observation,
        PiGDM,
        Projection,
    )
    from structdiff.guidance.refined import Refined
    from structdiff.guidance.rescaled import RescaledGuidance
    from structdiff.guidance.twisted import Twist, TwistedSMC, particles_of, systematic

__all__ = [
    "Activations",
    "Augmented",
    "Classified",
    "Classifier",
    "ClassifierFree",
    "Clusters",
    "Conditioned",
    "Consistent",
    "DDRM",
    "DPS",
    "Degraded",
    "Enumerated",
    "Guided",
    "Interval",
    "LaterTime",
    "Linearised",
    "LookAhead",
    "MomentGuided",
    "Observation",
    "PiGDM",
    "Projection",
    "RateGuided",
    "RePaint",
    "Refined",
    "Replacement",
    "RescaledGuidance",
    "Rewarded",
    "Sharpened",
    "Tilted",
    "Twist",
    "TwistedSMC",
    "extrapolated",
    "particles_of",
    "score_distillation",
    "systematic",
]

__getattr__ = later(
    __name__,
    {
        "Activations": "activations",
        "Augmented": "augmented",
        "Classified": "classes",
        "Classifier": "classes",
        "Clusters": "clusters",
        "Consistent": "inverse",
        "DDRM": "inverse",
        "DPS": "inverse",
        "Degraded": "degraded",
        "LookAhead": "ahead",
        "MomentGuided": "inverse",
        "Observation": "inverse",
        "PiGDM": "inverse",
        "Projection": "inverse",
        "Refined": "refined",
        "RescaledGuidance": "rescaled",
        "Twist": "twisted",
        "TwistedSMC": "twisted",
        "extrapolated": "degraded",
        "particles_of": "twisted",
        "score_distillation": "distillation",
        "systematic": "twisted",
    },
)
