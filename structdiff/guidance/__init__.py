"""Guidance: wrappers that tilt, hold or correct what a sampler draws."""

import importlib
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from structdiff.guidance.activations import Activations
    from structdiff.guidance.ahead import LookAhead
    from structdiff.guidance.augmented import Augmented
    from structdiff.guidance.classes import Classified, Classifier
    from structdiff.guidance.clusters import Clusters
    from structdiff.guidance.degraded import Degraded, extrapolated
    from structdiff.guidance.refined import Refined
    from structdiff.guidance.rescaled import Rescaled

__all__ = [
    "Activations",
    "Augmented",
    "Classified",
    "Classifier",
    "ClassifierFree",
    "Clusters",
    "Conditioned",
    "Degraded",
    "Enumerated",
    "Guided",
    "Interval",
    "LaterTime",
    "Linearised",
    "LookAhead",
    "RateGuided",
    "RePaint",
    "Refined",
    "Replacement",
    "Rescaled",
    "Rewarded",
    "Sharpened",
    "Tilted",
    "extrapolated",
]

_LATER = {
    "Activations": "activations",
    "Augmented": "augmented",
    "Classified": "classes",
    "Classifier": "classes",
    "Clusters": "clusters",
    "Degraded": "degraded",
    "LookAhead": "ahead",
    "Refined": "refined",
    "Rescaled": "rescaled",
    "extrapolated": "degraded",
}
"""What is loaded when it is asked for, so that the core stays light to import."""


def __getattr__(name: str) -> Any:
    """A part that is loaded now."""
    if name not in _LATER:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"structdiff.guidance.{_LATER[name]}"), name)
