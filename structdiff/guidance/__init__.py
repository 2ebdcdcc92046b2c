"""Guidance: wrappers that tilt or hold what a sampler draws."""

from structdiff.guidance.classifier_free import ClassifierFree
from structdiff.guidance.repaint import RePaint
from structdiff.guidance.replacement import Replacement

__all__ = ["ClassifierFree", "RePaint", "Replacement"]
