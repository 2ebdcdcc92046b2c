"""Samplers: how estimates become samples, for every space alike."""

from structdiff.samplers.adaptive import Adaptive
from structdiff.samplers.ancestral import DDIM, DDPM, Ancestral
from structdiff.samplers.base import Carry, Sampler, Walk
from structdiff.samplers.blocks import Blocks
from structdiff.samplers.churn import Churn
from structdiff.samplers.corrector import PredictorCorrector
from structdiff.samplers.first_hitting import FirstHitting
from structdiff.samplers.heun import Heun
from structdiff.samplers.leaping import Leaping
from structdiff.samplers.multistep import Multistep
from structdiff.samplers.remasking import Remasking
from structdiff.samplers.routing import Routed, confidence, even, purity
from structdiff.samplers.staggered import Staggered

__all__ = [
    "DDIM",
    "DDPM",
    "Adaptive",
    "Ancestral",
    "Blocks",
    "Carry",
    "Churn",
    "FirstHitting",
    "Heun",
    "Leaping",
    "Multistep",
    "PredictorCorrector",
    "Remasking",
    "Routed",
    "Sampler",
    "Staggered",
    "Walk",
    "confidence",
    "even",
    "purity",
]
