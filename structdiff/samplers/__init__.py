"""Samplers: how estimates become samples, for every space alike."""

from structdiff.samplers.ancestral import DDIM, DDPM, Ancestral
from structdiff.samplers.base import Carry, Sampler, Walk
from structdiff.samplers.churn import Churn
from structdiff.samplers.heun import Heun
from structdiff.samplers.multistep import Multistep

__all__ = ["DDIM", "DDPM", "Ancestral", "Carry", "Churn", "Heun", "Multistep", "Sampler", "Walk"]
