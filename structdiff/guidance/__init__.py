"""Guidance: wrappers that tilt or hold what a sampler draws."""

from structdiff.guidance.classifier import Guided
from structdiff.guidance.classifier_free import ClassifierFree
from structdiff.guidance.rates import RateGuided
from structdiff.guidance.repaint import RePaint
from structdiff.guidance.replacement import Replacement
from structdiff.guidance.rewards import Rewarded
from structdiff.guidance.sharpened import Sharpened
from structdiff.guidance.shifted import LaterTime
from structdiff.guidance.slopes import Enumerated, Linearised

__all__ = [
    "ClassifierFree",
    "Enumerated",
    "Guided",
    "LaterTime",
    "Linearised",
    "RateGuided",
    "RePaint",
    "Replacement",
    "Rewarded",
    "Sharpened",
]
